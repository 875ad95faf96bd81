"""What is particular to the losses over classes: class weights, smoothing, confident rows."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss.core import kernels

C = jnp.array([1.0, 0.5, 0.0, 2.0, 1.5])
REDUCTIONS = ["mean", "sum", None, jaxloss.stats, jaxloss.unit_mean, jaxloss.unit_stats]


def one_hot(loss):
    return lambda logits, labels, **keywords: loss(logits, jax.nn.one_hot(labels, 5), **keywords)


WEIGHTED = {
    "indices": jaxloss.softmax_cross_entropy_with_integer_labels,
    "rows": one_hot(jaxloss.softmax_cross_entropy),
    "nll": lambda x, labels, **keywords: jaxloss.nll_loss(
        jax.nn.log_softmax(x), labels, **keywords
    ),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", WEIGHTED)
def test_class_weights_are_weights(name, reduction, rng):
    """For hard labels, in value and in the gradients of logits and weights, masked or not."""
    logits = jnp.asarray(rng.normal(size=(12, 5)) * 4, jnp.float32)
    labels, where = rng.integers(5, size=12), rng.random(12) < 0.7
    weights = jnp.asarray(rng.exponential(size=12), jnp.float32)
    options = {} if name == "nll" else {"z_loss": 0.1, "logit_softcap": 20.0}

    def by_class(logits, c):
        loss = functools.partial(WEIGHTED[name], class_weights=c, weights=weights)
        return loss(logits, labels, where=where, reduction=reduction, **options)

    def by_unit(logits, c):
        loss = functools.partial(WEIGHTED[name], weights=weights * c[labels])
        return loss(logits, labels, where=where, reduction=reduction, **options)

    @jax.jit
    def everything(logits, c):
        both = (by_class, by_unit)
        return [(f(logits, c), jax.jacrev(f)(logits, c), jax.jacfwd(f, 1)(logits, c)) for f in both]

    got, want = map(jax.tree.leaves, everything(logits, C))
    for each, wanted in zip(got, want, strict=True):
        np.testing.assert_allclose(each, wanted, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_class_of_weight_0_is_in_no_mean(name, rng):
    """Neither in that of the library nor in one of the caller's own."""
    logits, labels = rng.normal(size=(6, 5)).astype(np.float32), np.arange(6) % 5
    loss = functools.partial(WEIGHTED[name], logits, labels, class_weights=C)
    np.testing.assert_allclose(
        loss(reduction=lambda values, _, weights: jnp.sum(weights * values) / jnp.sum(weights)),
        loss(),
        rtol=1e-6,
    )


def test_one_infinite_loss_leaves_the_weights_of_other_classes_a_gradient():
    logits, labels = jnp.array([[-np.inf, 0.0, 1.0], [0.0, 1.0, 2.0]]), jnp.array([0, 1])

    def loss(c):
        f = jaxloss.softmax_cross_entropy_with_integer_labels
        return f(logits, labels, class_weights=c, reduction="sum")

    cost = np.log(np.exp([0.0, 1.0, 2.0]).sum()) - 1
    np.testing.assert_allclose(jax.grad(loss)(jnp.ones(3)), [np.inf, cost, 0], rtol=1e-6)


def test_class_weights_of_distributions_divide_by_their_mass(rng):
    logits = rng.normal(size=(6, 5)).astype(np.float32)
    labels = rng.dirichlet(np.ones(5), size=6).astype(np.float32)
    mass = np.asarray(C) * labels
    costs = -(mass * np.asarray(jax.nn.log_softmax(logits))).sum(-1)
    got = jaxloss.softmax_cross_entropy(logits, labels, class_weights=C)
    np.testing.assert_allclose(got, costs.sum() / mass.sum(), rtol=1e-6)


def test_smoothing_counts_a_class_by_its_weight(rng):
    """q is smoothed first and weighted then; the denominator is that of the labels."""
    logits, labels = rng.normal(size=(6, 5)).astype(np.float32), rng.integers(5, size=6)
    q = 0.8 * np.eye(5)[labels] + 0.2 / 5
    costs = -(np.asarray(C) * q * np.asarray(jax.nn.log_softmax(logits))).sum(-1)
    loss = jaxloss.softmax_cross_entropy_with_integer_labels
    got = loss(logits, labels, class_weights=C, label_smoothing=0.2)
    np.testing.assert_allclose(got, costs.sum() / np.asarray(C)[labels].sum(), rtol=1e-6)


