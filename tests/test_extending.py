"""What others bring is found by name, looked at, and refused in a sentence where it does not fit."""

import dataclasses
import json
import pickle
import re
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

import fp3o_jax
from finite import assert_array_equal
from fp3o_jax import (
    Algorithm,
    Config,
    ConfigError,
    RunOptions,
    Schedule,
    Sharing,
    make_env,
    make_train,
    registry,
    run_training,
)
from fp3o_jax.cli import main
from fp3o_jax.envs import available
from fp3o_jax.envs.matrix import payoff_game
from fp3o_jax.method.schedules import ALGORITHMS
from fp3o_jax.runs.directory import read_config

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
TINY = {
    "num_envs": 4,
    "rollout_length": 8,
    "total_env_steps": 32,
    "hidden_sizes": (8,),
    "layer_norm": False,
    "epochs": 1,
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """What a test registers is gone after it."""
    for names in (registry.algorithms, registry.sharings, registry.environments, registry.sinks):
        monkeypatch.setattr(names, "_registered", dict(names._registered))
    monkeypatch.setattr(registry, "_asked_for", set(registry._asked_for))
    monkeypatch.delenv(registry.PLUGINS, raising=False)


def agree(num_agents=3):
    return payoff_game(lambda key, actions: (actions == actions[0]).all() * 1.0, num_agents, 2)


def schedule(**changes):
    """As MAPPO's, with some fields that are others."""

    def draw(key, n):
        fields = {
            "owners": jnp.arange(n)[None],
            "weights": jnp.zeros((1, n, n), bool),
            "gated": jnp.zeros(1, bool),
            "scale": jnp.ones((1, n)),
            "clip": jnp.ones((1, n)),
        }
        return Schedule(**fields | {name: change(n) for name, change in changes.items()})

    return draw


def shifted(key, n):
    return schedule()(key, n)._replace(owners=jax.random.permutation(key, n)[None] + 1)


BAD = {
    "agent 7 of 3": (
        Algorithm(schedule(owners=lambda n: jnp.array([[0, 1, 7]]))),
        "owns agent 7, and agents are 0 to 2",
    ),
    "agent -1": (Algorithm(schedule(owners=lambda n: jnp.arange(n)[None] - 1)), "owns agent -1, "),
    "agent 3 by chance": (Algorithm(shifted), "owns agent 3, and agents are 0 to 2"),
    "twice": (
        Algorithm(schedule(owners=lambda n: jnp.array([[0, 1, 1]]))),
        r"owns an agent twice .* \[0, 1, 1\]",
    ),
    "no stages": (
        Algorithm(schedule(owners=lambda n: jnp.arange(n))),
        r"owners int \[S, P\], .* int32 \[3\]",
    ),
    "owners are floats": (Algorithm(schedule(owners=lambda n: jnp.ones((1, n)))), r"float32 \[1, 3\]"),
    "no owners": (Algorithm(schedule(owners=lambda n: None)), "Schedule with owners"),
    "weights of another shape": (
        Algorithm(schedule(weights=lambda n: jnp.zeros((1, n), bool))),
        r"weights bool \[1, 3, 3\] with its 1 stages of 3 pipelines and 3 agents, and they are bool \[1, 3\]",
    ),
    "weights are floats": (
        Algorithm(schedule(weights=lambda n: jnp.zeros((1, n, n)))),
        r"are float32 \[1, 3, 3\]",
    ),
    "clip 0": (Algorithm(schedule(clip=lambda n: jnp.zeros((1, n)))), "finite and above 0"),
    "scale NaN": (Algorithm(schedule(scale=lambda n: jnp.full((1, n), jnp.nan))), "must be finite"),
    "live alone": (
        Algorithm(lambda key, n: one_by_one(n), live=True),
        "1 pipelines, and live=True needs all 3 agents",
    ),
    "raises": (Algorithm(lambda key, n: 1 / 0), "fails with 3 agents: ZeroDivisionError"),
    "no schedule": (Algorithm(lambda key, n: jnp.zeros(n)), "must return a Schedule"),
    "no algorithm": ("a text", "must be an Algorithm, .* and is 'a text'"),
    "the schedule itself": (
        schedule(),
        "called with them it fails, .* missing 1 required positional argument",
    ),
    "normalization": (Algorithm(schedule(), normalization="all"), "normalization='all': valid are"),
    "surrogate": (
        Algorithm(schedule(), surrogate=lambda *args: args[0].mean()),
        r"surrogate must return one number for each sample, \[3, 3, 2\]",
    ),
    "correction": (
        Algorithm(schedule(), correction=lambda errors, log_weight: errors.delta),
        "correction fails: TypeError: .* takes 2 positional arguments but 3 were given",
    ),
}


def one_by_one(n):
    return Schedule(
        owners=jnp.arange(n)[:, None],
        weights=jnp.zeros((n, 1, n), bool),
        gated=jnp.zeros(n, bool),
        scale=jnp.ones((n, 1)),
        clip=jnp.ones((n, 1)),
    )


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_algorithm_is_refused(name):
    algorithm, said = BAD[name]
    fp3o_jax.register_algorithm("theirs", algorithm)
    with pytest.raises(ConfigError, match=said) as raised:
        make_train(Config(algorithm="theirs", **TINY), env=agree())
    assert "algorithm='theirs'" in str(raised.value)


def test_an_agent_that_is_never_owned_is_told_of():
    fp3o_jax.register_algorithm("two", Algorithm(lambda key, n: jax.tree.map(lambda x: x[:2], one_by_one(n))))
    with pytest.warns(UserWarning, match=r"owns agents \[2\] in none of 16 draws"):
        make_train(Config(algorithm="two", **TINY), env=agree())


def test_a_selection_is_looked_at_as_well():
    """A function of the user's inside an algorithm of ours."""
    with pytest.raises(ConfigError, match="owns agent 3, and agents are 0 to 2"):
        make_train(Config(selection=lambda key, owners: owners + 1, **TINY), env=agree())
    make_train(Config(selection=lambda key, owners: jnp.roll(owners, 1), **TINY), env=agree())


def test_schedules_are_those_of_the_agents_that_learn():
    """Which a split has a weight for each of."""
    config = Config(train_agents=(0, 2), sharing="none", advantage_split=(0.5, 0.5), **TINY)
    trainer = make_train(config.replace(selection=lambda key, owners: jnp.roll(owners, 1)), env=agree())
    assert trainer.algorithm.learners == (0, 2)


def test_the_settings_choose_for_it():
    """Where they are not at their defaults; its own fields hold otherwise."""
    fp3o_jax.register_algorithm(
        "theirs", lambda choices: Algorithm(schedule(), ratios="stage", critics_once=True)
    )
    config = Config(algorithm="theirs", **TINY)
    algorithm = make_train(config, env=agree()).algorithm
    assert (algorithm.ratios, algorithm.critics_once) == ("stage", True)
    assert not make_train(config.replace(critic_fit="stages"), env=agree()).algorithm.critics_once


def test_names_are_known_once_registered():
    with pytest.raises(ConfigError, match=r"'theirs' is unknown: valid are .*; or module:name"):
        Config(algorithm="theirs")
    fp3o_jax.register_algorithm("theirs", Algorithm(schedule()))
    assert Config(algorithm="theirs").algorithm == "theirs"
    with pytest.raises(ConfigError, match=r"did you mean 'theirs'\? valid are a2po, .*, theirs;"):
        Config(algorithm="their")
    with pytest.raises(ConfigError, match="'theirs' is registered already, by module test_extending: "):
        fp3o_jax.register_algorithm("theirs", Algorithm(schedule()))
    fp3o_jax.register_algorithm("theirs", Algorithm(one_by_one), replace=True)


@pytest.mark.parametrize("name", ["fp3o", "a b", "my:own", "", None])
def test_names_that_cannot_be_registered(name):
    with pytest.raises(ConfigError, match="cannot be registered"):
        fp3o_jax.register_algorithm(name, Algorithm(schedule()))


def test_entries_of_ours_stay_what_they_are():
    with pytest.raises(TypeError, match="does not support item assignment"):
        ALGORITHMS["mine"] = lambda choices: Algorithm(schedule())


def test_families_of_ours_are_taken():
    for name in ("smax", "matrix/mine"):
        with pytest.raises(ConfigError, match="the package itself has one"):
            fp3o_jax.register_env(name, agree)
    from fp3o_jax.envs import FAMILIES

    assert set(registry.environments.builtin) == set(FAMILIES)


def test_environments_by_name():
    fp3o_jax.register_env("games", lambda task, num_agents=2: agree(num_agents))
    fp3o_jax.register_env("games/one", lambda: agree(4))
    assert make_env("games/any", {"num_agents": 5}).num_agents == 5
    env = make_env("games/one")
    assert (env.name, env.num_agents) == ("games/one", 4)
    assert {"games/<task>", "games/one"} <= {*available()}
    with pytest.raises(ConfigError, match=r"env='games' is unknown: did you mean .*'games/"):
        make_env("games")
    with pytest.raises(ConfigError, match="env='game/any' is unknown: did you mean 'games/"):
        make_env("game/any")
    with pytest.raises(ConfigError, match=r"env_kwargs=.* do not fit games/any"):
        make_env("games/any", {"agents": 5})
    # The name of such an environment in place of the config's.
    assert make_train(Config(**TINY), env="games/one").env.name == "games/one"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda env: Sharing((0, 0), (0, 1)), r"trunk=\(0, 0\) must hold one group for each of 3 agents"),
        (lambda env: None, "returns None, no fp3o_jax.Sharing"),
        (lambda: None, "TypeError"),
    ],
)
def test_what_is_no_sharing_is_refused(make, said):
    fp3o_jax.register_sharing("theirs", make)
    with pytest.raises(ConfigError, match=said) as raised:
        make_train(Config(sharing="theirs", **TINY), env=agree())
    assert "sharing='theirs'" in str(raised.value)


