"""Command-line arguments in every style that people and sweepers write: ``--recurrent=True``, ``1e6``."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from fp3o_jax.values import NOUNS, ConfigError, alternatives, field_types

SWITCH = {"true": True, "false": False}


def take_option(args: list[str], flag: str, what: str) -> str | None:
    """The value of an option, which is taken out of the arguments; None if it is not there.

    Args:
        args: all that were given.
        flag: of the option.
        what: it needs, for the error.

    Raises:
        ConfigError: it has no value, or is there twice.
    """
    places = [i for i, arg in enumerate(args) if arg == flag or arg.startswith(f"{flag}=")]
    if not places:
        return None
    if len(places) > 1:
        raise ConfigError(f"{flag} is there twice")
    _, equals, value = args.pop(places[0]).partition("=")
    if equals and value:
        return value
    if equals or len(args) <= places[0] or args[places[0]].startswith("--"):
        raise ConfigError(f"{flag} needs {what}")
    return args.pop(places[0])


def in_one_style(args: Sequence[str], command: Callable[..., None]) -> list[str]:
    """The arguments of a command in the style that tyro reads.

    Switches may be written ``--name``, ``--no-name``, ``--name=True``, ``--name False``; whole numbers also
    as floats, ``1e6``, in lists and among the options of an environment too.

    Args:
        args: without the command's name.
        command: the function that tyro makes the command of.

    Raises:
        ConfigError: a number must be whole and is not, or a switch has another value.
    """
    kinds = _flags(get_type_hints(command, include_extras=True))
    result: list[str] = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if arg == "--":
            return [*result, arg, *rest]
        flag, equals, value = arg.partition("=")
        kind = kinds.get(flag.replace("_", "-")) if flag.startswith("--") else None
        if kind is None:
            result.append(arg)
            continue
        values = [value] if equals else []
        while not equals and rest and not rest[0].startswith("--") and len(values) < kind.most:
            values.append(rest.pop(0))
        result += kind.read(flag, values, bool(equals))
    return result


class _Kind(NamedTuple):
    """How the values of a flag are read.

    Attributes:
        most: so many values it has.
        read: (flag, its values, whether it was ``--flag=value``) -> arguments.
    """

    most: float
    read: Callable[[str, list[str], bool], list[str]]


def _switch(flag: str, values: list[str], equals: bool) -> list[str]:
    given = [SWITCH.get(value.lower()) for value in values]
    if given and given[0] is not None:
        return [flag if given[0] else _off(flag)]
    if equals:
        raise ConfigError(f"{flag}={values[0]} must be {NOUNS[bool]}")
    return [flag, *values]  # what follows a switch need not be its value


def _number(words: bool, flag: str, values: list[str], equals: bool) -> list[str]:
    """A whole number or several; ``words``: or something else, that tyro knows of."""
    numbers = [_whole(value) for value in values]
    for value, number in zip(values, numbers, strict=True):
        if number is None and not words and value != "None":
            raise ConfigError(f"{flag} {value} must be {NOUNS[int]}")
    return [
        flag,
        *(value if number is None else number for value, number in zip(values, numbers, strict=True)),
    ]


def _options(flag: str, values: list[str], equals: bool) -> list[str]:
    """Names and values: ``1e1`` is whole where ``10.0`` is not, and ``true`` no text."""

    def read(value: str) -> str:
        number = _whole(value) if "e" in value.lower() else None
        return number or str(SWITCH.get(value.lower(), value))

    return [flag, *(read(value) if i % 2 else value for i, value in enumerate(values))]


def _flags(types: Mapping[str, Any], prefix: str = "--") -> dict[str, _Kind]:
    """How the flags are read that tyro would not read as people write them."""
    flags: dict[str, _Kind] = {}
    for name, hint in types.items():
        flag = prefix + name.replace("_", "-")
        if get_origin(hint) is Annotated:
            if any(getattr(each, "name", None) == "" for each in hint.__metadata__):
                flag = prefix.removesuffix(".")
            hint = get_args(hint)[0]
        if dataclasses.is_dataclass(hint):
            flags |= _flags(field_types(hint), flag if flag == "--" else f"{flag}.")
        elif (kind := _kind(hint)) is not None:
            flags[flag] = kind
    return flags


def _kind(hint: Any) -> _Kind | None:
    meant = [kind for kind in alternatives(hint) if kind is not type(None)]
    if meant == [bool]:
        return _Kind(1, _switch)
    if int in meant and not {float, bool} & {*meant}:
        return _Kind(1, functools.partial(_number, len(meant) > 1))
    if any(get_origin(kind) is tuple and get_args(kind)[0] is int for kind in meant):
        return _Kind(math.inf, functools.partial(_number, len(meant) > 1))
    if any(get_origin(kind) in (dict, Mapping) for kind in meant):
        return _Kind(math.inf, _options)
    return None


def _off(flag: str) -> str:
    """``--no-name``; ``--wandb.no-name`` where it is nested."""
    parts = flag.removeprefix("--").split(".")
    return "--" + ".".join([*parts[:-1], f"no-{parts[-1]}"])


def _whole(text: str) -> str | None:
    """A whole number as digits; None if it is none."""
    try:
        number = Decimal(text)
        return str(int(number)) if number == number.to_integral_value() and abs(number) < 10**30 else None
    except (InvalidOperation, OverflowError, ValueError):
        return None
