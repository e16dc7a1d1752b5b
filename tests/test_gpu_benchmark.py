"""The command that measures an accelerator, in its smallest sizes."""

import json
from pathlib import Path

import jax
import pytest

import gpu
import gpu_measures
import gpu_profile
from fp3o_jax import Config
from gpu_cells import PHASES, Cell, Program, cells
from gpu_programs import KINDS, of_config
from gpu_report import BEGIN, END, Lines, Origin, include, markdown

TINY = {"env": "matrix/climbing", "num_envs": 2, "rollout_length": 2, "hidden_size": 4, "epochs": 1}
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


@pytest.fixture(scope="module")
def table():
    one = (Program("update", "update", TINY),)
    return [
        Cell("phases", tuple(Program(name, name, TINY) for name in ("update", "environment")), "update"),
        Cell("resume", one, "update", "resume"),
        Cell("profile", one, "update", "profile"),
        Cell("theirs", (Program("JaxMARL", "theirs", {}),), "JaxMARL", needs_theirs=True),
    ]


@pytest.fixture(scope="module")
def measured(table, tmp_path_factory):
    """All of it, by two processes' worth of work, the first of which was cut in its second cell."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.jsonl"
    options = gpu.Options(minutes=5.0, out=out, compilers=len(table))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "cells", lambda small: table)
        with pytest.MonkeyPatch.context() as cut:

            def cut_off(*_):
                # As a process leaves it that is killed while it writes.
                with out.open("a") as file:
                    file.write('{"device": "1 x')
                raise KeyboardInterrupt

            cut.setitem(gpu_measures.MEASURES, "resume", cut_off)
            with pytest.raises(KeyboardInterrupt):
                gpu.main(options)
        first = out.read_text()
        gpu.main(options)
        done = out.read_text()
        gpu.main(options)
    assert out.read_text() == done
    return first, Lines(out)


def test_a_restart_goes_on_with_what_is_missing(measured):
    first, lines = measured
    assert [json.loads(line)["cell"] for line in first.splitlines()[:-1]] == ["phases"]
    assert [line["cell"] for line in lines.read()] == ["phases", "resume", "profile"]
    assert lines.path.read_text().startswith(first)


def test_times_and_ratios_are_of_one_run(measured):
    (phases, *_) = measured[1].read()
    update, environment = phases["rows"]
    assert update["over"] == [1.0, 1.0, 1.0] and environment["over"][0] > 0
    assert all(row["low"] <= row["ms"] <= row["high"] and row["peak_MiB"] > 0 for row in phases["rows"])
    assert update["env_steps_per_s"] == pytest.approx(4 / update["ms"] * 1e3, rel=1e-3)
    assert phases["versions"]["jax"] == jax.__version__


def test_a_run_resumes_to_the_bit(measured):
    rows = measured[1].read()[1]["rows"]
    assert [row["equal"] for row in rows] == [True, True]
    assert len({row["digest"] for row in rows}) == 1


def test_kernels_are_counted_by_phase(measured):
    whole, *phases = measured[1].read()[2]["rows"]
    assert {"collect", "learn", "targets"} <= {row["label"] for row in phases}
    assert whole["kernels"] == sum(row["kernels"] for row in phases) > 100
    assert sum(row["share"] for row in phases) == pytest.approx(1.0, abs=1e-3)


def test_report(measured, table, tmp_path):
    text = markdown(measured[1], table, small=True)
    assert "| phases | environment |" in text and "| resume | the same run again | the same bits |" in text
    assert text.endswith("Missing: theirs.")
    assert markdown(measured[1], table, small=False).startswith("Not measured yet")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    include(page, text)
    include(page, text)
    assert page.read_text() == f"before\n{BEGIN}\n\n{text}\n\n{END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="must hold the lines"):
        include(page, text)


def test_what_failed_is_told_and_tried_again(tmp_path):
    lines, origin = Lines(tmp_path / "gpu.jsonl"), Origin("a device", True, "")
    cell = {"cell": "phases", "base": "update", "git_commit": None, "versions": {}}
    lines.add(origin, cell | {"rows": [{"label": "update", "error": "RESOURCE_EXHAUSTED: a | b"}]})
    assert lines.finished(origin) == set()
    table = [Cell("phases", (), "update")]
    assert r"| phases | update | failed: RESOURCE_EXHAUSTED: a \| b |" in markdown(lines, table, True)
    row = {"label": "update", "ms": 1.0, "low": 1.0, "high": 1.0}
    lines.add(origin, cell | {"rows": [row], "process_peak_MiB": 1234.5})
    assert "until a cell was done: phases 1,234." in markdown(lines, table, True)
    assert lines.finished(origin) == {"phases"}
    # Other flags, another device, other sizes: other measurements.
    assert not any(
        lines.finished(origin._replace(**other))
        for other in ({"flags": "--xla_gpu_deterministic_ops=true"}, {"device": "b"}, {"small": False})
    )


def test_what_is_not_to_be_had_does_not_end_the_others(tmp_path, monkeypatch):
    table = [
        Cell(name, (Program("update", "update", TINY | {"env": f"matrix/{name}"}),), "update")
        for name in ("nothing", "nor this")
    ]
    monkeypatch.setattr(gpu, "cells", lambda small: table)
    gpu.main(gpu.Options(out=tmp_path / "gpu.jsonl"))
    rows = [row for line in Lines(tmp_path / "gpu.jsonl").read() for row in line["rows"]]
    assert [row["error"].split(":")[0] for row in rows] == ["ConfigError"] * 2


def test_the_page_holds_what_is_known():
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1


@pytest.mark.parametrize("small", [False, True])
def test_the_table_can_be_traced(small):
    """Names are unique, settings are those of a config, and every base is there."""
    table = cells(small)
    assert len({cell.name for cell in table}) == len(table) > 20
    for cell in table:
        labels = [program.label for program in cell.programs]
        assert cell.base in labels and len(set(labels)) == len(labels)
        for program in cell.programs:
            assert program.kind in (*PHASES, *KINDS)
            if program.kind in PHASES:
                config = Config(**program.settings)
                if config.env_kwargs:
                    of_config(config)  # which makes the environment itself
    seeds = {program.seeds for cell in table for program in cell.programs}
    assert seeds == ({1, 2} if small else {1, 8, 64, 512})


TEXT = """HloModule jit_update

