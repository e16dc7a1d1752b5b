"""A run's directory: what was asked for, by which versions, and what came of it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fp3o_jax import registry
from fp3o_jax.config import Config, ConfigError
from fp3o_jax.files import COUNT, NAME, NUMBER, SEED, SIZE, open_own, read_json
from fp3o_jax.runs.origin import about
from fp3o_jax.runs.reading import read_rows

if TYPE_CHECKING:
    from fp3o_jax.envs import Environment

#: What is known of an environment object.
SEEN = ("agents", "obs_sizes", "action_sizes", "discrete", "state_size")
#: What ``run.json`` says of what the user brought, where something was brought.
MADE_ON = {"environment?": {"object": str, str: object}, "trunk?": ([str], None), "brought?": {str: str}}
#: What it holds, as far as it is read.
ABOUT = {
    "run_id": NAME,
    "options": {
        "wandb?": {"tags": [str], str: object},
        "init_from?": (str, None),
        "sinks?": [str],
        str: object,
    },
    **MADE_ON,
}
#: What ``summary.json`` holds, as far as it is read; results of a seed are numbers, null where there is none.
SUMMARY = {
    "seeds": [{"seed": SEED, "stopped_at_update?": COUNT, str: (NUMBER, None)}],
    "env_steps": SIZE,
    "train_seconds": NUMBER,
    "compile_seconds": NUMBER,
    "env_steps_per_second": NUMBER,
    "eval_episodes": COUNT,
    "side_by_side?": COUNT,
}
#: What may lie in a directory before it is a run's: traces of a start that was cut short.
_OWN = {"lock", "run.json", "run.json.part", "config.json.part"}


class RunDirectory:
    """One run on disk. Opening it makes a new one or goes on with the one that is there.

    Args:
        path: the directory, or None for the one below ``runs/`` that belongs to the config.
        config: the resolved settings, written to ``config.json``.
        options: what else was asked for, as JSON holds it; kept with the versions in ``run.json``.
        environment: of an environment object, what :func:`described` says; None for one by name.
        trunk: of trunks that are not the config's, what :func:`fp3o_jax.team.trunks.described` says.

    Raises:
        ConfigError: the directory holds a run of other settings, or something that is no run, or another
            process is writing to it; or there is no path, and an environment object or a trunk that no
            directory can be named after; or the settings cannot be written down.
    """

    def __init__(
        self,
        path: Path | None,
        config: Config,
        options: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
        trunk: list[str] | None = None,
    ):
        if path is None and environment is not None:
            raise ConfigError(
                "run_dir=None: the settings of an environment object are unknown, so no directory can be "
                "named after them: say where the run shall be, RunOptions(run_dir=...)"
            )
        if path is None and trunk is not None:
            raise ConfigError(
                "run_dir=None: a trunk of your own is no setting that a directory could be named after: say "
                "where the run shall be, RunOptions(run_dir=...)"
            )
        try:
            json.dumps(plain(config.to_dict()))
        except TypeError as error:
            raise ConfigError(
                f"env_kwargs={config.env_kwargs!r} cannot be written to a file: {error}"
            ) from None
        self.path = default_path(config) if path is None else Path(path)
        self.grows_from: int | None = None
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"run_dir={str(self.path)!r} is a file: choose a directory")
        existing = self.path.exists() and any(self.path.iterdir())
        if existing and (self.path / "config.json").exists():
            self.grows_from = _check_agrees(self.path, config)
            check_environment(self.path, environment, ("object", *SEEN))
            check_trunk(self.path, trunk)
        elif existing and not {p.name for p in self.path.iterdir()} <= _OWN:
            raise ConfigError(
                f"run_dir={str(self.path)!r} exists and is not a run, and nothing is ever overwritten: "
                "choose another directory"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.path)
        if not (self.path / "config.json").exists():
            brought = registry.origins(config.to_dict()) or None
            given = {"environment": environment, "trunk": trunk, "brought": brought}
            made_on = {name: what for name, what in given.items() if what is not None}
            self.write("run.json", about() | {"options": options or {}} | made_on)
            # Last, so that a directory with a config is a run.
            self.write("config.json", config.to_dict())
        if self.grows_from is not None:
            # The summary first: killed in between, the run is one that was not finished.
            if self.summary is not None:
                (self.path / "summary.json").rename(self.path / f"summary_{self.grows_from}.json")
            self.write("config.json", config.to_dict())
        self.about: dict[str, Any] = read_json(self.path / "run.json", ABOUT)
        self._metrics = open_own(self.path / "metrics.jsonl", "ab", buffering=0)

    @property
    def summary(self) -> dict[str, Any] | None:
        """What the run ended with; None if it has not."""
        file = self.path / "summary.json"
        return read_json(file, SUMMARY) if file.exists() else None

    def log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends lines to ``metrics.jsonl``."""
        lines = "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in rows).encode()
        if self._metrics.write(lines) != len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def synced_size(self) -> int:
        """Bytes of ``metrics.jsonl``, all of which are on the disk."""
        os.fsync(self._metrics.fileno())
        return self._metrics.tell()

    def cut_metrics(self, size: int) -> None:
        """Forgets the lines after the first ``size`` bytes: they will be written again.

        Raises:
            ConfigError: there are fewer, so that the file is not the one that the checkpoint speaks of.
        """
        there = self._metrics.seek(0, os.SEEK_END)
        if there < size:
            raise ConfigError(
                f"{self.path / 'metrics.jsonl'} has {there} bytes and its checkpoint is of {size}: lines are "
                "lost. Bring the file back, or choose another run_dir"
            )
        self._metrics.truncate(size)
        self._metrics.seek(0, os.SEEK_END)

    def rows(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``."""
        return read_rows(self.path / "metrics.jsonl")

    def close(self) -> None:
        """Lets go of the directory."""
        self._metrics.close()
        self._lock.close()

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a JSON file, which is there as a whole or not at all."""
        write_whole(self.path / name, json.dumps(plain(content), indent=2, allow_nan=False) + "\n")


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file, which is there as a whole or not at all, and which whoever the umask says can read."""
    part = path.with_name(f"{path.name}.part")
    with open_own(part, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read_config(path: Path) -> Config:
    """The config of the run at ``path``.

    Raises:
        ConfigError: there is no run, or its settings cannot be used.
    """
    file = Path(path) / "config.json"
    if not file.exists():
        raise ConfigError(f"{str(path)!r} is not a run: it has no config.json")
    settings, about = read_json(file, {str: object}), file.with_name("run.json")
    brought = read_json(about, MADE_ON).get("brought", {}) if about.exists() else {}
    registry.require(settings, brought, repr(str(path)))
    try:
        return Config.from_dict(settings)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def check_trust(path: Path, there: str, given: str | None) -> None:
    """Whether an environment of the name in a run's files may be made: code of the user's is imported only if
    the user names it, so that no run that somebody hands over chooses what is run.

    Args:
        path: run directory.
        there: the name in its config.
        given: the one that the user says.

    Raises:
        ConfigError: it is ``module:factory``, and the user says none and trusts no such module by
            ``FP3O_PLUGINS``, or another one is said.
    """
    if given is not None and given != there:
        raise ConfigError(f"env={given!r}: {str(path)!r} was trained on env={there!r}")
    if ":" in there and given is None and not registry.is_plugin(there):
        raise ConfigError(
            f"{str(path)!r} was trained on env={there!r}, code that would be imported and called. If you "
            f"trust it, name it: --env {there}, or from Python env={there!r}"
        )


def read_options(path: Path) -> dict[str, Any]:
    """The options of the run at ``path``, as JSON holds them."""
    return read_json(Path(path) / "run.json", ABOUT)["options"]


def described(env: Any, adapted: Environment) -> dict[str, Any]:
    """An environment object, by what the trainer sees of it.

    Args:
        env: the object, or the name of what makes one.
        adapted: what ``make_env`` made of it.
    """
    of = env if isinstance(env, str) else f"{type(env).__module__}.{type(env).__qualname__}"
    return {"object": of} | {name: plain(getattr(adapted, name)) for name in SEEN}


def check_environment(path: Path, environment: Mapping[str, Any] | None, names: Iterable[str] = SEEN) -> None:
    """Whether the run at ``path`` belongs to this environment object, or to none.

    Args:
        path: run directory.
        environment: what :func:`described` says; None if no object is given.
        names: what must be the same of it.

    Raises:
        ConfigError: the run was given an object and there is none here, or one of other sizes.
    """
    there = _environment_object(path)
    if environment is None and takes_object(path):
        kind = f", a {there['object']}" if there else ""
        raise ConfigError(
            f"{str(path)!r} was trained on an environment object{kind}, which is not in it: hand one over "
            "from Python, as env=... to run_training, evaluate_run, render_run, load_run or load_policy, or "
            "name what makes one, --env module:factory"
        )
    if environment is None or there is None:
        return
    differences = [
        f"{name} is {there.get(name)!r} there and {environment[name]!r} here"
        for name in names
        if there.get(name) != environment[name]
    ]
    if differences:
        raise ConfigError(
            f"{str(path)!r} was trained on another environment than env={environment['object']}: "
            f"{'; '.join(differences)}"
        )


def takes_object(path: Path) -> bool:
    """Whether the run at ``path`` was given an environment object, of which it knows the sizes alone."""
    # Before it was written down, the name told: family/task, or module:factory.
    return _environment_object(path) is not None or not {"/", ":"} & set(read_config(path).env)


def _environment_object(path: Path) -> dict[str, Any] | None:
    about = Path(path) / "run.json"
    return read_json(about, MADE_ON).get("environment") if about.exists() else None


def check_trunk(path: Path, trunk: list[str] | None) -> None:
    """Whether the run at ``path`` has these trunks, or those of its config.

    Args:
        path: run directory.
        trunk: what :func:`fp3o_jax.team.trunks.described` says; None if none are given.

    Raises:
        ConfigError: it has others.
    """
    about = Path(path) / "run.json"
    there = read_json(about, MADE_ON).get("trunk") if about.exists() else None
    if there == trunk:
        return
    if there is None:
        raise ConfigError(
            f"trunk={trunk}: {str(path)!r} was trained with the layers of its config, without trunk="
        )
    raise ConfigError(
        f"trunk={trunk}: {str(path)!r} was trained with modules of your own, {there}, which are not in it: "
        "hand them over from Python, as trunk=... to run_training, evaluate_run, render_run, load_run or "
        "load_policy"
    )


def default_path(config: Config) -> Path:
    """Below ``runs/``: the same settings have the same directory, so that the same command goes on."""
    env, algorithm, sharing = (
        re.sub(r"[/|:]", "-", name) for name in (config.env, config.algorithm, config.sharing)
    )
    settings = json.dumps(plain(config.to_dict()), sort_keys=True)
    mark = hashlib.sha256(settings.encode()).hexdigest()[:6]
    return Path("runs") / f"{env}_{algorithm}_{sharing}_seed{config.seed}_{mark}"


def plain(value: Any) -> Any:
    """Arrays and numbers as JSON holds them; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _check_agrees(path: Path, config: Config) -> int | None:
    """The ``total_env_steps`` of the run there, if it has fewer and is the same run in all else."""
    there, here = plain(read_config(path).to_dict()), plain(config.to_dict())
    differences = [
        f"{name} is {there[name]!r} there and {value!r} here"
        for name, value in here.items()
        if there[name] != value
    ]
    steps = "total_env_steps"
    if len(differences) == 1 and there[steps] < here[steps]:
        return there[steps]
    if differences:
        raise ConfigError(
            f"run_dir={str(path)!r} holds a run of other settings ({'; '.join(differences)}), and a run is "
            "never overwritten: choose another directory, or the settings that it has (of which "
            "total_env_steps may grow)"
        )
    return None


def _lock(path: Path) -> Any:
    file = take_lock(path / "lock")
    if file is None:
        raise ConfigError(f"run_dir={str(path)!r}: another process is writing to this run")
    return file


def take_lock(path: Path, wait: bool = False) -> Any:
    """An open file that no other process holds: to be closed, and let go of by the kernel if we are killed.

    Args:
        path: of the file, made if it is not there.
        wait: until the other process lets go of it; else None is returned.
    """
    file = open_own(path, "a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    return file