def test_groups_of_a_sharing_may_be_called_anything():
    fp3o_jax.register_sharing("theirs", lambda env: Sharing(("b", "a", "b"), ("x", "y", "z")))
    config = Config(sharing="theirs", **TINY)
    sharing = make_train(config, env=agree()).networks.sharing
    assert sharing == Sharing((0, 1, 0), (0, 1, 2))
    sharing = make_train(config.replace(critic_sharing="full"), env=agree()).networks.sharing
    assert sharing == Sharing((0, 1, 0), (0, 1, 2), (0, 0, 0))


def test_sinks_are_looked_for_before_anything_is_done():
    with pytest.raises(ConfigError, match="sinks='theirs' is unknown"):
        RunOptions(sinks=("theirs",))
    with pytest.raises(ConfigError, match=r"sinks='nowhere:Sink' must be module:name, .*ModuleNotFoundError"):
        RunOptions(sinks=["nowhere:Sink"])
    fp3o_jax.register_sink("theirs", lambda config, run_dir, run_id: None)
    options = RunOptions(sinks=("theirs",))
    assert RunOptions.from_dict(json.loads(json.dumps(options.to_dict())), None).sinks == ("theirs",)


def test_a_sink_that_is_none_does_not_end_the_run(tmp_path):
    fp3o_jax.register_sink("theirs", lambda config, run_dir, run_id: None)
    options = RunOptions(tmp_path / "run", sinks=("theirs",), eval_episodes=2)
    with pytest.warns(RuntimeWarning, match="sink 'theirs' is switched off, the run goes on: opening failed"):
        run_training(Config(env="matrix/xor", **TINY), options, console=Console(quiet=True))


