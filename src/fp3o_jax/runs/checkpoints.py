"""Whole training states on disk: saved in the background, checked when they are read."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fp3o_jax.config import ConfigError
from fp3o_jax.files import NUMBER, SIZE, checked
from fp3o_jax.runs.packing import (
    Layout,
    blank,
    digest,
    join,
    listed,
    nbytes,
    pack,
    room,
    split,
    structure,
    unpack,
)

KEPT = 3
#: What lies beside a state, as far as it is read; earlier versions wrote of one run alone, and no hash.
RUN = {"metrics_bytes": SIZE, "frozen": {str: SIZE}}
RECORD = {
    "structure": str,
    "digest": str,
    "score": NUMBER,
    "seconds?": NUMBER,
    "arrays?": [[(str, [SIZE])]],
    "runs?": [RUN],
    **{f"{name}?": shape for name, shape in RUN.items()},
    "record?": str,
}
#: A state is at most so many times as large as its files, and so many bytes: they are compressed.
MAX_RATIO, SMALL = 1000, 64 * 2**20


class SaveError(OSError):
    """A checkpoint could not be written."""


@contextmanager
def _explained() -> Iterator[None]:
    """Whatever orbax and its background threads raise, as one kind of error that says what is wrong."""
    try:
        yield
    except Exception as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        reason = os.strerror(int(code[1])) if code else getattr(error, "strerror", None) or str(error)[:200]
        raise SaveError(f"a checkpoint could not be written: {reason}") from error


class Checkpoint(NamedTuple):
    """What was saved after an update.

    Attributes:
        update: the number of updates that it follows.
        state: the training state, leaves as in the template.
        record: what the host wrote beside it.
    """

    update: int
    state: Any
    record: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run: the last few, and the best.

    Each is complete or not there: orbax writes it under another name first. What it holds is hashed, so that
    a damaged one is told from a whole one.

    Args:
        path: directory, made if it does not exist.
        keep: how many of the newest are kept, besides the one of the highest score.
        reading: nothing is saved, so that what lies there half-written is another process's, and left alone.
    """

    def __init__(self, path: Path, keep: int = KEPT, reading: bool = False):
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        # What goes wrong is told by exceptions, once.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._args = ocp.args
        self.path = Path(path).absolute()
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path} is a file, expected a directory of checkpoints")
        self._alias, self._closed = _alias(self.path), False
        self.path.mkdir(parents=True, exist_ok=True)
        _refuse_what_is_no_file(self.path)
        # Where several processes share a run one of them writes, and waits for no other.
        me = jax.process_index()
        try:
            self._manager = ocp.CheckpointManager(
                Path(self._alias.name) / "checkpoints" if self._alias else self.path,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies.AnyPreservationPolicy(
                        [policies.LatestN(keep), policies.BestN(n=1, get_metric_fn=lambda m: m["score"])]
                    ),
                    cleanup_tmp_directories=not reading,
                    create=False,
                    multiprocessing_options=ocp.options.MultiprocessingOptions(
                        primary_host=me, active_processes={me}
                    ),
                ),
            )
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"{self.path}: a checkpoint's _CHECKPOINT_METADATA is damaged ({str(error)[:200]}). Remove "
                "that checkpoint, and the one before is used"
            ) from None

    def save(self, update: int, state: Any, record: Mapping[str, Any], score: float) -> None:
        """Copies ``state`` to the host and returns; the writing goes on in the background.

        Raises:
            SaveError: this one or an earlier one could not be written, such as for want of space.
        """
        arrays = pack(state)
        score = float(score) if np.isfinite(score) else -np.finfo(np.float64).max
        record = {**record, "score": score, "digest": digest(arrays), "structure": structure(arrays)}
        record["arrays"] = [
            [name, list(arrays[name].shape), str(arrays[name].dtype)] for name in sorted(arrays)
        ]
        record["record"] = _mark(record)
        items = self._args.Composite(
            state=self._args.StandardSave({"bytes": join(arrays)}), run=self._args.JsonSave(record)
        )
        with _explained():
            self._manager.save(update, args=items, metrics={"score": record["score"]}, force=True)

    def restore(self, template: Any, best: bool = False) -> Checkpoint | None:
        """The newest checkpoint that is whole, to go on from to the bit; None if there is none.

        Args:
            template: what ``jax.eval_shape`` says of the state.
            best: that of the highest score instead of the newest.

        Raises:
            ConfigError: it was saved by another config or version.
        """
        expected = blank(template)

        def layout(record: Mapping[str, Any]) -> Layout:
            if record["structure"] != structure(expected):
                raise ConfigError(
                    "does not fit this config: it was saved by another config or another version; continue "
                    f"with those it was started with{_difference(record, expected)}"
                )
            return expected

        found = self._newest_whole(layout, best)
        return found and Checkpoint(found[0], unpack(found[2], template), found[1])

    def restore_part(self, template: Any, part: str, best: bool = False) -> Any:
        """One field of the newest state that is whole, as it was saved; None if there is no such state.

        The other fields may have changed since: acting needs ``params`` alone, and neither the environment's
        state nor keys nor the width of numbers need be what they were.

        Args:
            template: what ``jax.eval_shape`` says of the whole state.
            part: name of the field.
            best: of the checkpoint with the highest score instead of the newest.

        Raises:
            ConfigError: the field's names or shapes are not those of the template.
        """
        prefix, everything = f".{part}", blank(template)
        expected = {name: array for name, array in everything.items() if _below(name, prefix)}

        def layout(record: Mapping[str, Any]) -> Layout:
            saved = listed(record)
            if saved is None:  # as versions before this one wrote it
                if record["structure"] != structure(everything):
                    raise ConfigError(
                        "does not fit this config, and lists no parts that could be taken out of it: read it "
                        "with the version and the JAX settings that it was saved with"
                    )
                return everything
            held = {name: array.shape for name, array in saved.items() if _below(name, prefix)}
            if held != {name: array.shape for name, array in expected.items()}:
                raise ConfigError(
                    f"does not fit this config: its {part} are of another config or another version"
                    f"{_difference(record, expected, prefix)}"
                )
            return saved

        found = self._newest_whole(layout, best)
        if found is None:
            return None
        arrays = {name.removeprefix(prefix): a for name, a in found[2].items() if _below(name, prefix)}
        return unpack(arrays, getattr(template, part))

    def _newest_whole(
        self, layout: Callable[[Mapping[str, Any]], Layout], best: bool
    ) -> tuple[int, dict[str, Any], dict[str, np.ndarray]] | None:
        """Update, record and arrays of the newest or best checkpoint that is whole.

        Args:
            layout: record -> shapes and types of what was saved; a ConfigError that it raises
                gets the checkpoint's name in front.
            best: that of the highest score.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if best:
            steps.sort(key=self._score, reverse=True)
        for step in steps:
            try:
                record = self._record(step)
                like = layout(record)
                self._check_size(step, like)
                saved = self._restore(step, state=self._args.StandardRestore({"bytes": room(like)}))
                arrays = split(np.asarray(saved.state["bytes"]), like)
                if digest(arrays) == record["digest"]:
                    return step, record, arrays
            except ConfigError as error:
                raise ConfigError(f"checkpoint {self.path / str(step)} {error}") from None
            except Exception as error:  # whatever a damaged file makes of a parser
                logging.getLogger(__name__).debug("checkpoint %s: %s", step, error)
            warnings.warn(
                f"checkpoint {self.path / str(step)} is damaged; falling back to the one before",
                stacklevel=3,
            )
        return None

    def drop_after(self, update: int) -> None:
        """Removes checkpoints of later updates: damaged ones would stand in the way of new ones."""
        for step in self._manager.all_steps():
            if step > update:
                shutil.rmtree(self.path / str(step), ignore_errors=True)
        self._manager.reload()

    def check(self) -> None:
        """Raises a SaveError if something has gone wrong in the background."""
        with _explained():
            self._manager.check_for_errors()

    def close(self) -> None:
        """Waits for the writing to end; raises a SaveError if it has failed."""
        if self._closed:
            return
        self._closed = True
        with _explained():
            self._manager.wait_until_finished()
            self._manager.close()
        if self._alias:
            self._alias.cleanup()

    def abandon(self) -> None:
        """As :meth:`close`, but quietly, where something else has gone wrong already: what is being written
        would stand in the way of the next attempt."""
        with contextlib.suppress(SaveError):
            self.close()

    def _score(self, step: int) -> float:
        try:
            return self._record(step)["score"]
        except Exception as error:  # whatever a damaged file makes of a parser: not the best
            logging.getLogger(__name__).debug("checkpoint %s: %s", step, error)
            return -np.inf

    def _record(self, step: int) -> dict[str, Any]:
        """What was written beside a state; raises a ValueError, which is no ConfigError, if it is damaged."""
        record = self._restore(step, run=self._args.JsonRestore()).run
        try:
            checked(record, RECORD, "record")
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if "record" in record and record["record"] != _mark(record):
            raise ValueError("the record's hash is another")
        return record

    def _check_size(self, step: int, like: Layout) -> None:
        """Whether a state can be in the files of a checkpoint; raises a ValueError if it cannot."""
        files = (file.lstat().st_size for file in (self.path / str(step)).rglob("*") if file.is_file())
        claimed, there = nbytes(like), sum(files)
        if claimed > max(SMALL, MAX_RATIO * there):
            raise ValueError(f"it claims {claimed} bytes, and its files have {there}")

    def _restore(self, step: int, **items: Any) -> Any:
        return self._manager.restore(step, args=self._args.Composite(**items))


def _refuse_what_is_no_file(path: Path) -> None:
    """Orbax waits for pipes, and follows links.

    Raises:
        ConfigError: there is something below a directory that is neither a file nor a directory.
    """
    for file in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process may be at work
            mode = file.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise ConfigError(f"{file} is a link, a pipe or a device, expected files of a checkpoint")


def _alias(path: Path) -> tempfile.TemporaryDirectory | None:
    """A directory with a link to ``path``, where its name holds what a pattern would be made of.

    Orbax looks for its own files with patterns that begin with the path as it is: below ``lr[0.1]`` it finds
    none of them, and leaves checkpoints behind that it cannot read.
    """
    if glob.escape(str(path)) == str(path):
        return None
    path.mkdir(parents=True, exist_ok=True)
    place = tempfile.TemporaryDirectory(prefix="fp3o-")
    (Path(place.name) / "checkpoints").symlink_to(path, target_is_directory=True)
    return place


def _mark(record: Mapping[str, Any]) -> str:
    """Hash of all else that lies beside a state."""
    rest = {name: value for name, value in record.items() if name != "record"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _below(name: str, prefix: str) -> bool:
    """Whether a leaf belongs to the field of this name."""
    return name.startswith((f"{prefix}[", f"{prefix}.")) or name == prefix


def _difference(record: Mapping[str, Any], expected: Layout, prefix: str = "") -> str:
    """What of a checkpoint is not as expected, to end an error with: the first of it."""
    saved = listed(record)
    if saved is None:
        return ""
    there, here = (
        {name: f"{a.dtype}{list(a.shape)}" for name, a in arrays.items() if name.startswith(prefix)}
        for arrays in (saved, expected)
    )
    names = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    first = f"{names[0]} is {there.get(names[0], 'absent')} there and {here.get(names[0], 'absent')} here"
    return f" ({first}{f', and {len(names) - 1} more' if len(names) > 1 else ''})" if names else ""
