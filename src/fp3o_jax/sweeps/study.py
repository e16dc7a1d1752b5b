"""A sweep as it is written down: a TOML file, or arguments of the command line."""

from __future__ import annotations

import dataclasses
import json
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from fp3o_jax.config import Config, ConfigError, unknown
from fp3o_jax.envs import available
from fp3o_jax.files import checked, read_text
from fp3o_jax.presets import PRESETS
from fp3o_jax.runs.loop import RunError
from fp3o_jax.runs.options import RunOptions
from fp3o_jax.runs.progress import tell
from fp3o_jax.runs.sinks import WandbOptions
from fp3o_jax.sweeps.cluster import JobOptions, submit
from fp3o_jax.sweeps.running import program_label
from fp3o_jax.sweeps.sweep import Sweep
from fp3o_jax.values import short

#: What a file of a study may hold, besides what :class:`Study` has.
FILE = ("preset", "run_dir", "settings", "options")
AXES = ("grid", "zip", "random")
#: What such a file holds, as far as nobody else says what is wrong with it.
CONTENT = {
    "preset?": str,
    "run_dir?": str,
    "points?": [object],
}
#: ``none`` is a name: of a sharing, of inputs that are not normalised.
WORDS = {"true": True, "True": True, "false": False, "False": False, "None": None}


@dataclasses.dataclass(frozen=True)
class Study:
    """What makes a :class:`Sweep`, and where it is written (``options.run_dir``)."""

    config: Config = dataclasses.field(default_factory=Config)
    options: RunOptions = dataclasses.field(default_factory=RunOptions)
    grid: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    zip: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    random: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    points: Sequence[Mapping[str, Any]] = ()
    samples: int = 0
    sample_seed: int = 0
    runs_per_program: int | None = None
    jobs: JobOptions = dataclasses.field(default_factory=JobOptions)

    def sweep(self) -> Sweep:
        if self.options.run_dir is None:
            raise ConfigError("run_dir=None: say where the sweep shall be, `--run-dir sweeps/first`")
        names = [field.name for field in dataclasses.fields(self) if field.name != "jobs"]
        return Sweep(**{name: getattr(self, name) for name in names})

    def run(self, index: int | None, console: Console) -> list[dict[str, Any]]:
        """Trains what is missing: see :meth:`Sweep.run`."""
        return self.sweep().run(self.options.run_dir, index=index, console=console)

    def submit(self, where: Literal["slurm", "local"], jobs: JobOptions, console: Console) -> list[str]:
        """Submits a job for each program that is not finished; those of this machine are waited for. Returns
        their ids.

        Raises:
            RunError: one of them failed.
        """
        submitted = submit(self.sweep(), self.options.run_dir, where, jobs)
        if not submitted:
            tell(console, f"{self.options.run_dir} is finished")
            return []
        for job in submitted:
            tell(console, f"job {job.job_id}, its output in {job.paths.stdout}")
        if where == "local":
            failed = [job for job in submitted if job.exception() is not None]
            if failed:
                said = "\n".join(str(job.exception()).rstrip().splitlines()[-1] for job in failed)
                raise RunError(f"{len(failed)} of {len(submitted)} jobs failed:\n{said}")
        tell(console, f"fp3o status {self.options.run_dir} tells how far they are")
        return [job.job_id for job in submitted]

    def describe(self, console: Console) -> dict[str, Any]:
        """Says how many programs and runs there would be, and returns the same by name."""
        sweep = self.sweep()
        labels = [program_label(runs) for runs in sweep.programs(self.options.run_dir)]
        for number, label in enumerate(labels):
            tell(console, f"  program {number}: {label}")
        tell(console, said := sweep.describe(self.options.run_dir))
        return {"programs": labels, "what": said}

    def commands(self, given: Sequence[str]) -> list[str]:
        """A command for each program that is not finished, to be run anywhere.

        Args:
            given: the arguments that this study was made of.
        """
        how = ("--print-commands", "--print_commands", "--json", "--quiet")
        given = [arg for arg in given if arg not in how]
        numbers = self.sweep().unfinished(self.options.run_dir)
        return [shlex.join(["fp3o", "sweep", *given, "--index", str(number)]) for number in numbers]


def read_study(args: Sequence[str]) -> tuple[Study, list[str]]:
    """What a preset or a file in front of the arguments says, and the arguments after it.

    Raises:
        ConfigError: there is no such preset or file, or the file holds what no study has.
    """
    args = list(args)
    if not args or args[0].startswith("-"):
        return Study(), args
    name = args.pop(0)
    if name.endswith(".toml"):
        return _from_file(Path(name)), args
    return Study(named_config(name)), args


