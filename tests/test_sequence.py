"""CTC against every path, against the peers, and at its edges."""

import functools
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.sequence import spelled

import jaxloss

STEPS, CLASSES, LENGTH = 6, 4, 4
LOGIT = st.one_of(st.floats(-30, 30, width=32), st.just(-np.inf))


@functools.cache
def texts(steps, blank):
    """Every path, and what it spells."""
    paths = list(itertools.product(range(CLASSES), repeat=steps))
    return np.array(paths).reshape(len(paths), steps), [spelled(path, blank) for path in paths]


def by_enumeration(logits, labels, blank):
    """-log Σ p of the paths that spell the labels, and p less the mass of each class on them."""
    x = logits.astype(np.longdouble)
    p = np.exp(x - x.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    paths, spell = texts(len(p), blank)
    right = np.array([text == tuple(labels) for text in spell])
    chances = p[np.arange(len(p)), paths].prod(-1) * right
    if not chances.any():
        return np.inf, np.zeros(p.shape)
    mass = [(chances[:, None] * (paths == k)).sum(0) for k in range(CLASSES)]
    return -np.log(chances.sum()), p - np.stack(mass, -1) / chances.sum()


@st.composite
def recordings(draw):
    """Logits with absent classes, labels with repeats, and what is deleted of both, anywhere."""
    blank = draw(st.sampled_from([0, 2]))
    row = st.lists(LOGIT, min_size=CLASSES, max_size=CLASSES).filter(lambda r: max(r) > -np.inf)
    logits = draw(st.lists(row, min_size=STEPS, max_size=STEPS))
    label = st.sampled_from([k for k in range(CLASSES) if k != blank])
    labels = draw(st.lists(label, min_size=LENGTH, max_size=LENGTH))
    kept = draw(st.lists(st.booleans(), min_size=STEPS, max_size=STEPS).filter(any))
    present = draw(st.lists(st.booleans(), min_size=LENGTH, max_size=LENGTH))
    return np.array(logits), np.array(labels), np.array(kept), np.array(present), blank


@functools.partial(jax.jit, static_argnums=4)
def loss_and_gradient(logits, labels, kept, present, blank):
    def loss(logits):
        return jaxloss.ctc_loss(
            logits[None],
            labels[None],
            label_where=present[None],
            blank_id=blank,
            where=kept[None],
        )

    return jax.value_and_grad(loss)(logits)


@hypothesis.given(recordings())
@hypothesis.settings(max_examples=300)
def test_ctc_is_the_sum_over_all_paths(recording):
    logits, labels, kept, present, blank = recording
    want, slope = by_enumeration(logits[kept], labels[present], blank)
    with jax.enable_x64(True):
        got, grad = map(np.asarray, loss_and_gradient(*recording))
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(grad[kept], slope, rtol=1e-10, atol=1e-12)
    assert got >= 0 and not grad[~kept].any()


def test_a_confident_recording_keeps_its_digits(rng):
    """From a loss of about 1 to one that rounds 1 - p to 0; it is never negative."""
    margin = np.linspace(1, 60, 60, dtype=np.float32)
    path = rng.integers(0, CLASSES, (60, 40))
    logits = jnp.asarray(margin[:, None, None] * np.eye(CLASSES)[path], jnp.float32)
    spelt = [np.array(spelled(row, 0)) for row in path]
    labels = np.array([np.pad(text, (0, 40 - len(text))) for text in spelt])
    present = np.arange(40) < np.array([[len(text)] for text in spelt])
    loss = jax.jit(functools.partial(jaxloss.ctc_loss, reduction=None))
    got = loss(logits, labels, label_where=present)
    with jax.enable_x64(True):
        want = np.asarray(loss(np.asarray(logits, np.float64), labels, label_where=present))
    assert (got >= 0).all() and 0 < got[-1] < 1e-23
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_a_long_recording_keeps_its_digits(rng):
    """Nothing that is summed over 400 steps is as large as the loss."""
    logits = (3 * rng.normal(size=(4, 400, 30))).astype(np.float32)
    labels = rng.integers(1, 30, (4, 60))
    both = jax.jit(jax.value_and_grad(jaxloss.ctc_loss))
    value, grad = both(logits, labels)
    with jax.enable_x64(True):
        want, slope = map(np.asarray, both(logits.astype(np.float64), labels))
    np.testing.assert_allclose(value, want, rtol=3e-7)
    np.testing.assert_allclose(grad, slope, atol=1e-5)
    np.testing.assert_allclose(np.sum(grad, -1), 0, atol=1e-7)


@pytest.mark.parametrize("labels", [[1, 2, 3], [1, 1]], ids=["too many", "a repeat"])
def test_what_no_path_spells(labels):
    """Infinite, or 0 if asked for, and nothing to learn; the other recording is there."""
    logits, labels = jnp.ones((2, 2, 4)), np.array([labels, np.roll(labels, 1)])
    present = np.stack([np.ones(labels.shape[1], bool), np.arange(labels.shape[1]) < 1])

    def loss(logits, reduction=None, **options):
        return jaxloss.ctc_loss(logits, labels, label_where=present, reduction=reduction, **options)

    one = -np.log(3 / 16)
    np.testing.assert_allclose(loss(logits), [np.inf, one], rtol=1e-6)
    np.testing.assert_allclose(loss(logits, zero_infinity=True), [0, one], rtol=1e-6, atol=0)
    for options in ({}, {"zero_infinity": True}):
        slope = jax.grad(lambda logits, given=options: loss(logits, "sum", **given))
        tangent = jnp.arange(16.0).reshape(2, 2, 4)
        for derivative in jax.jit(functools.partial(jax.jvp, slope))((logits,), (tangent,)):
            assert not derivative[0].any() and derivative[1].any()
            assert np.isfinite(derivative).all()


def test_no_labels_no_steps():
    """Blanks alone spell nothing, and nothing at all does too."""
    logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    assert np.allclose(jaxloss.ctc_loss(logits, np.zeros(0, int)), -np.log(0.25 * 0.5))
    assert np.allclose(jaxloss.ctc_loss(logits, np.zeros(0, int), blank_id=1), -np.log(0.75 / 2))
    assert jaxloss.ctc_loss(logits[:0], np.zeros(0, int)) == 0
    assert jaxloss.ctc_loss(logits[:0], np.ones(1, int)) == np.inf
    assert jaxloss.ctc_loss(logits, np.ones(1, int), where=np.zeros(2, bool)) == 0


@pytest.mark.parametrize("blank_id", [0, 2])
def test_the_blank_is_no_label(blank_id, rng):
    logits = rng.normal(size=(2, 5, 3)).astype(np.float32)
    labels = np.array([[1, blank_id], [1, 1]])
    values = jaxloss.ctc_loss(logits, labels, blank_id=blank_id, reduction=None)
    assert np.isnan(values).tolist() == [True, False]
    last = np.array([[True, False], [True, True]])  # a label that is not there may be anything
    assert np.isfinite(jaxloss.ctc_loss(logits, labels, label_where=last, blank_id=blank_id))
    with pytest.raises(Exception, match=rf"labels\[0, 1\] is {blank_id}: .* not the blank"):
        jaxloss.checked(jaxloss.ctc_loss)(logits, labels, blank_id=blank_id)


def test_errors_of_ctc_name_the_argument():
    logits, labels = np.zeros((2, 5, 3), np.float32), np.ones((2, 4), int)
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=rf"blank_id must be in \[0, 3\).*got {wrong}"):
            jaxloss.ctc_loss(logits, labels, blank_id=wrong)
    with pytest.raises(TypeError, match="labels must be integers"):
        jaxloss.ctc_loss(logits, labels.astype(np.float32))
    with pytest.raises(TypeError, match="label_where must be boolean"):
        jaxloss.ctc_loss(logits, labels, label_where=labels)
    with pytest.raises(ValueError, match=r"label_where .*\(2, 1\) and \(2, 4\)"):
        jaxloss.ctc_loss(logits, labels, label_where=np.ones((2, 1), bool))


