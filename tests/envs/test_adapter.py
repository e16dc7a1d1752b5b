"""What other people's environments bring: masks, wrappers, bounds, and contracts that they break."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jaxmarl.environments import spaces

from brought_envs import STEPS, Aim, State, Toy
from finite import assert_allclose, assert_array_equal
from fp3o_jax import Config, ConfigError, check_env, make_env, make_train
from fp3o_jax.envs.base import batch_reset, batch_step
from fp3o_jax.team.distributions import MASKED_LOGIT, Categorical

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def baselines():
    """JaxMARL's wrappers, which need a package that JaxMARL does not ask for."""
    from jaxmarl.wrappers import baselines

    return baselines


def follow(env, steps=STEPS):
    """Observation of the reset, then (observation, outcome) of each step, in which all take one action: 0 or,
    where actions are continuous, 1. Toy rewards it from this reset on."""
    state, seen = env.reset(KEY)
    step = jax.jit(env.step)
    action = jnp.zeros(env.num_agents, int) if env.discrete else jnp.ones((env.num_agents, 1))
    results = []
    for t in range(steps):
        state, after, outcome = step(jax.random.key(t), state, action)
        results.append((after, outcome))
    return seen, results


# --- masks ---


@pytest.mark.parametrize("method", ["get_avail_actions", "get_world_state"])
@pytest.mark.parametrize("error", [AttributeError("no such thing"), NotImplementedError("not yet")])
def test_an_error_inside_an_optional_method_is_no_absence(method, error):
    env = Toy()

    def fails(state):
        raise error

    setattr(env, method, fails)
    with pytest.raises(ConfigError, match=f"{method} fails: {type(error).__name__}: no") as raised:
        make_env(env)
    assert raised.value.__cause__ is error


def test_absent_is_the_base_classs_own_method_alone():
    seen = make_env(Toy()).reset(KEY)[1]
    assert seen.action_mask.all()
    assert seen.global_state.shape == (2,)


@pytest.mark.parametrize("length", [2, 4])
def test_a_mask_of_another_length_is_refused(length):
    class Masked(Toy):
        def get_avail_actions(self, state):
            return {a: jnp.ones(length, bool) for a in self.agents}

    with pytest.raises(ConfigError, match=rf"mask of shape \({length},\), and it has 3 actions"):
        make_env(Masked())


def test_hanabis_legal_moves_are_its_mask():
    import jaxmarl

    hanabi = jaxmarl.make("hanabi")
    with pytest.warns(UserWarning, match="side by side"):
        env = make_env(hanabi)
    state, seen = env.reset(KEY)
    legal = hanabi.get_legal_moves(state)
    assert_array_equal(seen.action_mask, [legal[a] > 0 for a in env.agents])
    assert not seen.action_mask.all()


def test_with_nothing_available_all_existing_actions_are():
    class Stuck(Toy):
        def get_avail_actions(self, state):
            return {a: jnp.zeros(n, bool) for a, n in zip(self.agents, (3, 2), strict=True)}

    env = make_env(Stuck(agent_1=spaces.Discrete(2)))
    keys = jax.random.split(KEY, 4)
    state, seen = batch_reset(env, keys)
    _, after, _ = batch_step(env, keys, state, jnp.zeros((2, 4), int), seen.alive)
    for observation in (seen, after):
        assert_array_equal(observation.action_mask[:, 0], [[1, 1, 1], [1, 1, 0]])
    logits = jnp.where(seen.action_mask, 0.0, MASKED_LOGIT)
    log_prob = Categorical(logits).log_prob(jnp.zeros((2, 4), int))
    assert_allclose(jnp.exp(log_prob[:, 0]), [1 / 3, 1 / 2], rtol=1e-6)


