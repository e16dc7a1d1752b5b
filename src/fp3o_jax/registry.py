"""What others bring, by name: algorithms, sharings, environments, sinks.

A setting that names such a thing takes the names that the package has itself; those that a module has
registered in this process; those that an installed package brings, as an entry point of the group
``fp3o_jax.algorithms``, ``.sharings``, ``.environments`` or ``.sinks``; and ``module:name``, to be imported.
A registered name alone says nothing of the module that registers it, so other processes must import that as
well: they do if ``FP3O_PLUGINS`` names it. Other packages are looked at when a name is not known otherwise,
or names are listed, and imported when they are used.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from fp3o_jax.values import ConfigError, unknown

AlgorithmName = Literal["fp3o", "mappo", "ippo", "coppo", "happo", "a2po"]
SharingName = Literal["full", "partial", "none", "by_type", "groups"]
EnvFamily = Literal["smax", "mabrax", "mamujoco", "mpe", "matrix"]
#: Modules, joined by commas, that are imported before a name is called unknown.
PLUGINS = "FP3O_PLUGINS"
#: Modules that have registered something in this process, or that somebody asked for in it.
_asked_for: set[str] = set()


class Brought(NamedTuple):
    """Something of others'.

    Attributes:
        by: who brings it, for messages.
        load: returns it.
    """

    by: str
    load: Callable[[], Any]


class Registry:
    """The names that one setting takes.

    Args:
        setting: its name.
        kind: plural noun, the end of the group of entry points.
        builtin: names that the package has itself.
        families: whether a name ``family/task`` is also found as ``family``, which is told the task.
    """

    def __init__(self, setting: str, kind: str, builtin: tuple[str, ...] = (), families: bool = False):
        self.setting, self.kind, self.builtin, self.families = setting, kind, builtin, families
        self.group = f"fp3o_jax.{kind}"
        self._registered: dict[str, Brought] = {}

    def register(self, name: str, thing: Any, replace: bool, by: str) -> None:
        """Makes a thing known in this process.

        Raises:
            ConfigError: the name cannot be one, or is taken.
        """
        if not (isinstance(name, str) and re.fullmatch(r"[\w.|/-]+", name)):
            raise ConfigError(
                f"{self.setting}={name!r} cannot be registered: names are letters, digits, _, -, . and /"
            )
        if any(own in self.builtin for own in self._lookups(name)):
            raise ConfigError(
                f"{self.setting}={name!r} cannot be registered: the package itself has one of that name"
            )
        there = self._registered.get(name)
        if there is not None and not replace:
            raise ConfigError(
                f"{self.setting}={name!r} is registered already, by {there.by}: choose another name, or "
                "replace=True"
            )
        self._registered[name] = Brought(by, lambda: thing)
        _asked_for.add(by.removeprefix("module "))

    def outside(self) -> dict[str, str]:
        """All names that others bring -> who brings them. None of these packages is imported for it."""
        _import_plugins()
        packages = {point.name: f"package {point.dist.name}" for point in self._entry_points()}
        return packages | {name: brought.by for name, brought in self._registered.items()}

    def find(self, name: str) -> Any:
        """The thing of a name that the package has not itself; of a family, told the task.

        Raises:
            ConfigError: there is none, or what should bring it cannot be imported.
        """
        if ":" in name:
            return self._imported(name)
        for known in self._lookups(name):
            if (brought := self._brought(known)) is not None:
                thing = brought.load()
                return thing if known == name else functools.partial(thing, name.partition("/")[2])
        raise self.unknown(name)

    def unknown(self, name: Any) -> ConfigError:
        """The error for a name that nobody brings."""
        told = unknown(self.setting, name, self)
        return ConfigError(f"{told}; or module:name, to be imported (docs/extending.md)")

    def __contains__(self, name: Any) -> bool:
        if not isinstance(name, str):
            return False
        names = self._lookups(name)
        return ":" in name or any(n in self.builtin or self._brought(n) is not None for n in names)

    def __iter__(self) -> Iterator[str]:
        return iter([*self.builtin, *sorted({*self.outside()} - {*self.builtin})])

    def _lookups(self, name: str) -> tuple[str, ...]:
        """What a name may be known as."""
        family, slash, _ = name.partition("/")
        return (name, family) if self.families and slash else (name,)

    def _brought(self, name: str) -> Brought | None:
        if name not in self._registered:
            _import_plugins()
        if name in self._registered:
            return self._registered[name]
        points = [point for point in self._entry_points() if point.name == name]
        if not points:
            return None
        packages = " and ".join(point.dist.name for point in points)
        if len(points) > 1:
            raise ConfigError(
                f"{self.setting}={name!r} is brought by packages {packages}: uninstall all but one"
            )
        return Brought(f"package {packages}", lambda: self._load(name, points[0]))

    def _load(self, name: str, point: metadata.EntryPoint) -> Any:
        try:
            return point.load()
        except Exception as error:
            raise ConfigError(
                f"{self.setting}={name!r} is brought by package {point.dist.name}, whose {point.value} "
                f"cannot be imported: {type(error).__name__}: {error}"
            ) from error

    def _entry_points(self) -> metadata.EntryPoints:
        return metadata.entry_points(group=self.group)

    def _imported(self, name: str) -> Any:
        """What ``module:name`` means: an attribute of the module, or a name that it registers."""
        path, _, attribute = name.partition(":")
        try:
            thing: Any = _import(path)
            _asked_for.add(path)
            registered = self._registered.get(attribute)
            if registered is not None and registered.by == f"module {path}":
                return registered.load()
            for part in attribute.split("."):
                thing = getattr(thing, part)
            return thing
        except Exception as error:
            raise ConfigError(
                f"{self.setting}={name!r} must be module:name, to be imported: "
                f"{type(error).__name__}: {error}"
            ) from error


algorithms = Registry("algorithm", "algorithms", get_args(AlgorithmName))
sharings = Registry("sharing", "sharings", get_args(SharingName))
environments = Registry("env", "environments", get_args(EnvFamily), families=True)
sinks = Registry("sinks", "sinks")
#: Of settings that decide what is trained.
OF_CONFIG = (algorithms, sharings, environments)


def register_algorithm(name: str, algorithm: Any, *, replace: bool = False) -> None:
    """Makes ``Config(algorithm=name)`` known in this process.

    Args:
        name: of the algorithm.
        algorithm: an :class:`~fp3o_jax.Algorithm`, or a function that makes one of
            :class:`~fp3o_jax.method.schedules.Choices`, what the settings choose.
        replace: what has the name already.

    Raises:
        ConfigError: the name is taken, or cannot be one. Whether the algorithm keeps to what schedules are is
            looked at by ``make_train``, before anything is compiled.
    """
    algorithms.register(name, algorithm, replace, _caller())


def register_sharing(name: str, sharing: Callable[[Any], Any], *, replace: bool = False) -> None:
    """Makes ``Config(sharing=name)`` known in this process.

    Args:
        name: of the sharing.
        sharing: (:class:`~fp3o_jax.Environment`) -> :class:`~fp3o_jax.Sharing`.
        replace: what has the name already.

    Raises:
        ConfigError: the name is taken, or cannot be one.
    """
    sharings.register(name, sharing, replace, _caller())


def register_env(name: str, make: Callable[..., Any], *, replace: bool = False) -> None:
    """Makes ``Config(env=name)`` known in this process.

    Args:
        name: ``family/task``, an environment; or ``family``, for all names that begin with ``family/``.
        make: (**env_kwargs) -> a ``jaxmarl`` environment object or an :class:`~fp3o_jax.Environment`; that
            of a family is called with the task before them.
        replace: what has the name already.

    Raises:
        ConfigError: the name is taken, or cannot be one.
    """
    environments.register(name, make, replace, _caller())


def register_sink(name: str, make: Callable[..., Any], *, replace: bool = False) -> None:
    """Makes ``RunOptions(sinks=(name,))`` known in this process.

    Args:
        name: of the sink.
        make: (config, run_dir, run_id) -> :class:`~fp3o_jax.runs.sinks.Sink`, opened. ``run_id`` is the same
            when a run goes on.
        replace: what has the name already.

    Raises:
        ConfigError: the name is taken, or cannot be one.
    """
    sinks.register(name, make, replace, _caller())


def origins(settings: Mapping[str, Any]) -> dict[str, str]:
    """Setting -> who brings what it names, of those that the name itself does not tell."""
    told = {}
    for registry in OF_CONFIG:
        name = settings[registry.setting]
        if ":" not in name:
            for known in registry._lookups(name):
                if known not in registry.builtin and (brought := registry._brought(known)) is not None:
                    told.setdefault(registry.setting, brought.by)
    return told


def refuse_code(setting: str, name: Any, where: str) -> None:
    """Whether what a file names may be imported: no ``module:name`` of a module that nobody here asked for,
    or whoever hands over a run would choose what is run.

    Raises:
        ConfigError: it may not; the message says how to allow it.
    """
    module, colon, _ = str(name).partition(":")
    if colon and module not in {*_asked_for, *_plugins()}:
        raise ConfigError(
            f"{where} was trained with {setting}={name!r}, code that would be imported. If you trust it, "
            f"set {PLUGINS}={module}, or from Python import the module that registers it"
        )


def require(settings: Mapping[str, Any], brought: Mapping[str, str], where: str) -> None:
    """Whether what a run names is known here, and may be imported.

    Args:
        settings: of the run.
        brought: what :func:`origins` said when it was made.
        where: the run, for the message.

    Raises:
        ConfigError: it is not; the message says what to import or install.
    """
    for registry in (algorithms, sharings):
        refuse_code(registry.setting, settings.get(registry.setting), where)
    for registry in OF_CONFIG:
        name, by = settings.get(registry.setting), brought.get(registry.setting)
        if by is not None and name not in registry:
            kind, _, source = by.partition(" ")
            do = "install it" if kind == "package" else f"import {source} first, or set {PLUGINS}={source}"
            raise ConfigError(
                f"{where} was trained with {registry.setting}={name!r}, which {by} brought and nothing here "
                f"does: {do}"
            )


def _caller() -> str:
    """The module that registers something."""
    return f"module {sys._getframe(2).f_globals.get('__name__', '?')}"


def _import(module: str) -> Any:
    """A module, from the working directory as well."""
    here = str(Path.cwd())
    if here not in sys.path:  # and there it stays, for what the module itself imports
        sys.path.append(here)
    return importlib.import_module(module)


def is_plugin(name: str) -> bool:
    """Whether ``module:name`` is of a module that ``FP3O_PLUGINS`` names."""
    return name.partition(":")[0] in _plugins()


def _plugins() -> list[str]:
    return [module for module in re.split(r"[,\s]+", os.environ.get(PLUGINS, "")) if module]


def _import_plugins() -> None:
    for module in _plugins():
        try:
            _import(module)
        except Exception as error:
            warnings.warn(
                f"{PLUGINS}: {module} cannot be imported, and what it registers is not known: "
                f"{type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
