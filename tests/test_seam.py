"""What may compute the gradient of a step: every example by itself, every term by itself."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloss
from jaxloss import Aux, Concat, Deferred, Mean


def parameters():
    rng = np.random.default_rng(0)
    w, v = rng.normal(size=(3, 4)), rng.normal(size=(4, 2))
    return {"w": jnp.asarray(w, jnp.float32), "v": jnp.asarray(v, jnp.float32)}


def data(rows=16):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(rows, 3))
    y = 4 * x[:, :2] + rng.normal(size=(rows, 2))
    where = rng.random(rows) < 0.7
    return {"x": x.astype(np.float32), "y": y.astype(np.float32), "where": where}


def model(params, batch):
    return jnp.tanh(batch["x"] @ params["w"]) @ params["v"]


def loss_fn(params, batch):
    p, where = model(params, batch), batch["where"]
    loss = jaxloss.squared_error(p, batch["y"], where=where, reduction=jaxloss.stats)
    return loss, Aux(metrics={"size": Mean.of(jnp.abs(p), where[:, None] & (p == p))})


def close(actual, expected, relative=1e-6):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        assert a.shape == e.shape
        assert np.abs(a - e).max() <= relative * max(np.abs(e).max(), 1e-30)


# --------------------------------------------------------------------------------- per example


def of_each(params, batch, clip):
    """The clipped gradients, one by one."""
    clipped, gradient = [], jax.jit(jax.grad(lambda params, one: loss_fn(params, one)[0].value()))
    for i in range(len(batch["where"])):
        one = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], batch)
        grad = jax.tree.map(np.asarray, gradient(params, one))
        size = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(grad)))
        times = min(1.0, clip / size) if size else 0.0
        clipped.append(jax.tree.map(lambda leaf, times=times: times * leaf, grad))
    return clipped


@pytest.mark.parametrize("n", [1, 4])
def test_gradients_of_examples_are_clipped_one_by_one(n):
    params, batch, clip = parameters(), data(), 12.0
    private = jaxloss.per_example(clip=clip)(loss_fn, microbatches=n, has_aux=True)
    (value, aux), grads = jax.jit(private)(params, batch)
    each = of_each(params, batch, clip)
    sizes = [np.linalg.norm(flat(grad)) for grad in each]
    assert min(sizes) == 0 and max(sizes) > 11.9 and any(0 < size < 11 for size in sizes)
    close(grads, jax.tree.map(lambda *leaf: sum(leaf) / 16, *each))
    (expected, whole), _ = jax.jit(jaxloss.value_and_grad(loss_fn, has_aux=True))(params, batch)
    close((value, aux.metrics["size"]), (expected, whole.metrics["size"]))


def test_it_is_the_aggregate_of_optax():
    params, batch, clip = parameters(), data(), 0.7
    batch["where"][:] = True

    def one(params, row):
        return loss_fn(params, jax.tree.map(lambda leaf: leaf[None], row))[0].value()

    each = jax.jit(jax.vmap(jax.grad(one), (None, 0)))(params, batch)
    tx = optax.contrib.differentially_private_aggregate(clip, 0.0, jax.random.key(0))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected, _ = jax.jit(tx.update)(each, tx.init(params), params)
    _, grads = jax.jit(jaxloss.per_example(clip=clip)(loss_fn))(params, batch)
    close(grads, expected)


@pytest.mark.parametrize("size", [1e25, 1.0, 1e-25])
def test_no_size_of_a_gradient_is_too_large_or_too_small(size):
    """Its square is, in float32."""
    batch = size * jnp.array([[3.0, 4.0], [0.0, 0.0]])
    linear = jaxloss.per_example(clip=1.0)(lambda w, x: Mean.of(x @ w))
    each = min(1.0, 1 / (5 * size)) * size
    np.testing.assert_allclose(linear(jnp.ones(2), batch)[1] / each, [1.5, 2], rtol=1e-6)
    apart = jaxloss.pcgrad(lambda w, x: {"a": Mean.of(x @ w), "b": Mean.of(-0.5 * (x @ w))})
    np.testing.assert_array_equal(apart(jnp.ones(2), batch)[1], [0, 0])


def test_a_parameter_may_be_a_number():
    value, grad = jaxloss.per_example(clip=1.0)(lambda w, x: Mean.of(w * x))(1.0, jnp.ones(2))
    assert value == grad == 1


def test_a_term_may_be_a_number():
    def terms(w, x) -> Any:
        return {"of x": Mean.of(w * x), "none": 0.0}

    value, grad = jaxloss.value_and_grad(terms)(jnp.ones(2), jnp.ones(2))
    assert value == 1
    np.testing.assert_array_equal(grad, [0.5, 0.5])


def test_noise_has_its_size_and_is_new_in_every_step():
    def flat(w, x):
        return Mean.of(0 * w[0] * x)

    private = jaxloss.per_example(clip=2.0, noise_multiplier=3.0, key=jax.random.key(1))(flat)
    w, x = jnp.ones(20000), jnp.ones(4)
    (_, first), (_, again), (_, other) = (private(w, x, step=step) for step in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert abs(np.mean(first)) < 0.05 and abs(np.std(first) - 2 * 3 / 4) < 0.03
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.03
    with pytest.raises(ValueError, match="noise needs the number of the step"):
        private(w, x)
    with pytest.raises(ValueError, match="noise needs a key"):
        jaxloss.per_example(clip=1.0, noise_multiplier=1.0)
    for clip, noise in ((0.0, 0.0), (np.nan, 0.0), (1.0, -1.0)):
        with pytest.raises(
            ValueError, match=r"clip must be positive, got .*; noise_multiplier 0 or more"
        ):
            jaxloss.per_example(clip=clip, noise_multiplier=noise)


def nearest(rows):
    return jax.nn.logsumexp(rows.rows)


def test_examples_have_rngs_of_their_own_and_leave_the_model_state():
    def noisy(w, x, *, rng, model_state):
        noise = w * x * jax.random.normal(rng, x.shape)
        return Deferred(Concat(noise), nearest), Aux(model_state + 1, {"noise": Mean.of(noise)})

    private = jaxloss.per_example(clip=100.0)
    step = jaxloss.make_train_step(noisy, optax.sgd(1.0), value_and_grad=private, microbatches=2)
    key = jax.random.key(0)
    state = step.init(jnp.array(1.0), rng=key, model_state=jnp.array(5))
    state, metrics = step(state, jnp.ones(6))
    folded = jax.random.fold_in(key, 0)
    noise = [jax.random.normal(jax.random.fold_in(folded, i), (1,))[0] for i in range(6)]
    close(metrics["noise"].value(), np.mean(noise), 1e-5)
    close(metrics["loss"].value(), jax.nn.logsumexp(jnp.stack(noise)))
    close(state.params, 1 - np.mean(noise), 1e-5)
    assert state.model_state == 5


# ------------------------------------------------------------------------------------- per term


NAMES = ("against", "fit", "size")


def terms(params, batch):
    p, where = model(params, batch), batch["where"]
    fit = jaxloss.squared_error(p, batch["y"], where=where, reduction=jaxloss.stats)
    against = jaxloss.squared_error(p, -batch["y"], where=where, reduction=jaxloss.stats)
    size = jaxloss.root_mean_squared_error(p, 0 * p, where=where, reduction=jaxloss.stats)
    return {"fit": fit, "against": 0.5 * against, "size": 3 * size}, Aux(
        metrics={"seen": Mean.of(jnp.ones(len(where)), where)}
    )


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


def each_term(params, batch):
    def of(name):
        return jax.value_and_grad(lambda params: terms(params, batch)[0][name].value())

    results = jax.jit(lambda params: {name: of(name)(params) for name in NAMES})(params)
    values = np.array([float(value) for value, _ in results.values()])
    return values, np.stack([flat(grad) for _, grad in results.values()])


def projected(grads, orders):
    """The paper's algorithm, on the gradients themselves."""
    total = 0
    for i, order in enumerate(orders):
        g = grads[i].copy()
        for j in order:
            if j != i and g @ grads[j] < 0:
                g -= (g @ grads[j]) / (grads[j] @ grads[j]) * grads[j]
        total = total + g
    return total


