"""Files that anyone may have written: all that is read goes through here, and nothing in them is ever run.

What is read is a regular file of a bounded size, UTF-8, JSON without names that come twice, and of an
expected shape; whatever is not ends in a :class:`~fp3o_jax.values.ConfigError` with the file's name and what
is wrong.
What is written is never written through a link that somebody left.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fp3o_jax.values import ConfigError

#: Bytes of settings, plans and summaries, which people could read.
MAX_DOCUMENT = 64 * 2**20
#: Bytes of metrics.
MAX_ROWS = 2**30
#: Levels of lists and tables in a document.
MAX_DEPTH = 64

#: Shapes of values. Besides these: a ``range``, of whole numbers; a pattern, of the whole text; ``None``; a
#: tuple, any one of them; ``[shape]``, a list; a dictionary of names, where ``name?`` may be missing, and
#: ``str`` stands for all names that are not listed.
SEED = range(2**64)
COUNT = range(1, 2**63)
SIZE = range(2**63)
NUMBER = float
#: What a directory may be called: no way out of the folder that it is in.
NAME = re.compile(r"(?!\.)[A-Za-z0-9_.+-]{1,200}")

_NOUNS = {str: "a text", bool: "true or false", float: "a finite number", None: "null"}


def read_bytes(path: Path, most: int = MAX_DOCUMENT, last: int | None = None) -> bytes:
    """The content of a file.

    Args:
        path: of a regular file; a link to one is followed, a pipe or a device is not waited for.
        most: bytes that it may have.
        last: read so many bytes at its end alone, whatever it has.

    Raises:
        ConfigError: there is none, it cannot be read, or it is larger.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ConfigError(f"{path} is not a file")
            if last is not None:
                file.seek(max(0, about.st_size - last))
                return file.read(last)
            if about.st_size > most:
                raise ConfigError(f"{path} has {about.st_size:,} bytes, and at most {most:,} are read")
            return file.read(about.st_size)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None


def read_text(path: Path, most: int = MAX_DOCUMENT) -> str:
    """The content of a file of UTF-8; raises as :func:`read_bytes` does."""
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is damaged: expected UTF-8, byte {error.start} is none") from None


def read_json(path: Path, shape: Any) -> Any:
    """What a file of JSON holds.

    Args:
        path: of the file.
        shape: of its content, as :func:`checked` takes it.

    Raises:
        ConfigError: as :func:`read_bytes`; or it is no JSON, nested too deeply, or of another shape.
    """
    content = parsed(read_text(path), str(path))
    if _deeper(content, MAX_DEPTH):
        raise ConfigError(f"{path} is damaged: it is nested more than {MAX_DEPTH} levels deep")
    return checked(content, shape, str(path))


def parsed(text: str, where: str) -> Any:
    """What a text of JSON says.

    Raises:
        ConfigError: it is no JSON; ``where`` is what the error begins with.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:
        reason = str(error)
    raise ConfigError(f"{where} is damaged: expected JSON ({reason})")


def checked(value: Any, shape: Any, where: str, name: str = "") -> Any:
    """The value, if it is of a shape.

    Args:
        value: as JSON holds it.
        shape: see above; ``object`` for anything.
        where: what an error begins with, the file.
        name: of the value in it.

    Raises:
        ConfigError: it is of another shape.
    """
    if isinstance(shape, dict):
        if not isinstance(value, Mapping):
            raise _unfit(value, "a table", where, name)
        for key, inner in shape.items():
            if key is not str and (key.removesuffix("?") in value or not key.endswith("?")):
                if key.removesuffix("?") not in value:
                    raise ConfigError(f"{where} has no {_joined(name, key)!r}")
                checked(value[key.removesuffix("?")], inner, where, _joined(name, key.removesuffix("?")))
        for key in value if str in shape else ():
            if key not in shape and f"{key}?" not in shape:
                checked(value[key], shape[str], where, _joined(name, key))
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise _unfit(value, "a list", where, name)
        for number, item in enumerate(value):
            checked(item, shape[0], where, f"{name}[{number}]")
    elif not any(map(_is, [value] * len(kinds := _kinds(shape)), kinds)):
        if isinstance(shape, tuple) and (inner := _container(value, shape)) is not None:
            return checked(value, inner, where, name)
        raise _unfit(value, " or ".join(map(_noun, kinds)), where, name)
    return value


def open_own(path: Path, mode: str, **options: Any) -> Any:
    """Opens a file to write to: never through a link, which could lead to another file of the user's.

    Raises:
        ConfigError: there is a link, or no regular file.
    """
    try:
        file = open(  # noqa: SIM115
            path,
            mode,
            opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666),
            **options,
        )
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            kind = "a link" if error.errno == errno.ELOOP else "no file"
            raise ConfigError(f"{path} is {kind}, and would be written to: remove it") from None
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ConfigError(f"{path} is no file, and would be written to: remove it")
    return file


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose names come once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)[:60]!r} comes twice")
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number)


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and tables lie in one another more than so many levels deep."""
    for _ in range(levels):
        inner = [
            item
            for each in (value if isinstance(value, list) else [value])
            for item in (each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
        ]
        value = [item for item in inner if isinstance(item, (dict, list))]
        if not value:
            return False
    return True


def _kinds(shape: Any) -> tuple[Any, ...]:
    return shape if isinstance(shape, tuple) else (shape,)


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of one kind that is neither a list nor a table."""
    if kind is object:
        return True
    if kind is None or isinstance(value, bool):
        return value is kind or (kind is bool and isinstance(value, bool))
    if isinstance(kind, range):
        return isinstance(value, int) and value in kind
    if kind is float:
        return value.bit_length() < 1000 if isinstance(value, int) else _is_finite(value)
    if isinstance(kind, re.Pattern):
        return isinstance(value, str) and kind.fullmatch(value) is not None
    return isinstance(kind, type) and isinstance(value, kind)


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _container(value: Any, shape: tuple[Any, ...]) -> Any:
    """That of several shapes which a list or a table could be of."""
    return next(
        (kind for kind in shape if isinstance(kind, type(value)) and isinstance(kind, (dict, list))), None
    )


def _noun(kind: Any) -> str:
    if isinstance(kind, range):
        return f"a whole number from {kind.start} to {kind.stop - 1}"
    if isinstance(kind, re.Pattern):
        return "a name of letters, digits and _.+- that begins with no point"
    return {dict: "a table", list: "a list"}.get(type(kind)) or _NOUNS.get(kind, "another value")


def _joined(name: str, key: str) -> str:
    return f"{name}.{key[:60]}" if name else key[:60]


def _unfit(value: Any, wanted: str, where: str, name: str) -> ConfigError:
    try:
        said = repr(value)
    except (ValueError, RecursionError):  # more digits or levels than Python writes
        said = "beyond what can be said"
    said = said if len(said) <= 60 else f"{said[:57]}..."
    return ConfigError(f"{where}: {name or 'its content'} is {said}, expected {wanted}")
