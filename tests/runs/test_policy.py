"""Trained policies, taken away: as they were in training, from a run or from exported files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from rich.console import Console
from safetensors.flax import load_file

from finite import assert_array_equal
from fp3o_jax import Config, ConfigError, load_policy, make_train
from fp3o_jax.cli import main
from fp3o_jax.policy import Policy, architecture, play
from fp3o_jax.runs import RunOptions, load_run, run_training


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "run"
    config = Config(
        env="mpe/simple_speaker_listener",  # agents that differ in what they see and can do
        sharing="partial",
        recurrent=True,
        num_envs=4,
        rollout_length=16,
        total_env_steps=64,
        hidden_size=8,
        num_seeds=2,
        epochs=1,
    )
    run_training(config, RunOptions(run_dir=path, eval_episodes=4), console=Console(quiet=True))
    return path


def test_it_acts_as_in_training(run):
    """Step by step with a carried state, against the networks on the whole sequence."""
    trainer, state = load_run(run)
    policy = load_policy(run, seed_index=1)
    env, steps = trainer.env, 5
    rng = np.random.default_rng(0)
    obs = [
        {a: rng.normal(size=n) for a, n in zip(env.agents, env.obs_sizes, strict=True)} for _ in range(steps)
    ]
    masks = [{a: rng.random(n) < 0.6 for a, n in zip(env.agents, env.action_sizes, strict=True)} for _ in obs]
    for mask in masks:
        for available in mask.values():
            available[0] = True
    stacked = np.zeros((env.num_agents, steps, 1, max(env.obs_sizes)), np.float32)
    mask = np.zeros((env.num_agents, steps, 1, max(env.action_sizes)), bool)
    for t in range(steps):
        for i, agent in enumerate(env.agents):
            stacked[i, t, 0, : env.obs_sizes[i]] = obs[t][agent]
            mask[i, t, 0, : env.action_sizes[i]] = masks[t][agent]
    expected, _ = trainer.networks.policy(
        jax.tree.map(lambda x: x[1], state.params["actor"]),
        trainer.networks.standardize_obs(None, jnp.asarray(stacked)),
        jnp.asarray(mask),
        trainer.networks.initial_hidden(1),
        jnp.zeros((steps, 1), bool),
    )
    act, carried = jax.jit(policy.act), policy.initial_state()
    for t in range(steps):
        actions, carried = act(obs[t], None, carried, masks[t])
        assert set(actions) == set(env.agents)
        assert [int(actions[a]) for a in env.agents] == list(expected.mode()[:, t, 0])
        sampled, _ = act(obs[t], jax.random.key(t), carried, masks[t])
        assert all(masks[t][agent][int(action)] for agent, action in sampled.items())


def test_export_is_what_jaxmarl_reads(run, tmp_path, capsys):
    assert main(["export", str(run), "--seed-index", "1", "--output", str(tmp_path / "team")]) == 0
    assert str(tmp_path / "team") in capsys.readouterr().out.replace("\n", "")
    ours, theirs = load_policy(run, seed_index=1), load_policy(tmp_path / "team")
    assert json.loads((tmp_path / "team" / "policy.json").read_text()) == ours.architecture
    # JaxMARL's load_params: names joined by commas.
    weights = unflatten_dict(load_file(tmp_path / "team" / "policy.safetensors"), sep=",")
    for params in (weights, theirs.params):
        jax.tree.map(assert_array_equal, params, ours.params)
    obs = {a: jnp.ones(n) for a, n in zip(ours.agents, ours.architecture["obs_sizes"], strict=True)}
    results = [p.act(obs, jax.random.key(0), p.initial_state()) for p in (ours, theirs)]
    jax.tree.map(assert_array_equal, *results)
    assert main(["export", str(run), "--seed-index", "2"]) == 2


def test_continuous_actions_have_their_own_sizes():
    """A team whose agents differ in the number of action dimensions."""
    base = architecture(make_train(Config(env="matrix/xor", hidden_size=8)))
    settings = base | {"obs_sizes": [3, 5], "action_sizes": [1, 2], "discrete": False, "agent_id": False}
    from fp3o_jax.team.actor_critic import ActorCritic
    from fp3o_jax.team.modules import Trunk
    from fp3o_jax.team.sharing import Sharing

    networks = ActorCritic(
        sharing=Sharing((0, 0), (0, 0)),
        obs_sizes=(3, 5),
        critic_sizes=(3, 5),
        action_sizes=(1, 2),
        discrete=False,
        trunk=Trunk((8, 8)),
        agent_id=False,
    )
    policy = Policy(settings, networks.init(jax.random.key(0))["actor"])
    obs = {agent: jnp.ones(size) for agent, size in zip(policy.agents, (3, 5), strict=True)}
    actions, state = policy.act(obs, jax.random.key(1), policy.initial_state())
    assert [a.shape for a in actions.values()] == [(1,), (2,)]
    assert state.shape == (2, 0)
    with pytest.raises(ConfigError, match="has 4 features, the policy was trained on 3"):
        policy.act(obs | {policy.agents[0]: jnp.ones(4)}, None, policy.initial_state())


def test_what_is_no_policy(tmp_path):
    with pytest.raises(ConfigError, match="is not a run"):
        load_policy(tmp_path)


class Parallel:
    """A PettingZoo environment, of the run's agents: the speaker leaves after two steps; then all is over."""

    def __init__(self, env):
        self.env, self.seeds, self.asked = env, [], []

    def reset(self, seed=None, options=None):
        self.seeds.append(seed)
        self.agents, self.t = list(self.env.agents), 0
        return self._obs(), {a: {"action_mask": self._mask(a)} for a in self.agents}

    def step(self, actions):
        assert sorted(actions) == sorted(self.agents)
        self.asked.append({a: int(x) for a, x in actions.items()})
        rewards = {a: float(i) for i, a in enumerate(self.agents)}
        self.t += 1
        self.agents = [] if self.t == 4 else [a for a in self.agents if self.t < 2 or a != self.env.agents[0]]
        return self._obs(), rewards, {}, {}, {a: {"action_mask": self._mask(a)} for a in self.agents}

    def _obs(self):
        sizes = dict(zip(self.env.agents, self.env.obs_sizes, strict=True))
        return {a: np.full(sizes[a], self.t / 4) for a in self.agents}

    def _mask(self, agent):
        """The last action alone."""
        size = dict(zip(self.env.agents, self.env.action_sizes, strict=True))[agent]
        return np.arange(size) == size - 1


def test_it_plays_in_pettingzoo(run):
    trainer, _ = load_run(run)
    env = Parallel(trainer.env)
    results = play(load_policy(run), env, episodes=2, seed=7)
    assert env.seeds == [7, 8]
    assert_array_equal(results["episode_length"], [4, 4])
    assert_array_equal(results["episode_return"], [1.0, 1.0])  # 0.5 and 0.5 of two, then 0.0 of one, twice
    last = {a: n - 1 for a, n in zip(trainer.env.agents, trainer.env.action_sizes, strict=True)}
    both, listener = last, {trainer.env.agents[1]: last[trainer.env.agents[1]]}
    assert env.asked == [both, both, listener, listener] * 2
