"""Several devices: a program of two CPU devices in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from finite import assert_allclose

RUNS = Path(__file__).parent / "helpers" / "device_runs.py"
PROGRAM = """
import json, sys
import fp3o_jax, jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
train = fp3o_jax.make_train(json.loads(sys.argv[1]))
keys, mesh = jax.random.split(jax.random.key(0), 2), Mesh(np.array(jax.devices()), ("seeds",))
results = {
    "vmap": jax.jit(jax.vmap(train))(keys),
    "sharded keys": jax.jit(jax.vmap(train))(jax.device_put(keys, NamedSharding(mesh, P("seeds")))),
    "pmap": jax.pmap(train)(keys),
    "shard_map": jax.jit(
        jax.shard_map(
            jax.vmap(train), mesh=mesh, in_specs=P("seeds"), out_specs=P("seeds"), check_vma=False
        )
    )(keys),
}
for name, out in results.items():
    print(json.dumps([name, np.asarray(out["metrics"]["entropy"]).tolist()]))
"""


def test_seeds_on_two_devices():
    settings = {
        **{"env": "matrix/climbing", "num_envs": 4, "rollout_length": 8, "total_env_steps": 96},
        **{"epochs": 2, "num_minibatches": 2, "hidden_sizes": [8], "layer_norm": False},
    }
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(settings)],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = dict(json.loads(line) for line in done.stdout.splitlines())
    assert list(results) == ["vmap", "sharded keys", "pmap", "shard_map"]
    for name, entropy in results.items():
        assert_allclose(entropy, results["vmap"], rtol=1e-4, err_msg=name)


def test_a_run_spread_over_devices(tmp_path):
    """On 1, 2 and 4 the same, and when it goes on with on another number.

    Seeds lie each on one device, and no device waits for another; of a single seed the shards do, and all
    that they exchange are sums.
    """
    settings = {
        **{"env": "matrix/climbing", "num_envs": 4, "rollout_length": 8, "total_env_steps": 160},
        **{"epochs": 2, "num_minibatches": 2, "hidden_sizes": [8], "layer_norm": False, "sharing": "none"},
    }
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, str(RUNS), json.dumps(settings), str(tmp_path)],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    stopped, stopped_too, *runs, of_seeds, of_shards, refused, looped = map(
        json.loads, done.stdout.splitlines()
    )
    assert (stopped, stopped_too) == ({"stopped": [3, 3, 3]}, {"stopped": [3]})
    seeds, shards = ("1", "2", "all", "resumed"), ("1", "all", "resumed")
    assert [run["run"] for run in runs] == [f"seeds/{n}" for n in seeds] + [f"shards/{n}" for n in shards]
    assert len(runs[0]["rows"]) == 3 * 5
    assert len(runs[4]["rows"]) == 5
    # Sums over shards are added up in another order.
    for run, one, rtol in zip(runs, [runs[0]] * 4 + [runs[4]] * 3, [1e-4] * 4 + [1e-3] * 3, strict=True):
        for ours, theirs in zip(run["rows"], one["rows"], strict=True):
            assert ours.keys() == theirs.keys()
            for name in ours:
                assert_allclose(ours[name], theirs[name], rtol=rtol, atol=rtol / 10, err_msg=name)
        assert_allclose(run["leaves"], one["leaves"], rtol=rtol, atol=rtol)
        for ours, theirs in zip(run["final"], one["final"], strict=True):
            assert ours.keys() == theirs.keys()
            for name in ours:
                assert_allclose(ours[name], theirs[name], rtol=rtol, err_msg=name)
        assert run["played"] == one["played"]
    assert of_seeds == {"devices": 3, "collectives": []}
    assert of_shards == {"devices": 4, "collectives": ["all-reduce"]}
    assert refused["error"].startswith("devices=8 is more than there are: 4")
    assert looped == {"in one loop": 4, "same": True}


def test_a_run_that_looks_for_nans(tmp_path):
    """``JAX_DEBUG_NANS`` finds none in a run in which there are none."""
    command = [sys.executable, "-m", "fp3o_jax.cli", "train", "--env", "mpe/simple_spread"]
    command += ["--num-envs", "2", "--rollout-length", "4", "--total-env-steps", "16", "--hidden-sizes", "8"]
    command += ["--eval-episodes", "2", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, env=os.environ | {"JAX_DEBUG_NANS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "summary.json").exists()
