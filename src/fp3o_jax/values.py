"""Values of settings as Python's own, whatever NumPy, JAX or a user hands in; and the error for the rest."""

from __future__ import annotations

import difflib
import functools
import math
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

#: By type: what an error calls a value of it.
NOUNS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", Path: "a path"}

field_types = functools.cache(get_type_hints)


class ConfigError(ValueError):
    """A setting that cannot be used: names the setting, the value given and what would be right."""


def unknown(setting: str, value: object, valid: Iterable[str]) -> ConfigError:
    """The error for a name that does not exist, with the nearest names that do."""
    valid = sorted(valid)
    near = [name for name in valid if f"/{value}/" in f"/{name}/"]
    near = near or difflib.get_close_matches(str(value)[:200], valid, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return ConfigError(f"{setting}={short(value)} is unknown: {hint}valid are {', '.join(valid)}")


def short(value: object) -> str:
    """A value as an error says it, whatever its length."""
    said = f"a number of {value.bit_length()} bits" if _is_long(value) else repr(value)
    return said if len(said) <= 300 else f"{said[:297]}..."


def _is_long(value: object) -> bool:
    return isinstance(value, int) and value.bit_length() > 512


def settle_types(settings: Any, prefix: str = "") -> None:
    """Makes the fields of a frozen dataclass of settings what their annotations say.

    Args:
        settings: the instance, while it is being made.
        prefix: what errors put before a field's name.

    Raises:
        ConfigError: a value is of another type.
    """
    for name, hint in field_types(type(settings)).items():
        value = getattr(settings, name)
        try:
            object.__setattr__(settings, name, as_meant(value, hint))
        except ValueError as error:
            raise ConfigError(f"{prefix}{name}={short(value)} {error}") from None


def check_choices(settings: Any, functions: Sequence[str] = ()) -> None:
    """Whether fields whose annotation lists names hold one of them.

    Args:
        settings: an instance of a dataclass; annotations that take any text are left out.
        functions: fields that may be a function instead.

    Raises:
        ConfigError: a value is none of them, and of no other type that its annotation admits.
    """
    for field, hint in field_types(type(settings)).items():
        meant, value = alternatives(hint), getattr(settings, field)
        names = [name for kind in meant if get_origin(kind) is Literal for name in get_args(kind)]
        other = type(value) in {get_origin(kind) or kind for kind in meant}
        if not names or str in meant or other or value in names or (field in functions and callable(value)):
            continue
        raise unknown(field, value, names)


def as_meant(value: Any, hint: Any) -> Any:
    """A value as the type annotation means it.

    Scalars of NumPy and JAX become Python's, arrays and lists tuples where a tuple is meant, whole floats
    such as 1e6 ints, and ints floats, so that equal settings are written in the same way. What the annotation
    says nothing of, such as a function, stays as it is.

    Args:
        value: anything.
        hint: a type, a union, a ``Literal``, ``tuple[T, ...]`` or a mapping.

    Raises:
        ValueError: the value is of another type; the message says of which it must be.
    """
    value = plain_number(value)
    meant = alternatives(hint)
    if value is None and type(None) in meant:
        return None
    items = next((get_args(kind)[0] for kind in meant if get_origin(kind) is tuple), None)
    if items is not None and isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(as_meant(item, items) for item in value)
    if any(get_origin(kind) is Mapping for kind in meant):
        if not isinstance(value, Mapping):
            raise ValueError("must be a mapping from names to values")
        return {name: plain_number(item) for name, item in value.items()}
    if any(get_origin(kind) is Literal for kind in meant):
        return value  # which names there are is said where they are checked
    for kind in meant:
        converted = _converted(value, kind)
        if converted is not None:
            return converted
    if items is not None:
        raise ValueError(f"must be a list, each item {' or '.join(NOUNS[k] for k in alternatives(items))}")
    wanted = [NOUNS[kind] for kind in meant if kind in NOUNS]
    if wanted:
        raise ValueError(f"must be {' or '.join(wanted)}")
    return value


def as_count(name: str, value: Any, least: int = 1) -> int:
    """How many of something, as an int.

    Raises:
        ConfigError: it is no whole number, or a smaller one than ``least``.
    """
    try:
        count = as_meant(value, int)
        if count >= least:
            return count
    except (ValueError, TypeError):
        pass
    raise ConfigError(f"{name}={value!r} must be a whole number of at least {least}")


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def plain_number(value: Any) -> Any:
    """A scalar of NumPy or JAX as Python's, an array as lists; anything else as it is.

    Raises:
        ValueError: a value that is still to be computed, as inside ``jit``.
    """
    if not (hasattr(value, "dtype") and hasattr(value, "tolist")):
        return value
    try:
        return value.tolist()
    except TypeError as error:
        raise ValueError(
            "must be known before anything is compiled: what `jit` or `vmap` traces is handed to "
            "`train(key, hyperparams)`"
        ) from error


def whole(value: float) -> int | None:
    """A float as the int that it is; None if it is none."""
    return int(value) if math.isfinite(value) and value == int(value) else None


def _converted(value: Any, kind: Any) -> Any:
    """The value as one type; None if it is not of that type."""
    if isinstance(value, bool) or kind is bool:
        return value if isinstance(value, bool) and kind is bool else None
    if kind is int and isinstance(value, (int, float)):
        return whole(value) if isinstance(value, float) else int(value)
    if kind is float and isinstance(value, (int, float)):
        return value if isinstance(value, int) and abs(value) > sys.float_info.max else float(value)
    if kind is str and isinstance(value, str):
        return str(value)
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    return None


def nearest_divisors(total: int, wanted: int) -> str:
    """The divisors next to a number that is none, for an error to say."""
    small = [d for d in range(1, min(math.isqrt(total), 10**6) + 1) if total % d == 0]
    divisors = {*small, *(total // d for d in small)}
    below = max(d for d in divisors if d <= wanted)
    above = min((d for d in divisors if d >= wanted), default=total)
    return " or ".join(str(d) for d in sorted({below, above}))
