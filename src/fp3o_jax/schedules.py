"""The algorithm family as data.

FP3O, HAPPO, A2PO, MAPPO, IPPO and CoPPO are one program, run on different schedules. A schedule has S
stages that follow one another, each with P pipelines that run side by side over n agents. Read the builders
below to see how the algorithms differ; nothing else in the package knows their names.

To add a member of the family, write its builder and enter it in ``ALGORITHMS``; where its objective differs
as well, an :class:`Algorithm` names the function.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fp3o_jax.advantages import TDErrors, preceding_agent_correction
from fp3o_jax.losses import double_clipped_surrogate, weighted_surrogate


class Schedule(NamedTuple):
    """What each pipeline of each stage optimises.

    Attributes:
        owners: [S, P] int, the agent that a pipeline owns: the index form of its one-hot mask. No agent
            has two owners in one stage.
        weights: [S, P, n] bool, the agents whose recorded probability ratios multiply the pipeline's
            advantage.
        gated: [S] bool, whether the stage runs only where the condition holds.
        scale: [S, P] float, the pipeline's share of the joint advantage, times the number of pipelines.
        clip: [S, P] float, factor on the clip range of the ratio.
    """

    owners: Array
    weights: Array
    gated: Array
    scale: Array
    clip: Array

    @property
    def masks(self) -> Array:
        """[S, P, n] bool, the one-hot agent masks."""
        return jax.nn.one_hot(self.owners, self.weights.shape[-1], dtype=bool)


class Algorithm(NamedTuple):
    """A member of the family.

    Attributes:
        schedule: (key, n) -> :class:`Schedule`.
        surrogate: the objective per sample, a function of :mod:`fp3o_jax.losses`.
        live: whether the weights are the ratios of the agents as they move within the stage (every agent
            must be owned in every stage), instead of those recorded when the stage began.
        correction: (TD errors, log weight) -> the advantages that a stage uses, where they are not those of
            GAE; a function of :mod:`fp3o_jax.advantages`.
        critics_see_state: critics see the global state, instead of their agent's observation.
    """

    schedule: Callable[[Array, int], Schedule]
    surrogate: Callable[..., Array] = weighted_surrogate
    live: bool = False
    correction: Callable[[TDErrors, Array], Array] | None = None
    critics_see_state: bool = True


SelectionFn = Callable[[Array, Array], Array]
SplitFn = Callable[[Array, int], Array]


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


def sequential(key: Array, n: int) -> Schedule:
    """HAPPO (Kuba et al., 2022): one agent after another in a random order.

    Each one's advantage is weighted by the ratios of those already updated.
    """
    order = jax.random.permutation(key, n)
    position = jnp.argsort(order)
    return Schedule(
        owners=order[:, None],
        weights=(position[None, :] < jnp.arange(n)[:, None])[:, None, :],
        gated=jnp.zeros(n, bool),
        scale=jnp.ones((n, 1)),
        clip=jnp.ones((n, 1)),
    )


def agent_by_agent(key: Array, n: int) -> Schedule:
    """A2PO (Wang et al., 2023): in sequence, the clip range growing from one agent to the next.

    Stage k of n has the range ``eps (1 + k / n) / 2``: the first agents leave room for the last ones.
    """
    return sequential(key, n)._replace(clip=0.5 + 0.5 * jnp.arange(1, n + 1)[:, None] / n)


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


#: name -> the algorithm, from the settings `selection` and `advantage_split`, which FP3O alone reads.
ALGORITHMS: dict[str, Callable[[SelectionFn, SplitFn], Algorithm]] = {
    "mappo": lambda selection, split: Algorithm(simultaneous),
    "ippo": lambda selection, split: Algorithm(simultaneous, critics_see_state=False),
    "coppo": lambda selection, split: Algorithm(coordinated, double_clipped_surrogate, live=True),
    "happo": lambda selection, split: Algorithm(sequential),
    "a2po": lambda selection, split: Algorithm(
        agent_by_agent, double_clipped_surrogate, correction=preceding_agent_correction
    ),
    "fp3o": lambda selection, split: Algorithm(partial(full_pipeline, selection=selection, split=split)),
}


def make_algorithm(
    name: str,
    selection: str | SelectionFn = "cyclic",
    split: str | tuple[float, ...] = "uniform",
) -> Algorithm:
    """The algorithm of a config. Its schedules are drawn from a PRNG key inside the jitted update."""
    select = selection if callable(selection) else SELECTIONS[selection]
    return ALGORITHMS[name](select, advantage_split(split))


#: Conditions of a gated stage: (sums of the corrected advantage [P], sums of the plain one [P]) -> which
#: pipelines run, bool [P]. The first sums weigh each sample by its owner's ratio and by those of the
#: others, the second by the owner's alone (FP3O's condition for the shared lower bound).
CONDITIONS: dict[str, Callable[[Array, Array], Array]] = {
    "joint": lambda corrected, plain: jnp.broadcast_to(corrected.sum() + 1e-5 >= plain.sum(), plain.shape),
    "per_pipeline": lambda corrected, plain: corrected + 1e-5 >= plain,
    "off": lambda corrected, plain: jnp.ones(plain.shape, bool),
}
