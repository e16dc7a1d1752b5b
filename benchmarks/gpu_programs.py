"""From a program of the table to what is traced, compiled and run."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax.stages import Compiled, Lowered

import random_team
from against_jaxmarl import CASES, AgainstJaxMARL, our_config, told
from fp3o_jax import Config, make_train, xla
from fp3o_jax.runs.devices import over_seeds
from gpu_cells import AS_WRITTEN, PHASES, Program
from harness import Repeated
from limits import random_actions
from training import Compiler, environment

#: More than any measurement takes: no rate falls to 0.
ENDLESS = 10**9


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """Functions that take what others give.

    Attributes:
        name: tells apart what shares the text of a program.
        functions: part -> function.
        takes: part -> names of its arguments.
        gives: name of a value -> the part that makes it.
        known: values that are there from the beginning.
        env_steps: of one call of the part that is timed; 0 where there are none.
        updates: that such a call makes.
        traced: part -> (jitted, lowered, seconds), filled as parts are first needed.
    """

    name: tuple[str, ...]
    functions: Mapping[str, Callable[..., Any]]
    takes: Mapping[str, tuple[str, ...]]
    gives: Mapping[str, str]
    known: Mapping[str, Any]
    env_steps: int = 0
    updates: int = 1
    traced: dict[str, tuple[Any, Lowered, float]] = dataclasses.field(default_factory=dict)

    def inputs(
        self, part: str, run: Callable[..., Any], values: dict[str, Any] | None = None
    ) -> tuple[Any, ...]:
        """The arguments of a part, made by ``run(part, *arguments)`` of those that it rests on."""
        values = dict(self.known) if values is None else values
        for name in self.takes[part]:
            if name not in values:
                source = self.gives[name]
                values[name] = run(source, *self.inputs(source, run, values))
        return tuple(values[name] for name in self.takes[part])

    def trace(self, part: str, *inputs: Any) -> Any:
        """Shapes of what a part gives; it is traced once, whoever needs it."""
        if part not in self.traced:
            start = time.monotonic()
            jitted = jax.jit(self.functions[part], donate_argnums=0 if part in LOOPS else ())
            self.traced[part] = (jitted, jitted.lower(*inputs), time.monotonic() - start)
        return self.traced[part][0].eval_shape(*inputs)


#: Parts that are called over and over, each time with the state that the last call gave.
LOOPS = ("update", "step")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A program of the table whose parts are being compiled.

    Attributes:
        program: which.
        chain: where it comes from.
        timed: the part that is timed.
        parts: in the future ((compiled, whether it was found in the cache), seconds).
        trace_s: seconds that tracing the timed part took.
    """

    program: Program
    chain: Chain
    timed: str
    parts: Mapping[str, Future]
    trace_s: float

    @property
    def compiled(self) -> Compiled:
        return self.parts[self.timed].result()[0][0]

    def inputs(self) -> tuple[Any, ...]:
        """Fresh arguments of the timed part."""
        return self.chain.inputs(self.timed, lambda part, *inputs: self.parts[part].result()[0][0](*inputs))

    def start(self) -> Callable[[], Any]:
        """The timed part with its arguments; each call of one of ``LOOPS`` goes on from the last."""

        first, *others = self.inputs()
        if self.timed in LOOPS:
            return Repeated(lambda state: self.compiled(state, *others), first)
        return lambda: self.compiled(first, *others)


def prepare(program: Program, compile_: Compiler) -> Prepared:
    """Traces a program here, and has it compiled elsewhere.

    Raises:
        Exception: settings that do not fit, or an environment or script that is not there.
    """
    kind = "phases" if program.kind in PHASES else program.kind
    chain = KINDS[kind](json.dumps(dict(program.settings), sort_keys=True), program.seeds)
    timed = program.kind if kind == "phases" else TIMED[kind]
    needed = []

    def trace(part: str, *inputs: Any) -> Any:
        needed.append(part)
        return chain.trace(part, *inputs)

    trace(timed, *chain.inputs(timed, trace))
    # The longest compilation first.
    parts = {
        part: compile_(
            chain.name,
            chain.traced[part][1],
            functools.partial(compile_once, xla.compile_for_one_run if part == "init" else Lowered.compile),
        )
        for part in reversed(needed)
    }
    return Prepared(program, chain, timed, parts, chain.traced[timed][2])


_hits: set[int] = set()


