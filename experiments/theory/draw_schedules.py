"""Who is optimised when, and whose ratios weigh: the schedules of MAPPO, HAPPO and FP3O as a picture.

python experiments/theory/draw_schedules.py --output docs/schedules.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from fp3o_jax.method.schedules import make_algorithm

NAMES = {"mappo": "MAPPO", "happo": "HAPPO", "fp3o": "FP3O"}
COLORS = ["tab:blue", "tab:orange", "tab:green", "tab:red"]
GAP = 1.5


def main(output: Path, seed: int = 2) -> None:
    schedules = {name: make_algorithm(name).schedule(jax.random.key(seed), len(COLORS)) for name in NAMES}
    widths = [len(s.gated) * (len(COLORS) + GAP) - GAP for s in schedules.values()]
    figure, all_axes = plt.subplots(
        len(NAMES), 1, figsize=(8, 4.6), height_ratios=[s.owners.shape[1] + 1.2 for s in schedules.values()]
    )
    for axes, (name, schedule) in zip(all_axes, schedules.items(), strict=True):
        draw(axes, np.array(schedule.owners), np.array(schedule.weights), np.array(schedule.gated))
        axes.set(xlim=(-3.2, max(widths) + 0.2), ylim=(schedule.owners.shape[1] + 0.1, -1.1), aspect="equal")
        axes.text(-3.1, schedule.owners.shape[1] / 2, NAMES[name], weight="bold", va="center")
        axes.axis("off")
    figure.savefig(output, dpi=160, bbox_inches="tight", facecolor="white")


def draw(axes: Axes, owners: np.ndarray, weights: np.ndarray, gated: np.ndarray) -> None:
    """One algorithm: stages [S] from left to right, pipelines [S, P] below one another, agents [S, P, n]."""
    num_agents = weights.shape[-1]
    for stage, (owned, weighing) in enumerate(zip(owners, weights, strict=True)):
        left = stage * (num_agents + GAP)
        title = f"stage {stage + 1}" + (", if the condition holds" if gated[stage] else "")
        axes.text(left + num_agents / 2, -0.25, title, ha="center", va="bottom", size=8)
        for pipeline, (owner, row) in enumerate(zip(owned, weighing, strict=True)):
            for agent in range(num_agents):
                color = COLORS[agent] if agent == owner else "0.93"
                axes.add_patch(Rectangle((left + agent + 0.06, pipeline + 0.06), 0.88, 0.88, color=color))
                middle = (left + agent + 0.5, pipeline + 0.5)
                if row[agent]:
                    axes.plot(*middle, "o", mec=COLORS[agent], mfc="none", mew=1.8, ms=8)
                elif agent == owner:
                    axes.text(*middle, str(agent + 1), color="white", ha="center", va="center", size=8)
        if stage:
            arrow = {"arrowstyle": "->", "color": "0.4"}
            y = len(owned) / 2
            axes.annotate("", (left - 0.2, y), (left - GAP + 0.2, y), arrowprops=arrow)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("schedules.png"))
    main(parser.parse_args().output)