def test_a_global_state_made_of_observations_leaves_out_the_dead():
    """Also at the end of an episode, at which all are done."""

    class Mortal(Toy):
        get_world_state = None

        def step_env(self, *args):
            obs, state, rewards, dones, info = super().step_env(*args)
            return (
                obs | {"agent_1": jnp.full(3, jnp.nan)},
                state,
                rewards,
                dones | {"agent_1": jnp.ones((), bool)},
                info,
            )

    with pytest.warns(UserWarning, match="side by side"):
        env = make_env(Mortal())
    keys = jax.random.split(KEY, 2)
    state, seen = batch_reset(env, keys)
    assert (seen.global_state[:, 3:] == seen.global_state[:, :3]).all()
    step = jax.jit(lambda *args: batch_step(env, keys, *args))
    for _ in range(STEPS):
        state, seen, outcome = step(state, jnp.zeros((2, 2), int), seen.alive)
        assert np.isfinite(seen.global_state).all()
        assert_array_equal(seen.global_state[:, :3], seen.obs[0])
        assert (seen.global_state[:, 3:] == 0).all()
    assert outcome.done.all()
    assert check_env(env, steps=6).notes == ()


# --- wrappers ---


def shifting(baselines):
    class Shift(baselines.JaxMARLWrapper):
        """As in the wild: ``reset`` and ``step``, nothing else."""

        def reset(self, key):
            obs, state = self._env.reset(key)
            return {a: x + 100.0 for a, x in obs.items()}, state

        def step(self, key, state, actions):
            obs, state, rewards, dones, info = self._env.step(key, state, actions)
            return (
                {a: x + 100.0 for a, x in obs.items()},
                state,
                {a: 1000.0 * r for a, r in rewards.items()},
                dones,
                info,
            )

    return Shift


@pytest.mark.parametrize("wrapped", ["one", "in a log", "around a log", "twice"])
def test_a_wrappers_step_is_what_is_stepped(baselines, wrapped):
    shift = shifting(baselines)
    inner, times = {
        "one": lambda: (shift(Toy()), 1),
        "in a log": lambda: (baselines.LogWrapper(shift(Toy())), 1),
        "around a log": lambda: (shift(baselines.LogWrapper(Toy())), 1),
        "twice": lambda: (shift(shift(Toy())), 2),
    }[wrapped]()
    (first, steps), (plain_first, plain) = follow(make_env(inner)), follow(make_env(Toy()))
    assert_allclose(first.obs, plain_first.obs + 100.0 * times)
    assert any(float(outcome.reward) for _, outcome in plain)
    for (seen, outcome), (plain_seen, plain_outcome) in zip(steps, plain, strict=True):
        # The last one as well: what ends an episode is not hidden by the next one's beginning.
        assert_allclose(seen.obs, plain_seen.obs + 100.0 * times)
        assert_array_equal(seen.global_state, plain_seen.global_state)
        assert float(outcome.reward) == 1000.0**times * float(plain_outcome.reward)
        assert bool(outcome.done) == bool(plain_outcome.done)
    assert bool(steps[-1][1].done)
    assert float(steps[-1][0].obs[0, 2]) == STEPS + 100.0 * times


def test_a_wrapper_with_a_step_env_is_stepped_by_it(baselines):
    class Louder(baselines.JaxMARLWrapper):
        def step_env(self, key, state, actions):
            obs, state, rewards, dones, info = self._env.step_env(key, state, actions)
            return obs, state, {a: 7.0 * r for a, r in rewards.items()}, dones, info

    for env in (Louder(Toy()), baselines.LogWrapper(Louder(Toy())), shifting(baselines)(Louder(Toy()))):
        _, steps = follow(make_env(env))
        scale = 1000.0 if "Shift" in type(env).__name__ else 1.0
        assert {float(o.reward) for _, o in steps} == {7.0 * scale}
        assert float(steps[-1][0].obs[0, 2]) % 100 == STEPS


