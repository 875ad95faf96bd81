"""Training: a batch in parts is the batch, a step is an update, and what `fit` records is true."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxloss
from jaxloss import Aux, Concat, Deferred, Mean, Sum

PARTS = [1, 2, 4, 8]
STATS = jaxloss.stats


def model(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def parameters(rng):
    w, v = rng.normal(size=(5, 7)) / 2, rng.normal(size=(7, 3)) / 2
    return {
        "w": jnp.asarray(w, jnp.float32),
        "v": jnp.asarray(v, jnp.float32),
        "scale": jnp.array(1.5),
    }


def data(rng, rows=16):
    """A batch whose rows 3, 7, 11, ... are masked: with 4 or 8 parts, some are empty."""
    where = rng.random((rows, 3)) < 0.6
    where[3::4] = False
    where[0] = True
    return {
        "x": rng.normal(size=(rows, 5)).astype(np.float32),
        "y": rng.normal(size=(rows, 3)).astype(np.float32),
        "label": rng.integers(0, 3, rows),
        "where": where,
    }


def close(actual, expected, relative=1e-6):
    """To a part of the largest entry of each leaf."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        assert a.shape == e.shape
        assert np.abs(a - e).max(initial=0) <= relative * max(np.abs(e).max(initial=0), 1e-30)


# --------------------------------------------------------------------------- losses, two ways each
# a training loss of statistics, and the same on the rows that `where` keeps, in plain JAX


def masked_mean(params, batch):
    p = model(params, batch["x"])
    return jaxloss.squared_error(p, batch["y"], where=batch["where"], reduction=STATS)


def masked_mean_truth(params, batch):
    e = (model(params, batch["x"]) - batch["y"])[np.nonzero(batch["where"])]
    return jnp.mean(e**2)


def terms(params, batch):
    p = model(params, batch["x"])
    return {
        "fit": masked_mean(params, batch),
        "size": 0.1 * Mean.of(jnp.abs(p)),
        "decay": Mean.constant(0.01 * jnp.sum(params["w"] ** 2)),
    }


def terms_truth(params, batch):
    size = jnp.mean(jnp.abs(model(params, batch["x"])))
    return masked_mean_truth(params, batch) + 0.1 * size + 0.01 * jnp.sum(params["w"] ** 2)


def confident(params, batch):
    """Weights that depend on the parameters."""
    p = model(params, batch["x"])
    return Mean.of((p - batch["y"]) ** 2, weights=jax.nn.sigmoid(params["scale"] * p))


def confident_truth(params, batch):
    p = model(params, batch["x"])
    weights = jax.nn.sigmoid(params["scale"] * p)
    return jnp.sum(weights * (p - batch["y"]) ** 2) / jnp.sum(weights)


def total(params, batch):
    return Sum(jnp.sum(jnp.cosh(model(params, batch["x"]))))


def root_mean(params, batch):
    p = model(params, batch["x"])
    return jaxloss.root_mean_squared_error(p, batch["y"], where=batch["where"], reduction=STATS)


def root_mean_truth(params, batch):
    return jnp.sqrt(masked_mean_truth(params, batch))


def overlap(sums):
    return 1 - (2 * sums["both"] + 1) / (sums["one"] + sums["other"] + 1)


def dice(params, batch):
    """One minus the overlap of two soft sets, over the whole batch."""
    p = jnp.where(batch["where"], jax.nn.sigmoid(model(params, batch["x"])), 0)
    y = jnp.where(batch["where"], jax.nn.sigmoid(batch["y"]), 0)
    sums = {"both": jnp.sum(p * y), "one": jnp.sum(p), "other": jnp.sum(y)}
    return {"dice": 0.5 * Deferred(sums, overlap), "fit": masked_mean(params, batch)}


def dice_truth(params, batch):
    kept = np.nonzero(batch["where"])
    p, y = jax.nn.sigmoid(model(params, batch["x"])[kept]), jax.nn.sigmoid(batch["y"][kept])
    both = 2 * jnp.sum(p * y) + 1
    return 0.5 * (1 - both / (jnp.sum(p) + jnp.sum(y) + 1)) + masked_mean_truth(params, batch)