def prefixes(logits, labels, blank_id=0):
    """exp of the forward log probabilities, by enumeration of the first steps."""
    steps, length = len(logits), len(labels)
    blanks, ended = np.zeros((steps, length + 1)), np.zeros((steps, length))
    p = np.asarray(jax.nn.softmax(logits))
    for t in range(steps):
        for path in itertools.product(range(logits.shape[-1]), repeat=t + 1):
            text, chance = spelled(path, blank_id), p[np.arange(t + 1), path].prod()
            if text == tuple(labels[: len(text)]):
                place = blanks[t] if path[-1] == blank_id else ended[t, :]
                place[len(text) - (path[-1] != blank_id)] += chance
    blanks[-1, 1:] += ended[-1]
    return blanks, ended


def test_forward_probabilities_are_sums_over_paths(rng):
    """Shaped as Optax's: steps first; they are differentiable, and deleted steps stand still."""
    logits, labels = rng.normal(size=(4, 3)).astype(np.float32), np.array([1, 1, 2])
    where = np.array([True, False, True, True, True])
    padded = np.insert(logits, 1, np.nan, axis=0)
    loss, *alphas = jax.jit(jaxloss.ctc_loss_with_forward_probs)(
        jnp.stack([padded, padded]), np.stack([labels, labels]), where=np.stack([where, where])
    )
    np.testing.assert_allclose(loss, [jaxloss.ctc_loss(logits, labels)] * 2, rtol=1e-6)
    for got, want in zip(alphas, prefixes(logits, labels), strict=True):
        assert got.shape == (5, 2, want.shape[-1])
        np.testing.assert_array_equal(got[1], got[0])
        for each in (0, 1):
            np.testing.assert_allclose(np.exp(got[where, each]), want, rtol=1e-5, atol=1e-7)

    def last(logits):
        return jaxloss.ctc_loss_with_forward_probs(logits, labels)[1][-1, -1]

    slope = jax.jit(jax.grad(jaxloss.ctc_loss))(logits, labels)
    np.testing.assert_allclose(jax.jit(jax.grad(last))(logits), -slope, rtol=1e-4, atol=1e-6)