@pytest.mark.parametrize("n", [1, 4])
def test_pcgrad_is_the_algorithm_of_the_paper(n):
    params, batch = parameters(), data()
    values, grads = each_term(params, batch)
    assert (grads @ grads.T).min() < 0
    surgery = jaxloss.pcgrad(terms, microbatches=n, has_aux=True)
    (value, aux), grad = jax.jit(surgery)(params, batch)
    expected = projected(grads, 3 * [range(3)])
    close(flat(grad), expected, 3e-6)
    assert np.abs(expected - grads.sum(0)).max() > 0.1 * np.abs(expected).max()
    close(value, values.sum())
    assert aux.metrics.keys() == {"loss", "fit", "against", "size", "seen"}
    close(
        aux.metrics["seen"], Mean(jnp.array(batch["where"].sum()), jnp.array(batch["where"].sum()))
    )
    close([aux.metrics[name].value() for name in NAMES], values.tolist())


def test_the_order_of_pcgrad_is_random_with_an_rng():
    params, batch = parameters(), data()
    _, grads = each_term(params, batch)
    orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    possible = [projected(grads, [a, b, c]) for a in orders for b in orders for c in orders]
    surgery = jax.jit(jaxloss.pcgrad(terms))
    seen = set()
    for seed in range(8):
        _, grad = surgery(params, batch, rng=jax.random.key(seed))
        away = [np.abs(flat(grad) - each).max() for each in possible]
        assert min(away) < 1e-5 * np.abs(grads).max()
        seen.add(flat(grad).round(4).tobytes())
    assert len(seen) > 1