def package(folder, name, points):
    """An installed package as far as its metadata tells."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


def test_packages_bring_things(tmp_path, monkeypatch, capsys):
    package(
        tmp_path,
        "good",
        "[fp3o_jax.environments]\nbrought/agree = brought_by_good:agree\n"
        "[fp3o_jax.algorithms]\nbrought = brought_by_good:ALGORITHM\ntwice = brought_by_good:ALGORITHM\n",
    )
    package(
        tmp_path,
        "bad",
        "[fp3o_jax.environments]\nbroken = brought_by_bad:games\n"
        "[fp3o_jax.algorithms]\nbroken = brought_by_bad:ALGORITHM\ntwice = brought_by_bad:ALGORITHM\n",
    )
    (tmp_path / "brought_by_good.py").write_text(
        "from test_extending import agree, schedule\nfrom fp3o_jax import Algorithm\n"
        "ALGORITHM = Algorithm(schedule())\n"
    )
    (tmp_path / "brought_by_bad.py").write_text("raise RuntimeError('needs a newer frobnicator')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    # Names are listed without importing anything.
    assert main(["list"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for line in ("brought/agree", "broken/<task>", "algorithm=broken is brought by package bad"):
        assert line in printed
    assert not {"brought_by_good", "brought_by_bad"} & {*sys.modules}
    # One that cannot be imported is an error of its own alone.
    for use in (
        lambda: make_env("broken/any"),
        lambda: make_train(Config(env="brought/agree", algorithm="broken", **TINY)),
    ):
        with pytest.raises(
            ConfigError, match=r"package bad, whose brought_by_bad:.*needs a newer frobnicator"
        ):
            use()
    with pytest.raises(
        ConfigError, match=r"algorithm='twice' is brought by packages .*: uninstall all but one"
    ):
        Config(algorithm="twice")
    assert make_train(Config(env="brought/agree", algorithm="brought", **TINY)).env.num_agents == 3
    assert registry.origins(Config(env="brought/agree").to_dict()) == {"env": "package good"}


def test_a_run_says_who_brought_what_it_names(tmp_path, monkeypatch):
    fp3o_jax.register_algorithm("theirs", Algorithm(schedule()))
    fp3o_jax.register_env("games", lambda task: agree(4))
    settings = Config(env="games/agree", algorithm="theirs").to_dict()
    (tmp_path / "config.json").write_text(json.dumps(settings))
    brought = registry.origins(settings)
    assert brought == dict.fromkeys(("algorithm", "env"), "module test_extending")
    (tmp_path / "run.json").write_text(json.dumps({"brought": brought}))
    assert read_config(tmp_path).algorithm == "theirs"
    registry.algorithms._registered.clear()
    said = (
        "was trained with algorithm='theirs', which module test_extending brought and nothing here does: "
        "import test_extending first, or set FP3O_PLUGINS=test_extending"
    )
    with pytest.raises(ConfigError, match=said):
        read_config(tmp_path)


def test_a_run_does_not_choose_what_is_imported(tmp_path, monkeypatch):
    """Only modules that somebody here asked for: by a name in settings, by an import, or as plugins."""
    (tmp_path / "untold.py").write_text(
        "from test_extending import schedule\nfrom fp3o_jax import Algorithm\nOWN = Algorithm(schedule())\n"
        "def sink(config, run_dir, run_id): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "config.json").write_text(json.dumps(Config(algorithm="untold:OWN").to_dict()))
    options = RunOptions().to_dict() | {"sinks": ["untold:sink"]}
    for read in (lambda: read_config(tmp_path), lambda: RunOptions.from_dict(options, tmp_path)):
        with pytest.raises(ConfigError, match=r"code that would be imported.*FP3O_PLUGINS=untold"):
            read()
    assert "untold" not in sys.modules
    monkeypatch.setenv(registry.PLUGINS, "untold")
    assert read_config(tmp_path).algorithm == "untold:OWN"
    monkeypatch.delenv(registry.PLUGINS)
    make_train(Config(algorithm="untold:OWN", **TINY), env=agree())
    assert read_config(tmp_path).algorithm == "untold:OWN"
    assert RunOptions.from_dict(options, tmp_path).sinks == ("untold:sink",)


def test_plugins_are_imported_when_a_name_is_not_known(tmp_path, monkeypatch):
    (tmp_path / "plugged_in.py").write_text(
        "from fp3o_jax import register_sharing, Sharing\n"
        "register_sharing('plugged', lambda env: Sharing(env.agents, env.agents))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(registry.PLUGINS, "plugged_in, missing_plugin")
    Config()
    assert "plugged_in" not in sys.modules
    with pytest.warns(RuntimeWarning, match="missing_plugin cannot be imported, .*ModuleNotFoundError"):
        assert Config(sharing="plugged").sharing == "plugged"
    registry.sharings._registered.pop("plugged")


def test_trainers_pickle():
    config = Config(env="matrix/xor", **TINY)
    train = make_train(config)
    again = pickle.loads(pickle.dumps(train))
    assert again.config == config
    first, second = (jax.jit(t)(jax.random.key(1)) for t in (train, again))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert_array_equal(x, y)


def test_trainers_pickle_with_what_they_were_given():
    cloudpickle = pytest.importorskip("cloudpickle")
    train = make_train(Config(selection=lambda key, owners: jnp.roll(owners, 1), **TINY), env=agree())
    again = pickle.loads(cloudpickle.dumps(train))
    assert again.env.num_agents == 3
    with pytest.raises(TypeError, match="was not made by make_train"):
        pickle.dumps(dataclasses.replace(train, algorithm=train.algorithm))


def test_the_top_level_has_all_it_names():
    for name in fp3o_jax.__all__:
        assert getattr(fp3o_jax, name) is not None
    assert {"run_training", "RunOptions", "load_run", "evaluate_run", "plot_runs", "Policy"} <= {
        *fp3o_jax.__all__
    }
    assert {*fp3o_jax._LAZY} <= {*fp3o_jax.__all__} <= {*dir(fp3o_jax)}


def test_old_names_warn(monkeypatch):
    monkeypatch.setitem(fp3o_jax._MOVED, "train_run", "run_training")
    monkeypatch.setitem(fp3o_jax._MOVED, "Settings", "Config")
    with pytest.warns(DeprecationWarning, match=r"fp3o_jax.train_run is fp3o_jax.run_training now") as told:
        assert fp3o_jax.train_run is run_training
    assert told[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="Settings is fp3o_jax.Config now"):
        from fp3o_jax import Settings
    assert Settings is Config
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _ = fp3o_jax.run_training, fp3o_jax.Config


#: A stranger's process: the page's module, and what is shown on the page.
DRIVER = """
import contextlib, io, json, sys
from pathlib import Path

