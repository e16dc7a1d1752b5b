"""Which runs are one method, what it is called, and where it is shown.

A run is shown at a :class:`Place`: a panel, and in it a line. What makes a place is a few of the settings in
which the runs differ. Runs at one place are seeds of one method; those that differ in more are refused.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fp3o_jax.config import ConfigError, unknown
from fp3o_jax.runs.reading import Run

#: Names and values of settings, in the order in which they are said.
Settings = tuple[tuple[str, Any], ...]

#: What tells tasks and seeds apart, and not methods.
NOT_METHOD = ("seed", "num_seeds", "env", "env_kwargs")
_BASE = ("algorithm", "sharing")
#: So many lines are told apart in one panel, more of them by a scale of colours.
MAX_LINES, MAX_SCALE = 7, 12
#: So many panels are read easily, and so many at all.
FEW_PANELS, MAX_PANELS = 12, 36


class Place(NamedTuple):
    """Where runs are shown.

    Attributes:
        env: the task.
        panel: settings that tell panels of one task apart.
        line: settings that tell lines of one panel apart.
        at: the value of the setting that scores are drawn against, if they are.
    """

    env: str
    panel: Settings
    line: Settings
    at: float | None = None

    @property
    def method(self) -> Settings:
        return self.panel + self.line


class Group(NamedTuple):
    """What is shown at a place: runs of one method, and the values that were chosen for it."""

    runs: list[Run]
    chosen: Settings = ()


@dataclasses.dataclass(frozen=True)
class Choice:
    """How runs are told apart.

    Attributes:
        by: settings that tell lines apart; None: all in which the runs differ and that nothing else names.
        within: settings that tell panels apart, besides the environment.
        over: the setting that final scores are drawn against.
        best_of: settings whose best value is chosen within each method.
    """

    by: tuple[str, ...] | None = None
    within: tuple[str, ...] = ()
    over: str | None = None
    best_of: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        by: str | Sequence[str] | None = None,
        within: str | Sequence[str] | None = None,
        over: str | None = None,
        best_of: str | Sequence[str] | None = None,
    ) -> Choice:
        """From what a user says: names, or several joined by commas.

        Raises:
            ConfigError: one setting has two roles.
        """
        over = over and over.replace("-", "_")
        choice = cls(_names(by) if by is not None else None, _names(within), over, _names(best_of))
        roles = {"by": choice.by or (), "within": choice.within, "over": (over,) if over else ()}
        seen: dict[str, str] = {}
        for role, names in (roles | {"best_of": choice.best_of}).items():
            for name in names:
                if name in seen:
                    raise ConfigError(f"{role}={name!r} is {seen[name]}={name!r} already: one of them")
                seen[name] = role
        return choice


def arrange(runs: Sequence[Run], choice: Choice) -> dict[Place, dict[Settings, list[Run]]]:
    """Puts runs where they are shown.

    Unless ``by`` says otherwise, a line is an algorithm and a sharing, and the settings in which runs of
    these two differ on the same environment. What is set differently on different environments only, such as
    a learning rate tuned for each, does not make another method; nor does a setting that always has the value
    of another, or that walks along with ``over`` or ``best_of``. What all runs have in common is left out.
    Runs that differ in nothing but their seeds are one line; if they also have a seed in common, they are
    the same experiment twice, and are told apart by their directories.

    Args:
        runs: of any environments and methods.
        choice: how they are told apart.

    Returns:
        By place and values of ``best_of`` the runs, in an order in which numbers ascend.

    Raises:
        ConfigError: a name is no setting, or runs that differ would be one line.
    """
    differ = differing(runs)
    _check_names(runs, choice, differ)
    chosen = (*((choice.over,) if choice.over else ()), *choice.best_of)
    settled = {*choice.within, *chosen, *walking_along(runs, chosen, differ)}
    names = _told_apart(runs, settled) if choice.by is None else [choice.by] * len(runs)
    places: dict[Place, dict[Settings, list[Run]]] = {}
    for run, line in zip(runs, names, strict=True):
        in_env = "env" not in (*line, *choice.within)
        place = Place(
            run.env if in_env else "",
            _settings(run, choice.within),
            _settings(run, line),
            run.config[choice.over] if choice.over else None,
        )
        places.setdefault(place, {}).setdefault(_settings(run, choice.best_of), []).append(run)
    for place, candidates in places.items():
        for candidate, same in candidates.items():
            _refuse_mixtures(same, (*place.panel, *place.line, *candidate), differ, settled)
    return _in_order(_repeated_apart(places))


def differing(runs: Iterable[Run]) -> list[str]:
    """The settings in which runs differ on the same environment, algorithm and sharing first."""
    values: dict[tuple[str, str], set[Hashable]] = {}
    for run in runs:
        for name in run.config:
            if name not in NOT_METHOD:
                values.setdefault((name, run.env), set()).add(value_of(run, name))
    names = dict.fromkeys(name for (name, _), found in values.items() if len(found) > 1)
    return sorted(names, key=lambda name: name not in _BASE)


def walking_along(runs: Sequence[Run], leaders: Sequence[str], differ: Sequence[str]) -> set[str]:
    """Those of the differing settings that are known once the leaders are, for each environment, algorithm
    and sharing."""
    if not leaders:
        return set()
    followers = set(differ) - {*leaders, *_BASE}
    known: dict[tuple[Any, ...], Hashable] = {}
    for run in runs:
        here = (run.env, *(value_of(run, name) for name in (*_BASE, *leaders)))
        for name in list(followers):
            if known.setdefault((name, *here), value_of(run, name)) != value_of(run, name):
                followers.discard(name)
    return followers


def value_of(run: Run, name: str) -> Hashable:
    value = run.env if name == "env" else run.config.get(name)
    return tuple(value) if isinstance(value, list) else value


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value as short as it can be said: ``5e-4``, ``0.01``, ``(64, 64)``."""
    if not isinstance(value, float):
        return str(value)
    plain = f"{value:g}".replace("e-0", "e-").replace("e+0", "e")
    if not math.isfinite(value):
        return plain
    digits, _, exponent = f"{value:e}".partition("e")
    scientific = f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return scientific if len(scientific) < len(plain) else plain


