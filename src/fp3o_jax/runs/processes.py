"""One run over several processes: process 0 leads, the others follow.

The leader decides, writes and logs, as if it were alone. What all must compute together it tells the others
beforehand, who have the same programs.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from fp3o_jax.config import ConfigError
from fp3o_jax.runs.packing import blank, is_key, join, pack, room, split, unpack
from fp3o_jax.runs.programs import Programs
from fp3o_jax.runs.signals import deferred
from fp3o_jax.train import TrainState

#: What followers are told to do; each with two numbers.
END, INIT, PLACE, UPDATE, PLAY, GATHER = range(6)


def join_processes() -> None:
    """Joins the other processes of the run, where that has not been done.

    Slurm, Open MPI and TPU pods are found by JAX itself; elsewhere ``JAX_COORDINATOR_ADDRESS``,
    ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` say who there is.

    Raises:
        ConfigError: nobody says who the others are.
    """
    if jax.distributed.is_initialized():
        return
    number = {name: os.environ.get(f"JAX_{name.upper()}") for name in ("num_processes", "process_id")}
    try:
        jax.distributed.initialize(
            **{name: int(text) for name, text in number.items() if text is not None},
            shutdown_timeout_seconds=10,  # where one process is gone the others need not wait for it
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"distributed=True: {error}. Start a process for each task of Slurm or host of a TPU pod, or say "
            "who there is by JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from error
    # The first thing that is computed together must not have to wait, and compiling may take long.
    dismiss()


class Shared(Programs):
    """Programs that all processes run together, whose results each of them has as a whole."""

    def whole(self, tree: Any) -> Any:
        everywhere = NamedSharding(self.axis.mesh, PartitionSpec())
        return jax.tree.map(np.asarray, self.axis.real(jax.jit(_data, out_shardings=everywhere)(tree)))


class Leader(Shared):
    """As the leader has them: the others are told."""

    _lost = False

    def init(self) -> TrainState:
        self._tell(INIT)
        return super().init()

    def place(self, state: TrainState) -> TrainState:
        self._tell(PLACE)
        return super().place(_state_from(self, join(pack(state))))

    def update(self, state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        self._tell(UPDATE)
        return super().update(state)

    def play(self, mode: str, state: TrainState, update: int) -> dict[str, Array]:
        self._tell(PLAY, self.modes.index(mode), update)
        return super().play(mode, state, update)

    def gather(self, state: TrainState) -> TrainState:
        self._tell(GATHER)
        return super().gather(state)

    def cancel(self) -> None:
        super().cancel()
        if not self._lost:
            self._tell(END)

    def _tell(self, *what: int) -> None:
        self._lost = True  # for the time being: where one process is gone, this raises
        _from_leader(np.array([*what, 0, 0][:3]))
        self._lost = False


def follow(programs: Shared) -> None:
    """Computes what the leader says, to its end. Signals are the leader's business."""
    state: Any = None
    programs.compile()
    with deferred():
        while True:
            what, a, b = _from_leader(np.zeros(3, int)).tolist()
            if what == END:
                return
            if what == INIT:
                state = programs.init()
            elif what == PLACE:
                state = programs.place(_state_from(programs, room(blank(programs.template))))
            elif what == UPDATE:
                state, _ = programs.update(state)
            elif what == PLAY:
                programs.play(programs.modes[a], state, b)
            else:
                programs.gather(state)


def _data(tree: Any) -> Any:
    """Keys as their data. Not made anew where it is jitted, or each call would compile again."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def dismiss() -> None:
    """There is nothing to do for those who follow."""
    _from_leader(np.array([END, 0, 0]))


def _state_from(programs: Programs, data: np.ndarray) -> TrainState:
    """The leader's state; of others only the length of ``data`` counts."""
    template = programs.template
    return unpack(split(_from_leader(data), blank(template)), template)


def _from_leader(array: np.ndarray) -> np.ndarray:
    return np.asarray(multihost_utils.broadcast_one_to_all(array))
