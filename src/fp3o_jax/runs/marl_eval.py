"""Results in the layout of marl-eval, the tool for statistics over tasks, algorithms and seeds.

The layout (https://github.com/instadeepai/marl-eval) goes with Gorsane et al., "Towards a Standardised
Performance Evaluation Protocol for Cooperative MARL", 2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from fp3o_jax.config import Config
from fp3o_jax.runs.grouping import NOT_METHOD, label


def marl_eval(
    config: Config, rows: Iterable[Mapping[str, Any]], summary: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``marl_eval.json`` holds.

    The metrics are those of the final evaluation that the rows have as well, each a list of one mean over
    episodes. The tool wants the same steps from all seeds, so an update counts only where every seed reports
    all of them: before the first episode has ended none does.

    The tool knows a method by its name alone. So that files of any runs can be merged, the name says all that
    makes the method: algorithm and sharing, and every setting that is not what it is by default, such as
    ``fp3o, sharing none, actor_lr=1e-3``. A task is named with the options of its environment.

    Args:
        config: environment, task and method are named after it.
        rows: of all updates and seeds, as logged or as read back from ``metrics.jsonl`` (null for NaN). Of
            several rows for one update and seed the last counts. ``elapsed_time`` (seconds), where a row has
            it, is handed on.
        summary: ``seeds`` is a list of one mapping per seed, its final results beside ``seed``.

    Returns:
        ``{environment: {task: {method: {"seed_0": {"step_0": {"step_count": env steps, metric: [value]},
        ..., "absolute_metrics": {metric: [value]}}}}}}``. Files of several runs merge key by key.
    """
    final = {row["seed"]: row for row in summary["seeds"]}
    updates: dict[int, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        updates.setdefault(int(row["update"]), {})[int(row["seed"])] = row
    reported = {name for by_seed in updates.values() for row in by_seed.values() for name in row}
    names = [name for name in summary["seeds"][0] if name in reported and name != "seed"]
    names = [name for name in names if not name.startswith("sampled_")]
    complete = [
        by_seed
        for _, by_seed in sorted(updates.items())
        if all(_is_number(by_seed.get(seed, {}).get(name)) for seed in final for name in names)
    ]
    runs = {
        f"seed_{seed}": {f"step_{i}": _step(by_seed[seed], names) for i, by_seed in enumerate(complete)}
        | {"absolute_metrics": {name: [float(results[name])] for name in names}}
        for seed, results in final.items()
    }
    family, _, task = config.env.partition("/")
    options = [f"{name}={value}" for name, value in sorted(config.env_kwargs.items())]
    return {family: {" ".join([task or family, *options]): {_method(config): runs}}}


def _method(config: Config) -> str:
    settings, usual = config.to_dict(), Config().to_dict()
    named = ("algorithm", "sharing")
    named += tuple(n for n, v in settings.items() if n not in (*NOT_METHOD, *named) and v != usual[n])
    return label(tuple((name, settings[name]) for name in named))


def _step(row: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    step: dict[str, Any] = {"step_count": int(row["env_steps"])}
    if "elapsed_time" in row:
        step["elapsed_time"] = float(row["elapsed_time"])
    return step | {name: [float(row[name])] for name in names}


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)