def test_a_wrapper_that_resets_by_itself_is_refused(baselines):
    class Resetting(baselines.JaxMARLWrapper):
        def step(self, key, state, actions):
            obs, state, rewards, dones, info = self._env.step_env(key, state, actions)
            fresh = self._env.reset(key)
            obs, state = jax.tree.map(lambda x, y: jnp.where(dones["__all__"], x, y), fresh, (obs, state))
            return obs, state, rewards, dones, info

    with pytest.raises(ConfigError, match=r"Resetting.step begins new episodes by itself"):
        make_env(Resetting(Toy()))


def test_what_changes_step_alone_is_refused():
    class Changed(Toy):
        def step(self, key, state, actions):
            obs, state, rewards, dones, info = super().step(key, state, actions)
            return obs, state, {a: 5 * r for a, r in rewards.items()}, dones, info

    with pytest.raises(ConfigError, match=r"Changed changes `step`, .* and not `step_env`"):
        make_env(Changed())

    class Outside:
        """A wrapper that keeps what is inside elsewhere."""

        def __init__(self, env):
            self.inside = env

        def __getattr__(self, name):
            return getattr(self.__dict__["inside"], name)

        def step(self, key, state, actions):
            return self.inside.step(key, state, actions)

    with pytest.raises(ConfigError, match="Outside has no step_env"):
        make_env(Outside(Toy()))


def test_a_wrapper_that_hides_the_state_is_refused(baselines):
    @struct.dataclass
    class Hidden:
        somewhere: State

    class Hiding(baselines.JaxMARLWrapper):
        def reset(self, key):
            obs, state = self._env.reset(key)
            return obs, Hidden(state)

        def step(self, key, state, actions):
            obs, inner, rewards, dones, info = self._env.step(key, state.somewhere, actions)
            return obs, Hidden(inner), rewards, dones, info

    with pytest.raises(ConfigError, match=r"Hiding keeps a state .* get_world_state\(state\) needs it"):
        make_env(Hiding(Toy()))


def test_jaxmarls_own_wrappers(baselines):
    import jaxmarl

    class WorldState(baselines.JaxMARLWrapper):
        """The pattern of JaxMARL's MAPPO: one row of ``world_state`` for each agent."""

        def reset(self, key):
            obs, state = self._env.reset(key)
            obs["world_state"] = self.world_state(obs)
            return obs, state

        def step(self, key, state, actions):
            obs, then, rewards, dones, info = self._env.step(key, state, actions)
            obs["world_state"] = self.world_state(obs)
            return obs, then, rewards, dones, info

        def world_state(self, obs):
            rows = jnp.concatenate([obs[a].ravel() for a in self._env.agents])
            return rows[None].repeat(self._env.num_agents, axis=0)

    mpe = make_env(baselines.MPELogWrapper(WorldState(jaxmarl.make("MPE_simple_spread_v3"))))
    by_name = make_env("mpe/simple_spread")
    assert (mpe.state_size, mpe.truncates, mpe.time_limit) == (3 * by_name.state_size, True, 25)
    _, seen = mpe.reset(KEY)
    assert_array_equal(seen.global_state.reshape(3, -1), [np.concatenate(seen.obs)] * 3)
    assert jax.eval_shape(mpe.step, KEY, *mpe.reset(KEY)[:1], jnp.zeros(3, int))[1].global_state.shape == (
        mpe.state_size,
    )

    smax = jaxmarl.make("HeuristicEnemySMAX", num_allies=2, num_enemies=2)
    for env in (smax, baselines.SMAXLogWrapper(smax), WorldState(baselines.SMAXLogWrapper(smax))):
        ours = make_env(env)
        assert ours.truncates and ours.reports_wins and ours.agent_types == (0, 0)
        assert ours.time_limit == smax.max_steps
        assert ours.scenes is not None
    with pytest.raises(ConfigError, match="CTRolloutManager batches environments"):
        make_env(baselines.CTRolloutManager(smax, batch_size=2))


def test_an_environment_for_one_agent_is_refused(baselines):
    from jaxmarl.wrappers.gymnax import GymnaxToJaxMARL

    with pytest.raises(ConfigError, match="GymnaxToJaxMARL is an environment for one agent"):
        make_env(GymnaxToJaxMARL("CartPole-v1"))


