"""What an algorithm of others' must keep to, looked at before its training is compiled."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fp3o_jax.config import ConfigError
from fp3o_jax.method.advantages import TDErrors
from fp3o_jax.method.schedules import Algorithm, Schedule

#: Schedules that are drawn and looked at.
DRAWS = 16
#: Of the samples that functions are followed with, time steps and environments.
STEPS, ENVS = 3, 2


def check_algorithm(algorithm: Algorithm, name: str, n: int) -> None:
    """Whether an algorithm keeps to what :class:`Algorithm` and :class:`Schedule` say, with n agents.

    Its functions are followed without being run; of its schedules some are drawn, in one small program.

    Args:
        algorithm: the member of the family.
        name: what the settings call it.
        n: number of agents.

    Raises:
        ConfigError: it does not; nothing of the training has been compiled.
    """
    told = f"algorithm={name!r}"
    for field, valid in (("normalization", ("agent", "joint")), ("ratios", ("behaviour", "stage"))):
        if getattr(algorithm, field) not in valid:
            raise ConfigError(f"{told} has {field}={getattr(algorithm, field)!r}: valid are {valid}")
    _check_schedules(algorithm, told, n)
    batch = jax.ShapeDtypeStruct((n, STEPS, ENVS), jnp.float32)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    clip = jax.ShapeDtypeStruct((n, 1, 1), jnp.float32)
    _follow(f"{told}: surrogate", algorithm.surrogate, batch, batch, batch, clip, number, result=batch.shape)
    if algorithm.correction is not None:
        errors = TDErrors(batch, jax.ShapeDtypeStruct((STEPS, ENVS), jnp.float32))
        _follow(f"{told}: correction", algorithm.correction, errors, batch, number, result=batch.shape)


def _check_schedules(algorithm: Algorithm, told: str, n: int) -> None:
    """Draws some and looks at what they say."""

    def draw(key: Array) -> Any:
        # A batch that tells agents apart, for schedules that depend on it.
        advantage, value = jax.random.normal(key, (2, n, STEPS, ENVS))
        return algorithm.draw(key, advantage, value, jnp.ones_like(value))

    told = f"{told}: schedule"
    with _as_config_error(f"{told} fails with {n} agents"):
        shapes = jax.eval_shape(draw, jax.eval_shape(lambda: jax.random.key(0)))
    if not isinstance(shapes, Schedule) or shapes.owners is None:
        raise ConfigError(f"{told} must return a Schedule with owners, and returns {shapes!r}")
    owned = shapes.owners.shape
    if len(owned) != 2 or 0 in owned or not jnp.issubdtype(shapes.owners.dtype, jnp.integer):
        raise ConfigError(f"{told} must have owners int [S, P], and they are {_brief(shapes.owners)}")
    stages, pipelines = owned
    for field, shape, kind in (
        ("weights", (stages, pipelines, n), jnp.bool_),
        ("gated", (stages,), jnp.bool_),
        ("scale", (stages, pipelines), jnp.floating),
        ("clip", (stages, pipelines), jnp.floating),
    ):
        given = getattr(shapes, field)
        if given.shape != shape or not jnp.issubdtype(given.dtype, kind):
            wanted = f"{'bool' if kind is jnp.bool_ else 'float'} {list(shape)}"
            raise ConfigError(
                f"{told} must have {field} {wanted} with its {stages} stages of {pipelines} pipelines "
                f"and {n} agents, and they are {_brief(given)}"
            )
    if algorithm.live and pipelines != n:
        raise ConfigError(
            f"{told} has {pipelines} pipelines, and live=True needs all {n} agents in each stage"
        )
    drawn = jax.jit(lambda: jax.vmap(draw)(jax.random.split(jax.random.key(0), DRAWS)))()
    _check_values(jax.device_get(drawn), told, n)


def _check_values(drawn: Schedule, told: str, n: int) -> None:
    """Checks schedules that are stacked over draws, on an axis before the others."""
    for owners in drawn.owners.reshape((-1, drawn.owners.shape[-1])):
        outside = owners[(owners < 0) | (owners >= n)]
        if outside.size:
            raise ConfigError(f"{told} owns agent {outside[0]}, and agents are 0 to {n - 1}")
        if len(np.unique(owners)) < len(owners):
            raise ConfigError(
                f"{told} owns an agent twice in one stage, owners {owners.tolist()}: each agent has one "
                "pipeline at most"
            )
    for field, least in (("scale", -math.inf), ("clip", 0.0)):
        values = np.asarray(getattr(drawn, field))
        if not (np.isfinite(values) & (values > least)).all():
            bound = "finite" if math.isinf(least) else "finite and above 0"
            raise ConfigError(f"{told} has {field}={values[0].tolist()}, which must be {bound}")
    if never := sorted({*range(n)} - {*drawn.owners.ravel().tolist()}):
        warnings.warn(
            f"{told} owns agents {never} in none of {DRAWS} draws: they may never learn", stacklevel=5
        )


def _follow(told: str, function: Callable[..., Any], *inputs: Any, result: tuple[int, ...]) -> None:
    """What a function makes of such inputs, without running it."""
    with _as_config_error(f"{told} fails"):
        made = jax.eval_shape(function, *inputs)
    if getattr(made, "shape", None) != result:
        raise ConfigError(f"{told} must return one number for each sample, {list(result)}: {made!r}")


def _brief(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}"


@contextlib.contextmanager
def _as_config_error(told: str) -> Iterator[None]:
    """What is raised within, as a sentence."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{told}: {type(error).__name__}: {error}") from error
