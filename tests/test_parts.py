"""What is particular to parts: targets, distances, pairs and miners, losses that are made."""

import functools

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloss
from jaxloss.core.class_options import uniform
from jaxloss.core.sparsemax import sparsemax


def test_smoothed_rows_sum_to_one_with_absent_classes(rng):
    present = rng.random((50, 7)) < 0.6
    present[:, 3] = True
    labels = np.where(present, rng.dirichlet(np.ones(7), size=50), 0).astype(np.float32)
    labels /= labels.sum(-1, keepdims=True)
    smooth = jaxloss.smooth_labels(np.where(present, labels, np.nan), 0.3, where=present)
    np.testing.assert_allclose(np.sum(smooth, -1), 1, rtol=1e-6)
    assert not np.asarray(smooth)[~present].any()
    want = 0.7 * labels + 0.3 * present / present.sum(-1, keepdims=True)
    np.testing.assert_allclose(smooth, want, rtol=1e-6)


def test_a_row_without_classes_holds_nothing():
    rows = jaxloss.smooth_labels(jnp.ones((2, 3)), 0.5, where=jnp.array([True, False]))
    np.testing.assert_array_equal(rows[1], 0)
    np.testing.assert_allclose(rows[0], 0.5 + 0.5 / 3, rtol=1e-6)


def test_smoothing_by_labels_is_smoothing_by_the_option(rng):
    logits = rng.normal(size=(20, 5)).astype(np.float32)
    logits[:, 2] = -np.inf
    labels = rng.choice([0, 1, 3, 4], 20)
    soft = jaxloss.smooth_labels(np.eye(5, dtype=np.float32)[labels], 0.1, where=logits > -np.inf)
    want = jaxloss.softmax_cross_entropy(logits, soft)
    index = jaxloss.softmax_cross_entropy_with_integer_labels
    np.testing.assert_allclose(index(logits, labels, label_smoothing=0.1), want, rtol=1e-6)


def test_the_share_that_is_smoothed_is_checked_and_has_a_gradient():
    labels = jnp.array([[1.0, 0.0]])
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], got 1.5"):
        jaxloss.smooth_labels(labels, 1.5)
    with pytest.raises(TypeError, match="labels must be floating, got int32"):
        jaxloss.smooth_labels(jnp.array([[1, 0]]), 0.5)
    slope = jax.jacobian(lambda alpha: jaxloss.smooth_labels(labels, alpha))(0.25)
    np.testing.assert_allclose(slope, [[-0.5, 0.5]])


def test_present_classes_share_alike():
    present = jnp.array([[True, True, False], [False, True, False], [False, False, False]])
    shares = uniform(present, jnp.zeros(3))
    np.testing.assert_array_equal(shares, [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 0]])


def test_class_balanced_weights_are_one_over_the_effective_number():
    counts, beta = np.array([5000, 900, 30, 1]), 0.999
    share = (1 - np.longdouble(beta)) / (1 - np.longdouble(beta) ** counts)
    got = jaxloss.class_balanced_weights(counts, beta=beta)
    np.testing.assert_allclose(got, 4 * share / share.sum(), rtol=1e-6)
    np.testing.assert_array_equal(jaxloss.class_balanced_weights(counts, beta=0.0), 1)


def test_class_balanced_weights_at_their_edges():
    near = jaxloss.class_balanced_weights(np.array([10, 30]), beta=1 - 1e-12)
    np.testing.assert_allclose(near, [1.5, 0.5], rtol=1e-6)
    missing = jaxloss.class_balanced_weights(np.array([10, 0, 10]), beta=0.9)
    np.testing.assert_allclose(missing, [1, 0, 1], rtol=1e-6)
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\), got 1.0"):
        jaxloss.class_balanced_weights(np.array([1, 2]), beta=1.0)


