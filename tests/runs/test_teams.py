"""Teams mixed from several runs, and the seeds of runs with one another."""

import csv
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from finite import assert_array_equal, assert_finite
from fp3o_jax import Config, ConfigError, Source, cross_play_runs, evaluate_run, evaluate_team, make_evaluate
from fp3o_jax.cli import main
from fp3o_jax.envs.matrix import payoff_game
from fp3o_jax.runs import RunOptions, run_training
from fp3o_jax.runs.crossplay import conventions, play_pairs
from fp3o_jax.runs.teams import source_of_agents
from fp3o_jax.runs.trained import load_params
from fp3o_jax.seeds import seed_keys
from fp3o_jax.team.mixed import MixedTeam
from fp3o_jax.train import make_train

QUIET = Console(quiet=True)
BASE = Config(
    env="matrix/xor",
    env_kwargs={"num_agents": 4},
    num_envs=4,
    rollout_length=8,
    total_env_steps=96,
    hidden_sizes=(8,),
    layer_norm=False,
    epochs=2,
    actor_lr=0.05,
)


def trained(path, **changes):
    run_training(BASE.replace(**changes), RunOptions(run_dir=path, eval_episodes=4), console=QUIET)
    return path


@pytest.fixture(scope="module")
def feedforward(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("teams") / "feedforward", num_seeds=2, sharing="none")


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory):
    """Another algorithm, sharing, width and cell."""
    path = tmp_path_factory.mktemp("teams") / "recurrent"
    return trained(path, algorithm="mappo", recurrent=True, chunk_length=4, hidden_sizes=(16,), seed=7)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("teams") / "elsewhere", env="matrix/climbing", env_kwargs={})


def agreement(num_agents=2):
    """1 if all agents take the same of three actions, else 0: three conventions."""
    return payoff_game(lambda key, actions: (actions == actions[0]).all() * 1.0, num_agents, 3, "agreement")


def with_a_convention(seeds, num_agents=2, **settings):
    """A trainer, and policies of which each seed takes the action that ``seeds`` gives it."""
    trainer = make_train(
        Config(num_envs=4, hidden_sizes=(8,), layer_norm=False, **settings), env=agreement(num_agents)
    )
    params = jax.jit(jax.vmap(trainer.init))(seed_keys(range(len(seeds)))).params["actor"]
    (name,) = params["head"]
    bias = params["head"][name]["bias"]
    firm = 50.0 * np.eye(3)[np.array(seeds)][:, None].repeat(bias.shape[1], 1)
    return trainer, params | {"head": {name: params["head"][name] | {"bias": jnp.asarray(firm, bias.dtype)}}}


@pytest.mark.parametrize("sampled", [False, True])
def test_a_team_of_one_run_is_that_run(feedforward, recurrent, sampled):
    """To the bit, whoever acts by which of the two copies of its networks."""
    for run, index in ((feedforward, 1), (recurrent, 0)):
        (alone,) = evaluate_run(run, episodes=64, seed_index=index, sampled=sampled, console=QUIET)
        team = [f"{run}@{index}:agent_0,agent_2", f"{run}@{index}:1,3"]
        mixed = evaluate_team(team, episodes=64, sampled=sampled, console=QUIET)
        assert mixed == {name: value for name, value in alone.items() if name != "seed"}
        assert_finite(mixed)


def test_each_agent_acts_by_its_own_run(feedforward, recurrent):
    """A recurrent network without sharing what feed-forward ones of another size do: step by step the same as
    each of them alone."""
    sources = [load_params(path) for path in (feedforward, recurrent)]
    params = [jax.tree.map(lambda x: x[0], params["actor"]) for _, params in sources]
    nets = [trainer.networks for trainer, _ in sources]
    mixed, source = MixedTeam(nets), np.array([1, 0, 1, 0])
    env = sources[0][0].env

    @jax.jit
    def step(hidden, alone, key):
        _, seen = jax.vmap(env.reset, out_axes=(0, 1))(jax.random.split(key, 5))
        acted = mixed.act({"teams": tuple(params), "source": source}, seen, hidden, key)
        own = [net.act(p, seen, h, key) for net, p, h in zip(nets, params, alone, strict=True)]
        return acted, own

    hidden, alone = mixed.initial_hidden(5), [net.initial_hidden(5) for net in nets]
    for t in range(3):
        acted, own = step(hidden, alone, jax.random.key(t))
        for agent, number in enumerate(source):
            assert_array_equal(acted.action[agent], own[number].action[agent])
            assert_array_equal(acted.log_prob[agent], own[number].log_prob[agent])
        hidden, alone = acted.hidden, [each.hidden for each in own]
        assert_array_equal(hidden[1], alone[1])
        assert hidden[0] is None
    assert np.abs(np.asarray(hidden[1])).max() > 0


def test_evaluate_team_on_the_command_line(feedforward, recurrent, capsys):
    args = ["evaluate", "--team", f"{feedforward}@1:agent_0,agent_1", f"{recurrent}:2,3", "--episodes", "8"]
    assert main(args) == 0
    out = capsys.readouterr().out.replace("\n", "")
    assert f"agent_1: {feedforward}, seed 1" in out and f"agent_2: {recurrent}, seed 7" in out
    assert "mixed" in out and "greedy, 8 episodes" in out


