"""Reading the reference's recorded updates, and its weights in our layout."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fp3o_jax.config import Hyperparams
from fp3o_jax.method.advantages import TDErrors, gae, normalize_advantages, td_errors
from fp3o_jax.method.batch import Batch
from fp3o_jax.method.schedules import Schedule
from fp3o_jax.method.sequences import as_sequences
from fp3o_jax.team.actor_critic import ActorCritic
from fp3o_jax.team.modules import Trunk
from fp3o_jax.team.sharing import Sharing, make_sharing

FOLDER = Path(__file__).parents[1] / "golden"
FILES = sorted(FOLDER.glob("*.npz"))

_LINEAR = {"weight": ("kernel", True), "bias": ("bias", False)}
_NORM = {"weight": ("scale", False), "bias": ("bias", False)}
# The reference's module -> ours.
_TRUNK = {
    "base.feature_norm": ("input_norm", _NORM),
    "base.mlp.fc1.0": ("", {"weight": ("dense_0", True), "bias": ("bias_0", False)}),
    "base.mlp.fc1.2": ("norm_0", _NORM),
    "base.mlp.fc2.0.0": ("dense_1", _LINEAR),
    "base.mlp.fc2.0.2": ("norm_1", _NORM),
    "rnn.rnn": (
        "gru",
        {
            "weight_ih_l0": ("w_input", True),
            "weight_hh_l0": ("w_hidden", True),
            "bias_ih_l0": ("b_input", False),
            "bias_hh_l0": ("b_hidden", False),
        },
    ),
    "rnn.norm": ("norm_gru", _NORM),
}
_HEAD = {
    "action_out.linear": ("logits", _LINEAR),
    "action_out.fc_mean": ("mean", _LINEAR),
    "action_out": ("", {"log_std": ("log_std", False)}),
}
_VALUE = {"v_out": ("", _LINEAR)}


def _read(data, prefix: str, modules: dict) -> dict:
    tree: dict = {}
    for module, (name, leaves) in modules.items():
        for leaf, (target, transpose) in leaves.items():
            key = f"{prefix}{module}.{leaf}"
            if key in data:
                value = data[key].T if transpose else data[key]
                (tree.setdefault(name, {}) if name else tree)[target] = value
    return tree


def _asarray(x: np.ndarray) -> jax.Array:
    """In JAX's working precision: float64 if that is enabled."""
    return jnp.asarray(x, jnp.result_type(float) if np.issubdtype(x.dtype, np.floating) else None)


def _stack(trees: list[dict]) -> dict:
    return jax.tree.map(lambda *leaves: _asarray(np.stack(leaves)), *trees)


