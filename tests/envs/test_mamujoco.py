"""Multi-agent MuJoCo is MaMuJoCo, bit for bit on the same physics; and it lives in a JAX program.

``python tests/checks/mamujoco_check.py`` compares whole episodes of everything there is.
"""

import dataclasses
import importlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco import mjx
from PIL import Image

from finite import assert_allclose, assert_array_equal
from fp3o_jax import Config, ConfigError, make_env, make_train
from fp3o_jax.envs.base import batch_reset, batch_step
from fp3o_jax.envs.mamujoco import TASKS
from fp3o_jax.envs.mamujoco.frames import frames
from fp3o_jax.envs.mamujoco.make import State, parts_of
from fp3o_jax.envs.mamujoco.mjx_engine import _runge_kutta, mjx_engine
from fp3o_jax.envs.mamujoco.robot import Task, fields_at_rest, judge
from fp3o_jax.policy import Policy, architecture, play
from fp3o_jax.runs import playback
from mamujoco_original import (
    device_differences,
    draws,
    episode_differences,
    original,
    ours,
    played,
    put,
    size_differences,
)
from quick import users_environment

KEY = jax.random.key(0)
CASES = [(task, 1) for task in TASKS] + [
    ("halfcheetah_6x1", 3),
    ("ant_4x2", 0),
    ("ant_4x2", None),
    ("humanoid_9|8", 0),
    ("manysegmentswimmer_8x2", 5),
    ("manysegmentant_3x2", 2),
    ("walker2d_2x3", None),
]


@pytest.fixture(scope="module")
def cheetah():
    return ours("halfcheetah_6x1", 1)[0]


@pytest.mark.parametrize(("task", "agent_obsk"), CASES)
def test_an_episode_is_the_originals(task, agent_obsk):
    assert size_differences(task, agent_obsk) == ""
    found = episode_differences(task, agent_obsk, steps=60)
    assert {name: found[name] for name in ("observation", "state", "reward", "end")} == {
        "observation": 0,
        "state": 0,
        "reward": 0,
        "end": 0,
    }
    assert found["relative"] == 0.0


def test_what_falls_ends_its_episode():
    assert 0 < episode_differences("hopper_3x1", 1, steps=60)["ended"] < 60


def test_a_time_limit_is_a_truncation():
    env, _ = ours("reacher_2x1", 1)
    *_, outcomes = played(env, draws(env, 51))
    assert not outcomes.terminated.any()
    assert_array_equal(outcomes.truncated, np.arange(1, 52) >= 50)


def test_one_call_for_all_is_each_by_itself(cheetah):
    """Under ``vmap`` over environments and seeds, in a scan, in one program."""
    keys = jax.random.split(KEY, (2, 3))
    actions = draws(cheetah, 4).swapaxes(0, 1)[:, :, None].repeat(3, axis=2)

    @jax.jit
    @jax.vmap
    def play(keys):
        def step(carry, action):
            states, seen, outcome = batch_step(cheetah, keys, carry, action, jnp.ones((6, 3), bool))
            return states, (seen.obs, outcome.reward)

        states, _ = batch_reset(cheetah, keys)
        return jax.lax.scan(step, states, jnp.moveaxis(actions, 1, 0))

    states, (obs, reward) = play(keys)
    assert obs.shape == (2, 4, 6, 3, 9)

    @jax.jit
    def alone(key):
        state, _ = cheetah.reset(key)
        return jax.lax.scan(
            lambda s, a: (lambda s, o, r: (s, (o.obs, r.reward)))(*cheetah.step(key, s, a)),
            state,
            jnp.moveaxis(actions, 1, 0)[:, :, 0],
        )

    for i, j in ((0, 0), (1, 2)):
        state, (seen, earned) = alone(keys[i, j])
        assert_array_equal(seen, obs[i, :, :, j])
        assert_array_equal(earned, reward[i, :, j])
        assert_array_equal(state.physics, states.physics[i, j])
    assert np.abs(obs[0] - obs[1]).max() > 1e-3