%body (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  %add.1 = f32[2]{0} add(%p, %p), metadata={op_name="jit(update)/collect/while/body/environment/add"}
  %dot.1 = f32[2]{0} dot(%p, %p), metadata={op_name="jit(update)/vmap(collect)/while/body/dot_general"}
  %xor.1 = f32[2]{0} xor(%p, %p), metadata={op_name="jit(update)/jit(_threefry_split)/xor"}
  ROOT %copy.1 = f32[2]{0} copy(%dot.1)
}

ENTRY %main (a: f32[2]) -> (f32[2], s32[]) {
  %while.1 = (f32[2]{0}, s32[]) while(%tuple), metadata={op_name="jit(update)/collect/while"}
  ROOT %fusion.2 = (f32[2]{0}, s32[]) fusion(%while.1), metadata={op_name="jit(update)/jvp(learn)/mul"}
}
"""


@pytest.mark.parametrize(
    ("origin", "phase"),
    [
        ("jit(update)/learn/jvp()/dot", "learn"),
        ("jit(update)/transpose(jvp(learn))/mul", "learn"),
        ("vmap(collect)/environment/threefry2x32/Trainer.learn/xor", "collect, environment, random numbers"),
        ("jit(update)/jit(_threefry_split)/Trainer.collect/xor", None),
        ("sort", None),
    ],
)
def test_phase(origin, phase):
    assert gpu_profile.phase_of(origin) == phase


def test_kernels_of_a_gpu_are_those_of_its_streams():
    def event(tid, name, duration, op=None):
        return {
            "ph": "X",
            "pid": 1,
            "tid": tid,
            "name": name,
            "dur": duration,
            "args": {"hlo_op": op} if op else {},
        }

    named = {7: "Stream #7(Compute)", 8: "XLA Ops"}
    events = [
        {"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name}}
        for tid, name in named.items()
    ]
    events += [event(7, "loop_add", 2.0, "add.1")] * 3 + [event(7, "gemm", 5.0, "dot.1")]
    events += [event(7, "copy", 1.0, "copy.1"), event(7, "fusion", 4.0, "fusion.2"), event(7, "Memset", 1.0)]
    events += [event(7, "xor", 3.0, "xor.1")]
    # The same once more, on a line that is not a stream's.
    events += [event(8, "add.1", 2.0, "add.1")] * 3 + [event(8, "while.1", 20.0, "while.1")]
    found = {row["label"]: (row["kernels"], row["kernel_ms"]) for row in gpu_profile.count(events, TEXT)}
    assert found == {
        "collect": (1, 0.005),
        "collect, environment": (4, pytest.approx(0.007)),
        "learn": (1, 0.004),
        "elsewhere": (2, 0.004),
    }
