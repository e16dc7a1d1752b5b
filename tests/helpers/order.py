"""In which order files of tests are begun with."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
#: Those that take minutes, the longest first. Processes take files in this order, then the others, so that
#: none is left with one of these when others have nothing to do any more.
LONGEST = [
    *("runs/test_runs", "test_docs", "test_train", "sweeps/test_sweeps", "test_devices", "test_extending"),
    *("envs/test_envs", "runs/test_habits", "method/test_update", "test_site", "runs/test_teams"),
    *("method/test_dead_agents", "sweeps/test_cluster", "test_paper", "runs/test_playback"),
    *("runs/test_policy", "runs/test_acting", "envs/test_mamujoco", "test_benchmarks"),
    *("runs/test_processes", "test_wheel"),
]


def longest_first(path: Path) -> int:
    """A key to sort by; files that are not among them stay in their order."""
    name = str(path.relative_to(TESTS).with_suffix(""))
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)
