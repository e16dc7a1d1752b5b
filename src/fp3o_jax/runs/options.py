"""What is done around the training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fp3o_jax import registry
from fp3o_jax.config import ConfigError, settle_types, unknown
from fp3o_jax.runs.directory import plain
from fp3o_jax.runs.sinks import WandbOptions


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What is done around the training, which does not depend on it."""

    run_dir: Path | None = None
    """directory to write to, or to go on with; by default the one below runs/ that belongs to the settings"""
    init_from: Path | None = None
    """start from the weights of this run, with settings of one's own: its networks must be as large, and it
    must have as many seeds or one"""
    eval_episodes: int = 512
    """episodes that the policy of each seed is evaluated on"""
    eval_every: int = 0
    """evaluate after every so many updates, greedily and sampling; 0: greedily at the end alone"""
    eval_sampled: bool = False
    """evaluate the sampling policies at the end as well"""
    checkpoint_seconds: float = 60.0
    """save the whole state at least this often; 0: after every update"""
    keep_checkpoints: int = 3
    """newest checkpoints to keep, besides the best one"""
    devices: int | Literal["all"] = "all"
    """how many of the machine's devices the seeds are spread over, each seed on one of them"""
    distributed: bool = False
    """one run over several processes (of Slurm, Open MPI or a TPU pod, or as JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID say): each starts the same command, the first one writes"""
    wandb: WandbOptions = dataclasses.field(default_factory=WandbOptions)
    tensorboard: bool = False
    """write TensorBoard event files to the run directory as well"""
    sinks: tuple[str, ...] = ()
    """sinks of your own for the metrics: the names that they are registered under, or module:name"""

    def __post_init__(self) -> None:
        settle_types(self)
        for name, least in (("eval_episodes", 1), ("eval_every", 0), ("keep_checkpoints", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.devices != "all" and not (isinstance(self.devices, int) and self.devices >= 1):
            raise ConfigError(f"devices={self.devices!r} must be a whole number of at least 1, or 'all'")
        if self.distributed and (self.devices != "all" or self.init_from is not None):
            raise ConfigError(
                f"distributed=True takes all devices (devices={self.devices!r}), and weights of its own "
                f"(init_from={self.init_from!r})"
            )
        for name in self.sinks:
            registry.sinks.find(name)  # what cannot be imported is said now
        if not self.checkpoint_seconds >= 0:
            raise ConfigError(f"checkpoint_seconds={self.checkpoint_seconds} must be at least 0")

    def to_dict(self) -> dict[str, Any]:
        """All but the place and the processes, of which a resume may have others, as JSON holds it."""
        kept = {k: v for k, v in dataclasses.asdict(self).items() if k not in ("run_dir", "distributed")}
        options = plain(kept)
        return options | {"init_from": None if self.init_from is None else str(self.init_from)}

    @classmethod
    def from_dict(cls, options: Mapping[str, Any], run_dir: Path) -> RunOptions:
        """The inverse of ``to_dict``.

        Raises:
            ConfigError: a name is no option, or a value cannot be used.
        """
        try:
            logged = {"tags": (), **options.get("wandb", {})}
            for given, kind in ((options, cls), (logged, WandbOptions)):
                for name in given:
                    if name not in kind.__dataclass_fields__:
                        raise unknown("option", name, kind.__dataclass_fields__)
            for name in options.get("sinks", ()):
                registry.refuse_code("sinks", name, repr(str(run_dir)))
            wandb = logged | {"tags": tuple(logged["tags"])}
            first = options.get("init_from")
            own = {"init_from": None if first is None else Path(first), "wandb": WandbOptions(**wandb)}
            return cls(**{**options, **own, "run_dir": run_dir})
        except ConfigError as error:
            raise ConfigError(f"{run_dir / 'run.json'}: {error}") from None
