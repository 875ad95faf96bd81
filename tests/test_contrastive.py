"""What is particular to contrastive losses: who counts, whose negatives, what a scale learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss

GROUPED = [jaxloss.ntxent, jaxloss.supcon_loss]
grouped = pytest.mark.parametrize("loss", GROUPED, ids=lambda loss: loss.__name__)


@grouped
def test_an_anchor_without_a_positive_counts_for_nothing(loss, rng):
    """All alone: 0 and no gradient, not NaN; one alone: it is a negative and no anchor."""
    x = rng.normal(size=(5, 3)).astype(np.float32)
    compute = jax.jit(jax.value_and_grad(loss))
    value, slope = compute(x, np.arange(5))
    assert value == 0 and not slope.any()
    labels = np.array([4, 9, 4, 9, -7])
    values = jax.jit(functools.partial(loss, reduction=None))(x, labels)
    assert values[4] == 0
    whole, _ = compute(x, labels)
    np.testing.assert_allclose(whole, values[:4].mean(), rtol=1e-6)
    assert whole != compute(x[:4], labels[:4])[0]
    only = np.array([1, 1, 0, 1, 1], bool)  # its partner is deleted
    value, slope = compute(x, labels, where=only)
    np.testing.assert_allclose(value, compute(x[only], labels[only])[0], rtol=1e-6)
    assert np.isfinite(slope).all()


@grouped
def test_partners_in_different_parts_find_each_other(loss, rng):
    x = rng.normal(size=(6, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 0, 1, 2])

    @jax.jit
    def merged(x, labels):
        halves = slice(0, 3), slice(3, 6)
        parts = [loss(x[i], labels[i], reduction=jaxloss.stats) for i in halves]
        return parts[0].value(), jaxloss.merge(parts).value(), loss(x, labels)

    first, together, whole = merged(x, labels)
    assert first == 0
    np.testing.assert_allclose(together, whole, rtol=1e-6)


def test_ntxent_is_a_mean_over_pairs_and_supcon_over_anchors(rng):
    x = rng.normal(size=(5, 3)).astype(np.float32)
    labels = np.array([0, 0, 0, 1, 1])
    reductions = "mean", None, jaxloss.unit_mean
    mean, values, once = jax.jit(
        lambda *given: [jaxloss.ntxent(*given, reduction=each) for each in reductions]
    )(x, labels)
    np.testing.assert_allclose(mean, values.sum() / (3 * 2 + 2), rtol=1e-6)
    np.testing.assert_allclose(once, values.sum() / 5, rtol=1e-6)
    mean, values = jax.jit(
        lambda *given: [jaxloss.supcon_loss(*given, reduction=each) for each in reductions[:2]]
    )(x, labels)
    np.testing.assert_allclose(mean, values.mean(), rtol=1e-6)


def test_one_positive_each_makes_ntxent_and_supcon_one_loss(rng):
    x, labels = rng.normal(size=(8, 3)).astype(np.float32), np.array([0, 1, 2, 3] * 2)
    both = [jax.jit(loss)(x, labels, temperature=0.3) for loss in GROUPED]
    np.testing.assert_allclose(*both, rtol=1e-6)


def test_labels_are_any_integers(rng):
    x = rng.normal(size=(4, 3)).astype(np.float32)
    want = jaxloss.ntxent(x, np.array([0, 1, 0, 1]))
    for dtype, labels in ((np.int8, [-5, 7, -5, 7]), (np.uint32, [2**32 - 1, 2**31] * 2)):
        np.testing.assert_array_equal(jaxloss.ntxent(x, np.array(labels, dtype)), want)
    with pytest.raises(TypeError, match="labels must be integers, got float32"):
        jaxloss.supcon_loss(x, jnp.zeros(4))


def test_negatives_take_the_place_of_the_positives_of_others(rng):
    a, p = rng.normal(size=(2, 4, 3)).astype(np.float32)
    others = np.array([[j for j in range(4) if j != i] for i in range(4)])
    want = jaxloss.info_nce_loss(a, p, reduction=None)
    np.testing.assert_allclose(
        jaxloss.info_nce_loss(a, p, negatives=p[others], reduction=None), want, rtol=1e-5
    )
    queue = rng.normal(size=(6, 3)).astype(np.float32)
    own = np.broadcast_to(queue, (4, 6, 3))
    np.testing.assert_allclose(
        jaxloss.info_nce_loss(a, p, negatives=queue),
        jaxloss.info_nce_loss(a, p, negatives=own),
        rtol=1e-5,
    )
    assert isinstance(
        jaxloss.info_nce_loss(a, p, negatives=queue, reduction=jaxloss.stats), jaxloss.Mean
    )
    for none in (queue[:0], own[:, :0]):
        assert jaxloss.info_nce_loss(a, p, negatives=none) == 0


def test_shapes_that_do_not_fit_raise(rng):
    a = jnp.ones((4, 3))
    for shape in ((4, 2), (5, 6, 3), (4, 6, 2), (3,)):
        with pytest.raises(ValueError, match=r"negatives must be .* and anchors \(4, 3\)"):
            jaxloss.info_nce_loss(a, a, negatives=jnp.ones(shape))
    cube = jnp.ones((3, 3, 3))
    pairs = [
        jaxloss.info_nce_loss,
        functools.partial(jaxloss.clip_loss, logit_scale=1.0),
        functools.partial(jaxloss.siglip_loss, logit_scale=1.0, logit_bias=0.0),
    ]
    for loss in pairs:
        with pytest.raises(ValueError, match=r"must be \[units, features\], got \(3, 3, 3\)"):
            loss(cube, cube)
    with pytest.raises(ValueError, match=r"embeddings must be \[units, features\]"):
        jaxloss.ntxent(cube, jnp.zeros((3, 3), int))


def test_scales_and_biases_are_learnt_over_parts(rng):
    """The gradient of a learnt scale and bias over microbatches is that of the whole batch."""
    images, texts = rng.normal(size=(2, 8, 3)).astype(np.float32)

    def terms(params, batch):
        scale = jnp.exp(params["log_scale"])
        return {
            "clip": jaxloss.clip_loss(*batch, logit_scale=scale, reduction=jaxloss.stats),
            "siglip": jaxloss.siglip_loss(
                *batch, logit_scale=scale, logit_bias=params["bias"], reduction=jaxloss.stats
            ),
        }

    params = {"log_scale": jnp.float32(0.7), "bias": jnp.float32(-2.0)}
    results = [
        jax.jit(jaxloss.value_and_grad(terms, microbatches=n))(params, (images, texts))
        for n in (1, 4)
    ]
    for one, four in zip(*map(jax.tree.leaves, results), strict=True):
        assert one != 0
        np.testing.assert_allclose(four, one, rtol=1e-5)
