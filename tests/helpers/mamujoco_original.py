"""MaMuJoCo itself (gymnasium-robotics), and our robots beside it."""

import contextlib
import functools
import io
import math
import warnings

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from finite import assert_finite
from fp3o_jax.envs.mamujoco.make import State, environment_of, parts_of
from fp3o_jax.envs.mamujoco.mjx_engine import Motion
from fp3o_jax.envs.mamujoco.robots import ROBOTS
from fp3o_jax.envs.mamujoco.stepping import Layout
from fp3o_jax.envs.quiet import quiet_mujoco
from fp3o_jax.envs.spaces import to_bounds

# Says which of its other environments have changed.
with (
    contextlib.redirect_stdout(io.StringIO()),
    contextlib.redirect_stderr(io.StringIO()),
    warnings.catch_warnings(),
):
    warnings.simplefilter("ignore")
    from gymnasium_robotics import mamujoco_v1
    from gymnasium_robotics.envs.multiagent_mujoco import coupled_half_cheetah, mujoco_multi


class Dense:
    """Data whose ``ten_J`` has all columns, as MuJoCo before 4.0 had and MaMuJoCo expects."""

    def __init__(self, data):
        self._data = data

    def __getattr__(self, name):
        value = getattr(self._data, name)
        if name != "ten_J" or value.ndim == 2:
            return value
        model = self._data.model
        dense = np.zeros((model.ntendon, model.nv))
        for row in range(model.ntendon):
            own = slice(model.ten_J_rowadr[row], model.ten_J_rowadr[row] + model.ten_J_rownnz[row])
            dense[row, model.ten_J_colind[own]] = value[own]
        return dense


def _mend():
    """Sets right MaMuJoCo's coupled cheetahs, for the MuJoCo that is installed, and the order of two joints
    of the pusher that have one label, which is that of their addresses in memory."""
    at_distance = mujoco_multi.get_joints_at_kdist

    def settled(*args, **options):
        levels = at_distance(*args, **options)
        return {k: sorted(nodes, key=lambda n: (n.label, n.act_ids)) for k, nodes in levels.items()}

    mujoco_multi.get_joints_at_kdist = settled
    build, see = mujoco_multi.build_obs, coupled_half_cheetah.CoupledHalfCheetahEnv._get_obs

    class Seeing:
        def __init__(self, env):
            self.data = Dense(env.data)

    mujoco_multi.build_obs = lambda data, *args: build(
        Dense(data) if isinstance(data, mujoco.MjData) else data, *args
    )
    coupled_half_cheetah.CoupledHalfCheetahEnv._get_obs = lambda env: see(Seeing(env))


_mend()


def original(task, agent_obsk, **options):
    """MaMuJoCo's own environment of one of our tasks."""
    name, _, partition = task.partition("_")
    with quiet_mujoco():
        return mamujoco_v1.parallel_env(ROBOTS[name].scenario, partition, agent_obsk=agent_obsk, **options)


def put(env, qpos, qvel):
    """Begins an episode of MaMuJoCo's in a given state; what its agents see."""
    env.reset(seed=0)
    inner = env.single_agent_env.unwrapped
    mujoco.mj_resetData(inner.model, inner.data)
    inner.set_state(qpos, qvel)
    return env._get_obs()


@functools.cache
def ours(task, agent_obsk, **options):
    """Our environment, and its parts."""
    parts = parts_of(task, agent_obsk, **options)
    return environment_of(parts), parts


def played(env, actions, seed=0):
    """States, observations and outcomes of the reset and each step; leaves [T+1, ...], outcomes [T]."""

    def step(state, action):
        state, seen, outcome = env.step(jax.random.key(0), state, action)
        return state, (state, seen, outcome)

    @jax.jit
    def play(key, actions):
        state, seen = env.reset(key)
        _, (states, observations, outcomes) = jax.lax.scan(step, state, actions)
        first = jax.tree.map(lambda x: x[None], (state, seen))
        joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, (states, observations))
        return (*joined, outcomes)

    return jax.device_get(play(jax.random.key(seed), actions))


def draws(env, steps, seed=0):
    """What a random policy draws, [T, n, A] between -1 and 1."""
    rng = np.random.default_rng(seed)
    shape = (steps, env.num_agents, max(env.action_sizes))
    return rng.uniform(-1, 1, shape).astype(np.float32)


def as_taken(env, draw):
    """The dictionary of actions that MaMuJoCo gets for what a policy of ours draws, [n, A]."""
    return {
        agent: np.asarray(to_bounds(draw[i, : env.action_sizes[i]], env.action_low[i], env.action_high[i]))
        for i, agent in enumerate(env.agents)
    }


