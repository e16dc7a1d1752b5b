"""Whole updates of the family in float64 NumPy, from the papers' formulas, with gradients derived by hand.

Policies are ``softmax(obs U W)`` and critics ``state C c``: a shared or own "trunk" (U, C) and "head" (W, c),
optimised by plain gradient descent. Loops over agents, no JAX, nothing imported from the package.
"""

import numpy as np


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


class Team:
    """Weights of n agents; ``trunk`` and ``head`` say whose weights each agent uses.

    The batch holds obs [n, N, O], state [N, S] and action, alive, log_prob, advantage, value, target [n, N].
    """

    def __init__(self, params, trunk, head, pooled):
        self.U, self.W, self.C, self.c = (np.array(x, np.float64) for x in params)
        self.trunk, self.head, self.pooled = trunk, head, pooled

    def log_prob(self, batch, i):
        log_p = log_softmax(batch["obs"][i] @ self.U[self.trunk[i]] @ self.W[self.head[i]])
        return log_p[np.arange(len(log_p)), batch["action"][i]]

    def sums(self, batch, i, advantage, weight, kind, eps, hp):
        """Gradients of the sums, over agent i's living samples, of its losses: of U, W, C and c."""
        obs, alive = batch["obs"][i], batch["alive"][i]
        U, W = self.U[self.trunk[i]], self.W[self.head[i]]
        log_p = log_softmax(obs @ U @ W)
        p = np.exp(log_p)
        action = np.eye(p.shape[1])[batch["action"][i]]
        ratio = np.exp((log_p * action).sum(1) - batch["log_prob"][i])
        if kind == "outside":  # min(r W A, clip(r) W A)
            gain, clipped = weight * advantage, ratio
        else:  # min(r g A, clip(r g) A), g = clip(W)
            g = np.clip(weight, 1 - hp["weight_clip_eps"], 1 + hp["weight_clip_eps"])
            gain, clipped = g * advantage, ratio * g
        active = np.where(advantage >= 0, clipped <= 1 + eps, clipped >= 1 - eps)
        entropy = -(p * log_p).sum(1, keepdims=True)
        d_logits = (gain * ratio * active)[:, None] * (action - p)
        d_logits += hp["entropy_coef"] * -p * (log_p + entropy)
        d_logits *= -alive[:, None]

        state, C, c = batch["state"], self.C[self.trunk[i]], self.c[self.trunk[i]]
        value, old, target = state @ C @ c, batch["value"][i], batch["target"][i]
        near = old + np.clip(value - old, -hp["clip_eps"], hp["clip_eps"])
        delta = hp["huber_delta"]

        def huber(e):
            return np.where(abs(e) <= delta, e**2 / 2, delta * (abs(e) - delta / 2))

        inside = abs(value - old) <= hp["clip_eps"]
        chosen = np.where(huber(target - value) >= huber(target - near), True, inside)
        e = np.where(huber(target - value) >= huber(target - near), target - value, target - near)
        d_value = hp["value_coef"] * chosen * -np.clip(e, -delta, delta) * alive
        return (
            obs.T @ d_logits @ W.T,
            (obs @ U).T @ d_logits,
            np.outer(state.T @ d_value, c),
            (state @ C).T @ d_value,
        )

    def step(self, batch, owned, advantages, weights, kind, eps, hp, actors=True, critics=True):
        """One step of gradient descent on the losses of the agents that are owned."""
        count = {i: batch["alive"][i].sum() for i in owned}
        every = [np.zeros_like(x) for x in (self.U, self.W, self.C, self.c)]
        for i in owned:
            tied = [k for k in owned if self.trunk[k] == self.trunk[i]]
            if self.pooled:  # one mean over the samples of all that are tied
                share = head_share = 1 / sum(count[k] for k in tied)
            else:  # the mean over agents of each one's mean; a head's rate is multiplied by their number
                share, head_share = 1 / count[i] / len(tied), 1 / count[i]
            U, W, C, c = self.sums(batch, i, advantages[i], weights[i], kind, eps, hp)
            every[0][self.trunk[i]] += share * U
            every[1][self.head[i]] += head_share * W
            every[2][self.trunk[i]] += share * C
            every[3][self.trunk[i]] += share * c
        rates = [hp["actor_lr"] * actors] * 2 + [hp["critic_lr"] * critics] * 2
        for x, gradient, rate in zip((self.U, self.W, self.C, self.c), every, rates, strict=True):
            x -= rate * gradient


