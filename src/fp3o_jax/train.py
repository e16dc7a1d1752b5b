"""``make_train(config) -> train(key)``: init, then a scan of rollout, targets and update."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from fp3o_jax import xla
from fp3o_jax.config import Config, ConfigError, Hyperparams
from fp3o_jax.envs import Environment, make_env
from fp3o_jax.kernels import shards
from fp3o_jax.kernels.loops import in_one_loop
from fp3o_jax.kernels.steps import in_few_kernels
from fp3o_jax.method import normalization
from fp3o_jax.method.contract import check_algorithm
from fp3o_jax.method.metrics import Metrics
from fp3o_jax.method.normalization import ValueNorm
from fp3o_jax.method.rollout import RolloutState, Trajectory, collect, init_rollout
from fp3o_jax.method.schedules import ALGORITHMS, CONDITIONS, Algorithm, Schedule, make_algorithm
from fp3o_jax.method.targets import Targets, make_targets
from fp3o_jax.method.update import PipelineUpdate
from fp3o_jax.registry import sharings
from fp3o_jax.team import optimizer
from fp3o_jax.team.actor_critic import ActorCritic
from fp3o_jax.team.inputs import Statistics
from fp3o_jax.team.learners import counted, learners_of
from fp3o_jax.team.modules import Trunk
from fp3o_jax.team.sharing import make_sharing, own_sharing
from fp3o_jax.team.trunks import Trunks

#: Steps of an episode, for the number of initial states that an update draws by itself.
SHORT_EPISODE = 16


@struct.dataclass
class TrainState:
    """Everything needed to go on, to act, or to be saved.

    Attributes:
        params: ``{"actor", "critic"}``, each ``{"trunk", "head"}``, leaves [G, ...]; with
            ``normalize_obs="running"`` also ``"normalizer"``, the statistics of what they see.
        opt_state: Adam statistics of trunks and heads in the same layout.
        value_norm: running statistics of the value targets.
        rollout: where the environments stand.
        key: PRNG key of the next iteration.
        num_updates: iterations done.
        episodes: means over the latest iteration in which an episode ended: ``episode_return``,
            ``episode_length``, ``win_rate``; NaN before the first (0 under ``JAX_DEBUG_NANS``).
        hyperparams: the continuous settings of this run.
    """

    params: Any
    opt_state: Any
    value_norm: ValueNorm
    rollout: RolloutState
    key: Array
    num_updates: Array
    episodes: Metrics
    hyperparams: Hyperparams

    @classmethod
    def layout(cls, run: Any, shard: Any) -> TrainState:
        """A prefix of a state: what is a run's, and what each of its shards' (``Config.env_shards``)."""
        fields = dict.fromkeys((field.name for field in dataclasses.fields(cls)), run)
        return cls(**fields | {"rollout": shard})


_Args, _Result = ParamSpec("_Args"), TypeVar("_Result")


def _phase(
    method: Callable[Concatenate[Trainer, _Args], _Result],
) -> Callable[Concatenate[Trainer, _Args], _Result]:
    """A method that is traced under its own name, which profiles show, and whose products have the precision
    of the config."""

    @functools.wraps(method)
    def traced(self: Trainer, *args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        with xla.matmul_precision(self.config.matmul_precision), jax.named_scope(method.__name__):
            return method(self, *args, **kwargs)

    return traced


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """A training run as pure functions: ``jit``, ``vmap`` over keys and ``pmap`` as you like.

    Seeds on several devices: ``jit(vmap(train))`` of keys that are sharded over a ``jax.sharding.Mesh``, or
    ``shard_map(vmap(train), ..., check_vma=False)``.

    Attributes:
        config: the validated settings.
        env: the environment.
        networks: the networks.
        algorithm: the member of the family.

    It pickles as what :func:`make_train` was given, and is made of that again: as far as that pickles.
    """

    config: Config
    env: Environment
    networks: ActorCritic
    algorithm: Algorithm
    #: Arguments of `make_train`; one with other fields, by `dataclasses.replace`, has none.
    made_of: tuple[Any, ...] | None = dataclasses.field(default=None, init=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.made_of is None:
            raise TypeError("this trainer was not made by make_train: pickle what it was made of")
        return make_train, self.made_of

    def __call__(
        self, key: Array, hyperparams: Hyperparams | Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Trains for ``config.num_updates`` iterations.

        Args:
            key: PRNG key, of either style.
            hyperparams: continuous settings that replace those of the config; a pytree, so a grid of them
                is a ``vmap``.

        Returns:
            ``state``: the final :class:`TrainState`; ``metrics``: dict of arrays [num_updates, ...].
        """
        state, metrics = jax.lax.scan(
            lambda state, _: self.update(state),
            self.init(key, hyperparams),
            length=self.config.num_updates,
        )
        return {"state": state, "metrics": metrics}

    @_phase
    def init(self, key: Array, hyperparams: Hyperparams | Mapping[str, Any] | None = None) -> TrainState:
        """The state before the first iteration."""
        init = shards.over_shards(self._init, self.config.env_shards, None, TrainState.layout(None, 0))
        return init(key, self.config.hyperparams.override(hyperparams))

    def _init(self, key: Array, hyperparams: Hyperparams) -> TrainState:
        key, key_params, key_envs = jax.random.split(key, 3)
        params = self.networks.init(key_params)
        names = ["episode_return", "episode_length"] + ["win_rate"] * self.env.reports_wins
        # Whoever looks for NaNs by JAX_DEBUG_NANS wants to be shown others than these.
        nothing_yet = 0.0 if jax.config.jax_debug_nans else jnp.nan
        return TrainState(
            params=params,
            opt_state={part: optimizer.init(params[part]) for part in params},
            value_norm=normalization.init(max(self.networks.sharing.critic_groups) + 1),
            rollout=init_rollout(
                self.env,
                self.networks,
                shards.own_key(key_envs),
                self.config.num_envs // self.config.env_shards,
            ),
            key=key,
            num_updates=jnp.zeros((), jnp.int32),
            # Of a firm type, so that the update's state is the same type again: one compilation.
            episodes={name: jnp.full((), nothing_yet, dtype=float) for name in names},
            hyperparams=jax.tree.map(jnp.float32, hyperparams),
        )

    def update(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """One iteration: rollout, advantages, pipeline update."""
        layout = TrainState.layout(None, 0)
        update = shards.over_shards(self._update, self.config.env_shards, (layout,), (layout, None))
        return update(state)

    def _update(self, state: TrainState) -> tuple[TrainState, Metrics]:
        config = self.config
        key, key_rollout, key_schedule, key_update = jax.random.split(state.key, 4)
        rollout, trajectory = self.collect(state, shards.own_key(key_rollout))
        targets = self.targets(state, trajectory)
        batch = targets.batch
        schedule = self.algorithm.draw(key_schedule, batch.advantage, batch.value, batch.alive)
        params, opt_state, metrics = self.learn(state, targets, schedule, key_update)

        episodes, counts = _episode_metrics(trajectory, state.episodes)
        num_updates = state.num_updates + 1
        # A long run counts past int32: a float then, exact to seven digits.
        total = config.num_updates * config.steps_per_update
        counter = jnp.int32 if total < 2**31 else jnp.float32
        metrics |= episodes | counts
        metrics |= {
            "explained_variance": targets.explained_variance,
            "env_steps": num_updates.astype(counter) * config.steps_per_update,
        }
        state = state.replace(
            params=self.networks.with_seen(params, self._seen(trajectory)),
            opt_state=opt_state,
            value_norm=targets.value_norm,
            rollout=rollout,
            key=key,
            num_updates=num_updates,
            episodes=episodes,
        )
        return state, metrics

    @_phase
    def collect(self, state: TrainState, key: Array) -> tuple[RolloutState, Trajectory]:
        """The first phase: T steps of B environments under the current policies."""
        acting = functools.partial(
            collect,
            self.env,
            self.networks,
            rollout_length=self.config.rollout_length,
            chunk_length=self.config.sequence_length,
            num_starts=self._num_starts,
            critics_see_state=self.algorithm.critics_see_state,
        )
        if xla.steps_wait():
            acting = in_few_kernels(acting)
        return acting(state.params, state.rollout, key)

    @_phase
    def targets(self, state: TrainState, trajectory: Trajectory) -> Targets:
        """The second phase: advantages and value targets; everything as sequences, agents first."""
        over = self.algorithm.normalization
        return make_targets(trajectory, state.value_norm, self.networks, self.config, state.hyperparams, over)

    @_phase
    def learn(
        self, state: TrainState, targets: Targets, schedule: Schedule, key: Array
    ) -> tuple[Any, Any, Metrics]:
        """The third phase: the stages of the schedule. New parameters, optimiser states, metrics."""
        config = self.config
        fraction = 1.0
        if config.lr_schedule == "linear":
            # A loop over ``update`` may go on after the end, where the rate stays 0.
            fraction = jnp.maximum(0.0, 1.0 - state.num_updates / config.num_updates)
        update = PipelineUpdate(
            self.networks,
            self.algorithm,
            epochs=config.epochs,
            num_minibatches=config.num_minibatches,
            condition=CONDITIONS[config.condition],
            critic_epochs=config.critic_epochs,
            head_lr_scale=config.head_lr_scale,
            dead_ratios=config.dead_ratios,
            block_size=self._block_size,
        ).__call__
        if config.recurrent and xla.steps_wait():
            # Policies and critics take their gradient steps, and those of their recurrent layers, together.
            update = in_one_loop(update)
        if jax.default_backend() == "cpu" and config.env_shards == 1:
            # Seeds one after another: side by side they would only push one another out of the cache.
            update = jax.custom_batching.sequential_vmap(update)
        weights = {name: {p: part[p] for p in optimizer.PARTS} for name, part in state.params.items()}
        weights, opt_state, metrics = update(
            weights,
            state.opt_state,
            targets.batch,
            schedule,
            key,
            state.hyperparams,
            fraction,
            targets.errors,
        )
        # What is not learned by gradients stays.
        return {name: part | weights[name] for name, part in state.params.items()}, opt_state, metrics

    def _seen(self, trajectory: Trajectory) -> dict[str, Statistics]:
        """What the statistics of an iteration add to the networks'."""
        seen = dict(trajectory.statistics)
        if "actor" in seen:
            seen["actor"] = counted(seen["actor"], self.networks.sharing, self.algorithm.learners)
        return seen

    @property
    def _num_starts(self) -> int:
        """Initial states in each update: as many as episodes begin, if they last ``SHORT_EPISODE`` steps."""
        config = self.config
        if config.num_starts is not None:
            return -(-config.num_starts // config.env_shards)
        episode = min(SHORT_EPISODE, self.env.time_limit or SHORT_EPISODE)
        wanted = max(config.num_envs, -(-config.steps_per_update // episode))
        return -(-wanted // config.env_shards)

    @property
    def _block_size(self) -> int | None:
        if self.config.block_size is not None:
            return self.config.block_size
        return xla.block_size(max(map(max, self.config.layers)))


def make_train(config: Config | Mapping[str, Any], env: Any = None, trunk: Trunks | None = None) -> Trainer:
    """The training function of a config: pure, ``jit``-able, ``vmap``-able over keys.

    Args:
        config: a :class:`Config`, or a mapping of its fields.
        env: a ``jaxmarl`` environment object or an :class:`Environment`, in place of ``config.env``.
        trunk: a flax module that is called as :class:`fp3o_jax.team.trunks.TrunkModule` says, or a pair of
            them, the actors' and the critics', in place of the layers that the config describes. Modules with
            a recurrent state need ``config.recurrent``.

    Returns:
        ``train(key, hyperparams=None) -> {"state", "metrics"}``, with ``train.init`` and ``train.update``
        to run it piece by piece.

    Raises:
        ConfigError: settings that cannot be used, or that do not fit the environment. Raised here, before
            anything is compiled.
    """
    if not isinstance(config, Config):
        config = Config.from_dict(config)
    environment = make_env(config.env if env is None else env, config.env_kwargs)
    algorithm = make_algorithm(
        config.algorithm,
        config.selection,
        config.advantage_split,
        config.agent_order,
        config.trace,
        normalization=config.advantage_normalization,
        critics_once={None: None, "once": True, "stages": False}[config.critic_fit],
        # By default that of the algorithm, which is the same for all of the package's own.
        ratios="stage" if config.recorded_ratios == "stage" else None,
        live=True if config.recorded_ratios == "live" else None,
        weight_bound=config.weight_bound,
    )
    if algorithm.critics_see_state and environment.state_size == 0:
        raise ConfigError(
            f"env={environment.name!r} has no global state, which the critics of "
            f"algorithm={config.algorithm!r} need: give it `obs['world_state']` or a method "
            "`get_world_state(state)`, or use algorithm='ippo'"
        )
    if environment.own_rewards and algorithm.critics_see_state:
        raise ConfigError(
            f"env={environment.name!r} rewards each agent by itself (reward='own'), and "
            f"algorithm={config.algorithm!r} maximises a team's reward: use reward='mean' or 'sum', or "
            "algorithm='ippo'"
        )
    networks = _make_networks(config, environment, algorithm, trunk)
    learners = learners_of(config.train_agents, environment.agents, networks.sharing)
    m = environment.num_agents if learners is None else len(learners)
    if isinstance(config.advantage_split, tuple) and len(config.advantage_split) != m:
        raise ConfigError(
            f"advantage_split={config.advantage_split!r} must hold one weight for each of the {m} pipelines "
            f"of {environment.name!r}{'' if learners is None else ', one for each agent that learns'}"
        )
    if config.algorithm not in ALGORITHMS or callable(config.selection):
        check_algorithm(algorithm, config.algorithm, m)
    xla.warn_if_unprotected()
    trainer = Trainer(config, environment, networks, algorithm._replace(learners=learners))
    object.__setattr__(trainer, "made_of", (config, env, trunk))
    return trainer


def _make_networks(
    config: Config, env: Environment, algorithm: Algorithm, trunk: Trunks | None
) -> ActorCritic:
    n = env.num_agents
    layers = tuple(
        Trunk(sizes, config.activation, config.layer_norm, config.recurrent) for sizes in config.layers
    )
    networks = ActorCritic(
        sharing=make_sharing(
            config.sharing if config.sharing in sharings.builtin else own_sharing(config.sharing, env),
            env.agent_types,
            n,
            config.trunk_groups,
            config.head_groups,
            config.critic_sharing,
            config.critic_groups,
        ),
        obs_sizes=env.obs_sizes,
        critic_sizes=(env.state_size,) * n if algorithm.critics_see_state else env.obs_sizes,
        action_sizes=env.action_sizes,
        discrete=env.discrete,
        trunk=layers if trunk is None else trunk,
        agent_id=config.agent_id,
        normalize_obs=config.normalize_obs,
        one_critic=algorithm.critics_see_state and not config.critic_agent_id,
    )
    if trunk is not None:
        networks.check(config.recurrent)
    return networks


def _episode_metrics(trajectory: Trajectory, previous: Metrics) -> tuple[Metrics, Metrics]:
    """Means over the episodes that ended; where none did, the previous ones. And how many ended."""
    counts = {"episodes": trajectory.done.sum()}
    if trajectory.diverged is not None:
        counts["diverged"] = trajectory.diverged.sum()
    sums = {
        "episode_return": (trajectory.episode_return * trajectory.done).sum(),
        "episode_length": (trajectory.episode_length * trajectory.done).sum(),
        "win_rate": trajectory.won.sum(),
    }
    counts, sums = shards.total((counts, sums))
    ended = counts["episodes"]
    means = {
        name: jnp.where(ended > 0, sums[name] / jnp.maximum(ended, 1), old) for name, old in previous.items()
    }
    return means, counts
