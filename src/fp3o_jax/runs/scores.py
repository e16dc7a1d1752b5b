"""Scores of final policies: which there are, which value is best, and how methods compare."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fp3o_jax.config import ConfigError
from fp3o_jax.runs.grouping import Group, Place, Settings, label, matches
from fp3o_jax.runs.progress import Notes
from fp3o_jax.runs.reading import Run
from fp3o_jax.runs.statistics import (
    Estimate,
    iqm,
    pooled,
    probability_of_improvement,
    stratified_bootstrap,
)

AGGREGATES = {"IQM": iqm, "mean": np.mean, "median": np.median}
#: So many pairs of methods are all compared.
MAX_PAIRS = 15
#: A value is chosen on at least so many seeds, and shown on as many others.
MIN_SEEDS = 2

#: By place: [S], one score per seed.
Scores = Mapping[Place, np.ndarray]


class Summary(NamedTuple):
    """Final scores at one place.

    Attributes:
        seeds: how many scores there are, over all tasks.
        estimates: by aggregate.
    """

    seeds: int
    estimates: Mapping[str, Estimate]


class Comparison(NamedTuple):
    """How probably a seed of one method scores higher than a seed of another.

    Attributes:
        method: X.
        other: Y.
        estimate: P(X > Y).
        envs: on how many environments both have scores.
    """

    method: Settings
    other: Settings
    estimate: Estimate
    envs: int

    @property
    def labels(self) -> tuple[str, str]:
        """X, and of Y what is not the same."""
        return label(self.method), label(tuple(s for s in self.other if s not in self.method))


def final_scores(runs: Sequence[Run], metric: str) -> dict[int, float]:
    """By seed, what the final policies scored, as far as they have been played.

    Two runs that have a seed in common are never at one place.
    """
    return {
        row["seed"]: float(row[metric]) for run in runs for row in run.final if row.get(metric) is not None
    }


def choose_best(
    places: Mapping[Place, Mapping[Settings, list[Run]]], metric: str, best_of: Sequence[str], notes: Notes
) -> dict[Place, Group]:
    """Of the values that compete at each place, the one whose runs have the highest IQM of final scores.

    It is chosen on the lower half of the seeds that all of them have scores of, and the others are shown.
    With fewer than four such seeds it is chosen on those shown, which a note says.

    Args:
        places: as :func:`~fp3o_jax.runs.grouping.arrange` puts them.
        metric: of the final policies.
        best_of: names of the settings that are chosen, none if there is nothing to choose.
        notes: takes what is to be said.

    Raises:
        ConfigError: nothing can be chosen: no run has a final score.
    """
    if not best_of:
        return {place: Group(runs) for place, candidates in places.items() for runs in candidates.values()}
    said = ", ".join(best_of)
    groups = {}
    for place, candidates in places.items():
        scores = {chosen: final_scores(runs, metric) for chosen, runs in candidates.items()}
        scores = {chosen: by_seed for chosen, by_seed in scores.items() if by_seed}
        who = _who(place)
        if not scores:
            notes.add(who, f"no run has a final {metric}, so no {said} can be chosen: left out")
            continue
        if len(scores) < len(candidates):
            notes.add(who, f"values of {said} without final scores did not compete")
        common = sorted(set.intersection(*map(set, scores.values())))
        on = common[: len(common) // 2] if len(common) >= 2 * MIN_SEEDS else []
        best = max(
            scores, key=lambda c: iqm(np.array([scores[c][s] for s in on] or list(scores[c].values())))
        )
        runs = candidates[best]
        if len(scores) == 1:
            notes.add(who, f"there is only one {said} to choose from")
        elif on:
            runs = [run.only({*run.seeds} - {*on}) for run in runs]
            notes.add(who, f"{said} is chosen on {len(on)} seeds, and the others are shown")
        else:
            notes.add(who, f"{said} is CHOSEN ON THE SEEDS SHOWN (too few to split), which flatters")
        groups[place] = Group([run for run in runs if run.seeds], best)
    if not groups:
        raise ConfigError(f"best_of={said!r} chooses by the final {metric}, and no run has one yet")
    return groups


def scores_of(groups: Mapping[Place, Group], metric: str, notes: Notes) -> Scores:
    """The final scores at each place that has some; what is missing is noted."""
    result = {}
    for place, group in groups.items():
        for run in group.runs:
            if not run.final:
                notes.add(str(run.path), "not finished, so there is no final score yet")
                continue
            measured = sum(row.get(metric) is not None for row in run.final)
            if measured < len(run.final):
                notes.add(str(run.path), f"{metric} is in {measured} of {len(run.final)} final evaluations")
            if stopped := [row for row in run.final if "stopped_at_update" in row]:
                text = "seeds ceased to be finite; their scores are those of their last good policies"
                notes.add(f"{run.path} (seeds {', '.join(str(row['seed']) for row in stopped)})", text)
        if scores := final_scores(group.runs, metric):
            result[place] = np.array(list(scores.values()))
    return result


def summarize(scores: Scores, metric: str) -> dict[Place, Summary]:
    """A summary at each place, and one of all environments together where they have a common scale."""
    result = {place: _summary([values]) for place, values in scores.items()}
    envs = list(dict.fromkeys(place.env for place in scores))
    # Returns of different environments cannot be averaged; nor can methods be compared on different ones.
    if len(envs) > 1 and metric.removeprefix("sampled_").removeprefix("auc_") == "win_rate":
        for place in dict.fromkeys(place._replace(env=envs[0]) for place in scores):
            tasks = [scores.get(place._replace(env=env)) for env in envs]
            if all(task is not None for task in tasks):
                result[place._replace(env=f"all {len(envs)} environments")] = _summary(tasks)
    return result


def compare(scores: Scores, baseline: str | None) -> list[Comparison] | None:
    """Methods in pairs: each with the baseline, or all with all that are in panels of the same settings.

    Args:
        scores: of the final policies.
        baseline: settings, separated by commas, each a value (``mappo``) or ``name=value``. If one method
            alone has them, all are compared with it; else each with the one that has all other settings in
            common with it.

    Returns:
        None if there is no baseline, and there are too many pairs.

    Raises:
        ConfigError: no method is the baseline.
    """
    methods = list(dict.fromkeys(place.method for place in scores))
    if baseline is not None:
        pairs = _against(methods, baseline)
    else:
        panels = {place.method: place.panel for place in scores}
        pairs = [(x, y) for x, y in itertools.combinations(methods, 2) if panels[x] == panels[y]]
        if len(pairs) > MAX_PAIRS:
            return None
    of = {method: {p.env: values for p, values in scores.items() if p.method == method} for method in methods}
    result = []
    for x, y in pairs:
        if envs := [env for env in of[x] if env in of[y]]:
            tasks = ([of[method][env] for env in envs] for method in (x, y))
            estimate = stratified_bootstrap(probability_of_improvement, *tasks)
            result.append(Comparison(x, y, estimate, len(envs)))
    return result


def strongest(comparisons: Sequence[Comparison], most: int, shown: int) -> Sequence[Comparison]:
    """All comparisons; of more than ``most`` those ``shown`` that have the highest probabilities."""
    if len(comparisons) <= most:
        return comparisons
    return sorted(comparisons, key=lambda c: -c.estimate.value)[:shown]


def by_merit(values: Mapping[Place, float]) -> list[Settings]:
    """The lines, best first, by their mean rank over the panels that they are in."""
    ranks: dict[Settings, list[int]] = {}
    for panel in dict.fromkeys((place.env, place.panel) for place in values):
        here = [place for place in values if (place.env, place.panel) == panel]
        for rank, place in enumerate(sorted(here, key=lambda place: -values[place])):
            ranks.setdefault(place.line, []).append(rank)
    return sorted(ranks, key=lambda line: np.mean(ranks[line]))


def _who(place: Place) -> str:
    parts = (place.env, label(place.method), "" if place.at is None else str(place.at))
    return ", ".join(part for part in parts if part)


def _summary(tasks: Sequence[np.ndarray]) -> Summary:
    estimates = {
        name: stratified_bootstrap(pooled(statistic), tasks) for name, statistic in AGGREGATES.items()
    }
    return Summary(sum(map(len, tasks)), estimates)


def _against(methods: Sequence[Settings], baseline: str) -> list[tuple[Settings, Settings]]:
    parts = [part.strip() for part in baseline.split(",")]
    named: dict[Settings, set[str]] = {}
    for method in methods:
        found = [{name for name, value in method if matches(name, value, part)} for part in parts]
        if all(found):
            named[method] = set.union(*found)
    if not named:
        known = "; ".join(label(method) for method in methods[:6]) + ("; ..." if len(methods) > 6 else "")
        raise ConfigError(f"baseline={baseline!r} must be settings of one of the methods: {known}")
    pairs = []
    for method in methods:
        others = [b for b in named if b != method]
        if len(named) > 1:
            others = [b for b in others if _agree(method, b, named[b])]
        if len(others) == 1 and method not in named:
            pairs.append((method, others[0]))
    return pairs


def _agree(method: Settings, other: Settings, but: set[str]) -> bool:
    """Whether the settings that both have are the same, but for some."""
    mine = dict(method)
    return all(mine[name] == value for name, value in other if name in mine and name not in but)
