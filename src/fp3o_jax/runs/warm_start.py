"""Beginning a run with the weights of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from fp3o_jax.config import ConfigError
from fp3o_jax.runs.directory import read_config, read_options
from fp3o_jax.runs.options import RunOptions
from fp3o_jax.runs.trained import load_parts
from fp3o_jax.train import TrainState


def check_start(options: RunOptions) -> None:
    """Whether the run begins, or began, with the weights that ``init_from`` says.

    Raises:
        ConfigError: it began with others, or no directory is named.
    """
    if options.init_from is not None and options.run_dir is None:
        raise ConfigError(
            f"init_from={str(options.init_from)!r} is no setting that a directory could be named after: say "
            "where the run shall be, `--run-dir`"
        )
    if options.run_dir is None or not (options.run_dir / "config.json").exists():
        return
    there, here = read_options(options.run_dir).get("init_from"), options.to_dict()["init_from"]
    if there != here:
        raise ConfigError(
            f"{str(options.run_dir)!r} holds a run that began with init_from={there!r}, not {here!r}: "
            "choose another directory"
        )


def load_weights(path: Path, template: TrainState, env: str | None = None) -> dict[str, Any]:
    """What another run may start from: the newest parameters of a run, and the statistics of its values.

    Args:
        path: run directory.
        template: what ``jax.eval_shape`` says of the other run's state, leaves [num_seeds, ...].
        env: that of the other run, if its name is one that is imported.

    Returns:
        ``params`` and ``value_norm``, leaves [num_seeds, ...]: those of a single seed for all.

    Raises:
        ConfigError: as in :func:`load_run`; or the run's networks are not as large as those of the template,
            or it has another number of seeds and not one.
    """
    parts = ("params", "value_norm")
    _, found = load_parts(
        path,
        _imported(path, env),
        None,
        lambda checkpoints, like: [checkpoints.restore_part(like, part) for part in parts],
    )
    if None in found:
        raise ConfigError(f"init_from={str(path)!r} has no whole checkpoint yet")
    there = dict(zip(parts, found, strict=True))
    here = {part: getattr(template, part) for part in parts}
    shapes = [
        {
            jax.tree_util.keystr(name, simple=True, separator="."): leaf.shape
            for name, leaf in jax.tree_util.tree_leaves_with_path(each)
        }
        for each in (there, here)
    ]
    seeds, wanted = (next(iter(each.values()))[0] for each in shapes)
    if seeds not in (1, wanted):
        raise ConfigError(f"init_from={str(path)!r} has {seeds} seeds and this run {wanted}: as many, or one")
    sizes = [{name: list(shape[1:]) for name, shape in each.items()} for each in shapes]
    for name in sorted({*sizes[0], *sizes[1]}):
        was, wants = (each.get(name, "absent") for each in sizes)
        if was != wants:
            raise ConfigError(
                f"init_from={str(path)!r} does not fit: {name} is {was} there and {wants} here. Environment, "
                "sharing and sizes of the networks must agree as far as they make the weights"
            )
    rows = np.arange(wanted) % seeds
    return jax.tree.map(lambda leaf: leaf[rows], there)


def _imported(path: Path, env: str | None) -> str | None:
    """The name that both runs' environment is imported by, which the user has said for one of them."""
    return env if env is not None and ":" in env and env == read_config(path).env else None
