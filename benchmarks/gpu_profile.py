"""Kernels of one iteration, counted by phase, from a profile of ``jax.profiler``.

A kernel is called as an instruction of the compiled program; what that instruction comes from stands in the
program's text, with the names of the phases (``jax.named_scope``). Nothing but JAX is needed.
"""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax


def _scope(names: str) -> re.Pattern[str]:
    """A whole part of a path such as ``jit(update)/vmap(collect)/while``: names of Python's functions, which
    JAX puts there too, may be of whoever was the first to call what is traced once."""
    return re.compile(rf"(?:^|/)(?:\w+\()*({names})\)*(?:/|$)")


PHASE = _scope("collect|targets|learn")
WITHIN = {"environment": _scope("environment"), "random numbers": re.compile(r"threefry|random_")}
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = .*?\s([\w-]+)\(")
ORIGIN = re.compile(r'op_name="([^"]*)"')
#: Their events span those of what they call.
CALLERS = ("while", "conditional", "call", "async-start", "async-done")
ELSEWHERE = "elsewhere"


def phase_of(origin: str) -> str | None:
    """The phase that JAX's name of an operation lies in, and the part of the phase; None outside of all."""
    found = PHASE.search(origin)
    if not found:
        return None
    within = [name for name, pattern in WITHIN.items() if pattern.search(origin)]
    return ", ".join([found[1], *within])


def phases_of(text: str) -> dict[str, str]:
    """Instruction -> phase, of a compiled program's text; callers are left out.

    What XLA made up itself, such as copies, belongs to the commonest phase of its computation.
    """
    phases: dict[str, str] = {}
    for computation in re.split(r"\n}\n", text):
        own: dict[str, str | None] = {}
        for line in computation.splitlines():
            found = INSTRUCTION.match(line)
            if found and found[2] not in CALLERS:
                origin = ORIGIN.search(line)
                known_path = origin is not None and "/" in origin[1]
                own[found[1]] = (phase_of(origin[1]) or ELSEWHERE) if known_path else None
        known = Counter(phase for phase in own.values() if phase)
        rest = known.most_common(1)[0][0] if known else ELSEWHERE
        phases |= {name: phase or rest for name, phase in own.items()}
    return phases


def calls(events: list[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """(instruction, microseconds) of every kernel of a trace; of a GPU, what its streams did.

    A GPU's trace shows the same work on other lines as well.
    """
    named = {
        (e["pid"], e.get("tid")): e["args"]["name"]
        for e in events
        if e.get("ph") == "M" and e.get("name") == "thread_name"
    }
    streams = {line for line, name in named.items() if name.startswith("Stream")}
    for event in events:
        if event.get("ph") != "X":
            continue
        instruction = event.get("args", {}).get("hlo_op")
        if (event["pid"], event.get("tid")) in streams or (not streams and instruction):
            yield instruction or "", event.get("dur", 0.0)


def count(events: list[Mapping[str, Any]], text: str) -> list[dict[str, Any]]:
    """Kernels and their milliseconds by phase, and of the kernels that took longest.

    Args:
        events: ``traceEvents`` of a profile.
        text: of the compiled program.
    """
    phases, streams = phases_of(text), defaultdict(list)
    callers = re.compile(rf"(?:{'|'.join(CALLERS)})[.\d]*$")
    for instruction, duration in calls(events):
        if not callers.match(instruction):
            streams[phases.get(instruction, ELSEWHERE)].append(duration)
    total = sum(map(sum, streams.values())) or 1.0
    return [
        {
            "label": phase,
            "kernels": len(times),
            "kernel_ms": sum(times) / 1e3,
            "share": sum(times) / total,
            "mean_us": sum(times) / len(times),
        }
        for phase, times in sorted(streams.items(), key=lambda item: -sum(item[1]))
    ]


def profiled(run: Callable[[], Any]) -> list[Mapping[str, Any]]:
    """The events of one call."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(run())
        (path,) = Path(folder).rglob("*.trace.json.gz")
        with gzip.open(path) as file:
            return json.load(file)["traceEvents"]
