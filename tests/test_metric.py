"""What is particular to metric learning: centers that follow, angles at their ends, detachment."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloss

FACES = {
    "sphereface": (jaxloss.sphereface_loss, jaxloss.sphereface_logits, {"margin": 3}),
    "cosface": (jaxloss.cosface_loss, jaxloss.cosface_logits, {"margin": 0.3, "scale": 8.0}),
    "arcface": (jaxloss.arcface_loss, jaxloss.arcface_logits, {"margin": 0.3, "scale": 8.0}),
}
each_face = pytest.mark.parametrize("face", FACES)


def expressions(rng, units=96, features=8, classes=4):
    """Faces of a few expressions."""
    labels = rng.integers(0, classes, units)
    x = rng.normal(size=(classes, features))[labels] + 0.7 * rng.normal(size=(units, features))
    return x.astype(np.float32), labels


def facial_expression_terms(params, batch, model_state):
    """Softmax, center and island terms and cosine distance; the state is Wen's centers."""
    x, labels = batch
    embeddings = jnp.tanh(x @ params["embed"])
    cross_entropy = jaxloss.softmax_cross_entropy_with_integer_labels
    mean, own = jaxloss.stats, model_state[labels]
    terms = {
        "softmax": cross_entropy(embeddings @ params["head"], labels, reduction=mean),
        "center": 0.1 * jaxloss.center_loss(embeddings, model_state, labels, reduction=mean),
        "island": 0.1 * jaxloss.island_loss(embeddings, params["centers"], labels, reduction=mean),
        "cosine": 0.1 * jaxloss.cosine_distance(embeddings, own, reduction=mean),
    }
    return terms, jaxloss.Aux(jaxloss.update_centers(model_state, embeddings, labels))


def largest_cosine(centers):
    cosines = jaxloss.pairwise_cosine_similarities(centers, centers)
    return float(jnp.max(jnp.where(jnp.eye(len(centers), dtype=bool), -1, cosines)))


def test_the_losses_of_facial_expressions_train_together(rng):
    batch = expressions(rng)
    centers = (0.1 + 0.01 * rng.normal(size=(4, 4))).astype(np.float32)
    params = {
        "embed": 0.3 * rng.normal(size=(8, 4)).astype(np.float32),
        "head": 0.3 * rng.normal(size=(4, 4)).astype(np.float32),
        "centers": centers,
    }
    step = jaxloss.make_train_step(facial_expression_terms, optax.adam(0.03))
    state, history = step.init(params, model_state=centers), []
    for _ in range(80):
        state, metrics = step(state, batch)
        history.append({name: float(term.value()) for name, term in metrics.items()})
    first, last = history[0], history[-1]
    assert set(first) == {"loss", "softmax", "center", "island", "cosine", "grad_norm"}
    terms = [last[name] for name in ("softmax", "center", "island", "cosine")]
    np.testing.assert_allclose(last["loss"], sum(terms), rtol=1e-6)
    assert last["loss"] < 0.5 * first["loss"]
    assert largest_cosine(centers) > 0.95
    assert largest_cosine(state.params["centers"]) < 0.5  # turned away by the island loss
    assert largest_cosine(state.model_state) < 0.8  # taken along by the embeddings


def test_centers_follow_by_the_rule_of_the_paper(rng):
    centers, x = rng.normal(size=(5, 3)), rng.normal(size=(4, 5, 3))
    labels, where = rng.integers(0, 4, (4, 5)), rng.random((4, 5)) < 0.7
    want = centers.copy()
    for j in range(5):
        own = x[(labels == j) & where]
        want[j] -= 0.3 * sum((centers[j] - each for each in own), 0 * want[j]) / (1 + len(own))
    x[~where], labels[~where] = np.nan, -100
    got = jaxloss.update_centers(centers, x, labels, alpha=0.3, where=where)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(got[4], centers[4].astype(np.float32))
    slope = jax.grad(lambda x: jnp.sum(jaxloss.update_centers(centers, x, labels, where=where)))
    assert not slope(x.astype(np.float32)).any()


def test_the_pairs_of_an_island_are_counted_once_by_the_mean():
    centers, labels = jnp.eye(3), jnp.array([0, 1, 2, 0])
    loss = functools.partial(jaxloss.island_loss, centers, centers, labels[:3], pair_weight=2.0)
    assert loss() == 2 * 6 and loss(reduction="sum") == 3 * 2 * 6


