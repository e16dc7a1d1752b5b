"""Runs of environment objects, and policies that act where their training could not go on."""

import contextlib
import dataclasses
import gc
import json
import shutil
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from finite import assert_array_equal
from fp3o_jax import Config, ConfigError, load_policy, make_env, make_evaluate
from fp3o_jax.cli import main
from fp3o_jax.evaluation import record
from fp3o_jax.policy import Policy
from fp3o_jax.runs import RunOptions, evaluate_run, load_run, render_run, run_training
from fp3o_jax.runs.checkpoints import Checkpoints
from fp3o_jax.train import make_train

CONFIG = Config(
    env="matrix/climbing",
    num_envs=4,
    rollout_length=8,
    total_env_steps=64,
    hidden_sizes=(8,),
    layer_norm=False,
    epochs=1,
)
QUIET = Console(quiet=True)


def mine(bonus=0.0, **changes):
    """An environment of one's own, which knows things that no name tells: climbing with a bonus."""
    base = make_env("matrix/climbing")

    def step(key, state, actions):
        state, observation, outcome = base.step(key, state, actions)
        return state, observation, outcome.replace(reward=outcome.reward + bonus)

    return dataclasses.replace(base, **{"name": "mine", "step": step} | changes)


def with_a_new_field(env):
    """The same game, whose state has grown."""

    def reset(key):
        state, observation = env.reset(key)
        return {"state": state, "new": jnp.zeros(3)}, observation

    def step(key, state, actions):
        inner, observation, outcome = env.step(key, state["state"], actions)
        return state | {"state": inner}, observation, outcome

    return dataclasses.replace(env, reset=reset, step=step)


def trained(path, env=None):
    return run_training(CONFIG, RunOptions(run_dir=path, eval_episodes=4), env=env, console=QUIET)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    path = tmp_path_factory.mktemp("acting") / "named"
    trained(path)
    return path


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("acting") / "own"
    trained(path, mine(bonus=100.0))
    return path


def test_an_environment_object_needs_a_directory(tmp_path, monkeypatch):
    """Two objects of one class would have one default directory: the second was told the first's return."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"settings of an environment object are unknown.*run_dir="):
        run_training(CONFIG, env=mine(), console=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_an_environment_object_is_asked_for(own):
    said = r"trained on an environment object, a fp3o_jax\.envs\.base\.Environment, .*env=\.\.\."
    for use in (load_run, load_policy, evaluate_run, render_run, trained):
        with pytest.raises(ConfigError, match=said):
            use(own)
    other = dataclasses.replace(make_env("matrix/xor", {"num_agents": 4}), name="mine")
    for use in (load_run, load_policy, trained):
        with pytest.raises(
            ConfigError, match=r"another environment .*obs_sizes is \[1, 1\] there and \[1, 1, "
        ):
            use(own, env=other)


def test_an_environment_object_is_asked_for_on_the_command_line(own, capsys):
    for args in (["evaluate", str(own)], ["export", str(own)], ["train", "--resume", str(own)]):
        assert main(args) == 2
        assert "was trained on an environment object" in capsys.readouterr().err


def test_an_environment_object_is_played(own):
    (row,) = evaluate_run(own, episodes=4, env=mine(bonus=100.0), console=QUIET)
    assert 70 <= row["episode_return"] <= 111
    assert isinstance(load_policy(own, env=mine()), Policy)
    assert int(load_run(own, env=mine())[1].num_updates[0]) == 2
    with pytest.raises(ConfigError, match="has nothing to draw"):
        render_run(own, env=mine(), console=QUIET)


SURROUNDINGS = {
    "x64": lambda: jax.enable_x64(True),
    "another PRNG": lambda: jax.default_prng_impl("rbg"),
    "a new field in the environment's state": contextlib.nullcontext,
}


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_acting_needs_the_parameters_alone(named, surroundings, tmp_path):
    """Training cannot go on to the bit here, and says why; the policy is the same."""
    weights = load_policy(named).params
    env = with_a_new_field(make_env("matrix/climbing")) if "field" in surroundings else None
    with SURROUNDINGS[surroundings]():
        (row,) = evaluate_run(named, episodes=4, env=env, console=QUIET)
        assert np.isfinite(row["episode_return"])
        assert row["episode_length"] == 1
        policy = load_policy(named, env=env)
        jax.tree.map(assert_array_equal, policy.params, weights)
        obs = {a: jnp.ones(n) for a, n in zip(policy.agents, policy.architecture["obs_sizes"], strict=True)}
        actions, _ = policy.act(obs, jax.random.key(0), policy.initial_state())
        assert len(actions) == 2
        with pytest.raises(ConfigError, match=r"does not fit this config.* there and .* here"):
            load_run(named, env=env)


def template(config=CONFIG):
    return jax.eval_shape(jax.vmap(make_train(config).init), jax.random.split(jax.random.key(0), 1))


def test_parameters_of_another_size_do_not_fit(named):
    checkpoints = Checkpoints(named / "checkpoints")
    with pytest.raises(ConfigError, match=r"its params are of another config .*there and .*here"):
        checkpoints.restore_part(template(CONFIG.replace(hidden_sizes=(16,))), "params")
    checkpoints.close()


def test_checkpoints_without_a_list_are_read_as_a_whole(named, monkeypatch):
    """As versions before the list wrote them: they act where the whole state fits, and else say so."""
    restore = Checkpoints._restore

    def unlisted(self, step, **items):
        result = restore(self, step, **items)
        if "run" in items:
            del result.run["arrays"], result.run["record"]  # neither a list nor a hash of the record
        return result

    weights = load_policy(named).params
    monkeypatch.setattr(Checkpoints, "_restore", unlisted)
    jax.tree.map(assert_array_equal, load_policy(named).params, weights)
    assert int(load_run(named)[1].num_updates[0]) == 2
    with pytest.raises(ConfigError, match="lists no parts"):
        load_policy(named, env=with_a_new_field(make_env("matrix/climbing")))


def test_the_list_tells_what_the_bytes_are(named):
    checkpoints = Checkpoints(named / "checkpoints")
    record = checkpoints.restore(template()).record
    checkpoints.close()
    names = [name for name, _, _ in record["arrays"]]
    assert names == sorted(names)
    assert any(name.startswith(".params['actor']") for name in names)
    json.dumps(record)


def test_playing_keeps_no_trainer_alive():
    trainer = make_train(CONFIG)
    state = jax.jit(trainer.init)(jax.random.key(0))
    for _ in range(2):
        episode = record(trainer, state.params, jax.random.key(1))
    assert np.isfinite(episode.outcomes.reward).all()
    results = jax.jit(make_evaluate(trainer, 2))(state.params, jax.random.key(1))
    assert np.isfinite(results["episode_return"]).all()
    jax.jit(trainer)(jax.random.key(0))
    gone = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert gone() is None


def test_reading_leaves_alone_what_is_being_written(named):
    """Whoever looks at a run that goes on must not remove its half-written checkpoint."""
    half = named / "checkpoints" / "7.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "part").write_text("")
    load_run(named)
    assert (half / "part").exists()
    (half / "part").unlink()
    half.rmdir()


def test_a_damaged_record_is_not_the_best(named, tmp_path):
    path = tmp_path / "copy"
    shutil.copytree(named, path)
    (file,) = path.glob("checkpoints/*/run/metadata")
    file.write_text("nothing that JSON holds")
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(ConfigError, match="no whole checkpoint"),
    ):
        load_run(path, best=True)
