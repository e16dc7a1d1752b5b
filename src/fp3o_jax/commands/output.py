"""How a command prints: for people, for scripts, or not at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from fp3o_jax.runs.directory import plain


@dataclasses.dataclass(frozen=True)
class Output:
    """What a command prints."""

    quiet: bool = False
    """print nothing but errors"""
    json: bool = False
    """for scripts: the last line of standard output is one JSON object, the result, and all else goes to
    standard error"""

    @property
    def console(self) -> Console:
        """Where progress and tables go."""
        return Console(stderr=self.json, quiet=self.quiet)

    def result(self, **content: Any) -> None:
        """Prints what came of the command, if scripts want it; a value that is not finite is null."""
        if self.json:
            print(json.dumps(_plain(content), allow_nan=False), flush=True)


#: Of every command.
Said = Annotated[Output, tyro.conf.arg(name="")]
USUALLY = Output()


def _plain(value: Any) -> Any:
    """As JSON holds it; paths as text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else plain(value)
