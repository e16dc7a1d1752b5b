"""``fp3o``: the command line, made from the config dataclass."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from fp3o_jax import xla
from fp3o_jax.arguments import in_one_style
from fp3o_jax.commands import help as helping
from fp3o_jax.commands import listing
from fp3o_jax.commands.output import USUALLY, Said
from fp3o_jax.commands.playing import crossplay, evaluate
from fp3o_jax.commands.starting import refuse_late, sweeping, training
from fp3o_jax.commands.version import version
from fp3o_jax.config import Config, ConfigError
from fp3o_jax.runs import RunError, RunOptions, render_run, run_training
from fp3o_jax.runs.progress import tell
from fp3o_jax.runs.sinks import WandbOptions
from fp3o_jax.sweeps import show_status
from fp3o_jax.sweeps.cluster import JobOptions
from fp3o_jax.sweeps.study import Study
from fp3o_jax.values import as_count

#: Exit status after Ctrl-C: 128 and the signal's number.
STOPPED = 130
Preset = tyro.conf.Positional[Annotated[str | None, tyro.conf.arg(metavar="PRESET")]]


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 2 for settings that cannot be used, 1 for a run that
    cannot go on, 130 for Ctrl-C."""
    args = list(sys.argv[1:] if args is None else args)
    try:
        if args[:1] in (["--version"], ["-V"]):
            print(version())
        else:
            _run(args or ["--help"])
    except (ConfigError, RunError) as error:
        tell(Console(stderr=True), str(error), "error:", "bold red")
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        said = "What was written is whole, and the same command goes on or begins again"
        tell(Console(stderr=True), said, "stopped.", "bold red")
        return STOPPED
    return 0


def _run(args: list[str]) -> None:
    xla.keep_compiled()
    # W&B's variables are for those who train: one that cannot be used stops nobody else.
    config, options = Config(), RunOptions(wandb=WandbOptions("disabled", tags=(), init_timeout=1.0))
    study, given = Study(config, options), args[1:]
    if args[0] == "train":
        config, options, args[1:] = training(given)
    elif args[0] == "sweep":
        study, args[1:] = sweeping(given)
    commands = {
        "train": _train_command(config, options),
        "sweep": _sweep_command(study, given),
        "status": status,
        "evaluate": evaluate,
        "crossplay": crossplay,
        "plot": plot,
        "render": render,
        "export": export,
        "check-env": check_env,
        "list": list_names,
    }
    for command in commands.values():
        command.__doc__ = helping.in_whole_lines(command.__doc__)
    if args[0] in commands:
        args[1:] = in_one_style(args[1:], commands[args[0]])
    asks = {"-h", "--help"} & {*args}
    # Handed over as an argument, tyro 1.0.0 would have forgotten the registry when it comes to a command.
    with helping.REGISTRY, helping.wrapped() if asks else contextlib.nullcontext():
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="fp3o", description=helping.DESCRIPTION, args=args
        )


def _train_command(default: Config, default_options: RunOptions) -> Callable[..., None]:
    def train(
        preset: Preset = None,
        config: Annotated[Config, tyro.conf.arg(name="")] = default,
        options: Annotated[RunOptions, tyro.conf.arg(name="")] = default_options,
        file: Annotated[Path | None, tyro.conf.arg(name="config")] = None,
        resume: Path | None = None,
        said: Said = USUALLY,
    ) -> None:
        """Train, evaluate and write a run directory.

        `fp3o train [PRESET] [settings]`, or `fp3o train --resume RUN` for one that was stopped; with a larger
        `--total-env-steps` it goes on further than it was going to.

        Args:
            preset: the name of a preset or of an environment, `fp3o list` has them
            file: settings from a TOML, YAML or JSON file, as config.json of a run holds them; those that are
                given beside it win
            resume: go on with the run in this directory
        """
        refuse_late(preset, "train")
        summary = run_training(config, options, console=said.console)
        if summary:  # and none where another process writes
            said.result(**summary)

    return train


