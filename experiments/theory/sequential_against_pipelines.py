"""Shows what sharing parameters does to a sequential update, and not to FP3O's, in games solved exactly.

    python experiments/theory/sequential_against_pipelines.py --output docs/theory.png

Left, a tug of war that two agents play with one policy table: agent 0 earns 2 for action 0, agent 1 earns 1
for action 1. Right, one iteration in random Markov games with one table for all agents: what an update's
own objectives promise (the surrogate gains less the exact penalty), and what the return does.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tyro

import tabular

matplotlib.use("Agg")


@dataclasses.dataclass
class Example:
    """How much of it, and where the figure goes."""

    output: Path = Path("theory.png")
    """figure"""
    iterations: int = 60
    """of the tug of war"""
    orders: int = 5
    """sequences of random orders that the sequential update draws"""
    games: int = 400
    """random games"""


def play(update, orders: np.ndarray) -> np.ndarray:
    """Returns of the tug of war [R, iterations + 1] under R sequences of ``orders`` [R, iterations, 2]."""
    case = tabular.tug_of_war()

    def run(orders):
        def iteration(params, order):
            value = tabular.solve(case.game, tabular.policies(params, 2)).value
            return update(case._replace(params=params, first=order, second=order[::-1])), value

        params, values = jax.lax.scan(iteration, jax.tree.map(jnp.asarray, case.params), orders)
        last = tabular.solve(case.game, tabular.policies(params, 2)).value
        return jnp.append(values, last)

    return np.asarray(jax.jit(jax.vmap(run))(orders))


def kept(update: tabular.FullPipeline) -> tabular.Outcome:
    """What the iteration ends with: without the dependent step where the condition fails."""
    return jax.tree.map(
        lambda a, b: jnp.where(
            update.holds.reshape(update.holds.shape + (1,) * (a.ndim - update.holds.ndim)), a, b
        ),
        update.dependent,
        update.independent,
    )


def main(example: Example) -> None:
    rng = np.random.default_rng(0)
    orders = rng.permuted(np.tile(np.arange(2), (example.orders, example.iterations, 1)), axis=2)
    cases = tabular.random_cases(0, example.games, "full", n=3, states=3)
    with jax.enable_x64(True):
        sequential = play(lambda case: tabular.sequential(case).params, orders)
        pipelines = play(lambda case: kept(tabular.full_pipeline(case)).params, orders[:1])
        outcomes = {
            "sequential (HAPPO)": jax.jit(jax.vmap(tabular.sequential))(cases),
            "full pipeline (FP3O)": kept(jax.jit(jax.vmap(tabular.full_pipeline))(cases)),
        }

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    for i, values in enumerate(sequential):
        label = "sequential, five draws of the order" if i == 0 else None
        left.plot(values, color="C1", lw=0.9, ls="--", label=label)
    left.plot(pipelines[0], color="C0", lw=2, label="full pipeline, any order")
    left.axhline(4, color="grey", lw=0.8, ls=":", label="best")
    left.set(xlabel="iteration", ylabel="return", title="Tug of war, one table for both")
    left.legend(frameon=False, fontsize=8)

    markers = {"sequential (HAPPO)": ("C1", "x"), "full pipeline (FP3O)": ("C0", ".")}
    for name, outcome in outcomes.items():
        color, marker = markers[name]
        gain, claim = np.asarray(outcome.gain), np.asarray(outcome.claim)
        right.scatter(claim, gain, s=14, c=color, marker=marker, linewidths=0.8, label=name)
        print(
            f"{name}: the return fell in {(gain < -1e-9).sum()} of {len(gain)} games, "
            f"the promise was broken in {(gain < claim - 1e-9).sum()}"
        )
    low, high = right.get_xlim()
    right.plot([low, high], [low, high], color="grey", lw=0.8, ls=":")
    right.axhline(0, color="grey", lw=0.8)
    right.set(
        xlabel="gain that was promised",
        ylabel="gain of the return",
        title="Random games, one table for three",
    )
    right.legend(frameon=False, fontsize=8)
    figure.savefig(example.output, dpi=110)
    print(f"drawn to {example.output}")


if __name__ == "__main__":
    main(tyro.cli(Example, description=__doc__))
