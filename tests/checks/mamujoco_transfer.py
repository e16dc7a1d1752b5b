"""A policy trained here plays in MaMuJoCo itself: its returns there and here.

    python tests/checks/mamujoco_transfer.py runs/hopper --episodes 20

Nothing is shared between the two but the policy: there it is MuJoCo's Python bindings, Gymnasium's robots and
MaMuJoCo's observations, through PettingZoo's dictionaries. Status 1 if the means are further apart than three
standard errors of their difference.
"""

import argparse
import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

from fp3o_jax import load_policy, make_evaluate
from fp3o_jax.policy import play
from fp3o_jax.runs.trained import load_params, pick_seeds
from mamujoco_original import original


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run directories")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--seed-index", type=int, default=0)
    parser.add_argument("--best", action="store_true", help="of the best checkpoint, instead of the newest")
    options = parser.parse_args()
    print("| run | episodes | return here | return there | length here | length there | apart |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    failed = False
    for run in options.runs:
        trainer, params = load_params(run, options.best)
        (index,) = pick_seeds(trainer.config, options.seed_index)
        params = jax.tree.map(lambda x, i=index: x[i], params)
        here = jax.jit(make_evaluate(trainer, options.episodes))(params, jax.random.key(1))
        task = trainer.config.env.removeprefix("mamujoco/")
        known = {k: v for k, v in trainer.config.env_kwargs.items() if k != "physics"}
        policy = load_policy(run, index, options.best)
        there = play(policy, original(task, known.pop("agent_obsk", 1), **known), options.episodes)
        cells = []
        for name in ("episode_return", "episode_length"):
            cells += [f"{np.mean(x[name]):.1f} (std {np.std(x[name]):.1f})" for x in (here, there)]
        a, b = (np.asarray(x["episode_return"], float) for x in (here, there))
        error = np.sqrt((a.var() + b.var()) / options.episodes)
        apart = abs(a.mean() - b.mean()) / max(error, 1e-9)
        failed |= not apart <= 3
        print(
            f"| {run} | {options.episodes} | {' | '.join(cells)} | {apart:.2f} standard errors |", flush=True
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
