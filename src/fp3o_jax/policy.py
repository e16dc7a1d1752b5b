"""A trained team to act with, without environment or training code."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from fp3o_jax.config import ConfigError, unknown
from fp3o_jax.envs.base import Observation
from fp3o_jax.envs.spaces import Bounds, existing_actions, playable, to_bounds
from fp3o_jax.exports import ARCHITECTURE, WEIGHTS, read_architecture, read_weights
from fp3o_jax.team.actor_critic import ActorCritic
from fp3o_jax.team.groups import agent_params
from fp3o_jax.team.modules import Trunk
from fp3o_jax.team.sharing import Sharing
from fp3o_jax.team.trunks import Trunks, both, described
from fp3o_jax.values import as_count

if TYPE_CHECKING:
    from fp3o_jax.train import Trainer

#: What a trunk of the settings is told.
OF_TRUNK = ("hidden_sizes", "activation", "layer_norm", "recurrent")


class Policy:
    """The policies of one seed's agents.

    Args:
        architecture: what :func:`architecture` says of the trainer.
        params: ``state.params["actor"]`` of one seed.
        trunk: the module that ``make_train`` was given, if it was given one.

    Attributes:
        agents: names, as the environment gives them.
    """

    def __init__(self, architecture: Mapping[str, Any], params: Any, trunk: Trunks | None = None):
        self.architecture, self.params = dict(architecture), params
        self.agents: tuple[str, ...] = tuple(architecture["agents"])
        self._obs_sizes = tuple(architecture["obs_sizes"])
        self._action_sizes = tuple(architecture["action_sizes"])
        # Exports of older versions do not have them: those acted as they drew.
        self._low = _read_bounds(architecture.get("action_low"), -math.inf)
        self._high = _read_bounds(architecture.get("action_high"), math.inf)
        self._networks = ActorCritic(
            sharing=Sharing(tuple(architecture["trunk_groups"]), tuple(architecture["head_groups"])),
            obs_sizes=self._obs_sizes,
            critic_sizes=self._obs_sizes,  # there is no critic here
            action_sizes=self._action_sizes,
            discrete=architecture["discrete"],
            trunk=_trunk_of(architecture, trunk),
            agent_id=architecture["agent_id"],
            normalize_obs=architecture.get("normalize_obs", "layer"),  # as all were before there was a choice
        )

    def expected(self) -> Any:
        """Shapes and types that the parameters must have, as ``jax.eval_shape`` tells them."""
        return jax.eval_shape(self._networks.init, jax.random.key(0))["actor"]

    def initial_state(self) -> Array:
        """The recurrent state [n, H] in which an episode begins; H is 0 without a GRU."""
        return jnp.zeros((len(self.agents), self._networks.state_size))

    def act(
        self,
        obs: Mapping[str, Array],
        key: Array | None,
        state: Array,
        action_mask: Mapping[str, Array] | None = None,
    ) -> tuple[dict[str, Array], Array]:
        """One action for each agent. Pure: ``jit`` it, ``vmap`` it over environments.

        Args:
            obs: agent -> its observation [O_i], as JaxMARL gives it; other entries are ignored.
            key: PRNG key to sample with; None for the most probable actions.
            state: what the call before returned, or :meth:`initial_state` when an episode begins.
            action_mask: agent -> [A_i], which discrete actions are available (JaxMARL's
                ``env.get_avail_actions(state)``); all by default, and of an agent that has none.

        Returns:
            agent -> its action, an int, or a float [A_i] as the environment takes it, between its bounds; and
            the next state.

        Raises:
            ConfigError: an agent's observation is missing or of another size.
        """
        for agent, size in zip(self.agents, self._obs_sizes, strict=True):
            if agent not in obs or jnp.size(obs[agent]) != size:
                given = f"{jnp.size(obs[agent])} features" if agent in obs else "nothing"
                raise ConfigError(f"obs[{agent!r}] has {given}, the policy was trained on {size}")
        x = self._stacked({a: jnp.ravel(obs[a]).astype(jnp.float32) for a in self.agents}, self._obs_sizes)
        if "normalize_obs" not in self.architecture:
            # Exported when the LayerNorm made a single feature 0.
            x = x * (np.array(self._obs_sizes) > 1)[:, None, None]
        mask = None
        if action_mask is not None:
            exists = existing_actions(self._action_sizes)[:, None]
            mask = playable(self._stacked(action_mask, self._action_sizes) > 0, exists)
        seen = Observation(x, jnp.zeros((1, 0)), mask, jnp.ones(x.shape[:2], bool))
        acted = self._networks.act(
            self.params, seen, state[:, None] if self._networks.state_size else None, key
        )
        state = state if acted.hidden is None else acted.hidden[:, 0]
        actions = acted.action[:, 0]
        if not self.architecture["discrete"]:
            draws = {
                a: actions[i, :size]
                for i, (a, size) in enumerate(zip(self.agents, self._action_sizes, strict=True))
            }
            if self._low is not None and self._high is not None:
                bounds = zip(draws.items(), self._low, self._high, strict=True)
                draws = {a: to_bounds(draw, low, high) for (a, draw), low, high in bounds}
            return draws, state
        return {a: actions[i] for i, a in enumerate(self.agents)}, state

    def alone(self, agent: str) -> Callable[..., dict[str, Array]]:
        """What one agent does by itself, as it does in :meth:`act`: no agent's action depends on what others
        see.

        Args:
            agent: its name.

        Returns:
            A pure function of its observation ``obs`` [O], ``state`` [H] and ``action_mask`` [A], which
            discrete actions are available, bool, or None for all. It returns ``action``, the most probable
            one, an int or [A]; for those who draw ``logits`` [A], or ``mean`` and ``std`` [A] of what is
            drawn before it is mapped to the action's bounds; and ``next_state`` [H].

        Raises:
            ConfigError: there is no such agent.
        """
        if agent not in self.agents:
            raise unknown("agent", agent, self.agents)
        i, whole = self.agents.index(agent), self._networks.sharing
        who = np.array([i])
        networks, size, actions = self._networks.subteam(who), self._obs_sizes[i], self._action_sizes[i]
        params = agent_params({part: self.params[part] for part in ("trunk", "head")}, whole, who)
        seen_as_zero = "normalize_obs" not in self.architecture and size == 1
        # What the others see is nothing to it.
        rows = (i, len(self.agents) - i - 1), (0, max(self._obs_sizes) - size)
        others = (0, max(self._action_sizes) - actions)

        def act(obs: Array, state: Array, action_mask: Array | None = None) -> dict[str, Array]:
            x = jnp.pad((jnp.zeros_like(obs) if seen_as_zero else obs)[None], rows)[:, None]
            x = self._networks.standardize_obs(self.params, x)[i : i + 1]
            available = None
            if action_mask is not None:
                exists = existing_actions(self._action_sizes)[i]
                available = playable(jnp.pad(action_mask, others), exists)[None, None, None]
            distribution, states = networks.policy(
                params,
                x[:, None],
                available,
                state[None, None] if networks.state_size else None,
                jnp.zeros((1, 1), bool),
            )
            of_one = jax.tree.map(lambda x: x[0, 0, 0], distribution)
            result = {"next_state": state if states is None else states[0, 0, 0]}
            if self.architecture["discrete"]:
                return {"action": of_one.mode(), "logits": of_one.logits[:actions]} | result
            action = mean = of_one.mode()[:actions]
            if self._low is not None and self._high is not None:
                action = to_bounds(mean, self._low[i], self._high[i])
            return {"action": action, "mean": mean, "std": of_one.std[:actions]} | result

        return act

    def save(self, folder: Path) -> Path:
        """Writes ``policy.safetensors``, in the layout that JaxMARL's ``load_params`` reads, and
        ``policy.json``, the architecture; :func:`load_policy` reads both back."""
        from safetensors.flax import save

        from fp3o_jax.runs.directory import write_whole

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # `save_file` would let nobody but the user read it.
        write_whole(folder / WEIGHTS, save(flatten_dict(self.params, sep=",")))
        write_whole(folder / ARCHITECTURE, json.dumps(self.architecture, indent=2) + "\n")
        return folder

    def _stacked(self, by_agent: Mapping[str, Array], sizes: tuple[int, ...]) -> Array:
        """agent -> [size] as [n, 1, largest size]."""
        rows = [jnp.pad(by_agent[a], (0, max(sizes) - n)) for a, n in zip(self.agents, sizes, strict=True)]
        return jnp.stack(rows)[:, None]


def play(
    policy: Policy, env: Any, episodes: int = 1, seed: int = 0, greedy: bool = True
) -> dict[str, np.ndarray]:
    """Lets a policy act in a PettingZoo parallel environment, such as MaMuJoCo's.

    Its agents must have the names and the observations that the policy was trained with; one that has left
    is taken to see zeros. Which actions are available is read from ``infos[agent]["action_mask"]``, if there.

    Args:
        policy: of :func:`load_policy`.
        env: a PettingZoo ``ParallelEnv``.
        episodes: how many, one after another.
        seed: of the first; the next has the next.
        greedy: take the most probable actions (else sample).

    Returns:
        ``episode_return``, the team's (the mean over agents), and ``episode_length``; [episodes] each.

    Raises:
        ConfigError: an agent's observation is missing at the start, or of another size; or fewer than one
            episode.
    """
    episodes = as_count("episodes", episodes)
    act, all_available = jax.jit(policy.act), np.ones(max(policy.architecture["action_sizes"]), bool)
    returns, lengths = np.zeros(episodes), np.zeros(episodes, int)
    for i in range(episodes):
        obs, infos = env.reset(seed=seed + i)
        state, key, seen = policy.initial_state(), jax.random.key(seed + i), {}
        while env.agents:
            key, key_action = jax.random.split(key)
            seen = {a: np.zeros_like(x) for a, x in seen.items()}
            seen |= {a: np.asarray(x, np.float32) for a, x in obs.items()}
            masks = {a: infos[a]["action_mask"] for a in env.agents if "action_mask" in infos.get(a, {})}
            sizes = zip(policy.agents, policy.architecture["action_sizes"], strict=True)
            masks = masks and {a: np.asarray(masks.get(a, all_available[:n])) for a, n in sizes}
            actions, state = act(seen, None if greedy else key_action, state, masks or None)
            obs, rewards, _, _, infos = env.step({a: np.asarray(actions[a]) for a in env.agents})
            returns[i] += np.mean([*rewards.values()])
            lengths[i] += 1
    return {"episode_return": returns, "episode_length": lengths}


def _plain_bounds(bounds: Bounds | None) -> list[list[float | None]] | None:
    """As JSON holds them: null where there is no bound."""
    return bounds and [[b if math.isfinite(b) else None for b in agent] for agent in bounds]


def _read_bounds(bounds: list[list[float | None]] | None, none: float) -> Bounds | None:
    return bounds and tuple(tuple(none if b is None else b for b in agent) for agent in bounds)


def architecture(trainer: Trainer) -> dict[str, Any]:
    """All that the networks of a trainer's policies depend on, as JSON holds it; of a trunk that the user
    wrote its name and attributes, ``trunk``, in place of the settings of one."""
    env, config, sharing = trainer.env, trainer.config, trainer.networks.sharing
    trunk = trainer.networks.trunks[0]
    if isinstance(trunk, Trunk):
        layers = {name: getattr(trunk, name) for name in OF_TRUNK} | {
            "hidden_sizes": list(trunk.hidden_sizes)
        }
    else:
        layers = {"trunk": described(trunk)[0]}
    return {
        "env": env.name,
        "agents": list(env.agents),
        "obs_sizes": list(env.obs_sizes),
        "action_sizes": list(env.action_sizes),
        "discrete": env.discrete,
        "action_low": _plain_bounds(env.action_low),
        "action_high": _plain_bounds(env.action_high),
        "trunk_groups": list(sharing.trunk),
        "head_groups": list(sharing.head),
        **layers,
        "agent_id": config.agent_id,
        "normalize_obs": config.normalize_obs,
    }


def _trunk_of(architecture: Mapping[str, Any], trunk: Trunks | None) -> nn.Module:
    """The actors' trunk: of the architecture's settings, or the one that it names.

    Raises:
        ConfigError: it names one, and ``trunk`` is another or none; or it names none, and there is one.
    """
    if "trunk" in architecture:
        there, own = architecture["trunk"], None if trunk is None else both(trunk)[0]
    else:
        # Older exports name one width of two layers, and had no choice of the rest.
        sizes = architecture.get("hidden_sizes") or (architecture["hidden_size"],) * 2
        rest = {name: architecture[name] for name in OF_TRUNK[1:] if name in architecture}
        own = Trunk(tuple(sizes), **rest)
        there = described(own)[0]
    here = described(own if trunk is None else trunk)
    if here is None or here[0] != there:
        raise ConfigError(
            f"trunk={here and here[0]}: the policy was trained with {there}"
            f"{', which is not in its files: hand it over from Python, as trunk=...' if here is None else ''}"
        )
    return own


def load_policy(
    path: Path | str, seed_index: int = 0, best: bool = False, env: Any = None, trunk: Trunks | None = None
) -> Policy:
    """The trained policies of a run, or exported ones.

    Args:
        path: run directory, or a folder that ``fp3o export`` has written.
        seed_index: which seed's, counted from 0.
        best: of the checkpoint with the highest win rate or return, instead of the newest.
        env: the environment object that the run was given, if it was given one; or the name of one that is
            imported, ``module:factory``, if it was given that.
        trunk: the flax module, or the pair of them, that the run was given, if it was given one.

    Raises:
        ConfigError: there is neither, or no checkpoint, or no such seed; or the run was given an environment
            object or a trunk, and ``env`` or ``trunk`` is not such a one; or a file is damaged.
    """
    path = Path(path)
    if (path / ARCHITECTURE).exists():
        return _exported(path, trunk)
    from fp3o_jax.runs.trained import load_params, pick_seeds

    trainer, params = load_params(path, best, env, trunk)
    (index,) = pick_seeds(trainer.config, seed_index)
    return Policy(architecture(trainer), jax.tree.map(lambda x: x[index], params["actor"]), trunk)


def _exported(folder: Path, trunk: Trunks | None) -> Policy:
    """What :meth:`Policy.save` wrote."""
    policy = Policy(read_architecture(folder), None, trunk)
    weights = read_weights(folder, flatten_dict(policy.expected(), sep=","))
    policy.params = jax.tree.map(jnp.asarray, unflatten_dict(weights, sep=","))
    return policy
