"""The results: one JSON file per finished cell, and who is working on which."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fp3o_jax
from fp3o_jax.config import ConfigError
from fp3o_jax.files import MAX_ROWS, NAME, NUMBER, checked, parsed, read_json, read_text
from fp3o_jax.runs.directory import plain

RESULTS = Path(__file__).with_name("results")
#: A lock of another machine, or one whose process seems to live, is stale when untouched for so many seconds.
STALE = 1800.0


class Claim:
    """A cell that this process alone works on."""

    def __init__(self, path: Path):
        self._path = path

    def touch(self) -> None:
        """Shows that the work goes on."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._path)

    def release(self) -> None:
        """Lets others have the cell."""
        self._path.unlink(missing_ok=True)


class Store:
    """A folder of results that several processes fill.

    Args:
        folder: where; made if need be.
    """

    def __init__(self, folder: Path = RESULTS):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def has(self, name: str) -> bool:
        """Whether the cell is finished."""
        return self._result(name).exists()

    def results(self) -> dict[str, dict[str, Any]]:
        """What is finished, by name."""
        return {path.stem: read_json(path, {str: object}) for path in sorted(self.folder.glob("*.json"))}

    def claim(self, name: str) -> Claim | None:
        """The right to run a cell; None if it is finished or another process has it."""
        lock = self._lock(name)
        # One process at a time judges a lock: two that find a stale one would remove each other's new one.
        with self._judging():
            if self.has(name):
                return None
            if lock.exists():
                if not _stale(lock):
                    return None
                lock.unlink()
            try:
                file = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                return None
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
            with os.fdopen(file, "w", encoding="utf-8") as text:
                json.dump(owner, text)
        return Claim(lock)

    def busy(self, name: str) -> bool:
        """Whether a process works on the cell."""
        lock = self._lock(name)
        return lock.exists() and not _stale(lock)

    def write(self, name: str, result: Mapping[str, Any]) -> bool:
        """Adds a result, which is there as a whole or not at all; False if there is one already."""
        part = self.folder / f"{name}.{socket.gethostname()}.{os.getpid()}.part"
        with part.open("w", encoding="utf-8") as file:
            file.write(_lines(plain(result)))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, self._result(name))  # fails where a rename would replace
        except FileExistsError:
            return False
        finally:
            part.unlink()
        return True

    def merge(self, bundle: Path) -> list[str]:
        """Adds the results of a file with one on each line; returns the names of those that were missing.

        A last line that was cut off in the middle is left out.

        Raises:
            ConfigError: the file cannot be read, or a line is damaged.
        """
        added = []
        lines = read_text(bundle, MAX_ROWS).split("\n")
        for i, line in enumerate(lines):
            where = f"{bundle}, line {i + 1}"
            try:
                result = parsed(line, where)
            except ConfigError:
                if any(lines[i + 1 :]):
                    raise
                break
            checked(result, {"name": NAME, str: object}, where)
            if self.write(result["name"], result):
                added.append(result["name"])
        return added

    def _result(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _lock(self, name: str) -> Path:
        return self.folder / f"{name}.lock"

    @contextlib.contextmanager
    def _judging(self) -> Iterator[None]:
        with (self.folder / "all.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _stale(lock: Path) -> bool:
    try:
        age = time.time() - lock.stat().st_mtime
        owner = read_json(lock, {"host": str, "pid": range(1, 2**31), "time": NUMBER})
    except FileNotFoundError:
        return False
    except ConfigError:
        # Its process ended between making the file and writing to it, or is about to write.
        return age > 60 and lock.exists()
    if owner["host"] == socket.gethostname():
        try:
            os.kill(owner["pid"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
    return age > STALE


def _lines(result: Mapping[str, Any]) -> str:
    """JSON with one line for each entry of the first two levels: small, and its differences can be read."""

    def compact(value: Any) -> str:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))

    entries = []
    for key, value in result.items():
        if isinstance(value, dict) and any(isinstance(v, list) for v in value.values()):
            inner = ",\n".join(f"  {compact(k)}: {compact(v)}" for k, v in value.items())
            entries.append(f"{compact(key)}: {{\n{inner}\n }}")
        else:
            entries.append(f"{compact(key)}: {compact(value)}")
    return "{\n " + ",\n ".join(entries) + "\n}\n"


def source() -> str:
    """A digest of the source of what is traced: results of equal ones were computed by the same code."""
    package = Path(fp3o_jax.__file__).parent
    host = {path for path in package.rglob("runs/**/*.py") if path.name != "programs.py"}
    traced = sorted({*package.rglob("*.py")} - host - {package / "cli.py"})
    digest = hashlib.sha256()
    for path in (*traced, Path(__file__).parent / "training.py"):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]
