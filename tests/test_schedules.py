"""Every way through the scores of a linear head gives the loss of the scores, and none builds them.

The truth is `softmax_cross_entropy_with_integer_labels` in float64, which has its own in `cases`.
"""

import functools
import itertools
import math
import operator
import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

import jaxloss
from jaxloss.core.reductions import Reduction, reduce
from jaxloss.fused import Plan, plan
from jaxloss.fused import products as multiplied

REDUCTIONS = ("mean", "sum", jaxloss.stats, None)
NEUTRAL = {"label_smoothing": 0, "z_loss": 0, "logit_softcap": 1e6, "temperature": 1}
USUAL = {"label_smoothing": 0.1, "z_loss": 1e-3, "logit_softcap": 20, "temperature": 0.75}
SETTINGS = {  # all are given, some as the number that leaves the loss as it is
    "none": NEUTRAL,
    "smoothing": {**NEUTRAL, "label_smoothing": 0.2},
    "scores": {**USUAL, "label_smoothing": 0, "z_loss": 0},
    "all": USUAL,
}
SCALES = (0.05, 1, 8)
COMBINATIONS = (
    ((5, 4, 1), jnp.float32),
    ((17, 8, 29), jnp.float32),
    ((17, 8, 29), jnp.bfloat16),
    ((13, 3, 31), jnp.float64),
)
# of values, relative to their largest term, and of gradients
TOLERANCES = {jnp.float32: (2e-7, 2e-6), jnp.bfloat16: (3e-7, 2e-6), jnp.float64: (1e-15, 1e-14)}
# one loss alone, or those near log(classes) that are rounded alike, are off by two and a half units
# in the last place: one each of log Σ, of softplus, and of what smoothing blends
ALONE = 3e-7, 2e-6
# their derivatives are differences of terms that may nearly cancel, of the units or of the classes,
# and of a single class all are: the error is relative to the terms, as that of a loss is
DIFFERENCES = ("weights", "class_weights", *USUAL)


def schedules(shape):
    n, _, v = shape
    some = Plan("tokens", min(4, n), v), Plan("classes", n, min(8, v))
    return *some, Plan("tiles", min(5, n), min(6, v))


def problem(rng, shape, scale, dtype, setting):
    """Inputs as rounded to `dtype`; scores have about the given size, or nearly none."""
    n, d, v = shape
    hidden, head = rng.normal(size=(n, d)), rng.normal(size=(d, v)) * scale / d**0.5
    bias, class_weights = rng.normal(size=v), rng.exponential(size=v)
    labels = rng.integers(v, size=n)
    if setting in ("none", "smoothing"):
        bias, class_weights = 0 * bias, 0 * class_weights + 1
    elif v > 2:  # a class is absent
        labels[labels == 1] = 0
        bias[1] = -np.inf
    where, weights = rng.random(n) < 0.8, rng.uniform(0.5, 2, n)
    where[0] = True
    wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
    numbers = {"bias": bias, "class_weights": class_weights, **SETTINGS[setting]}
    floats = [jnp.asarray(hidden, dtype), jnp.asarray(head, dtype), jnp.asarray(weights, wide)]
    return floats, {k: jnp.asarray(v, wide) for k, v in numbers.items()}, labels, where


def losses(loss, arrays, options, labels, where):
    """Of all reductions, and the gradients of the mean and of a weighted sum of the values."""

    def reduced(reduction, arrays):
        hidden, head, weights, options = arrays
        keywords = {"where": where, "weights": weights, "reduction": reduction, **options}
        result = loss(hidden, head, labels, **keywords)
        return result.value() if reduction is jaxloss.stats else result

    def weighted(arrays):
        values = reduced(None, arrays)
        return jnp.vdot(values, jnp.cos(jnp.arange(values.size, dtype=values.dtype)))

    arrays = (*arrays, options)
    values = [reduced(reduction, arrays) for reduction in REDUCTIONS]
    return values, [jax.grad(f)(arrays) for f in (functools.partial(reduced, "mean"), weighted)]