def test_a_state_on_disk_goes_on_to_the_bit(cheetah):
    """Whoever reads it: another program, other batches, another process, which compiles as users' do."""
    random = draws(cheetah, 6)
    states, _, outcomes = played(cheetah, random)
    code = (
        "import jax, numpy as np\n"
        "from fp3o_jax import make_env\n"
        "from fp3o_jax.envs.mamujoco.make import State\n"
        "env = make_env('mamujoco/halfcheetah_6x1')\n"
        f"physics = np.array({np.asarray(states.physics[3]).tolist()}, np.uint32)\n"
        f"action = np.array({random[3].tolist()}, np.float32)\n"
        "state, seen, outcome = env.step(jax.random.key(0), State(physics, np.int32(3)), action)\n"
        "print(state.physics.tolist(), float(outcome.reward).hex())\n"
    )
    command, env = [sys.executable, "-c", code], users_environment()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    expected = f"{states.physics[4].tolist()} {float(outcomes.reward[3]).hex()}"
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.parametrize("task", ["halfcheetah_6x1", "ant_4x2"])
def test_bad_physics_end_an_episode(task):
    """They neither stop the program nor reach a network."""
    env, parts = ours(task, 1)
    state, _ = jax.device_get(env.reset(KEY))
    rows = state.physics.view(np.float64).copy()
    rows[1 + parts.task.model.nq] = 1e12  # the first velocity
    broken = State(rows.view(np.uint32), state.steps)
    for value in (broken, State(np.full_like(rows, np.nan).view(np.uint32), state.steps)):
        _, seen, outcome = jax.device_get(env.step(KEY, value, draws(env, 1)[0]))
        assert outcome.terminated and outcome.diverged and not outcome.truncated and outcome.reward == 0.0
        assert_array_equal(seen.obs, np.zeros_like(seen.obs))
        assert_array_equal(seen.global_state, np.zeros_like(seen.global_state))


def starts(task, count):
    """Positions and velocities of so many resets, less those that the model has."""
    env, parts = ours(task, 1)
    states, _ = jax.device_get(jax.jit(lambda keys: batch_reset(env, keys))(jax.random.split(KEY, count)))
    qpos, qvel = parts.engine.moments(states.physics)
    return qpos - parts.task.model.qpos0, qvel


@pytest.mark.parametrize(
    ("task", "scale", "normal"),
    [("halfcheetah_6x1", 0.1, True), ("hopper_3x1", 5e-3, False), ("swimmer_2x1", 0.1, False)],
)
def test_beginnings_are_spread_as_gymnasiums(task, scale, normal):
    qpos, qvel = starts(task, 2000)
    theirs = original(task, 1)
    inner = theirs.single_agent_env.unwrapped
    moments = []
    for seed in range(400):
        theirs.reset(seed=seed)
        moments.append((inner.data.qpos - inner.init_qpos, inner.data.qvel - inner.init_qvel))
    for mine, yours in zip((qpos, qvel), map(np.array, zip(*moments, strict=True)), strict=True):
        assert_allclose(mine.mean(), 0.0, atol=scale / 50)
        assert_allclose(mine.std(), yours.std(), rtol=0.05)
    assert scale * 0.95 < np.abs(qpos).max() <= scale * (1 + 1e-6)
    assert (np.abs(qvel).max() > 2 * scale) == normal


def test_targets_lie_where_gymnasium_has_them():
    qpos, qvel = starts("reacher_2x1", 2000)
    _, parts = ours("reacher_2x1", 1)
    target = np.linalg.norm(qpos[:, 2:] + parts.task.model.qpos0[2:], axis=-1)
    assert target.max() <= 0.2 + 1e-6
    assert_allclose((target < 0.1).mean(), 0.25, atol=0.04)  # even over the disc
    assert (qvel[:, 2:] == 0).all()
    qpos, qvel = starts("pusher_3p", 2000)
    assert (qpos[:, :7] == 0).all() and (qpos[:, 9:] == 0).all() and (qvel[:, 7:] == 0).all()
    assert np.linalg.norm(qpos[:, 7:9], axis=-1).min() > 0.17
    assert -0.3 <= qpos[:, 7].min() < -0.29 and -0.01 < qpos[:, 7].max() <= 0


