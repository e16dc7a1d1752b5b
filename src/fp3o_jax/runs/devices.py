"""The runs of a program over devices: each wholly on one of them, or its shards on several."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fp3o_jax.config import ConfigError
from fp3o_jax.kernels import shards
from fp3o_jax.runs.packing import is_key, without_keys

#: Name of the mesh's first axis; the second is `shards.DEVICES`.
RUNS = "fp3o_runs"
#: What each run has one of.
RUN = PartitionSpec(RUNS)
#: What each shard of a run has its own of.
SHARD = PartitionSpec(RUNS, shards.DEVICES)


@dataclasses.dataclass(frozen=True)
class RunAxis:
    """The leading axis of a program: its runs, in equal parts over the devices.

    Where they do not come out even, the last run is there several times; the copies are dropped with
    :meth:`real`.

    Attributes:
        num_runs: how many there are.
        devices: what they are spread over.
        per_run: how many of them share each run.
        idle: how many others were to be had, and have nothing to do.
    """

    num_runs: int
    devices: tuple[jax.Device, ...]
    per_run: int = 1
    idle: int = 0

    @property
    def per_device(self) -> int:
        return -(-self.num_runs * self.per_run // len(self.devices))

    @property
    def size(self) -> int:
        """Length of the axis, copies counted."""
        return self.per_device * (len(self.devices) // self.per_run)

    @property
    def mesh(self) -> Mesh:
        if self.per_run == 1:
            return Mesh(np.array(self.devices), (RUNS,))
        return Mesh(np.array(self.devices).reshape((-1, self.per_run)), (RUNS, shards.DEVICES))

    def _specs(self, layout: Any) -> Any:
        """A layout as this mesh has it."""
        if self.per_run > 1:
            return layout
        return jax.tree.map(lambda _: RUN, layout, is_leaf=_is_spec)

    def _shardings(self, layout: Any) -> Any:
        mesh = self.mesh
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), self._specs(layout), is_leaf=_is_spec)

    def jit(self, fn: Callable[..., Any], inputs: Any = RUN, outputs: Any = RUN, **options: Any) -> Any:
        """``jax.jit`` of a function of one run over the axis; no device sees anything of another's runs.

        Args:
            fn: a function of one run.
            inputs, outputs: `RUN` or `SHARD`, as prefixes of the arguments and of the result.
            options: of ``jax.jit``.
        """
        alone = over_seeds(fn, self.per_device)
        if len(self.devices) == 1:
            return jax.jit(alone, **options)
        shared = jax.shard_map(
            alone,
            mesh=self.mesh,
            in_specs=self._specs(inputs),
            out_specs=self._specs(outputs),
            check_vma=False,
        )
        where = {"in_shardings": self._shardings(inputs), "out_shardings": self._shardings(outputs)}
        return jax.jit(shared, **where, **options)

    def place(self, tree: Any, layout: Any = RUN) -> Any:
        """Leaves [num_runs, ...] as :meth:`jit` takes them: [size, ...], each part on its device."""
        if len(self.devices) == 1:
            return tree
        rows = np.minimum(np.arange(self.size), self.num_runs - 1)
        tree, where = jax.tree.map(lambda x: x[rows], tree), self._shardings(layout)
        if jax.process_count() == 1:
            return jax.device_put(tree, where)
        # Each process has all of it, as NumPy arrays, and keeps what its devices need.
        keys = jax.tree.map(is_key, tree)

        def wrapped(data: Any) -> Any:
            return jax.tree.map(lambda x, key: jax.random.wrap_key_data(x) if key else x, data, keys)

        return jax.jit(wrapped, out_shardings=where)(without_keys(tree))

    def real(self, tree: Any) -> Any:
        """Leaves [size, ...] without the copies."""
        if self.size == self.num_runs:
            return tree
        return jax.tree.map(lambda x: x[: self.num_runs], tree)


def _is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)


def spread(
    num_runs: int, devices: int | Literal["all"] = "all", env_shards: int = 1, distributed: bool = False
) -> RunAxis:
    """The runs of a program over so many of the devices that there are, or fewer if that is as fast.

    Args:
        num_runs: how many there are.
        devices: how many of them to take.
        env_shards: of each run, which share its devices where there are more of these than runs.
        distributed: over those of all processes, which share every run.

    Raises:
        ConfigError: there are not so many; or several processes share the work, of which each would take all
            of it.
    """
    if distributed:
        there = jax.devices()
        if env_shards % len(there):
            raise ConfigError(
                f"env_shards={env_shards} must be a multiple of the {len(there)} devices of "
                f"{jax.process_count()} processes, which share each run (distributed=True)"
            )
        return RunAxis(num_runs, tuple(there), len(there))
    if jax.process_count() > 1:
        raise ConfigError(
            f"{jax.process_count()} processes have joined one jax.distributed, and each would train all of "
            "it: for a run that they share say distributed=True and env_shards; for many runs start a job "
            "for each program (`fp3o sweep ... --index K`)"
        )
    there = jax.devices()
    wanted = len(there) if devices == "all" else devices
    if wanted > len(there):
        raise ConfigError(
            f"devices={devices} is more than there are: {len(there)} ({there[0].device_kind})"
            + ". On a CPU, XLA_FLAGS=--xla_force_host_platform_device_count=N makes N of them"
            * (there[0].platform == "cpu")
        )
    per_device = -(-num_runs // wanted)
    groups = -(-num_runs // per_device)
    per_run = max(d for d in range(1, wanted // groups + 1) if env_shards % d == 0)
    used = groups * per_run
    return RunAxis(num_runs, tuple(there[:used]), per_run, wanted - used)


def over_seeds(fn: Callable[..., Any], num_seeds: int) -> Callable[..., Any]:
    """``jax.vmap(fn)``; one seed goes without, for which XLA compiles a quarter less."""
    if num_seeds > 1:
        return jax.vmap(fn)

    @functools.wraps(fn)
    def alone(*args: Any) -> Any:
        result = fn(*jax.tree.map(lambda x: jax.lax.squeeze(x, (0,)), args))
        return jax.tree.map(lambda x: jax.lax.expand_dims(x, (0,)), result)

    return alone