class Golden:
    """One recorded update."""

    one_critic = False  # whether one value answers for all agents
    normalization = "agent"
    masks_values = True

    def __init__(self, path: Path):
        self.data = np.load(path)
        self.meta = json.loads(str(self.data["meta"]))
        self.n = self.data["logp_old"].shape[-1]
        self.kind = self.meta["kind"]
        self.discrete = "discrete" in self.meta["action"]
        self.length = self.meta.get("rec", 1)
        self.networks = ActorCritic(
            sharing=self.sharing,
            obs_sizes=(self.agents("obs").shape[-1],) * self.n,
            critic_sizes=(self.agents("share_obs").shape[-1],) * self.n,
            action_sizes=(self.params("init")["actor"]["head"][self._head]["bias"].shape[-1],) * self.n,
            discrete=self.discrete,
            trunk=Trunk(
                (self.data["init/actor0/base.mlp.fc1.0.bias"].shape[0],) * 2, recurrent="rec" in self.meta
            ),
            agent_id=False,
            one_critic=self.one_critic,
        )

    @property
    def sharing(self) -> Sharing:
        return make_sharing(self.kind, None, self.n)

    @property
    def _head(self) -> str:
        return "logits" if self.discrete else "mean"

    def agents(self, name: str) -> np.ndarray:
        """[n, T or T+1, B, ...] of one field of the batch."""
        return np.stack([self.data[f"batch/agent{i}/{name}"] for i in range(self.n)])

    def prefixes(self, when: str) -> Callable[[int], tuple[str, str, str]]:
        """agent -> where the reference keeps the weights of its trunk, of its head and of its critic."""

        def of(agent: int) -> tuple[str, str, str]:
            j = agent if self.kind == "none" else 0
            actor = f"{when}/actor{j}/"
            head = f"{actor}act.{agent}." if self.kind == "partial" else f"{actor}act."
            return actor, head, f"{when}/critic{self.sharing.critic_groups[agent]}/"

        return of

    def params(self, when: str) -> dict:
        """The weights at ``init``, ``stage0`` or ``stage1``, in our layout."""
        actors, heads, critics = (
            list(dict.fromkeys(names)) for names in zip(*map(self.prefixes(when), range(self.n)), strict=True)
        )
        return {
            "actor": {
                "trunk": _stack([_read(self.data, a, _TRUNK) for a in actors]),
                "head": _stack([_read(self.data, h, _HEAD) for h in heads]),
            },
            "critic": {
                "trunk": _stack([_read(self.data, c, _TRUNK) for c in critics]),
                "head": _stack([_read(self.data, c, _VALUE) for c in critics]),
            },
        }

    def log_probs(self, name: str) -> np.ndarray:
        """[n, T, B] of a recorded [T, B, n]."""
        return np.moveaxis(self.data[name], -1, 0)

    @property
    def hyperparams(self) -> Hyperparams:
        m = self.meta
        return Hyperparams(
            actor_lr=m["lr"],
            critic_lr=m["critic_lr"],
            clip_eps=m["clip"],
            weight_clip_eps=m.get("others_clip", 0.0),
            entropy_coef=m["entropy"],
            value_coef=m.get("value_coef", 1.0),
            gamma=m["gamma"],
            gae_lambda=m["lam"],
            max_grad_norm=m["max_grad_norm"],
            huber_delta=m["huber"],
        )

    @property
    def schedule(self) -> Schedule:
        """FP3O's schedule with the order that was drawn."""
        owners = jnp.asarray(self.data["order"])
        others = ~jax.nn.one_hot(owners[1], self.n, dtype=bool)
        return Schedule(
            owners=owners,
            weights=jnp.stack([jnp.zeros_like(others), others]),
            gated=jnp.array([False, True]),
            scale=jnp.ones(owners.shape),
            clip=jnp.ones(owners.shape),
        )

    def outputs(self, params: dict) -> tuple[jax.Array, ...]:
        """[n, L, N] log-probabilities of the batch's actions and entropies, and [c, L, N] values.

        Recurrent ones from the states that were stored.
        """
        return self._outputs(params, self.batch())

    @functools.cached_property
    def _outputs(self) -> Callable:
        @jax.jit
        def outputs(params, batch):
            distribution, _ = self.networks.policy(params["actor"], *batch.actor_view)
            values, _ = self.networks.value(params["critic"], *batch.critic_view)
            return distribution.log_prob(batch.action), distribution.entropy(), values

        return outputs

    def advantages(self) -> jax.Array:
        """[n, T, B], not normalised."""
        return gae(self.errors())

    def errors(self) -> TDErrors:
        """[n, T, B] from rewards, values and masks; every end of an episode is a termination here."""
        values = self.agents("value_preds")[..., 0]
        done = self.agents("masks")[0, 1:, :, 0] == 0
        return td_errors(
            _asarray(self.agents("rewards")[0, ..., 0]),
            _asarray(values[:, :-1]),
            _asarray(values[:, 1:]),
            jnp.asarray(done),
            jnp.asarray(done),
            self.meta["gamma"],
            self.meta["lam"],
        )

    def batch(self) -> Batch:
        """In JAX's working precision."""
        return self._batch(jnp.result_type(float))

    @functools.cache  # noqa: B019
    def _batch(self, dtype) -> Batch:
        # In one program: operations one by one would each be compiled.
        return jax.jit(self._make_batch)()

    def _make_batch(self) -> Batch:
        steps = self.data["logp_old"].shape[0]

        def sequences(x) -> jax.Array:
            return as_sequences(_asarray(x), self.length)

        def hidden(name: str) -> jax.Array | None:
            if "rec" in self.meta:
                return as_sequences(_asarray(self.agents(name)[:, :steps, :, 0]), self.length)[:, :1]
            return None

        alive = _asarray(self.agents("active_masks")[:, :steps, :, 0])
        action = self.agents("actions")
        advantage = self.advantages()
        critics = self.networks.num_critics
        value = _asarray(self.agents("value_preds")[:critics, :steps, :, 0])
        has_mask = "batch/agent0/available_actions" in self.data
        return Batch(
            obs=self.networks.standardize_obs(None, sequences(self.agents("obs")[:, :steps])),
            critic_inputs=self.networks.standardize_critic_inputs(
                None, sequences(self.agents("share_obs")[:critics, :steps])
            ),
            action_mask=(sequences(self.agents("available_actions")[:, :steps] > 0) if has_mask else None),
            alive=as_sequences(alive, self.length),
            starts=sequences(self.agents("masks")[:1, :steps, :, 0] == 0),
            action=sequences(action[..., 0].astype(np.int32) if self.discrete else action),
            log_prob=sequences(self.log_probs("logp_old")),
            advantage=as_sequences(normalize_advantages(advantage, alive, self.normalization), self.length),
            value=as_sequences(value, self.length),
            target=as_sequences(advantage[:critics] + value, self.length),
            actor_hidden=hidden("rnn_states"),
            critic_hidden=jax.tree.map(lambda x: x[:critics], hidden("rnn_states_critic")),
            valued=None if self.masks_values else jnp.ones_like(as_sequences(alive, self.length)),
        )


def flat(tree) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


def assert_change(ours, theirs, before, blurred=0.0, tolerance=1e-4) -> None:
    """The change is the reference's, up to ``tolerance`` of the largest and of its norm.

    The record is float32, so two ulps are free. And where a gradient is nearly zero Adam divides rounding
    errors by its epsilon, in the reference as in ours: a weight that float32 and float64 updates move
    differently (``blurred``: by how much) has as much freedom, ten times over.
    """
    ours, theirs, before = map(flat, (ours, theirs, before))
    assert np.isfinite(ours).all()
    change = np.abs(theirs - before)
    error = np.maximum(np.abs(ours - theirs) - 2.4e-7 * np.abs(theirs), 0)
    assert np.linalg.norm(error) <= tolerance * np.linalg.norm(change)
    assert (error <= tolerance * change.max() + 10 * blurred).all()
