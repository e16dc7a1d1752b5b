"""Weights & Biases: a run per seed, or one for the statistics over the seeds."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import quote

from fp3o_jax.config import Config, ConfigError, settle_types, unknown
from fp3o_jax.runs.sinks.base import over_seeds, scalars
from fp3o_jax.runs.sinks.budget import WANDB

if TYPE_CHECKING:
    import wandb

Mode = Literal["online", "offline", "disabled"]
Layout = Literal["per_seed", "aggregate"]

#: Seconds that the end of a run waits for its upload; what is missing then stays in the run directory.
FINISH_TIMEOUT = 120.0


def _variable(variable: str, default: Any, read: Callable[[str], Any] = str) -> Callable[[], Any]:
    """What makes a field's default: W&B's own environment variable, where that is set when options are made.

    So a run that is resumed goes where it began, whatever the variable says by then.
    """

    def value() -> Any:
        text = os.environ.get(variable)
        try:
            return read(text) if text else default
        except ConfigError:
            raise
        except ValueError:
            raise ConfigError(f"{variable}={text!r} cannot be used") from None

    return value


def _mode(text: str) -> str:
    """A value of WANDB_MODE, some of which are the same here."""
    mode = {"dryrun": "offline", "run": "online", "shared": "online"}.get(text, text)
    if mode not in get_args(Mode):
        raise unknown("WANDB_MODE", text, get_args(Mode))
    return mode


@dataclass(frozen=True)
class WandbOptions:
    """How to log to Weights & Biases.

    What is not given is taken from W&B's own environment variables.

    Raises:
        ConfigError: a value cannot be used.
    """

    mode: Mode = field(default_factory=_variable("WANDB_MODE", "disabled", _mode))
    """log to the server, to files that `wandb sync` uploads later, or not at all"""
    project: str = field(default_factory=_variable("WANDB_PROJECT", "fp3o-jax"))
    """project that the runs belong to"""
    entity: str | None = field(default_factory=_variable("WANDB_ENTITY", None))
    """user or team; by default the one that the key belongs to"""
    group: str | None = field(default_factory=_variable("WANDB_RUN_GROUP", None))
    """group of the seeds' runs; by default one for each run directory"""
    tags: tuple[str, ...] = field(
        default_factory=_variable("WANDB_TAGS", (), lambda text: tuple(text.split(",")))
    )
    """tags of every run"""
    name: str | None = field(default_factory=_variable("WANDB_NAME", None))
    """name of the runs, before the seed; by default environment, algorithm and sharing"""
    layout: Layout = "per_seed"
    """a run for each seed, in one group, or one run with mean, IQM, min and max over the seeds"""
    every: int | None = None
    """log every so many updates, and the last one; by default all of them, or with many runs side by side so
    many that logging takes 3 % of the time"""
    init_timeout: float = field(default_factory=_variable("WANDB_INIT_TIMEOUT", 30.0, float))
    """online: seconds to wait for the server before logging offline"""

    def __post_init__(self) -> None:
        settle_types(self, "wandb.")
        for name, valid in (("mode", get_args(Mode)), ("layout", get_args(Layout))):
            if getattr(self, name) not in valid:
                raise unknown(f"wandb.{name}", getattr(self, name), valid)
        if self.every is not None and self.every < 1:
            raise ConfigError(f"wandb.every={self.every} must be a number of updates of at least 1")
        if not (math.isfinite(self.init_timeout) and self.init_timeout > 0):
            raise ConfigError(f"wandb.init_timeout={self.init_timeout!r} must be a number of seconds above 0")


