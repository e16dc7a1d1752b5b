"""Env steps per second against JaxMARL's own baselines, for the same work.

    git clone https://github.com/FLAIROx/JaxMARL jaxmarl
    python3.12 -m venv peer && peer/bin/pip install -r requirements.lock six hydra-core omegaconf
    peer/bin/pip install --no-deps distrax && peer/bin/pip install --pre tfp-nightly
    python benchmarks/against_jaxmarl.py --jaxmarl jaxmarl --peer-python peer/bin/python

Their training scripts are not in JaxMARL's wheel, and need packages that ours does not: they come from a
checkout and run, unchanged, in a process of their own, under the same JAX. Both sides have the same
environment, number of environments, steps, width of layers, epochs and minibatches; recurrent networks are
trained through whole rollouts on both. Theirs is one program of some updates, compiled before it is timed;
ours is called update by update, as `fp3o train` does it. The two take turns; the other waits.
Their timed program also makes the networks and resets the environments, once for all its updates, and calls
their metrics callback after each: both count against them, the more the fewer `--updates` there are.

What differs: our networks have a LayerNorm at the input and after every layer, and our recurrent ones one
more layer before the GRU (theirs has it after it); their feed-forward ones have actor and critic layers of 64
with tanh. Theirs computes an agent id into the observations, ours adds it to the first layer.
Their IPPO has one trunk for actor and critic where it is recurrent, ours two. The critic of their MAPPO sees
the global state and an agent's id, and is computed for each agent; ours sees the state, once for all agents.
What that is worth shows the row `mappo, a value for each agent` of the full mode; it is told the id as well.
The row `their networks` of the full mode compares programs and not networks: no LayerNorm, their layers, and
a critic for each agent that is told its id. Two differences remain: the one trunk of their recurrent IPPO,
and that our GRU has biases of its own for inputs and for states.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax.linen import initializers
from jax import Array

from fp3o_jax import Config, make_train
from fp3o_jax.kernels.dense import Plain
from fp3o_jax.team.modules import GRU
from fp3o_jax.train import Trainer
from harness import CONSOLE, Options, Peer, Report, Timing, compiled, timed

SCRIPT = Path(__file__).parent / "peers" / "jaxmarl_baseline.py"
# By kind of device.
GOALS = {"cpu": 2.0, "gpu": 1.5}
EACH = {"mappo": ("mappo, a value for each agent", {"critic_agent_id": True})}


class Case(NamedTuple):
    """A script of theirs, what it is told, and our setting for the same work."""

    script: str
    env: str
    algorithm: str
    recurrent: bool
    told: dict[str, Any]


CASES = {
    "MAPPO-RNN 3m": Case("MAPPO/mappo_rnn_smax.py", "smax/3m", "mappo", True, {"MAP_NAME": "3m"}),
    "MAPPO-RNN 3s5z": Case("MAPPO/mappo_rnn_smax.py", "smax/3s5z", "mappo", True, {"MAP_NAME": "3s5z"}),
    "IPPO-RNN 3m": Case("IPPO/ippo_rnn_smax.py", "smax/3m", "ippo", True, {"MAP_NAME": "3m"}),
    "IPPO-RNN 3s5z": Case("IPPO/ippo_rnn_smax.py", "smax/3s5z", "ippo", True, {"MAP_NAME": "3s5z"}),
    "IPPO-FF halfcheetah": Case(
        "IPPO/ippo_ff_mabrax.py", "mabrax/halfcheetah_6x1", "ippo", False, {"ENV_NAME": "halfcheetah_6x1"}
    ),
    "IPPO-FF spread": Case("IPPO/ippo_ff_mpe.py", "mpe/simple_spread", "ippo", False, {}),
}

QUICK = ("MAPPO-RNN 3m",)


class TheirTrunk(nn.Module):
    """The recurrent network of JaxMARL's baselines: a layer, a GRU, and a layer, none with a LayerNorm."""

    state_size: int = 128

    @nn.compact
    def __call__(
        self, x: Array, mask: Array, agent_id: Array | None, hidden: Array, starts: Array
    ) -> tuple[Array, Array]:
        if agent_id is not None:
            ids = jnp.broadcast_to(agent_id, (*x.shape[:-1], agent_id.shape[-1]))
            x = jnp.concatenate([x, ids], -1)
        x = nn.relu(nn.Dense(self.state_size, kernel_init=initializers.orthogonal(2.0**0.5))(x))
        states = GRU()(Plain(x), hidden, starts)
        return nn.relu(nn.Dense(self.state_size, kernel_init=initializers.orthogonal(2.0))(states)), states


def with_their_networks(case: Case) -> dict[str, Any]:
    """What :func:`our_trainer` is told so that it trains the networks of theirs."""
    settings = {"normalize_obs": "none", "critic_agent_id": True}
    if case.recurrent:
        return settings | {"trunk": TheirTrunk()}
    return settings | {"activation": "tanh", "layer_norm": False}