def episode_differences(task, agent_obsk, steps, seed=0, **options):
    """What differs in an episode of ``steps`` random steps, here and there, on the same physics.

    Returns:
        Numbers of steps in which observations, states, rewards or ends differ in any bit of a float32;
        ``relative``, by how much of 1 + the value at most; ``ended``, the number of steps that say the
        episode is over; and ``steps``. Both go on after an end.
    """
    (env, parts), theirs = ours(task, agent_obsk, **options), original(task, agent_obsk, **options)
    steps = min(steps, env.time_limit)
    random = draws(env, steps, seed)
    states, seen, outcomes = played(env, random, seed)
    qpos, qvel = parts.engine.moments(states.physics)
    obs = put(theirs, qpos[0], qvel[0])
    count = {"observation": 0, "state": 0, "reward": 0, "end": 0, "relative": 0.0}
    alone = agent_obsk is None

    def compare(t):
        rows = [seen.obs[t, i, :size] for i, size in enumerate(env.obs_sizes)]
        wanted = [np.asarray(x, np.float32) for x in obs.values()] * (len(rows) if alone else 1)
        count["observation"] += any(not np.array_equal(a, b) for a, b in zip(rows, wanted, strict=True))
        state = np.asarray(theirs.state(), np.float32)
        count["state"] += not np.array_equal(seen.global_state[t], state)
        pairs = [*zip(rows, wanted, strict=True), (seen.global_state[t], state)]
        assert_finite(pairs)
        worst = max(float(np.max(np.abs(a - b) / (1 + np.abs(b)))) for a, b in pairs)
        count["relative"] = max(count["relative"], worst)

    compare(0)
    ended = 0
    for t in range(steps):
        actions = as_taken(env, random[t])
        if alone:
            joint = {
                i: x
                for own, a in zip(parts.agents, actions.values(), strict=True)
                for i, x in zip(own, a, strict=True)
            }
            # As one agent's, MaMuJoCo would add up the squares of float32.
            actions = {"agent_0": np.array([joint[i] for i in range(len(joint))], float)}
        obs, rewards, terminated, truncated, _ = theirs.step(actions)
        reward, over, cut = (next(iter(x.values())) for x in (rewards, terminated, truncated))
        compare(t + 1)
        count["reward"] += outcomes.reward[t] != np.float32(reward)
        count["end"] += bool(outcomes.terminated[t]) != over or bool(outcomes.truncated[t]) != (
            cut and not over
        )
        ended += over
        assert math.isfinite(reward) and np.isfinite(seen.obs[t + 1]).all()
    return count | {"ended": ended, "steps": steps}


def size_differences(task, agent_obsk):
    """Which of agents, sizes of observations, states and actions, bounds and time limit differ, as a text."""
    (env, _), theirs = ours(task, agent_obsk), original(task, agent_obsk)
    spaces = [(theirs.observation_space(a), theirs.action_space(a)) for a in theirs.possible_agents]
    inner = theirs.single_agent_env
    limit = inner.spec.max_episode_steps if inner.spec else inner._max_episode_steps
    alone = agent_obsk is None
    pairs = {
        "agents": (env.agents, env.agents if alone else tuple(theirs.possible_agents)),
        "observations": (
            env.obs_sizes,
            tuple(s.shape[0] for s, _ in spaces) * (env.num_agents if alone else 1),
        ),
        "state": (env.state_size, len(theirs.state())),
        "actions": (
            sum(env.action_sizes) if alone else env.action_sizes,
            spaces[0][1].shape[0] if alone else tuple(s.shape[0] for _, s in spaces),
        ),
        "low": (
            {float(np.float32(x)) for agent in env.action_low for x in agent},
            {float(x) for _, s in spaces for x in s.low},
        ),
        "high": (
            {float(np.float32(x)) for agent in env.action_high for x in agent},
            {float(x) for _, s in spaces for x in s.high},
        ),
        "limit": (env.time_limit, limit),
    }
    return ", ".join(f"{name}: {a} {b}" for name, (a, b) in pairs.items() if a != b)


def device_differences(task, steps, seed=0, **options):
    """What MJX makes of one step from each state of a trajectory of MuJoCo's in C.

    Returns:
        By how much of 1 + the value ``qpos``, ``qvel``, ``reward`` and what agents see (``obs``) differ at
        most, and the ``median`` over steps of the worst of them; in how many steps the ``end`` differs.
    """
    env, parts = ours(task, 1)
    device, _ = ours(task, 1, physics="mjx", **options)
    random = draws(env, steps, seed)
    states, seen, outcomes = played(env, random, seed)
    qpos, qvel = parts.engine.moments(states.physics)
    rows = np.ascontiguousarray(states.physics).view(np.float64)
    layout = Layout(parts.task.model)
    warmstart, position = rows[:, layout.parts["qacc_warmstart"]], rows[:, layout.size :]
    kind = jnp.zeros(()).dtype

    def one(*row):
        motion = Motion(*(x.astype(kind) for x in row[:-1]))
        state, seen, outcome = device.step(
            jax.random.key(0), State(motion, jnp.zeros((), jnp.int32)), row[-1]
        )
        return state.physics.qpos, state.physics.qvel, outcome.reward, seen.obs, outcome.terminated

    kept = (qpos, qvel, warmstart, position)
    qp, qv, reward, obs, end = jax.device_get(
        jax.jit(lambda *rows: jax.lax.map(lambda row: one(*row), rows))(
            *(x[:-1].astype(kind) for x in kept), random
        )
    )
    pairs = {
        "qpos": (qp, qpos[1:]),
        "qvel": (qv, qvel[1:]),
        "reward": (reward, outcomes.reward),
        "obs": (obs, seen.obs[1:]),
    }
    apart = {
        name: (np.abs(a - b) / (1 + np.abs(b))).reshape(steps, -1).max(-1) for name, (a, b) in pairs.items()
    }
    assert all(np.isfinite(x).all() for x in apart.values())
    worst = {name: float(x.max()) for name, x in apart.items()}
    median = float(np.median(np.max([*apart.values()], axis=0)))
    return worst | {"median": median, "end": int((end != outcomes.terminated).sum())}