def nearest(statistics):
    rows, scale = statistics
    a, b, kept = rows.rows["a"], rows.rows["b"], rows.rows["where"]
    logits = jnp.where(kept[None, :], scale.value() * (a @ b.T), -jnp.inf)
    return Mean.of(jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits), kept).value()


def info_nce(params, batch):
    """Each row among all rows of the batch, with a learned scale."""
    rows = {"a": model(params, batch["x"]), "b": batch["y"], "where": batch["where"][:, 0]}
    return Deferred((Concat(rows), Mean.constant(params["scale"])), nearest)


def info_nce_truth(params, batch):
    kept = np.nonzero(batch["where"][:, 0])
    logits = params["scale"] * model(params, batch["x"])[kept] @ batch["y"][kept].T
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits)))


def like_and_unlike(rows):
    z, label, kept = rows.rows
    pairs = kept[:, None] & kept[None, :] & ~jnp.eye(len(label), dtype=bool)
    log_p = jax.nn.log_softmax(jnp.where(pairs, z @ z.T, -jnp.inf), where=pairs, axis=1)
    same = pairs & (label[:, None] == label[None, :])
    return -Mean.of(jnp.where(same, log_p, 0), same).value()


def sup_con(params, batch):
    """Integer labels and a boolean mask among the rows."""
    rows = (model(params, batch["x"]), batch["label"], batch["where"][:, 0])
    return Deferred(Concat(rows), like_and_unlike)


def sup_con_truth(params, batch):
    kept = np.nonzero(batch["where"][:, 0])[0]
    z, label = model(params, batch["x"]), np.asarray(batch["label"])
    terms = []
    for i in kept:
        others = kept[kept != i]
        log_p = jax.nn.log_softmax(z[others] @ z[i])
        terms.append(-log_p[np.nonzero(label[others] == label[i])])
    return jnp.mean(jnp.concatenate(terms))


