"""Every robot, division and range of sight beside MaMuJoCo itself: what differs, and in how many steps.

    python tests/checks/mamujoco_check.py
    python tests/checks/mamujoco_check.py --only ant --steps 100
    python tests/checks/mamujoco_check.py --mjx

Prints a row for each, as ``docs/fidelity.md`` has them. Status 1 if MuJoCo in C differs in anything; how far
MJX does is for the reader to judge.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

import jax

from fp3o_jax.envs.mamujoco import TASKS
from mamujoco_original import device_differences, episode_differences, ours, size_differences


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="tasks whose name has this")
    parser.add_argument("--steps", type=int, default=1000, help="of each episode, its time limit at most")
    parser.add_argument("--mjx", action="store_true", help="single steps of MJX instead, beside MuJoCo in C")
    parser.add_argument("--float64", action="store_true", help="with --mjx: in float64")
    parser.add_argument("--effort", default="full", help="with --mjx: of its solver")
    options = parser.parse_args()
    if not any(options.only in task for task in TASKS):
        parser.error(f"--only {options.only}: no task's name has this, of {', '.join(TASKS)}")
    jax.config.update("jax_enable_x64", options.float64)
    return on_device(options) if options.mjx else in_c(options)


def in_c(options: argparse.Namespace) -> int:
    """Whole episodes on MuJoCo in C."""
    print(
        "| task | agent_obsk | sizes, bounds, limit | steps | ended | obs | state | reward | end | relative |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    failed = False
    for task in TASKS:
        for agent_obsk in (0, 1, None):
            if options.only not in task:
                continue
            start = time.perf_counter()
            sizes = size_differences(task, agent_obsk)
            d = episode_differences(task, agent_obsk, options.steps)
            differences = [d[name] for name in ("observation", "state", "reward", "end")]
            failed |= bool(sizes) or any(differences)
            cells = [
                task,
                agent_obsk,
                sizes or "equal",
                d["steps"],
                d["ended"],
                *differences,
                f"{d['relative']:.1e}",
            ]
            print("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |", end="")
            print(f"  {time.perf_counter() - start:.1f} s", flush=True)
        ours.cache_clear()
    return int(failed)


def on_device(options: argparse.Namespace) -> int:
    """Single steps on MJX, each from a state of MuJoCo's; by how much of 1 + the value they differ."""
    print("| task | qpos | qvel | reward | obs | median of the worst | ends | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    robots = {task.partition("_")[0]: task for task in TASKS if options.only in task}
    for task in robots.values():
        start = time.perf_counter()
        d = device_differences(task, min(options.steps, 50), effort=options.effort)
        cells = [task.replace("|", "\\|"), *(f"{x:.1e}" if isinstance(x, float) else x for x in d.values())]
        print(f"| {' | '.join(map(str, cells))} | {time.perf_counter() - start:.0f} |", flush=True)
        ours.cache_clear()
    return 0


if __name__ == "__main__":
    sys.exit(main())