def scores(hidden, head, bias, temperature, logit_softcap):
    x = hidden @ head + bias[None]
    absent = jnp.isneginf(x)
    x = jnp.where(absent, 0, x)  # or its derivatives are 0·inf
    return jnp.where(absent, -jnp.inf, logit_softcap * jnp.tanh(x / logit_softcap) / temperature)


def of_scores(hidden, head, labels, bias, temperature, logit_softcap, **options):
    x = scores(hidden, head, bias, temperature, logit_softcap)
    return jaxloss.softmax_cross_entropy_with_integer_labels(x, labels, **options)


def terms(arrays, options, labels, where):
    """What a loss is a difference of, reduced as the loss is: |log Σ exp x| + |x of the label|."""
    hidden, head, weights = arrays
    names = ("bias", "temperature", "logit_softcap")
    x = scores(hidden, head, *(options[name] for name in names))
    own = jnp.take_along_axis(x, labels[:, None], axis=1)[:, 0]
    counts = options["class_weights"][labels]
    values = counts * (jnp.abs(jax.nn.logsumexp(x, axis=1)) + jnp.abs(own))
    keywords = {"where": where, "weights": weights}
    each = [reduce(values, counts=counts, reduction=r, **keywords) for r in ("mean", "sum", None)]
    mean, total, values = map(jnp.linalg.norm, each)
    return (mean, total, mean, values), {"mean": mean, "weighted": total}


@functools.cache
def compiled(schedule):
    forced = functools.partial(jaxloss.linear_softmax_cross_entropy, schedule=schedule)
    return jax.jit(functools.partial(losses, forced))


@jax.jit
def truth(*problem):
    return losses(of_scores, *problem), terms(*problem)


def named(grads):
    for which, (hidden, head, weights, options) in zip(("mean", "weighted"), grads, strict=True):
        for name, grad in {"hidden": hidden, "head": head, "weights": weights, **options}.items():
            yield which, name, grad


