"""What `fp3o train` and `fp3o sweep` start from: presets, environments, runs and files, before any flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from fp3o_jax.arguments import take_option
from fp3o_jax.commands.files import with_file
from fp3o_jax.config import Config, ConfigError
from fp3o_jax.runs import RunOptions
from fp3o_jax.runs.directory import check_environment, check_trust, read_config, read_options
from fp3o_jax.sweeps.study import Study, named_config, read_study, take_axes


def training(args: Sequence[str]) -> tuple[Config, RunOptions, list[str]]:
    """What a run starts from, and the arguments that are left.

    Raises:
        ConfigError: there is nothing of that name, or two of them do not go together.
    """
    args = list(args)
    name = args.pop(0) if args and not args[0].startswith("-") else None
    run = take_option(args, "--resume", "the directory of a run")
    file = take_option(args, "--config", "a file of settings")
    if run is None:
        config = Config() if name is None else named_config(name)
        return config if file is None else with_file(config, Path(file)), RunOptions(), args
    if name is not None or file is not None:
        what = "preset" if file is None else "file"
        raise ConfigError(f"--resume {run} has settings of its own: leave the {what} out")
    if any(arg.partition("=")[0] in ("--run-dir", "--run_dir") for arg in args):
        raise ConfigError(f"--resume {run} goes on in that directory: leave --run-dir out")
    path, config = Path(run), read_config(Path(run))
    check_environment(path, None)
    check_trust(path, config.env, _said(args, "--env"))
    return config, RunOptions.from_dict(read_options(path), path), args


def sweeping(args: Sequence[str]) -> tuple[Study, list[str]]:
    """What a sweep starts from, and the arguments that are left.

    Raises:
        ConfigError: there is nothing of that name, or what it holds cannot be used.
    """
    study, args = take_axes(*read_study(args))
    file = take_option(args, "--config", "a file of settings")
    return study if file is None else dataclasses.replace(
        study, config=with_file(study.config, Path(file))
    ), args


def refuse_late(name: str | None, command: str) -> None:
    """What a command starts from is taken from its first word: one that is left stands in the wrong place.

    Raises:
        ConfigError: there is one.
    """
    if name is not None:
        raise ConfigError(f"{name!r} must come first: `fp3o {command} {name} ...`")


def _said(args: Sequence[str], flag: str) -> str | None:
    """The value of a flag, if it is given."""
    for place, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name == flag:
            return value if equals else next(iter(args[place + 1 :]), None)
    return None
