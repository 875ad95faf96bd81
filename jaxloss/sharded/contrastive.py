"""Contrastive losses across devices: the unit is an anchor, and anchors on all devices meet."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, cast

import jax
from jax import Array
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Num, Shaped

from jaxloss.core import inputs
from jaxloss.core.reductions import R, Reduction
from jaxloss.fused import contrastive as fused
from jaxloss.fused.pairs import Ways
from jaxloss.fused.row_blocks import Pairs, half, varying
from jaxloss.sharded.meshes import Axes, Place
from jaxloss.sharded.rings import How, log_sums_of_others, sums_of_softplus

Columns: TypeAlias = Literal["ring", "gathered"]


def sharded_clip_loss(
    image_embeddings: Float[ArrayLike, "units features"],
    text_embeddings: Shaped[ArrayLike, "units features"],
    *,
    logit_scale: Float[ArrayLike, ""] | int,
    mesh: Mesh | None = None,
    data_axis: str | Sequence[str] | None = None,
    columns: Columns = "ring",
    memory_budget: int | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """`clip_loss` of a batch that is spread over devices, each of which keeps its own rows.

        s  = logit_scale·image_embeddings · text_embeddingsᵀ
        ℓᵢ = (log Σⱼ exp(sᵢⱼ) + log Σⱼ exp(sⱼᵢ)) / 2 - sᵢᵢ      over the j of all devices

    Value and gradient are those of one device that has everything.

    Args:
        image_embeddings: `[units, features]`, floating.
        text_embeddings: `[units, features]`, the match of each image.
        logit_scale: Multiplies the similarities; positive, may be traced.
        mesh: The devices. None: those of `jax.set_mesh`, or of the types of the embeddings.
        data_axis: The axes of the mesh over which the rows are spread. None: as the types of the
            images say, on a mesh with explicit axes. Inside of a `jax.shard_map` over them the
            embeddings are the rows of this device; "mean" and "sum" are of all devices there, and
            every other reduction is of its own rows.
        columns: "ring": the texts go round, and no device holds more than two shares of them.
            "gathered": every device holds all of them, and waits for the others only twice.
        memory_budget: How many bytes a block of pairs may take on a device; as in `clip_loss`.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per pair of an image and its text.

    Raises:
        ValueError: The shapes differ, the devices do not divide the units, an option is outside
            its range, or there is no axis to spread over.
        TypeError: The image embeddings are not floating.

    Also known as:
        `open_clip.ClipLoss(local_loss=True, gather_with_grad=True)`: with `columns="gathered"`

    Example:
        >>> mesh = jax.make_mesh((2,), ("data",))
        >>> with jax.set_mesh(mesh):
        ...     loss = jaxloss.sharded_clip_loss(
        ...         jnp.eye(2), jnp.eye(2), logit_scale=1.0, data_axis="data"
        ...     )
        >>> print(f"{loss:.4f}")
        0.3133

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
        2021, arXiv:2103.00020.
    """
    sides = {"image_embeddings": image_embeddings, "text_embeddings": text_embeddings}
    rows = inputs.rows(where, **sides)
    scale = inputs.option("logit_scale", logit_scale, rows[0], must_be="positive")
    pairs = Pairs("blocks", memory_budget, half(*sides.values()))
    place = Place.of_rows(image_embeddings, mesh, data_axis)
    kernel = functools.partial(_clip, place.classes, _is_ring(columns), pairs)
    return _reduced(kernel, place, rows, (scale,), where, weights, reduction)


def sharded_siglip_loss(
    image_embeddings: Float[ArrayLike, "units features"],
    text_embeddings: Shaped[ArrayLike, "units features"],
    *,
    logit_scale: Float[ArrayLike, ""] | int,
    logit_bias: Float[ArrayLike, ""] | int,
    mesh: Mesh | None = None,
    data_axis: str | Sequence[str] | None = None,
    columns: Columns = "ring",
    memory_budget: int | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """`siglip_loss` of a batch that is spread over devices, each of which keeps its own rows.

        s  = logit_scale·image_embeddings · text_embeddingsᵀ + logit_bias
        ℓᵢ = Σⱼ log(1 + exp(-zᵢⱼ·sᵢⱼ))      over the j of all devices

    Value and gradient are those of one device that has everything.

    Args:
        image_embeddings: `[units, features]`, floating.
        text_embeddings: `[units, features]`, the match of each image.
        logit_scale: Multiplies the similarities; positive, may be traced.
        logit_bias: Added to them; may be traced.
        mesh, data_axis, columns: As in `sharded_clip_loss`.
        memory_budget: How many bytes a block of pairs may take on a device; as in `clip_loss`.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per image, the sum over the texts.

    Raises:
        ValueError: The shapes differ, the devices do not divide the units, an option is outside
            its range, or there is no axis to spread over.
        TypeError: The image embeddings are not floating.

    Also known as:
        `open_clip.SigLipLoss(dist_impl="shift")`: with `columns="ring"`
        `open_clip.SigLipLoss(dist_impl="gather")`: with `columns="gathered"`

    Example:
        >>> eye, mesh = jnp.eye(2), jax.make_mesh((2,), ("data",))
        >>> with jax.set_mesh(mesh):
        ...     loss = jaxloss.sharded_siglip_loss(
        ...         eye, eye, logit_scale=10.0, logit_bias=-10.0, data_axis="data"
        ...     )
        >>> print(f"{loss:.4f}")
        0.6932

    Reference:
        Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023, arXiv:2303.15343.
    """
    sides = {"image_embeddings": image_embeddings, "text_embeddings": text_embeddings}
    rows = inputs.rows(where, **sides)
    scale = inputs.option("logit_scale", logit_scale, rows[0], must_be="positive")
    bias = inputs.option("logit_bias", logit_bias, rows[0], must_be="a number")
    pairs = Pairs("blocks", memory_budget, half(*sides.values()))
    place = Place.of_rows(image_embeddings, mesh, data_axis)
    kernel = functools.partial(_siglip, place.classes, _is_ring(columns), pairs)
    return _reduced(kernel, place, rows, (scale, bias), where, weights, reduction)


def _is_ring(columns: Columns) -> bool:
    if columns not in ("ring", "gathered"):
        raise ValueError(f"columns must be 'ring' or 'gathered', got {columns!r}.")
    return columns == "ring"


def _how(axes: Axes, ring: bool, pairs: Pairs, rows: Array) -> How:
    count = 1 if ring else jax.lax.axis_size(axes)
    meets = jax.ShapeDtypeStruct((count * rows.shape[0], *rows.shape[1:]), rows.dtype)
    return axes, ring, pairs.block(rows, meets) or 1, pairs.half


def _clip(
    axes: Axes, ring: bool, pairs: Pairs, images: Array, texts: Array, scale: Array, where: Array
) -> Array:
    own, texts, lift = fused.clip_sides(pairs.half, images, texts, scale, where, axes)
    how = _how(axes, ring, pairs, images)
    logs = log_sums_of_others(how, images, texts, scale, lift, where)
    return fused.clip_values(own, lift, cast(Ways, logs))


def _siglip(axes: Axes, ring: bool, pairs: Pairs, images: Array, *arguments: Array) -> Array:
    return cast(Array, sums_of_softplus(_how(axes, ring, pairs, images), images, *arguments))


def _reduced(
    kernel: Callable[..., Array],
    place: Place,
    rows: list[Array],
    options: tuple[Array, ...],
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction[R],
) -> R:
    kept = inputs.spread("where", True if where is None else where, rows[0].shape[:1])

    def body(*arrays: Array) -> Array:
        return kernel(*varying(arrays, *arrays[: len(rows)]))

    specs = *[place.units] * len(rows), *[PartitionSpec()] * len(options), place.units
    values = place.run(body, (*rows, *options, kept), specs)
    return place.reduce(values, where=where, weights=weights, reduction=reduction)
