"""Which runs are one method, what it is called, which value is chosen for it, what it is compared with."""

import numpy as np
import pytest

from fake_runs import write_run
from finite import assert_allclose
from fp3o_jax.config import ConfigError
from fp3o_jax.runs.grouping import Choice, Place, arrange, label, layout, matches, shown
from fp3o_jax.runs.progress import Notes
from fp3o_jax.runs.reading import read_run, run_dirs
from fp3o_jax.runs.scores import choose_best, compare, scores_of


@pytest.fixture
def make(tmp_path):
    """Writes a run with these settings and final scores by seed; returns it as read."""

    def call(final=None, curves=(0.5,), **config):
        final = {0: 0.5, 1: 0.6} if final is None else final
        path = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        return read_run(write_run(path, {seed: list(curves) for seed in final}, final=final, **config))

    return call


def names(runs, **choice):
    return [label(place.method) for place in arrange(runs, Choice.of(**choice))]


def test_values_are_short():
    assert [shown(v) for v in (5e-4, 1e-3, 0.01, 0.2, 1.0, 2.5e-5, 1e6, 64, (64, 32), None, True)] == [
        *("5e-4", "1e-3", "0.01", "0.2", "1", "2.5e-5", "1e6", "64", "(64, 32)", "None", "True")
    ]
    assert matches("actor_lr", 1e-3, "0.001") and matches("actor_lr", 1e-3, "actor_lr=1e-3")
    assert matches("sharing", "full", "sharing full") and not matches("sharing", "full", "critic=full")


def test_methods_are_told_apart_by_what_differs(make):
    first = make(actor_lr=5e-4)
    same_method = [first, make(env="smax/8m", actor_lr=1e-3), make(final={2: 0.5})]
    assert set(names(same_method)) == {"fp3o, sharing full"}
    other = make(recurrent=True, env_kwargs={"num_agents": 4})
    assert set(names([*same_method, other])) == {"fp3o, sharing full"}, "another environment"
    # Of FP3O's runs alone the learning rate differs; what all have in common is not said.
    rates = [make(actor_lr=1e-3), make(algorithm="mappo", actor_lr=1e-2)]
    assert names([first, *rates]) == ["fp3o, actor_lr=5e-4", "fp3o, actor_lr=1e-3", "mappo"]
    again = make(actor_lr=5e-4)
    assert names([first, again]) == [f"fp3o, sharing full, run={one.path}" for one in (first, again)]
    # What an earlier version did not write is what it is by default.
    assert names([first, make(final={5: 0.5}, recurrent=True)]) == ["recurrent=False", "recurrent=True"]


def test_numbers_ascend_and_words_stay_in_order(make):
    runs = [
        make(algorithm=algorithm, actor_lr=lr, critic_lr=lr)
        for algorithm in ("mappo", "fp3o")
        for lr in (1e-3, 1e-4, 3e-4)
    ]
    # critic_lr always has the value of actor_lr.
    assert names(runs) == [
        f"{a}, actor_lr={lr}" for a in ("mappo", "fp3o") for lr in ("1e-4", "3e-4", "1e-3")
    ]


def test_by_and_within(make):
    runs = [
        make(algorithm=algorithm, sharing=sharing, env=env)
        for env in ("smax/8m", "smax/3m")
        for algorithm in ("happo", "fp3o")
        for sharing in ("full", "none")
    ]
    places = list(arrange(runs, Choice.of("algorithm", "sharing")))
    assert places[:3] == [
        Place("smax/8m", (("sharing", "full"),), (("algorithm", "happo"),)),
        Place("smax/8m", (("sharing", "full"),), (("algorithm", "fp3o"),)),
        Place("smax/8m", (("sharing", "none"),), (("algorithm", "happo"),)),
    ]
    assert len(places) == 8
    # What is left tells lines apart.
    assert list(arrange(runs, Choice.of(within="sharing"))) == places
    by_env = arrange(runs, Choice.of("env,algorithm", "sharing"))
    assert next(iter(by_env)) == Place(
        "", (("sharing", "full"),), (("env", "smax/8m"), ("algorithm", "happo"))
    )
    for choice in (Choice.of("algorithm"), Choice.of("sharing"), Choice.of("env", "algorithm")):
        with pytest.raises(
            ConfigError, match="--by, --within or --best-of, or runs that differ would be one"
        ):
            arrange(runs, choice)


def test_what_walks_along_with_an_axis_does_not_matter(make):
    runs = [
        make(sharing=sharing, actor_lr=lr, critic_lr=2 * lr)
        for sharing in ("full", "none")
        for lr in (1e-3, 1e-2)
    ]
    assert [(place.line, place.at) for place in arrange(runs, Choice.of(over="actor_lr"))] == [
        ((("sharing", sharing),), lr) for sharing in ("full", "none") for lr in (1e-3, 1e-2)
    ]
    best = arrange(runs, Choice.of(best_of="actor-lr"))
    assert [label(place.line) for place in best] == ["sharing full", "sharing none"]
    assert next(iter(best.values())).keys() == {(("actor_lr", 1e-3),), (("actor_lr", 1e-2),)}
    assert len(arrange(runs, Choice.of(by="critic_lr", best_of="sharing"))) == 2
    runs.append(make(sharing="full", actor_lr=1e-3, critic_lr=0.5))
    assert len(names(runs, best_of="actor_lr")) == 5, "critic_lr does not walk along any more"
    with pytest.raises(ConfigError, match="critic_lr is"):
        arrange(runs, Choice.of("sharing", over="actor_lr"))
    with pytest.raises(ConfigError, match=r"over='sharing' is unknown: .*valid are actor_lr, critic_lr"):
        arrange(runs, Choice.of(over="sharing"))


