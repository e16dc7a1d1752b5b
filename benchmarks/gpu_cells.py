"""What ``gpu.py`` measures: a table of cells, the most important first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

#: Full and small sizes: what every iteration has where its cell says nothing else.
COMMON = {
    False: {"env": "smax/3m", "num_envs": 1024, "epochs": 3, "num_minibatches": 2, "chunk_length": 16},
    True: {"env": "matrix/climbing", "num_envs": 4, "rollout_length": 8, "hidden_size": 8, "epochs": 1}
    | {"chunk_length": 4},
}
ITERATION = ("update", "collect", "targets", "learn", "environment")
#: Collecting with its loop as it is written, in place of one whose steps start fewer kernels.
AS_WRITTEN = "collect as written"
PHASES = (*ITERATION, AS_WRITTEN)
ALGORITHMS = ("mappo", "fp3o", "happo", "ippo", "a2po", "coppo")
RECURRENT = {"recurrent": True}
#: One of each family and more of SMAX, with what differs.
FAMILIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("smax/6h_vs_8z", {}),
    ("mpe/simple_spread", {}),
    ("mabrax/halfcheetah_6x1", {"rollout_length": 64}),
    ("mamujoco/halfcheetah_6x1", {"rollout_length": 64, "env_kwargs": {"physics": "mjx"}}),
    ("matrix/climbing", {}),
    ("smax/27m_vs_30m", {"num_envs": 256}),
)
SEEDS = {False: (1, 8, 64, 512), True: (1, 2)}
ENVS = {False: (64, 256, 1024, 4096, 16384), True: (2, 4)}
AGENTS = {False: (2, 8, 32, 128), True: (2, 3)}
CHUNKS = {False: (8, 16, 32, 64, 128), True: (4, 8)}
#: JaxMARL's script (a case of ``against_jaxmarl.py``), and numbers of environments.
THEIRS = {"MAPPO-RNN 3m": (128, 1024), "IPPO-RNN 3m": (128,)}


class Program(NamedTuple):
    """One program that is timed.

    Attributes:
        label: in its cell.
        kind: a function of ``gpu_programs.KINDS``, or a phase of an iteration (``PHASES``).
        settings: what the kind takes.
        seeds: trained side by side in it.
    """

    label: str
    kind: str
    settings: Mapping[str, Any]
    seeds: int = 1


class Cell(NamedTuple):
    """Programs that take turns, so that ratios of any two of them are of one run.

    Attributes:
        name: of the cell, the same for every device.
        programs: what is compared.
        base: label of the program that others are a multiple of.
        how: a function of ``gpu_measures.MEASURES``.
        needs_theirs: a checkout of JaxMARL.
    """

    name: str
    programs: tuple[Program, ...]
    base: str
    how: str = "times"
    needs_theirs: bool = False


def cells(small: bool) -> list[Cell]:
    """The table.

    Args:
        small: the smallest sizes of everything, for a CPU.
    """
    common = COMMON[small]
    few = common | {"num_envs": ENVS[small][0]}
    gru = common | RECURRENT
    long = gru | {"rollout_length": 8 if small else 128}
    precisions = {"matmul_precision": ("default", "highest")}
    return [
        *theirs(small),
        phases("phases", common, AS_WRITTEN),
        Cell("seeds", tuple(Program(f"{s} seeds", "update", few, s) for s in SEEDS[small]), "1 seeds"),
        versus("environments", common, {"num_envs": ENVS[small]}),
        phases("phases, GRU", gru, AS_WRITTEN),
        single("profile", "profile", common),
        versus("algorithms, full", common | {"sharing": "full"}, {"algorithm": ALGORITHMS}),
        *(phases(name, common | settings) for name, settings in families(small)),
        versus("precision", common, precisions),
        versus("precision, GRU", gru, precisions),
        single("resume", "resume", few),
        single("profile, GRU", "profile", gru),
        *teams(small),
        *(
            versus(f"algorithms, {sharing}", common | {"sharing": sharing}, {"algorithm": ALGORITHMS})
            for sharing in ("none", "partial")
        ),
        versus("chunks of a GRU", long, {"chunk_length": CHUNKS[small]}),
        single("resume, GRU", "resume", few | RECURRENT),
    ]


def versus(name: str, common: Mapping[str, Any], axis: Mapping[str, tuple[Any, ...]]) -> Cell:
    """Whole iterations that differ in one setting; ratios are over the first."""
    ((setting, values),) = axis.items()
    labels = [value if isinstance(value, str) else f"{value} {setting}" for value in values]
    made = (Program(label, "update", {**common, setting: v}) for label, v in zip(labels, values, strict=True))
    return Cell(name, tuple(made), labels[0])


def phases(name: str, settings: Mapping[str, Any], *more: str) -> Cell:
    """An iteration, its phases by themselves, and the bare environment under random actions."""
    return Cell(name, tuple(Program(phase, phase, settings) for phase in (*ITERATION, *more)), "update")


def single(name: str, how: str, settings: Mapping[str, Any]) -> Cell:
    """One iteration that is looked at closely."""
    return Cell(name, (Program("update", "update", settings),), "update", how)


def families(small: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of cells, and what differs from the common settings."""
    for env, settings in FAMILIES:
        kept = {name: value for name, value in settings.items() if not small or name == "env_kwargs"}
        yield env, {"env": env, **kept}


def teams(small: bool) -> Iterator[Cell]:
    """Updates on random data as teams grow: FP3O and HAPPO over MAPPO."""
    for sharing, n in itertools.product(("full", "none"), AGENTS[small]):
        sizes = {"num_agents": n} | ({"rollout_length": 8, "num_envs": 2, "hidden_size": 8} if small else {})
        made = (
            Program(name, "team", {"algorithm": name, "sharing": sharing, **sizes})
            for name in ("mappo", "fp3o", "happo")
        )
        yield Cell(f"team of {n}, {sharing}", tuple(made), "mappo")


def theirs(small: bool) -> Iterator[Cell]:
    """JaxMARL's training scripts beside the same work of ours; ratios are over ours."""
    for case, counts in THEIRS.items():
        for count in (4,) if small else counts:
            sizes = {"case": case, "num_envs": count, "rollout_length": 8 if small else 128}
            ours = Program("ours", "ours", sizes)
            yield Cell(
                f"{case}, {count} environments",
                (ours, Program("JaxMARL", "theirs", sizes | {"updates": 2 if small else 8})),
                "ours",
                needs_theirs=True,
            )