def targets_of(row, segments, pad):
    """Of each input its label, -1 for none, by a loop."""
    labels = []
    for t, token in enumerate(row):
        last = t == len(row) - 1
        padded = pad is not None and (token == pad or (not last and row[t + 1] == pad))
        cut = segments is not None and not last and segments[t] != segments[t + 1]
        labels.append(-1 if last or padded or cut else row[t + 1])
    return labels


TARGETS = jax.jit(jaxloss.next_token_targets)
SHAPES = st.sampled_from([(7,), (2, 7), (2, 1), (1, 0), (2, 2, 3)])  # few: each is compiled
TOKENS = SHAPES.flatmap(
    lambda shape: st.tuples(
        arrays.arrays(np.uint16, shape, elements=st.integers(0, 4)),
        st.none() | arrays.arrays(np.int32, shape, elements=st.integers(-1, 1)),
        st.none() | st.integers(-1, 5),
    )
)


@hypothesis.given(TOKENS)
@hypothesis.settings(max_examples=150)
def test_next_tokens_are_those_of_a_loop(given):
    tokens, segments, pad = given
    labels, where = TARGETS(tokens, segments, pad)
    assert labels.shape == where.shape == tokens.shape and labels.dtype == jnp.int32
    for row in np.ndindex(tokens.shape[:-1]):
        want = targets_of(tokens[row], None if segments is None else segments[row], pad)
        np.testing.assert_array_equal(labels[row], want)
    np.testing.assert_array_equal(where, np.asarray(labels) >= 0)


def test_packed_texts_have_the_loss_of_each_alone(rng):
    """Padding, and what comes after the end of a text, reaches neither value nor gradient."""
    texts = [rng.integers(1, 5, size) for size in (4, 1, 6)]
    tokens = np.concatenate([*texts, np.zeros(2, int)])
    segments = np.concatenate([*(np.full(len(t), i) for i, t in enumerate(texts, 1)), [0, 0]])
    logits = rng.normal(size=(13, 5)).astype(np.float32)
    logits[[3, 4, 10, 11, 12]] = np.nan  # what ends a text, and the padding
    loss = jaxloss.softmax_cross_entropy_with_integer_labels
    labels, where = jaxloss.next_token_targets(tokens, segments, pad_id=0)
    got, grad = jax.value_and_grad(loss)(jnp.asarray(logits), labels, where=where)
    predicted, following = [0, 1, 2, 5, 6, 7, 8, 9], np.concatenate([texts[0][1:], texts[2][1:]])
    p = np.exp(logits[predicted]) / np.exp(logits[predicted]).sum(-1, keepdims=True)
    np.testing.assert_allclose(got, -np.log(p[np.arange(8), following]).mean(), rtol=1e-5)
    assert np.isfinite(grad).all() and np.isnan(loss(logits, labels))


def test_next_tokens_say_what_they_are_given():
    with pytest.raises(TypeError, match="tokens must be integers, got float32"):
        jaxloss.next_token_targets(jnp.zeros(3))
    with pytest.raises(TypeError, match="pad_id must be integers, got float32"):
        jaxloss.next_token_targets(jnp.arange(3), pad_id=jnp.array(0.5))
    with pytest.raises(ValueError, match="tokens must have an axis of time"):
        jaxloss.next_token_targets(3)
    with pytest.raises(ValueError, match=r"segment_ids .* got \(3,\) and \(2, 3\)"):
        jaxloss.next_token_targets(jnp.zeros((2, 3), int), jnp.arange(3))