@each_face
def test_logits_are_those_of_the_loss(face, rng):
    loss, logits, options = FACES[face]
    x, head = rng.normal(size=(7, 3)), rng.normal(size=(3, 5))
    labels = rng.integers(0, 5, 7)
    want = jaxloss.softmax_cross_entropy_with_integer_labels(
        logits(x, head, labels, **options), labels
    )
    np.testing.assert_allclose(loss(x, head, labels, **options), want, rtol=1e-6)


@each_face
def test_no_margin_is_a_softmax_of_cosines(face, rng):
    _, logits, options = FACES[face]
    none = {"margin": 1} if face == "sphereface" else {"margin": 0.0, "scale": 2.0}
    x, head, labels = rng.normal(size=(7, 3)), rng.normal(size=(3, 5)), rng.integers(0, 5, 7)
    cosines = np.asarray(jaxloss.pairwise_cosine_similarities(x, head.T))
    sizes = np.linalg.norm(x, axis=-1)[:, None] if face == "sphereface" else 2.0
    np.testing.assert_allclose(logits(x, head, labels, **none), sizes * cosines, rtol=1e-5)
    assert (
        (np.asarray(logits(x, head, labels, **options))[range(7), labels]).sum()
        < ((sizes if face == "sphereface" else 8.0) * cosines)[range(7), labels].sum()
    )


@each_face
@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0])
def test_gradients_are_finite_at_the_ends_of_the_angle(face, sign):
    """Along the class, against it, and at an embedding without direction; of both orders."""
    loss, _, options = FACES[face]
    head = jnp.array([[1.0, 0.0, 0.5], [2.0, 1.0, 0.0]])
    x, labels = sign * head[:, :1].T, jnp.array([0])
    loss = functools.partial(loss, labels=labels, **options)
    derivatives = jax.jit(lambda *args: (loss(*args), jax.grad(loss, (0, 1))(*args)))
    curves = jax.jit(jax.hessian(loss))
    for derivative in jax.tree.leaves((derivatives(x, head), curves(x, head))):
        assert np.isfinite(derivative).all()


@each_face
def test_the_logit_of_the_label_falls_with_the_angle(face):
    """From 0 to π, past π - margin too."""
    _, logits, options = FACES[face]
    angles = jnp.linspace(0.0, jnp.pi, 400)
    x = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    own = logits(x, jnp.eye(2), jnp.zeros(400, int), **options)[:, 0]
    assert np.all(np.diff(own) < 1e-5)


def test_margin_of_sphereface_is_a_whole_number():
    margins: tuple[Any, ...] = (0, 2.5)
    for margin in margins:
        with pytest.raises(ValueError, match="margin must be an integer of 1 or more"):
            jaxloss.sphereface_logits(jnp.ones((1, 2)), jnp.eye(2), jnp.array([0]), margin=margin)


def test_a_head_or_centers_of_another_size_raise():
    x, labels = jnp.ones((2, 3)), jnp.array([0, 1])
    with pytest.raises(ValueError, match=r"head must .* got \(4, 5\) and \(2, 3\)"):
        jaxloss.arcface_loss(x, jnp.ones((4, 5)), labels)
    with pytest.raises(ValueError, match=r"centers must .* got \(5, 4\) and \(2, 3\)"):
        jaxloss.center_loss(x, jnp.ones((5, 4)), labels)


@pytest.mark.parametrize("classes", [0, 1])
def test_few_classes(classes):
    head, labels, nobody = jnp.ones((3, classes)), jnp.array([0, 0]), jnp.zeros(2, bool)
    for loss, _, options in FACES.values():
        want = 0.0 if classes else np.nan
        np.testing.assert_allclose(loss(jnp.ones((2, 3)), head, labels, **options), want)
        assert loss(jnp.ones((2, 3)), head, labels, where=nobody, **options) == 0
    want = np.nan if not classes else 0.0
    np.testing.assert_allclose(jaxloss.center_loss(jnp.ones((2, 3)), head.T, labels), want)