def label(settings: Settings) -> str:
    """Settings as a legend has them: ``fp3o, sharing full, actor_lr=5e-4``."""
    first = ("env", *_BASE)
    ordered = sorted(settings, key=lambda s: first.index(s[0]) if s[0] in first else len(first))
    return ", ".join(_said(name, value) for name, value in ordered)


def _said(name: str, value: Any) -> str:
    if name in ("algorithm", "env"):
        return str(value)
    return f"sharing {value}" if name == "sharing" else f"{name}={shown(value)}"


def matches(name: str, value: Any, text: str) -> bool:
    """Whether a text that a user wrote means this setting: its value, ``name=value``, or its label."""
    said_name, equals, said = text.partition("=")
    if text in (_said(name, value), str(value)):
        return True
    if equals and said_name.strip().replace("-", "_") != name:
        return False
    said = (said if equals else text).strip()
    try:
        return not isinstance(value, bool) and float(said) == value
    except ValueError:
        return said == str(value)


def layout(places: Iterable[Place]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """How many methods are spread over panels, so that each has few lines.

    Args:
        places: of all methods, none of them in a panel of its own.

    Returns:
        Settings that tell lines apart, and those that tell panels apart; None where there are few methods, or
        where no setting does it.
    """
    places = list(places)
    lines = list(dict.fromkeys(place.line for place in places))
    names = [name for name, _ in lines[0]]
    if len(lines) <= MAX_LINES or len(names) < 2 or any([n for n, _ in line] != names for line in lines):
        return None
    values = {name: {dict(line)[name] for line in lines} for name in names}
    num_envs = len({place.env for place in places})
    for most in (FEW_PANELS, MAX_PANELS):
        for name in names:
            rest = tuple(other for other in names if other != name)
            panels = num_envs * math.prod(len(values[other]) for other in rest)
            readable = MAX_SCALE if all(map(is_number, values[name])) else MAX_LINES
            if panels <= most and len(values[name]) <= readable:
                return (name,), rest
    return None


def _names(given: str | Sequence[str] | None) -> tuple[str, ...]:
    parts = given.split(",") if isinstance(given, str) else given or ()
    return tuple(part.strip().replace("-", "_") for part in parts)


def _check_names(runs: Sequence[Run], choice: Choice, differ: Sequence[str]) -> None:
    valid = [*runs[0].config, *differ]
    for role, names in (("by", choice.by or ()), ("within", choice.within)):
        for name in names:
            if name not in valid or name in ("seed", "num_seeds", "env_kwargs"):
                raise unknown(role, name, [*_BASE, "env", *differ])
    numeric = [n for n in differ if all(is_number(run.config.get(n)) for run in runs)]
    if choice.over is not None and choice.over not in numeric:
        raise unknown("over", choice.over, numeric)
    for name in choice.best_of:
        if name not in differ:
            raise unknown("best_of", name, differ)


def _settings(run: Run, names: Sequence[str]) -> Settings:
    return tuple((name, value_of(run, name)) for name in names)


def _told_apart(runs: Sequence[Run], settled: set[str]) -> list[tuple[str, ...]]:
    """For each run the settings that its line is called by, in one order for all."""
    bases: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        bases.setdefault(tuple(value_of(run, name) for name in _BASE), []).append(run)
    shared = [name for i, name in enumerate(_BASE) if len({base[i] for base in bases}) > 1]
    own = {base: _without_twins(same, set(_BASE) | settled) for base, same in bases.items()}
    if not shared and not any(own.values()):
        shared = list(_BASE)  # there is but one method, and it shall have a name
    return [
        tuple(
            name
            for name in (*shared, *own[tuple(value_of(run, name) for name in _BASE)])
            if name not in settled
        )
        for run in runs
    ]


def _without_twins(runs: Sequence[Run], but: set[str]) -> list[str]:
    """The settings in which runs differ, but for those that always have the value of one before them."""
    kept: list[str] = []
    for name in differing(runs):
        twin = any(all(value_of(run, name) == value_of(run, other) for run in runs) for other in kept)
        if name not in but and not twin:
            kept.append(name)
    return kept


def _refuse_mixtures(runs: Sequence[Run], named: Settings, differ: Sequence[str], settled: set[str]) -> None:
    for name in differ:
        values = list(dict.fromkeys(value_of(run, name) for run in runs))
        if len(values) > 1 and name not in settled:
            raise ConfigError(
                f"{name} is {values[0]!r} and {values[1]!r} at {label(named) or 'one place'}: name it with "
                "--by, --within or --best-of, or runs that differ would be one line"
            )


def _repeated_apart(
    places: Mapping[Place, Mapping[Settings, list[Run]]],
) -> dict[Place, dict[Settings, list[Run]]]:
    """Runs at one place that have a seed in common get lines of their own."""
    result: dict[Place, dict[Settings, list[Run]]] = {}
    for place, candidates in places.items():
        for candidate, same in candidates.items():
            often: dict[int, int] = {}
            for run in same:
                for seed in run.seeds:
                    often[seed] = often.get(seed, 0) + 1
            for run in same:
                twice = any(often[seed] > 1 for seed in run.seeds)
                line = (*place.line, ("run", str(run.path))) if twice else place.line
                result.setdefault(place._replace(line=line), {}).setdefault(candidate, []).append(run)
    return result


def _in_order(
    places: Mapping[Place, dict[Settings, list[Run]]],
) -> dict[Place, dict[Settings, list[Run]]]:
    """Environments and words in the order in which they came, numbers ascending."""
    values: dict[str, list[Any]] = {}
    for place, candidates in places.items():
        for name, value in (("env", place.env), *place.method, *(s for c in candidates for s in c)):
            if value not in values.setdefault(name, []):
                values[name].append(value)
    names = list(dict.fromkeys(name for place in places for name, _ in place.panel))
    names += dict.fromkeys(name for place in places for name, _ in place.line)
    rank = {
        name: {value: i for i, value in enumerate(sorted(found) if all(map(is_number, found)) else found)}
        for name, found in values.items()
    }

    def key(settings: Settings) -> list[int]:
        given = dict(settings)
        return [rank[name][given[name]] if name in given else -1 for name in names]

    return {
        place: dict(sorted(places[place].items(), key=lambda item: [rank[n][v] for n, v in item[0]]))
        for place in sorted(places, key=lambda p: (rank["env"][p.env], key(p.method), p.at or 0.0))
    }