def _sweep_command(study: Study, given: list[str]) -> Callable[..., None]:
    def sweep(
        preset: Preset = None,
        config: Annotated[Config, tyro.conf.arg(name="")] = study.config,
        options: Annotated[RunOptions, tyro.conf.arg(name="")] = study.options,
        samples: int = study.samples,
        sample_seed: int = study.sample_seed,
        runs_per_program: int | None = study.runs_per_program,
        dry_run: bool = False,
        index: int | None = None,
        print_commands: bool = False,
        on: Literal["here", "slurm", "local"] = "here",
        jobs: JobOptions = study.jobs,
        file: Annotated[Path | None, tyro.conf.arg(name="config")] = None,
        said: Said = USUALLY,
    ) -> None:
        """Train many runs side by side: `fp3o sweep [PRESET | STUDY.toml] [axes] [settings] --run-dir DIR`.

        Axes: `--grid.SETTING V V ...` (each with each), `--zip "SETTING=V,V" ...` (walking together),
        `--random.SETTING log LOW HIGH` (or uniform; with --samples). A SETTING may be several joined by
        commas, which take the same value. The same command goes on with what is not finished.

        Args:
            preset: the name of a preset or of an environment, or a file STUDY.toml
            samples: points that are drawn from the random axes
            sample_seed: of the draws
            runs_per_program: most runs that train side by side; by default all that can
            dry_run: say how many programs and runs it is, and train nothing
            index: train one program alone, counted from 0: a job on a cluster
            print_commands: print a command for each program that is not finished, and train nothing
            on: slurm: submit a job for each program that is not finished (needs submitit); local: the same
                in processes of this machine, to try it
            jobs: what such a job asks for
            file: settings of all points from a TOML, YAML or JSON file; those that are given beside it win
        """
        refuse_late(preset, "sweep")
        planned = dataclasses.replace(
            study,
            config=config,
            options=options,
            samples=samples,
            sample_seed=sample_seed,
            runs_per_program=runs_per_program,
        )
        run_dir, console = options.run_dir, said.console
        if dry_run:
            said.result(run_dir=run_dir, **planned.describe(console))
        elif on != "here":
            if index is not None:
                raise ConfigError(f"index={index} is one program alone, and --on {on} submits all")
            said.result(run_dir=run_dir, jobs=planned.submit(on, jobs, console))
        elif print_commands:
            planned_commands = planned.commands(in_one_style(given, sweep))
            for command in [] if said.json or said.quiet else planned_commands:
                print(command)
            said.result(run_dir=run_dir, commands=planned_commands)
        else:
            said.result(run_dir=run_dir, runs=planned.run(index, console))

    return sweep


def status(sweep: tyro.conf.Positional[Path], said: Said = USUALLY) -> None:
    """How far a sweep is: `fp3o status DIR`.

    Args:
        sweep: its directory
    """
    said.result(run_dir=sweep, programs=show_status(sweep, said.console))


def plot(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    metric: str | None = None,
    smooth: int = 1,
    by: str | None = None,
    within: str | None = None,
    best_of: str | None = None,
    over: str | None = None,
    baseline: str | None = None,
    output: Path | None = None,
    csv: Path | None = None,
    latex: Path | None = None,
    said: Said = USUALLY,
) -> None:
    """Draw learning curves and compare final scores: `fp3o plot RUN [RUN ...]`.

    A SETTING below may be several joined by commas.

    Args:
        runs: run directories, folders of runs, or sweeps, finished or not. Runs that differ in no setting but
            the seed are one method; on several environments, a method's tasks
        metric: a scalar in metrics.jsonl; by default win_rate if all runs have it, else episode_return. With
            --over one of the final scores, sampled_win_rate or auc_win_rate for example
        smooth: draw the mean of each seed's last so many updates
        by: the SETTING that tells lines apart, algorithm for example; by default all that differ, spread over
            panels where they are many
        within: the SETTING that tells panels apart, besides the environment
        best_of: a SETTING of which each method shows its best value, actor_lr for example: chosen by the
            final score on half of the seeds, and the other half is shown
        over: draw the final score against this SETTING, one number, in place of learning curves
        baseline: compare each method with this one, mappo for example; by default up to six with one another
        output: path of the curves, to which _final is added for the final scores; with the ending .png, .pdf
            or .svg only that format is written, else the first two. By default figures/METRIC in the folder
            that was given, or for several here
        csv: file for a table of the final scores: IQM, mean and median with intervals
        latex: file for the same table as a LaTeX tabular (booktabs)
    """
    from fp3o_jax.runs.figures import plot_response, plot_runs

    common = {"metric": metric, "by": by, "within": within, "best_of": best_of}
    common |= {"output": output, "csv": csv, "latex": latex, "console": said.console}
    if over is None:
        said.result(written=plot_runs(runs, smooth=smooth, baseline=baseline, **common))
        return
    if smooth != 1:
        raise ConfigError(f"smooth={smooth} is for learning curves: --over draws final scores")
    if baseline is not None:
        raise ConfigError(f"baseline={baseline!r} compares methods: --over draws each against a setting")
    said.result(written=plot_response(runs, over=over, **common))


