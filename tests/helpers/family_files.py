"""Reading the recorded updates of HAPPO, A2PO and CoPPO: FP3O's reader, and what differs."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np

from fp3o_jax.method.schedules import CONDITIONS, Algorithm, Schedule, make_algorithm
from fp3o_jax.method.update import PipelineUpdate
from fp3o_jax.team.sharing import Sharing, make_sharing
from golden_files import FOLDER, Golden

FILES = sorted((FOLDER / "family").glob("*.npz"))


class FamilyRecord(Golden):
    """One recorded update of a member of the family, and the settings that its authors made it with."""

    @property
    def name(self) -> str:
        return self.meta["algorithm"]

    @property
    def one_critic(self) -> bool:
        return self.name == "happo"

    @property
    def sharing(self) -> Sharing:
        return make_sharing(self.kind, None, self.n, critic_sharing="full" if self.one_critic else "actors")

    @property
    def normalization(self) -> str:
        return self.algorithm.normalization

    @property
    def algorithm(self) -> Algorithm:
        """With its own defaults, but for A2PO's trace, HARL's ratios, and the order that was drawn."""
        ours = make_algorithm(
            self.name,
            trace="speedup" if self.meta.get("speedup") else "gae_trace",
            ratios="stage" if self.name == "happo" else "behaviour",
        )
        if self.name == "coppo":
            return ours
        recorded = partial(ours.schedule, order=lambda key, n, scores: jnp.asarray(self.data["order"]))
        return ours._replace(schedule=recorded)

    @property
    def schedule(self) -> Schedule:
        return self.algorithm.schedule(None, self.n)

    @property
    def masks_values(self) -> bool:
        return self.meta.get("value_masks", False)

    def update(self):
        steps = self.data["critic/info/value_loss" if self.one_critic else "stage0/info/value_loss"]
        return PipelineUpdate(
            self.networks,
            self.algorithm,
            epochs=self.meta["epochs"],
            critic_epochs=len(steps) // self.meta["minibatches"],
            num_minibatches=self.meta["minibatches"],
            condition=CONDITIONS["off"],
            dead_ratios=True,
        )

    def stages(self, name: str, double: bool) -> list[np.ndarray]:
        """What was recorded for each agent in turn."""
        prefix = "float64/" if double else ""
        return [self.data[f"{prefix}stage{k}/{name}"] for k in range(self.n)]
