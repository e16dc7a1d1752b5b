"""Every robot, division and range of sight beside MaMuJoCo itself: what differs, and in how many steps.

    python tests/checks/mamujoco_check.py
    python tests/checks/mamujoco_check.py --only ant --steps 1000

Prints a row for each, as ``docs/fidelity.md`` has them. Status 1 if there is a difference.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

from fp3o_jax.envs.mamujoco import TASKS
from mamujoco_original import episode_differences, ours, size_differences


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="tasks whose name has this")
    parser.add_argument("--steps", type=int, default=1000, help="of each episode, its time limit at most")
    options = parser.parse_args()
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


if __name__ == "__main__":
    sys.exit(main())