@pytest.mark.parametrize(
    ("team", "said"),
    [
        (["{a}:agent_0", "{b}:1,2"], r"'agent_3' must come from a run as well: RUN:AGENT"),
        (["{a}:0,1,2,3", "{b}:agent_1"], r"'agent_1' comes from two runs"),
        (["{a}:0,1,2", "{b}:agent_5"], r"team='agent_5' is unknown: .*agent_3"),
        (["{a}:0,1,2", "{b}:4"], r"team='4' must be a name, or a number from 0 to 3"),
        (["{a}@2:0,1,2", "{b}:3"], r"seed_index=2 must be 0 to 1"),
        (["{a}"], r"must be RUN:AGENT,AGENT or, for another seed than the first, RUN@SEED_INDEX:AGENT"),
        (["{a}:0,1,", "{b}:3"], r"must be RUN:AGENT,AGENT"),
        (["nowhere:0"], r"'nowhere' is not a run"),
        (
            ["{a}:0,1", "{c}:0,1"],
            r"not of one environment.*env is 'matrix/xor' and 'matrix/climbing'; env_kwargs is .*; the "
            r"environment's name is .*; the environment's agents is .*action_sizes is \(2, 2, 2, 2\) and "
            r"\(3, 3\)",
        ),
        ([], r"names no run"),
    ],
)
def test_a_team_that_cannot_play_is_refused(feedforward, recurrent, elsewhere, team, said):
    names = {"a": feedforward, "b": recurrent, "c": elsewhere}
    with pytest.raises(ConfigError, match=said):
        evaluate_team([each.format(**names) for each in team], episodes=4, console=QUIET)


@pytest.fixture
def by_factory(feedforward, tmp_path):
    """Three runs on a factory of the user's, the last with another option of it."""
    paths = [tmp_path / name for name in ("one", "two", "other")]
    for path, kwargs in zip(paths, ({}, {}, {"bonus": 2.0}), strict=True):
        shutil.copytree(feedforward, path)
        config = json.loads((path / "config.json").read_text())
        config |= {"env": "brought_envs:make_game", "env_kwargs": kwargs}
        (path / "config.json").write_text(json.dumps(config))
    return paths


