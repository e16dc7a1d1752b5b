"""``fp3o list``: what there is by name."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from fp3o_jax import registry
from fp3o_jax.envs import available
from fp3o_jax.presets import PRESETS
from fp3o_jax.runs.progress import tell


def names() -> dict[str, Any]:
    """Presets with what they are and reach; algorithms, sharings and environments; and who brings which."""
    presets = {
        name: {
            "what": preset.summary,
            "reaches": preset.reaches,
            "env": preset.config.env,
            "algorithm": preset.config.algorithm,
            "sharing": preset.config.sharing,
            "total_env_steps": preset.config.total_env_steps,
        }
        for name, preset in PRESETS.items()
    }
    return {
        "presets": presets,
        "algorithms": list(registry.algorithms),
        "sharings": list(registry.sharings),
        "environments": available(),
        "brought": {
            kind.setting: kind.outside()
            for kind in (registry.algorithms, registry.sharings, registry.environments, registry.sinks)
        },
    }


def show(console: Console, names: dict[str, Any]) -> None:
    """Prints what :func:`names` says."""
    table = Table(
        "preset", "what it is, and what it reaches", title="presets: fp3o train PRESET", show_lines=True
    )
    for name, preset in names["presets"].items():
        steps = f"{preset['algorithm']}, sharing {preset['sharing']}, {preset['total_env_steps']:,} env steps"
        reaches = f"\nreaches {preset['reaches']}" * bool(preset["reaches"])
        table.add_row(name, f"{preset['what']}\n{preset['env']}, {steps}{reaches}")
    console.print(table)
    console.print(f"algorithms: --algorithm {', '.join(names['algorithms'])}", highlight=False)
    console.print(f"sharings: --sharing {', '.join(names['sharings'])}", highlight=False)
    console.print("environments: fp3o train ENV, or --env ENV", highlight=False)
    for name in names["environments"]:
        tell(console, f"  {name}")
    for setting, brought in names["brought"].items():
        for name, by in sorted(brought.items()):
            tell(console, f"{setting}={name} is brought by {by}")
