"""Whether a compiled program fits the device that it is for."""

from __future__ import annotations

import os
from typing import Any

import jax

from fp3o_jax.config import Config, ConfigError

GIB = 2**30


class TooLarge(ConfigError):
    """A program does not fit its device.

    Attributes:
        fitting: how many of its runs would; 0 if not one does.
    """

    def __init__(self, message: str, fitting: int):
        super().__init__(message)
        self.fitting = fitting


def check_memory(compiled: Any, config: Config, device: jax.Device, num_runs: int) -> None:
    """Whether a program fits, by XLA's own analysis; where XLA or the device says nothing, it does.

    Args:
        compiled: the program.
        config: of its runs.
        device: one of those that it is for.
        num_runs: how many of its runs lie on that device.

    Raises:
        TooLarge: it does not; the message says what would.
    """
    needed, there = needed_bytes(compiled), device_bytes(device)
    if needed is None or there is None or needed <= there:
        return
    fitting = int(num_runs * there / needed)
    # What a run takes grows with its environments, but for weights, which are little.
    num_envs = max(1, int(config.num_envs * there / needed))
    fewer = f"{fitting} run(s) at a time or " * (num_runs > 1 and fitting > 0)
    raise TooLarge(
        f"num_envs={config.num_envs} with {num_runs} run(s) side by side needs {needed / GIB:.3g} GiB, and "
        f"{device.device_kind} has {there / GIB:.3g}: {fewer}about num_envs={num_envs} would fit",
        fitting,
    )


def needed_bytes(compiled: Any) -> int | None:
    """Input, output that does not take the input's place, and temporaries, on each device."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    output = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return analysis.argument_size_in_bytes + output + analysis.temp_size_in_bytes


def device_bytes(device: jax.Device) -> int | None:
    """What JAX may take of a device's memory; of a CPU's, its share of the machine's."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    if device.platform != "cpu" or not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(jax.local_devices())