import jax

import fp3o_jax
from fp3o_jax.cli import main

assert "site-packages" in fp3o_jax.__file__, fp3o_jax.__file__
# Nothing of it has been imported. Settings as on the page: what is compiled is the same, and kept.
small = ["--num-envs", "4", "--rollout-length", "8", "--total-env-steps", "64"]
small += ["--hidden-size", "8", "--eval-episodes", "8"]
names = ["--env", "my_team:agree", "--algorithm", "my_team:backwards", "--sharing", "my_team:by_sight"]
assert main(["train", *names, "--sinks", "my_team:Csv", *small, "--run-dir", "runs/named"]) == 0
assert json.loads(Path("runs/named/config.json").read_text())["algorithm"] == "my_team:backwards"
assert Path("runs/named/entropy.csv").read_text().startswith("1,0,")

printed = io.StringIO()
for block in json.loads(Path("blocks.json").read_text()):
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "extending.md", "exec"), globals())

assert "logging to" in printed.getvalue() and "entropy.csv" in printed.getvalue()
assert (trainer.algorithm, trainer.env.num_agents) == (my_team.BACKWARDS, 3)
# With a network of their own: all of the training is traced, and none of it compiled.
params = jax.eval_shape(train, jax.random.key(0))["state"].params
assert {leaf.shape[-1] for leaf in jax.tree.leaves(params["actor"]["trunk"])} == {32}, params["actor"]
lines = Path("runs/mine/entropy.csv").read_text().splitlines()
assert [line.split(",")[:2] for line in lines] == [["1", "0"], ["2", "0"]], lines
assert Path("policies/mine/policy.safetensors").exists()
about = json.loads(Path("runs/mine/run.json").read_text())
assert about["brought"] == dict.fromkeys(["algorithm", "sharing", "env"], "module my_team"), about["brought"]

