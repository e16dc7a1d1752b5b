"""How the programs of a sweep are compiled and trained one after another."""

import csv
import io
import json
from types import SimpleNamespace

import jax
import pytest
from rich.console import Console

from finite import assert_allclose
from fp3o_jax import Config, ConfigError, Sweep
from fp3o_jax.runs import RunOptions, memory, run_training
from fp3o_jax.runs.programs import Programs

CONFIG = Config(
    env="matrix/climbing",
    num_envs=4,
    rollout_length=8,
    total_env_steps=64,
    hidden_sizes=(8,),
    layer_norm=False,
    epochs=1,
)
OPTIONS = RunOptions(eval_episodes=4)


def measured(path):
    with (path / "results.csv").open() as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "side_by_side")}
            for row in csv.DictReader(file)
        ]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two programs; what was printed, for which runs each program was begun, and what a callback was told."""
    path, begun, begin = tmp_path_factory.mktemp("sweeps") / "two", [], Programs.begin
    told = []

    def counted(self):
        if "update" not in self._compiled:
            begun.append((self._trainer.config.algorithm, self.axis.num_runs))
        begin(self)

    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Programs, "begin", counted)
        sweep = Sweep(
            CONFIG,
            grid={"algorithm": ["mappo", "ippo"], "actor_lr": [1e-3, 1e-2]},
            num_seeds=2,
            options=OPTIONS,
        )
        sweep.run(path, on_update=lambda *args: told.append(args), console=Console(file=out, width=200))
    return path, out.getvalue(), begun, told


def test_the_next_program_is_compiled_while_one_trains(two):
    _, said, begun, _ = two
    assert begun == [("mappo", 4), ("ippo", 4)]
    at = [said.index(text) for text in ("program 0 of 2:", "program 1 is compiled", "program 1 of 2:")]
    assert at == sorted(at)


def test_a_callback_is_told_the_run(two):
    """It was for single runs alone."""
    path, _, _, told = two
    assert len(told) == 4 * 2
    for run, rows in told:
        assert run.config.algorithm == run.point.changes["algorithm"]
        (update,) = {row["update"] for row in rows}
        written = [json.loads(line) for line in (path / "runs" / run.name / "metrics.jsonl").open()]
        written = [(row["seed"], row["entropy"]) for row in written if row["update"] == update]
        assert [row["seed"] for row in rows] == [0, 1]
        assert_allclose([row["entropy"] for row in rows], [entropy for _, entropy in written], rtol=1e-6)


def test_what_does_not_fit_trains_in_rounds(two, tmp_path, monkeypatch):
    """A device that holds nine tenths of the program: one configuration after another, the same results."""
    largest, needed_bytes, out = [], memory.needed_bytes, io.StringIO()

    def noted(compiled):
        largest.append(needed_bytes(compiled))
        return largest[-1]

    monkeypatch.setattr(memory, "needed_bytes", noted)
    monkeypatch.setattr(memory, "device_bytes", lambda _: int(0.9 * largest[0]))
    path = tmp_path / "sweep"
    sweep = Sweep(
        CONFIG, grid={"algorithm": ["mappo"], "actor_lr": [1e-3, 1e-2]}, num_seeds=2, options=OPTIONS
    )
    sweep.run(path, console=Console(file=out, width=300))
    assert "3 run(s) at a time or about num_envs=3 would fit. So 1 configuration(s) train at a time" in (
        out.getvalue()
    )
    assert json.loads((path / "programs" / "0" / "rounds.json").read_text()) == [1, 1]
    assert not list(path.glob("programs/*/checkpoints*"))
    rows, whole = measured(path), [row for row in measured(two[0]) if row["algorithm"] == "mappo"]
    assert [list(row) for row in rows] == [list(row) for row in whole]
    for row, other in zip(rows, whole, strict=True):
        for name, value in row.items():
            try:
                number = float(value)
            except ValueError:
                assert value == other[name], name
            else:
                assert_allclose(number, float(other[name]), rtol=1e-4, err_msg=name)
    assert {row["side_by_side"] for row in csv.DictReader((path / "results.csv").open())} == {"2"}


def test_one_run_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "device_bytes", lambda _: 1000)
    with pytest.raises(
        ConfigError, match=r"num_envs=4 with 1 run.* needs .* and cpu has .*: about num_envs=1 would"
    ):
        run_training(CONFIG, RunOptions(tmp_path / "run", eval_episodes=1), console=Console(quiet=True))
    assert not list(tmp_path.glob("run/checkpoints/[0-9]*"))


def test_where_nothing_is_known_of_memory_all_fits():
    compiled = SimpleNamespace(memory_analysis=lambda: None)
    memory.check_memory(compiled, CONFIG, jax.devices()[0], 1)
    silent = SimpleNamespace(memory_stats=lambda: None, platform="tpu")
    assert memory.device_bytes(silent) is None
    told = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 7}, platform="gpu")
    assert memory.device_bytes(told) == 7
    assert memory.device_bytes(jax.devices()[0]) > 2**28