def test_many_methods_are_spread_over_panels(make):
    def grid(**axes):
        settings = [()]
        for name, values in axes.items():
            settings = [(*s, (name, value)) for s in settings for value in values]
        return [Place("e", (), s) for s in settings]

    names, rates = ["fp3o", "mappo", "happo"], [1e-4, 3e-4, 1e-3]
    assert layout(grid(algorithm=names, sharing=["full", "none"])) is None, "few"
    assert layout(grid(algorithm=names, actor_lr=rates)) == (("algorithm",), ("actor_lr",))
    many = grid(algorithm=names, sharing=names, actor_lr=rates, clip_eps=[0.1, 0.2, 0.3, 0.4])
    assert layout(many) == (("algorithm",), ("sharing", "actor_lr", "clip_eps"))
    # Twelve numbers are a scale of colours.
    assert layout(grid(algorithm=names, sharing=names, gamma=np.arange(12) / 12)) == (
        ("gamma",),
        ("algorithm", "sharing"),
    )
    assert layout(grid(actor_lr=np.arange(60) / 60)) is None
    assert layout(grid(actor_lr=np.arange(60) / 60, gamma=np.arange(60) / 60)) is None


def chosen(runs, metric="win_rate"):
    notes = Notes()
    groups = choose_best(arrange(runs, Choice.of(best_of="actor_lr")), metric, ("actor_lr",), notes)
    return groups, scores_of(groups, metric, notes), " ".join(notes._who)


def test_the_best_is_chosen_on_seeds_apart_from_those_shown(make):
    lucky = make({0: 0.9, 1: 0.9, 2: 0.1, 3: 0.2}, actor_lr=1e-2)
    other = make({0: 0.5, 1: 0.5, 2: 0.6, 3: 0.6}, actor_lr=1e-3)
    groups, scores, said = chosen([lucky, other])
    ((place, group),) = groups.items()
    assert group.chosen == (("actor_lr", 1e-2),)
    # The seeds that it was chosen on are not shown, in curves neither.
    assert [run.seeds for run in group.runs] == [[2, 3]] and set(group.runs[0].series) == {2, 3}
    assert_allclose(scores[place], [0.1, 0.2])
    assert "actor_lr is chosen on 2 seeds, and the others are shown" in said


def test_too_few_seeds_to_split_are_told(make):
    runs = [make({0: 0.9, 1: 0.2, 2: 0.3}, actor_lr=1e-2), make({0: 0.5, 1: 0.6, 2: 0.6}, actor_lr=1e-3)]
    groups, scores, said = chosen(runs)
    assert [group.chosen for group in groups.values()] == [(("actor_lr", 1e-3),)]
    assert_allclose(list(scores.values()), [[0.5, 0.6, 0.6]])
    assert "CHOSEN ON THE SEEDS SHOWN" in said


def test_what_has_no_score_does_not_compete(make, tmp_path):
    unfinished = read_run(write_run(tmp_path / "u", {0: [0.9], 1: [0.9]}, actor_lr=1e-1))
    missing = make({0: None, 1: None}, actor_lr=1e-2)
    runs = [unfinished, missing, make({0: 0.1, 1: 0.2}, actor_lr=1e-3)]
    groups, _, said = chosen(runs)
    assert [group.chosen for group in groups.values()] == [(("actor_lr", 1e-3),)]
    assert "values of actor_lr without final scores did not compete" in said
    with pytest.raises(ConfigError, match="best_of='actor_lr' chooses by the final win_rate, and no run"):
        chosen([unfinished, missing])


def scores(**methods):
    """By ``algorithm_sharing`` or ``algorithm``, scores on one environment."""
    return {
        Place("e", (), tuple(zip(("algorithm", "sharing"), name.split("_"), strict=False))): np.array(values)
        for name, values in methods.items()
    }


def test_each_is_compared_with_the_baseline_of_its_kind():
    four = scores(fp3o_full=[1.0], mappo_full=[0.0], fp3o_none=[0.0], mappo_none=[1.0])
    got = compare(four, "mappo")
    assert [(label(c.method), label(c.other), c.estimate.value) for c in got] == [
        ("fp3o, sharing full", "mappo, sharing full", 1.0),
        ("fp3o, sharing none", "mappo, sharing none", 0.0),
    ]
    # One alone is everybody's.
    got = compare(four, "mappo, sharing=full")
    assert [label(c.method) for c in got] == [
        "fp3o, sharing full",
        "fp3o, sharing none",
        "mappo, sharing none",
    ]
    assert {label(c.other) for c in got} == {"mappo, sharing full"}
    with pytest.raises(ConfigError, match="baseline='ippo' must be settings of one of the methods: fp3o"):
        compare(four, "ippo")


def test_many_methods_are_not_compared_all_with_all():
    six = scores(**{f"m{i}": [float(i)] for i in range(6)})
    assert len(compare(six, None)) == 15
    seven = scores(**{f"m{i}": [float(i)] for i in range(7)})
    assert compare(seven, None) is None
    assert len(compare(seven, "m3")) == 6


def test_folders_of_runs(tmp_path):
    for name in ("lr10", "lr9", "deep/er"):
        write_run(tmp_path / "runs" / name, {0: [0.5]})
    (tmp_path / "runs" / "notes.txt").write_text("")
    assert [path.name for path in run_dirs(tmp_path / "runs")] == ["lr9", "lr10"]
    assert run_dirs(tmp_path / "runs" / "lr9") == [tmp_path / "runs" / "lr9"]
    assert run_dirs(tmp_path / "nowhere") == [tmp_path / "nowhere"]
