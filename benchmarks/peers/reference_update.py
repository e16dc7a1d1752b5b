"""One FP3O update of the reference in PyTorch, for ``against_reference.py``. Made to be started by it."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import protocol


def main() -> None:
    spec = protocol.begin()
    sys.path.insert(0, spec["checkout"])
    sys.argv = sys.argv[:1]
    import torch
    from algorithms.fp3o_policy import FP3O_Policy
    from algorithms.fp3o_trainer import FP3O
    from configs.config import get_config
    from utils.separated_buffer import SeparatedReplayBuffer

    n, sharing = spec["num_agents"], spec["sharing"]
    args = get_config().parse_known_args([])[0]
    args.share_policy, args.partial_share = sharing != "none", sharing == "partial"
    args.episode_length, args.n_rollout_threads = spec["rollout_length"], spec["num_envs"]
    args.hidden_size, args.ppo_epoch, args.num_mini_batch = spec["hidden_size"], spec["epochs"], 1
    args.use_recurrent_policy = args.use_popart = args.use_valuenorm = False
    # Spaces are told apart by the names of their classes.
    box, discrete = type("Box", (), {}), type("Discrete", (), {})
    obs, state, action = box(), box(), discrete()
    obs.shape, state.shape, action.n = (spec["obs_size"],), (spec["state_size"],), spec["num_actions"]

    device = torch.device("cpu")
    # In partial sharing one policy has a head for each agent.
    heads = {"partial_share": True, "num_agents": n} if sharing == "partial" else {}
    actions = [action] * n if heads else action
    trainers = [
        FP3O(args, FP3O_Policy(args, obs, state, actions, device=device, **heads), device=device)
        for _ in range(n if sharing == "none" else 1)
    ]

    rng = np.random.default_rng(0)
    buffers = []
    for _ in range(n):
        buffer = SeparatedReplayBuffer(args, obs, state, action)
        for name in ("obs", "share_obs", "value_preds", "returns"):
            array = getattr(buffer, name)
            array[:] = rng.standard_normal(array.shape)
        buffer.actions[:] = rng.integers(0, action.n, buffer.actions.shape)
        buffer.action_log_probs[:] = -np.log(action.n)
        buffers.append(buffer)

    # Their runner's own method, on an object with what it reads: no environments have to exist.
    folder = {"full": "shared", "partial": "partial", "none": "separated"}[sharing]
    train = importlib.import_module(f"runners.{folder}.base_runner").Runner.train
    runner = SimpleNamespace(
        all_args=args,
        buffer=buffers,
        trainer=trainers if sharing == "none" else trainers[0],
        num_agents=n,
        episode_length=args.episode_length,
        n_rollout_threads=args.n_rollout_threads,
        use_recurrent_policy=False,
        data_chunk_length=args.data_chunk_length,
    )
    train(runner)
    protocol.serve(lambda: train(runner), torch=torch.__version__, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
