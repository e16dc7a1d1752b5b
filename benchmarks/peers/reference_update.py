"""Whole updates of the reference, for ``against_reference.py``. Made to be started by it.

It is told the fields of ``random_team.Sizes``, and ``checkout``, ``sharing`` and ``popart``. Nothing of this
package is imported here, and nothing of the reference is written down: its own runner's ``train`` is called.
"""

from __future__ import annotations

import copy
import importlib
import math
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import protocol
import torch

FOLDERS = {"full": "shared", "partial": "partial", "none": "separated"}


def arguments(settings: dict[str, Any]) -> Any:
    """The reference's own defaults, but for the sizes, the sharing and PopArt."""
    values = {
        "--episode_length": settings["rollout_length"],
        "--n_rollout_threads": settings["num_envs"],
        "--hidden_size": settings["hidden_size"],
        "--ppo_epoch": settings["epochs"],
        "--num_mini_batch": 1,
    }
    flags = [f"{name}={value}" for name, value in values.items()]
    if settings["sharing"] != "none":
        flags.append("--share_policy")
    if settings["sharing"] == "partial":
        flags.append("--partial_share")
    if not settings["popart"]:
        # Stores False: PopArt is on by default.
        flags.append("--use_popart")
    return importlib.import_module("configs.config").get_config().parse_args(flags)


def spaces(settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Spaces of observations, states and actions."""
    from gym.spaces import Box, Discrete

    def box(size: int) -> Box:
        return Box(-np.inf, np.inf, (size,), np.float32)

    return box(settings["obs_size"]), box(settings["state_size"]), Discrete(settings["num_actions"])


def make_trainer(settings: dict[str, Any], args: Any) -> Any:
    """The trainer, or a list of one for each agent where nothing is shared."""
    trainer = importlib.import_module("algorithms.fp3o_trainer").FP3O
    policy = importlib.import_module("algorithms.fp3o_policy").FP3O_Policy
    n, (obs, state, action) = settings["num_agents"], spaces(settings)
    if settings["sharing"] == "none":
        return [trainer(args, policy(args, obs, state, action)) for _ in range(n)]
    if settings["sharing"] == "partial":
        return trainer(args, policy(args, obs, state, [action] * n, partial_share=True, num_agents=n))
    return trainer(args, policy(args, obs, state, action))


def make_buffer(settings: dict[str, Any], args: Any, rng: np.random.Generator) -> Any:
    """One agent's buffer, full of noise; 80 % of the samples are of a living agent."""
    buffer = importlib.import_module("utils.separated_buffer").SeparatedReplayBuffer(args, *spaces(settings))
    for name in ("obs", "share_obs", "value_preds", "returns"):
        array = getattr(buffer, name)
        array[:] = rng.normal(size=array.shape)
    buffer.actions[:] = rng.integers(settings["num_actions"], size=buffer.actions.shape)
    # Fresh policies are all but uniform.
    buffer.action_log_probs[:] = -math.log(settings["num_actions"])
    buffer.active_masks[:] = rng.random(buffer.active_masks.shape) < 0.8
    return buffer


def never_skip(pipelines: Any) -> None:
    """Lets every epoch run: the condition is evaluated as ever, but on noise its answer is chance."""
    evaluate = pipelines.is_satisfy_st

    def satisfied(self: Any, samples: Any) -> bool:
        evaluate(self, samples)
        return True

    pipelines.is_satisfy_st = satisfied


def main() -> None:
    settings = protocol.begin()
    sys.path.insert(0, settings["checkout"])
    torch.manual_seed(0)
    args, rng = arguments(settings), np.random.default_rng(0)
    runner = importlib.import_module(f"runners.{FOLDERS[settings['sharing']]}.base_runner").Runner
    never_skip(importlib.import_module("algorithms.fp3o_trainer").PPO_Trainer)
    # What `train` reads of a runner; a real one would want environments.
    fresh = SimpleNamespace(
        all_args=args,
        num_agents=settings["num_agents"],
        episode_length=args.episode_length,
        n_rollout_threads=args.n_rollout_threads,
        use_recurrent_policy=args.use_recurrent_policy,
        data_chunk_length=args.data_chunk_length,
        buffer=[make_buffer(settings, args, rng) for _ in range(settings["num_agents"])],
        trainer=make_trainer(settings, args),
    )
    protocol.serve(
        runner.train,
        # Always from the same policies: else they drift off from the actions' recorded probabilities.
        prepare=lambda: copy.deepcopy(fresh),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