def test_runs_on_a_factory_are_of_one_environment_if_its_options_are(by_factory, capsys):
    """With --env nothing but sizes and the environment's name was compared: games of another payoff met."""
    one, two, other = map(str, by_factory)
    env = ["--env", "brought_envs:make_game", "--episodes", "8"]
    assert main(["evaluate", "--team", f"{one}:0,1", f"{two}@1:2,3", *env]) == 0
    assert "mixed" in capsys.readouterr().out
    for command in (["evaluate", "--team", f"{one}:0,1", f"{other}:2,3"], ["crossplay", one, other]):
        assert main([*command, *env]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "not of one environment" in said and "env_kwargs is {} and {'bonus': 2.0}" in said, said
        # Without, nobody has said that the code may be imported.
        assert main([*command, "--episodes", "8"]) == 2
        assert "code that would be imported and called" in " ".join(capsys.readouterr().err.split())


def test_one_run_or_a_team(feedforward, capsys):
    for args, said in (
        ([], "one RUN or those of a --team"),
        ([str(feedforward), "--team", f"{feedforward}:0,1,2,3"], "one of the two"),
        (["--team", f"{feedforward}:0,1,2,3", "--seed-index", "1"], "RUN@1:AGENT"),
        (["--team", f"{feedforward}:0,1,2,3", "--episodes", "0"], "episodes=0 must be a whole number"),
    ):
        assert main(["evaluate", *args]) == 2
        assert said in " ".join(capsys.readouterr().err.split())


def test_a_directory_may_have_an_at_sign_in_its_name(tmp_path):
    (tmp_path / "run@3").mkdir()
    assert Source.of(f"{tmp_path}/run@3:a, b") == Source(tmp_path / "run@3", ("a", "b"), 0)
    assert Source.of(f"{tmp_path}/run@3@1:a") == Source(tmp_path / "run@3", ("a",), 1)
    assert Source.of("C:/run@12:2") == Source(tmp_path.__class__("C:/run"), ("2",), 12)
    assert source_of_agents([("b",), ("a", 2)], ("a", "b", "c")) == [1, 0, 1]


def test_two_conventions_are_told_from_skill():
    """Self-play earns 1; with two agents of other conventions nobody earns anything."""
    trainer, params = with_a_convention([0, 1, 1], sharing="none")
    for greedy in (True, False):
        played = play_pairs((trainer, params), (trainer, params), jax.random.key(0), 8, greedy)
        assert played["episode_return"].shape == (3, 3, 2, 8)
        matrix = played["episode_return"].mean((2, 3))
        assert_array_equal(matrix, [[1, 0, 0], [0, 1, 1], [0, 1, 1]])
    result = conventions(matrix, [3])
    assert result.self_play.value == 1
    assert result.cross_play.value == pytest.approx(1 / 3)
    assert result.gap.value == pytest.approx(2 / 3)
    assert 0 <= result.gap.low <= 2 / 3 <= result.gap.high <= 1


def test_pairs_are_what_they_are_by_hand():
    """Two runs of other networks, and three agents: newcomers in every place, against one team at a time."""
    ours = with_a_convention([0, 1], 3, sharing="full")
    theirs = with_a_convention([1, 2, 0], 3, sharing="partial", algorithm="mappo", recurrent=True)
    key = jax.random.key(5)
    played = play_pairs(ours, theirs, key, 4, greedy=False)["episode_return"]
    assert played.shape == (2, 3, 3, 4)
    by_hand = dataclasses.replace(ours[0], networks=MixedTeam([ours[0].networks, theirs[0].networks]))
    evaluate = jax.jit(make_evaluate(by_hand, 4, greedy=False))
    for i, j, place in np.ndindex(played.shape[:3]):
        teams = tuple(jax.tree.map(lambda x, at=at: x[at], p) for at, (_, p) in ((i, ours), (j, theirs)))
        source = np.where(np.arange(3) == place, 0, 1)
        alone = evaluate({"actor": {"teams": teams, "source": source}}, jax.random.fold_in(key, place))
        assert_array_equal(played[i, j, place], alone["episode_return"])
    assert {0.0, 1.0} == set(np.unique(played))


def test_crossplay_of_runs(feedforward, recurrent, tmp_path, capsys):
    """The matrix on the terminal, in a file and as a figure; self-play against evaluate_run."""
    args = [
        "crossplay",
        str(feedforward),
        str(recurrent),
        "--episodes",
        "8",
        "--output",
        str(tmp_path / "x.png"),
    ]
    assert main(args) == 0
    out = capsys.readouterr().out
    assert "greedy, 8 episodes each" in out and "self-play" in out and "gap" in out
    assert (tmp_path / "x.png").stat().st_size > 1000
    rows = list(csv.DictReader((tmp_path / "x.csv").open()))
    assert len(rows) == 9
    assert {(row["newcomer"], row["newcomer_seed"]) for row in rows} == {
        (str(feedforward), "0"),
        (str(feedforward), "1"),
        (str(recurrent), "7"),
    }
    matrix = np.array([float(row["episode_return"]) for row in rows]).reshape(3, 3)
    assert np.isfinite(matrix).all()
    assert all(f"{value:.3f}" in out for value in matrix.ravel())
    # Nothing in this game is random but what a policy does: self-play is what the evaluation of the run says.
    (alone,) = evaluate_run(feedforward, episodes=2, seed_index=1, console=QUIET)
    assert matrix[1, 1] == pytest.approx(alone["episode_return"])


def test_crossplay_needs_somebody_to_be_exchanged(recurrent, feedforward, elsewhere):
    for paths, said in (
        ([recurrent], "has a single seed: name a second run"),
        ([], "no run is given"),
        ([feedforward, elsewhere], "not of one environment"),
    ):
        with pytest.raises(ConfigError, match=said):
            cross_play_runs(paths, episodes=4, console=QUIET)
    with pytest.raises(ConfigError, match="episodes=0 must be a whole number of at least 1"):
        cross_play_runs([feedforward], episodes=0, console=QUIET)


def test_an_interval_needs_three_seeds():
    for matrix, gap in ((np.eye(2), 1.0), (np.array([[3.0, 1.0], [2.0, 5.0]]), 4.0 - 1.5)):
        result = conventions(matrix, [2])
        assert result.gap.value == pytest.approx(gap)
        assert np.isnan(result.gap.low) and np.isnan(result.gap.high)
    rng = np.random.default_rng(0)
    matrix = 0.5 + 0.1 * rng.normal(size=(12, 12)) + 0.4 * np.eye(12)
    result = conventions(matrix, [5, 7])
    assert result.self_play.value == pytest.approx(np.diag(matrix).mean())
    off = matrix[~np.eye(12, dtype=bool)]
    assert result.cross_play.value == pytest.approx(off.mean())
    assert result.gap.low < result.gap.value < result.gap.high and result.gap.low > 0.3


def test_a_frozen_agent_goes_on_as_it_began(tmp_path, feedforward):
    """From the weights of another run, killed and gone on with."""
    start = load_params(feedforward)[1]["actor"]
    path, config = tmp_path / "frozen", BASE.replace(sharing="none", train_agents=("agent_1", 3), num_seeds=2)
    options = RunOptions(run_dir=path, init_from=feedforward, eval_episodes=4, checkpoint_seconds=0)
    run_training(config.replace(total_env_steps=32), options, console=QUIET)
    run_training(config, options, console=QUIET)
    end = load_params(path)[1]["actor"]
    pairs = zip(*map(jax.tree.leaves, (start, end)), strict=True)
    changed = np.any([(np.asarray(a) != np.asarray(b)).reshape(2, 4, -1).any(-1) for a, b in pairs], axis=0)
    assert_array_equal(changed, [[False, True, False, True]] * 2)
    with pytest.raises(ConfigError, match=r"train_agents is .* there and .* here"):
        run_training(config.replace(train_agents=(1, 2)), options, console=QUIET)
