"""``fp3o``, and ``python -m fp3o_jax``: where the process begins and ends."""

from __future__ import annotations

import os
import sys

#: 128 and the number of SIGINT, as :data:`fp3o_jax.cli.STOPPED`.
STOPPED = 130


def run() -> int:
    """Runs the command line of this process; Ctrl-C ends it at any time with one line."""
    try:
        from fp3o_jax.cli import main

        status = main()
    except KeyboardInterrupt:  # while modules are imported
        print("stopped", file=sys.stderr)
        status = STOPPED
    if status == STOPPED:
        # The interpreter would wait until XLA has compiled what it is at.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(run())
