"""How much of its time a process spends on logging to W&B."""

from types import SimpleNamespace

import pytest

from fp3o_jax import Config, ConfigError
from fp3o_jax.runs.sinks import WandbOptions, budget, make_sinks
from fp3o_jax.runs.sinks import wandb as wandb_sink

CONFIG = Config(env="matrix/climbing", num_seeds=2)


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """Seconds pass when it is told: for each row that W&B takes 0.1 of them."""
    clock = Clock()
    monkeypatch.setattr(budget, "time", clock)
    return clock


@pytest.fixture
def logged(monkeypatch, clock):
    """What W&B's runs have got, as (run, step)."""
    steps = []

    def run(name):
        def log(values, step, commit):
            clock.now += 0.1
            steps.append((name, step))

        fake = {"define_metric": lambda *_, **__: None, "finish": lambda exit_code: None, "log": log}
        return SimpleNamespace(**fake, starting_step=0, offline=True, summary={})

    monkeypatch.setattr(
        wandb_sink, "_open_runs", lambda arguments, options: [run(one["id"]) for one in arguments]
    )
    return steps


def write(sinks, updates, clock=None, seconds=1.0):
    for update in range(1, updates + 1):
        rows = [{"seed": seed, "update": update, "env_steps": update, "x": 1.0} for seed in range(2)]
        for sink in sinks:
            sink.log(rows)
        if clock is not None:
            clock.now += seconds
    for sink in sinks:
        sink.close(0)


def open_sinks(tmp_path, count, **options):
    options = WandbOptions(mode="offline", **options)
    return [sink for i in range(count) for sink in make_sinks(CONFIG, tmp_path, f"r{i}", wandb=options)]


def test_every_so_many_updates_and_the_last(tmp_path, logged):
    write(open_sinks(tmp_path, 1, every=3), 8)
    assert [step for run, step in logged if run == "r0-seed0"] == [3, 6, 8]
    assert len(logged) == 6
    with pytest.raises(ConfigError, match=r"wandb.every=0 must be .* at least 1"):
        WandbOptions(every=0)


def test_many_runs_share_what_may_be_spent(tmp_path, logged, clock):
    """Five sinks of two seeds: a second for an update that itself takes one."""
    write(open_sinks(tmp_path, 5), 200, clock)
    steps = sorted({step for _, step in logged})
    # All of them, of all runs, at the same updates: curves of runs side by side have the same points.
    assert len(logged) == 10 * len(steps)
    assert steps[:3] == [1, 2, 3]
    assert steps[-1] == 200
    # Two seconds and three hundredths of all, to one update more, and the last one.
    assert 2 + 0.03 * 200 <= len(steps) <= 2 + 0.03 * 210 + 2


def test_few_runs_log_everything(tmp_path, logged, clock):
    write(open_sinks(tmp_path, 1), 50, clock, seconds=10.0)
    assert len(logged) == 2 * 50


def test_what_is_opened_anew_begins_anew(tmp_path, logged, clock):
    write(open_sinks(tmp_path, 5), 20)
    logged.clear()
    write(open_sinks(tmp_path, 5), 1)
    assert len(logged) == 10