@pytest.mark.parametrize(
    "partition",
    [
        "bthigh bshin bfoot fthigh | fshin, ffoot",
        [[0, 1, 2, 3], [4, 5]],
        [["bthigh", 1, "2", 3], (4, "ffoot")],
    ],
)
def test_a_division_of_ones_own(partition):
    env = make_env("mamujoco/halfcheetah", {"partition": partition, "agent_obsk": 0})
    assert (env.action_sizes, env.obs_sizes) == ((4, 2), (13, 9))
    one = make_env("mamujoco/halfcheetah", {"partition": [[0, 1, 2, 3, 4, 5]], "agent_obsk": "all"})
    assert (env.state_size, one.obs_sizes, one.num_agents) == (17, (17,), 1)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("cheetah_2x3", {}, "mamujoco/halfcheetah_2x3"),
        (
            "halfcheetah_3x2",
            {},
            "mamujoco/halfcheetah_2x3, mamujoco/halfcheetah_6x1, or mamujoco/halfcheetah",
        ),
        ("halfcheetah", {}, "with a partition of your own in env_kwargs"),
        ("halfcheetah_2x3", {"partition": [[0]]}, "names a partition, and env_kwargs has another"),
        ("halfcheetah", {"partition": [[0, 1], [2, 3, 4]]}, "missing are ffoot"),
        ("halfcheetah", {"partition": "0 1 2 | 2 3 4 5"}, "given twice bfoot"),
        ("halfcheetah", {"partition": "bthigh | bshn"}, "did you mean 'bshin'"),
        ("manysegmentswimmer_16", {}, "AGENTSxSEGMENTS, such as 8x2"),
        ("halfcheetah_2x3", {"agent_obsk": -1}, "must be 0, 1, 2"),
        ("halfcheetah_2x3", {"agent_obsk": "2"}, "must be 0, 1, 2"),
        ("halfcheetah_2x3", {"physics": "bullet"}, "valid are mjx, mujoco"),
        ("halfcheetah_2x3", {"healthy_reward": 1.0}, "valid are agent_obsk, ctrl_cost_weight"),
        ("halfcheetah_2x3", {"ctrl_cost_weight": "much"}, "must be a number, such as 0.1"),
        ("hopper_3x1", {"healthy_z_range": 0.7}, "two numbers, the lower one first"),
        ("hopper_3x1", {"terminate_when_unhealthy": 1}, "must be True or False"),
    ],
)
def test_errors_say_what_there_is(task, options, message):
    with pytest.raises(ConfigError) as raised:
        make_env(f"mamujoco/{task}", options)
    assert message in str(raised.value)


def test_gymnasiums_weights():
    """They are MaMuJoCo's too."""
    options = {"terminate_when_unhealthy": False, "ctrl_cost_weight": 2.0, "healthy_z_range": (0.9, 5.0)}
    found = episode_differences("hopper_3x1", 1, steps=60, **options)
    assert (found["reward"], found["end"], found["ended"]) == (0, 0, 0)


def test_nothing_of_mujoco_is_imported_before_it_is_needed():
    code = "import sys, fp3o_jax.envs; print({'mujoco', 'gymnasium'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_it_trains():
    config = Config(
        env="mamujoco/hopper_3x1",
        num_envs=4,
        rollout_length=16,
        total_env_steps=128,
        hidden_sizes=(8,),
        epochs=1,
        num_minibatches=1,
    )
    train = make_train(config)
    out = jax.jit(train)(KEY)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(out["state"].params))
    assert np.isfinite(out["metrics"]["value_loss"]).all()
    assert np.isfinite(out["metrics"]["episode_return"]).any()
    assert_array_equal(out["metrics"]["diverged"], np.zeros(2))


def test_a_policy_acts_in_mamujoco_itself():
    """Through PettingZoo's dictionaries it does what it does here, step by step."""
    env, parts = ours("hopper_3x1", 1)
    train = make_train(Config(env="mamujoco/hopper_3x1", hidden_sizes=(8,), sharing="none"), env=env)
    policy = Policy(architecture(train), jax.jit(train.init)(KEY).params["actor"])
    theirs = original("hopper_3x1", 1)

    def here(key):
        """Return and length of an episode, and the state that it began in."""
        state, seen = env.reset(key)
        start, (step, act) = jax.device_get(state), (jax.jit(env.step), jax.jit(policy.act))
        total, length, done = 0.0, 0, False
        while not done:
            obs = {a: seen.obs[i, :n] for i, (a, n) in enumerate(zip(env.agents, env.obs_sizes, strict=True))}
            actions, _ = act(obs, None, policy.initial_state())
            state, seen, outcome = step(key, state, jnp.stack([actions[a] for a in env.agents]))
            total, length, done = total + float(outcome.reward), length + 1, bool(outcome.done)
        return total, length, parts.engine.moments(start.physics)

    total, length, start = here(KEY)

    class Begun:
        """MaMuJoCo, whose episodes begin in that state."""

        agents = property(lambda self: theirs.agents)
        step = staticmethod(theirs.step)

        def reset(self, seed):
            return put(theirs, *start), {}

    played_there = play(policy, Begun(), episodes=2)
    assert_array_equal(played_there["episode_length"], [length, length])
    assert_allclose(played_there["episode_return"], [total, total], rtol=1e-6)


def test_every_task_is_made_of_all_actuators():
    for task in TASKS:
        parts = parts_of(task)
        assert sorted(np.concatenate(parts.agents)) == list(range(parts.task.model.nu))


