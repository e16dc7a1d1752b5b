"""Gradient steps on the parameters of a team, whatever the loss: actors and critics take theirs alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fp3o_jax.config import Hyperparams
from fp3o_jax.kernels.blocks import grad_in_blocks, make_blocks
from fp3o_jax.kernels.shards import total
from fp3o_jax.method.batch import Batch
from fp3o_jax.method.metrics import Metrics
from fp3o_jax.method.subteams import in_subteams
from fp3o_jax.team import optimizer
from fp3o_jax.team.actor_critic import ActorCritic
from fp3o_jax.team.groups import active_groups, loss_scale
from fp3o_jax.team.sharing import Sharing

#: (networks, params, rows, hyperparams) -> what is minimised, and what is reported, per sample: [P, L, N], or
#: [1, L, N] where one network answers for all rows.
Loss = Callable[[ActorCritic, Any, Batch, Hyperparams], tuple[Array, Metrics]]


@dataclasses.dataclass(frozen=True, eq=False)
class Descent:
    """All gradient steps of a stage, as a function.

    Attributes:
        loss: per sample.
        networks: what it is a loss of.
        sharing: of the parameters.
        lr: the learning rate's name among the hyperparameters.
        epochs: passes over the samples; gradient steps, where there is a single minibatch.
        head_lr_scale: factor on the heads' learning rate; None for what the sharing asks for.
        tx: makes a direction of the clipped gradient.
        block_size: samples, of all rows, that a gradient takes at a time; None for all at once.
        one_for_all: the loss has a single row, which answers for all.
        rows_together: the loss needs all rows at once.
    """

    loss: Loss
    networks: ActorCritic
    sharing: Sharing
    _: dataclasses.KW_ONLY
    lr: str
    epochs: int
    head_lr_scale: float | None
    tx: optax.GradientTransformation
    block_size: int | None
    one_for_all: bool = False
    rows_together: bool = False

    def __call__(
        self, params: Any, opt_state: Any, rows: Batch, learning: Array, *settings: Any
    ) -> tuple[Any, Any, Metrics]:
        """Takes all gradient steps; arguments and results are those of :meth:`steps`."""
        apart = self.sharing.independent or len(learning) == 1
        descend = self.steps
        if apart and not self.rows_together:
            descend = in_subteams(lambda agents: self.of_subteam(agents).steps, self.sharing, self.block_size)
        return descend(params, opt_state, rows, learning, *settings)

    def of_subteam(self, agents: Array) -> Descent:
        """The descent of ``agents`` [P] alone, of which no two use the same parameters."""
        # It shares nothing: what holds of its actors holds of its critics.
        team = self.networks.subteam(agents)
        return dataclasses.replace(self, networks=team, sharing=team.sharing, one_for_all=False)

    def steps(
        self,
        params: Any,
        opt_state: Any,
        rows: Batch,
        learning: Array,
        minibatches: Array | None,
        hp: Hyperparams,
        lr_fraction: Array | float,
    ) -> tuple[Any, Any, Metrics]:
        """All gradient steps, of all rows side by side.

        Args:
            params: ``{"trunk", "head"}``.
            opt_state: likewise.
            rows: [P, L, N, ...] the samples of P agents.
            learning: [P] 1 for the rows that learn, else 0.
            minibatches: see :func:`fp3o_jax.method.batch.minibatches`.
            hp: the continuous settings.
            lr_fraction: of the learning rate.

        Returns:
            New parameters and optimiser states; and for each gradient step sums over samples, how many
            ``samples`` they were, the sum of the components' gradient norms, and the number of ``components``
            that took it.
        """
        agents = rows.row_agents

        def gradient_step(carry: tuple[Any, Any], minibatch: Array | None):
            params, opt_state = carry
            alive = rows.alive if minibatch is None else jnp.take(rows.alive, minibatch, axis=2)
            living = total(alive.sum((1, 2)))
            scale = loss_scale(living, learning, self.sharing, agents)
            grads, sums = total(self.gradient(params, rows, scale, learning, minibatch, hp))
            stepping = learning * (living > 0)
            head_scale = self.head_lr_scale
            params, opt_state, norm = optimizer.step(
                grads,
                opt_state,
                params,
                sharing=self.sharing,
                learning_rate=getattr(hp, self.lr) * lr_fraction,
                head_scale=self.sharing.head_lr_scale(len(learning)) if head_scale is None else head_scale,
                max_grad_norm=hp.max_grad_norm,
                active={
                    part: active_groups(getattr(self.sharing, part), stepping, agents)
                    for part in optimizer.PARTS
                },
                tx=self.tx,
            )
            components = active_groups(self.sharing.component, stepping, agents).sum()
            counts = {"samples": living @ learning, "grad_norm": norm, "components": components}
            return (params, opt_state), sums | counts

        steps = self.epochs if minibatches is None else None
        carry, metrics = jax.lax.scan(gradient_step, (params, opt_state), minibatches, length=steps)
        return *carry, metrics

    def gradient(
        self,
        params: Any,
        rows: Batch,
        scale: Array,
        learning: Array,
        minibatch: Array | None,
        hp: Hyperparams,
    ) -> tuple[Any, Metrics]:
        """Gradient of a minibatch's losses, each row's times its ``scale`` [P], and the sums to report."""
        num_rows, length, sequences = rows.alive.shape
        shape = (
            1 if self.one_for_all else num_rows,
            length,
            sequences if minibatch is None else len(minibatch),
        )
        blocks = make_blocks(shape, self.block_size, self.rows_together)

        def loss(params: Any, samples: tuple[Batch, Array, Array]) -> tuple[Array, Metrics]:
            part, scale, learning = samples
            losses, reported = self.loss(self.networks, params, part, hp)
            counted, factor = part.alive * learning, part.alive * scale
            if self.one_for_all:
                counted, factor = (x.sum(0, keepdims=True) for x in (counted, factor))
            return (losses * factor).sum(), {name: (x * counted).sum() for name, x in reported.items()}

        factors = (x[:, None, None] for x in (scale, learning))
        return grad_in_blocks(loss, params, (rows.named(blocks), *factors), blocks, minibatch)
