"""Programs that are traced and compiled once, and used by all runs of a test process that are alike.

Most tests of runs train the same few steps of the same small team, and ask what is written, how it stops and
how it goes on. Tracing and compiling it takes a hundred times as long as training it.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from fp3o_jax import registry
from fp3o_jax.runs.programs import Programs

#: Modules whose code ends in a program; a test may replace parts of them.
TRACED = (
    *("config", "envs", "evaluation", "hyperparams", "kernels", "method", "seeds", "team", "train", "xla"),
    *("runs.devices", "runs.memory", "runs.programs"),
)
_known: dict[Any, tuple[Any, ...]] = {}


def remember_programs() -> None:
    """From now on :class:`Programs` of the same settings, in this process, share what is compiled."""
    make = Programs.__init__

    @functools.wraps(make)
    def init(self: Programs, trainer: Any, *args: Any, **kwargs: Any) -> None:
        make(self, trainer, *args, **kwargs)
        key, code = _settings(self), _code()
        if key is None:
            return
        # What is named by its address lives as long as the name.
        *made, _ = _known.setdefault((key, *map(id, code)), (trainer, self._init, self._compiled, code))
        self._trainer, self._init, self._compiled = made
        for mode, program in [*self._compiled.items()]:
            if program.cancelled() or (program.done() and program.exception()):
                del self._compiled[mode]

    Programs.__init__ = init


def crowded() -> bool:
    """Whether programs have taken a third of the memory mappings that Linux grants a process."""
    maps = Path("/proc/self/maps")
    return not maps.exists() or maps.read_bytes().count(b"\n") > 20_000


def forget_programs() -> None:
    """They are freed."""
    _known.clear()


def _settings(programs: Programs) -> Any:
    """Everything that is traced into programs, as far as settings say; None if objects say it."""
    trainer, axis = programs._trainer, programs.axis
    made_of = getattr(trainer, "made_of", None)
    if type(programs) is not Programs or made_of is None or made_of[1:] != (None, None):
        return None
    settings = trainer.config.to_dict() | {"seed": 0}
    if ":" in settings["env"] or callable(trainer.config.selection):
        return None
    try:
        told = json.dumps(settings)
    except TypeError:
        return None
    of_jax = sorted(jax.config.values.items(), key=lambda item: item[0])
    shapes = [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(programs._start)]
    return told, repr((programs._episodes, axis, shapes, of_jax))


def _code() -> list[Any]:
    """The objects that the modules consist of, and what is registered."""
    registered = [brought for kind in registry.OF_CONFIG for brought in kind._registered.values()]
    return [*_objects(), *registered, jax.default_backend]


def _objects() -> Iterator[Any]:
    prefixes = tuple(f"fp3o_jax.{name}" for name in TRACED)
    for name, module in sorted(sys.modules.items()):
        if name.startswith(prefixes):
            for value in [*vars(module).values()]:
                yield value
                if isinstance(value, type) and value.__module__ == name:
                    yield from [*vars(value).values()]
