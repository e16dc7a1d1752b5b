"""Would the tests notice a slip in the method? Makes slips by the seed, one at a time, and runs the tests.

    python tests/checks/mutation_check.py --minutes 10        # goes on where the last one ended
    python tests/checks/mutation_check.py --again             # only those that no test noticed so far
    python tests/checks/mutation_check.py --only losses --list

Which slips, says `mutations.py`. Each takes the place of the file's source in one process, which goes on from
slip to slip with the operations that JAX has compiled, and runs the tests that concern the file, up to the
first that fails. (Libraries for this start a test run for each slip: half a minute, most of it imports and
compilation.) Results are appended to a file as they come. The exit status is 1 if fewer than 95 % of the
slips that change anything were noticed, or if nothing is known of one of the files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.abc
import importlib.util
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
import tomllib
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

import platformdirs
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from mutations import Mutation, mutations

FORK = multiprocessing.get_context("fork")
ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "fp3o_jax"
#: file -> slip -> why nothing changes.
EQUIVALENT = tomllib.loads((Path(__file__).parent / "equivalent_mutations.toml").read_text())

_UPDATE = (
    *("tests/method/test_batch.py", "tests/method/test_stage.py"),
    "tests/method/test_numpy_updates.py::test_a_whole_update_is_numpys",
    "tests/method/test_numpy_updates.py::test_with_the_defaults_of_its_authors",
    "tests/method/test_update.py",
    "tests/method/test_invariances.py::test_a_value_that_all_agents_share_is_learned_as_if_each_had_it",
)
_SHARING = (
    "tests/team/test_sharing.py",
    "tests/team/test_networks.py::test_sharing_is_a_partition",
    "tests/team/test_networks.py::test_groups_by_hand",
    "tests/team/test_networks.py::test_critics_are_shared_apart_from_actors",
    "tests/team/test_networks.py::test_every_agent_uses_the_weights_of_its_group",
)
#: file -> arguments of pytest for the tests that concern it, those first that are cheap and notice much.
TESTS = {
    "method/losses.py": (
        "tests/method/test_mathematics.py",
        *("-k", "surrogate or value_loss or huber"),
    ),
    "method/metrics.py": (
        *("tests/method/test_mathematics.py", "tests/method/test_stage.py"),
        *("-k", "explained or means or how_far or change_of_policies"),
    ),
    "method/advantages.py": (
        "tests/method/test_mathematics.py",
        *("-k", "gae or correction or advantages or traces or normalis or rewards"),
    ),
    "method/normalization.py": ("tests/method/test_mathematics.py", "-k", "value_norm"),
    "method/schedules.py": (
        *("tests/method/test_schedules.py", "tests/method/test_frozen.py::test_a_schedule_among_others"),
    ),
    "team/optimizer.py": ("tests/team/test_optimizer.py",),
    "team/sharing.py": _SHARING,
    "team/groups.py": _SHARING,
    "method/batch.py": _UPDATE,
    "method/descent.py": _UPDATE,
    "method/subteams.py": _UPDATE,
    "method/update.py": _UPDATE,
}


@dataclasses.dataclass
class Check:
    """Which slips, and for how long."""

    only: tuple[str, ...] = ()
    """files whose names contain one of these; by default all"""
    per_file: int = 25
    """slips of each file"""
    seed: int = 0
    """of the draw"""
    minutes: float = 0.0
    """after which it ends, to go on another time; 0 for never"""
    patience: float = 5.0
    """a slip whose tests take this many times as long as without it, and a minute more, counts as noticed"""
    again: bool = False
    """run those that no test has noticed so far once more"""
    list: bool = False
    """show what has been found, and run nothing"""
    results: Path = Path(tempfile.gettempdir()) / "fp3o-jax-mutations.jsonl"
    """where results are kept; what pytest said last is in the .log beside it"""


class Instead(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Another source in place of a module's own."""

    def __init__(self, file: str, text: str):
        self.path, self.text = PACKAGE / file, text
        self.name = "fp3o_jax." + file.removesuffix(".py").replace("/", ".")

    def find_spec(self, fullname, path=None, target=None):
        return importlib.util.spec_from_loader(fullname, self) if fullname == self.name else None

    def get_filename(self, fullname):
        return str(self.path)

    def get_data(self, path):
        return self.text.encode()


class First:
    """A pytest plugin that remembers the test that failed."""

    failed = ""

    def pytest_runtest_logreport(self, report):
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def pytest_collectreport(self, report):
        self.failed = self.failed or (report.nodeid if report.failed else "")


def prepare() -> None:
    """Imports what tests import but the package itself; starts no device, and so no thread."""
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "helpers")]
    cache = platformdirs.user_cache_path("fp3o-jax") / "mutations"
    os.environ |= {"JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # Looking for plugins takes longer than many a test.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    import hypothesis
    import pytest  # noqa: F401

    import fp3o_jax.method.update
    import fp3o_jax.train  # noqa: F401

    forget_modules()
    # The first example that fails is enough, and it is the same one each time.
    quick = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutations", phases=quick, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutations")


def forget_modules() -> None:
    """The package and its tests are imported anew."""
    ours = (str(PACKAGE), str(ROOT / "tests"))
    for name, module in list(sys.modules.items()):
        if name != "__main__" and (getattr(module, "__file__", None) or "").startswith(ours):
            del sys.modules[name]


def first_failure(slip: tuple[str, str] | None, tests: tuple[str, ...]) -> str:
    """The first test that fails with a file's other text; "" if none does."""
    import jax
    import pytest

    forget_modules()
    first, finders = First(), list(sys.meta_path)
    sys.meta_path[:0] = [Instead(*slip)] if slip else []
    # Operations that were compiled for the slip before are those of the next one.
    with mock.patch.object(jax, "clear_caches"):
        status = pytest.main(
            ["-x", "-p", "no:cacheprovider", "-p", "no:unraisableexception", "--tb=short", *tests],
            plugins=[first],
        )
    sys.meta_path[:] = finders
    return first.failed or (f"pytest ends with {int(status)}" if status else "")