def test_modes_of_circle_loss_agree(rng):
    """Its pair weights are constants, so that differences of the loss say nothing of them."""
    x, labels = rng.normal(size=(6, 3)), np.array([0, 1, 1, 0, 1, 2])
    v = rng.normal(size=x.shape)
    with jax.enable_x64(True):
        loss = functools.partial(jaxloss.circle_loss, labels=labels, gamma=8.0)
        slope = jax.grad(loss)

        @jax.jit
        def modes(x):
            first = jnp.vdot(slope(x), v), jax.jvp(loss, (x,), (v,))[1]
            second = [jnp.tensordot(d(slope)(x), v, 2) for d in (jax.jacfwd, jax.jacrev)]
            return first, second, jax.vmap(loss)(jnp.stack([x, 2 * x]))

        for one, other in modes(x):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_circle_loss_needs_a_positive_and_a_negative(rng):
    x = rng.normal(size=(5, 3)).astype(np.float32)
    both = jax.jit(jax.value_and_grad(jaxloss.circle_loss))
    for labels in (np.zeros(5, int), np.arange(5)):
        value, slope = both(x, labels)
        assert value == 0 and not slope.any()
    labels = np.array([0, 0, 1, 2, 3])
    values = jax.jit(functools.partial(jaxloss.circle_loss, reduction=None))(x, labels)
    assert not values[2:].any()
    np.testing.assert_allclose(both(x, labels)[0], values[:2].mean(), rtol=1e-6)


def test_a_distance_of_the_caller_takes_the_place_of_the_norm(rng):
    a, p, n = rng.normal(size=(3, 6, 4)).astype(np.float32)

    def manhattan(x, y):
        return jnp.sum(jnp.abs(x - y), axis=-1)

    got = jaxloss.triplet_margin_loss(a, p, n, distance=manhattan)
    np.testing.assert_allclose(got, jaxloss.triplet_margin_loss(a, p, n, norm=1), rtol=1e-6)
    with pytest.raises(ValueError, match=r"norm must be left at 2 where a distance is given"):
        jaxloss.triplet_margin_loss(a, p, n, distance=manhattan, norm=1)
    with pytest.raises(ValueError, match=r"distance must take the last axis away: of \(6, 4\)"):
        jaxloss.triplet_margin_loss(a, p, n, distance=lambda x, y: x - y)


def test_a_margin_in_degrees_is_told(rng):
    with pytest.raises(ValueError, match=r"margin must be in \[0, π\], got 28.6"):
        jaxloss.arcface_loss(jnp.ones((1, 2)), jnp.eye(2), jnp.zeros(1, int), margin=28.6)


@pytest.mark.parametrize("norm", [1.0, 1.5, 2.0, 3.0, np.inf])
def test_norms_of_triplets(norm, rng):
    """Where Optax leaves out the absolute value; at equal points the gradient is 0."""
    a, p, n = rng.normal(size=(3, 6, 4))
    want = np.maximum(
        0,
        np.linalg.norm(a - p, norm, axis=-1) - np.linalg.norm(a - n, norm, axis=-1) + 1,
    )
    with jax.enable_x64(True):
        got = jaxloss.triplet_margin_loss(a, p, n, norm=norm, reduction=None)
        np.testing.assert_allclose(got, want, rtol=1e-12)
        slope = jax.grad(jaxloss.triplet_margin_loss, 0)(a, a, a, norm=norm)
        assert not slope.any()
        of_norm = jax.grad(lambda x: jaxloss.triplet_margin_loss(a, p, n, norm=x))(norm)
        h = 1e-6
        up, down = (
            jaxloss.triplet_margin_loss(a, p, n, norm=norm + x) for x in (h, -h if norm > 1 else 0)
        )
        wide = 2 * h if norm > 1 else h
        if np.isfinite(norm):
            np.testing.assert_allclose(of_norm, (up - down) / wide, rtol=1e-5)


@pytest.mark.parametrize(
    ("norm", "slope"),
    [(1.0, [1, -1, 0]), (2.0, [0.5**0.5, -(0.5**0.5), 0]), (np.inf, [0.5, -0.5, 0])],
)
def test_equal_differences_share_the_gradient_of_a_norm(norm, slope):
    a, far = jnp.array([[2.0, -2.0, 0.0]]), jnp.array([[0.0, 0.0, 0.0]])
    loss = functools.partial(jaxloss.triplet_margin_loss, norm=norm, margin=9.0)
    np.testing.assert_allclose(jax.grad(loss)(a, far, jax.lax.stop_gradient(a))[0], slope)