def test_distances_keep_their_digits(rng):
    """Close together and far from 0, where ‖x‖² + ‖y‖² - 2·x·y has none left; large and small."""
    x = (1e3 + rng.normal(size=(5, 4))).astype(np.float32)
    y = np.concatenate([x[:2] + np.float32(1e-3), x[2:4], 1e3 + rng.normal(size=(2, 4))])
    for scale in (1, 1e-33, 1e33):
        a, b = (scale * z.astype(np.float32) for z in (x, y))
        wide = [z.astype(np.longdouble) for z in (a, b)]
        want = np.sqrt(((wide[0][:, None] - wide[1][None]) ** 2).sum(-1))
        got = jaxloss.pairwise_distances(a, b)
        np.testing.assert_allclose(got, want, rtol=4 * float(np.finfo(np.float32).eps))
    want = ((x[:, None].astype(float) - y[None]) ** 2).sum(-1)
    got = jaxloss.pairwise_distances(x, y, squared=True)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-9)  # y is rounded


@pytest.mark.parametrize("squared", [False, True])
def test_the_gradient_at_distance_0_is_0(squared, rng):
    x = rng.normal(size=(4, 3)).astype(np.float32)
    x[1] = x[0]

    def total(x):
        return jnp.sum(jaxloss.pairwise_distances(x, x, squared=squared))

    apart = x[:, None] - x[None]
    length = np.linalg.norm(apart, axis=-1, keepdims=True)
    each = 2 * apart if squared else apart / np.where(length == 0, 1, length)
    np.testing.assert_allclose(jax.grad(total)(x), 2 * each.sum(1), rtol=1e-5, atol=1e-5)


def test_cosines_of_all_pairs(rng):
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    x[1] = 0
    sizes = np.linalg.norm(x, axis=-1)[:, None] * np.linalg.norm(y, axis=-1)
    want = x @ y.T / np.where(sizes == 0, 1, sizes)
    got = jaxloss.pairwise_cosine_similarities(x, y)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda x: jnp.sum(jaxloss.pairwise_cosine_similarities(x, y)))(jnp.array(x))
    assert np.isfinite(slope).all() and not slope[1].any()


@pytest.mark.parametrize("all_pairs", ["pairwise_distances", "pairwise_cosine_similarities"])
def test_rows_of_pairs_have_the_same_features(all_pairs):
    with pytest.raises(ValueError, match=r"x and y must be .* got \(2, 3\) and \(2, 4\)"):
        getattr(jaxloss, all_pairs)(jnp.ones((2, 3)), jnp.ones((2, 4)))


GROUPS = {
    "random": np.array([3, -1, 3, 3, 0, -1, 7, 0]),
    "one": np.full(8, 5),
    "all different": np.arange(8),
}
MASKS = (None, np.array([1, 1, 0, 1, 1, 0, 1, 1], bool), np.zeros(8, bool))
each_group = pytest.mark.parametrize("labels", GROUPS.values(), ids=GROUPS)
each_mask = pytest.mark.parametrize("where", MASKS, ids=["all", "some", "none"])


def pairs_of(labels, where):
    """Of each anchor the positives and the negatives, by a loop."""
    kept = range(len(labels)) if where is None else np.nonzero(where)[0]
    for i in kept:
        others = [j for j in kept if j != i]
        same = [j for j in others if labels[j] == labels[i]]
        yield i, same, [j for j in others if j not in same]


def mask_of(index, shape):
    mask = np.zeros(shape, bool)
    for place in index:
        mask[place] = True
    return mask


def nearest(d, i, others):
    return min(others, key=lambda j: (d[i, j], j))


@each_group
@each_mask
def test_pairs_and_miners_are_those_of_a_loop(labels, where, rng):
    x = rng.integers(0, 3, (8, 2)).astype(np.float32)  # some distances are equal
    d, shape = np.asarray(jaxloss.pairwise_distances(x, x)), (8, 8)
    every = list(pairs_of(labels, where))
    wanted = {
        jaxloss.positive_pairs: [(i, j) for i, same, _ in every for j in same],
        jaxloss.negative_pairs: [(i, j) for i, _, other in every for j in other],
        jaxloss.easy_positives: [(i, nearest(d, i, same)) for i, same, _ in every if same],
        jaxloss.hard_negatives: [(i, nearest(d, i, other)) for i, _, other in every if other],
    }
    for mine, index in wanted.items():
        given = (labels,) if mine in list(wanted)[:2] else (d, labels)
        got = jax.jit(mine)(*given, where=where)
        np.testing.assert_array_equal(got, mask_of(index, shape))
    between = [
        (i, p, n)
        for i, same, other in every
        for p in same
        for n in other
        if d[i, p] < d[i, n] < d[i, p] + np.float32(0.8)
    ]
    got = jax.jit(jaxloss.semi_hard_negatives)(d, labels, margin=0.8, where=where)
    np.testing.assert_array_equal(got, mask_of(between, (8, 8, 8)))


