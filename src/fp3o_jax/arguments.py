"""Command-line arguments in every style that people and sweepers write: ``--recurrent=True``, ``1e6``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, get_type_hints

from fp3o_jax.values import alternatives, field_types

SWITCH = {"true": True, "false": False}


def in_one_style(args: Sequence[str], command: Callable[..., None]) -> list[str]:
    """The arguments of a command in the style that tyro reads.

    Switches may be written ``--name``, ``--no-name``, ``--name=True``, ``--name False``; whole numbers also
    as floats, ``1e6``. What does not fit, such as ``--num-envs 1.5``, is left for tyro to refuse.

    Args:
        args: without the command's name.
        command: the function that tyro makes the command of.
    """
    kinds = _flags(get_type_hints(command))
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
        given = value if equals else rest[0] if rest else ""
        if kind is bool and given.lower() in SWITCH:
            result.append(flag if SWITCH[given.lower()] else _off(flag))
        elif kind is int and (number := _whole(given)) is not None:
            result += [flag, number]
        else:
            result.append(arg)
            continue
        if not equals:
            del rest[0]
    return result


def _flags(types: Mapping[str, Any], prefix: str = "--", depth: int = 0) -> dict[str, type]:
    """Which flags are switches, and which take one whole number: flag -> ``bool`` or ``int``.

    A dataclass among a command's own arguments gives its fields without a prefix; within it, the fields of a
    dataclass have its name before them.
    """
    flags: dict[str, type] = {}
    for name, hint in types.items():
        flag = prefix + name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            flags |= _flags(field_types(hint), f"{flag}." if depth else prefix, depth + 1)
        meant = [kind for kind in alternatives(hint) if kind is not type(None)]
        if meant in ([bool], [int]):
            flags[flag] = meant[0]
    return flags


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
