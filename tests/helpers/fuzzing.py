"""Files of every kind that is read, what can happen to them, and what reading them may come to.

An altered file may read as before, as something else that is valid, or end in an error that is ours and says
what is wrong. Anything else is a bug: another exception, a crash, more than a few seconds or a lot of memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import resource
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from fp3o_jax import Config, ConfigError, load_policy, make_train
from fp3o_jax.runs import RunOptions
from fp3o_jax.runs.checkpoints import Checkpoints
from fp3o_jax.runs.directory import RunDirectory, read_config, read_options
from fp3o_jax.runs.figures import _curves, _groups, plot_runs
from fp3o_jax.runs.grouping import Choice
from fp3o_jax.runs.outcome import print_summary
from fp3o_jax.runs.progress import Notes
from fp3o_jax.runs.reading import choose_metric, read_run, run_dirs
from fp3o_jax.runs.scores import compare, scores_of, summarize
from fp3o_jax.runs.trained import load_params
from fp3o_jax.seeds import seed_keys
from fp3o_jax.sweeps import Sweep, show_status
from fp3o_jax.sweeps.folder import SweepFolder
from fp3o_jax.sweeps.plan import make_points
from fp3o_jax.sweeps.results import results
from fp3o_jax.sweeps.study import read_study
from store import Store

#: Whether figures are drawn of what can be read, which takes a second each.
DRAWN = False
SECONDS = 20
BYTES = 3 * 2**30
OUTCOMES = ("the same", "else, valid", "error", "BUG")
CONFIG = Config(
    env="matrix/xor",
    env_kwargs={"num_agents": 2},
    num_envs=4,
    rollout_length=8,
    total_env_steps=64,
    hidden_size=8,
    num_seeds=2,
    epochs=1,
)
STUDY = """\
preset = "mpe-spread"
run_dir = "somewhere"
samples = 2
sample_seed = 3
runs_per_program = 8

[settings]
env = "matrix/xor"
env_kwargs = {}
num_envs = 4
rollout_length = 8
num_seeds = 2
hidden_sizes = [8, 8]

[grid]
sharing = ["full", "none"]
"clip_eps,weight_clip_eps" = [0.1, 0.2]

[zip]
gamma = [0.9, 0.99]
actor_lr = [1e-3, 3e-4]

[random]
entropy_coef = ["log", 1e-3, 1e-1]

[options]
eval_episodes = 8
wandb = { mode = "disabled", tags = ["a", "b"] }