def test_spaces_of_gymnax(baselines):
    from gymnax.environments import spaces as theirs

    env = make_env(Toy(agent_0=theirs.Discrete(3), agent_1=theirs.Discrete(2)))
    assert (env.discrete, env.action_sizes) == (True, (3, 2))
    box = theirs.Box(0.0, 10.0, (2,))
    env = Aim(0.0, 1.0, 0.0)
    env.action_spaces = {"agent_0": box}
    assert make_env(env).action_high == ((10.0, 10.0),)


# --- JaxMARL's own classes as objects ---


def test_mabrax_objects_are_as_by_name():
    """An object resets itself by default, and its table of observations is one index off."""
    import jaxmarl

    with pytest.warns(DeprecationWarning):
        made = jaxmarl.make("halfcheetah_6x1", episode_length=2)
    assert made.auto_reset
    ours, by_name = make_env(made), make_env("mabrax/halfcheetah_6x1", {"episode_length": 2})
    action = jnp.full((6, 1), 0.7)
    step, reset = jax.jit(by_name.step), jax.jit(by_name.reset)
    state, seen = reset(KEY)
    expected = [(seen, None)]
    for _ in range(2):
        state, seen, outcome = step(KEY, state, action)
        expected.append((seen, outcome))
    assert bool(expected[-1][1].truncated)
    step, reset = jax.jit(ours.step), jax.jit(ours.reset)
    state, seen = reset(KEY)
    results = [(seen, None)]
    for _ in range(2):
        state, seen, outcome = step(KEY, state, action)
        results.append((seen, outcome))
    jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=1e-5, atol=1e-5), results, expected)
    assert np.abs(results[-1][0].global_state - results[0][0].global_state).max() > 0.01
    assert (ours.obs_sizes, ours.time_limit, ours.html is None) == (by_name.obs_sizes, 2, False)
    assert made.auto_reset  # the object itself is left as it was


def test_a_time_limit_counts_actions_not_repeats():
    env = make_env("mabrax/halfcheetah_6x1", {"episode_length": 10, "action_repeat": 4})
    assert env.time_limit == 3


# --- continuous actions ---


def test_bounds_of_minus_one_and_one_change_nothing():
    from fp3o_jax.envs.spaces import to_bounds

    draws = np.concatenate([np.random.default_rng(0).normal(size=1000), [1e-9, 1.0, -1.0]]).astype(np.float32)
    mapped = to_bounds(draws[:, None], (-1.0,), (1.0,))
    assert_array_equal(mapped, np.clip(draws, -1.0, 1.0)[:, None])


def test_bounds_on_one_side_or_none():
    from fp3o_jax.envs.spaces import to_bounds

    inf = float("inf")
    draws = jnp.array([[-3.0, -3.0, -3.0, -3.0], [0.5, 0.5, 0.5, 0.5], [3.0, 3.0, 3.0, 3.0]])
    mapped = to_bounds(draws, (0.0, -inf, 0.0, -inf), (1000.0, inf, inf, -0.5))
    assert_allclose(mapped, [[0.0, -3.0, 0.0, -3.0], [750.0, 0.5, 0.5, -0.5], [1000.0, 3.0, 3.0, -0.5]])
    with pytest.warns(UserWarning, match="agent_0 have no bounds"):
        env = make_env(Aim(-jnp.inf, jnp.inf, 0.0))
    assert env.action_low == ((-inf,),)
    with pytest.warns(UserWarning, match="agent_0 have no bounds"):
        assert make_env(Aim(-3.4e38, 3.4e38, 0.0)).action_high == ((inf,),)
    with pytest.raises(ConfigError, match="bounds of 'agent_0' are"):
        make_env(Aim(1.0, -1.0, 0.0))