@dataclasses.dataclass(frozen=True)
class AgainstJaxMARL(Options):
    """What to measure."""

    jaxmarl: Path | None = None
    """checkout of github.com/FLAIROx/JaxMARL"""
    peer_python: Path = Path(sys.executable)
    """interpreter that their scripts run in"""
    cases: tuple[str, ...] = ()
    """some of the cases; by default MAPPO-RNN 3m, in full mode all"""
    num_envs: int = 64
    """environments stepped in parallel"""
    rollout_length: int = 128
    """steps per environment and update"""
    updates: int = 3
    """updates per timed round"""
    rounds: int = 3
    """rounds"""


def our_config(case: Case, algorithm: str, options: AgainstJaxMARL, **settings: Any) -> Config:
    """Ours for the same work."""
    return Config(
        env=case.env,
        algorithm=algorithm,
        recurrent=case.recurrent,
        hidden_size=128 if case.recurrent else 64,
        chunk_length=options.rollout_length,
        num_envs=options.num_envs,
        rollout_length=options.rollout_length,
        epochs=4,
        num_minibatches=4,
        total_env_steps=options.num_envs * options.rollout_length * 1000,
        **settings,
    )


def our_trainer(
    case: Case, algorithm: str, options: AgainstJaxMARL, trunk: nn.Module | None = None, **settings: Any
) -> Trainer:
    """Ours for the same work, with networks of one's own."""
    return make_train(our_config(case, algorithm, options, **settings), trunk=trunk)


def our_program(trainer: Trainer, options: AgainstJaxMARL) -> tuple[Callable[[], Any], float]:
    """``options.updates`` updates of ours, and the seconds it took to compile one."""
    state = jax.jit(trainer.init)(jax.random.key(0))
    update, compile_seconds = compiled(trainer.update, state, donate_argnums=0)

    def run() -> Any:
        nonlocal state
        for _ in range(options.updates):
            state, metrics = update(state)
        return state, metrics

    return run, compile_seconds


def told(case: Case, options: AgainstJaxMARL) -> dict[str, Any]:
    """What their script is told, in place of its own defaults."""
    return {
        "NUM_ENVS": options.num_envs,
        "NUM_STEPS": options.rollout_length,
        "TOTAL_TIMESTEPS": options.num_envs * options.rollout_length * options.updates,
        "UPDATE_EPOCHS": 4,
        "NUM_MINIBATCHES": 4,
        **case.told,
    }


def measure(name: str, case: Case, options: AgainstJaxMARL, report: Report) -> None:
    """Adds the rows of one case: theirs against the same algorithm of ours, in full mode FP3O as well."""
    steps = options.num_envs * options.rollout_length * options.updates
    script = options.jaxmarl.resolve() / "baselines" / case.script
    rows: dict[str, tuple[str, dict[str, Any]]] = {case.algorithm: (case.algorithm, {})}
    if options.mode == "full":
        rows["fp3o"] = ("fp3o", {})
        if case.algorithm in EACH:
            label, settings = EACH[case.algorithm]
            rows[label] = (case.algorithm, settings)
        rows[f"{case.algorithm}, their networks"] = (case.algorithm, with_their_networks(case))
    ours = {
        label: our_program(our_trainer(case, algorithm, options, **settings), options)
        for label, (algorithm, settings) in rows.items()
    }
    with Peer(options.peer_python, SCRIPT, {"script": str(script), "config": told(case, options)}) as peer:
        for run in (peer.run, *(lambda run=run: timed(run) for run, _ in ours.values())):
            run()
        rounds = [(peer.run(), *(timed(run) for run, _ in ours.values())) for _ in range(options.rounds)]
        about = peer.about
    theirs, *own = (Timing(np.array(column)) for column in zip(*rounds, strict=True))
    for (algorithm, (_, compile_seconds)), time_of_ours in zip(ours.items(), own, strict=True):
        ratio = theirs.over(time_of_ours)
        report.add(
            case=name,
            ours=algorithm,
            ours_steps_per_s=steps / time_of_ours.median,
            theirs_steps_per_s=steps / theirs.median,
            speed_up=ratio,
            our_compile_s=compile_seconds,
            their_compile_s=about["compile_seconds"],
        )
        if algorithm == case.algorithm:
            goal = GOALS.get(jax.default_backend(), GOALS["gpu"])
            met = "met" if ratio.median >= goal else "missed"
            report.note(f"{name}: {ratio.median:.2f} times as fast; goal of {goal:g}: {met}")


def main(options: AgainstJaxMARL) -> int:
    if options.jaxmarl is None or not (options.jaxmarl / "baselines").is_dir():
        CONSOLE.print(
            f"--jaxmarl {options.jaxmarl} is not a checkout of JaxMARL: git clone "
            "https://github.com/FLAIROx/JaxMARL and pass its path",
            style="bold red",
            soft_wrap=True,
        )
        return 2
    report = Report("against_jaxmarl", "Env steps per second against JaxMARL's baselines", options)
    chosen = options.cases or (QUICK if options.mode == "quick" else tuple(CASES))
    for name in chosen:
        measure(name, CASES[name], options, report)
    report.show()
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(AgainstJaxMARL, description=__doc__)))
