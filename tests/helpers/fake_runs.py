"""Run directories as ``fp3o train`` leaves them, written by hand."""

import json


def write_run(path, curves, *, final=None, metric="win_rate", steps_per_update=100, **config):
    """Writes a run; returns its path.

    Args:
        path: the directory.
        curves: by seed, the values of the metric after each update (None: nothing yet).
        final: by seed, the score of the final policy; None for a run that is not finished.
        metric: the name of both, beside an ``episode_return`` that is twice as large.
        steps_per_update: environment steps between two values.
        config: settings that differ from FP3O with full sharing on SMAX 3m.
    """
    path.mkdir(parents=True)
    settings = {"env": "smax/3m", "env_kwargs": {}, "algorithm": "fp3o", "sharing": "full", "actor_lr": 5e-4}
    settings |= {"seed": min(curves), "num_seeds": len(curves)} | config
    (path / "config.json").write_text(json.dumps(settings))

    def measured(value):
        return {metric: value, "episode_return": None if value is None else 2 * value}

    rows = [
        {"seed": seed, "update": i + 1, "env_steps": (i + 1) * steps_per_update, "agent_kl": [0.0, 0.1]}
        | measured(value)
        for seed, values in curves.items()
        for i, value in enumerate(values)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if final is not None:
        seeds = [{"seed": seed, "episode_length": 9.0} | measured(score) for seed, score in final.items()]
        (path / "summary.json").write_text(json.dumps({"seeds": seeds}))
    return path
