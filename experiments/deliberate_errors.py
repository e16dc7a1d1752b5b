"""Puts one error at a time into a copy of the package and shows which tests notice.

    python experiments/deliberate_errors.py

Each error is small, and such that training would still run and probably learn. The exit status is the number
of errors that no test noticed.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "fp3o_jax"


class Mistake(NamedTuple):
    """``right``, which stands in ``file`` once, becomes ``wrong``."""

    file: str
    right: str
    wrong: str


MISTAKES = {
    "the dependent step takes another pipeline's weights": Mistake(
        "update.py", "log_weight = joint(weights, log_rho)", "log_weight = joint(weights[::-1], log_rho)"
    ),
    "ratios relative to the intermediate policies": Mistake(
        "update.py",
        "rows = batch.of_agents(agents)\n",
        "rows = batch.replace(log_prob=batch.log_prob + log_rho).of_agents(agents)\n",
    ),
    "the policy loss counts dead agents": Mistake(
        "update.py",
        "sample_shares(alive, kept, tied.component,",
        "sample_shares(jnp.ones_like(alive), kept, tied.component,",
    ),
    "heads learn as slowly as trunks": Mistake(
        "sharing.py",
        "return np.maximum(1.0, np.minimum(sizes, owned) / np.bincount(self.head))",
        "return np.ones(len(sizes))",
    ),
    "entropy is a penalty": Mistake(
        "update.py", "(surrogate + hp.entropy_coef * entropy)", "(surrogate - hp.entropy_coef * entropy)"
    ),
}


@dataclasses.dataclass
class Check:
    """What to run."""

    tests: tuple[str, ...] = ("tests/test_golden.py", "-k", "partial_discrete_7")
    """pytest's arguments: by default the reference's update under partial sharing"""


def failing(mistake: Mistake | None, tests: tuple[str, ...]) -> list[str]:
    """Names of the tests that fail with the mistake made."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "fp3o_jax"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if mistake:
            file = copy / mistake.file
            source = file.read_text()
            if source.count(mistake.right) != 1:
                raise ValueError(f"{mistake.file} does not hold exactly once: {mistake.right}")
            file.write_text(source.replace(mistake.right, mistake.wrong))
        command = [sys.executable, "-m", "pytest", "-rf", "--no-header", *tests]
        env = dict(os.environ, PYTHONPATH=folder)
        output = subprocess.run(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE).stdout
    if not re.search(r"\d+ (passed|failed)", output):
        raise RuntimeError(f"no test ran:\n{output}")
    return re.findall(r"^FAILED \S+::(\S+)", output, re.MULTILINE)


def main(check: Check) -> int:
    console = Console()
    unchanged = failing(None, check.tests)
    if unchanged:
        raise RuntimeError(f"tests fail without any error: {', '.join(unchanged)}")
    console.print("without any error: all pass")
    table = Table("error", "tests that fail", show_lines=True)
    unnoticed = 0
    for name, mistake in MISTAKES.items():
        with console.status(name):
            tests = failing(mistake, check.tests)
        unnoticed += not tests
        table.add_row(name, Text("\n".join(tests) or "NONE"))
    console.print(table)
    return unnoticed


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Check, description=__doc__)))
