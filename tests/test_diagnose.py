"""`diagnose` names what is wrong, and where, and says nothing about a healthy model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss import Aux, Mean

ROWS, FEATURES, CLASSES = 8, 3, 4
SEEDS = (0, 1)


class Seeded:
    """A healthy model and batch, and random places in them."""

    def __init__(self, seed):
        self.rng = rng = np.random.default_rng(seed)
        shapes = {"in": (FEATURES, 5), "out": (5, CLASSES), "side": (5, CLASSES)}
        self.params = {
            name: {
                "b": np.zeros((1, shape[1]), np.float32),
                "w": rng.normal(size=shape).astype(np.float32),
            }
            for name, shape in shapes.items()
        }
        self.batch = {
            "x": rng.normal(size=(ROWS, FEATURES)).astype(np.float32),
            "y": rng.normal(size=(ROWS, CLASSES)).astype(np.float32),
            "labels": rng.integers(0, CLASSES, ROWS).astype(np.int32),
            "bits": rng.integers(0, 2, (ROWS, CLASSES)).astype(np.int32),
            "weights": rng.random(ROWS).astype(np.float32),
            "scale": np.ones((ROWS, CLASSES), np.float32),
            "shift": np.zeros((ROWS, CLASSES), np.float32),
            "of_root": {name: np.zeros((), bool) for name in shapes},
        }

    def spoil(self, array, value):
        """Writes the value at a random index, which it returns."""
        index = tuple(int(self.rng.integers(n)) for n in array.shape)
        array[index] = value
        return index

    def diagnosed(self, loss_fn, **given):
        return jaxloss.diagnose(loss_fn, self.params, self.batch, **given)


def heads(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["in"]["w"] + params["in"]["b"])
    out, side = (hidden @ params[name]["w"] + params[name]["b"] for name in ("out", "side"))
    return out * batch["scale"] + batch["shift"] + batch["shift"], side


def classification(params, batch):
    out, side = heads(params, batch)
    of_out = jaxloss.softmax_cross_entropy_with_integer_labels(
        out, batch["labels"], weights=batch["weights"], reduction=jaxloss.stats
    )
    of_side = jaxloss.squared_error(side, batch["y"], reduction=jaxloss.stats)
    return {"out": of_out, "side": of_side, "decay": 1e-4 * jnp.sum(params["in"]["w"] ** 2)}


def regression(params, batch):
    out, side = heads(params, batch)
    where = ~jnp.isnan(batch["y"])
    loss = jaxloss.squared_error(out, batch["y"], where=where, reduction=jaxloss.stats)
    return loss, Aux(metrics={"side": Mean.of(side)})


def binary(params, batch):
    out, _ = heads(params, batch)
    weights = batch["weights"]
    return jaxloss.sigmoid_binary_cross_entropy(out, batch["bits"], weights=weights)


def of_probabilities(params, batch):
    p = jax.nn.sigmoid(heads(params, batch)[1]) + batch["shift"]
    return jaxloss.binary_cross_entropy(p, batch["bits"])


def of_softmax(params, batch):
    p = jax.nn.softmax(heads(params, batch)[0], axis=-1)
    return jaxloss.softmax_cross_entropy_with_integer_labels(p, batch["labels"])


def gaussian(params, batch):
    means, logs = heads(params, batch)
    return jaxloss.gaussian_nll_loss(means, jnp.exp(logs) * batch["scale"], batch["y"])


def poisson(params, batch):
    return jaxloss.poisson_nll_loss(heads(params, batch)[0], batch["bits"])


def contrastive(params, batch):
    return jaxloss.info_nce_loss(*heads(params, batch), reduction=jaxloss.stats)


def of_ones_own(params, batch):
    """Losses that are written by hand: a mean of logarithms, and quotients."""
    side = jnp.square(heads(params, batch)[1])
    per_class = jnp.sum(side * batch["scale"], axis=0) / jnp.sum(batch["scale"], axis=0)
    names = [f"class {c}" for c in range(CLASSES)]
    logarithm = Mean.of(jnp.log(1 + side + batch["shift"]))
    return {"log": logarithm, **dict(zip(names, per_class, strict=True))}


def with_a_root(params, batch):
    """The slope of a norm at 0; the biases are 0."""
    norms = [
        jnp.sqrt(jnp.sum(jnp.where(batch["of_root"][name], layer["b"], layer["b"] + 1) ** 2))
        for name, layer in params.items()
    ]
    return regression(params, batch)[0].value() + sum(norms)


def nan_input(s):
    index = s.spoil(s.batch["x"], np.nan)
    return classification, ("input", "batch['x']", index), index[:1]


def infinite_input(s):
    index = s.spoil(s.batch["y"], s.rng.choice([np.inf, -np.inf]))
    return classification, ("input", "batch['y']", index), index


def nan_parameter(s):
    name = str(s.rng.choice(["in", "out"]))
    index = s.spoil(s.params[name]["w"], np.nan)
    return binary, ("input", f"params['{name}']['w']", index), (0, index[1] * (name == "out"))


def label_too_large(s):
    index = s.spoil(s.batch["labels"], CLASSES + s.rng.integers(3))
    return classification, ("argument", "labels", index), index


def negative_label(s):
    index = s.spoil(s.batch["labels"], -1 - s.rng.integers(200))
    return classification, ("argument", "labels", index), index


def probabilities_as_logits(s):
    return of_softmax, ("probabilities", "logits", (0, 0)), None


def probability_above_one(s):
    index = s.spoil(s.batch["shift"], 1.5)
    return of_probabilities, ("argument", "probabilities", index), index


def negative_probability(s):
    index = s.spoil(s.batch["shift"], -1.5)
    return of_probabilities, ("argument", "probabilities", index), index


def share_outside_its_range(s):
    index = s.spoil(s.batch["bits"], s.rng.choice([-1, 2]))
    return binary, ("argument", "labels", index), None


def negative_weight(s):
    index = s.spoil(s.batch["weights"], -0.5)
    return binary, ("argument", "weights", index), None


def variance_of_zero(s):
    index = s.spoil(s.batch["scale"], 0.0)
    return gaussian, ("argument", "variances", index), index


def negative_count(s):
    index = s.spoil(s.batch["bits"], -3)
    return poisson, ("argument", "targets", index), None


def logits_that_overflow(s):
    index = s.spoil(s.batch["shift"], 3e38)
    return classification, ("overflow", "logits", index), None


def predictions_whose_square_overflows(s):
    index = s.spoil(s.batch["shift"], s.rng.choice([-1e20, 1e20]))
    return regression, ("overflow", "predictions", index), index


def logarithm_of_a_negative(s):
    index = s.spoil(s.batch["shift"], -1e3)
    return of_ones_own, ("unit", "unit", index), index


def quotient_of_zeros(s):
    c = int(s.rng.integers(CLASSES))
    s.batch["scale"][:, c] = 0
    return of_ones_own, ("term", f"loss['class {c}']", ()), None


def root_at_zero(s):
    name = str(s.rng.choice(list(s.params)))
    s.batch["of_root"][name][()] = True
    return with_a_root, ("gradient", f"params['{name}']['b']", (0, 0)), None


FAILURES = [
    nan_input,
    infinite_input,
    nan_parameter,
    label_too_large,
    negative_label,
    probabilities_as_logits,
    probability_above_one,
    negative_probability,
    share_outside_its_range,
    negative_weight,
    variance_of_zero,
    negative_count,
    logits_that_overflow,
    predictions_whose_square_overflows,
    logarithm_of_a_negative,
    quotient_of_zeros,
    root_at_zero,
]
HEALTHY = [classification, regression, binary, of_probabilities, gaussian, poisson, contrastive]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_named_first_with_its_place_and_its_unit(failure, seed):
    seeded = Seeded(seed)
    loss_fn, expected, unit = failure(seeded)
    diagnosis = seeded.diagnosed(loss_fn)
    first, units = diagnosis.findings[0], [f for f in diagnosis.findings if f.what == "unit"]
    assert diagnosis and (first.what, first.where, first.index) == expected
    if unit is not None:
        assert [found.index for found in units] == [unit]
    array = {"labels": "labels", "batch['x']": "x", "batch['y']": "y"}.get(first.where)
    if array is not None and loss_fn is classification:
        np.testing.assert_array_equal(first.value, seeded.batch[array][first.index])
    for sentence, found in zip(str(diagnosis).split("\n"), diagnosis.findings, strict=True):
        assert found.where in sentence and sentence.endswith(".")
    assert sum(found.what in ("input", "gradient") for found in diagnosis.findings) <= 2


@pytest.mark.parametrize("loss_fn", HEALTHY)
def test_nothing_is_found_in_a_healthy_model(loss_fn):
    seeded = Seeded(2)
    if loss_fn is regression:  # deletes what is NaN
        seeded.spoil(seeded.batch["y"], np.nan)
    if loss_fn is classification:  # an absent class
        seeded.batch["shift"][3, (seeded.batch["labels"][3] + 1) % CLASSES] = -np.inf
    diagnosis = seeded.diagnosed(loss_fn)
    assert not diagnosis.findings and not diagnosis
    assert str(diagnosis).startswith("Nothing found")


def test_what_is_deleted_is_not_blamed_for_another_fault():
    seeded = Seeded(3)
    seeded.batch["y"][0] = np.nan
    index = seeded.spoil(seeded.params["out"]["w"], np.nan)
    first, *others = seeded.diagnosed(regression).findings
    assert (first.what, first.where, first.index) == ("input", "params['out']['w']", index)
    assert all(found.what != "input" for found in others)


def test_two_faults_are_both_named_and_their_terms_are_told_apart():
    seeded = Seeded(4)
    label = seeded.spoil(seeded.batch["labels"], 99)
    target = seeded.spoil(seeded.batch["y"], np.nan)
    found = [(f.what, f.where, f.index) for f in seeded.diagnosed(classification).findings]
    assert found[:2] == [("input", "batch['y']", target), ("argument", "labels", label)]


def test_it_takes_what_a_step_gives_and_looks_inside_transformations():
    def loss_fn(params, batch, *, rng, model_state, step):
        dropped = jax.random.bernoulli(rng, 0.5, batch["x"].shape)
        scale = jnp.where(step == 3, jnp.nan, 1.0) + model_state["mean"]

        def one(_, row):
            x, label = row
            logits = (x * scale) @ params["w"]
            loss = jaxloss.softmax_cross_entropy_with_integer_labels(logits, label)
            return None, loss

        rows = jnp.where(dropped, 0, batch["x"]), batch["labels"]
        return jnp.mean(jax.jit(lambda: jax.lax.scan(one, None, rows))()[1]), Aux(model_state)

    params, batch = {"w": jnp.ones((FEATURES, CLASSES))}, Seeded(5).batch
    given = {"rng": jax.random.key(0), "model_state": {"mean": jnp.zeros(())}}
    assert not jaxloss.diagnose(loss_fn, params, batch, step=2, **given)
    assert jaxloss.diagnose(loss_fn, params, batch, step=3, **given).findings[0].where == "logits"
    given["model_state"] = {"mean": jnp.array(jnp.nan)}
    first = jaxloss.diagnose(loss_fn, params, batch, step=2, **given).findings[0]
    assert (first.what, first.where) == ("input", "model_state['mean']")
    given["model_state"] = {"mean": jnp.zeros(())}
    batch["labels"][6] = 7
    found = jaxloss.diagnose(loss_fn, params, batch, step=2, **given).findings[0]
    assert (found.where, found.value) == ("labels", 7)
