"""Small cooperative games in closed form, and the updates that the theory speaks of, without sampling.

A game has S states, n agents and A actions each; K = A^n joint actions. Values, advantages, visitation and
return are solved exactly, the expectations over joint actions are sums, and the penalty is TRPO's own. What a
"maximisation" finds is a point no worse than where it started, which is all that the proofs use.

Everything is a pure function that runs under ``vmap`` over games; use float64 (``jax.enable_x64``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jax import Array

SHARINGS = ("full", "partial", "none")
FEATURES = 2


class Game(NamedTuple):
    """A cooperative Markov game.

    Attributes:
        transition: [S, K, S] probabilities.
        reward: [S, K] team reward.
        start: [S] distribution of the first state.
        gamma: discount; 0 makes a matrix game of S = 1.
    """

    transition: Array
    reward: Array
    start: Array
    gamma: Array


class Case(NamedTuple):
    """What an update needs: a game, the parameters that it starts from, and whom it updates when.

    Attributes:
        game: the game.
        params: logits of one table for all agents (full), of a table each (none), or features of the state
            that all share and a linear head each (partial).
        split: [n, S, K] parts of the advantage, less the advantage divided by n: they sum to 0.
        first: [n] the agent that each pipeline owns in the independent step, and the sequential order.
        second: [n] the agent that each pipeline owns in the dependent step.
    """

    game: Game
    params: Any
    split: Array
    first: Array
    second: Array


def random_cases(
    seed: int,
    count: int,
    sharing: str,
    *,
    n: int,
    states: int,
    actions: int = 2,
    gamma: float = 0.9,
    noise: float = 0.0,
) -> Case:
    """``count`` cases, stacked: Dirichlet transitions, normal rewards and parameters.

    ``noise`` is the deviation of the parts of the advantage around the uniform split.
    """
    rng = np.random.default_rng(seed)
    joint = actions**n
    game = Game(
        rng.dirichlet(np.ones(states), (count, states, joint)),
        rng.normal(size=(count, states, joint)),
        rng.dirichlet(np.ones(states), count),
        np.full(count, gamma),
    )
    if sharing == "partial":
        params = {
            "trunk": rng.normal(size=(count, states, FEATURES)),
            "head": rng.normal(size=(count, n, FEATURES, actions)),
        }
    else:
        params = {"table": rng.normal(size=(count, 1 if sharing == "full" else n, states, actions))}
    split = noise * rng.normal(size=(count, n, states, joint))
    first = rng.permuted(np.tile(np.arange(n), (count, 1)), axis=1)
    return Case(game, params, split - split.mean(1, keepdims=True), first, np.roll(first, -1, axis=1))


def tug_of_war(gamma: float = 0.5) -> Case:
    """Two agents, one table, one state: agent 0 earns 2 for action 0, agent 1 earns 1 for action 1."""
    reward = np.array([[2.0, 3.0, 0.0, 1.0]])
    game = Game(np.ones((1, 4, 1)), reward, np.ones(1), np.asarray(gamma))
    order = np.arange(2)
    return Case(game, {"table": np.zeros((1, 1, 2))}, np.zeros((2, 1, 4)), order, order[::-1])


def policies(params: Any, n: int) -> Array:
    """[n, S, A] action probabilities of each agent."""
    logits = params["table"] if "table" in params else params["trunk"] @ params["head"]
    return jnp.broadcast_to(jax.nn.softmax(logits), (n, *logits.shape[1:]))


def joint_policy(policy: Array) -> Array:
    """[n, S, A] -> [S, K], the product of the agents' policies."""
    n, _, actions = policy.shape
    table = np.array(list(itertools.product(range(actions), repeat=n)))
    return jnp.prod(jnp.stack([policy[i][:, table[:, i]] for i in range(n)]), axis=0)


class Solution(NamedTuple):
    """What a joint policy is worth.

    Attributes:
        value: the return J.
        advantage: [S, K] of every joint action.
        visits: [S] discounted, not normalised: sums to 1 / (1 - gamma).
        penalty: C = 4 gamma max|A| / (1 - gamma)^2 (Schulman et al., 2015, theorem 1).
    """

    value: Array
    advantage: Array
    visits: Array
    penalty: Array


def solve(game: Game, policy: Array) -> Solution:
    """Exact evaluation of the agents' policies [n, S, A]."""
    joint = joint_policy(policy)
    moves = jnp.einsum("sk,skt->st", joint, game.transition)
    system = jnp.eye(len(game.start)) - game.gamma * moves
    values = jnp.linalg.solve(system, (joint * game.reward).sum(1))
    advantage = game.reward + game.gamma * game.transition @ values - values[:, None]
    penalty = 4 * game.gamma * jnp.abs(advantage).max() / (1 - game.gamma) ** 2
    return Solution(game.start @ values, advantage, jnp.linalg.solve(system.T, game.start), penalty)


def expected(solution: Solution, policy: Array, advantage: Array) -> Array:
    """``E[advantage]`` over the old policies' visits and actions of ``policy`` [n, S, A]."""
    return (solution.visits[:, None] * joint_policy(policy) * advantage).sum()