PROBLEMS = {
    "masked mean": (masked_mean, masked_mean_truth),
    "terms": (terms, terms_truth),
    "weights of parameters": (confident, confident_truth),
    "sum": (total, lambda params, batch: total(params, batch).total),
    "root of a mean": (root_mean, root_mean_truth),
    "dice of the batch": (dice, dice_truth),
    "info nce": (info_nce, info_nce_truth),
    "supervised contrastive": (sup_con, sup_con_truth),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_microbatches_give_the_loss_and_gradient_of_the_whole_batch(problem, rng):
    loss_fn, truth = PROBLEMS[problem]
    params, batch = parameters(rng), data(rng)
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(jax.value_and_grad(lambda params: truth(params, batch)))(params)
        for n in PARTS:
            found = jax.jit(jaxloss.value_and_grad(loss_fn, microbatches=n))(params, batch)
            close(found, expected)
            assert jax.tree.all(jax.tree.map(lambda g, p: g.dtype == p.dtype, found[1], params))


def test_library_losses_split_with_traced_options(rng):
    """A learned temperature, classes of a batch, and weights of tasks, all in one loss."""

    def loss_fn(params, batch):
        p = model(params, batch["x"])
        nce = jaxloss.info_nce_loss(
            p, batch["y"], temperature=jnp.exp(params["scale"]), reduction=STATS
        )
        dice = jaxloss.batch_dice_loss(p, jax.nn.one_hot(batch["label"], 3), reduction=STATS)
        return {"nce": nce, "dice": dice, "fit": masked_mean(params, batch)}

    params, batch = parameters(rng), data(rng)
    expected = jax.jit(jaxloss.value_and_grad(loss_fn))(params, batch)
    assert abs(expected[1]["scale"]) > 1e-3
    for n in (2, 8):
        close(jax.jit(jaxloss.value_and_grad(loss_fn, microbatches=n))(params, batch), expected)


def test_parameters_in_bfloat16_are_summed_in_float32(rng):
    params = jnp.ones((), jnp.bfloat16)
    x = jnp.concatenate([jnp.full(1, 256.0), jnp.full(63, 1.0)])

    def loss_fn(w, x):
        return Sum(jnp.sum(w.astype(jnp.float32) * x))

    _, grad = jaxloss.value_and_grad(loss_fn, microbatches=64)(params, x)
    assert grad.dtype == jnp.bfloat16 and grad == jnp.asarray(319.0, jnp.bfloat16)


# -------------------------------------------------------------------------------- compiled programs


def wide_loss(params, batch, reduction: Any = STATS):
    for w in params["layers"]:
        batch = {**batch, "x": jnp.tanh(batch["x"] @ w)}
    return jaxloss.squared_error(batch["x"], batch["y"], where=batch["where"], reduction=reduction)


def wide(rng, rows=512, width=64):
    layers = [jnp.asarray(rng.normal(size=(width, width)) / 8, jnp.float32) for _ in range(6)]
    x, y = rng.normal(size=(2, rows, width)).astype(np.float32)
    return {"layers": layers}, {"x": x, "y": y, "where": rng.random(rows) < 0.7}


def compiled(loss_fn, n, *args):
    return jax.jit(jaxloss.value_and_grad(loss_fn, microbatches=n)).lower(*args).compile()


def text_of(program) -> str:
    return program.as_text()


def temporaries(program):
    return program.memory_analysis().temp_size_in_bytes


def products(program):
    return len(re.findall(r"= \S+ (?:dot|custom-call)\(", text_of(program)))


def test_microbatches_are_one_loop_in_a_fraction_of_the_memory(rng):
    args = wide(rng)
    whole, parts = compiled(wide_loss, 1, *args), compiled(wide_loss, 8, *args)
    trips = re.findall(r'known_trip_count":\{"n":"(\d+)"', text_of(parts))
    assert trips and set(trips) == {"8"}
    assert temporaries(parts) <= 0.3 * temporaries(whole)


def test_the_first_pass_over_a_mean_with_weights_of_data_is_dead_code(rng):
    params, batch = wide(rng)

    def by_hand(params, batch):
        def add(grads, part):
            grad = jax.grad(wide_loss)(params, part, "sum")
            return jax.tree.map(jnp.add, grads, grad), None

        parts = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)
        grads, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
        return jax.tree.map(lambda g: g / (64 * jnp.sum(batch["where"], dtype=jnp.float32)), grads)

    program = jax.jit(by_hand).lower(params, batch).compile()
    assert products(program) > 0
    assert products(compiled(wide_loss, 8, params, batch)) == products(program)

    def root(params, batch):
        return Deferred(wide_loss(params, batch), root_of)

    assert products(compiled(root, 8, params, batch)) > products(program)
    close(program(params, batch), compiled(wide_loss, 8, params, batch)(params, batch)[1])


def root_of(mean):
    return jnp.sqrt(mean.value())


def test_a_sharded_batch_is_split_without_moving_its_rows(rng):
    params, batch = wide(rng, rows=64)
    expected = jaxloss.value_and_grad(wide_loss)(params, batch)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            everywhere = NamedSharding(mesh, PartitionSpec())
            rows = NamedSharding(mesh, PartitionSpec("data"))
            args = jax.device_put(params, everywhere), jax.device_put(batch, rows)
            program = compiled(wide_loss, 4, *args)
            close(program(*args), expected, 2e-6)
        assert not re.search("all-gather|all-to-all|collective-permute", text_of(program))


# ------------------------------------------------------------------------------------- what is said

NO_STATISTIC: Any = jnp.ones(())
ROWS = {"x": jnp.ones((6, 2)), "y": jnp.ones(6)}


