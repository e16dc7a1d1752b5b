"""The runs of a program over devices: each run wholly on one of them, so that none waits for another."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fp3o_jax.config import ConfigError

#: Name of the mesh's only axis.
RUNS = "runs"


@dataclasses.dataclass(frozen=True)
class RunAxis:
    """The leading axis of a program: its runs, in equal parts over the devices.

    Where they do not come out even, the last run is there several times; the copies are dropped with
    :meth:`real`.

    Attributes:
        num_runs: how many there are.
        devices: what they are spread over.
    """

    num_runs: int
    devices: tuple[jax.Device, ...]

    @property
    def per_device(self) -> int:
        return -(-self.num_runs // len(self.devices))

    @property
    def size(self) -> int:
        """Length of the axis, copies counted."""
        return self.per_device * len(self.devices)

    @property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (RUNS,))

    def jit(self, fn: Callable[..., Any], **options: Any) -> Any:
        """``jax.jit`` of a function of one run over the axis; no device sees anything of the others."""
        alone = over_seeds(fn, self.per_device)
        if len(self.devices) == 1:
            return jax.jit(alone, **options)
        mesh, spec = self._mesh, PartitionSpec(RUNS)
        shared = jax.shard_map(alone, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        where = NamedSharding(mesh, spec)
        return jax.jit(shared, in_shardings=where, out_shardings=where, **options)

    def place(self, tree: Any) -> Any:
        """Leaves [num_runs, ...] as :meth:`jit` takes them: [size, ...], each part on its device."""
        if len(self.devices) == 1:
            return tree
        rows = np.minimum(np.arange(self.size), self.num_runs - 1)
        return jax.device_put(
            jax.tree.map(lambda x: x[rows], tree), NamedSharding(self._mesh, PartitionSpec(RUNS))
        )

    def real(self, tree: Any) -> Any:
        """Leaves [size, ...] without the copies."""
        if self.size == self.num_runs:
            return tree
        return jax.tree.map(lambda x: x[: self.num_runs], tree)


def spread(num_runs: int, devices: int | Literal["all"] = "all") -> RunAxis:
    """The runs of a program over so many of the devices that there are, or fewer if that is as fast.

    Raises:
        ConfigError: there are not so many; or several processes share the work, of which each would take all
            of it.
    """
    if jax.process_count() > 1:
        raise ConfigError(
            f"{jax.process_count()} processes have joined one jax.distributed, and a program trains in one: "
            "start a job of its own for each program (`fp3o sweep ... --index K`) instead"
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
    return RunAxis(num_runs, tuple(there[: -(-num_runs // per_device)]))


def over_seeds(fn: Callable[..., Any], num_seeds: int) -> Callable[..., Any]:
    """``jax.vmap(fn)``; one seed goes without, for which XLA compiles a quarter less."""
    if num_seeds > 1:
        return jax.vmap(fn)

    @functools.wraps(fn)
    def alone(*args: Any) -> Any:
        result = fn(*jax.tree.map(lambda x: jax.lax.squeeze(x, (0,)), args))
        return jax.tree.map(lambda x: jax.lax.expand_dims(x, (0,)), result)

    return alone