def divergences(old: Array, new: Array) -> Array:
    """[n] the largest KL(old || new) over states, of each agent."""
    return (old * (jnp.log(old) - jnp.log(new))).sum(-1).max(-1)


def lower_bound(solution: Solution, old: Array, new: Array) -> Array:
    """``E_new[A] - C sum_i max_s KL``: what the return gains at least, from ``old`` to ``new``."""
    return expected(solution, new, solution.advantage) - solution.penalty * divergences(old, new).sum()


def with_agent(base: Array, other: Array, agent: Array) -> Array:
    """``base`` [n, S, A], but the policy of ``agent`` from ``other``."""
    return jnp.where((jnp.arange(len(base)) == agent)[:, None, None], other, base)


def maximise(objective: Callable[[Any], Array], params: Any, steps: int = 40) -> Any:
    """Steepest ascent, each step the best of 30 lengths; never below the value at the start."""
    flat, restore = jax.flatten_util.ravel_pytree(params)
    lengths = jnp.logspace(-8, 1, 30)

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        point, value = carry
        gradient = jax.grad(lambda x: objective(restore(x)))(point)
        direction = gradient / jnp.maximum(jnp.linalg.norm(gradient), 1e-300)
        points = point + lengths[:, None] * direction
        values = jax.vmap(lambda x: objective(restore(x)))(points)
        best = jnp.argmax(jnp.where(jnp.isfinite(values), values, -jnp.inf))
        better = values[best] > value
        return (jnp.where(better, points[best], point), jnp.where(better, values[best], value)), None

    (flat, _), _ = jax.lax.scan(step, (flat, objective(params)), length=steps)
    return restore(flat)


class Outcome(NamedTuple):
    """An update, judged.

    Attributes:
        params: after it.
        gain: of the return, exactly.
        bound: the lower bound of that gain.
        claim: what the update's own objectives add up to: its promise.
    """

    params: Any
    gain: Array
    bound: Array
    claim: Array


def _judge(game: Game, solution: Solution, old: Array, params: Any, claim: Array) -> Outcome:
    new = policies(params, len(old))
    gain = solve(game, new).value - solution.value
    return Outcome(params, gain, lower_bound(solution, old, new), claim)


def sequential(case: Case) -> Outcome:
    """HAPPO's step without sampling: one agent after another against the recorded policies before it."""
    game, params, n = case.game, case.params, len(case.first)
    old = policies(params, n)
    solution = solve(game, old)

    def one(carry: tuple[Any, Array, Array], agent: Array) -> tuple[tuple[Any, Array, Array], None]:
        params, recorded, claim = carry

        def objective(params: Any) -> Array:
            new = policies(params, n)
            gain = expected(solution, with_agent(recorded, new, agent), solution.advantage)
            gain -= expected(solution, recorded, solution.advantage)
            return gain - solution.penalty * divergences(old, new)[agent]

        params = maximise(objective, params)
        claim += objective(params)
        return (params, with_agent(recorded, policies(params, n), agent), claim), None

    (params, _, claim), _ = jax.lax.scan(one, (params, old, jnp.zeros(())), case.first)
    return _judge(game, solution, old, params, claim)


class FullPipeline(NamedTuple):
    """FP3O's iteration, step by step.

    Attributes:
        independent: after the independent step.
        holds: the condition for the dependent step.
        dependent: after the dependent step as it is implemented, the others held at their intermediate
            policies (whether or not the condition holds).
        exact: after a dependent step against the others' policies as they change.
    """

    independent: Outcome
    holds: Array
    dependent: Outcome
    exact: Outcome


def full_pipeline(case: Case) -> FullPipeline:
    """FP3O's iteration without sampling."""
    game, params, split, first, second = case
    n = len(first)
    old = policies(params, n)
    solution = solve(game, old)
    parts = solution.advantage / n + split

    def pipelines(base: Array, new: Array, owners: Array) -> Array:
        """sum_p E[A_p] where the owner of p acts by ``new`` and the others by ``base``."""
        return jax.vmap(lambda a, i: expected(solution, with_agent(base, new, i), a))(parts, owners).sum()

    def penalised(params: Any, base: Array, owners: Array) -> Array:
        new = policies(params, n)
        return pipelines(base, new, owners) - solution.penalty * divergences(old, new).sum()

    half = maximise(lambda x: penalised(x, old, first), params)
    middle = policies(half, n)
    independent = _judge(game, solution, old, half, penalised(half, old, first))
    holds = pipelines(middle, middle, second) >= pipelines(old, middle, second)

    def dependent(live: Array) -> Outcome:
        def objective(params: Any) -> Array:
            return penalised(params, jnp.where(live, policies(params, n), middle), second)

        new = maximise(objective, half)
        return _judge(game, solution, old, new, objective(new))

    stand_in, exact = (
        jax.tree.map(lambda x, k=k: x[k], jax.vmap(dependent)(jnp.array([False, True]))) for k in (0, 1)
    )
    return FullPipeline(independent, holds, stand_in, exact)