def number(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def stats_of(params, batch):
    return jaxloss.squared_error(batch["x"] @ params["w"], batch["y"], reduction=STATS)


@pytest.mark.parametrize(
    ("loss_fn", "n", "params", "error", "words"),
    [
        (number, 2, {"w": jnp.ones(2)}, TypeError, "reduction=jaxloss.stats.*Mean.constant"),
        (
            lambda p, b: {"a": stats_of(p, b), "b": number(p, b)},
            3,
            {"w": jnp.ones(2)},
            TypeError,
            "bare number",
        ),
        (
            stats_of,
            4,
            {"w": jnp.ones(2)},
            ValueError,
            r"batch\['x'\] has shape \(6, 2\).*microbatches=4",
        ),
        (stats_of, 0, {"w": jnp.ones(2)}, ValueError, "microbatches must be 1 or more, got 0"),
        (
            stats_of,
            1,
            {"w": jnp.ones(2, int)},
            TypeError,
            r"params\['w'\] must be floating, got int32",
        ),
        (lambda p, b: (number(p, b), {}), 1, {"w": jnp.ones(2)}, TypeError, r"\(loss, jaxloss.Aux"),
        (
            lambda p, b: (number(p, b), Aux(metrics={"m": NO_STATISTIC})),
            1,
            {"w": jnp.ones(2)},
            TypeError,
            r"metrics\['m'\] must be a statistic",
        ),
        (
            lambda p, b: {"loss": stats_of(p, b)},
            1,
            {"w": jnp.ones(2)},
            ValueError,
            "'loss' is a metric of the step",
        ),
        (
            lambda p, b: (stats_of(p, b), Aux(metrics={"loss_scale": stats_of(p, b)})),
            1,
            {"w": jnp.ones(2)},
            ValueError,
            "'loss_scale' is a metric of the step",
        ),
        (lambda p, b: {}, 1, {"w": jnp.ones(2)}, ValueError, "one term or more"),
        (
            lambda p, b: ({"m": stats_of(p, b)}, Aux(metrics={"m": stats_of(p, b)})),
            1,
            {"w": jnp.ones(2)},
            ValueError,
            r"\['m'\] are terms",
        ),
    ],
)
def test_mistakes_are_explained(loss_fn, n, params, error, words):
    with pytest.raises(error, match=words):
        jaxloss.value_and_grad(loss_fn, microbatches=n, has_aux=True)(params, ROWS)


# ------------------------------------------------------------------------------------- the step


def run(step, state, batches):
    metrics = []
    for batch in batches:
        state, metric = step(state, batch)
        metrics.append(metric)
    return state, metrics


def test_thirty_steps_of_adam_are_those_of_the_whole_batch(rng):
    params, batches = parameters(rng), [data(rng) for _ in range(30)]
    tx = optax.adam(1e-2)
    whole = jax.jit(jax.value_and_grad(lambda params, batch: masked_mean(params, batch).value()))
    with jax.numpy_dtype_promotion("standard"):
        expected, opt_state = params, tx.init(params)
        for batch in batches:
            _, grads = whole(expected, batch)
            updates, opt_state = tx.update(grads, opt_state)
            expected = optax.apply_updates(expected, updates)
    for n in (1, 4):
        step = jaxloss.make_train_step(masked_mean, tx, microbatches=n)
        state, _ = run(step, step.init(params), batches)
        close(state.params, expected)


def test_steps_per_call_are_single_steps(rng):
    params, batches = parameters(rng), [data(rng) for _ in range(8)]
    one = jaxloss.make_train_step(terms, optax.sgd(0.1))
    four = jaxloss.make_train_step(terms, optax.sgd(0.1), steps_per_call=4)
    stacked = [jax.tree.map(lambda *x: np.stack(x), *batches[i : i + 4]) for i in (0, 4)]
    state, singles = run(one, one.init(params), batches)
    again, joined = run(four, four.init(params), stacked)
    assert state.step == again.step == 8
    for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(a, b)  # a loop leaves the body as it is compiled
    close(jaxloss.merge(joined), jaxloss.merge(singles))
    assert joined[0].keys() == {"loss", "fit", "size", "decay", "grad_norm"}


def test_metrics_are_means_of_the_loss_and_its_terms(rng):
    params, batch = parameters(rng), data(rng)
    step = jaxloss.make_train_step(dice, optax.sgd(0.1), microbatches=2)
    _, metrics = step(step.init(params), batch)
    (value, aux), grads = jaxloss.value_and_grad(dice, has_aux=True)(params, batch)
    assert all(isinstance(metric, Mean) for metric in metrics.values())
    close(metrics["loss"], Mean.constant(value))
    close(metrics["fit"], masked_mean(params, batch))
    close(metrics["dice"].value(), aux.metrics["dice"].value())
    close(metrics["grad_norm"], Mean.constant(optax.tree.norm(grads)))


def test_model_state_goes_from_one_microbatch_to_the_next():
    """A running mean, which the loss also reads, against a plain loop over the same rows."""

    def loss_fn(w, x, *, model_state):
        loss = Deferred(Mean.of((w * x - model_state["mean"]) ** 2), root_of)
        mean = 0.9 * model_state["mean"] + 0.1 * jnp.mean(x)
        return loss, Aux({"mean": mean}, {"seen": Mean.of(x)})

    x = jnp.arange(8.0)
    step = jaxloss.make_train_step(loss_fn, optax.sgd(0.1), microbatches=4)
    state = step.init(jnp.array(2.0), model_state={"mean": jnp.array(1.0)})
    state, metrics = step(state, x)
    mean, errors, parts = 1.0, [], np.arange(8.0).reshape(2, 4).T
    for part in parts:
        errors.append(2 * part - mean)
        mean = 0.9 * mean + 0.1 * part.mean()
    loss = np.sqrt(np.mean(np.square(errors)))
    grad = np.mean(np.array(errors) * parts) / loss
    close(state.model_state["mean"], mean)
    close(metrics["loss"].value(), loss)
    close(metrics["seen"], Mean(jnp.array(28.0), jnp.array(8.0)))
    close(state.params, 2 - 0.1 * grad)


def test_model_state_stays_if_the_loss_leaves_it(rng):
    step = jaxloss.make_train_step(masked_mean, optax.sgd(0.1), microbatches=2)
    state = step.init(parameters(rng), model_state={"kept": jnp.arange(3)})
    state, _ = step(state, data(rng))
    close(state.model_state, {"kept": np.arange(3)})


@pytest.mark.parametrize("n", [1, 4])
def test_every_step_and_microbatch_has_its_own_rng_and_both_passes_the_same(n):
    def loss_fn(w, x, *, rng, step):
        noise = jax.random.normal(rng, x.shape)
        return Deferred(Mean.of(noise**2 * (w - step.astype(float)) ** 2), root_of)

    step = jaxloss.make_train_step(loss_fn, optax.sgd(0.5), microbatches=n)
    key, w = jax.random.key(7), 3.0
    state = step.init(jnp.array(w), rng=key)
    losses = []
    for i in range(3):
        folded = jax.random.fold_in(key, i)
        keys = [folded] if n == 1 else [jax.random.fold_in(folded, part) for part in range(n)]
        noise = np.stack([jax.random.normal(k, (8 // n,)) for k in keys]).astype(float)
        state, metrics = step(state, jnp.zeros(8))
        size = np.sqrt(np.mean(noise**2))
        close(metrics["loss"].value(), size * abs(w - i), 2e-6)
        w -= 0.5 * size * np.sign(w - i)
        close(state.params, w, 2e-6)
        losses.append(size)
    assert len({round(loss, 6) for loss in losses}) == 3
    with pytest.raises(ValueError, match=r"rng=jax.random.key\(0\)"):
        step.init(jnp.array(1.0))


OPTIMIZERS = {
    "lbfgs": optax.lbfgs(),
    "polyak": optax.polyak_sgd(),
    "backtracking": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(8)),
    "sam": optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.05)),
    "opaque sam": optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.05), opaque_mode=True),
    "plateau": optax.chain(optax.adam(0.01), optax.contrib.reduce_on_plateau(patience=1)),
    "schedule free": optax.contrib.schedule_free(optax.sgd(0.1), learning_rate=0.1),
    "sophia": optax.contrib.sophia(0.01),
    "prodigy": optax.contrib.prodigy(),
    "cocob": optax.contrib.cocob(),
    "multi steps": optax.MultiSteps(optax.adam(0.01), every_k_schedule=2),
    "hyper-parameters": optax.inject_hyperparams(optax.adamw)(learning_rate=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_get_what_they_ask_for_and_donate(name, rng):
    params, batch = parameters(rng), data(rng)
    ends = []
    for n in (1, 4):
        step = jaxloss.make_train_step(masked_mean, OPTIMIZERS[name], microbatches=n)
        first = step.init(params)
        assert len({x.unsafe_buffer_pointer() for x in jax.tree.leaves((params, first))}) == len(
            jax.tree.leaves((params, first))
        )
        state, _ = run(step, first, 4 * [batch])
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.params))
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, step.init(params))
        ends.append(state.params)
    close(ends[1], ends[0], 5e-6)
    assert np.abs(np.asarray(ends[0]["w"] - params["w"])).max() > 1e-7