axes = ["--grid.algorithm", "backwards", "--sharing", "by_sight", "--env", "games/agree"]
assert main(["sweep", *axes, *small, "--run-dir", "sweeps/mine"]) == 0
assert sum("backwards" in line for line in Path("sweeps/mine/results.csv").read_text().splitlines()) == 1
# An environment object, which the command line knows by what makes it.
options = fp3o_jax.RunOptions(run_dir="runs/object", eval_episodes=8)
fp3o_jax.run_training(config.replace(env="smax/3m"), options, env=my_team.agree())
"""

#: Another one, which has imported nothing.
ANOTHER = """
import contextlib, io, os
from fp3o_jax.cli import main

def run(*args):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(args)
    return status, " ".join((out.getvalue() + err.getvalue()).split())

status, said = run("evaluate", "runs/mine", "--episodes", "8")
assert status == 2, said
assert "which module my_team brought and nothing here does: import my_team first, or set" in said, said
status, said = run("evaluate", "runs/named", "--episodes", "8")
assert status == 2 and "code that would be imported. If you trust it, set FP3O_PLUGINS=my_team" in said, said
os.environ["FP3O_PLUGINS"] = "my_team"
assert run("evaluate", "runs/mine", "--episodes", "8")[0] == 0
assert run("train", "--resume", "runs/mine")[0] == 0
status, said = run("list")
for name in ("algorithm=backwards is brought by module my_team", "sinks=csv is", "games/<task>"):
    assert name in said, said
