"""The algorithm family as data.

FP3O, HAPPO, A2PO, MAPPO, IPPO and CoPPO are one program, run on different schedules. A schedule has S
stages that follow one another, each with P pipelines that run side by side over n agents. Read the builders
below to see how the algorithms differ; nothing else that is computed depends on their names.

A member of the family from elsewhere is an :class:`Algorithm` with its builder as ``schedule``; where its
objective differs as well, it names the function (``docs/extending.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fp3o_jax.config import ConfigError
from fp3o_jax.method.advantages import TRACES, TDErrors, relative_advantage
from fp3o_jax.method.losses import double_clipped_surrogate, weighted_surrogate
from fp3o_jax.registry import algorithms


class Schedule(NamedTuple):
    """What each pipeline of each stage optimises.

    Attributes:
        owners: [S, P] int, the agent that a pipeline owns. No agent has two owners in one stage. None:
            pipeline p owns agent p, of all.
        weights: [S, P, n] bool, the agents whose recorded probability ratios multiply the pipeline's
            advantage.
        gated: [S] bool, whether the stage runs only where the condition holds.
        scale: [S, P] float, the pipeline's share of the joint advantage, times the number of pipelines.
        clip: [S, P] float, factor on the clip range of the ratio.
        learns: [S, P] bool, whether the owner's policy learns at all; None if all do. A pipeline whose owner
            does not is idle: it is there for its critic alone.
    """

    owners: Array | None
    weights: Array
    gated: Array
    scale: Array
    clip: Array
    learns: Array | None = None

    def among(self, agents: tuple[int, ...], n: int) -> Schedule:
        """The schedule of a team of m, as that of those ``agents`` among n, of whom the others do not learn.

        To those who learn, frozen agents are a part of the environment: they have no turn in the order, no
        share of the joint advantage and no place in a selection, and weigh on nobody, as their ratio is 1.
        Their pipelines are idle: beside the others', or in stages after them where each stage has one.
        """
        who, frozen = np.array(agents), np.setdiff1d(np.arange(n), agents)
        stages, pipelines, m = self.weights.shape
        in_turn = pipelines == 1 < m
        more = ((0, len(frozen)), (0, 0)) if in_turn else ((0, 0), (0, len(frozen)))

        def with_idle(x: Array, value: float = 0) -> Array:
            return jnp.pad(x, (*more, (0, 0))[: x.ndim], constant_values=value)

        idle = frozen[:, None] if in_turn else np.tile(frozen, (stages, 1))
        weights = jnp.zeros((stages, pipelines, n), bool).at[:, :, who].set(self.weights)
        return Schedule(
            owners=jnp.concatenate([jnp.asarray(who)[self.owners], idle], axis=0 if in_turn else 1),
            weights=with_idle(weights),
            gated=with_idle(self.gated),
            scale=with_idle(self.scale),
            clip=with_idle(self.clip, 1),
            learns=with_idle(jnp.ones(self.owners.shape, bool) if self.learns is None else self.learns),
        )

    def in_agent_order(self) -> Schedule:
        """The same with pipelines in the order of their agents, where each stage owns them all.

        Side by side, pipelines have no order of their own; in the agents' nothing has to be gathered.
        """
        num_pipelines, num_agents = self.weights.shape[1:]
        if num_pipelines < num_agents:
            return self
        order = jnp.argsort(self.owners, axis=1)
        return self._replace(
            owners=None,
            weights=jnp.take_along_axis(self.weights, order[:, :, None], axis=1),
            scale=jnp.take_along_axis(self.scale, order, axis=1),
            clip=jnp.take_along_axis(self.clip, order, axis=1),
            learns=None if self.learns is None else jnp.take_along_axis(self.learns, order, axis=1),
        )


class Algorithm(NamedTuple):
    """A member of the family.

    Attributes:
        schedule: (key, n) -> :class:`Schedule`; (key, n, scores) if there are ``scores``.
        surrogate: the objective per sample, a function of :mod:`fp3o_jax.method.losses`.
        live: whether the weights are the ratios of the agents as they move within the stage (every agent
            must be owned in every stage), instead of those recorded when the stage began.
        correction: (TD errors, log weight, lambda) -> the advantages that a stage uses, where they are not
            those of GAE; a function of :mod:`fp3o_jax.method.advantages`.
        normalization: over whose living samples advantages are normalised: each "agent"'s own, or all
            agents' together ("joint").
        scores: (advantages [n, ...], values [n or 1, ...], alive [n, ...]) -> [n], all that a schedule may
            know of the batch.
        critics_once: all critics are fitted to the batch once, instead of those of each stage's owners once
            for each stage.
        critics_see_state: critics see the global state, instead of their agent's observation.
        ratios: to which policies recorded ratios are relative: those that acted ("behaviour"), or those
            that the owner had just before its stage ("stage").
        learners: the agents whose policies learn; None for all.
        weight_bound: ``|log W|`` is at most this; None for any.
    """

    schedule: Callable[..., Schedule]
    surrogate: Callable[..., Array] = weighted_surrogate
    live: bool = False
    correction: Callable[[TDErrors, Array, Array], Array] | None = None
    normalization: str = "agent"
    scores: Callable[[Array, Array, Array], Array] | None = None
    critics_once: bool = False
    critics_see_state: bool = True
    ratios: str = "behaviour"
    learners: tuple[int, ...] | None = None
    weight_bound: float | None = None

    def draw(self, key: Array, advantage: Array, value: Array, alive: Array) -> Schedule:
        """A schedule for a batch: arrays [n, ...], ``value`` of one row where all agents share it."""
        n, learners = advantage.shape[0], self.learners
        scores = () if self.scores is None else (self.scores(advantage, value, alive),)
        if learners is None:
            return self.schedule(key, n, *scores)
        scores = (each[np.array(learners)] for each in scores)
        return self.schedule(key, len(learners), *scores).among(learners, n)


class Choices(NamedTuple):
    """What the settings of these names choose; a member of the family takes what concerns it.

    Attributes:
        selection: one of `SELECTIONS`.
        split: from :func:`advantage_split`.
        order: one of `ORDERS`.
        trace: one of `advantages.TRACES`.
    """

    selection: SelectionFn
    split: SplitFn
    order: OrderFn
    trace: Callable[[TDErrors, Array, Array], Array]


SelectionFn = Callable[[Array, Array], Array]
SplitFn = Callable[[Array, int], Array]
OrderFn = Callable[..., Array]


def simultaneous(key: Array, n: int) -> Schedule:
    """MAPPO and IPPO: all agents at once, each as if the others stood still."""
    del key
    return Schedule(
        owners=jnp.arange(n)[None],
        weights=jnp.zeros((1, n, n), bool),
        gated=jnp.zeros(1, bool),
        scale=jnp.ones((1, n)),
        clip=jnp.ones((1, n)),
    )


def coordinated(key: Array, n: int) -> Schedule:
    """CoPPO (Wu et al., 2021): all agents at once, each one's objective weighted by all the others."""
    return simultaneous(key, n)._replace(weights=~jnp.eye(n, dtype=bool)[None])