def test_an_optimizer_may_evaluate_the_loss_of_the_whole_batch_elsewhere(rng):
    params, batch = parameters(rng), data(rng)

    def update(updates, state, params=None, **extra_args):
        there = jax.tree.map(lambda p: 2 * p, params)
        value, grad = jax.value_and_grad(extra_args["value_fn"])(there)
        scale = value + extra_args["value"]
        return jax.tree.map(lambda g, h: -scale * (g + h), extra_args["grad"], grad), state

    tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
    step = jaxloss.make_train_step(root_mean, tx, microbatches=4, donate=False)
    first = step.init(params)
    state, _ = step(first, batch)
    there = jax.tree.map(lambda p: 2 * p, params)
    truth = jax.value_and_grad(lambda params: root_mean_truth(params, batch))
    (value, grad), (value_there, grad_there) = truth(params), truth(there)
    scale = value + value_there
    close(state.params, jax.tree.map(lambda p, g, h: p - scale * (g + h), params, grad, grad_there))
    assert not first.params["w"].is_deleted()


def test_an_optimizer_that_no_arguments_suit_says_so():
    def update(updates, state, params=None, **extra_args):
        raise TypeError("a temperature is missing")

    tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
    step = jaxloss.make_train_step(stats_of, tx)
    with pytest.raises(TypeError, match="temperature"):
        step(step.init({"w": jnp.ones(2)}), ROWS)
    with pytest.raises(ValueError, match="microbatches must be 1 or more, got 0"):
        jaxloss.make_train_step(stats_of, tx, microbatches=0)
    with pytest.raises(ValueError, match="steps_per_call must be 1 or more, got 0"):
        jaxloss.make_train_step(stats_of, tx, steps_per_call=0)


