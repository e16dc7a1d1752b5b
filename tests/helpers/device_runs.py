"""Runs on 1, 2 and all devices of this process, and one that changes: `device_runs.py SETTINGS FOLDER`.

Three seeds, each on one device; and one seed, whose environments are in four shards.
"""

import io
import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from fp3o_jax import Config, ConfigError, xla
from fp3o_jax.evaluation import make_evaluate
from fp3o_jax.runs import Interrupted, RunOptions, evaluate_run, load_run, run_training
from fp3o_jax.runs.devices import RUN, SHARD
from fp3o_jax.runs.journal import Journals
from fp3o_jax.runs.programs import LAYOUT, Programs
from fp3o_jax.seeds import seed_keys
from fp3o_jax.train import make_train
from remembered import remember_programs

remember_programs()
folder, config = Path(sys.argv[2]), Config(**json.loads(sys.argv[1]), num_seeds=3)
quiet = Console(file=io.StringIO())


ALONE = config.replace(num_seeds=1, env_shards=4)


def run(name, devices, config=config):
    options = RunOptions(folder / name, eval_episodes=4, eval_every=2, devices=devices)
    run_training(config, options, console=quiet)


for devices in (1, 2, "all"):
    run(f"seeds/{devices}", devices)
for devices in (1, "all"):
    run(f"shards/{devices}", devices, ALONE)

# Stopped on two devices, gone on with on four.
write = Journals.write


def stopping(self, update, *args):
    write(self, update, *args)
    if update == 2:
        os.kill(os.getpid(), signal.SIGTERM)


Journals.write = stopping
for name, settings in (("seeds/resumed", config), ("shards/resumed", ALONE)):
    try:
        run(name, 2, settings)
    except Interrupted:
        print(json.dumps({"stopped": load_run(folder / name)[1].num_updates.tolist()}))
Journals.write = write
run("seeds/resumed", 4)
run("shards/resumed", 4, ALONE)

for path in sorted(folder.glob("*/*")):
    rows = [json.loads(line) for line in (path / "metrics.jsonl").open()]
    final = json.loads((path / "summary.json").read_text())["seeds"]
    played = [row["episode_return"] for row in evaluate_run(path, episodes=4, console=quiet)]
    leaves = [np.asarray(x, float).sum().item() for x in jax.tree.leaves(load_run(path)[1].params)]
    name = str(path.relative_to(folder))
    print(json.dumps({"run": name, "rows": rows, "final": final, "played": played, "leaves": leaves}))

kinds = ["all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter"]
for seeds, settings in ((6, config), (1, ALONE)):
    trainer = make_train(settings)
    programs = Programs(trainer, seed_keys(range(seeds)), RunOptions(eval_episodes=4))
    programs.compile()
    play = programs.axis.jit(make_evaluate(trainer, 4), outputs=SHARD)
    play = play.lower(programs.init().params, programs._start[0]).compile()
    texts = play.as_text() + "".join(c.result().as_text() for c in programs._compiled.values())
    said = {"devices": len(programs.axis.devices), "collectives": [k for k in kinds if k in texts]}
    print(json.dumps(said))
try:
    run("too many", 8)
except ConfigError as error:
    print(json.dumps({"error": str(error)}))

# As accelerators learn with a GRU, over all devices: traced alone.
xla.steps_wait = lambda: True
trainer = make_train(ALONE.replace(recurrent=True, chunk_length=4))
programs = Programs(trainer, seed_keys(range(1)), RunOptions())
step = programs.axis.jit(trainer.update, (LAYOUT,), (LAYOUT, RUN))
before, after = programs._state, jax.eval_shape(step, programs._state)[0]
same = jax.tree.map(lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype), before, after)
print(json.dumps({"in one loop": len(programs.axis.devices), "same": all(jax.tree.leaves(same))}))