def test_integer_weights_of_classes_that_weigh():
    labels, weights = jnp.array([0, 1]), jnp.array([2, 1])
    loss = jaxloss.softmax_cross_entropy_with_integer_labels
    c = jnp.array([1.0, 3.0])
    got = loss(
        jnp.zeros((2, 2)), labels, class_weights=c, weights=weights, reduction=jaxloss.unit_mean
    )
    np.testing.assert_allclose(got, 2.5 * np.log(2), rtol=1e-6)


@pytest.mark.parametrize("y", [0.0, 0.25, 1.0])
@pytest.mark.parametrize(
    "kernel", [kernels.binary_cross_entropy, kernels.poisson_nll_of_rate, kernels.logistic_loss]
)
def test_mixed_derivatives_are_those_of_either_order(kernel, y):
    x, y = jnp.array(0.3), jnp.array(y)
    one, other = (jax.jacfwd(jax.grad(kernel, i), 1 - i)(x, y) for i in (0, 1))
    np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize(("quantile", "costs"), [(0.0, [np.inf, 0]), (1.0, [0, np.inf])])
def test_the_end_of_all_quantiles_at_infinity(quantile, costs):
    predictions = jnp.array([np.inf, -np.inf])
    got = jaxloss.quantile_loss(predictions, jnp.zeros(2), quantile=quantile, reduction=None)
    np.testing.assert_array_equal(got, costs)


def test_a_similar_pair_has_no_margin():
    x1, x2 = jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2))
    assert jaxloss.contrastive_loss(x1, x2, jnp.array([1.0]), margin=1e20) == 12.5


@pytest.mark.parametrize("loss", [jaxloss.hinge_loss, jaxloss.soft_margin_loss])
@pytest.mark.parametrize("dtype", [bool, "uint8"])
def test_labels_without_a_sign_are_none(loss, dtype):
    with pytest.raises(TypeError, match=f"labels must be -1 and 1, got {jnp.dtype(dtype)}"):
        loss(jnp.array([-1.0, 1.0]), jnp.array([1, 0], dtype))


def test_vectors_without_features_are_alike():
    z = jnp.zeros((2, 0))
    for schedule in "plain", "blocks":
        values = (
            jaxloss.info_nce_loss(z, z, schedule=schedule),
            jaxloss.clip_loss(z, z, logit_scale=1.0, schedule=schedule),
        )
        np.testing.assert_allclose(values, np.log(2), rtol=1e-6)


def test_one_number_is_no_list():
    for loss in jaxloss.ranking_softmax_loss, jaxloss.pairwise_logistic_loss:
        with pytest.raises(ValueError, match=r"scores must be \[\*lists, items\]"):
            loss(jnp.array(1.0), jnp.array(1.0))


def test_options_make_no_array_of_labels():
    """Besides the gradient, class weights need no array of the logits' size, and smoothing two."""
    logits, labels = jnp.zeros((64, 4096)), jnp.zeros(64, int)

    def arrays(**options):
        loss = jaxloss.softmax_cross_entropy_with_integer_labels
        f = jax.value_and_grad(functools.partial(loss, **options))
        memory = jax.jit(f).lower(logits, labels).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes / logits.nbytes

    assert arrays(z_loss=0.1, class_weights=jnp.ones(4096)) < 0.1
    assert arrays(label_smoothing=0.1) < 2.1


ELEMENTWISE = "squared_error l2_loss absolute_error huber_loss smooth_l1_loss log_cosh hinge_loss"
ELEMENTWISE += (
    " absolute_percentage_error sigmoid_binary_cross_entropy poisson_nll_loss soft_margin_loss"
)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ELEMENTWISE.split())
def test_value_and_gradient_of_elements_store_nothing(name, dtype):
    like = jax.ShapeDtypeStruct((2**16,), dtype)
    step = jax.jit(jax.value_and_grad(getattr(jaxloss, name)))
    memory = step.lower(like, like).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 2**10


def test_a_cross_entropy_of_halves_is_widened_once():
    """Their largest is told before, from half the bytes."""
    logits, labels = jnp.zeros((64, 4096), jnp.bfloat16), jnp.zeros(64, int)
    loss = jax.jit(jax.value_and_grad(jaxloss.softmax_cross_entropy_with_integer_labels))
    program = loss.lower(logits, labels).compile()
    memory = program.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 1.1 * 4 * logits.size
    assert re.search(r"bf16\[64\]\S* reduce\(", program.as_text() or "")