@pytest.mark.parametrize("bounds", [(0.0, 1000.0), (-0.01, 0.01), (-1.0, 1.0)])
def test_actions_reach_their_bounds(bounds):
    low, high = bounds
    env = make_env(Aim(low, high, high))
    state, _ = env.reset(KEY)
    rewards = [float(env.step(KEY, state, jnp.full((1, 1), x))[2].reward) for x in (-1.0, 0.0, 1.0, 5.0)]
    assert_allclose(rewards, [low - high, (low - high) / 2, 0.0, 0.0], rtol=1e-6)


def test_an_exported_policy_acts_within_the_bounds(tmp_path):
    from fp3o_jax.policy import Policy, architecture, load_policy

    with pytest.warns(UserWarning, match="no bounds"):
        free = make_train(Config(hidden_sizes=(8,)), env=Aim(0.0, jnp.inf, 1.0))
    trainer = make_train(Config(hidden_sizes=(8,)), env=Aim(200.0, 1000.0, 840.0))
    params = trainer.networks.init(KEY)["actor"]
    policy = Policy(architecture(trainer), params)
    obs = {"agent_0": jnp.array([1.0, 2.0])}
    action, _ = policy.act(obs, None, policy.initial_state())
    assert 500.0 < float(action["agent_0"][0]) < 700.0  # the mean is about 0: the middle
    loaded = load_policy(policy.save(tmp_path / "new"))
    assert_array_equal(loaded.act(obs, None, policy.initial_state())[0]["agent_0"], action["agent_0"])

    old = {k: v for k, v in policy.architecture.items() if not k.startswith("action_l")}
    old = {k: v for k, v in old.items() if not k.startswith("action_h")}
    raw, _ = Policy(old, params).act(obs, None, policy.initial_state())
    assert_allclose(600.0 + 400.0 * raw["agent_0"], action["agent_0"], rtol=1e-5)

    folder = Policy(architecture(free), params).save(tmp_path / "free")
    assert json.loads((folder / "policy.json").read_text())["action_high"] == [[None]]
    played = float(load_policy(folder).act(obs, KEY, policy.initial_state())[0]["agent_0"][0])
    assert np.isfinite(played) and played >= 0.0


def test_a_policy_with_nothing_available_plays_what_exists():
    from fp3o_jax.policy import Policy, architecture

    trainer = make_train(Config(hidden_sizes=(8,)), env=Toy(agent_1=spaces.Discrete(2)))
    policy = Policy(architecture(trainer), trainer.networks.init(KEY)["actor"])
    obs = {a: jnp.ones(3) for a in policy.agents}
    mask = {"agent_0": jnp.zeros(3, bool), "agent_1": jnp.zeros(2, bool)}
    act = jax.jit(lambda key: policy.act(obs, key, policy.initial_state(), mask)[0])
    drawn = [act(jax.random.key(i)) for i in range(40)]
    assert {int(d["agent_0"]) for d in drawn} == {0, 1, 2}
    assert {int(d["agent_1"]) for d in drawn} == {0, 1}


def test_a_far_target_is_learned():
    aim = Aim(0.0, 1000.0, 800.0)
    aim.scale = 1e-3
    config = Config(
        num_envs=64, rollout_length=4, total_env_steps=64 * 4 * 40, hidden_sizes=(8,), actor_lr=2e-2,
        critic_lr=2e-2, entropy_coef=0.0,
    )  # fmt: skip
    trainer = make_train(config, env=aim)
    state = jax.jit(trainer)(KEY)["state"]
    from fp3o_jax.policy import Policy, architecture

    policy = Policy(architecture(trainer), state.params["actor"])
    action, _ = policy.act({"agent_0": jnp.array([1.0, 2.0])}, None, policy.initial_state())
    assert np.isfinite(float(action["agent_0"][0]))
    assert abs(float(action["agent_0"][0]) - 800.0) < 100.0


# --- what the team is rewarded for ---


class Uneven(Toy):
    def step_env(self, *args):
        obs, state, _, dones, info = super().step_env(*args)
        return obs, state, {"agent_0": jnp.float32(1.0), "agent_1": jnp.ones(1) * 4.0}, dones, info


