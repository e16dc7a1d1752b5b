"""Alters thousands of files of every kind that is read, and counts what reading them comes to.

    python tests/checks/fuzz_check.py --count 2400 --seed 0

Exit status 1 if there is a bug: an exception that is none of ours, a crash, a hang, or too much memory. The
cases run in processes that read a few hundred each, so that a crash is seen, and told of its case; what is
altered follows from seed and number, so ``--only 1234`` does one case again.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for folder in ("tests/helpers", "experiments/paper"):
    sys.path.insert(0, str(Path(__file__).parents[2] / folder))

#: A process that has finished no case for so many seconds is ended.
SILENT = 90


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the cases to do")
    parser.add_argument("--each", type=int, default=300, help="cases in one process")
    parser.add_argument("--log", type=Path, help="file for a line of JSON on each case")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options)
    with tempfile.TemporaryDirectory() as place:
        found = run_all(options, Path(place))
    if options.log:
        options.log.write_text("".join(json.dumps(one) + "\n" for one in found))
    return report(found)


def work(options: argparse.Namespace) -> int:
    """In a process of its own: does the cases, and writes a line as each begins and ends."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import fuzzing

    fuzzing.DRAWN = True
    originals = options.work / "originals"
    if not originals.exists():
        fuzzing.write_originals(originals)
    with (options.work / "done").open("a", buffering=1) as done:
        for number in options.only or ():
            kind = fuzzing.cases(number + 1)[-1][0]
            done.write(json.dumps({"number": number, "kind": kind}) + "\n")
            start = time.monotonic()
            outcome, said = fuzzing.run_case(originals, options.work, kind, number, options.seed)
            row = {"number": number, "kind": kind, "outcome": outcome, "said": said}
            done.write(json.dumps(row | {"seconds": time.monotonic() - start}) + "\n")
    return 0


def run_all(options: argparse.Namespace, place: Path) -> list[dict]:
    """What came of each case."""
    left = list(options.only or range(options.count))
    work_on([], options, place)  # the originals
    found: dict[int, dict] = {}
    while left:
        (place / "done").unlink(missing_ok=True)
        status = work_on(left[: options.each], options, place)
        begun = None
        for line in (place / "done").read_text().splitlines() if (place / "done").exists() else ():
            row = json.loads(line)
            begun = row
            if "outcome" in row:
                found[row["number"]], begun = row, None
        if status != 0:
            if begun is None:
                raise SystemExit(f"a process ended with {status} between cases")
            found[begun["number"]] = begun | {"outcome": "BUG", "said": f"the process ended with {status}"}
        left = [number for number in left if number not in found]
        print(f"{len(found)} of {len(found) + len(left)}", file=sys.stderr, flush=True)
    return list(found.values())


def work_on(numbers: list[int], options: argparse.Namespace, place: Path) -> int:
    """The exit status of a process that does these cases; -9 if it had to be ended."""
    command = [sys.executable, __file__, "--work", str(place), "--seed", str(options.seed)]
    command += ["--only", *map(str, numbers)] if numbers else []
    process, size, since = subprocess.Popen(command), -1, time.monotonic()
    while process.poll() is None:
        time.sleep(0.2)
        now = (place / "done").stat().st_size if (place / "done").exists() else 0
        if now != size:
            size, since = now, time.monotonic()
        if time.monotonic() - since > SILENT:
            process.kill()
            process.wait()
    return process.returncode


def report(found: list[dict]) -> int:
    """Prints the table, and every bug; the exit status."""
    import fuzzing

    counts = collections.Counter((one["kind"], one["outcome"]) for one in found)
    print(f"{'kind':20}" + "".join(f"{outcome:>14}" for outcome in fuzzing.OUTCOMES) + f"{'files':>8}")
    for kind in (*fuzzing.KINDS, None):
        row = [
            sum(n for (k, o), n in counts.items() if kind in (k, None) and o == out)
            for out in fuzzing.OUTCOMES
        ]
        print(f"{kind or 'all':20}" + "".join(f"{n:14}" for n in row) + f"{sum(row):8}")
    for mark in ("(UNNAMED)", "(LONG)"):
        print(f"errors {mark}: {sum(mark in one['said'] for one in found)}")
    bugs = [one for one in found if one["outcome"] == "BUG"]
    for one in bugs:
        print(f"\ncase {one['number']}, {one['kind']}: {one['said']}")
    return bool(bugs)


if __name__ == "__main__":
    sys.exit(main())
