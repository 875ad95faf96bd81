"""Heads that belong to their loss: the unit is a label, and the model stops at the last layer."""

from __future__ import annotations

from typing import Literal, overload

from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Num, Shaped

from jaxloss.core import inputs
from jaxloss.core.reductions import R, Reduction, adds_up
from jaxloss.fused import heads, rows, schedules
from jaxloss.fused.schedules import Name, Plan


def linear_softmax_cross_entropy(
    hidden: Float[ArrayLike, "*units features"],
    head: Float[ArrayLike, "features classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
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
    """Cross entropy of the softmax of a linear layer against class indices.

        logits = hidden·head + bias
        x = logit_softcap·tanh(logits / logit_softcap) / temperature
        q = (1 - label_smoothing)·[class = labels] + label_smoothing / classes
        ℓ = -Σ class_weights·q·log softmax(x) + class_weights[labels]·z_loss·(log Σ exp x)²

    It is `softmax_cross_entropy_with_integer_labels` of the logits. Operands of one dtype, such
    as bfloat16, are multiplied as they are and summed in float32; float32 is multiplied as
    `jax.default_matmul_precision` says. A class with a bias of -inf is absent. Large inputs are
    computed in blocks, and the full logits are never in memory. For forward mode and second
    derivatives take `schedule="plain"`, or `softmax_cross_entropy_with_integer_labels`.

    Args:
        hidden: `[*units, features]`, floating.
        head: `[features, classes]`, which all units share.
        labels: `[*units]`, integers in [0, classes). Out of range is NaN, in value and gradient.
        bias: `[classes]`; may be traced.
        label_smoothing: The share of a label that is spread evenly over the classes; in [0, 1],
            may be traced.
        z_loss: The weight of a penalty that keeps the normaliser near 1; 0 or more, may be
            traced.
        logit_softcap: The bound that logits approach smoothly; positive, may be traced.
        class_weights: `[classes]`, 0 or more, how often a label of each class counts. May be
            traced.
        temperature: Divides the logits; positive, may be traced.
        schedule: How the scores are gone through: "plain" builds them all, "tokens" and "classes"
            take some of them at a time, "tiles" some of both; a `jaxloss.fused.Plan` says how
            many. None leaves it to `jaxloss.fused.plan`.
        memory_budget: How many bytes it may take besides its arguments and their gradients.
        implementation: What computes a block of classes: "xla", which None is too, or a kernel,
            "pallas_tpu" or "mosaic_gpu" (Hopper), which no hardware has timed: see
            `jaxloss.fused.plan`.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes do not fit, or an option is outside its range.
        TypeError: Hidden is not floating, or the labels are not integers.

    Also known as:
        Fused linear cross entropy, cut cross entropy, language-model head loss.
        `torch.nn.functional.linear_cross_entropy(h, w.T, y, linear_bias=b)`:
            `linear_softmax_cross_entropy(h, w, y, bias=b)`
        `tokamax.linear_softmax_cross_entropy_loss(h, y, w, reduction="mean")`:
            `linear_softmax_cross_entropy(h, w, y)`, its own default is "sum"

    Example:
        >>> hidden, head = jnp.array([[1.0, 2.0]]), jnp.array([[2.0, 0.0], [0.0, 0.0]])
        >>> print(f"{jaxloss.linear_softmax_cross_entropy(hidden, head, jnp.array([0])):.3f}")
        0.127

    Reference:
        Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2024,
        arXiv:2411.09009.
    """
    h, w, labels = heads.headed(where, hidden, head, labels)
    options = heads.options(
        w,
        bias=bias,
        logit_softcap=logit_softcap,
        temperature=temperature,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
    )
    labels = heads.with_present_labels(labels, options, where)
    how = schedules.plan(
        h,
        w,
        schedule=schedule,
        memory_budget=memory_budget,
        implementation=implementation,
        per_token=not adds_up(reduction),
    )
    return heads.cross_entropy(how, h, w, labels, options, where, weights, reduction)


@overload
def linear_token_log_probs(
    hidden: Float[ArrayLike, "*units features"],
    head: Float[ArrayLike, "features classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    bias: Float[ArrayLike, "..."] | None = None,
    logit_softcap: Float[ArrayLike, ""] | int | None = None,
    temperature: Float[ArrayLike, ""] | int = 1.0,
    entropy: Literal[False] = False,
    schedule: Name | Plan | None = None,
    memory_budget: int | None = None,
    implementation: str | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
) -> Array: ...


@overload
def linear_token_log_probs(
    hidden: Float[ArrayLike, "*units features"],
    head: Float[ArrayLike, "features classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    bias: Float[ArrayLike, "..."] | None = None,
    logit_softcap: Float[ArrayLike, ""] | int | None = None,
    temperature: Float[ArrayLike, ""] | int = 1.0,
    entropy: Literal[True],
    schedule: Name | Plan | None = None,
    memory_budget: int | None = None,
    implementation: str | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
) -> tuple[Array, Array]: ...


def linear_token_log_probs(
    hidden: Float[ArrayLike, "*units features"],
    head: Float[ArrayLike, "features classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    bias: Float[ArrayLike, "..."] | None = None,
    logit_softcap: Float[ArrayLike, ""] | int | None = None,
    temperature: Float[ArrayLike, ""] | int = 1.0,
    entropy: bool = False,
    schedule: Name | Plan | None = None,
    memory_budget: int | None = None,
    implementation: str | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
) -> Array | tuple[Array, Array]:
    """Log-probability of given tokens under the softmax of a linear layer.

        x = logit_softcap·tanh((hidden·head + bias) / logit_softcap) / temperature
        log p = log softmax(x)[labels]        entropy = -Σ softmax(x)·log softmax(x)

    What policy gradients, preference losses and distillation need of a language model; it is 0
    for a token that `where` deletes. Both keep their digits where the model is confident.

    Args:
        hidden, head, labels, bias, logit_softcap, temperature: As those of
            `linear_softmax_cross_entropy`.
        entropy: Whether the entropy of each distribution is returned too.
        schedule, memory_budget, implementation: As there.
        where: Which tokens there are.

    Returns:
        One log-probability per token; with `entropy`, a pair of that and one entropy per token.

    Raises:
        ValueError: The shapes do not fit, or an option is outside its range.
        TypeError: Hidden is not floating, or the labels are not integers.

    Also known as:
        Selective log softmax, sequence log-probabilities, per-token log-probabilities.

    Example:
        >>> hidden, head = jnp.array([[1.0, 2.0]]), jnp.array([[2.0, 0.0], [0.0, 0.0]])
        >>> print(f"{jaxloss.linear_token_log_probs(hidden, head, jnp.array([0]))[0]:.3f}")
        -0.127

    Reference:
        Rafailov et al., "Direct Preference Optimization", 2023, arXiv:2305.18290.
    """
    h, w, labels = heads.headed(where, hidden, head, labels)
    given = {"bias": bias, "logit_softcap": logit_softcap, "temperature": temperature}
    options = heads.options(w, **given)
    labels = heads.with_present_labels(labels, options, where)
    how = schedules.plan(
        h,
        w,
        schedule=schedule,
        memory_budget=memory_budget,
        implementation=implementation,
        per_token=True,
    )
    log_probs, entropies = heads.log_probs(how, h, w, labels, options, entropy)
    log_probs = inputs.blank(log_probs, where)
    return log_probs if entropies is None else (log_probs, inputs.blank(entropies, where))


def linear_kl_divergence(
    student_hidden: Float[ArrayLike, "*units features"],
    student_head: Float[ArrayLike, "features classes"],
    teacher_hidden: Float[ArrayLike, "*units others"],
    teacher_head: Float[ArrayLike, "others classes"],
    *,
    student_bias: Float[ArrayLike, "..."] | None = None,
    teacher_bias: Float[ArrayLike, "..."] | None = None,
    temperature: Float[ArrayLike, ""] | int = 1.0,
    schedule: Name | Plan | None = None,
    memory_budget: int | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Kullback-Leibler divergence KL(teacher ‖ student) of the softmax of two linear layers.

        p = softmax((student_hidden·student_head + student_bias) / temperature)
        q = softmax((teacher_hidden·teacher_head + teacher_bias) / temperature)
        ℓ = Σ q·log(q / p)

    Distillation of a language model, without the scores of either. `distillation_loss` is
    temperature² times as much. The gradient reaches the teacher too: `jax.lax.stop_gradient`
    keeps it as it is, and then costs nothing.

    Args:
        student_hidden: `[*units, features]`, floating.
        student_head: `[features, classes]`, which all units share.
        teacher_hidden: `[*units, others]`.
        teacher_head: `[others, classes]`.
        student_bias, teacher_bias: `[classes]`; -inf is an absent class.
        temperature: Divides the logits of both; positive, may be traced.
        schedule: "plain" or "tokens", or a `jaxloss.fused.Plan` of either.
        memory_budget: How many bytes it may take besides its arguments and their gradients.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per unit.

    Raises:
        ValueError: The shapes do not fit, or an option is outside its range.
        TypeError: The student's hidden states are not floating.

    Also known as:
        Fused linear KL divergence, forward KL, logit distillation.

    Example:
        >>> hidden, head = jnp.array([[1.0]]), jnp.array([[2.0, 0.0]])
        >>> print(f"{jaxloss.linear_kl_divergence(0 * hidden, head, hidden, head):.3f}")
        0.328

    Reference:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015,
        arXiv:1503.02531.
    """
    pairs = rows.two(where, student_hidden, student_head, teacher_hidden, teacher_head)
    options = heads.options(pairs[0][1], temperature=temperature)
    options |= rows.options_of_two(pairs, student_bias, teacher_bias)
    how = rows.plan_of_rows(pairs, schedule, memory_budget)
    return rows.of_rows(how, rows.divergence, pairs, options, where, weights, reduction)


def linear_js_divergence(
    student_hidden: Float[ArrayLike, "*units features"],
    student_head: Float[ArrayLike, "features classes"],
    teacher_hidden: Float[ArrayLike, "*units others"],
    teacher_head: Float[ArrayLike, "others classes"],
    *,
    student_bias: Float[ArrayLike, "..."] | None = None,
    teacher_bias: Float[ArrayLike, "..."] | None = None,
    temperature: Float[ArrayLike, ""] | int = 1.0,
    beta: Float[ArrayLike, ""] = 0.5,
    schedule: Name | Plan | None = None,
    memory_budget: int | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Jensen-Shannon divergence of a student's linear layer and a teacher's.

        p = softmax((student_hidden·student_head + student_bias) / temperature)
        q = softmax((teacher_hidden·teacher_head + teacher_bias) / temperature)
        m = beta·q + (1 - beta)·p
        ℓ = Σ beta·q·log(q / m) + (1 - beta)·p·log(p / m)

    It is `js_divergence` of the two, bounded and finite where either is 0, without the scores of
    either.

    Args:
        student_hidden: `[*units, features]`, floating.
        student_head: `[features, classes]`, which all units share.
        teacher_hidden: `[*units, others]`.
        teacher_head: `[others, classes]`.
        student_bias, teacher_bias: `[classes]`; -inf is an absent class.
        temperature: Divides the logits of both; positive, may be traced.
        beta: The share of the teacher in the mixture, in (0, 1); may be traced.
        schedule: "plain" or "tokens", or a `jaxloss.fused.Plan` of either.
        memory_budget: How many bytes it may take besides its arguments and their gradients.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per unit.

    Raises:
        ValueError: The shapes do not fit, or an option is outside its range.
        TypeError: The student's hidden states are not floating.

    Also known as:
        Fused linear JSD, generalized Jensen-Shannon distillation, GKD loss.

    Example:
        >>> hidden, head = jnp.array([[1.0]]), jnp.array([[90.0, -90.0]])
        >>> print(f"{jaxloss.linear_js_divergence(hidden, head, hidden, -head):.3f}")
        0.693

    Reference:
        Agarwal et al., "On-Policy Distillation of Language Models", 2023, arXiv:2306.13649.
    """
    pairs = rows.two(where, student_hidden, student_head, teacher_hidden, teacher_head)
    options = heads.options(pairs[0][1], temperature=temperature, beta=beta)
    options |= rows.options_of_two(pairs, student_bias, teacher_bias)
    how = rows.plan_of_rows(pairs, schedule, memory_budget)
    return rows.of_rows(how, rows.js_divergence, pairs, options, where, weights, reduction)


def linear_binary_cross_entropy(
    hidden: Float[ArrayLike, "*examples features"],
    head: Float[ArrayLike, "features classes"],
    labels: Shaped[ArrayLike, "*examples classes"],
    *,
    bias: Float[ArrayLike, "..."] | None = None,
    schedule: Name | Plan | None = None,
    memory_budget: int | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Cross entropy of independent yes-or-no labels, of which a linear layer gives the logits.

        logits = hidden·head + bias
        ℓ = -labels·log σ(logits) - (1 - labels)·log σ(-logits)

    It is `sigmoid_binary_cross_entropy` of the logits, for examples with very many labels. Keep
    them as booleans: with `reduction=None` or a function, every logit is there at once.

    Args:
        hidden: `[*examples, features]`, floating.
        head: `[features, classes]`, which all examples share.
        labels: `[*examples, classes]`, 0 and 1, or probabilities of yes.
        bias: `[classes]`; may be traced.
        schedule: "plain" or "tokens", or a `jaxloss.fused.Plan` of either.
        memory_budget: How many bytes it may take besides its arguments and their gradients.
        where, weights: `[*examples, classes]` or of its leading axes.
        reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes do not fit, or an option is outside its range.
        TypeError: Hidden is not floating.

    Also known as:
        Multi-label head loss, extreme multi-label classification.

    Example:
        >>> hidden, head = jnp.array([[1.0]]), jnp.array([[0.0, 40.0]])
        >>> print(f"{jaxloss.linear_binary_cross_entropy(hidden, head, jnp.array([[1, 1]])):.4f}")
        0.3466

    Reference:
        Cox, "The Regression Analysis of Binary Sequences", 1958.
    """
    h, w, y = rows.multi_labelled(where, hidden, head, labels)
    options = heads.options(w, bias=bias)
    how = rows.plan_of_rows(((h, w),), schedule, memory_budget)
    return rows.binary(how, h, w, y, options, where, weights, reduction)