def take_axes(study: Study, args: Sequence[str]) -> tuple[Study, list[str]]:
    """The study with the axes among the arguments, and the arguments that are left.

    Raises:
        ConfigError: an axis has no values.
    """
    axes: dict[str, dict[str, Any]] = {kind: dict(getattr(study, kind)) for kind in AXES}
    left, rest = [], list(args)
    while rest:
        arg = rest.pop(0)
        flag, equals, value = arg.partition("=")
        kind, dot, axis = flag.removeprefix("--").partition(".")
        if flag != "--zip" and not (flag.startswith("--") and dot and kind in ("grid", "random")):
            left.append(arg)
            continue
        values = [value] if equals else []
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        if not values:
            raise ConfigError(f'{flag} needs values: `--grid.sharing full none`, `--zip "gamma=0.9,0.99"`')
        if flag != "--zip":
            axes[kind][_axis(axis)] = [_value(text) for text in values]
            continue
        for text in values:
            axis, equals, listed = text.partition("=")
            if not equals:
                raise ConfigError(f"--zip {text!r} must be SETTING=VALUE,VALUE")
            axes["zip"][_axis(axis)] = _values(listed)
    return dataclasses.replace(study, **axes), left


def _from_file(path: Path) -> Study:
    try:
        content = tomllib.loads(read_text(path))
    except ConfigError as error:
        raise ConfigError(f"study={str(path)!r} cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"study={str(path)!r} cannot be read: {str(error)[:200]}") from None
    own = [f.name for f in dataclasses.fields(Study) if f.name not in ("config", "options", "jobs")]
    _check_names(str(path), content, (*FILE, *own, "jobs"))
    for kind in AXES:
        if not isinstance(content.get(kind, {}), Mapping):
            raise ConfigError(f"{path}: {kind}={content[kind]!r} must be a table of axes")
    checked(content, CONTENT, str(path))
    for name in ("samples", "sample_seed", "runs_per_program"):
        if type(content.get(name, 0)) is not int or content.get(name, 0) < 0:
            raise ConfigError(f"{path}: {name}={short(content[name])} must be a whole number, 0 or above")
    try:
        return _study(path, content, own)
    except ConfigError as error:
        raise ConfigError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def _study(path: Path, content: Mapping[str, Any], own: Sequence[str]) -> Study:
    config = named_config(content["preset"]) if "preset" in content else Config()
    settings = content.get("settings", {})
    _check_names("settings", settings, [f.name for f in dataclasses.fields(Config)])
    options = content.get("options", {})
    _check_names("options", options, [f.name for f in dataclasses.fields(RunOptions)])
    options = dict(options)
    if "wandb" in options:
        _check_names("options.wandb", options["wandb"], WandbOptions.__dataclass_fields__)
        options["wandb"] = WandbOptions(**options["wandb"])
    jobs = content.get("jobs", {})
    _check_names("jobs", jobs, [f.name for f in dataclasses.fields(JobOptions)])
    options.setdefault("run_dir", content.get("run_dir", Path("sweeps") / path.stem))
    return Study(
        config.replace(**settings),
        RunOptions(**options),
        **{name: content[name] for name in own if name in content},
        jobs=JobOptions(**jobs),
    )


def named_config(name: str) -> Config:
    """The config of a preset, or the usual one on an environment, ``family/task`` or ``module:factory``.

    Raises:
        ConfigError: there is no such preset, with the environments of that name.
    """
    if name in PRESETS:
        return PRESETS[name].config
    if "/" in name or ":" in name:
        return Config(env=name)
    try:
        raise unknown("preset", name, PRESETS)
    except ConfigError as error:
        tasks = [env for env in available() if env.partition("/")[2] == name]
        hint = f"; or did you mean the environment {' or '.join(tasks)}?" if tasks else ""
        raise ConfigError(f"{error}{hint}") from None


def _check_names(where: str, given: Any, valid: Any) -> None:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: {given!r} must be a table")
    for name in given:
        if name not in valid:
            raise unknown(where, name, valid)


def _axis(text: str) -> str:
    return text.strip().replace("-", "_")


def _values(text: str) -> list[Any]:
    """Values with commas between them, which may be lists: ``[64,64],[128,128]``."""
    try:
        return json.loads(f"[{text}]")
    except json.JSONDecodeError:
        return [_value(each) for each in text.split(",")]


def _value(text: str) -> Any:
    """A value as people write it: 1e-3, True, None, [0, 0, 1], or a name."""
    if text.strip() in WORDS:
        return WORDS[text.strip()]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        return float(text)
    except ValueError:
        return text
