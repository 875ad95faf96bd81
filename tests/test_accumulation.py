"""What microbatches cost in accuracy: nothing here, and up to all of the gradient elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloss
from jaxloss import Concat, Deferred, Mean

PARTS, ROWS = 8, 32
MEAN = optax.microbatching.AccumulationType.MEAN


def error(found, truth):
    """Relative, of all leaves together."""
    found, truth = (
        np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
        for tree in (found, truth)
    )
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


def mean_of_gradients(loss, params, batch):
    """Of the parts of a batch, as everybody does it."""
    parts = jax.tree.map(lambda leaf: leaf.reshape(PARTS, -1, *leaf.shape[1:]), batch)
    grads = jax.lax.map(lambda part: jax.grad(loss)(params, part), parts)
    return jax.tree.map(lambda leaf: leaf.mean(0), grads)


# ------------------------------------------------------------ losses that are no mean over examples


def outputs(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def standard(z):
    z = z - z.mean(0, keepdims=True)
    return z / jnp.sqrt(jnp.mean(z**2, axis=0, keepdims=True) + 1e-6)


def dice(params, batch):
    p, y = outputs(params, batch[0]), (batch[1] > 0).astype(jnp.int32)
    y = jnp.stack([y, 1 - y], -1)
    return jaxloss.batch_dice_loss(jnp.stack([p, -p], -1), y, reduction=jaxloss.stats)


def pearson(rows):
    p, y = rows.rows
    return 1 - jnp.mean(standard(p) * standard(y))


def barlow(rows):
    p, y = rows.rows
    cross = standard(p).T @ standard(y) / p.shape[0]
    return jnp.sum((cross - jnp.eye(len(cross))) ** 2)


def of_rows(finish):
    return lambda params, batch: Deferred(Concat((outputs(params, batch[0]), batch[1])), finish)


def info_nce(params, batch):
    return jaxloss.info_nce_loss(outputs(params, batch[0]), batch[1], reduction=jaxloss.stats)


def confident(params, batch):
    p = outputs(params, batch[0])
    return Mean.of((p - batch[1]) ** 2, weights=jax.nn.sigmoid(3 * p))


COUPLED = {
    "dice of the batch": (dice, 0.01),
    "correlation": (of_rows(pearson), 0.2),
    "Barlow Twins": (of_rows(barlow), 0.2),
    "InfoNCE": (info_nce, 0.2),
    "weights of parameters": (confident, 0.02),
}


@pytest.mark.parametrize("name", COUPLED)
def test_a_loss_of_the_batch_has_its_gradient_only_from_statistics(name):
    loss_fn, least = COUPLED[name]
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(6, 8)) / 2, "v": rng.normal(size=(8, 5)) / 2}
    params, batch = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32),
        (params, (rng.normal(size=(ROWS, 6)), rng.normal(size=(ROWS, 5)))),
    )

    def whole(params, batch):
        return loss_fn(params, batch).value()

    @jax.jit
    def gradients(params, batch):
        _, exact = jaxloss.value_and_grad(loss_fn, microbatches=PARTS)(params, batch)
        return jax.grad(whole)(params, batch), exact, mean_of_gradients(whole, params, batch)

    with jax.default_matmul_precision("highest"):
        truth, exact, usual = gradients(params, batch)
    assert error(exact, truth) <= 1e-6 and error(usual, truth) >= least


# ----------------------------------------------------------------------- the tokens of a language


def lengths(name):
    rng = np.random.default_rng(0)
    drawn = np.clip(rng.lognormal(2, 0.8, ROWS).astype(int), 1, 32)
    return {
        "equal": np.full(ROWS, 12),
        "drawn": drawn,
        "sorted": np.sort(drawn),
        "one long": np.where(np.arange(ROWS) == 0, 32, 1),
        "one part empty": np.where(np.arange(ROWS) < ROWS // PARTS, 0, 12),
    }[name]


def tokens(params, batch):
    x, labels, where = batch
    logits = jnp.tanh(x @ params["w"]) @ params["head"]
    return jaxloss.softmax_cross_entropy_with_integer_labels(
        logits, labels, where=where, reduction=jaxloss.stats
    )


def mean_of_tokens(params, batch):
    return tokens(params, batch).value()


@jax.jit
def gradients_of_tokens(params, batch):
    """Of the whole batch, of ours, and of optax.MultiSteps and optax.microbatch."""
    _, exact = jaxloss.value_and_grad(tokens, microbatches=PARTS)(params, batch)
    steps = optax.MultiSteps(optax.sgd(1.0), PARTS)

    def part_of_step(carry, part):
        params, state = carry
        updates, state = steps.update(jax.grad(mean_of_tokens)(params, part), state, params)
        return (optax.apply_updates(params, updates), state), None

    parts = jax.tree.map(lambda leaf: leaf.reshape(PARTS, -1, *leaf.shape[1:]), batch)
    (after, _), _ = jax.lax.scan(part_of_step, (params, steps.init(params)), parts)
    multi_steps = jax.tree.map(jnp.subtract, params, after)
    by_parts = optax.microbatch(jax.grad(mean_of_tokens), 1, ROWS // PARTS, MEAN)
    return jax.grad(mean_of_tokens)(params, batch), exact, multi_steps, by_parts(params, batch)


@pytest.mark.parametrize("name", ["equal", "drawn", "sorted", "one long", "one part empty"])
def test_means_over_tokens_are_no_means_of_means(name):
    rng = np.random.default_rng(1)
    params = {"w": rng.normal(size=(8, 16)), "head": rng.normal(size=(16, 64)) / 4}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    x, labels = rng.normal(size=(ROWS, 32, 8)), rng.integers(0, 64, (ROWS, 32))
    where = np.arange(32) < lengths(name)[:, None]
    batch = (jnp.asarray(x, jnp.float32), jnp.asarray(labels, jnp.int32), jnp.asarray(where))
    promotion = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    with promotion[0], promotion[1], jax.default_matmul_precision("highest"):
        truth, exact, multi_steps, by_parts = gradients_of_tokens(params, batch)
    assert error(exact, truth) <= 1e-6
    errors = error(multi_steps, truth), error(by_parts, truth)
    if name == "equal":
        assert max(errors) <= 1e-5
    else:
        assert min(errors) >= 0.05 and max(errors) >= 0.1
