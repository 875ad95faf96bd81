"""Cross entropy of classes that are spread over devices: the unit is a label."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Num

from jaxloss.core import inputs, numerics
from jaxloss.core.reductions import R, Reduction
from jaxloss.fused import blocks, heads
from jaxloss.fused.blocks import Options, Statistics
from jaxloss.fused.schedules import Name, Plan, plan
from jaxloss.sharded import vocabulary
from jaxloss.sharded.meshes import Axes, Place


def sharded_softmax_cross_entropy(
    logits: Float[ArrayLike, "*units classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    mesh: Mesh | None = None,
    data_axis: str | Sequence[str] | None = None,
    class_axis: str | Sequence[str] | None = None,
    label_smoothing: Float[ArrayLike, ""] | int = 0.0,
    class_weights: Num[ArrayLike, "..."] | None = None,
    z_loss: Float[ArrayLike, ""] | int = 0.0,
    logit_softcap: Float[ArrayLike, ""] | int | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """`softmax_cross_entropy_with_integer_labels` of logits whose classes are spread over devices.

        x = logit_softcap·tanh(logits / logit_softcap)
        q = (1 - label_smoothing)·[class = labels] + label_smoothing / classes
        ℓ = -Σ class_weights·q·log softmax(x) + class_weights[labels]·z_loss·(log Σ exp x)²

    Value and gradient are those of one device that has everything. Each device reads its own
    classes, and only vectors with one number per label go between them.

    Args:
        logits: `[*units, classes]`, floating.
        labels: `[*units]`, integers in [0, classes). Out of range is NaN, in value and gradient.
        mesh: The devices. None: those of `jax.set_mesh`, or of the types of the logits.
        data_axis: The axes of the mesh over which the first axis of the units is spread. None: as
            the types of the logits say, and without such types over none.
        class_axis: The axes of the mesh over which the classes are spread. None: as the types of
            the logits say. Inside of a `jax.shard_map` over them the arguments are the parts of
            this device; "mean" and "sum" are of all of `data_axis` there, and every other
            reduction is of its own labels. With `check_vma=False` take the gradient inside of it.
        label_smoothing: The share of a label that is spread evenly over the classes; in [0, 1],
            may be traced.
        class_weights: `[classes]`, spread like the logits; 0 or more, how often a label of each
            class counts. May be traced.
        z_loss: The weight of a penalty that keeps the normaliser near 1; 0 or more, may be
            traced.
        logit_softcap: The bound that logits approach smoothly; positive, may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes do not fit, the devices do not divide the classes or the units, an
            option is outside its range, or there is no axis for the classes.
        TypeError: The logits are not floating, or the labels are not integers.

    Also known as:
        Vocabulary-parallel cross entropy, tensor-parallel cross entropy, parallel loss.

    Example:
        >>> mesh, logits = jax.make_mesh((2,), ("model",)), jnp.array([[2.0, 0.0], [0.0, 0.0]])
        >>> with jax.set_mesh(mesh):
        ...     loss = jaxloss.sharded_softmax_cross_entropy(
        ...         logits, jnp.array([0, 1]), class_axis="model"
        ...     )
        >>> print(f"{loss:.4f}")
        0.4100

    Reference:
        Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model
        Parallelism", 2019, arXiv:1909.08053.
    """
    place = Place.of(logits, logits, mesh, data_axis, class_axis)
    x, labels = inputs.labelled(where, logits=logits, labels=labels, parts=place.parts)
    inputs.warn_of_probabilities(x, where)
    options = heads.options(
        x,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        z_loss=z_loss,
        logit_softcap=logit_softcap,
    )

    body = functools.partial(_of_logits, place.classes)
    specs = PartitionSpec(*place.units, place.classes), place.units
    return _reduced(body, place, (x, labels, options), specs, where, weights, reduction)


def sharded_linear_softmax_cross_entropy(
    hidden: Float[ArrayLike, "*units features"],
    head: Float[ArrayLike, "features classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    mesh: Mesh | None = None,
    data_axis: str | Sequence[str] | None = None,
    class_axis: str | Sequence[str] | None = None,
    bias: Float[ArrayLike, "..."] | None = None,
    label_smoothing: Float[ArrayLike, ""] | int = 0.0,
    z_loss: Float[ArrayLike, ""] | int = 0.0,
    logit_softcap: Float[ArrayLike, ""] | int | None = None,
    class_weights: Num[ArrayLike, "..."] | None = None,
    temperature: Float[ArrayLike, ""] | int = 1.0,
    schedule: Name | Plan | None = None,
    memory_budget: int | None = None,
    implementation: str | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """`linear_softmax_cross_entropy` of a head whose classes are spread over devices.

        logits = hidden·head + bias
        x = logit_softcap·tanh(logits / logit_softcap) / temperature
        q = (1 - label_smoothing)·[class = labels] + label_smoothing / classes
        ℓ = -Σ class_weights·q·log softmax(x) + class_weights[labels]·z_loss·(log Σ exp x)²

    Value and gradient are those of one device that has everything. No device has more of the head
    than its part, nor all scores of that; what goes between them is vectors with one number per
    label, and the sums of the gradients. Where the devices do not divide the classes, pad the
    head: a class with a bias of -inf is absent.

    Args:
        hidden: `[*units, features]`, floating.
        head: `[features, classes]`, floating.
        labels: `[*units]`, integers in [0, classes). Out of range is NaN, in value and gradient.
        mesh: The devices. None: those of `jax.set_mesh`, or of the types of the arrays.
        data_axis: The axes of the mesh over which the first axis of the units is spread. None: as
            the types of `hidden` say, and without such types over none.
        class_axis: The axes of the mesh over which the classes are spread. None: as the types of
            the head say. Inside of a `jax.shard_map` over them the arguments are the parts of
            this device; "mean" and "sum" are of all of `data_axis` there, and every other
            reduction is of its own labels. With `check_vma=False` take the gradient inside of it.
        bias: `[classes]`, spread like the head; may be traced.
        label_smoothing: The share of a label that is spread evenly over the classes; in [0, 1],
            may be traced.
        z_loss: The weight of a penalty that keeps the normaliser near 1; 0 or more, may be
            traced.
        logit_softcap: The bound that logits approach smoothly; positive, may be traced.
        class_weights: `[classes]`, spread like the head; 0 or more, how often a label of each
            class counts. May be traced.
        temperature: Divides the logits; positive, may be traced.
        schedule, memory_budget, implementation: As in `linear_softmax_cross_entropy`, of a device;
            the schedule is "plain", "classes" or "tiles", or None.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes do not fit, the devices do not divide the classes or the units, an
            option is outside its range, or there is no axis for the classes.
        TypeError: Hidden is not floating, or the labels are not integers.

    Also known as:
        Vocabulary-parallel fused linear cross entropy.

    Example:
        >>> mesh, head = jax.make_mesh((2,), ("model",)), jnp.array([[2.0, 0.0], [0.0, 0.0]])
        >>> with jax.set_mesh(mesh):
        ...     loss = jaxloss.sharded_linear_softmax_cross_entropy(
        ...         jnp.array([[1.0, 2.0]]), head, jnp.array([0]), class_axis="model"
        ...     )
        >>> print(f"{loss:.3f}")
        0.127

    Reference:
        Shoeybi et al., "Megatron-LM", 2019, arXiv:1909.08053; Wijmans et al., "Cut Your Losses in
        Large-Vocabulary Language Models", 2024, arXiv:2411.09009.
    """
    place = Place.of(hidden, head, mesh, data_axis, class_axis)
    h, w, labels = heads.headed(where, hidden, head, labels, place.parts)
    if where is not None:  # no label costs ∞, as that of an absent class would
        labels = jnp.where(inputs.spread("where", where, labels.shape), labels, -1)
    options = heads.options(
        w,
        bias=bias,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        logit_softcap=logit_softcap,
        class_weights=class_weights,
        temperature=temperature,
    )

    chosen = functools.partial(
        plan,
        schedule=schedule,
        memory_budget=memory_budget,
        implementation=implementation,
        per_token=True,
    )
    body = functools.partial(_of_head, place.classes, chosen)
    specs = PartitionSpec(*place.units, None), PartitionSpec(None, place.classes), place.units
    return _reduced(body, place, (h, w, labels, options), specs, where, weights, reduction)


def _of_logits(
    axes: Axes, logits: Array, labels: Array, options: Options
) -> tuple[Array, Array | None]:
    local, own = _local(options, axes), vocabulary.own_labels(labels, logits.shape[-1], axes)
    x = blocks.scores(logits, local)
    found = vocabulary.of_logits(x, own, local, "label_smoothing" in options)
    return _cost(axes, found, own, x, options)


def _of_head(
    axes: Axes,
    chosen: Callable[..., Plan],
    hidden: Array,
    head: Array,
    labels: Array,
    options: Options,
) -> tuple[Array, Array | None]:
    how = chosen(hidden, head)
    hidden = vocabulary.shared(numerics.wide(hidden), axes)  # what devices find is rounded once
    if how.schedule == "plain":
        return _of_logits(axes, vocabulary.logits_of(hidden, head), labels, options)
    if how.schedule == "tokens":
        raise ValueError(
            "schedule must be None, 'plain', 'classes' or 'tiles', got 'tokens': no device has all "
            "classes of a token."
        )
    local, own = _local(options, axes), vocabulary.own_labels(labels, head.shape[1], axes)
    rows = hidden.reshape(-1, hidden.shape[-1]), head, own.reshape(-1)
    found = heads.statistics(how, *rows, local, spread="label_smoothing" in options)
    found = jax.tree.map(lambda a: a.reshape(own.shape), found)
    like = jnp.zeros((1,) * own.ndim + head.shape[1:], found.own.dtype)
    bias = {name: value for name, value in local.items() if name == "bias"}
    return _cost(axes, found, own, blocks.scores(like, bias), options)


def _local(options: Options, axes: Axes) -> Options:
    """Options as a device's part of the classes sees them: one number is for all devices."""
    return {k: v if v.ndim else vocabulary.shared(v, axes) for k, v in options.items()}


def _cost(
    axes: Axes, found: Statistics, own: Array, x: Array, options: Options
) -> tuple[Array, Array | None]:
    """What each label costs and counts; `x` tells which classes are present."""
    counts = vocabulary.weights_of(own, options, axes)
    present = vocabulary.present(x, _local(options, axes), axes)
    return heads.cost_of(vocabulary.merged(found, own, axes), options, counts, *present), counts


def _reduced(
    body: Callable[..., tuple[Array, Array | None]],
    place: Place,
    arrays: tuple[Any, ...],
    specs: tuple[Any, ...],
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction[R],
) -> R:
    of_options = {
        k: PartitionSpec(place.classes) if v.ndim else PartitionSpec()
        for k, v in arrays[-1].items()
    }
    values, counts = place.run(body, arrays, (*specs, of_options))
    return place.reduce(values, counts=counts, where=where, weights=weights, reduction=reduction)