def test_options_that_are_arrays_have_gradients(rng):
    logits, labels = rng.normal(size=(6, 5)).astype(np.float32), rng.integers(5, size=6)
    options = {"label_smoothing": 0.1, "z_loss": 0.01, "logit_softcap": 5.0}

    def loss(options):
        return jaxloss.softmax_cross_entropy_with_integer_labels(logits, labels, **options)

    with jax.enable_x64(True):
        arrays = {name: jnp.asarray(value, jnp.float64) for name, value in options.items()}
        logits = logits.astype(np.float64)
        slopes = jax.jit(jax.grad(loss))(arrays)
        for name, slope in slopes.items():
            up, down = (loss({**arrays, name: arrays[name] + h}) for h in (1e-6, -1e-6))
            np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-6)


def test_smoothing_of_0_and_1_as_arrays_at_an_absent_class():
    """0 · ∞ = 0 where a traced share of the smoothing is 0 or 1."""
    loss = jax.jit(
        lambda share, logits, labels: jaxloss.softmax_cross_entropy_with_integer_labels(
            logits, labels, label_smoothing=share
        )
    )
    absent = jnp.array([[0.0, 0.0, -jnp.inf]])
    np.testing.assert_allclose(loss(1.0, absent, jnp.array([2])), np.log(2), rtol=1e-6)
    certain = jnp.array([[jnp.inf, 0.0, 0.0]])
    np.testing.assert_allclose(loss(0.0, certain, jnp.array([0])), 0)


def test_pos_weight_is_one_per_entry_of_the_last_axis(rng):
    logits, labels = rng.normal(size=(4, 3)).astype(np.float32), rng.random((4, 3)) < 0.5
    loss = functools.partial(jaxloss.sigmoid_binary_cross_entropy, reduction=None)
    p = jnp.array([1.0, 2.0, 0.5])
    want = loss(logits, labels, weights=jnp.where(labels, p, 1))
    np.testing.assert_allclose(loss(logits, labels, pos_weight=p), want, rtol=1e-6)
    one = loss(logits, labels, pos_weight=jnp.float32(1))
    np.testing.assert_allclose(one, loss(logits, labels), rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_losses_of_hard_labels_agree(gamma, rng):
    """A softmax over (x, 0) is a sigmoid of x, to the last digits of logits of ±50."""
    x = np.linspace(-50, 50, 101, dtype=np.float32)
    labels = (rng.random(101) < 0.5).astype(np.float32)
    both = jnp.stack([labels, 1 - labels], -1)

    def binary(x):
        return jaxloss.sigmoid_focal_loss(x, labels, gamma=gamma, reduction="sum")

    def multi(x):
        logits = jnp.stack([x, jnp.zeros_like(x)], -1)
        return jaxloss.softmax_focal_loss(logits, both, gamma=gamma, reduction="sum")

    results = jax.jit(lambda x: [jax.value_and_grad(f)(x) for f in (multi, binary)])(x)
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=5e-5)


@pytest.mark.parametrize("q", [0.0, 1e-12, 1e-3, 0.5, 1.0])
def test_generalized_cross_entropy_between_its_ends(q):
    """A traced q has a gradient everywhere, at 0 too: both are the series in log p."""
    p = np.array([1.0, 0.9, 0.3, 1e-6])
    with jax.enable_x64(True):

        @jax.jit
        def loss(q):
            both, labels = jnp.stack([p, 1 - p], -1), jnp.zeros(4, int)
            return jaxloss.generalized_cross_entropy(both, labels, q=q, reduction=None)

        values, slopes = jax.jvp(loss, (jnp.float64(q),), (jnp.float64(1),))
    log, q = np.log(np.asarray(p, np.longdouble)), np.longdouble(q)
    terms = [(log**n / math.factorial(n), n - 1) for n in range(1, 99)]
    np.testing.assert_allclose(values, -sum(c * q**k for c, k in terms), rtol=1e-12)
    wanted = -sum(c * k * q ** max(k - 1, 0) for c, k in terms)
    np.testing.assert_allclose(slopes, wanted, rtol=1e-12)


