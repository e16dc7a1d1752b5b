"""``fp3o``: the command line, made from the config dataclass."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from fp3o_jax import xla
from fp3o_jax.arguments import in_one_style
from fp3o_jax.config import Config, ConfigError, unknown
from fp3o_jax.presets import PRESETS
from fp3o_jax.runs import RunError, RunOptions, evaluate_run, render_run, run_training
from fp3o_jax.runs.directory import check_environment, check_trust, read_config, read_options
from fp3o_jax.runs.progress import tell
from fp3o_jax.sweeps import show_status
from fp3o_jax.sweeps.cluster import JobOptions
from fp3o_jax.sweeps.study import Study, read_study, take_axes

DESCRIPTION = """\
Train teams of agents with FP3O, MAPPO, IPPO, HAPPO, A2PO or CoPPO, end to end in JAX.

  fp3o train smax-3m                          a preset (fp3o list names them)
  fp3o train smax-3m --sharing none --seed 1  ... with some settings changed
  fp3o train --env mpe/simple_spread          from the defaults
  fp3o train --resume RUN                     go on with a run that was stopped
  fp3o train --help                           every setting
  fp3o sweep smax-3m --grid.sharing full none --num-seeds 8 --run-dir DIR
                                              many runs side by side
  fp3o status DIR                             how far a sweep is
  fp3o evaluate RUN --episodes 1000           play its policies
  fp3o render RUN                             watch an episode
  fp3o export RUN                             take a policy away
  fp3o plot runs/A runs/B                     learning curves and final scores, compared
  fp3o plot DIR --within sharing --csv FILE   ... of all runs in a folder or sweep
  fp3o check-env my_module:make_my_env        what is seen of an environment of yours
"""


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 2 for settings that cannot be used, 1 for a run that
    cannot go on."""
    args = list(sys.argv[1:] if args is None else args)
    xla.keep_compiled()
    try:
        default, options = Config(), RunOptions()
        if args[:1] == ["train"] and len(args) > 1 and not args[1].startswith("-"):
            preset = args.pop(1)
            if preset not in PRESETS:
                raise unknown("preset", preset, PRESETS)
            default = PRESETS[preset].config
        if args[:1] == ["train"] and (run := _take_resumed(args)) is not None:
            if default != Config():
                raise ConfigError(f"--resume {run} has settings of its own: leave the preset out")
            default = read_config(run)
            check_environment(run, None)
            check_trust(run, default.env, _said(args, "--env"))
            options = RunOptions.from_dict(read_options(run), run)
        study, given = Study(), args[1:]
        if args[:1] == ["sweep"]:
            study, args[1:] = take_axes(*read_study(given))
        commands = {
            "train": _train_command(default, options),
            "sweep": _sweep_command(study, given),
            "status": status,
            "evaluate": evaluate,
            "plot": plot,
            "render": render,
            "export": export,
            "check-env": check_env,
            "list": list_names,
        }
        if args and args[0] in commands:
            args[1:] = in_one_style(args[1:], commands[args[0]])
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="fp3o", description=DESCRIPTION, args=args or ["--help"]
        )
    except (ConfigError, RunError) as error:
        tell(Console(stderr=True), str(error), "error:", "bold red")
        return 2 if isinstance(error, ConfigError) else 1
    return 0


def _take_resumed(args: list[str]) -> Path | None:
    """The run behind ``--resume``, which is taken out of the arguments.

    Raises:
        ConfigError: there is none, or another directory is named.
    """
    places = [i for i, arg in enumerate(args) if arg == "--resume" or arg.startswith("--resume=")]
    if not places:
        return None
    _, equals, run = args.pop(places[0]).partition("=")
    if not equals:
        if len(args) <= places[0] or args[places[0]].startswith("--"):
            raise ConfigError("--resume needs the directory of a run")
        run = args.pop(places[0])
    if any(arg.partition("=")[0] in ("--run-dir", "--run_dir") for arg in args):
        raise ConfigError(f"--resume {run} goes on in that directory: leave --run-dir out")
    return Path(run)


def _said(args: Sequence[str], flag: str) -> str | None:
    """The value of a flag, if it is given."""
    for arg, following in zip(args, [*args[1:], None], strict=True):
        name, equals, value = arg.partition("=")
        if name == flag:
            return value if equals else following
    return None


def _train_command(default: Config, default_options: RunOptions) -> Callable[..., None]:
    def train(
        config: Annotated[Config, tyro.conf.arg(name="")] = default,
        options: Annotated[RunOptions, tyro.conf.arg(name="")] = default_options,
    ) -> None:
        """Train, evaluate and write a run directory.

        `fp3o train [PRESET] [settings]`, or `fp3o train --resume RUN` for one that was stopped; with a larger
        `--total-env-steps` it goes on further than it was going to.
        """
        run_training(config, options)

    return train


