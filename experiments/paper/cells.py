"""The cells of a protocol: what each one trains, and what it is called."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fp3o_jax.config import Config, ConfigError, unknown

PROTOCOL = Path(__file__).with_name("protocol.toml")
#: The same at sizes for two CPU cores.
SMALL = PROTOCOL.with_name("two_cores.toml")
#: The same of teams of growing size.
AGENTS = PROTOCOL.with_name("many_agents.toml")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How all cells are judged; the fields are those of the protocol's ``[evaluation]``."""

    seeds: int
    first_seed: int
    times: int
    episodes: int
    final_episodes: int
    points: int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "first_seed" else 1
            if not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"evaluation.{field.name}={value!r} must be a whole number of at least {least}"
                )
        if self.final_episodes % self.episodes:
            raise ConfigError(
                f"evaluation.final_episodes={self.final_episodes} must be a multiple of "
                f"episodes={self.episodes}: the last evaluation plays that many over and over"
            )


@dataclasses.dataclass(frozen=True)
class Cell:
    """One environment × method × sharing, with all its seeds.

    Attributes:
        env, method, sharing: what is compared.
        small: of a protocol that says so: made for two CPU cores.
        settings: the fields of ``Config`` that the protocol sets.
        evaluation: how it is judged.
    """

    env: str
    method: str
    sharing: str
    small: bool
    settings: Mapping[str, Any]
    evaluation: Evaluation

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides what the cell computes, as JSON holds it."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @property
    def name(self) -> str:
        """Of its files. Other settings make another name: a cell measured with them is another cell."""
        env = re.sub("[/:]", "-", self.env) + (f"-{self.num_agents}" if self.num_agents else "")
        words = [env, self.method, self.sharing] + ["small"] * self.small
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:6]
        return ".".join([*(word.replace("|", "_") for word in words), digest])

    @property
    def num_agents(self) -> int | None:
        """The size of the team, where the protocol sets it."""
        return self.settings.get("env_kwargs", {}).get("num_agents")

    @property
    def updates_per_point(self) -> int:
        """Updates that a point of the curves is the mean of."""
        return max(1, round(self._asked.num_updates / self.evaluation.points))

    @property
    def points(self) -> int:
        """Points of the curves: a multiple of the number of evaluations."""
        times = self.evaluation.times
        return times * max(1, round(self._asked.num_updates / (self.updates_per_point * times)))

    @property
    def config(self) -> Config:
        """The settings, with the env steps rounded to whole points."""
        updates = self.points * self.updates_per_point
        return self._asked.replace(total_env_steps=updates * self._asked.steps_per_update)

    @property
    def _asked(self) -> Config:
        return Config.from_dict(
            {**self.settings, "env": self.env, "sharing": self.sharing}
            | {"seed": self.evaluation.first_seed, "num_seeds": self.evaluation.seeds}
        )


class Block(NamedTuple):
    """Cells that are compared with one another.

    Attributes:
        question: what they answer together; None for the tables of environments.
        cells: they; the first method is what the others are compared with.
    """

    question: str | None
    cells: list[Cell]


def read_protocol(path: Path = PROTOCOL, only: str = "*") -> list[Cell]:
    """The cells of a protocol, the most important first, each once.

    Args:
        path: a TOML file; ``protocol.toml`` explains its entries.
        only: cells whose name matches this pattern, or has it in it.

    Raises:
        ConfigError: something in the protocol cannot be used.
    """
    cells = {cell.name: cell for block in read_blocks(path) for cell in block.cells}
    return [cell for name, cell in cells.items() if fnmatch.fnmatch(name, only) or only in name]


def read_blocks(path: Path = PROTOCOL) -> list[Block]:
    """The same, in the blocks that the protocol has; a cell may stand in several."""
    protocol = _read(path)
    evaluation = Evaluation(**protocol["evaluation"])
    variants = protocol.get("methods", {})
    if isinstance(variants, str):  # those of the protocol of that name beside it
        variants = _read(Path(path).with_name(variants))["methods"]
    blocks = []
    for block in protocol["cells"]:
        blocks.append(Block(block.get("question"), []))
        for env, team, sharing, method in itertools.product(
            block["envs"], block.get("teams", [{}]), block["sharings"], block["methods"]
        ):
            family = env.split("/")[0]
            if family not in protocol["settings"]:
                raise unknown("settings", family, protocol["settings"])
            settings = protocol["settings"][family] | block.get("settings", {})
            settings |= {"env_kwargs": team} if team else {}
            variant = dict(variants.get(method, {}))
            factor = variant.pop("epochs_factor", 1)
            settings |= {"algorithm": method} | variant
            settings["epochs"] = factor * settings.get("epochs", Config.epochs)
            cell = Cell(env, method, sharing, protocol.get("small", False), settings, evaluation)
            _ = cell.config  # raises
            blocks[-1].cells.append(cell)
    return blocks


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(Path(path).read_text(encoding="utf-8"))
