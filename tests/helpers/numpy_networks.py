"""The reference's networks in float64 NumPy, read in its own layout: an oracle for our outputs."""

import numpy as np


def forward(data, actor, head, critic, agent):
    """Outputs at the recorded inputs of one agent.

    Args:
        data: a golden file.
        actor, head, critic: prefixes of the weights, as ``init/actor0/``.
        agent: index.

    Returns:
        log-probability [T, B] of the recorded actions, entropy [T, B] and value [T, B].
    """
    steps = data["logp_old"].shape[0]

    def batch(name):
        return np.asarray(data[f"batch/agent{agent}/{name}"][:steps], np.float64)

    features = trunk(data, actor, batch("obs"), "rnn_states", agent)
    action = batch("actions")
    if f"{head}action_out.linear.weight" in data:
        logits = linear(data, f"{head}action_out.linear", features)
        if f"batch/agent{agent}/available_actions" in data:
            logits = np.where(batch("available_actions") > 0, logits, -1e10)
        shifted = logits - logits.max(-1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        log_prob = np.take_along_axis(log_p, action.astype(int), -1)[..., 0]
        entropy = -(np.exp(log_p) * log_p).sum(-1)
    else:
        mean = linear(data, f"{head}action_out.fc_mean", features)
        log_std = np.asarray(data[f"{head}action_out.log_std"], np.float64)
        std = 0.5 / (1 + np.exp(-log_std)) * np.ones_like(mean)
        log_prob = (-0.5 * ((action - mean) / std) ** 2 - np.log(std * np.sqrt(2 * np.pi))).sum(-1)
        entropy = (0.5 * np.log(2 * np.pi * np.e * std**2)).sum(-1)
    value = linear(
        data, f"{critic}v_out", trunk(data, critic, batch("share_obs"), "rnn_states_critic", agent)
    )
    return log_prob, entropy, value[..., 0]


def trunk(data, prefix, x, hidden, agent):
    x = layer_norm(data, f"{prefix}base.feature_norm", x)
    for layer, norm in (("base.mlp.fc1.0", "base.mlp.fc1.2"), ("base.mlp.fc2.0.0", "base.mlp.fc2.0.2")):
        x = layer_norm(data, prefix + norm, np.maximum(linear(data, prefix + layer, x), 0))
    if f"{prefix}rnn.norm.weight" in data:
        # The states before each step are recorded: nothing has to be unrolled.
        h = np.asarray(data[f"batch/agent{agent}/{hidden}"][: len(x), :, 0], np.float64)
        gru = f"{prefix}rnn.rnn."
        from_x = np.split(x @ data[f"{gru}weight_ih_l0"].T + data[f"{gru}bias_ih_l0"], 3, -1)
        from_h = np.split(h @ data[f"{gru}weight_hh_l0"].T + data[f"{gru}bias_hh_l0"], 3, -1)
        reset, update = (1 / (1 + np.exp(-(from_x[k] + from_h[k]))) for k in (0, 1))
        x = (1 - update) * np.tanh(from_x[2] + reset * from_h[2]) + update * h
        x = layer_norm(data, f"{prefix}rnn.norm", x)
    return x


def linear(data, prefix, x):
    return x @ np.asarray(data[f"{prefix}.weight"], np.float64).T + data[f"{prefix}.bias"]


def layer_norm(data, prefix, x):
    centred = x - x.mean(-1, keepdims=True)
    x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return x * data[f"{prefix}.weight"] + data[f"{prefix}.bias"]
