"""Metrics of each update: written down, shown, sent on; and what they tell of seeds that fail."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console

from fp3o_jax.config import Config
from fp3o_jax.runs.directory import RunDirectory
from fp3o_jax.runs.progress import TrainingProgress, tell
from fp3o_jax.runs.sinks import Sink
from fp3o_jax.runs.statistics import far_behind

#: metric -> its label in the progress display.
SHOWN = {"episode_return": "return", "win_rate": "win rate"}
#: A joint KL so many times the median of the last 50 updates is told.
KL_ALARM = 10.0
#: A seed that is far behind the others in so many updates on end is told.
BEHIND_ALARM = 20


def all_stopped(frozen: Mapping[str, int], config: Config) -> str:
    """What to say of a run of which no seed learns any more; nothing of one that goes on.

    Args:
        frozen: seed -> the update at which it would have ceased to be finite.
        config: of the run.
    """
    if len(frozen) < config.num_seeds:
        return ""
    each = ", ".join(f"seed {seed} in update {update}" for seed, update in frozen.items())
    return (
        f"every seed has ceased to be finite: {each} of {config.num_updates}. The updates before count: "
        "they are in metrics.jsonl, and the states after them in the newest checkpoint. Smaller learning "
        "rates may help, or else observations and rewards of the environment are not finite"
    )


class Journal:
    """Writes the metrics of each update down, shows them, and tells of seeds that failed.

    Attributes:
        frozen: seed -> the update at which it would have ceased to be finite.
        score: of the last update, what the best checkpoint has most of: win rate or return, mean over seeds.
    """

    def __init__(
        self,
        directory: RunDirectory,
        sinks: Sequence[Sink],
        console: Console,
        config: Config,
        seeds: range,
        frozen: dict[str, int],
    ):
        self._directory, self._sinks, self._console = directory, sinks, console
        self._config, self._seeds = config, seeds
        self._usual_kl: collections.deque[float] = collections.deque(maxlen=50)
        self._far = False
        self._behind: collections.Counter[int] = collections.Counter()
        self.frozen = frozen
        self.score = float("nan")

    @property
    def all_stopped(self) -> bool:
        """Whether no seed is left that learns."""
        return bool(all_stopped(self.frozen, self._config))

    def write(self, update: int, metrics: dict[str, Any], progress: TrainingProgress) -> None:
        """Appends the metrics [num_seeds, ...] of one update and moves the display on."""
        metrics = jax.device_get(metrics)
        finite = metrics.pop("finite")
        steps = update * self._config.steps_per_update
        rows = [
            {"seed": seed, "update": update}
            | ({name: value[i] for name, value in metrics.items()} if finite[i] else {})
            | {"env_steps": steps}
            for i, seed in enumerate(self._seeds)
        ]
        self._directory.log(row for row, good in zip(rows, finite, strict=True) if good)
        for seed, good in zip(self._seeds, finite, strict=True):
            if not good and str(seed) not in self.frozen:
                self.frozen[str(seed)] = update
                tell(
                    self._console,
                    f"seed {seed} ceased to be finite in update {update}: it stays at its last good state"
                    + ("" if self.all_stopped else ", the others go on"),
                    "warning:",
                    "bold red",
                )
        shown = {label: metrics[name][finite] for name, label in SHOWN.items() if name in metrics}
        speed = progress.update(update, steps * len(self._seeds), shown)
        label = "win rate" if "win rate" in shown else "return"
        self.score = float(shown[label].mean()) if finite.any() else float("nan")
        if finite.any():
            self._watch(update, float(metrics["joint_kl"][finite].max()))
        going = [seed for seed, good in zip(self._seeds, finite, strict=True) if good]
        self._watch_seeds(update, label, dict(zip(going, shown[label], strict=True)))
        # Not in the metrics file: a run that was resumed has the same one, to the bit.
        for sink in self._sinks:
            sink.log([row | {"env_steps_per_second": speed} for row in rows])

    def _watch(self, update: int, joint_kl: float) -> None:
        """Warns, once each time, of steps far larger than this run's are."""
        usual = float(np.median(self._usual_kl)) if len(self._usual_kl) >= 10 else math.inf
        far = joint_kl > KL_ALARM * usual
        if far and not self._far:
            tell(
                self._console,
                f"the joint policy moved by a KL of {joint_kl:.3g} in update {update}, usually by "
                f"{usual:.3g}: a lower actor_lr or clip_eps takes smaller steps",
                "warning:",
            )
        self._far = far
        self._usual_kl.append(joint_kl)

    def _watch_seeds(self, update: int, label: str, scores: Mapping[int, float]) -> None:
        """Warns, once each, of seeds that stay far behind the others."""
        known = {seed: score for seed, score in scores.items() if math.isfinite(score)}
        values = np.array(list(known.values()))
        behind = {seed for seed, far in zip(known, far_behind(values), strict=True) if far}
        for seed in self._seeds:
            if self._behind[seed] >= BEHIND_ALARM:
                continue  # told
            self._behind[seed] = self._behind[seed] + 1 if seed in behind else 0
            if self._behind[seed] == BEHIND_ALARM:
                tell(
                    self._console,
                    f"seed {seed} has been far behind the others for {BEHIND_ALARM} updates: in update "
                    f"{update} its {label} is {known[seed]:.3g}, the median {np.median(values):.3g}",
                    "warning:",
                )