class WandbSink:
    """Logs over environment steps; W&B's own step is the number of the update.

    Ids follow from ``run_id``, so a run that resumes continues its W&B runs: updates that the server has are
    dropped, those that never reached it are taken. Offline there is no server to ask: the interrupted process
    and the resumed one leave a directory each under the same id, and `wandb sync` shows an update that was
    sent twice as two equal points.

    Args:
        options: how to log; ``mode`` is not ``disabled``.
        config: what W&B shows as config.
        run_dir: W&B's files go to ``run_dir/wandb``.
        run_id: id of the aggregate run, and the beginning of the seeds' ids.

    Raises:
        wandb.Error: the client cannot start. A server that is not reached, or refuses, is only a warning.
    """

    def __init__(self, options: WandbOptions, config: Config, run_dir: Path, run_id: str):
        self._every, self._waiting = options.every, None
        name = options.name or f"{config.env.replace('/', '-')}_{config.algorithm}_{config.sharing}"
        group = options.group or f"{name}_{run_id}"
        settings = config.to_dict()
        self._aggregate = options.layout == "aggregate"
        if os.environ.get("WANDB_SWEEP_ID") and config.num_seeds > 1 and not self._aggregate:
            # The agent names the run, and a second one of that name cannot be open beside it.
            warnings.warn(
                f"under W&B's agent (WANDB_SWEEP_ID) a process is one run: the {config.num_seeds} seeds are "
                "logged as wandb.layout='aggregate' does, with their mean, IQM, min and max",
                RuntimeWarning,
                stacklevel=2,
            )
            self._aggregate = True
        if self._aggregate:
            arguments = [{"id": run_id, "name": name, "config": settings}]
        else:
            arguments = [
                {"id": f"{run_id}-seed{s}", "name": f"{name}_seed{s}", "config": settings | {"seed": s}}
                for s in config.seeds
            ]
        shared = {
            "project": options.project,
            "entity": options.entity,
            "group": group,
            "tags": options.tags,
            "dir": str(run_dir),
        }
        self._runs = _open_runs([shared | one for one in arguments], options)
        WANDB.opened()
        for run in self._runs:
            run.define_metric("env_steps")
            run.define_metric("*", step_metric="env_steps")
        # Asking `run.step` each time would wait for the client's service.
        self._next_step = [run.starting_step for run in self._runs]
        first = self._runs[0]
        if first.offline:
            self.destination = f"`wandb sync {run_dir}/wandb/offline-run-*`"
        else:
            self.destination = (
                first.url if self._aggregate else f"{first.project_url}/groups/{quote(group, safe='')}"
            )

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Sends the rows of one update, one per seed, if their time has come."""
        update = int(rows[0]["update"])
        if WANDB.allows(update) if self._every is None else update % self._every == 0:
            with WANDB.spending():
                self._send(rows)
        else:
            self._waiting = rows

    def _send(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._waiting = None
        metrics = [scalars(row) for row in rows]
        if self._aggregate:
            metrics = [over_seeds(metrics)]
        step, env_steps = int(rows[0]["update"]), int(rows[0]["env_steps"])
        for i, (run, values) in enumerate(zip(self._runs, metrics, strict=True)):
            # W&B ignores steps that it is past too, but with a warning for each.
            if step >= self._next_step[i]:
                run.log({"env_steps": env_steps} | values, step=step, commit=True)
                self._next_step[i] = step + 1

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Sets the final evaluation as ``eval/...``, beside what is no seed's own, such as times."""
        per_seed = [scalars(row) for row in summary["seeds"]]
        common = scalars(
            {
                name: value
                for name, value in summary.items()
                if isinstance(value, Real) and name not in summary["seeds"][0]
            }
        )
        results = [over_seeds(per_seed)] if self._aggregate else per_seed
        for run, values in zip(self._runs, results, strict=True):
            run.summary.update(common | {f"eval/{name}": value for name, value in values.items()})

    def close(self, exit_code: int) -> None:
        """Sends what is still waiting, and waits for the upload, no longer than ``FINISH_TIMEOUT``."""
        WANDB.closed()
        if self._waiting is not None:
            self._send(self._waiting)
        # Side by side, or an unreachable server would cost the timeout once for each seed.
        with ThreadPoolExecutor(len(self._runs)) as pool:
            list(pool.map(lambda run: run.finish(exit_code=exit_code), self._runs))


def _open_runs(arguments: list[dict[str, Any]], options: WandbOptions) -> list[wandb.Run]:
    """Starts a run for each dictionary of arguments: all online, or all offline."""
    import wandb

    def start(mode: str) -> list[wandb.Run]:
        # A new settings object each time, since the client writes to it.
        return [
            wandb.init(**one, mode=mode, resume="allow", reinit="create_new", settings=_settings(options))
            for one in arguments
        ]

    if options.mode == "online":
        try:
            # At a terminal the client asks for a missing key, of a user who may not be there.
            wandb.setup(wandb.Settings(login_timeout=options.init_timeout))
            return start("online")
        except Exception as error:
            warnings.warn(
                f"W&B cannot be used online ({type(error).__name__}: {error}): logging offline. "
                f"Later, `wandb sync {arguments[0]['dir']}/wandb/offline-run-*` uploads the run",
                RuntimeWarning,
                stacklevel=2,
            )
            # The client keeps the ids of runs that failed to start in use until it ends.
            with contextlib.suppress(Exception, SystemExit):
                wandb.teardown()
    return start("offline")


def _settings(options: WandbOptions) -> wandb.Settings:
    """Nothing but metrics and config is recorded: no console, code, git state, machine or environment."""
    import wandb

    return wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        silent=True,
        symlink=False,
        init_timeout=options.init_timeout,
        finish_timeout=FINISH_TIMEOUT,
    )
