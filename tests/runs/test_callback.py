"""A function of the user's that is called after each update."""

import json

import pytest
from rich.console import Console

from finite import assert_allclose
from fp3o_jax import Config
from fp3o_jax.runs import RunOptions, run_training

CONFIG = Config(
    **{"env": "matrix/climbing", "num_envs": 4, "rollout_length": 8, "total_env_steps": 96},
    **{"hidden_sizes": (8,), "layer_norm": False, "epochs": 1, "num_seeds": 2},
)


def test_it_gets_what_is_written(tmp_path):
    """And what it raises ends the run, which then goes on where it was."""
    seen, options = [], RunOptions(tmp_path / "run", eval_episodes=2, checkpoint_seconds=0)

    def watch(rows):
        seen.append([(row["update"], row["seed"], row["entropy"]) for row in rows])
        if len(seen) == 2:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        run_training(CONFIG, options, on_update=watch, console=Console(quiet=True))
    assert len(seen) == 2
    run_training(CONFIG, options, on_update=watch, console=Console(quiet=True))
    written = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    told = {(update, seed): entropy for rows in seen for update, seed, entropy in rows}
    assert len(told) == len(written) == 3 * 2
    for row in written:
        assert_allclose(told[row["update"], row["seed"]], row["entropy"], rtol=1e-6)