def random_order(key: Array, n: int, scores: Array | None = None) -> Array:
    """A random permutation of n agents, [n]."""
    del scores
    return jax.random.permutation(key, n)


def semi_greedy_order(key: Array, n: int, scores: Array) -> Array:
    """A2PO's: in turns the agent with the highest score [n] and a random one, of those that are left."""
    luck = jax.random.uniform(key, (n,))

    def pick(left: Array, turn: Array) -> tuple[Array, Array]:
        chosen = jnp.where(left, jnp.where(turn % 2 == 0, scores, luck), -jnp.inf).argmax()
        return left.at[chosen].set(False), chosen

    return jax.lax.scan(pick, jnp.ones(n, bool), jnp.arange(n))[1]


def sequential(key: Array, n: int, scores: Array | None = None, order: OrderFn = random_order) -> Schedule:
    """HAPPO (Kuba et al., 2022): one agent after another, in a random order.

    Each one's advantage is weighted by the ratios of those already updated.
    """
    owners = order(key, n, scores)
    position = jnp.argsort(owners)
    return Schedule(
        owners=owners[:, None],
        weights=(position[None, :] < jnp.arange(n)[:, None])[:, None, :],
        gated=jnp.zeros(n, bool),
        scale=jnp.ones((n, 1)),
        clip=jnp.ones((n, 1)),
    )


def agent_by_agent(
    key: Array, n: int, scores: Array | None = None, order: OrderFn = random_order
) -> Schedule:
    """A2PO (Wang et al., 2023): in sequence, the clip range growing from one agent to the next.

    Stage k of n has the range ``eps (1 + k / n) / 2``: the first agents leave room for the last ones.
    """
    growing = 0.5 + 0.5 * jnp.arange(1, n + 1)[:, None] / n
    return sequential(key, n, scores, order)._replace(clip=growing)


def full_pipeline(key: Array, n: int, selection: SelectionFn, split: SplitFn) -> Schedule:
    """FP3O (Feng et al., 2023): an independent and a dependent step, n pipelines in each.

    In the independent step pipeline p owns agent i_p of a random permutation; in the dependent step the
    agent j_p != i_p that ``selection`` gives it, its advantage weighted by the ratios of all the others.
    """
    key_order, key_selection, key_split = jax.random.split(key, 3)
    first = jax.random.permutation(key_order, n)
    # A single agent has nobody to be exchanged with: its dependent step is a second round of PPO.
    second = selection(key_selection, first) if n > 1 else first
    others = ~jax.nn.one_hot(second, n, dtype=bool)
    return Schedule(
        owners=jnp.stack([first, second]),
        weights=jnp.stack([jnp.zeros((n, n), bool), others]),
        gated=jnp.array([False, True]),
        scale=jnp.broadcast_to(split(key_split, n), (2, n)),
        clip=jnp.ones((2, n)),
    )


def _cyclic(key: Array, owners: Array) -> Array:
    del key
    return jnp.roll(owners, -1)


