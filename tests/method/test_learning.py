"""What has to be learnt is learnt, and what cannot be is not."""

import jax
import pytest

from fp3o_jax import Config, make_evaluate, make_train


@pytest.mark.parametrize("algorithm", ["fp3o", "happo"])
@pytest.mark.parametrize(
    ("sharing", "agent_id", "solved"),
    [("none", True, True), ("partial", False, True), ("full", True, True), ("full", False, False)],
)
def test_xor_needs_distinct_policies(algorithm, sharing, agent_id, solved):
    config = Config(
        env="matrix/xor",
        algorithm=algorithm,
        sharing=sharing,
        agent_id=agent_id,
        num_envs=32,
        rollout_length=8,
        total_env_steps=32 * 8 * 60,
        actor_lr=3e-3,
        critic_lr=3e-3,
        hidden_sizes=(16,),
    )
    train = make_train(config)
    out = jax.jit(train)(jax.random.key(0))
    last = float(out["metrics"]["episode_return"][-10:].mean())
    greedy = make_evaluate(train, 16)(out["state"].params, jax.random.key(1))["episode_return"].mean()
    if solved:
        assert last > 0.9
        assert greedy == 1.0
    else:
        # One policy for both: at best a fair coin for each, right half of the time.
        assert last < 0.6
        assert greedy == 0.0