def test_miners_say_what_they_are_given():
    d, labels = jnp.zeros((3, 3)), jnp.array([0, 0, 1])
    with pytest.raises(ValueError, match=r"distances must be .* got \(3, 3\) and \(2,\)"):
        jaxloss.hard_negatives(d, labels[:2])
    with pytest.raises(TypeError, match="labels must be integers, got float32"):
        jaxloss.positive_pairs(jnp.zeros(3))
    with pytest.raises(ValueError, match=r"labels must be \[units\] integers, got shape \(3, 1\)"):
        jaxloss.positive_pairs(jnp.zeros((3, 1), int))
    with pytest.raises(ValueError, match="margin must be positive, got 0"):
        jaxloss.semi_hard_negatives(d, labels, margin=0)
    for miner in (jaxloss.hard_negatives, jaxloss.easy_positives):
        assert miner(jnp.zeros((0, 0)), jnp.zeros(0, int)).shape == (0, 0)


def test_fenchel_young_loss_of_log_sum_exp_is_the_cross_entropy(rng):
    """With the contract: where deletes, weights repeat, and it merges."""
    scores, targets = rng.normal(size=(2, 3, 4)), rng.dirichlet(np.ones(4), size=(2, 3))
    where, weights = np.array([[True, False, True], [True, True, False]]), rng.random((2, 3))
    loss = jaxloss.make_fenchel_young_loss(jax.nn.logsumexp)
    held = jnp.asarray(np.where(where[..., None], scores, np.nan), jnp.float32)
    for reduction in ("mean", None):
        masks = {"where": where, "weights": weights, "reduction": reduction}

        def both(loss, scores, masks=masks):
            return jnp.sum(loss(scores, targets, **masks))

        got, grad = jax.jit(jax.value_and_grad(functools.partial(both, loss)))(held)
        same = functools.partial(both, jaxloss.softmax_cross_entropy)
        want, wanted = jax.jit(jax.value_and_grad(same))(held)
        np.testing.assert_allclose(got, want, rtol=1e-5)
        np.testing.assert_allclose(grad, wanted, rtol=1e-5, atol=1e-7)
    statistics = jax.jit(functools.partial(loss, reduction=jaxloss.stats))
    whole = statistics(scores.astype(np.float32), targets)
    halves = [statistics(x.astype(np.float32), y) for x, y in zip(scores, targets, strict=True)]
    np.testing.assert_allclose(jaxloss.merge(halves).value(), whole.value(), rtol=1e-6)


def test_fenchel_young_losses_are_those_of_optax(rng):
    def best_shares(scores):
        p = sparsemax(scores)
        return jnp.vdot(p, scores) - jnp.vdot(p, p) / 2

    scores = rng.normal(size=(5, 4)).astype(np.float32)
    labels = rng.integers(4, size=5)
    hot = np.eye(4, dtype=np.float32)[labels]
    got = jaxloss.make_fenchel_young_loss(best_shares)(scores, hot, reduction=None)
    want = optax.losses.make_fenchel_young_loss(best_shares)(scores, hot)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    sparse = jaxloss.multiclass_sparsemax_loss(scores, labels, reduction=None)
    np.testing.assert_allclose(got + 0.5, sparse, rtol=1e-5, atol=1e-6)