def _random_derangement(key: Array, owners: Array) -> Array:
    # Along a random cycle of all the agents nobody stays in place (a cyclic derangement).
    cycle = jax.random.permutation(key, owners.shape[0])
    return jnp.zeros_like(owners).at[cycle].set(owners[jnp.roll(cycle, -1)])


def _reverse(key: Array, owners: Array) -> Array:
    del key
    n = owners.shape[0]
    order = list(range(n))[::-1]
    if n % 2:
        # The middle pipeline would keep its agent: it trades with its neighbour.
        middle = n // 2
        order[middle], order[middle - 1] = order[middle - 1], order[middle]
    return owners[jnp.array(order)]


#: Non-overlapping selections: (key, agents owned in the independent step [n]) -> those owned in the
#: dependent step [n], a permutation that moves every agent to another pipeline.
SELECTIONS: dict[str, SelectionFn] = {
    "cyclic": _cyclic,
    "random_derangement": _random_derangement,
    "reverse": _reverse,
}


def advantage_split(split: str | tuple[float, ...]) -> SplitFn:
    """(key, n) -> n * w_p per pipeline [n], where the weights w_p of the split sum to 1."""
    if split == "uniform":
        return lambda key, n: jnp.ones(n)
    if split == "dirichlet":
        return lambda key, n: n * jax.random.dirichlet(key, jnp.ones(n))
    return lambda key, n: n * jnp.asarray(split, jnp.float32)


#: Orders in which agents follow one another: (key, n, scores [n]) -> [n].
ORDERS: dict[str, OrderFn] = {"random": random_order, "semi_greedy": semi_greedy_order}


def _in_order(schedule: Callable[..., Schedule], choices: Choices, **kwargs: Any) -> Algorithm:
    """A member of the family whose agents follow one another."""
    scores = None if choices.order is random_order else relative_advantage
    return Algorithm(partial(schedule, order=choices.order), scores=scores, **kwargs)


#: name -> the package's own algorithm, from what the settings choose; its other defaults are its authors'.
#: Those of others are registered, and looked at: entries made here would be neither known nor checked.
ALGORITHMS: Mapping[str, Callable[[Choices], Algorithm]] = MappingProxyType(
    {
        "mappo": lambda choices: Algorithm(simultaneous),
        "ippo": lambda choices: Algorithm(simultaneous, critics_see_state=False),
        "coppo": lambda choices: Algorithm(
            coordinated, double_clipped_surrogate, live=True, normalization="joint"
        ),
        "happo": lambda choices: _in_order(sequential, choices, critics_once=True),
        "a2po": lambda choices: _in_order(
            agent_by_agent,
            choices,
            surrogate=double_clipped_surrogate,
            correction=choices.trace,
            normalization="joint",
        ),
        "fp3o": lambda choices: Algorithm(
            partial(full_pipeline, selection=choices.selection, split=choices.split), weighted_surrogate
        ),
    }
)


def make_algorithm(
    name: str,
    selection: str | SelectionFn = "cyclic",
    split: str | tuple[float, ...] = "uniform",
    order: str = "random",
    trace: str = "paper",
    **changes: Any,
) -> Algorithm:
    """The algorithm of a config. Its schedules are drawn from a PRNG key inside the jitted update.

    Args:
        name: of `ALGORITHMS`, or of one that others bring (:func:`fp3o_jax.register_algorithm`).
        selection: of `SELECTIONS`, or such a function.
        split: see :func:`advantage_split`.
        order: of `ORDERS`.
        trace: of `advantages.TRACES`.
        **changes: fields of :class:`Algorithm`; None for the algorithm's own.

    Raises:
        ConfigError: what others bring is no algorithm.
    """
    select = selection if callable(selection) else SELECTIONS[selection]
    choices = Choices(select, advantage_split(split), ORDERS[order], TRACES[trace])
    chosen = {field: value for field, value in changes.items() if value is not None}
    return _member(name, choices)._replace(**chosen)


def _member(name: str, choices: Choices) -> Algorithm:
    made = ALGORITHMS[name] if name in ALGORITHMS else algorithms.find(name)
    said = f"algorithm={name!r} must be an Algorithm, or a function that makes one of the settings' Choices"
    if callable(made):
        try:
            made = made(choices)
        except TypeError as error:
            raise ConfigError(f"{said}: called with them it fails, {error}") from error
    if not isinstance(made, Algorithm):
        raise ConfigError(f"{said}, and is {made!r}")
    return made


#: Conditions of a gated stage: (sums of the corrected advantage [P], sums of the plain one [P]) -> which
#: pipelines run, bool [P]. The first sums weigh each sample by its owner's ratio and by those of the
#: others, the second by the owner's alone (FP3O's condition for the shared lower bound).
CONDITIONS: dict[str, Callable[[Array, Array], Array]] = {
    "joint": lambda corrected, plain: jnp.broadcast_to(corrected.sum() + 1e-5 >= plain.sum(), plain.shape),
    "per_pipeline": lambda corrected, plain: corrected + 1e-5 >= plain,
    "off": lambda corrected, plain: jnp.ones(plain.shape, bool),
}
