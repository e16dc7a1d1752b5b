"""A run's directory: config, metrics, summary."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fp3o_jax.config import Config, ConfigError


class RunDirectory:
    """Writes one run; never into a directory that holds something already.

    Args:
        path: the directory, or None for a new one below ``runs/`` named after the config.
        config: the resolved settings, written to ``config.json``.

    Raises:
        ConfigError: ``path`` exists and is not an empty directory.
    """

    def __init__(self, path: Path | None, config: Config):
        self.path = _new_path(config) if path is None else Path(path)
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError(
                f"run_dir={str(self.path)!r} exists and is not empty, and a run is never overwritten: "
                "choose another directory"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._write("config.json", config.to_dict())
        self._metrics = (self.path / "metrics.jsonl").open("a", encoding="utf-8")

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Appends one line to ``metrics.jsonl``."""
        self._metrics.write(json.dumps(plain(metrics), allow_nan=False) + "\n")
        self._metrics.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes ``summary.json``."""
        self._metrics.close()
        self._write("summary.json", summary)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(plain(content), indent=2, allow_nan=False)
        (self.path / name).write_text(text + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Arrays and numbers as JSON holds them; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _new_path(config: Config) -> Path:
    env = config.env.replace("/", "-").replace("|", "-")
    name = f"{env}_{config.algorithm}_{config.sharing}_seed{config.seed}"
    number, path = 1, Path("runs") / name
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}_{number}"
    return path