def serve(connection: Connection, theirs: Connection, log: Path) -> None:
    """Answers questions until there is nobody to ask any more."""
    theirs.close()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            connection.send(first_failure(*connection.recv()))


class Worker:
    """A process that makes slips, one after another, and keeps its programs; another if it hangs or dies."""

    def __init__(self, log: Path):
        self.log, self.process, self.served = log, None, 0

    def failing(self, *question: object, timeout: float) -> str:
        """What `first_failure` says, or what happened to the process."""
        if self.process is None or self.served == 50:  # Thousands of programs are too many for a process.
            self.stop()
            ours, theirs = multiprocessing.Pipe()
            self.process = FORK.Process(target=serve, args=(theirs, ours, self.log), daemon=True)
            self.process.start()
            self.connection, self.served = ours, 0
            theirs.close()
        self.served += 1
        self.connection.send(question)
        try:
            if self.connection.poll(timeout):
                return self.connection.recv()
        except EOFError:
            pass
        died = not self.process.is_alive()
        self.stop()
        return "the process died" if died else "no answer in time"

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def drawn(file: str, seed: int, count: int) -> list[Mutation]:
    """``count`` of the file's slips that are not known to change nothing."""
    every = mutations((PACKAGE / file).read_text())
    random.Random(f"{seed} {file}").shuffle(every)
    return [m for m in every if m.name not in EQUIVALENT.get(file, {})][:count]


@functools.cache
def fingerprint(file: str) -> str:
    """Of a file and of the tests that concern it."""
    tests = [ROOT / test.split("::")[0] for test in TESTS[file] if test.startswith("tests/")]
    paths = (PACKAGE / file, *tests, *sorted((ROOT / "tests" / "helpers").glob("*.py")))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


def report(console: Console, files: list[str], wanted: dict, found: dict) -> int:
    """Prints what was found of what is wanted; 1 if it is not enough."""
    table = Table(
        *(Column(name, no_wrap=True) for name in ("file", "slips", "noticed", "not", "seconds each"))
    )
    total = noticed = 0
    for file in files:
        rows = [found[file, m.name] for m in wanted[file] if (file, m.name) in found]
        caught = sum(bool(row["by"]) for row in rows)
        total, noticed = total + len(rows), noticed + caught
        seconds = sum(row["seconds"] for row in rows) / max(len(rows), 1)
        table.add_row(file, *map(str, (len(rows), caught, len(rows) - caught)), f"{seconds:.1f}")
    console.print(table)
    for file in files:
        for m in wanted[file]:
            if not found.get((file, m.name), {"by": "?"})["by"]:
                console.print(escape(f"not noticed: {file}:{m.line} {m.name}"), soft_wrap=True)
    console.print(f"{noticed} of {total} noticed")
    missing = [file for file in files if not any((file, m.name) in found for m in wanted[file])]
    if missing:
        console.print(f"nothing is known of {', '.join(missing)}", style="red")
    return int(bool(missing) or not total or noticed < 0.95 * total)


def run(check: Check, console: Console, wanted: dict, found: dict) -> None:
    """Makes the slips that are left, as long as there is time; adds to ``found`` and to the results."""
    prepare()
    worker, end = Worker(check.results.with_suffix(".log")), time.monotonic() + 60 * (check.minutes or 1e9)

    def record(name: str, line: int, slip: tuple[str, str] | None, tests: tuple, timeout: float) -> dict:
        start, file = time.monotonic(), slip[0] if slip else ""
        by = worker.failing(slip, tests, timeout=timeout)
        seconds = round(time.monotonic() - start, 1)
        row = {"file": file, "line": line, "name": name, "by": by, "seconds": seconds}
        row["of"] = fingerprint(file) if file else ""
        found[file, name] = row
        with check.results.open("a") as results:
            results.write(json.dumps(row) + "\n")
        console.print(escape(f"{seconds:5.1f} s  {file}:{line} {name[:90]}  {by or '-'}"), soft_wrap=True)
        return row

    def is_left(file: str, name: str) -> bool:
        return (file, name) not in found or (check.again and not found[file, name]["by"])

    for file, slips in wanted.items():
        left = [m for m in slips if is_left(file, m.name)]
        if not left or time.monotonic() > end:
            continue
        sources = sorted((*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")))
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
        # Files with the same tests have one run of them without any slip.
        name = f"{digest[:12]} {' '.join(TESTS[file])}"
        unchanged = found.get(("", name)) or record(name, 0, None, TESTS[file], 3600.0)
        if unchanged["by"]:
            console.print(f"{file} is left out: without any slip, {unchanged['by']} fails", style="red")
            continue
        for m in left:
            if time.monotonic() < end:
                timeout = 60.0 + check.patience * unchanged["seconds"]
                record(m.name, m.line, (file, m.text), TESTS[file], timeout)
    worker.stop()


def main(check: Check) -> int:
    console = Console()
    files = [file for file in TESTS if not check.only or any(part in file for part in check.only)]
    wanted = {file: drawn(file, check.seed, check.per_file) for file in files}
    found = {}
    if check.results.exists():
        rows = [json.loads(line) for line in check.results.read_text().splitlines()]
        # What was found of other code, or with other tests, is not known of these.
        found = {
            (row["file"], row["name"]): row
            for row in rows
            if not row["file"] or row.get("of") == fingerprint(row["file"])
        }
    if not check.list:
        run(check, console, wanted, found)
    return report(console, files, wanted, found)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Check, description=__doc__)))
