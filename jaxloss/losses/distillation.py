"""Distillation: the unit is what a student and a teacher give a distribution for."""

from __future__ import annotations

from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Num, Shaped

from jaxloss.core import class_options, divergences, inputs, numerics, over_classes
from jaxloss.core.reductions import R, Reduction, reduce


def distillation_loss(
    student_logits: Float[ArrayLike, "*units classes"],
    teacher_logits: Shaped[ArrayLike, "*units classes"],
    *,
    labels: Integer[ArrayLike, "*units"] | None = None,
    temperature: Float[ArrayLike, ""] | int = 1.0,
    alpha: Float[ArrayLike, ""] | int = 0.5,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Knowledge distillation: a student learns from a teacher's distribution, and from labels.

        q = softmax(teacher_logits / temperature)
        p = softmax(student_logits / temperature)
        ℓ = alpha·temperature²·Σ q·log(q / p) - (1 - alpha)·log softmax(student_logits)[labels]

    Without labels it is the teacher's term alone, temperature²·Σ q·log(q / p), whatever `alpha`
    is. The square of the temperature keeps the size of the gradient as the temperature changes. A
    logit of -inf is an absent class. The gradient reaches the teacher too:
    `jax.lax.stop_gradient` keeps it as it is.

    Args:
        student_logits: `[*units, classes]`, floating.
        teacher_logits: `[*units, classes]`.
        labels: `[*units]`, integers in [0, classes). Out of range is NaN, in value and gradient.
        temperature: Divides the logits of both; positive, may be traced.
        alpha: The share of the teacher's term; in [0, 1], may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per distribution.

    Raises:
        ValueError: The shapes do not fit, or an option is outside its range.
        TypeError: The student's logits are not floating, or the labels are not integers.

    Also known as:
        Knowledge distillation, soft-target loss.
        `liger_kernel.transformers.LigerFusedLinearJSD`: without the temperature's square
        `trl.GKDTrainer.generalized_jsd_loss`: without the temperature's square

    Example:
        >>> student, teacher = jnp.array([[0.0, 0.0]]), jnp.array([[2.0, 0.0]])
        >>> print(f"{jaxloss.distillation_loss(student, teacher, temperature=2.0):.3f}")
        0.444

    Reference:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015,
        arXiv:1503.02531.
    """
    student, teacher = inputs.paired(
        where, features=1, student_logits=student_logits, teacher_logits=teacher_logits
    )
    student, teacher = inputs.with_a_class(student), inputs.with_a_class(teacher)
    temperature = inputs.option("temperature", temperature, student, must_be="positive")
    alpha = inputs.option("alpha", alpha, student, must_be="in [0, 1]")
    x, y = (class_options.tempered(logits, temperature) for logits in (student, teacher))
    values = temperature**2 * divergences.kullback_leibler(x, y)
    if labels is not None:
        student, labels, loud = inputs.labelled_apart(
            where, logits=student, labels=labels, name="student_logits"
        )
        hard = loud * over_classes.cross_entropy_at(student, labels)
        values = numerics.blend(alpha, hard, values)
    return reduce(values, where=where, weights=weights, reduction=reduction)
