"""What networks make of what they are shown, before the first layer: ``Config.normalize_obs``.

- ``layer``: a LayerNorm without weights over each sample's own features (:func:`standardize`).
- ``running``: mean and variance of each feature over all that was seen in training, kept for each group of
  agents that share a trunk. They are merged batch by batch (Chan, Golub & LeVeque, 1979), never as moments
  about zero, which would cancel in float32.
- ``none``: nothing.

Statistics are dictionaries of arrays ``[G, F]``, a row for each group: ``count`` of samples, ``mean`` and
``variance``. They stand among the parameters, as ``params["actor"]["normalizer"]`` and
``params["critic"]["normalizer"]``, and so are saved, exported and evaluated with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fp3o_jax.kernels import shards

EPSILON = 1e-5  # of the LayerNorm
CLIP = 10.0  # of inputs that running statistics have normalised
#: Deviations below these, absolute and relative to the mean, are float32's rounding and not magnified.
SMALLEST, RESOLUTION = 1e-4, 1e-6

Statistics = dict[str, Array]


def prefix_masks(sizes: tuple[int, ...]) -> np.ndarray:
    """[n, max size] float, 1 for the leading features that exist; a single row where all have as many."""
    rows = sizes[:1] if len(set(sizes)) == 1 else sizes
    return (np.arange(max(sizes)) < np.array(rows)[:, None]).astype(np.float32)


def standardize(x: Array, mask: np.ndarray) -> Array:
    """LayerNorm without weights over the features that exist: padded ones neither count nor come through.

    A row with a single feature comes through as it is: it would be its own mean, and always 0.

    Args:
        x: [..., F].
        mask: 1 where the feature exists, of a shape that broadcasts; known before anything is compiled.
    """
    mask = np.asarray(mask)
    x = x if mask.all() else jnp.where(mask > 0, x, 0.0)
    features = mask.sum(-1, keepdims=True)
    count = np.maximum(features, 1.0)
    mean = (x * mask).sum(-1, keepdims=True) / count
    variance = ((x - mean) ** 2 * mask).sum(-1, keepdims=True) / count
    normed = (x - mean) * jax.lax.rsqrt(variance + EPSILON) * mask
    return normed if (features > 1).all() else jnp.where(features > 1, normed, x * mask)


def normalize(x: Array, statistics: Statistics, mask: np.ndarray) -> Array:
    """``(x - mean) / std``, clipped to ±10; where nothing has been seen yet, ``x``, clipped.

    Args:
        x: [..., F].
        statistics: arrays of a shape that broadcasts.
        mask: 1 where the feature exists; padded ones come out as 0.
    """
    mean = statistics["mean"]
    std = jnp.maximum(jnp.sqrt(statistics["variance"]), jnp.maximum(SMALLEST, RESOLUTION * jnp.abs(mean)))
    z = (x - mean) / jnp.where(statistics["count"] > 0, std, 1.0)
    return jnp.where(mask > 0, jnp.clip(z, -CLIP, CLIP), 0.0)


def nothing_seen(num_groups: int, size: int) -> Statistics:
    """Statistics [G, F] of no sample."""
    return {name: jnp.zeros((num_groups, size)) for name in ("count", "mean", "variance")}


def measure(x: Array, counted: Array, groups: Sequence[int]) -> Statistics:
    """Statistics of one batch, for each group; what does not count may be anything, NaN included.

    Args:
        x: [R, B, F].
        counted: [R, B, F] bool, what counts.
        groups: [R] the group of each row.
    """
    rows = np.array(groups)

    def total(values: Array) -> Array:
        return jnp.zeros((rows.max() + 1, x.shape[-1]), values.dtype).at[rows].add(values.sum(1))

    count = total(counted.astype(x.dtype))
    share = 1.0 / jnp.maximum(count, 1.0)
    # The sum of many large numbers is rough: what it leaves is measured again, about it.
    rough = total(jnp.where(counted, x, 0.0)) * share
    off = jnp.where(counted, x - rough[rows][:, None], 0.0)
    rest = total(off) * share
    variance = jnp.maximum(total(off**2) * share - rest**2, 0.0)
    return {"count": count, "mean": rough + rest, "variance": variance}


def of_all_shards(statistics: Statistics) -> Statistics:
    """Those of the samples of all shards together."""
    count = shards.total(statistics["count"])
    share = statistics["count"] / jnp.maximum(count, 1.0)
    mean = shards.total(share * statistics["mean"])
    variance = shards.total(share * (statistics["variance"] + (statistics["mean"] - mean) ** 2))
    return {"count": count, "mean": mean, "variance": variance}


def merge(old: Statistics, new: Statistics) -> Statistics:
    """Statistics of the samples of both; a row [1, F] in ``new`` is all groups'."""
    count = old["count"] + new["count"]
    share = new["count"] / jnp.maximum(count, 1.0)
    shift = new["mean"] - old["mean"]
    variance = old["variance"] + share * (new["variance"] - old["variance"])
    return {
        "count": count,
        "mean": old["mean"] + share * shift,
        "variance": variance + share * (1.0 - share) * shift**2,
    }