def _sweep_command(study: Study, given: list[str]) -> Callable[..., None]:
    def sweep(
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
    ) -> None:
        """Train many runs side by side: `fp3o sweep [PRESET | STUDY.toml] [axes] [settings] --run-dir DIR`.

        Axes: `--grid.SETTING V V ...` (each with each), `--zip "SETTING=V,V" ...` (walking together),
        `--random.SETTING log LOW HIGH` (or uniform; with --samples). A SETTING may be several joined by
        commas, which take the same value. The same command goes on with what is not finished.

        Args:
            samples: points that are drawn from the random axes
            sample_seed: of the draws
            runs_per_program: most runs that train side by side; by default all that can
            dry_run: say how many programs and runs it is, and train nothing
            index: train one program alone, counted from 0: a job on a cluster
            print_commands: print a command for each program that is not finished, and train nothing
            on: slurm: submit a job for each program that is not finished (needs submitit); local: the same
                in processes of this machine, to try it
            jobs: what such a job asks for
        """
        planned = dataclasses.replace(
            study,
            config=config,
            options=options,
            samples=samples,
            sample_seed=sample_seed,
            runs_per_program=runs_per_program,
        )
        if dry_run:
            planned.describe(Console())
        elif on != "here":
            if index is not None:
                raise ConfigError(f"index={index} is one program alone, and --on {on} submits all")
            planned.submit(on, jobs, Console())
        elif print_commands:
            planned.print_commands(in_one_style(given, sweep))
        else:
            planned.run(index, Console())

    return sweep


def status(sweep: tyro.conf.Positional[Path]) -> None:
    """How far a sweep is: `fp3o status DIR`.

    Args:
        sweep: its directory
    """
    show_status(sweep)


def evaluate(
    run: tyro.conf.Positional[Path],
    episodes: int = 512,
    seed_index: int | None = None,
    sampled: bool = False,
    best: bool = False,
    env: str | None = None,
) -> None:
    """Play the trained policies: `fp3o evaluate RUN`.

    Args:
        run: run directory, finished or not
        episodes: per seed
        seed_index: one seed alone, counted from 0; by default all
        sampled: draw actions instead of taking the most probable ones
        best: the checkpoint with the highest win rate or return, instead of the newest
        env: if the run was trained on module:factory, that name again: code is imported only if you name it
    """
    evaluate_run(run, episodes=episodes, seed_index=seed_index, sampled=sampled, best=best, env=env)


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
    common |= {"output": output, "csv": csv, "latex": latex}
    if over is None:
        plot_runs(runs, smooth=smooth, baseline=baseline, **common)
        return
    if smooth != 1:
        raise ConfigError(f"smooth={smooth} is for learning curves: --over draws final scores")
    if baseline is not None:
        raise ConfigError(f"baseline={baseline!r} compares methods: --over draws each against a setting")
    plot_response(runs, over=over, **common)


def render(
    run: tyro.conf.Positional[Path],
    seed_index: int = 0,
    episode_seed: int = 0,
    sampled: bool = False,
    best: bool = False,
    output: Path | None = None,
    env: str | None = None,
) -> None:
    """Watch a trained policy: `fp3o render RUN` writes an episode as a GIF, MP4 or interactive page.

    Args:
        run: run directory, finished or not
        seed_index: which seed's policy, counted from 0
        episode_seed: another number is another episode
        sampled: draw actions instead of taking the most probable ones
        best: the checkpoint with the highest win rate or return, instead of the newest
        output: file to write, .gif or .mp4 (which needs PyAV: pip install av) for SMAX and MPE, .html for
            MABrax; by default a .gif or .html in the run's figures/
        env: as in `fp3o evaluate --env`
    """
    render_run(
        run,
        seed_index=seed_index,
        episode_seed=episode_seed,
        sampled=sampled,
        best=best,
        output=output,
        env=env,
    )


def export(
    run: tyro.conf.Positional[Path],
    seed_index: int = 0,
    best: bool = False,
    output: Path | None = None,
    env: str | None = None,
) -> None:
    """Take a trained policy away: `fp3o export RUN` writes policy.safetensors and policy.json.

    Args:
        run: run directory, finished or not
        seed_index: which seed's policy, counted from 0
        best: the checkpoint with the highest win rate or return, instead of the newest
        output: folder to write to; by default policy/ in the run
        env: as in `fp3o evaluate --env`
    """
    from fp3o_jax.policy import load_policy

    folder = load_policy(run, seed_index, best, env).save(output or run / "policy")
    tell(Console(), f"written to {folder}")


def check_env(
    env: tyro.conf.Positional[str],
    env_kwargs: dict[str, bool | int | float | str] | None = None,
    steps: int = 300,
) -> None:
    """What the trainer sees of an environment: `fp3o check-env ENV`, a name or `module:factory`.

    Exit status 1, and a sentence that says why, if it cannot be trained on.

    Args:
        env: as in `fp3o train --env`
        env_kwargs: as in `fp3o train --env-kwargs`
        steps: random steps that are played
    """
    from fp3o_jax import envs

    if steps < 1:
        raise ConfigError(f"steps={steps} must be at least 1")
    try:
        report = envs.check_env(env, env_kwargs, steps)
    except ConfigError as error:
        raise RunError(str(error)) from error
    Console().print(str(report), highlight=False, markup=False, soft_wrap=True)


def list_names() -> None:
    """Name the presets and the environments."""
    from fp3o_jax.envs import available

    console = Console()
    table = Table(title="presets: fp3o train PRESET")
    table.add_column("preset")
    table.add_column("what it is")
    for name, preset in PRESETS.items():
        table.add_row(name, preset.summary)
    console.print(table)
    console.print("environments: fp3o train --env ENV")
    for name in available():
        tell(console, f"  {name}")


if __name__ == "__main__":
    sys.exit(main())