status, said = run("train", "--algorithm", "backward")
assert status == 2 and "did you mean 'backwards'?" in said, said

assert run("evaluate", "runs/named", "--episodes", "8", "--env", "my_team:agree")[0] == 0
status, said = run("evaluate", "runs/object", "--episodes", "8")
assert status == 2 and "--env module:factory" in said, said
status, said = run("evaluate", "runs/object", "--episodes", "8", "--env", "my_team:agree")
assert status == 0, said
assert run("export", "runs/object", "--env", "my_team:agree", "--output", "policies/object")[0] == 0
status, said = run("render", "runs/object", "--env", "my_team:agree")
assert status == 2 and "nothing to draw" in said, said
# As a package that is installed, not imported.
assert "brought by package my_team" in run("list")[1]
assert run("check-env", "packaged/agree", "--steps", "5")[0] == 0
"""


def test_the_page_as_a_strangers_package(installed, tmp_path):
    """Outside of the checkout, against the wheel: what the page shows, then another process with its runs."""
    (tmp_path / "my_team.py").write_text("\n".join(blocks("python")))
    (tmp_path / "blocks.json").write_text(json.dumps(blocks("py")))
    package(tmp_path, "my_team", "[fp3o_jax.environments]\npackaged = my_team:games\n")
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "another.py").write_text(ANOTHER)
    for script in ("driver.py", "another.py"):
        done = installed.run("python", script, cwd=tmp_path, JAX_PLATFORMS="cpu")
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