def error(got, want, least=1e-3):
    """Of a vector, relative to its length."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return np.linalg.norm(got - want) / max(np.linalg.norm(want), least)


def check(got, want, sizes, shape, tolerances, label):
    of_values, of_slopes = tolerances
    for value, exact, size in zip(got[0], want[0], sizes[0], strict=True):
        assert error(value, exact, size) <= of_values, (label, "value", error(value, exact, size))
    for (which, name, grad), (_, _, exact) in zip(named(got[1]), named(want[1]), strict=True):
        cancels = name in DIFFERENCES or shape[-1] == 1
        allowed, least = of_slopes, sizes[1][which] if cancels else 1e-3
        if grad.dtype == jnp.bfloat16:
            allowed = 1.2 * error(exact.astype(jnp.bfloat16), exact)
        found = error(grad, exact, least)
        assert found <= allowed, (label, which, name, found, allowed)


@pytest.mark.parametrize(("shape", "dtype"), COMBINATIONS)
def test_every_schedule_is_the_loss_of_the_scores(shape, dtype, rng, monkeypatch):
    """Loss to 2e-7 and gradients to 2e-6; of bfloat16 to 1.2 of the rounding of the exact one.

    The gradient of the head is added to by several blocks of classes, as that of a large one is.
    """
    monkeypatch.setattr(multiplied, "BLOCK", 4)
    with jax.enable_x64(True):
        programs = [(s, compiled(s)) for s in schedules(shape)]
        for setting, scale in itertools.product(SETTINGS, SCALES):
            arrays, options, labels, where = problem(rng, shape, scale, dtype, setting)
            exact = jax.tree.map(lambda a: a.astype(float), (arrays, options))
            want, sizes = truth(*exact, labels, where)
            for schedule, program in programs:
                got = program(arrays, options, labels, where)
                check(
                    got, want, sizes, shape, TOLERANCES[dtype], (schedule.schedule, setting, scale)
                )


# sizes that are prime, and 1, and of which no block is a divisor
ODD = ((1, 3, 7), (1, 1, 1), (7, 2, 1), (13, 3, 31))
PARTS = {"tokens": Plan("tokens", 4, 31), "classes": Plan("classes", 13, 5)}
PARTS["tiles"] = Plan("tiles", 5, 6)


@pytest.mark.parametrize("name", PARTS)
@hypothesis.given(
    st.sampled_from(ODD), st.sampled_from([*SETTINGS]), st.floats(0.05, 8), st.integers(0, 2**32)
)
@hypothesis.settings(max_examples=12)
def test_of_any_sizes_too(name, shape, setting, scale, seed):
    """In float32, with whatever seed."""
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        arrays, options, labels, where = problem(rng, shape, scale, jnp.float32, setting)
        exact = jax.tree.map(lambda a: a.astype(float), (arrays, options))
        want, sizes = truth(*exact, labels, where)
        got = compiled(PARTS[name])(arrays, options, labels, where)
        check(got, want, sizes, shape, ALONE, (name, setting, scale))


@pytest.mark.parametrize("labels", ["likely", "any"])
@pytest.mark.parametrize("plan", [Plan("tokens", 16, 1500), Plan("tiles", 32, 1100)])
@pytest.mark.parametrize("platform", ["cpu", "default"])
def test_a_half_gradient_of_many_classes_loses_what_rounding_does(
    platform, plan, labels, rng, monkeypatch
):
    """Where a product less is enough, and where it is not: to 1.2 of the rounding.

    On CPU, also what other platforms compute there.
    """
    n, d, v = 64, 16, 1500
    branch = operator.itemgetter(platform)
    monkeypatch.setattr(lax, "platform_dependent", lambda *x, **by: branch(by)(*x))
    loss = functools.partial(jaxloss.linear_softmax_cross_entropy, reduction="sum")
    fused = functools.partial(loss, schedule=plan)
    half, wide = (jax.jit(jax.grad(f, (0, 1))) for f in (fused, loss))
    for scale in (0.05, 1, 8):
        floats = rng.normal(size=(n, d)), rng.normal(size=(d, v)) * scale / d**0.5
        hidden, head = (jnp.asarray(a, jnp.bfloat16) for a in floats)
        x = jnp.matmul(hidden, head, preferred_element_type=jnp.float32)
        chance = x if labels == "likely" else 0 * x
        y = jax.random.categorical(jax.random.key(len(labels)), chance)
        weights = jnp.asarray(rng.uniform(0.5, 2, n), jnp.float32)
        got = half(hidden, head, y, weights=weights)
        want = wide(*(a.astype(jnp.float32) for a in (hidden, head)), y, weights=weights)
        for grad, exact in zip(got, want, strict=True):
            allowed = 1.2 * error(exact.astype(jnp.bfloat16), exact)
            assert error(grad, exact) <= allowed, (scale, error(grad, exact), allowed)


def test_there_are_500_combinations():
    per_problem = 3 * len(SETTINGS) * len(SCALES) * len(REDUCTIONS)
    assert len(COMBINATIONS) * per_problem >= 500


# ---- what is built


TOKENS, FEATURES, CLASSES = 64, 8, 96
FORCED = (Plan("tokens", 4, CLASSES), Plan("classes", TOKENS, 16), Plan("tiles", 16, 16))
BY_NAME = {each.schedule: each for each in FORCED}


def everywhere(loss, floats, others, shared):
    """Under jit, vmap, scan and remat: of two batches, the values and all gradients.

    `loss(reduction, floats, others, shared)` is a number; the batches are the first axis of all but
    what is shared.
    """

    def f(floats, others, shared):
        mean, each = (functools.partial(loss, reduction) for reduction in ("mean", None))
        first = *jax.tree.map(lambda a: a[0], (floats, others)), shared
        grad = functools.partial(jax.value_and_grad, argnums=(0, 2))

        def step(_, each):
            return None, grad(mean)(*each, shared)

        return (
            each(*first),
            [grad(g)(*first) for g in (mean, each, jax.checkpoint(mean))],
            jax.vmap(grad(mean), (0, 0, None))(floats, others, shared),
            jax.lax.scan(step, None, (floats, others)),
        )

    return jax.jit(f).lower(floats, others, shared).compile().as_text() or ""


def largest(text, kinds="f32|s32|pred|u32"):
    shapes = re.findall(rf"(?:{kinds})\[([\d,]+)\]", text)
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


@pytest.mark.parametrize("name", [*BY_NAME, "plain"])
def test_no_buffer_is_a_quarter_of_the_scores(name):
    """Whatever the transformation; and the shapes of the products show the schedule."""
    how = BY_NAME.get(name, name)

    def loss(reduction, hidden, labels, shared):
        head, options = shared
        f = jaxloss.linear_softmax_cross_entropy
        return jnp.sum(f(hidden, head, labels, schedule=how, reduction=reduction, **options))

    options = {name: jnp.float32(value) for name, value in USUAL.items()}
    options |= {"bias": jnp.zeros(CLASSES), "class_weights": jnp.ones(CLASSES)}
    rows = jnp.zeros((2, TOKENS, FEATURES)), jnp.zeros((2, TOKENS), int)
    text = everywhere(loss, *rows, (jnp.zeros((FEATURES, CLASSES)), options))
    if name == "plain":
        assert largest(text) >= TOKENS * CLASSES
        return
    assert largest(text) < 2 * TOKENS * CLASSES / 4  # there are two batches
    parts = re.findall(r"= f32\[(\d+),(\d+)\]\S* dot\(", text)
    rows, classes = BY_NAME[name].rows, BY_NAME[name].classes
    assert (str(rows), str(classes)) in parts and "while(" in text


@pytest.mark.parametrize("name", ["kl", "js"])
def test_no_buffer_is_a_quarter_of_the_scores_of_two_heads(name):
    f = {"kl": jaxloss.linear_kl_divergence, "js": jaxloss.linear_js_divergence}[name]

    def loss(reduction, hidden, where, shared):
        heads, options = shared
        operands = (hidden[0], heads[0], hidden[1], heads[1])
        keywords = {"where": where, "reduction": reduction, "schedule": BY_NAME["tokens"]}
        return jnp.sum(f(*operands, **keywords, **options))

    bias, one = jnp.zeros(CLASSES), jnp.float32(0.75)
    options = {"student_bias": bias, "teacher_bias": bias, "temperature": one}
    options |= {"beta": one} if name == "js" else {}
    hidden = jnp.zeros((2, TOKENS, FEATURES)), jnp.zeros((2, TOKENS, 4))
    heads = jnp.zeros((FEATURES, CLASSES)), jnp.zeros((4, CLASSES))
    text = everywhere(loss, hidden, jnp.ones((2, TOKENS), bool), (heads, options))
    assert largest(text) < 2 * TOKENS * CLASSES / 4


def test_no_buffer_of_floats_is_a_quarter_of_the_scores_of_many_labels():
    """The labels themselves, and which of them there are, are booleans of that size."""

    def loss(reduction, floats, masks, shared):
        (hidden, weights), (labels, where), (head, bias) = floats, masks, shared
        options = {"schedule": BY_NAME["tokens"], "bias": bias, "weights": weights, "where": where}
        reduction = reduction or "sum"  # every value would be there
        return jaxloss.linear_binary_cross_entropy(
            hidden, head, labels, reduction=reduction, **options
        )

    floats = jnp.zeros((2, TOKENS, FEATURES)), jnp.ones((2, TOKENS))
    masks = (jnp.ones((2, TOKENS, CLASSES), bool),) * 2
    text = everywhere(loss, floats, masks, (jnp.zeros((FEATURES, CLASSES)), jnp.zeros(CLASSES)))
    assert largest(text, "f32") < 2 * TOKENS * CLASSES / 4


def test_a_gradient_of_class_weights_builds_no_one_hot():
    """Not even where the scores are there: it takes no memory more."""

    def loss(hidden, head, c):
        f = functools.partial(jaxloss.linear_softmax_cross_entropy, schedule="plain")
        return f(hidden, head, jnp.zeros(512, int), class_weights=c)

    arrays = jnp.zeros((512, 2)), jnp.zeros((2, 1024)), jnp.ones(1024)
    without, with_them = (temporaries(jax.grad(loss, by), *arrays) for by in ((0, 1), (0, 1, 2)))
    assert with_them < without + 512 * 1024


def temporaries(f, *arrays):
    """Bytes that XLA allocates besides arguments and results."""
    memory = jax.jit(f).lower(*arrays).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def products(f, *arrays):
    """How many products a program holds, in all its loops."""
    text = jax.jit(f).lower(*arrays).compile().as_text() or ""
    return text.count(" dot(")


def test_the_product_that_may_be_left_out_stays_in_its_loop(monkeypatch):
    """XLA takes out of a loop what is the same in every turn, and then it is never left out."""
    monkeypatch.setattr(lax, "platform_dependent", lambda *x, default, **_: default(*x))
    slopes, head = jnp.zeros((8, 2000)), jnp.zeros((4, 2000), jnp.bfloat16)
    text = jax.jit(multiplied.to_hidden).lower(slopes, head).compile().as_text() or ""
    blocks = dict(re.findall(r"^(?:ENTRY )?%([\w.-]+) \(.*?\{\n(.*?)^\}", text, re.M | re.S))

    def multiplies(name):
        called = re.findall(r"(?:calls|to_apply|body)=%([\w.-]+)", blocks[name])
        return " dot(" in blocks[name] or any(map(multiplies, called))

    assert any(multiplies(body) for body in re.findall(r" body=%([\w.-]+)", text))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_head_of_many_classes_is_added_to_by_blocks(dtype, rng):
    """Of which the last overlaps the one before, and adds nothing there a second time."""
    classes = 2 * multiplied.BLOCK + 7
    draw = functools.partial(rng.integers, -8, 8)  # all sums are exact
    hidden, slopes, before = draw(size=(5, 3)), draw(size=(5, classes)), draw(size=(3, classes))
    operands = jnp.float32(before), hidden.astype(dtype), jnp.float32(slopes)
    got = jax.jit(multiplied.add_to_head)(*operands)
    np.testing.assert_array_equal(got, before + hidden.T @ slopes)


def test_how_many_products_a_schedule_takes():
    """One for a value; for a gradient of the mean three of tokens, and four of classes."""
    arrays = jnp.zeros((8, 3)), jnp.zeros((3, 10))
    labels = jnp.zeros(8, int)
    expected: tuple[tuple[Plan, Reduction[Array], int], ...] = (
        (Plan("tokens", 4, 10), "mean", 3),
        (Plan("tokens", 4, 10), None, 4),
        (Plan("classes", 8, 5), "mean", 4),
        (Plan("tiles", 4, 5), "mean", 4),
    )
    for made, reduction, number in expected:

        def loss(hidden, head, reduction: Reduction[Array] = reduction, made=made):
            f = jaxloss.linear_softmax_cross_entropy
            return jnp.sum(f(hidden, head, labels, schedule=made, reduction=reduction))

        assert products(loss, *arrays) == 1
        assert products(jax.value_and_grad(loss, (0, 1)), *arrays) == number


# ---- what is chosen


def shapes(tokens, features, classes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct((tokens, features), dtype), jax.ShapeDtypeStruct(
        (features, classes), dtype
    )


def test_a_plan_is_the_fastest_that_fits():
    large, labels = shapes(2048, 512, 32000), jax.ShapeDtypeStruct((2048,), jnp.int32)
    assert plan(*shapes(8, 3, 5)).schedule == "plain"
    assert plan(*large, backend="cpu").schedule == "tokens"
    assert plan(*large, backend="cpu", per_token=True).schedule == "classes"
    for budget in (2**27, 2**25, 2**23):
        made = plan(*large, backend="cpu", memory_budget=budget)
        loss = functools.partial(jaxloss.linear_softmax_cross_entropy, schedule=made)
        takes = max(made.bytes, temporaries(jax.value_and_grad(loss, (0, 1)), *large, labels))
        assert takes <= budget or made.reason.startswith("the least"), str(made)
    assert plan(*large, schedule="tiles").schedule == "tiles"
    assert plan(*large, implementation="xla").implementation == "xla"
    made = Plan("tiles", 3, 4)
    assert plan(*large, schedule=made) is made
    assert plan(*shapes(0, 512, 32000), schedule=made).schedule == "plain"


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"schedule": "rows"}, r"schedule must be None, a Plan or one of .*'tokens'.*'rows'"),
        ({"memory_budget": 0}, "memory_budget must be a positive number of bytes, got 0"),
        ({"memory_budget": np.nan}, "memory_budget must be a positive number of bytes, got nan"),
        ({"backend": "cuda"}, "backend must be None, 'cpu', 'gpu' or 'tpu', got 'cuda'"),
        ({"schedule": Plan("tiles", 2, 2), "implementation": "pallas_tpu"}, "that of the Plan"),
        ({"implementation": "cuda"}, r"implementation must be None or one of .*xla.*'cuda'"),
    ],
)
def test_a_plan_says_what_it_does_not_know(option, says):
    with pytest.raises(ValueError, match=says):
        plan(*shapes(8, 3, 5), **option)


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        (("rows", 2, 2), "schedule must be one of .*'tokens'.*'rows'"),
        (("tiles", 2, 2, "cuda"), "implementation must be one of .*xla.*'cuda'"),
        (("tokens", 0, 2), "1 or more rows and classes, got 0 and 2"),
        (("tiles", 2, -1), "1 or more rows and classes, got 2 and -1"),
    ],
)
def test_a_plan_that_cannot_be(pieces, says):
    with pytest.raises(ValueError, match=says):
        Plan(*pieces)


@pytest.mark.parametrize("schedule", ["tokens", "classes", "tiles"])
def test_the_plan_of_halves_counts_their_sums(schedule):
    hidden, head = shapes(512, 256, 16000, jnp.bfloat16)
    labels = jax.ShapeDtypeStruct((512,), jnp.int32)
    loss = functools.partial(jaxloss.linear_softmax_cross_entropy, schedule=schedule)
    takes = temporaries(jax.value_and_grad(loss, (0, 1)), hidden, head, labels)
    assert takes <= 1.2 * plan(hidden, head, schedule=schedule, backend="cpu").bytes


def test_a_divergence_sees_all_classes():
    hidden, head = jnp.zeros((2, 3)), jnp.zeros((3, 4))
    with pytest.raises(ValueError, match="schedule must be None, 'plain' or 'tokens' here"):
        jaxloss.linear_kl_divergence(hidden, head, hidden, head, schedule="tiles")


# ---- log-probabilities


@pytest.mark.parametrize("schedule", [Plan("tokens", 5, 29), Plan("tiles", 6, 8)])
def test_log_probabilities_and_entropies_are_those_of_the_softmax(schedule, rng):
    """In float64, with an absent class and confident rows; in value and in gradient."""
    with jax.enable_x64(True):
        (hidden, head, _), options, labels, where = problem(rng, (17, 8, 29), 8, jnp.float64, "all")
        kept = {name: options[name] for name in ("bias", "logit_softcap", "temperature")}

        def call(schedule, hidden, head, options):
            f = functools.partial(jaxloss.linear_token_log_probs, schedule=schedule, entropy=True)
            pair = f(hidden, head, labels, where=where, **options)
            return jnp.vdot(pair[0], jnp.cos(pair[1])), pair

        f = jax.jit(jax.value_and_grad(call, (1, 2, 3), has_aux=True), static_argnums=0)
        got, want = f(schedule, hidden, head, kept), f("plain", hidden, head, kept)
        for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
        _, (log_probs, entropies) = want[0]
        assert not log_probs[~where].any() and (entropies >= 0).all()