def test_generalized_cross_entropy_of_an_impossible_label():
    """Through a softmax that rounds to 0, the gradient is its limit and not 0 · ∞."""

    def loss(logits, q):
        return jaxloss.generalized_cross_entropy(jax.nn.softmax(logits), jnp.array([0]), q=q)

    for q in (0.1, 0.7, 1.0):
        value, slope = jax.value_and_grad(loss)(jnp.array([[-200.0, 0.0]]), q)
        np.testing.assert_allclose(value, 1 / q, rtol=1e-6)
        assert not np.asarray(slope).any()


def test_an_absent_class_is_no_class(rng):
    """Margins over several classes divide by the number of those that are there."""
    scores = rng.normal(size=(6, 5)).astype(np.float32)
    labels, bits = rng.integers(4, size=6), rng.integers(2, size=(6, 5))
    bits[:, 4] = 0
    absent = scores.copy()
    absent[:, 4] = -np.inf
    for loss, y, fewer in (
        (jaxloss.multi_margin_loss, labels, labels),
        (jaxloss.multilabel_margin_loss, bits, bits[:, :4]),
        (jaxloss.multiclass_sparsemax_loss, labels, labels),
    ):
        both = jax.jit(jax.value_and_grad(loss))
        (got, grad), (want, wanted) = both(absent, y), both(scores[:, :4], fewer)
        np.testing.assert_allclose(got, want, rtol=1e-6)
        np.testing.assert_allclose(grad[:, :4], wanted, rtol=1e-6)
        assert not np.asarray(grad[:, 4]).any()


@pytest.mark.parametrize("name", ["ranking_softmax_loss", "pairwise_logistic_loss"])
def test_ragged_lists_are_lists_of_their_items(name, rng):
    """Masked anywhere; a list without items or without a pair counts for nothing."""
    loss = getattr(jaxloss, name)
    scores = rng.normal(size=(40, 5)).astype(np.float32)
    relevance = rng.integers(3, size=(40, 5)).astype(np.float32)
    where, weights = rng.random((40, 5)) < 0.5, rng.exponential(size=40).astype(np.float32)
    relevance[3], where[4], where[5] = 2, False, [1, 0, 0, 0, 0]
    total, counted, statistics = 0, 0, jax.jit(functools.partial(loss, reduction=jaxloss.stats))
    for x, y, kept, times in zip(scores, relevance, where, weights, strict=True):
        value = jax.tree.map(np.asarray, statistics(x[kept][None], y[kept][None]))
        total, counted = total + times * value.total, counted + times * value.weight
    held = np.where(where, scores, np.nan), np.where(where, relevance, np.nan)
    both = jax.jit(jax.value_and_grad(loss, (0, 1)))
    got, grads = both(*held, where=where, weights=weights)
    np.testing.assert_allclose(got, total / counted, rtol=1e-6)
    assert all(np.isfinite(grad).all() and not np.asarray(grad)[~where].any() for grad in grads)
    assert (counted < weights[where.any(-1)].sum()) == (name == "pairwise_logistic_loss")


def test_a_student_that_agrees_with_its_teacher(rng):
    """Exactly 0, in value and gradient, inside a jit with a temperature; close to it, above 0."""
    teacher = jnp.asarray(10 ** rng.uniform(-2, 2, (200, 1)) * rng.normal(size=(200, 7)), "float32")

    @jax.jit
    def loss(change, scale):
        x = scale * jnp.tanh(teacher / scale)
        f = functools.partial(jaxloss.distillation_loss, temperature=3.0, reduction=None)
        return f(x + change, x)

    nothing = jnp.zeros_like(teacher)
    assert not loss(nothing, 50.0).any()
    assert not jax.grad(lambda change: loss(change, 50.0).sum())(nothing).any()
    for size in (1e-6, 1e-4, 1e-2):
        values = loss(size * jnp.asarray(rng.normal(size=teacher.shape), "float32"), 50.0)
        assert (values >= 0).all() and values.max() < 10 * size**2 + 1e-12


def test_alpha_shares_out_between_teacher_and_labels(rng):
    student, teacher = rng.normal(size=(2, 6, 5)).astype(np.float32)
    labels = rng.integers(5, size=6)
    loss = functools.partial(jaxloss.distillation_loss, student, teacher, temperature=2.0)
    alone = loss()
    np.testing.assert_array_equal(loss(alpha=0.1), alone)
    np.testing.assert_allclose(loss(labels=labels, alpha=1.0), alone, rtol=1e-6)
    hard = jaxloss.softmax_cross_entropy_with_integer_labels(student, labels)
    np.testing.assert_allclose(loss(labels=labels, alpha=0.0), hard, rtol=1e-6)
