"""Every environment through one interface."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finite import assert_array_equal, assert_finite
from fp3o_jax import Config, ConfigError, make_env, make_train
from fp3o_jax.envs import available, jaxmarl, known
from fp3o_jax.envs.base import batch_reset, batch_step


@pytest.mark.parametrize("name", available())
def test_shapes(name):
    env = make_env(name)
    key = jax.random.key(0)
    state, seen = jax.eval_shape(env.reset, key)
    n, size = env.num_agents, max(env.action_sizes)
    assert len(env.obs_sizes) == len(env.action_sizes) == n
    assert seen.obs.shape == (n, max(env.obs_sizes))
    assert seen.global_state.shape == (env.state_size,)
    assert env.state_size > 0
    assert seen.alive.shape == (n,)
    action = jnp.zeros(n, jnp.int32) if env.discrete else jnp.zeros((n, size))
    after, then, outcome = jax.eval_shape(env.step, key, state, action)
    assert jax.tree.map(lambda x: x.shape, (after, then)) == jax.tree.map(lambda x: x.shape, (state, seen))
    assert all(leaf.shape == () for leaf in jax.tree.leaves(outcome))
    assert (seen.action_mask is not None) == env.discrete


def test_every_smax_map_is_there():
    assert {"smax/3m", "smax/27m_vs_30m", "smax/6h_vs_8z", "smax/smacv2_20_units"} <= set(available())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("smax/3n", "did you mean 'smax/3m'"),
        ("smacs/3m", "is unknown"),
        ("3m", "'smax/3m'"),
        ("mpe/simple_spred", "did you mean 'mpe/simple_spread'"),
        ("mpe/simple_tag", "not cooperative"),
        ("mabrax/ant_4x3", "'mabrax/ant_4x2'"),
        ("matrix/climb", "'matrix/climbing'"),
    ],
)
def test_names_that_do_not_exist(name, said):
    with pytest.raises(ConfigError, match=said):
        make_env(name)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("matrix/climbing", {"num_agents": 3}),
        ("matrix/xor", {"num_agents": 3}),
        ("matrix/xor", {"nagents": 4}),
        ("smax/3m", {"no_such_option": 1}),
    ],
)
def test_options_that_do_not_fit(name, options):
    with pytest.raises(ConfigError, match="env_kwargs"):
        make_env(name, options)


def play(env, num_envs, steps, policy):
    """Steps without reset; returns the outcomes [steps, B] and the observations."""
    state, seen = batch_reset(env, jax.random.split(jax.random.key(0), num_envs))
    step = jax.jit(lambda key, s, a, alive: batch_step(env, jax.random.split(key, num_envs), s, a, alive))
    outcomes, observations = [], []
    for t in range(steps):
        observations.append(seen)
        state, seen, outcome = step(jax.random.key(t), state, policy(seen), seen.alive)
        outcomes.append(jax.device_get(outcome))
    return outcomes, observations


def test_smax_battle_until_it_is_lost():
    """Allies that stand still lose: a termination, not won; the dead are masked."""
    env = make_env("smax/3m")
    stop = jnp.full((3, 2), 4)
    outcomes, seen = play(env, 2, 60, lambda _: stop)
    done = np.array([o.terminated for o in outcomes])
    first = done.argmax(0)
    assert done.any(0).all()
    assert not any(o.won.any() or o.truncated.any() for o in outcomes)
    alive, masks = (np.array([getattr(s, name) for s in seen]) for name in ("alive", "action_mask"))
    assert alive[0].all()
    for b in range(2):
        assert alive[first[b], :, b].any()
        # Those who acted see the end; that they are dead their one action tells.
        assert (masks[min(first[b] + 1, 59), :, b].sum(-1) == 1).all()
    assert (~alive).any()
    assert (masks[~alive].sum(-1) == 1).all()


def test_smax_time_limit_is_a_truncation():
    env = make_env("smax/3m", {"max_steps": 3})
    outcomes, _ = play(env, 2, 4, lambda _: jnp.full((3, 2), 4))
    assert outcomes[-1].truncated.all()
    assert not outcomes[-1].terminated.any()


def test_mpe_ends_by_its_limit_and_shares_one_reward():
    env = make_env("mpe/simple_spread")
    outcomes, seen = play(env, 2, 26, lambda s: jnp.zeros((3, 2), jnp.int32))
    assert [bool(o.truncated.all()) for o in outcomes] == [False] * 25 + [True]
    assert outcomes[0].reward.shape == (2,)
    assert_array_equal(seen[0].global_state[0], seen[0].obs[:, 0].ravel())


def test_agents_that_differ_are_padded():
    env = make_env("mpe/simple_speaker_listener")
    assert (env.obs_sizes, env.action_sizes) == ((3, 11), (3, 5))
    _, seen = env.reset(jax.random.key(0))
    assert (seen.obs[0, 3:] == 0).all()
    assert_array_equal(seen.action_mask, [[1, 1, 1, 0, 0], [1] * 5])
    assert env.agent_types[0] != env.agent_types[1]


def test_mabrax_limit_is_a_truncation_and_starts_vary():
    env = make_env("mabrax/halfcheetah_6x1", {"episode_length": 2})
    outcomes, seen = play(env, 3, 2, lambda s: jnp.full((6, 3, 1), 5.0))
    assert not outcomes[0].truncated.any()
    assert outcomes[1].truncated.all()
    assert not outcomes[1].terminated.any()
    assert_finite(seen[0].global_state)
    assert len(np.unique(seen[0].global_state, axis=0)) == 3
    # Each agent sees its own joint: position and velocity, at the end of the three blocks.
    state = np.asarray(seen[0].global_state[0])
    assert float(seen[0].obs[0, 0, 8]) == state[11]
    assert float(seen[0].obs[5, 0, 7]) == state[16]


def test_mabrax_humanoid_reads_no_feature_twice():
    env = make_env("mabrax/humanoid_9|8")
    assert env.action_sizes == (9, 8)
    table = known.jaxmarl_module("mabrax.mappings")._agent_observation_mapping["humanoid_9|8"]
    seen = known._observed("humanoid_9|8", env.state_size, table)
    assert tuple(map(len, seen.values())) == env.obs_sizes
    for agent, features in seen.items():
        assert features.tolist() == [i for i in table[agent] if i < env.state_size]
        assert len(set(features)) == len(features) < len(table[agent])


def said_by(code, folder):
    """Exit status and what a process of its own printed on both streams."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    return done.returncode, done.stdout, done.stderr