def watch_the_cache() -> None:
    """From now on :func:`compile_once` knows what was found in JAX's cache of compiled programs."""

    def heard(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            _hits.add(threading.get_ident())

    jax.monitoring.register_event_listener(heard)


def compile_once(compile_: Callable[[Lowered], Compiled], lowered: Lowered) -> tuple[Compiled, bool]:
    """The compiled program, and whether it was found in the cache: its seconds then tell nothing."""
    _hits.discard(threading.get_ident())
    return compile_(lowered), threading.get_ident() in _hits


@functools.cache
def of_training(settings: str, seeds: int) -> Chain:
    """The phases of an iteration, for some seeds; ``settings`` are those of :class:`Config`, as JSON."""
    config = Config(**{"total_env_steps": ENDLESS, **json.loads(settings)})
    return of_config(config, seeds)


def of_config(config: Config, seeds: int = 1) -> Chain:
    """The phases of an iteration of a config, each from the state in which a run begins."""
    env = environment(config.env, tuple(sorted(config.env_kwargs.items())))
    trainer = make_train(config.replace(env_kwargs={}), env)
    play = random_actions(env, config.num_envs, config.rollout_length)

    def learn(state: Any, targets: Any) -> Any:
        batch, (key, key_schedule) = targets.batch, jax.random.split(state.key)
        schedule = trainer.algorithm.draw(key_schedule, batch.advantage, batch.value, batch.alive)
        return trainer.learn(state, targets, schedule, key)

    def as_written(state: Any) -> Any:
        with mock.patch.object(xla, "steps_wait", lambda: False):
            return trainer.collect(state, state.key)

    functions = {
        "init": trainer.init,
        "update": trainer.update,
        "collect": lambda state: trainer.collect(state, state.key),
        AS_WRITTEN: as_written,
        "targets": lambda state, collected: trainer.targets(state, collected[1]),
        "learn": learn,
        "environment": lambda state: play(state.rollout.env_state, state.key),
    }
    return Chain(
        (config.env, config.sharing),
        {name: over_seeds(function, seeds) for name, function in functions.items()},
        {
            "init": ("keys",),
            "targets": ("state", "collected"),
            "learn": ("state", "targets"),
            **dict.fromkeys(("update", "collect", AS_WRITTEN, "environment"), ("state",)),
        },
        {"state": "init", "collected": "collect", "targets": "targets"},
        {"keys": jnp.stack([jax.random.key(i) for i in range(seeds)])},
        seeds * config.steps_per_update,
    )


@functools.cache
def of_team(settings: str, seeds: int) -> Chain:
    """An update of a team on random data."""
    del seeds
    given = json.loads(settings)
    algorithm, sharing = given.pop("algorithm"), given.pop("sharing")
    sizes = random_team.Sizes(**given)
    team = random_team.random_team(sharing, sizes, True)
    return Chain(
        ("team", sharing),
        {
            "begin": team.begin,
            "draw": team.draw,
            "step": random_team.update_of(team.networks, algorithm, sizes),
        },
        {"begin": ("key",), "draw": ("key",), "step": ("state", "batch", "rates")},
        {"state": "begin", "batch": "draw"},
        {"key": jax.random.key(0), "rates": random_team.rates()},
    )


#: Set by ``gpu.py``: the checkout of JaxMARL.
checkout: list[Path] = []


def _case(settings: str) -> tuple[Any, AgainstJaxMARL]:
    given = json.loads(settings)
    return CASES[given.pop("case")], AgainstJaxMARL(**given)


@functools.cache
def ours(settings: str, seeds: int) -> Chain:
    """Our side of a case of ``against_jaxmarl.py``."""
    case, options = _case(settings)
    return of_config(our_config(case, case.algorithm, options), seeds)


@functools.cache
def theirs(settings: str, seeds: int) -> Chain:
    """JaxMARL's: networks, environments and some updates in one program."""
    del seeds
    sys.path.append(str(Path(__file__).parent / "peers"))
    from jaxmarl_baseline import their_train

    case, options = _case(settings)
    key = jax.random.PRNGKey(0)
    train = their_train(checkout[0] / "baselines" / case.script, told(case, options), key)
    steps = options.num_envs * options.rollout_length * options.updates
    return Chain(
        (case.script,), {"train": train}, {"train": ("key",)}, {}, {"key": key}, steps, options.updates
    )


KINDS = {"phases": of_training, "team": of_team, "ours": ours, "theirs": theirs}
TIMED = {"team": "step", "ours": "update", "theirs": "train"}