def render(
    run: tyro.conf.Positional[Path],
    seed_index: int = 0,
    episode_seed: int = 0,
    sampled: bool = False,
    best: bool = False,
    env: str | None = None,
    output: Path | None = None,
    said: Said = USUALLY,
) -> None:
    """Watch a trained policy: `fp3o render RUN` writes an episode as a GIF, MP4 or interactive page.

    Args:
        run: run directory, finished or not
        seed_index: which seed's policy, counted from 0
        episode_seed: another number is another episode
        sampled: draw actions instead of taking the most probable ones
        best: the checkpoint with the highest win rate or return, instead of the newest
        env: module:factory, if the run was trained on it or on an object that it makes: code is imported only
            if you name it
        output: file to write, .gif or .mp4 (which needs PyAV: pip install av) for SMAX and MPE, .html for
            MABrax; by default a .gif or .html in the run's figures/
    """
    written = render_run(
        run,
        seed_index=seed_index,
        episode_seed=episode_seed,
        sampled=sampled,
        best=best,
        env=env,
        output=output,
        console=said.console,
    )
    said.result(written=written)


def export(
    run: tyro.conf.Positional[Path],
    seed_index: int = 0,
    best: bool = False,
    env: str | None = None,
    output: Path | None = None,
    format: Literal["safetensors", "onnx"] = "safetensors",
    said: Said = USUALLY,
) -> None:
    """Take a trained policy away: `fp3o export RUN` writes policy.safetensors and policy.json.

    Args:
        run: run directory, finished or not
        seed_index: which seed's policy, counted from 0
        best: the checkpoint with the highest win rate or return, instead of the newest
        env: module:factory, if the run was trained on it or on an object that it makes: code is imported only
            if you name it
        output: folder to write to; by default policy/ in the run
        format: onnx: AGENT.onnx for each agent as well (which needs jax2onnx: pip install 'fp3o-jax[onnx]')
    """
    from fp3o_jax.policy import load_policy

    policy, folder = load_policy(run, seed_index, best, env), output or run / "policy"
    if format == "onnx":
        from fp3o_jax.runs.onnx_files import save_onnx

        save_onnx(policy, folder)
    policy.save(folder)
    tell(said.console, f"written to {folder}")
    said.result(written=folder)


def check_env(
    env: tyro.conf.Positional[str],
    env_kwargs: dict[str, bool | int | float | str] | None = None,
    steps: int = 300,
    said: Said = USUALLY,
) -> None:
    """What the trainer sees of an environment: `fp3o check-env ENV`, a name or `module:factory`.

    Exit status 1, and a sentence that says why, if it cannot be trained on.

    Args:
        env: as in `fp3o train --env`
        env_kwargs: as in `fp3o train --env-kwargs`
        steps: random steps that are played
    """
    from fp3o_jax import envs

    steps = as_count("steps", steps)
    try:
        report = envs.check_env(env, env_kwargs, steps)
    except ConfigError as error:
        raise RunError(str(error)) from error
    said.console.print(str(report), highlight=False, markup=False, soft_wrap=True)
    said.result(env=report.env.name, notes=report.notes, **dict(report.rows))


def list_names(said: Said = USUALLY) -> None:
    """Name the presets, with what they reach, the algorithms, the sharings and the environments."""
    names = listing.names()
    listing.show(said.console, names)
    said.result(**names)


if __name__ == "__main__":
    sys.exit(main())
