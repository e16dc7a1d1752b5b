"""Puts one error at a time into a copy of the package and shows which tests notice.

    python tests/checks/deliberate_errors.py

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

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "fp3o_jax"


class Mistake(NamedTuple):
    """``right``, which stands in ``file`` once, becomes ``wrong``; ``tests`` are pytest's arguments."""

    file: str
    right: str
    wrong: str
    tests: tuple[str, ...] = ("tests/method/test_golden.py", "-k", "partial_discrete_7")


def of_family(record: str) -> tuple[str, ...]:
    return "tests/method/test_family.py", "-k", record


MISTAKES = {
    "the dependent step takes another pipeline's weights": Mistake(
        "method/update.py",
        "log_weight = joint_log_ratio(weights, log_rho, ",
        "log_weight = joint_log_ratio(weights[::-1], log_rho, ",
    ),
    "ratios relative to the intermediate policies": Mistake(
        "method/update.py",
        "rows = batch.of_agents(owners)\n",
        "rows = batch.replace(log_prob=batch.log_prob + log_rho).of_agents(owners)\n",
    ),
    "the policy loss counts dead agents": Mistake(
        "method/descent.py",
        "part.alive * learning, part.alive * scale",
        "part.alive * learning, jnp.ones_like(part.alive) * scale",
    ),
    "heads learn as slowly as trunks": Mistake(
        "team/sharing.py",
        "return np.maximum(1.0, np.minimum(sizes, owned) / np.bincount(self.head))",
        "return np.ones(len(sizes))",
    ),
    "entropy is a penalty": Mistake(
        "method/update.py",
        "(objective + hp.entropy_coef * entropy)",
        "(objective - hp.entropy_coef * entropy)",
    ),
    "HAPPO without the factor of the agents before": Mistake(
        "method/schedules.py",
        "position[None, :] < jnp.arange(n)[:, None]",
        "position[None, :] < 0 * jnp.arange(n)[:, None]",
        of_family("happo_discrete_clipped"),
    ),
    "HARL's factor relative to the behaviour policy, from the states of chunks": Mistake(
        "method/update.py",
        'if self.algorithm.ratios == "behaviour":',
        'if self.algorithm.ratios != "never":',
        of_family("happo_discrete_shared or happo_discrete_recurrent_7"),
    ),
    "HAPPO's critic is fitted in every stage": Mistake(
        "method/schedules.py",
        "critics_once=True)",
        "critics_once=False)",
        of_family("happo_discrete_clipped"),
    ),
    "critics count the living alone where their authors count all": Mistake(
        "method/batch.py",
        "self if self.valued is None else self.replace(alive=self.valued)",
        "self",
        of_family("happo_discrete_clipped or coppo_discrete_7"),
    ),
    "A2PO's clip range does not grow": Mistake(
        "method/schedules.py",
        "growing = 0.5 + 0.5 * jnp.arange(1, n + 1)[:, None] / n",
        "growing = jnp.ones((n, 1))",
        of_family("a2po_discrete_clipped"),
    ),
    "the others' ratio is not clipped": Mistake(
        "method/losses.py",
        "weight = jnp.clip(log_weight, jnp.log1p(-weight_clip_eps), jnp.log1p(weight_clip_eps))",
        "weight = log_weight",
        of_family("a2po_discrete_clipped or coppo_discrete_clipped"),
    ),
    "advantages are normalised for each agent where their authors do for all": Mistake(
        "method/advantages.py",
        'range(1 if over == "agent" else 0, advantages.ndim)',
        "range(1, advantages.ndim)",
        of_family("a2po_discrete_clipped or coppo_discrete_clipped"),
    ),
    "the trace of A2PO's code counts lambda once": Mistake(
        "method/advantages.py",
        "gae_lambda * jnp.exp(jnp.minimum(log_weight, 0.0))",
        "jnp.exp(jnp.minimum(log_weight, 0.0))",
        of_family("a2po_discrete_clipped"),
    ),
    "the first agent's advantages are corrected as well": Mistake(
        "method/update.py",
        "jnp.where(weights.any(1)[",
        "jnp.where((weights.any(1) | True)[",
        of_family("a2po_discrete_7"),
    ),
    "the agents before keep GAE's advantages in the normalisation": Mistake(
        "method/update.py",
        "normalize_advantages(advantage, ",
        "normalize_advantages(as_sequences(gae(given.errors), alive.shape[1]).at[owners].set(anew), ",
        of_family("a2po_discrete_clipped"),
    ),
    "the fast trace caps each ratio instead of their product": Mistake(
        "method/advantages.py",
        "jnp.minimum(log_kept + log_weight, 0.0)",
        "(log_kept + jnp.minimum(log_weight, 0.0))",
        of_family("a2po_discrete_speedup"),
    ),
    "the semi-greedy order begins with luck": Mistake(
        "method/schedules.py", "turn % 2 == 0", "turn % 2 == 1", of_family("test_the_recorded_order")
    ),
}


@dataclasses.dataclass
class Check:
    """What to run."""

    only: str = ""
    """make the errors alone whose names contain this"""
    tests: tuple[str, ...] = ()
    """pytest's arguments, for all errors; by default a record that the error concerns"""


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
    mistakes = {
        name: mistake._replace(tests=check.tests or mistake.tests)
        for name, mistake in MISTAKES.items()
        if check.only in name
    }
    if not mistakes:
        raise ValueError(f"no error's name has {check.only!r}: {', '.join(MISTAKES)}")
    for tests in dict.fromkeys(mistake.tests for mistake in mistakes.values()):
        unchanged = failing(None, tests)
        if unchanged:
            raise RuntimeError(f"tests fail without any error: {', '.join(unchanged)}")
    console.print("without any error: all pass")
    table = Table("error", "tests that fail", show_lines=True)
    unnoticed = 0
    for name, mistake in mistakes.items():
        with console.status(name):
            tests = failing(mistake, mistake.tests)
        unnoticed += not tests
        table.add_row(name, Text("\n".join(tests) or "NONE"))
    console.print(table)
    return unnoticed


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Check, description=__doc__)))