[jobs]
gpus = 0
minutes = 10
"""


class OutOfTime(BaseException):
    """Too long; no `except Exception` may catch it."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        place: folder of the originals that a case gets a copy of.
        files: patterns of the files in it that are altered.
        read: what uses a copy; returns what it came to.
        weight: share of the cases.
    """

    place: str
    files: tuple[str, ...]
    read: Callable[[Path], Any]
    weight: int = 1


def write_originals(folder: Path) -> None:
    """One folder of each place, as this version writes it; nothing is trained."""
    trainer = make_train(CONFIG)
    state = jax.jit(jax.vmap(trainer.init))(seed_keys(CONFIG.seeds))
    _write_run(folder / "run", CONFIG)
    checkpoints = Checkpoints(folder / "run" / "checkpoints")
    for update in (1, 2):
        record = {"seconds": 1.5, "runs": [{"metrics_bytes": 0, "frozen": {}}]}
        checkpoints.save(update, state.replace(num_updates=state.num_updates + update), record, float(update))
    checkpoints.close()
    load_policy(folder / "run").save(folder / "policy")
    settings = {name: value for name, value in CONFIG.to_dict().items() if name != "num_seeds"}
    sweep = Sweep(settings, grid={"actor_lr": [1e-3, 1e-4]})
    (runs,) = sweep.write_plan(folder / "sweep")
    for run in runs:
        _write_run(folder / "sweep" / "runs" / run.name, run.config)
    SweepFolder(folder / "sweep").program(0).mkdir(parents=True)
    (folder / "sweep" / "programs" / "0" / "rounds.json").write_text("[1, 1]\n")
    (folder / "study").mkdir()
    (folder / "study" / "study.toml").write_text(STUDY)
    cell = {"name": "matrix-xor.fp3o.full.0a1b2c", "seeds": [0, 1], "curves": {"win_rate": [[0.5, 1.0]] * 2}}
    Store(folder / "cells").write(cell["name"], cell)
    (folder / "cells" / "bundle").write_text(json.dumps(cell | {"name": "another"}) + "\n")


def _write_run(path: Path, config: Config) -> None:
    directory = RunDirectory(path, config, RunOptions(run_dir=path).to_dict())
    for update in (1, 2):
        directory.log(
            {
                "seed": seed,
                "update": update,
                "env_steps": 32 * update,
                "agent_kl": [0.25, 0.5],
                "episode_return": None if update == 1 else seed + 0.5,
            }
            for seed in config.seeds
        )
    scores = {"episode_return": 1.5, "episode_length": 1.0}
    times = {"train_seconds": 1.5, "compile_seconds": 2.5, "env_steps_per_second": 42.0, "eval_episodes": 4}
    seeds = [{"seed": seed, **scores, "auc_episode_return": 0.5} for seed in config.seeds]
    directory.write("summary.json", scores | times | {"env_steps": 64, "side_by_side": 2, "seeds": seeds})
    directory.close()


def together(*uses: Callable[[], Any]) -> list[Any]:
    """What each came to: one that ends in an error of ours does not keep the others from being tried."""
    came, errors = [], []
    for use in uses:
        try:
            came.append(use())
        except ConfigError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return came


def use_run(path: Path) -> Any:
    """As the figures, a resume and an evaluation do."""

    def draw() -> Any:
        run, notes = read_run(path), Notes()
        if not run.series:
            return vars(run)
        metric = choose_metric([run], None)
        groups = _groups([run], Choice.of(), metric, notes)
        scores = scores_of(groups, metric, notes)
        summaries, curves = summarize(scores, metric), _curves(groups, metric, 2, notes)
        if DRAWN:
            plot_runs([path], console=Console(file=io.StringIO()))
        return [vars(run), str(compare(scores, None)), str(summaries), str(curves)]

    def resume() -> Any:
        directory = RunDirectory(path, read_config(path))
        try:
            if directory.summary is not None:
                print_summary(Console(file=io.StringIO()), directory.summary, path)
            return [directory.about, directory.summary, directory.rows()]
        finally:
            directory.close()

    def options() -> Any:
        return RunOptions.from_dict(read_options(path), path).to_dict()

    came = together(draw, resume, options)
    settings = read_config(path).to_dict()
    if settings != CONFIG.to_dict():
        came.append(load_params(path)[1])
    return came


def use_checkpoints(path: Path) -> Any:
    template, checkpoints = _template(), Checkpoints(path / "checkpoints", reading=True)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = [checkpoints.restore(template), checkpoints.restore(template, best=True)]
            params = checkpoints.restore_part(template, "params")
        finally:
            checkpoints.close()
    if any("is damaged; falling back" in str(warning.message) for warning in warned):
        raise ConfigError(f"{path}: told by a warning")
    return [(each.update, each.record) for each in found if each], jax.tree.leaves(params)


def _template() -> Any:
    if "state" not in _TEMPLATES:
        trainer = make_train(CONFIG)
        _TEMPLATES["state"] = jax.eval_shape(jax.vmap(trainer.init), seed_keys(CONFIG.seeds))
    return _TEMPLATES["state"]


_TEMPLATES: dict[str, Any] = {}


def use_policy(path: Path) -> Any:
    policy = load_policy(path)
    obs = {
        agent: np.ones(size)
        for agent, size in zip(policy.agents, policy.architecture["obs_sizes"], strict=True)
    }
    acted = jax.eval_shape(lambda: policy.act(obs, jax.random.key(0), policy.initial_state()))
    return policy.architecture, jax.tree.map(np.asarray, policy.params), str(acted)


def use_sweep(path: Path) -> Any:
    folder = SweepFolder(path)

    def inside() -> Any:
        names = [run["name"] for program in folder.plan()["programs"] for run in program]
        assert all(Path(name).name == name for name in names)
        return names

    def status() -> Any:
        with folder.locked():
            rows = results(folder)
        show_status(path, Console(file=io.StringIO()))
        return rows

    def go_on() -> Any:
        settings = {name: value for name, value in CONFIG.to_dict().items() if name != "num_seeds"}
        points = make_points(
            Config(**settings),
            grid={"actor_lr": [1e-3, 1e-4]},
            zip={},
            random={},
            samples=0,
            sample_seed=0,
            points=(),
        )
        programs = folder.preview(Config(**settings), points, None)
        return str([folder.rounds(i, program) for i, program in enumerate(programs)])

    return together(inside, status, go_on, lambda: [vars(read_run(run)) for run in run_dirs(path)])


def use_study(path: Path) -> Any:
    study, _ = read_study([str(path / "study.toml")])
    told = str(study)
    try:
        return told, study.sweep().describe()
    except ConfigError as error:
        raise ConfigError(f"study.toml: {error}") from None


def use_cells(path: Path) -> Any:
    store = Store(path)
    return together(store.results, lambda: store.merge(path / "bundle"), store.results)


KINDS = {
    "config.json": Kind("run", ("config.json",), use_run, 3),
    "run.json": Kind("run", ("run.json",), use_run, 2),
    "metrics.jsonl": Kind("run", ("metrics.jsonl",), use_run, 3),
    "summary.json": Kind("run", ("summary.json",), use_run, 3),
    "checkpoint": Kind("run", ("checkpoints/2/**/*",), use_checkpoints, 3),
    "policy.safetensors": Kind("policy", ("policy.safetensors",), use_policy, 3),
    "policy.json": Kind("policy", ("policy.json",), use_policy, 3),
    "study.toml": Kind("study", ("study.toml",), use_study, 3),
    "sweep.json": Kind("sweep", ("sweep.json",), use_sweep, 3),
    "a sweep's run": Kind(
        "sweep", ("runs/*/config.json", "runs/*/summary.json", "runs/*/metrics.jsonl"), use_sweep, 2
    ),
    "rounds.json": Kind("sweep", ("programs/0/rounds.json",), use_sweep, 1),
    "cells": Kind("cells", ("*.json", "bundle"), use_cells, 2),
}


def cases(count: int) -> list[tuple[str, int]]:
    """Kinds and numbers of so many cases, kinds in turn by their weights."""
    turn = [name for name, kind in KINDS.items() for _ in range(kind.weight)]
    return [(turn[number % len(turn)], number) for number in range(count)]


def run_case(originals: Path, work: Path, kind: str, number: int, seed: int = 0) -> tuple[str, str]:
    """Alters one file and reads it.

    Args:
        originals: of :func:`write_originals`.
        work: a folder to do it in.
        kind: of ``KINDS``.
        number: of the case; with ``seed`` it says what is altered.

    Returns:
        One of ``OUTCOMES``, and what was done and came of it.
    """
    rng, what = random.Random(f"{seed} {kind} {number}"), KINDS[kind]
    path = work / "case" / what.place
    shutil.rmtree(work / "case", ignore_errors=True)
    shutil.copytree(originals / what.place, path)
    files = sorted(file for each in what.files for file in path.glob(each) if file.is_file())
    file = rng.choice(files)
    done = f"{file.relative_to(path)}: {alter(file, rng)}"
    try:
        with limits():
            now = fingerprint(what.read(path), path)
    except ConfigError as error:
        said = str(error)
        named = file.name in said or str(path) in said
        return "error", f"{done} -> {said[:300]}" + ("" if named else " (UNNAMED)") + " (LONG)" * (
            len(said) > 2000
        )
    except (Exception, OutOfTime) as error:
        import traceback

        return (
            "BUG",
            f"{done} -> {type(error).__name__}: {str(error)[:200]}\n{traceback.format_exc()[-1500:]}",
        )
    finally:
        shutil.rmtree(work / "case", ignore_errors=True)
    key = str(originals), f"{what.read.__name__} {DRAWN}"
    if key not in _BEFORE:
        shutil.copytree(originals / what.place, path)
        _BEFORE[key] = fingerprint(what.read(path), path)
        shutil.rmtree(work / "case", ignore_errors=True)
    return ("the same" if now == _BEFORE[key] else "else, valid"), done


_BEFORE: dict[tuple[str, str], str] = {}


def fingerprint(value: Any, path: Path) -> str:
    """A text that is the same for what is the same, wherever it lies."""
    if isinstance(value, dict):
        inner = ",".join(f"{k}:{fingerprint(v, path)}" for k, v in sorted(value.items(), key=str))
        return f"{{{inner}}}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(fingerprint(item, path) for item in value)}]"
    if isinstance(value, (np.ndarray, jax.Array)):
        array = np.asarray(value)
        return f"{array.dtype}{array.shape}{array.tobytes().hex()}"
    return repr(value).replace(str(path), "PATH")


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """So many seconds, and so many bytes of memory more than now."""

    def over(*_: Any) -> None:
        raise OutOfTime(f"more than {SECONDS} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, over)
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, handler)


WEIRD = (
    *(None, True, False, 0, 1, -1, 2, 1.5, -0.5, 1e-300, 1e300, 10**12, 2**31, 2**53, 2**63, 2**64, 10**25),
    *(
        10**400,
        "",
        "abc",
        "../../x",
        "/etc/passwd",
        "a/b",
        "..",
        "os:system",
        "\x00",
        "ünï\u202e",
        "a" * 100_000,
    ),
    *([], {}, [[]], [1, 2, 3], ["a"], {"a": 1}, {"a": {"b": [1, {"c": None}]}}, [None], [10**12] * 3, [-1]),
)
#: Written as they are into JSON.
RAW = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "9" * 5000,
    "[" * 500 + "]" * 500,
    "[" * 200_000,
    "01",
    "'a'",
    "",
)


def alter(file: Path, rng: random.Random) -> str:
    """Does one thing to a file; returns what."""
    kinds = [_swap_for_another, _alter_bytes, _alter_bytes]
    if file.suffix == ".toml":
        kinds += [_alter_toml] * 3
    elif file.suffix == ".safetensors":
        kinds += [_alter_header] * 3
    elif _as_json(file.read_bytes()) is not None:
        kinds += [_alter_json] * 5
    return rng.choice(kinds)(file, rng)


def _swap_for_another(file: Path, rng: random.Random) -> str:
    """What is no ordinary file, or an empty one."""
    how = rng.choice(
        ("empty", "directory", "pipe", "to nowhere", "to a device", "to itself", "gone", "unreadable")
    )
    file.unlink()
    match how:
        case "empty":
            file.write_bytes(b"")
        case "directory":
            (file / "inside").mkdir(parents=True)
        case "pipe":
            os.mkfifo(file)
        case "to nowhere":
            file.symlink_to(file.parent / "nowhere")
        case "to a device":
            file.symlink_to("/dev/zero")
        case "to itself":
            file.symlink_to(file)
        case "unreadable":
            file.write_bytes(b"\xff\xfe" + rng.randbytes(100))
    return how


def _alter_bytes(file: Path, rng: random.Random) -> str:
    data = bytearray(file.read_bytes())
    at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    how = rng.choice(
        ("cut", "cut front", "flip", "flip many", "insert", "delete", "zeros", "twice", "no utf8", "huge")
    )
    match how:
        case "cut":
            del data[at:]
        case "cut front":
            del data[:at]
        case "flip" | "flip many":
            for _ in range(1 if how == "flip" else 20):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case "insert":
            data[at:at] = rng.randbytes(rng.randint(1, 20))
        case "delete":
            del data[at : at + rng.randint(1, 20)]
        case "zeros":
            data[at:end] = bytes(end - at)
        case "twice":
            data[at:at] = data[at:end]
        case "no utf8":
            data[at:at] = b"\xff\xc0\x80"
        case "huge":
            data[at:at] = b"a" * 2_000_000
    file.write_bytes(bytes(data))
    return f"{how} at {at} to {end}"


def _as_json(data: bytes) -> Any:
    with contextlib.suppress(ValueError):
        return [json.loads(line) for line in data.splitlines()] if data.count(b"}\n{") else json.loads(data)
    return None


def _alter_json(file: Path, rng: random.Random) -> str:
    """One value, name or entry of a document, or of a line of many."""
    data, mark = file.read_bytes(), "@raw@"
    lines = bool(data.count(b"}\n{"))
    document = _as_json(data)
    holders = [each for each in _containers(document) if each] or [[document]]
    holder = rng.choice(holders[1:] if lines and len(holders) > 1 else holders)
    key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    how = rng.choice(
        ("value", "value", "value", "raw", "remove", "unknown", "double", "many", "swap", "nest")
    )
    raw = ""
    match how:
        case "value":
            holder[key] = rng.choice(WEIRD)
        case "raw":
            holder[key], raw = mark, rng.choice(RAW)
        case "remove":
            del holder[key]
        case "unknown" if isinstance(holder, dict):
            holder[rng.choice(("surprise", "", "../x", "a" * 50_000, "__class__"))] = rng.choice(WEIRD)
        case "double" if isinstance(holder, dict):
            raw = f'0, "{key}": {json.dumps(holder[key])}'
            holder[key] = mark
        case "many" if isinstance(holder, list):
            holder[:] = [holder[key]] * 5000
        case "swap":
            other = rng.choice(holders)
            where = rng.choice(list(other) if isinstance(other, dict) else range(len(other)))
            holder[key], other[where] = other[where], holder[key]
        case _:
            for _ in range(80):
                holder[key] = [holder[key]]
    with contextlib.suppress(ValueError, RecursionError):
        text = "".join(json.dumps(row) + "\n" for row in document) if lines else json.dumps(document)
        file.write_text(text.replace(f'"{mark}"', raw))
        return (
            f"{how} of {str(key)[:40]}: {raw[:40] or (repr(holder[key])[:60] if _has(holder, key) else '')}"
        )
    file.write_text('{"a": ' * 3000 + "1" + "}" * 3000)
    return "nested"


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _containers(value: Any) -> list[Any]:
    found = [value] if isinstance(value, (dict, list)) else []
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        found += _containers(inner)
    return found


def _alter_toml(file: Path, rng: random.Random) -> str:
    lines = file.read_text().splitlines()
    at = rng.choice([i for i, line in enumerate(lines) if "=" in line or line.startswith("[")])
    name, equals, _ = lines[at].partition("=")
    values = ("[]", "{}", "''", '"abc"', "-1", "0", "1.5", "nan", "inf", "true", "1" + "0" * 20, "9" * 5000)
    values += (
        "1979-05-27",
        "[1, 'a']",
        "[" * 2000 + "]" * 2000,
        "1e999",
        "1000000000000",
        "'os:system'",
        "[[1]]",
    )
    values += (
        "{a = 1}",
        "'../../x'",
        f"'{'a' * 100_000}'",
        f"[{'1,' * 20_000}]",
        "['log', 0, 1]",
        "07",
        "2e9",
    )
    how = rng.choice(("value", "value", "value", "name", "twice", "gone", "array", "random", "many"))
    if not equals and how == "value":
        how = "name"
    match how:
        case "value":
            lines[at] = f"{name}= {rng.choice(values)}"
        case "name":
            lines[at] = f"surprise{equals} 1" if equals else "[surprise]"
        case "twice":
            lines.insert(at, lines[at])
        case "gone":
            del lines[at]
        case "array" if not equals:
            lines[at] = f"[{lines[at]}]"
        case "many":
            lines.insert(at, "\n".join(f"x{i} = [1, 2, 3, 4]" for i in range(3000)))
        case _:
            lines[at] = f"{name}{equals} {rng.choice(values)}"
    file.write_text("\n".join(lines))
    return f"{how} at line {at + 1}: {lines[at][:60] if at < len(lines) else ''}"


def _alter_header(file: Path, rng: random.Random) -> str:
    """What a file of safetensors says of itself."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    name = rng.choice([name for name in header if name != "__metadata__"])
    how = rng.choice(("length", "shape", "offsets", "dtype", "name", "twice", "gone", "more", "deep"))
    match how:
        case "length":
            size = rng.choice((0, 1, size - 1, size + 1, size * 2, 2**31, 2**40, 2**63, 2**64 - 1))
            file.write_bytes(size.to_bytes(8, "little") + data[8:])
            return f"length {size}"
        case "shape":
            shape = header[name]["shape"]
            shapes = (
                [10**12],
                [2**63, 2],
                [-1],
                [],
                shape[::-1],
                [1, *shape],
                [0],
                ["a"],
                None,
                [2**32, 2**32],
            )
            header[name]["shape"] = rng.choice(shapes)
        case "offsets":
            begin, end = header[name]["data_offsets"]
            places = (
                [0, 10**12],
                [end, begin],
                [begin, end + 4],
                [-4, end],
                [2**63, 2**64 - 1],
                [begin],
                None,
            )
            header[name]["data_offsets"] = rng.choice(places)
        case "dtype":
            header[name]["dtype"] = rng.choice(
                ("F64", "I32", "U8", "BF16", "F8_E5M2", "O", "F4", "C64", "BOOL", None, 5)
            )
        case "name":
            header[rng.choice(("surprise", "", "trunk", "trunk,", "a" * 10_000, "../x", ","))] = header.pop(
                name
            )
        case "twice":
            header[f"{name},more"] = dict(header[name])
        case "gone":
            del header[name]
        case "more":
            header |= {f"a,{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(2000)}
        case "deep":
            header[name] = "@deep@"
    text = json.dumps(header).replace('"@deep@"', "[" * 100_000 + "]" * 100_000).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + rest)
    return f"{how} of {name}"