def uneven():
    return Uneven()


def test_team_reward():
    for options, reward in (({}, 2.5), ({"reward": "mean"}, 2.5), ({"reward": "sum"}, 5.0)):
        env = make_env(Uneven(), options)
        assert float(env.step(KEY, env.reset(KEY)[0], jnp.zeros(2, int))[2].reward) == reward
    make_env("mpe/simple_spread", {"reward": "sum"})
    with pytest.raises(ConfigError, match=r"reward='each'.*own"):
        make_env(Toy(), {"reward": "each"})


def test_options_reach_an_object_and_a_factory(monkeypatch):
    """What is said of rewards is the adapter's business, and what nobody takes is refused."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "helpers")
    for env, name in ((Uneven(), "smax/3m"), (None, "test_adapter:uneven")):
        train = make_train(Config(env=name, env_kwargs={"reward": "sum"}), env=env)
        state = train.env.reset(KEY)[0]
        assert float(train.env.step(KEY, state, jnp.zeros(2, int))[2].reward) == 5.0
        with pytest.raises(ConfigError, match="env_kwargs"):
            make_train(Config(env=name, env_kwargs={"nonsense": 3}), env=env)


def test_rewards_of_their_own():
    """Without a future, an agent's target is its own reward; the team's return is the mean."""
    env = make_env(Uneven(), {"reward": "own"})
    settings = {"num_envs": 2, "rollout_length": 5, "total_env_steps": 10, "hidden_sizes": (8,), "gamma": 0.0}
    train = make_train({**settings, "algorithm": "ippo", "normalize_values": False}, env=env)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(key):
        state = train.init(key)
        trajectory = train.collect(state, key)[1]
        return train.targets(state, trajectory).batch.target, train.update(state)[1]

    target, metrics = run(KEY)
    assert target.shape == (2, 1, 10)
    assert_allclose(target, np.broadcast_to([[[1.0]], [[4.0]]], target.shape), rtol=1e-5)
    assert float(metrics["episode_return"]) == pytest.approx(2.5 * 5)
    with pytest.raises(ConfigError, match=r"reward='own'.*algorithm='mappo'.*algorithm='ippo'"):
        make_train({**settings, "algorithm": "mappo"}, env=env)


# --- contracts ---


def changed(what):
    """A toy whose step returns something else: (obs, state, rewards, dones, info) -> the same."""

    class Changed(Toy):
        def step_env(self, *args):
            return what(*super().step_env(*args))

    return Changed()


def without(mapping, key):
    return {k: v for k, v in mapping.items() if k != key}


def renamed(mapping):
    return {f"other{i}": v for i, v in enumerate(mapping.values())}


FAULTS = {
    "no __all__": (
        lambda o, s, r, d, i: (o, s, r, without(d, "__all__"), i),
        "dones have no entry for __all__",
    ),
    "dones elsewhere": (
        lambda o, s, r, d, i: (o, s, r, {"__all__": d["__all__"]}, i),
        "no entry for agent_0",
    ),
    "rewards elsewhere": (
        lambda o, s, r, d, i: (o, s, renamed(r), d, i),
        "rewards have no entry for agent_0",
    ),
    "vector reward": (
        lambda o, s, r, d, i: (o, s, {a: jnp.ones(3) for a in r}, d, i),
        r"rewards\['agent_0'\] has shape \(3,\) and must be one number",
    ),
    "one reward": (lambda o, s, r, d, i: (o, s, r["agent_0"], d, i), "rewards must be a dictionary"),
    "more observations": (
        lambda o, s, r, d, i: (o | {"world_state": jnp.ones(2)}, s, r, d, i),
        "keep their keys, and 'world_state' is among those of step alone",
    ),
    "fewer observations": (lambda o, s, r, d, i: (without(o, "agent_1"), s, r, d, i), "no entry for agent_1"),
    "other observations": (
        lambda o, s, r, d, i: ({a: x[:2] for a, x in o.items()}, s, r, d, i),
        r"shape \(3,\) after reset and \(2,\) after step",
    ),
    "dict observations": (
        lambda o, s, r, d, i: ({a: {"x": x} for a, x in o.items()}, s, r, d, i),
        "'agent_0' is a dict, and must be one array: put its parts side by side",
    ),
    "other state": (
        lambda o, s, r, d, i: (o, s.replace(step=s.step.astype(float)), r, d, i),
        r"state.step is int32\[\] after reset and float32\[\] after step",
    ),
    "four values": (lambda o, s, r, d, i: (o, s, r, d), "step must return five values"),
    "odd truncation": (
        lambda o, s, r, d, i: (o, s, r, d, {"truncation": jnp.zeros((7, 2))}),
        r"info\['truncation'\] has shape \(7, 2\)",
    ),
    "truncation of others": (
        lambda o, s, r, d, i: (o, s, r, d, {"truncated": {"me": jnp.zeros(())}}),
        "neither an agent nor '__all__'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_contract_is_told_before_anything_is_compiled(fault):
    change, said = FAULTS[fault]
    with pytest.raises(ConfigError, match=said):
        make_train(Config(), env=changed(change))


def test_agents_and_spaces_that_are_none():
    env = Toy()
    env.agents = [0, 1]
    with pytest.raises(ConfigError, match=r"agents=\[0, 1\] must be strings that differ"):
        make_env(env)
    with pytest.raises(ConfigError, match="object has no `agents`"):
        make_env(object())
    with pytest.raises(ConfigError, match=r"MultiDiscrete\[2\]"):
        make_env(Toy(agent_0=spaces.MultiDiscrete([2, 3]), agent_1=spaces.MultiDiscrete([2, 3])))
    with pytest.raises(ConfigError, match=r"Box\[1\], Discrete\[\]"):
        make_env(Toy(agent_0=spaces.Box(0, 1, (1,))))
    env = Toy()
    del env.action_spaces["agent_1"]
    with pytest.raises(ConfigError, match=r"action_space\('agent_1'\) fails: KeyError"):
        make_env(env)


@pytest.mark.parametrize(
    "flag",
    [
        lambda x: {"truncation": x},
        lambda x: {"truncation": x[None]},
        lambda x: {"truncated": x.astype(float)},
        lambda x: {"truncated": jnp.stack([jnp.zeros((), bool), x])},
        lambda x: {"truncation": {"agent_0": x, "agent_1": x}},
        lambda x: {"truncated": {"agent_0": jnp.zeros((), bool), "agent_1": x}},
        lambda x: {"truncation": {"agent_0": x, "agent_1": x, "__all__": x}},
        lambda x: {"truncation": jnp.zeros((), bool), "truncated": x},
    ],
)
def test_truncations_in_every_form(flag):
    env = make_env(changed(lambda o, s, r, d, i: (o, s, r, d, flag(s.step >= STEPS))))
    outcomes = [outcome for _, outcome in follow(env)[1]]
    assert [bool(o.truncated) for o in outcomes] == [False] * (STEPS - 1) + [True]
    assert not any(o.terminated for o in outcomes)


def test_shapes_of_one_and_flags_as_numbers():
    """A reward of shape [1] is a number; so is a done that is a float."""
    plain = make_env(Toy())
    env = make_env(
        changed(
            lambda o, s, r, d, i: (
                o,
                s,
                {a: x[None] for a, x in r.items()},
                {a: x.astype(float)[None] for a, x in d.items()},
                i,
            )
        )
    )
    assert any(float(outcome.reward) for _, outcome in follow(plain)[1])
    jax.tree.map(assert_array_equal, follow(env), follow(plain))


def test_images_are_flattened_and_no_world_state_is_said():
    class Picture(Toy):
        get_world_state = None

        def get_obs(self, state):
            return {a: jnp.full((2, 2, 3), state.sign) for a in self.agents}

    with pytest.warns(UserWarning) as said:
        env = make_env(Picture())
    assert any("shape [2, 2, 3], are flattened" in str(w.message) for w in said)
    assert any("'Picture' has neither obs['world_state']" in str(w.message) for w in said)
    assert (env.obs_sizes, env.state_size) == ((12, 12), 24)
    _, seen = env.reset(KEY)
    assert_array_equal(seen.global_state, seen.obs.ravel())


OWN = {
    "obs_sizes": (
        (2, 2),
        r"obs_sizes=\(2, 2\) mean that obs has shape \(2, 2\), and reset gives shape \(2, 1\)",
    ),
    "state_size": (8, r"state_size=8 mean that global_state has shape \(8,\), and reset gives shape \(1,\)"),
    "action_sizes": ((2, 3), "action_mask has shape"),
    "agent_types": (("a",), "one entry for each of 2 agents"),
    "discrete": (False, "actions are continuous, and reset gives an action_mask"),
}


@pytest.mark.parametrize("field", OWN)
def test_an_environment_of_ones_own_is_what_it_says(field):
    value, said = OWN[field]
    env = dataclasses.replace(make_env("matrix/xor"), **{field: value})
    with pytest.raises(ConfigError, match=said):
        make_train(Config(), env=env)


def test_an_environment_of_ones_own_keeps_its_state_and_outcome():
    env = make_env("matrix/xor")

    def growing(key, state, actions):
        state, seen, outcome = env.step(key, state, actions)
        return state[None], seen, outcome

    def by_agent(key, state, actions):
        state, seen, outcome = env.step(key, state, actions)
        return state, seen, outcome.replace(reward=jnp.ones(2))

    for step, said in ((growing, "the state must keep"), (by_agent, "reward has shape")):
        with pytest.raises(ConfigError, match=said):
            make_env(dataclasses.replace(env, step=step))
    with pytest.raises(ConfigError, match="already made"):
        make_env(env, {"num_agents": 4})


# --- check_env ---


def test_what_random_steps_bring():
    def with_outcome(**changes):
        env = make_env(Toy())

        def step(key, state, actions):
            state, seen, outcome = env.step(key, state, actions)
            return state, seen, outcome.replace(**{k: f(state) for k, f in changes.items()})

        return dataclasses.replace(env, step=step)

    no = jnp.zeros((), bool)
    for env, said in (
        (dataclasses.replace(make_env(Toy()), time_limit=3), "time_limit=3, and an episode has 5 steps"),
        (with_outcome(truncated=lambda s: s.step == 2), "truncates=False says that it never is"),
        (with_outcome(won=lambda s: s.step == 2), "reports_wins=False says that it never is"),
        (
            with_outcome(reward=lambda s: jnp.where(s.step == 3, jnp.inf, 0.0)),
            "the reward is not finite, first",
        ),
    ):
        with pytest.raises(ConfigError, match=said):
            check_env(env, steps=12)
    report = check_env(with_outcome(terminated=lambda s: no, reward=lambda s: jnp.float32(2.0)), steps=12)
    assert report.notes == (
        "no episode ended: metrics of episodes stay empty until one does",
        "every reward was 2",
    )


def test_the_masked_and_the_revived_are_told():
    class Stuck(Toy):
        def get_avail_actions(self, state):
            return {a: jnp.full(3, (state.step < 2) | (a == "agent_0")) for a in self.agents}

    with pytest.raises(ConfigError, match="'agent_1' has no action available, first in step 3 of an episode"):
        check_env(Stuck(), steps=12)

    class Risen(Toy):
        def step_env(self, *args):
            obs, state, rewards, dones, info = super().step_env(*args)
            return obs, state, rewards, dones | {"agent_1": dones["__all__"] | (state.step == 2)}, info

    report = check_env(Risen(), steps=12)
    assert len(report.notes) == 1
    assert "agent_1 comes back to life within an episode, first in step 3" in str(report)
