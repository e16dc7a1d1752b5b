"""What came of a sweep so far: where its programs stand, and a row for each run."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from fp3o_jax.config import ConfigError
from fp3o_jax.files import COUNT, NUMBER, SEED, SIZE, checked, parsed, read_bytes, read_json
from fp3o_jax.runs.directory import take_lock, write_whole
from fp3o_jax.runs.figures import write_score_tables
from fp3o_jax.runs.outcome import CURVES
from fp3o_jax.sweeps.folder import SweepFolder, settings_of
from fp3o_jax.sweeps.plan import compiled_in, told

#: Settings that stand in every table, whether they are axes or not.
ALWAYS = ("env", "algorithm", "sharing")
#: What is read of a run's summary.
MEASURED = {
    "seeds": [{"seed": SEED, "stopped_at_update?": COUNT, str: (NUMBER, None)}],
    "env_steps": SIZE,
    "train_seconds": NUMBER,
    "side_by_side?": COUNT,
}


class ProgramState(NamedTuple):
    """Where a program of a sweep stands.

    Attributes:
        label: what is compiled into it, as far as it differs from others.
        runs: what ``sweep.json`` says of its run directories.
        state: ``finished``, ``running``, ``failed``, ``stopped`` (it has a checkpoint) or ``waiting``.
        update: the last one that was written down.
        num_updates: of each run.
    """

    label: str
    runs: list[dict[str, Any]]
    state: str
    update: int
    num_updates: int

    @property
    def num_runs(self) -> int:
        """Its seeds, over all directories."""
        return sum(run["num_seeds"] for run in self.runs)


def program_states(folder: SweepFolder) -> list[ProgramState]:
    """Where each program of a sweep stands. Whoever asks holds the folder's lock: to see whether a program's
    is held, it is tried."""
    content = folder.plan()
    states = []
    for index, runs in enumerate(content["programs"]):
        settings = settings_of(content, runs[0])
        steps = settings["num_envs"] * settings["rollout_length"]
        static = compiled_in(runs[0]["changes"])
        states.append(
            ProgramState(
                told(static) if static else "all points",
                runs,
                _state(folder, index, runs),
                max(_last_update(folder.run(run["name"])) for run in runs),
                -(-settings["total_env_steps"] // steps),
            )
        )
    return states


def results(folder: SweepFolder) -> list[dict[str, Any]]:
    """A row for each run and seed: settings, final scores, area under the curve, steps, seconds, status.

    ``seconds`` are those of its program, which trains ``side_by_side`` runs in them. Whoever asks holds the
    folder's lock.
    """
    content = folder.plan()
    axes = dict.fromkeys(
        name for program in content["programs"] for run in program for name in run["changes"]
    )
    rows = []
    for index, state in enumerate(program_states(folder)):
        for run in state.runs:
            settings = settings_of(content, run)
            known = {"run": run["name"], "program": index}
            known |= {name: settings.get(name) for name in dict.fromkeys((*ALWAYS, *axes))}
            file = folder.run(run["name"]) / "summary.json"
            summary = read_json(file, MEASURED) if file.exists() else None
            if summary is not None and len(summary["seeds"]) != run["num_seeds"]:
                raise ConfigError(
                    f"{file} is of {len(summary['seeds'])} seeds, and the plan has {run['num_seeds']}"
                )
            for position in range(run["num_seeds"]):
                row = known | {"seed": run["seed"] + position}
                if summary is None:
                    rows.append(row | {"status": state.state})
                else:
                    per_update = settings["num_envs"] * settings["rollout_length"]
                    rows.append(row | _measured(summary, position, per_update, state.num_runs))
    # Every row has all columns, in one order.
    columns = dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def write_results(folder: SweepFolder) -> Path:
    """Writes ``results.csv``, and of what is finished a row per configuration: ``table.csv``, ``table.tex``.

    Each is there as a whole or not at all.

    Returns:
        The path of ``results.csv``.
    """
    with folder.locked():
        rows, text = results(folder), io.StringIO()
        table = csv.DictWriter(text, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_whole(folder.path / "results.csv", text.getvalue())
        runs = dict.fromkeys(folder.run(row["run"]) for row in rows)
        write_score_tables([run for run in runs if (run / "summary.json").exists()], folder.path)
    return folder.path / "results.csv"


def show_status(path: Path, console: Console | None = None) -> list[dict[str, Any]]:
    """A table of the programs of a sweep, and how many runs are finished; returns what is in the table.

    Raises:
        ConfigError: there is no sweep.
    """
    console, folder = console or Console(), SweepFolder(path)
    folder.plan()  # or a folder would be made of any path
    with folder.locked():
        states = program_states(folder)
    table = Table("program", "what", "runs", "state", "update")
    for index, state in enumerate(states):
        table.add_row(
            str(index), state.label, str(state.num_runs), state.state, f"{state.update}/{state.num_updates}"
        )
    console.print(table, markup=False)
    finished = [state for state in states if state.state == "finished"]
    console.print(
        f"{len(finished)} of {len(states)} programs, {sum(s.num_runs for s in finished)} of "
        f"{sum(s.num_runs for s in states)} runs are finished",
        highlight=False,
    )
    shown = ("label", "num_runs", "state", "update", "num_updates")
    return [{name: getattr(state, name) for name in shown} for state in states]


def _measured(
    summary: Mapping[str, Any], position: int, steps_per_update: int, side_by_side: int
) -> dict[str, Any]:
    seed = summary["seeds"][position]
    stopped = seed.get("stopped_at_update")
    scores = {f"greedy_{name}": seed[name] for name in CURVES if name in seed}
    scores |= {f"sampled_{name}": seed[f"sampled_{name}"] for name in CURVES if f"sampled_{name}" in seed}
    scores |= {f"auc_{name}": seed.get(f"auc_{name}") for name in CURVES if name in seed}
    return scores | {
        "env_steps": summary["env_steps"] if stopped is None else (stopped - 1) * steps_per_update,
        "seconds": summary["train_seconds"],
        "side_by_side": summary.get("side_by_side", side_by_side),
        "status": "finished" if stopped is None else f"not finite in update {stopped}",
    }


def _state(folder: SweepFolder, index: int, runs: list[dict[str, Any]]) -> str:
    if folder.is_finished([run["name"] for run in runs]):
        return "finished"
    place = folder.program(index)
    if (place / "lock").exists() and _is_held(place / "lock"):
        return "running"
    if (place / "error.txt").exists():
        return "failed"
    return "stopped" if any(place.glob("checkpoints*/[0-9]*")) else "waiting"


def _is_held(lock: Path) -> bool:
    file = take_lock(lock)
    if file is not None:
        file.close()
    return file is None


def _last_update(run: Path) -> int:
    """From the end of a file that may be long, and whose last line may be half there."""
    file = run / "metrics.jsonl"
    if not file.exists():
        return 0
    for line in reversed(read_bytes(file, last=65536).split(b"\n")[:-1]):
        with contextlib.suppress(ValueError):
            return checked(parsed(line.decode(), str(file)), {"update": SIZE}, str(file))["update"]
    return 0
