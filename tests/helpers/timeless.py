"""What a run wrote, but for the moments at which it did."""

import re


def without_times(run):
    """The bytes of ``metrics.jsonl``, of each row without its time, which is checked to be there."""
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    parts = [re.fullmatch(rb'(.*), "time": \d{10}\.\d{1,3}(\}\n)', line) for line in lines]
    assert lines and all(parts)
    # What is not finite is written as null, and would equal itself; but so are episodes before the first end.
    told = [re.sub(rb'"(episode_return|episode_length|win_rate)": null', b"", line) for line in lines]
    assert not any(b"null" in line for line in told)
    return b"".join(part[1] + part[2] for part in parts)