def test_a_thousand_steps_trace_once_and_transfer_nothing(rng):
    traces = []

    def loss_fn(params, batch, *, rng, model_state):
        traces.append(1)
        noise = 1e-3 * jax.random.normal(rng, batch["y"].shape)
        p = batch["x"] @ params["w"] + params["b"] + noise
        return jaxloss.squared_error(p, batch["y"], reduction=STATS), Aux(model_state + 1)

    step = jaxloss.make_train_step(loss_fn, optax.adam(1e-3))
    params = {"w": jnp.ones(2), "b": 0.5}  # a Python number is weakly typed, the state is not
    state = step.init(params, rng=jax.random.key(0), model_state=0)
    state, _ = step(state, ROWS)
    with jax.transfer_guard("disallow"):
        for _ in range(1000):
            state, _ = step(state, ROWS)
    assert len(traces) == 1 and state.step == state.model_state == 1001


def test_raw_can_be_mapped_scanned_and_differentiated(rng):
    params, batches = parameters(rng), [data(rng) for _ in range(3)]

    def after(rate, n=1):
        tx = optax.inject_hyperparams(optax.sgd)(learning_rate=rate)
        step = jaxloss.make_train_step(masked_mean, tx, microbatches=n)
        stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
        _, metrics = jax.lax.scan(step.raw, step.init(params), stacked)
        return metrics["loss"].value()[-1]

    rates = jnp.array([0.01, 0.1])
    values = jax.vmap(after)(rates)
    close(values[1], after(0.1), 2e-6)
    slope = jax.grad(lambda rate: after(rate, 2))(0.1)
    close(slope, (after(0.101) - after(0.099)) / 0.002, 2e-2)