def corrected_advantage(batch, i, weight):
    """A2PO's: errors [T, B] summed up with decay and min(1, W), step by step from the end."""
    delta, decay = batch["delta"][i], batch["decay"]
    weight = np.minimum(1, weight.reshape(delta.shape))
    out = np.zeros(delta.shape)
    for t in reversed(range(len(delta))):
        out[t] = delta[t]
        if t + 1 < len(delta):
            out[t] += decay[t] * weight[t + 1] * out[t + 1]
    return out.ravel()


def normalized(advantages, batch, i, normalization="agent"):
    """Agent i's, over its own living samples or over those of all."""
    agents = [i] if normalization == "agent" else range(len(advantages))
    living = np.concatenate([advantages[k][batch["alive"][k] > 0] for k in agents])
    return (advantages[i] - living.mean()) / (living.std() + 1e-5)


def update(
    algorithm,
    team,
    batch,
    order,
    epochs,
    hp,
    dead_ratios=False,
    normalization="agent",
    critics_once=False,
    live=False,
):
    """Runs one whole update of ``team`` in place; the ratios of the dead are 1 unless they are asked for.

    ``live``: FP3O's weights are anew those of the moment in each gradient step.
    """
    n = len(batch["obs"])
    everyone, ones = list(range(n)), [np.ones(len(batch["state"]))] * n
    rho = list(ones)
    advantage, eps = list(batch["advantage"]), hp["clip_eps"]

    def ratio(i):
        ratio = np.exp(team.log_prob(batch, i) - batch["log_prob"][i])
        return ratio if dead_ratios else np.where(batch["alive"][i] > 0, ratio, 1.0)

    def others(ratios, i):
        return np.prod([ratios[q] for q in everyone if q != i] or [ones[0]], axis=0)

    if algorithm in ("mappo", "fp3o"):
        for _ in range(epochs):
            team.step(batch, everyone, advantage, ones, "outside", eps, hp)
    if algorithm == "fp3o":
        rho = [ratio(i) for i in everyone]
        weights = [others(rho, i) for i in everyone]
        mine = [(batch["alive"][i] * rho[i] * advantage[i]) for i in everyone]
        corrected = sum((x * w).sum() for x, w in zip(mine, weights, strict=True))
        if corrected + 1e-5 >= sum(x.sum() for x in mine):
            for _ in range(epochs):
                if live:
                    rho = [ratio(i) for i in everyone]
                    weights = [others(rho, i) for i in everyone]
                team.step(batch, everyone, advantage, weights, "outside", eps, hp)
    if algorithm == "coppo":
        for _ in range(epochs):
            rho = [ratio(i) for i in everyone]
            weights = [others(rho, i) for i in everyone]
            team.step(batch, everyone, advantage, weights, "joint", eps, hp)
    if algorithm in ("happo", "a2po"):
        weight = ones[0]
        latest = [corrected_advantage(batch, i, ones[0]) for i in everyone]
        for position, i in enumerate(order):
            if algorithm == "a2po":
                eps = hp["clip_eps"] * (1 + (position + 1) / n) / 2
                latest[i] = corrected_advantage(batch, i, weight)
                advantage[i] = normalized(latest, batch, i, normalization)
            kind = "outside" if algorithm == "happo" else "joint"
            for _ in range(epochs):
                team.step(batch, [i], advantage, {i: weight}, kind, eps, hp, critics=not critics_once)
            weight = weight * ratio(i)
        for _ in range(epochs if critics_once else 0):
            team.step(batch, everyone, advantage, ones, "outside", eps, hp, actors=False)
