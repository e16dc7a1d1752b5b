"""Keeps what JaxMARL, Brax and MuJoCo print while they are imported or used from our users."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Neither prints nor warnings come through.

    JaxMARL's MABrax module replaces ``sys.stdout`` and ``sys.stderr`` while it is imported and then puts
    the interpreter's original streams there, which would undo any capture in force. So the originals are
    covered as well, and all four are put back.
    """
    names = ("stdout", "stderr", "__stdout__", "__stderr__")
    streams = {name: getattr(sys, name) for name in names}
    try:
        for name in names:
            setattr(sys, name, io.StringIO())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, stream in streams.items():
            setattr(sys, name, stream)


@contextlib.contextmanager
def quiet_mujoco() -> Iterator[None]:
    """Keeps MuJoCo, which parses Brax's models, from printing warnings and writing a log file to the
    working directory."""
    import mujoco

    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(previous)