def test_seeds_train_side_by_side():
    """Each with parameters and noise of its own, as it would alone."""

    def loss_fn(w, x, *, rng):
        noise = jax.random.bernoulli(rng, 0.5, x.shape).astype(float)
        return Mean.of((w * noise * x - 1) ** 2)

    step = jaxloss.make_train_step(loss_fn, optax.adam(0.1), nonfinite="skip", microbatches=2)

    def trained(seed):
        key = jax.random.key(seed)
        state = step.init(jax.random.normal(key), rng=key)
        return jax.lax.scan(step.raw, state, jnp.ones((5, 4)))[0].params

    together = jax.vmap(trained)(jnp.arange(3))
    assert len(set(together.tolist())) == 3
    close(together[2], trained(2), 2e-6)


# ---------------------------------------------------------------------------------- evaluation


def test_evaluation_of_ragged_batches_is_exact_and_compiles_once(rng):
    params, batch, traces = parameters(rng), data(rng, rows=19), []

    def loss_fn(params, padded, *, rng, model_state):
        assert rng is None
        traces.append(1)
        batch, real = padded
        batch = {**batch, "where": batch["where"] & real[:, None]}
        p = model(params, batch["x"])
        hits = (jnp.argmax(p, -1) == batch["label"]).astype(jnp.float32) + model_state
        return {"root": root_mean(params, batch), "fit": masked_mean(params, batch)}, Aux(
            metrics={"accuracy": Mean.of(hits, real)}
        )

    step = jaxloss.make_train_step(loss_fn, optax.sgd(0.1))
    evaluate = jaxloss.make_eval_step(loss_fn)
    state = step.init(params, rng=jax.random.key(0), model_state=jnp.array(0.0))
    parts = [jax.tree.map(lambda x, i=i: x[i : i + 8], batch) for i in (0, 8, 16)]
    acc: Any = None
    for part in parts:
        acc = evaluate(state, jaxloss.pad_batch(part, 8), acc)
    close(acc["fit"].value(), masked_mean_truth(params, batch))
    close(acc["root"].value(), root_mean_truth(params, batch))
    close(acc["loss"].value(), acc["root"].value() + acc["fit"].value())
    hits = np.argmax(np.asarray(model(params, batch["x"])), -1) == batch["label"]
    close(acc["accuracy"], Mean(jnp.asarray(hits.sum()), jnp.array(19.0)))
    assert len(traces) == 2  # the first batch has nothing to merge with
    with pytest.raises(TypeError, match="evaluation batches"):
        jaxloss.make_eval_step(number)(
            jaxloss.make_train_step(number, optax.sgd(0.1)).init({"w": jnp.ones(2)}), ROWS
        )


def test_pad_batch():
    batch, where = jaxloss.pad_batch({"x": np.ones((2, 3)), "y": jnp.arange(2)}, 4)
    assert isinstance(batch["x"], np.ndarray) and isinstance(batch["y"], jax.Array)
    assert batch["x"].shape == (4, 3) and batch["x"].sum() == 6
    assert where.tolist() == [True, True, False, False]
    with pytest.raises(ValueError, match="has 3 rows, which is more than size=2"):
        jaxloss.pad_batch(np.ones(3), 2)
    for ragged in ((np.ones(3), np.ones(2)), np.ones(()), {}):
        with pytest.raises(ValueError, match="one leading axis"):
            jaxloss.pad_batch(ragged, 4)
