"""Settings in a file: ``--config FILE``, which holds what ``config.json`` of a run does, or a part of it."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml

from fp3o_jax.config import Config, ConfigError, unknown
from fp3o_jax.values import alternatives, as_meant, field_types

#: Far more than all settings need; what is larger is another file.
MAX_BYTES = 2**20


def with_file(config: Config, path: Path) -> Config:
    """A config with the settings of a file in place of its own, for the command line to start from.

    Names and types are checked here. Whether the settings fit together is not: flags beside the file may
    change them yet, and the config that is made of both is checked as any other.

    Args:
        config: has the settings that the file leaves out.
        path: ``.toml``, ``.yaml`` or ``.yml``, or ``.json``.

    Raises:
        ConfigError: the file cannot be read, or a setting in it is unknown or of another type.
    """
    types, changes = field_types(Config), {}
    for name, value in read_settings(path).items():
        if name not in types:
            raise unknown(f"{path}: setting", name, types)
        try:
            changes[name] = as_meant(value, types[name])
            _check_word(f"{path}: {name}", changes[name], types[name])
        except ConfigError:
            raise
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}: {name}={value!r} {error}") from None
    return _unchecked(config, changes)


def _check_word(where: str, value: Any, hint: Any) -> None:
    """Whether it is one of the names, where the type is one of several names."""
    kinds = alternatives(hint)
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if not words or isinstance(value, tuple) or (value is None and NoneType in kinds):
        return
    if value not in words and not (isinstance(value, str) and str in kinds):
        raise unknown(where, value, words)


def _unchecked(config: Config, changes: Mapping[str, Any]) -> Config:
    result = object.__new__(Config)
    for name in field_types(Config):
        object.__setattr__(result, name, changes.get(name, getattr(config, name)))
    return result


def read_settings(path: Path) -> dict[str, Any]:
    """What a file of settings holds.

    Raises:
        ConfigError: it cannot be read, or is no mapping from names to values.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"config={str(path)!r} must end in {', '.join(READERS)}: so the format is known")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES:,} bytes")
        settings = reader(content.decode("utf-8-sig"))
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"config={str(path)!r} cannot be read: {said}") from None
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ConfigError(f"config={str(path)!r} must hold a mapping from settings to values")
    return settings


class _Loader(yaml.SafeLoader):
    """YAML 1.2, in which ``5e-4`` is a number and ``off`` a word, as in ``condition: off``; and without
    anchors, by which a small file can hold billions of values."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (a copy of its own, where the library looks)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("anchors and aliases are not for settings: write the value twice")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        return _once(
            [
                (self.construct_object(k, deep=True), self.construct_object(v, deep=True))
                for k, v in node.value
            ]
        )


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|None|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping of pairs, of which no two have one name: which of them is meant nobody knows."""
    result: dict[Any, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"{name!r} is there twice")
        result[name] = value
    return result


def _yaml(text: str) -> Any:
    return yaml.load(text, _Loader) or {}


#: By ending: what makes settings of a text.
READERS = {
    ".toml": tomllib.loads,
    ".yaml": _yaml,
    ".yml": _yaml,
    ".json": lambda text: json.loads(text, object_pairs_hook=_once),
}
