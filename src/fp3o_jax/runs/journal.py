"""Metrics of each update: written down, shown, sent on; and what they tell of seeds that fail."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Iterator, Mapping, Sequence
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
#: A joint KL so many times the median of the last 50 updates is told, unless the step is a small one all the
#: same: in a game that is solved the usual one is 0, and any step infinitely larger.
KL_ALARM = 10.0
SMALL_KL = 0.01
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
    """Writes the metrics of each update down, and tells of seeds that failed.

    Args:
        directory, sinks: where they are written.
        console: where failing seeds are told of.
        config: of the run.
        seeds: in the order in which the metrics come.
        frozen: what the attribute is in the beginning.
        name: what is said before a seed's number where several runs train side by side.

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
        name: str = "",
    ):
        self._directory, self._sinks, self._console = directory, sinks, console
        self._config, self._seeds, self._name = config, seeds, name and f"{name}: "
        self._usual_kl: collections.deque[float] = collections.deque(maxlen=50)
        self._far = False
        self._behind: collections.Counter[int] = collections.Counter()
        self.frozen = frozen
        self.score = float("nan")

    @property
    def all_stopped(self) -> bool:
        """Whether no seed is left that learns."""
        return bool(all_stopped(self.frozen, self._config))

    @property
    def num_seeds(self) -> int:
        """How many seeds the metrics are of."""
        return len(self._seeds)

    def env_steps(self, update: int) -> int:
        """Environment steps of all seeds after so many updates."""
        return update * self._config.steps_per_update * len(self._seeds)

    def write(self, update: int, metrics: Mapping[str, np.ndarray], speed: float) -> None:
        """Appends the metrics [num_seeds, ...] of one update, and when that was; sinks get ``speed`` (env
        steps/s) as well."""
        finite = metrics["finite"]
        metrics = {name: value for name, value in metrics.items() if name != "finite"}
        steps, now = update * self._config.steps_per_update, round(time.time(), 3)
        rows = [
            {"seed": seed, "update": update}
            | ({name: value[i] for name, value in metrics.items()} if finite[i] else {})
            | {"env_steps": steps, "time": now}
            for i, seed in enumerate(self._seeds)
        ]
        self._directory.log(row for row, good in zip(rows, finite, strict=True) if good)
        for seed, good in zip(self._seeds, finite, strict=True):
            if not good and str(seed) not in self.frozen:
                self.frozen[str(seed)] = update
                tell(
                    self._console,
                    f"{self._name}seed {seed} ceased to be finite in update {update}: it stays at its last "
                    "good state" + ("" if self.all_stopped else ", the others go on"),
                    "warning:",
                    "bold red",
                )
        shown = _shown(metrics, finite)
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
        far = joint_kl > max(KL_ALARM * usual, SMALL_KL)
        if far and not self._far:
            tell(
                self._console,
                f"{self._name}the joint policy moved by a KL of {joint_kl:.3g} in update {update}, "
                f"usually by {usual:.3g}: a lower actor_lr or clip_eps takes smaller steps",
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
                    f"{self._name}seed {seed} has been far behind the others for {BEHIND_ALARM} updates: in "
                    f"update {update} its {label} is {known[seed]:.3g}, the median {np.median(values):.3g}",
                    "warning:",
                )


class Journals:
    """The journals of runs that train side by side: each gets its seeds' part, the display gets all.

    Args:
        journals: in the order of their seeds on the program's leading axis.
    """

    def __init__(self, journals: Sequence[Journal]):
        self._journals = journals

    def __iter__(self) -> Iterator[Journal]:
        return iter(self._journals)

    @property
    def all_stopped(self) -> bool:
        """Whether no seed of any run is left that learns."""
        return all(journal.all_stopped for journal in self)

    @property
    def score(self) -> float:
        """The mean of the runs that have one."""
        scores = [journal.score for journal in self if math.isfinite(journal.score)]
        return float(np.mean(scores)) if scores else float("nan")

    def write(self, update: int, metrics: Mapping[str, Any], progress: TrainingProgress) -> None:
        """Appends the metrics [runs' seeds, ...] of one update and moves the display on."""
        metrics = jax.device_get(metrics)
        finite = metrics["finite"]
        speed = progress.update(
            update, sum(journal.env_steps(update) for journal in self), _shown(metrics, finite)
        )
        for journal, mine in zip(self, parts([journal.num_seeds for journal in self]), strict=True):
            journal.write(update, {name: value[mine] for name, value in metrics.items()}, speed)


def parts(sizes: Sequence[int]) -> list[slice]:
    """Where each of several parts lies on an axis that holds them one after another."""
    ends = np.cumsum(sizes)
    return [slice(int(end) - size, int(end)) for end, size in zip(ends, sizes, strict=True)]


def _shown(metrics: Mapping[str, np.ndarray], finite: np.ndarray) -> dict[str, np.ndarray]:
    return {label: metrics[name][finite] for name, label in SHOWN.items() if name in metrics}
