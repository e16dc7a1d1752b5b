"""What a run is: one frozen, typed, validated dataclass.

This is the only source of defaults and help texts; presets are instances of it. The docstring under each
field is what ``fp3o train --help`` prints.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from fp3o_jax.hyperparams import Hyperparams
from fp3o_jax.registry import AlgorithmName, SharingName, algorithms, sharings
from fp3o_jax.values import ConfigError, check_choices, nearest_divisors, settle_types, short, unknown

SelectionName = Literal["cyclic", "random_derangement", "reverse"]
ConditionName = Literal["joint", "per_pipeline", "off"]
CriticSharingName = Literal["actors", "full", "none", "groups"]
AgentOrderName = Literal["random", "semi_greedy"]
TraceName = Literal["paper", "gae_trace", "speedup"]
ActivationName = Literal["relu", "tanh", "silu", "gelu"]
PrecisionName = Literal["default", "high", "highest"]
#: Seeds have 64 bits.
MAX_SEED = 2**64 - 1
#: What no machine can hold or do is refused before it is tried, wherever it comes from: counts, samples of a
#: batch, widths of layers, layers and seeds beyond these.
MAX_COUNT, MAX_BATCH, MAX_WIDTH, MAX_LAYERS, MAX_SEEDS = 2**53, 2**40, 2**20, 100, 2**16


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides what a training run computes.

    Raises:
        ConfigError: a value cannot be used, or two values do not fit together.
    """

    env: str = "smax/3m"
    """environment as family/task: `smax/<map>`, `mabrax/<robot>`, `mamujoco/<robot>_<partition>`,
    `mpe/<task>`, `matrix/<game>`; `fp3o list` names them all. Or module:function, one of yours that returns
    an environment"""
    env_kwargs: Mapping[str, bool | int | float | str] = dataclasses.field(default_factory=dict, hash=False)
    """options handed to the environment, e.g. num_agents 4"""

    algorithm: AlgorithmName | str = "fp3o"
    """policy update; ippo is mappo whose critics see one agent's observation alone. Or one of your own: the
    name that it is registered under, or module:name"""
    sharing: SharingName | str = "full"
    """who shares parameters: all (full), all but the policy heads (partial), nobody (none), agents of one
    type (by_type), or as trunk_groups and head_groups say (groups). Or one of your own, likewise"""
    trunk_groups: tuple[int, ...] | None = None
    """sharing=groups: for each agent, the group that shares its trunk (and critic, if shared as actors)"""
    head_groups: tuple[int, ...] | None = None
    """sharing=groups: for each agent, the group that shares its policy head (default: trunk_groups)"""
    critic_sharing: CriticSharingName = "actors"
    """who shares critics: those who share a trunk (actors), all (full), nobody (none), or as critic_groups
    says (groups)"""
    critic_groups: tuple[int, ...] | None = None
    """critic_sharing=groups: for each agent, the group that shares its critic"""
    agent_id: bool = True
    """append a one-hot agent id to the input of networks that several agents share"""
    critic_agent_id: bool = False
    """also to critics of the global state; else they see the same for all agents, and where one critic serves
    all of them, values are computed once"""

    train_agents: tuple[int | str, ...] | None = None
    """agents that learn, by name or by number counted from 0; the others keep the policies that they begin
    with (see --init-from), which no learning agent may share parameters with. By default all"""

    total_env_steps: int = 1_000_000
    """environment steps to train for, over all parallel environments (rounded up to whole updates)"""
    num_envs: int = 64
    """environments stepped in parallel"""
    rollout_length: int = 128
    """steps per environment and update"""
    num_starts: int | None = None
    """initial states drawn in each update, one for each episode that begins in it; where more begin, the same
    ones serve again. By default enough for episodes of 16 steps, and no fewer than num_envs"""
    epochs: int = 5
    """passes over the batch in each stage of an update (FP3O has two stages, HAPPO and A2PO one per agent)"""
    critic_epochs: int | None = None
    """the same for critics, if it differs from epochs"""
    critic_fit: Literal["stages", "once"] | None = None
    """fit critics once for each stage, to the samples of the agents that it owns, or all of them once in an
    update; by default as the algorithm's authors do: once with happo, else stages"""
    num_minibatches: int = 1
    """parts that the batch is split into, newly drawn in each epoch"""
    env_shards: int = 1
    """parts that the environments of a run are in, which as many devices can share. Each has random numbers
    of its own and gives as much to every minibatch: other results for another number of shards, of the same
    distribution, and the same ones on any number of devices"""

    actor_lr: float = 5e-4
    """Adam's learning rate for the policies"""
    critic_lr: float = 5e-4
    """Adam's learning rate for the critics"""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """keep the learning rates, or let them fall to zero over the run"""
    head_lr_scale: float | None = None
    """factor on the learning rate of per-agent policy heads; by default what undoes the mean over agents
    in their loss (n with sharing=partial)"""
    clip_eps: float = 0.2
    """clip range of the probability ratio and of the value"""
    weight_clip_eps: float = 0.1
    """coppo, a2po: clip range of the other agents' joint ratio; below 1"""
    weight_bound: float | None = None
    """bound on |log W|, W the joint ratio of the other agents, which spreads as teams grow; by default none.
    mappo, ippo: without effect, since W is 1"""
    entropy_coef: float = 0.01
    """weight of the policy entropy in the objective"""
    value_coef: float = 1.0
    """weight of the value loss"""
    gamma: float = 0.99
    """discount"""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation"""
    max_grad_norm: float = 10.0
    """global-norm bound of each optimiser's gradient, actor and critic apart"""
    huber_delta: float = 10.0
    """error beyond which the value loss is linear"""
    normalize_values: bool = True
    """fit critics to targets normalised by a running mean and variance"""
    mask_values: bool = True
    """fit an agent's critic to the samples in which it was alive; off: to all"""
    advantage_normalization: Literal["agent", "joint"] | None = None
    """normalise advantages over the living samples of each agent, or of all together; by default as the
    algorithm's authors do: joint with a2po and coppo, else agent"""
    bootstrap_truncations: bool = True
    """at a time limit, bootstrap from the value of the state that was cut; off: treat it as a termination"""

    hidden_size: int = 64
    """width of every hidden layer, of which there are two"""
    hidden_sizes: tuple[int, ...] | None = None
    """width of each hidden layer, in place of hidden_size, and so how many there are; a GRU is as wide as the
    last"""
    critic_hidden_sizes: tuple[int, ...] | None = None
    """the same for critics, if it differs from the policies'"""
    activation: ActivationName = "relu"
    """what each hidden layer ends in; gelu by its tanh approximation"""
    layer_norm: bool = True
    """a LayerNorm after every layer, and learned scales and shifts of the inputs; off: neither (to what
    networks are shown as well see normalize_obs)"""
    normalize_obs: Literal["layer", "running", "none"] = "layer"
    """what networks make of observations and of the global state. layer: a LayerNorm over the features of
    each sample, to which [5, 5] and [0, 0] are the same; a single feature stays as it is. running: mean and
    variance of each feature over all that was seen in training, clipped to 10 deviations; a part of the
    policy. none: as they are"""
    recurrent: bool = False
    """the cell: a GRU after the layers of actors and critics, or none"""
    chunk_length: int = 16
    """recurrent: steps that gradients flow back through; must divide rollout_length"""

    block_size: int | None = None
    """samples, of all agents, that a gradient works through at a time; the gradient is the same, and less
    memory is needed. By default what fits a CPU's cache, and all at once elsewhere"""
    matmul_precision: PrecisionName = "default"
    """of matrix products, the environment's too, where they do not ask for one themselves. highest: float32,
    on every device. high: as default, but of three products in bfloat16 on a TPU. default: what JAX is told
    (JAX_DEFAULT_MATMUL_PRECISION), else the device's own: TensorFloat-32 on GPUs that have it, bfloat16 on
    TPUs. On a CPU all are the same"""

    advantage_split: Literal["uniform", "dirichlet"] | tuple[float, ...] = "uniform"
    """fp3o: how the joint advantage is divided among the pipelines; or one weight per pipeline, summing to
    1"""
    dead_ratios: bool = False
    """let the ratios of dead agents weigh on the living, as the reference does: they differ from 1 where the
    dead have a choice of actions"""

    selection: SelectionName = "cyclic"
    """fp3o: which agent each pipeline owns in its dependent step (from Python also a function of key and
    owners)"""
    condition: ConditionName = "joint"
    """fp3o: what decides whether the dependent step runs: the sum over all pipelines, each pipeline's own
    sum, or nothing"""

    agent_order: AgentOrderName = "random"
    """happo, a2po: order in which agents follow one another; semi_greedy takes in turns the one with the
    largest mean |A / V| and a random one"""
    trace: TraceName = "paper"
    """a2po: how far the ratios of the agents before cut the traces of advantages: each at 1, lambda counted
    once (paper) or twice (gae_trace, its authors' code), or their running product at 1 (speedup, the same
    code for large robots)"""
    recorded_ratios: Literal["behaviour", "stage", "live"] = "behaviour"
    """happo, a2po, fp3o: ratios that weigh on other agents are those to the policies that acted, or to those
    just before the agent's stage, recurrent states carried through the whole rollout (stage, HARL's code);
    live, fp3o alone: those of the moment, taken anew at each gradient step"""

    seed: int = 0
    """seed of the first run, below 2**64; with several seeds, run i has seed + i"""
    num_seeds: int = 1
    """independent runs trained side by side in one program"""

    def __post_init__(self) -> None:
        settle_types(self)
        self._check_names()
        self._check_numbers()
        self._check_together()

    def _check_names(self) -> None:
        for names in (algorithms, sharings):
            if getattr(self, names.setting) not in names:
                raise names.unknown(getattr(self, names.setting))
        check_choices(self, functions=("selection",))

    def _check_numbers(self) -> None:
        for name in (
            "total_env_steps",
            "num_envs",
            "rollout_length",
            "epochs",
            "num_minibatches",
            "env_shards",
            "hidden_size",
            "chunk_length",
            "num_seeds",
            *(
                name
                for name in ("num_starts", "block_size", "critic_epochs")
                if getattr(self, name) is not None
            ),
        ):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name}={short(value)} must be a whole number of at least 1")
            most = {"hidden_size": MAX_WIDTH, "num_seeds": MAX_SEEDS}.get(name, MAX_COUNT)
            if value > most:
                raise ConfigError(f"{name}={short(value)} must be at most {most}")
        if self.steps_per_update > MAX_BATCH:
            raise ConfigError(f"num_envs={self.num_envs} x rollout_length={self.rollout_length} is too large")
        for name in ("hidden_sizes", "critic_hidden_sizes"):
            sizes = getattr(self, name)
            if sizes is not None and (not sizes or min(sizes) < 1):
                raise ConfigError(
                    f"{name}={short(sizes)} must hold a width of at least 1 for one layer or more"
                )
            if sizes is not None and (len(sizes) > MAX_LAYERS or max(sizes) > MAX_WIDTH):
                raise ConfigError(
                    f"{name}={short(sizes)} must hold at most {MAX_LAYERS} widths of at most {MAX_WIDTH}"
                )
        if not 0 <= self.seed <= MAX_SEED - (self.num_seeds - 1):
            least = f", that of the last of num_seeds={self.num_seeds} too" if self.num_seeds > 1 else ""
            raise ConfigError(f"seed={short(self.seed)} must be a whole number from 0 to 2**64 - 1{least}")
        positive = ("actor_lr", "critic_lr", "clip_eps", "max_grad_norm", "huber_delta")
        maybe = (name for name in ("head_lr_scale", "weight_bound") if getattr(self, name) is not None)
        for name in (*positive, *maybe):
            value = getattr(self, name)
            if not (_is_real(value) and value > 0):
                raise ConfigError(f"{name}={value!r} must be a number above 0")
        for name in ("entropy_coef", "value_coef"):
            value = getattr(self, name)
            if not (_is_real(value) and value >= 0):
                raise ConfigError(f"{name}={value!r} must be a number of at least 0")
        if not (_is_real(self.weight_clip_eps) and 0 <= self.weight_clip_eps < 1):
            raise ConfigError(f"weight_clip_eps={self.weight_clip_eps!r} must lie between 0 and below 1")
        for name in ("gamma", "gae_lambda"):
            value = getattr(self, name)
            if not (_is_real(value) and 0 <= value <= 1):
                raise ConfigError(f"{name}={value!r} must lie between 0 and 1")

    def _check_together(self) -> None:
        if self.recurrent and self.rollout_length % self.chunk_length:
            raise ConfigError(
                f"chunk_length={self.chunk_length} must divide rollout_length={self.rollout_length} "
                f"when recurrent=True: {nearest_divisors(self.rollout_length, self.chunk_length)} would"
            )
        what = "chunks" if self.recurrent else "samples"
        if self.num_sequences % self.num_minibatches:
            near = nearest_divisors(self.num_sequences, self.num_minibatches)
            raise ConfigError(
                f"num_minibatches={self.num_minibatches} must divide the {self.num_sequences} {what} of a "
                f"batch (num_envs={self.num_envs} x rollout_length={self.rollout_length}"
                f"{f' / chunk_length={self.chunk_length}' if self.recurrent else ''}): {near} would"
            )
        if self.num_envs % self.env_shards:
            raise ConfigError(
                f"env_shards={self.env_shards} must divide num_envs={self.num_envs}: "
                f"{nearest_divisors(self.num_envs, self.env_shards)} would"
            )
        per_shard = self.num_sequences // self.env_shards
        if per_shard % self.num_minibatches:
            raise ConfigError(
                f"num_minibatches={self.num_minibatches} must divide the {per_shard} {what} of each of "
                f"env_shards={self.env_shards}: {nearest_divisors(per_shard, self.num_minibatches)} would"
            )
        groups_given = self.trunk_groups is not None or self.head_groups is not None
        if self.sharing == "groups" and self.trunk_groups is None:
            raise ConfigError("sharing='groups' needs trunk_groups: one group number per agent")
        if self.sharing != "groups" and groups_given:
            raise ConfigError(
                f"trunk_groups and head_groups are read with sharing='groups' only, not {self.sharing!r}"
            )
        if self.critic_sharing == "groups" and self.critic_groups is None:
            raise ConfigError("critic_sharing='groups' needs critic_groups: one group number per agent")
        if self.critic_sharing != "groups" and self.critic_groups is not None:
            raise ConfigError(
                f"critic_groups is read with critic_sharing='groups' only, not {self.critic_sharing!r}"
            )
        if self.critic_agent_id and not self.agent_id:
            raise ConfigError("critic_agent_id=True needs agent_id=True: no network is told an id without it")
        if self.recorded_ratios == "live" and self.algorithm != "fp3o":
            raise ConfigError(f"recorded_ratios='live' is for algorithm='fp3o', not {self.algorithm!r}")
        if isinstance(self.advantage_split, tuple):
            split = self.advantage_split
            if any(not _is_real(w) or w < 0 for w in split) or abs(sum(split) - 1) > 1e-6:
                raise ConfigError(f"advantage_split={split!r} must be weights of at least 0 that sum to 1")

    @property
    def seeds(self) -> range:
        """The seed of each run."""
        return range(self.seed, self.seed + self.num_seeds)

    @property
    def steps_per_update(self) -> int:
        """Environment steps that one update collects."""
        return self.num_envs * self.rollout_length

    @property
    def num_updates(self) -> int:
        """Updates of the whole run: enough to reach ``total_env_steps``."""
        return math.ceil(self.total_env_steps / self.steps_per_update)

    @property
    def sequence_length(self) -> int:
        """Steps that the update treats as one unit: a chunk if recurrent, else a single step."""
        return self.chunk_length if self.recurrent else 1

    @property
    def layers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Widths of the hidden layers of policies and of critics."""
        actor = self.hidden_sizes or (self.hidden_size,) * 2
        return actor, self.critic_hidden_sizes or actor

    @property
    def num_sequences(self) -> int:
        """Units per agent in one batch, which minibatches are drawn from."""
        return self.steps_per_update // self.sequence_length

    @property
    def hyperparams(self) -> Hyperparams:
        """The continuous settings, as the pytree that ``train(key, hyperparams)`` takes."""
        return Hyperparams(*(getattr(self, name) for name in Hyperparams._fields))

    def replace(self, **changes: Any) -> Config:
        """A copy with some settings changed, validated anew."""
        return Config.from_dict({**self._fields(), **changes})

    def _fields(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values that JSON can hold; ``from_dict`` reads them back.

        A ``selection`` given as a function is written as its name, which does not read back.
        """
        plain = self._fields()
        plain["env_kwargs"] = dict(self.env_kwargs)
        if isinstance(self.selection, Callable):
            plain["selection"] = getattr(self.selection, "__qualname__", repr(self.selection))
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Config:
        """A config from plain values.

        Raises:
            ConfigError: a name is not a setting, or a value cannot be used.
        """
        valid = [f.name for f in dataclasses.fields(cls)]
        for name in settings:
            if name not in valid:
                raise unknown("setting", name, valid)
        return cls(**settings)


def _is_real(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)