def test_importing_jaxmarl_leaves_the_streams_alone(capsys, tmp_path):
    code = (
        "import io, sys\n"
        "mine = io.StringIO(); sys.stdout = mine; err = sys.stderr\n"
        "from fp3o_jax import make_env\n"
        "make_env('mabrax/halfcheetah_6x1')\n"
        "assert sys.stdout is mine and sys.stderr is err and mine.getvalue() == ''\n"
        "sys.__stdout__.write('still here')\n"
    )
    assert said_by(code, tmp_path) == (0, "still here", "")
    assert list(tmp_path.iterdir()) == []
    make_env("mpe/simple_spread")
    print("captured")
    assert capsys.readouterr().out == "captured\n"


def test_jaxmarl_is_imported_as_far_as_it_is_needed(tmp_path):
    """One task of it brings no other; whoever asks JaxMARL itself finds all of it, of the same classes."""
    code = (
        "import sys, fp3o_jax\n"
        "names = ('mpe/simple_spread', 'smax/3m')\n"
        "ours = [fp3o_jax.make_env(name) for name in names]\n"
        "others = {'brax', 'matplotlib.pyplot', 'jaxmarl.registration', 'jaxmarl.environments.storm'}\n"
        "assert not others & {*sys.modules}\n"
        "import jaxmarl\n"
        "assert not others & {*sys.modules}\n"
        "try: jaxmarl.nothing_of_this_name\n"
        "except AttributeError: pass\n"
        "assert others <= {*sys.modules}\n"
        "from jaxmarl import *\n"
        "assert make is jaxmarl.make and 'storm' in registered_envs and jaxmarl.__version__\n"
        "assert 'make' in dir(jaxmarl) and 'CoinGame' in dir(jaxmarl.environments)\n"
        "from jaxmarl.environments import SMAX, mpe, spaces, smax\n"
        "assert smax.SMAX is SMAX and mpe.SimpleSpreadMPE is type(make('MPE_simple_spread_v3'))\n"
        "assert smax is sys.modules['jaxmarl.environments.smax']\n"
        "assert jaxmarl.environments.mpe is mpe and jaxmarl.environments.spaces is spaces\n"
        "again = fp3o_jax.make_env(make('MPE_simple_spread_v3'))\n"
        "assert again.time_limit == ours[0].time_limit == 25\n"
    )
    assert said_by(code, tmp_path) == (0, "", "")


def test_a_jaxmarl_object():
    import jaxmarl as library

    spread = make_train(Config(), env=library.make("MPE_simple_spread_v3")).env
    assert (spread.state_size, spread.truncates, spread.time_limit) == (54, True, 25)
    with pytest.raises(ConfigError, match="not cooperative"):
        make_train(Config(), env=library.make("MPE_simple_tag_v3"))
    smax = library.make("HeuristicEnemySMAX", num_allies=2, num_enemies=2)
    train = make_train(Config(num_envs=2, rollout_length=8), env=smax)
    assert (train.env.num_agents, train.env.discrete) == (2, True)
    assert train.env.state_size == smax.state_size
    continuous = library.make("MPE_simple_spread_v3", action_type="Continuous")
    assert not make_train(Config(algorithm="ippo"), env=continuous).env.discrete


@pytest.mark.parametrize(
    ("name", "algorithm", "sharing", "recurrent"),
    [
        ("smax/3m", "fp3o", "partial", True),
        ("mpe/simple_speaker_listener", "happo", "none", False),
        ("mabrax/halfcheetah_6x1", "fp3o", "none", False),
    ],
)
def test_each_family_trains(name, algorithm, sharing, recurrent):
    config = Config(
        env=name,
        algorithm=algorithm,
        sharing=sharing,
        recurrent=recurrent,
        num_envs=4,
        rollout_length=32,
        chunk_length=8,
        total_env_steps=4 * 32 * 2,
        epochs=2,
        hidden_size=16,
    )
    train = make_train(config)
    state = jax.jit(train.init)(jax.random.key(0))
    update = jax.jit(train.update, donate_argnums=0)
    for _ in range(2):
        state, metrics = update(state)
    metrics = {k: v for k, v in metrics.items() if k not in state.episodes or metrics["episodes"] > 0}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, metrics)))
    assert ("win_rate" in state.episodes) == name.startswith("smax")


def test_the_competitive_list_is_complete():
    """Every MPE task of JaxMARL is known as either cooperative or not."""
    import jaxmarl as library

    tasks = {
        name.removeprefix("MPE_").rsplit("_v", 1)[0]
        for name in library.registered_envs
        if name.startswith("MPE_")
    }
    assert tasks == set(jaxmarl.MPE) | set(jaxmarl.MPE_COMPETITIVE)
