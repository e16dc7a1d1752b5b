"""``--help``: settings in groups, and lines that fit the terminal."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any

from tyro import conf
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from fp3o_jax.config import Config
from fp3o_jax.values import field_types

DESCRIPTION = """\
Train teams of agents with FP3O, MAPPO, IPPO, HAPPO, A2PO or CoPPO, end to end in JAX.

  fp3o train smax-3m                          a preset (fp3o list names them)
  fp3o train smax-3m --sharing none --seed 1  ... with some settings changed
  fp3o train mpe/simple_spread                an environment, with the defaults
  fp3o train --config FILE --seed 1           settings from a file
  fp3o train --resume RUN                     go on with a run that was stopped
  fp3o train --help                           every setting
  fp3o sweep smax-3m --grid.sharing full none --num-seeds 8 --run-dir DIR
                                              many runs side by side
  fp3o status DIR                             how far a sweep is
  fp3o evaluate RUN --episodes 1000           play its policies
  fp3o evaluate --team A:agent_0 B:agent_1    ... a team mixed from several runs
  fp3o crossplay RUN                          ... its seeds with one another
  fp3o render RUN                             watch an episode
  fp3o export RUN                             take a policy away
  fp3o plot runs/A runs/B                     curves and scores, compared
  fp3o plot DIR --within sharing --csv FILE   ... of a whole folder or sweep
  fp3o check-env my_module:make_my_env        a look at your environment
  fp3o list                                   what there is by name
  fp3o --version                              ... and of which versions

--quiet and --json are for scripts, after any command.
"""

#: The groups of settings by the first one of each, in the order of the settings; and what a group decides.
GROUPS = {
    "env": ("environment", "what is played"),
    "algorithm": ("team", "who learns by which update, and who shares what"),
    "total_env_steps": ("batch", "how much is played, and how often it is learnt from"),
    "actor_lr": ("learning", "optimiser, objective and advantages"),
    "hidden_size": ("network", "what acts, and what judges"),
    "advantage_split": ("algorithm", "what the algorithms' papers and codes leave open or do differently"),
    "seed": ("seed", "which runs, side by side"),
}

REGISTRY = ConstructorRegistry()


@REGISTRY.struct_rule
def _explained(info: StructTypeInfo) -> StructConstructorSpec | None:
    """How tyro reads our dataclasses: as its own way is, but that texts over several lines are one."""
    kind = info.type
    ours = dataclasses.is_dataclass(kind) and kind.__module__.startswith("fp3o_jax.")
    if not ours or kind.__module__ == __name__:  # groups are explained already
        return None
    default = info.default if isinstance(info.default, kind) else kind()
    hints, texts = field_types(kind), help_texts(kind)
    fields = [StructFieldSpec(name, hints[name], getattr(default, name), texts.get(name)) for name in hints]
    return StructConstructorSpec(kind, tuple(fields))


@REGISTRY.struct_rule
def _in_groups(info: StructTypeInfo) -> StructConstructorSpec | None:
    """How tyro reads a :class:`Config`: group by group, while flags bear the settings' names alone."""
    if info.type is not Config:
        return None
    default = info.default if isinstance(info.default, Config) else Config()
    fields = [_group(*GROUPS[names[0]], names, default) for names in grouped()]

    def make(**groups: Any) -> Config:
        return Config(**{name: value for group in groups.values() for name, value in vars(group).items()})

    return StructConstructorSpec(make, tuple(fields))


def grouped() -> list[list[str]]:
    """The settings, group by group."""
    groups: list[list[str]] = []
    for name in field_types(Config):
        if name in GROUPS:
            groups.append([])
        groups[-1].append(name)
    return groups


def _group(title: str, what: str, names: Sequence[str], default: Config) -> StructFieldSpec:
    hints, texts = field_types(Config), help_texts(Config)
    kinds = {name: Annotated[hints[name], conf.OmitArgPrefixes, conf.arg(help=texts[name])] for name in names}
    # A factory, since a mapping is no default that a dataclass takes.
    usual = {name: dataclasses.field(default_factory=partial(getattr, default, name)) for name in names}
    fields = [(name, kinds[name], usual[name]) for name in names]
    group = dataclasses.make_dataclass(title, fields, namespace={"__doc__": what, "__module__": __name__})
    return StructFieldSpec(title, group, group(), helptext=what)


def help_texts(settings: type) -> dict[str, str]:
    """What stands under each field of a dataclass."""
    (body,) = (node.body for node in ast.parse(textwrap.dedent(inspect.getsource(settings))).body)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def in_whole_lines(docstring: str) -> str:
    """A docstring of which each paragraph, and the text of each argument, is one line, to be broken where a
    terminal ends."""
    lines: list[str] = []
    for line in inspect.cleandoc(docstring).splitlines():
        begins = (
            not lines or not lines[-1] or lines[-1] == "Args:" or re.match(r"(    \w+:|Args:$|  \S)", line)
        )
        if begins or not line:
            lines.append(line)
        else:
            lines[-1] += f" {line.strip()}"
    return "\n".join(lines)


@contextlib.contextmanager
def wrapped() -> Iterator[None]:
    """Lines that are printed here are broken where the terminal ends, and between words."""
    with contextlib.redirect_stdout(_Wrapping(sys.stdout)):
        yield


class _Wrapping(io.TextIOBase):
    """A stream whose lines are no longer than the terminal is wide."""

    def __init__(self, stream: Any):
        self._stream, self._width = stream, shutil.get_terminal_size().columns

    def write(self, text: str) -> int:
        lines = (
            line if len(line) <= self._width or "\x1b" in line else self._broken(line)
            for line in text.split("\n")
        )
        return self._stream.write(re.sub("\n{3,}", "\n\n", "\n".join(lines)))

    def _broken(self, line: str) -> str:
        return textwrap.fill(line, self._width, break_long_words=False, break_on_hyphens=False)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def flush(self) -> None:
        self._stream.flush()