@pytest.mark.parametrize("shared", [True, lambda path: path == "w"])
def test_gradnorm_is_the_algorithm_of_the_paper(shared):
    params, batch = parameters(), data()
    values, grads = each_term(params, batch)
    weights = {name: jnp.array(w) for name, w in zip(NAMES, (2.0, 1.0, 6.0), strict=True)}
    first = {"against": 12.0, "fit": 2.0, "size": 4.0}
    balance = jaxloss.gradnorm(first, alpha=0.5, shared=shared)
    balanced = jax.jit(balance(terms, microbatches=2, has_aux=True))
    (value, _), grad = balanced({**params, "loss_weights": weights}, batch)
    w = np.array([2.0, 1.0, 6.0]) / 3
    over = grads if shared is True else grads[:, params["v"].size :]  # leaves in order v, w
    norms = np.linalg.norm(over, axis=1)
    shares = values / np.array(list(first.values()))
    target = np.mean(w * norms) * (shares / shares.mean()) ** 0.5
    slopes = np.sign(w * norms - target) * norms
    close([grad["loss_weights"][name] for name in NAMES], slopes.tolist(), 2e-6)
    close(flat({"v": grad["v"], "w": grad["w"]}), w @ grads, 2e-6)
    close(value, values.sum())


def test_gradnorm_lets_unequal_terms_train_at_one_pace():
    """Two targets of very different sizes; plain sums neglect the small one."""

    def two(params, x):
        errors = {"large": 30 * (params["a"] - 1) * x, "small": (params["b"] - 1) * x}
        return {name: Mean.of(error**2) for name, error in errors.items()}

    first = {"large": 900.0, "small": 1.0}
    ones = dict.fromkeys(first, jnp.ones(()))
    step = jaxloss.make_train_step(
        two, optax.adam(1e-2), value_and_grad=jaxloss.gradnorm(first, alpha=1.0), nonfinite="skip"
    )
    state = step.init({"a": jnp.zeros(()), "b": jnp.zeros(()), "loss_weights": ones})
    for _ in range(100):
        state, _ = step(state, jnp.ones(4))
    weights = state.params["loss_weights"]
    assert weights["small"] > 5 * weights["large"] > 0 and state.skipped == 0


def test_a_seam_of_ones_own():
    def halved(loss_fn, **options):
        gradient = jaxloss.value_and_grad(loss_fn, **options)

        def call(params, batch, **given):
            result, grads = gradient(params, batch, **given)
            return result, jax.tree.map(lambda grad: grad / 2, grads)

        return call

    ends = []
    for rate, seam in ((0.1, jaxloss.value_and_grad), (0.2, halved)):
        step = jaxloss.make_train_step(loss_fn, optax.sgd(rate), value_and_grad=seam)
        state, metrics = step(step.init(parameters()), data())
        ends.append((state.params, metrics["loss"].value(), metrics["size"].value()))
    close(ends[1], ends[0])


def test_terms_that_are_none_are_explained():
    batch: Any = data()
    with pytest.raises(TypeError, match=r"must return a dict of terms.*got Mean"):
        jaxloss.pcgrad(loss_fn)(parameters(), batch)
    balance = functools.partial(jaxloss.gradnorm({"fit": 1.0})(terms), batch=batch)
    with pytest.raises(ValueError, match="must name the terms against, fit, size, got fit and fit"):
        balance({**parameters(), "loss_weights": {"fit": jnp.ones(())}})