def test_robots_are_drawn(tmp_path):
    """By MuJoCo, in the time of their world; each frame of another moment."""
    train = make_train(Config(env="mamujoco/reacher_2x1", num_envs=2, rollout_length=8, hidden_sizes=(8,)))
    params = jax.jit(train.networks.init)(KEY)
    path = playback.render_policy(train, params, key=KEY, output=tmp_path / "reacher")
    with Image.open(path) as gif:
        assert gif.n_frames == 26  # every second of 51 states
        assert gif.info["duration"] == 40
        first = np.asarray(gif.convert("RGB"), int)
        gif.seek(20)
        assert np.abs(np.asarray(gif.convert("RGB"), int) - first)[playback.CAPTION :].max() > 50


def test_what_to_install_where_nothing_can_be_drawn(monkeypatch):
    _, parts = ours("reacher_2x1", 1)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(importlib, "import_module", lambda name: 1 / 0)
    with pytest.raises(ConfigError, match=r"install EGL .* Tried osmesa: ZeroDivisionError"):
        next(frames(parts.task.model, parts.task.model.qpos0[None]))


def test_a_step_on_a_device():
    """MJX in float32, with contacts; each step from a state of MuJoCo's."""
    apart = device_differences("hopper_3x1", steps=10)
    assert apart.pop("end") == 0
    assert max(apart.values()) < 2e-5, apart


def test_a_program_has_one_copy_of_the_step():
    """However many of them a step of the environment is, and whatever the integrator: MJX compiles slowly."""
    parts = parts_of("swimmer_2x1")
    loops = {}
    for frame_skip in (1, 5):
        task = parts.task._replace(robot=dataclasses.replace(parts.task.robot, frame_skip=frame_skip))
        engine = mjx_engine(task, "swimmer", "full")
        state, _ = jax.eval_shape(engine.reset, jnp.zeros(5), jnp.zeros(5))
        text = jax.jit(engine.step).lower(state, jnp.zeros(2)).as_text()
        loops[frame_skip] = text.count("stablehlo.while"), text.count("\n")
    assert loops[1] == loops[5] and loops[1][0] >= 2, loops


def test_a_free_body_turns_on_a_device_as_in_mujoco():
    """Where it spins by half a radian in a step, sums of its speeds as they are would be off by 1e-3."""
    model = mujoco.MjModel.from_xml_string(
        """<mujoco><option timestep="0.05" integrator="RK4"/><worldbody><body><freejoint/>
        <geom type="box" size=".1 .2 .4"/></body></worldbody></mujoco>"""
    )
    data, task = mujoco.MjData(model), Task(None, model, {})
    qpos, qvel = model.qpos0.copy(), np.array([1.0, -2.0, 3.0, 7.0, 5.0, -6.0])
    data.qvel[:] = qvel
    mujoco.mj_step(model, data)
    on_device = mjx.put_model(model)
    start = mjx.make_data(model).replace(qpos=jnp.array(qpos, jnp.float32), qvel=jnp.array(qvel, jnp.float32))
    after = jax.jit(lambda start: _runge_kutta(task, mjx, on_device, start))(start)
    assert_allclose(after.qpos, data.qpos, atol=5e-6)
    assert_allclose(after.qvel, data.qvel, atol=5e-6)


@pytest.mark.parametrize("xp", [np, jnp])
def test_what_is_not_finite_is_judged_alike(xp):
    _, parts = ours("ant_4x2", 1)
    fields = fields_at_rest(parts.task)
    ctrl, before = np.zeros(8), np.zeros(1)
    good = judge(xp, parts.task, before, fields, ctrl)
    assert np.isfinite(good.reward) and not (good.terminated or good.diverged)
    assert np.abs(good.features).max() > 0
    for value in (np.nan, np.inf, 1e11):
        bad = fields | {"qvel": np.array(fields["qvel"])}
        bad["qvel"][3] = value
        felt = judge(xp, parts.task, before, bad, ctrl)
        assert bool(felt.terminated) and bool(felt.diverged) and float(felt.reward) == 0.0
        assert_array_equal(felt.features, np.zeros_like(felt.features))


def test_another_device_calls_the_host_too(cheetah, monkeypatch):
    """As it is done beside a GPU; what comes back is the same."""
    keys, action = jax.random.split(KEY, 3), jnp.full((6, 3, 1), 0.3)

    def step(keys):
        states, _ = batch_reset(cheetah, keys)
        return batch_step(cheetah, keys, states, action, jnp.ones((6, 3), bool))

    expected = jax.device_get(jax.jit(step)(keys))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = jax.device_get(jax.jit(lambda keys: step(keys))(keys))
    jax.tree.map(assert_array_equal, found, expected)
