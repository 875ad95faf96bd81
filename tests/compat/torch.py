"""torch: rows for `jaxloss.compat.torch`, and where torch is wrong."""

import inspect
import warnings

import numpy as np
import scipy.special
from mpmath import mp

import jaxloss.compat.torch
from compat import UNITS, Peer, cotangent


def oracle(function, row, by):
    """The peer in float64: values and gradients of each variant."""
    import torch

    def tensor(value):
        if not isinstance(value, np.ndarray):
            return value
        return torch.tensor(value.astype({"i": np.int64}.get(value.dtype.kind, value.dtype)))

    def variants(*arrays):
        for options in row.calls():
            given = [tensor(a) for a in arrays]
            for position in by:
                given[position].requires_grad_()
            value = row.through(function, *given, **{k: tensor(v) for k, v in options.items()})
            weights = torch.tensor(cotangent(value.shape))
            chosen = [given[i] for i in by]
            grads = torch.autograd.grad(value, chosen, weights) if by else ()
            yield [value.detach().numpy(), *(g.numpy() for g in grads)]

    def call(*arrays):
        with warnings.catch_warnings(action="ignore"):
            return list(variants(*arrays))

    return call


PEER = Peer(
    name="torch",
    title="torch",
    losses="torch.nn.functional",
    is_loss=lambda name, function: "reduction" in inspect.signature(function).parameters,
    ours=jaxloss.compat.torch,
    oracle=oracle,
)
entry, refuse = PEER.entry, PEER.refuse
NONE, MEAN, SUM = ({"reduction": name} for name in ("none", "mean", "sum"))
# "sum", "none" and "mean" by torch's former arguments
FORMER = ({"size_average": False}, {"reduce": False}, {"size_average": True, "reduction": "sum"})


def row(name, arrays, *, variants=(NONE, MEAN, SUM), **options):
    PEER.row(name, arrays, variants=variants, **options)


def reals(rng, size):
    """The first unit agrees with its target."""
    predictions, targets = size * rng.normal(size=(2, UNITS, 4))
    targets[0] = predictions[0]
    return predictions, targets


def column(rng, size):
    """Targets that are broadcast."""
    return size * rng.normal(size=(UNITS, 4)), size * rng.normal(size=(UNITS, 1))


def logits(rng, size):
    return 3 * size * rng.normal(size=(UNITS, 4))


def bits(rng, size):
    return logits(rng, size), rng.choice([0.0, 1.0, 0.25], (UNITS, 4))


def probabilities(rng, size):
    return rng.uniform(0.01, 0.99, (UNITS, 4)), rng.choice([0.0, 1.0, 0.25], (UNITS, 4))


def signs(rng, size):
    return size * rng.normal(size=(UNITS, 4)), rng.choice([-1.0, 1.0], (UNITS, 4))


def distributions(rng):
    return rng.dirichlet(np.ones(4), UNITS)


def soft(rng, size):
    return logits(rng, size), distributions(rng)


def classes(rng, size):
    """Of which the second is ignored."""
    labels = rng.integers(4, size=UNITS)
    labels[1] = -100
    return logits(rng, size), labels


def one_of_the_classes(rng, size):
    return logits(rng, size), rng.integers(4, size=UNITS)


def pixels(rng, size):
    """The classes are the second axis."""
    labels = rng.integers(4, size=(UNITS, 2, 3))
    labels[1, 0] = -100
    return 3 * size[..., None, None] * rng.normal(size=(UNITS, 4, 2, 3)), labels


def soft_pixels(rng, size):
    x = 3 * size[..., None, None] * rng.normal(size=(UNITS, 4, 2, 3))
    return x, np.moveaxis(rng.dirichlet(np.ones(4), (UNITS, 2, 3)), -1, 1)


def alone(rng, size):
    """One unit has no batch axis."""
    return 3 * rng.normal(size=4), np.array(2)


def log_probs(rng, size):
    x, labels = classes(rng, size)
    return scipy.special.log_softmax(x, axis=1), labels


def of_log_probs(rng, size):
    return np.log(distributions(rng)), distributions(rng)


def two_logs(rng, size):
    return np.log(distributions(rng)), np.log(distributions(rng))


def moments(rng, size):
    return *reals(rng, size), rng.uniform(0.1, 3, (UNITS, 4))


def one_variance(rng, size):
    return *reals(rng, size), rng.uniform(0.1, 3, UNITS)


def rates(rng, size):
    return rng.uniform(0.01, 3, (UNITS, 4)), rng.poisson(2.0, (UNITS, 4)).astype(float)


def log_rates(rng, size):
    return rng.normal(size=(UNITS, 4)), rng.poisson(2.0, (UNITS, 4)).astype(float)


def log_rates_of_bits(rng, size):
    return bits(rng, np.ones_like(size))[0], rng.integers(2, size=(UNITS, 4)).astype(float)


def scores_of_pairs(rng, size):
    return *(size * rng.normal(size=(2, UNITS, 4))), rng.choice([-1.0, 1.0], (UNITS, 4))


def vectors_of_pairs(rng, size):
    return *(size * rng.normal(size=(2, UNITS, 4))), np.resize([-1.0, 1.0], UNITS)


def triplets(rng, size):
    return tuple(size * rng.normal(size=(3, UNITS, 4)))


def listed(rng, size):
    """Class indices up to the first -1."""
    labels = rng.permuted(np.tile(np.arange(4), (UNITS, 1)), axis=1)
    labels[np.arange(UNITS), np.arange(UNITS) % 5 - 1] = -1
    return logits(rng, size), labels


def embedded(rng, size):
    return rng.normal(size=(UNITS, 4)), rng.normal(size=(5, 4)), rng.integers(5, size=UNITS)


def embedded_and_ignored(rng, size):
    labels = rng.integers(5, size=UNITS)
    labels[1] = -100
    return *embedded(rng, size)[:2], labels


LENGTHS = np.resize([3, 2, 0, 1], UNITS)
STEPS = np.resize([7, 6, 5], UNITS)


def embedded_and_soft(rng, size):
    return *embedded(rng, size)[:2], rng.dirichlet(np.ones(5), UNITS)


def embedded_in_pixels(rng, size):
    """Of two pixels each has a head of its own."""
    labels = np.resize(np.arange(5), (UNITS, 2))
    return rng.normal(size=(UNITS, 4)), rng.normal(size=(5, 2, 4)), labels


def spoken(rng, size):
    """7 steps of a batch, and labels of different lengths."""
    x = scipy.special.log_softmax(rng.normal(size=(7, UNITS, 5)), axis=-1)
    return x, rng.integers(1, 4, (UNITS, 3)), STEPS, LENGTHS


def spoken_at_once(rng, size):
    """Labels one after the other."""
    return spoken(rng, size)[0], rng.integers(1, 5, LENGTHS.sum())


def spoken_alone(rng, size):
    x, labels, *_ = spoken(rng, size)
    return x[:, 0], labels[0], np.array(7), np.array(3)


def spoken_too_fast(rng, size):
    """More labels than steps, in the last unit."""
    x, labels, steps, lengths = spoken(rng, size)
    return x, labels, np.where(np.arange(UNITS) == UNITS - 1, 0 * steps + 1, steps), 0 * lengths + 2


C = np.array([0.5, 1.0, 2.0, 1.5])
BIAS = np.arange(10.0).reshape(5, 2) / 4
EACH = np.resize([0.5, 1.0, 2.0], (UNITS, 4))
for name in ("l1_loss", "mse_loss"):
    row(name, reals, variants=FORMER)
    row(name, reals, weight=EACH)
row("l1_loss", column)
row("huber_loss", reals, delta=0.25)
row("huber_loss", reals, weight=EACH)
row("smooth_l1_loss", reals, variants=FORMER, beta=0.25)
row("smooth_l1_loss", column, beta=0.0)
# a slope is the rate less the count
row("poisson_nll_loss", log_rates, variants=FORMER, by=(0,), scale=1.0)
row("poisson_nll_loss", rates, log_input=False, eps=0.25, by=(0,))
row("poisson_nll_loss", log_rates_of_bits, variants=(NONE,), full=True, by=(0,))
row("gaussian_nll_loss", moments)
row("gaussian_nll_loss", reals, variants=(MEAN,), var=0.5)
row("gaussian_nll_loss", one_variance, full=True, eps=1.5, by=(0, 1))
row("binary_cross_entropy", probabilities, variants=FORMER)
row("binary_cross_entropy", probabilities, weight=C)
logistic = "binary_cross_entropy_with_logits"
row(logistic, bits, variants=FORMER)
row(logistic, bits, weight=C, pos_weight=np.array(3.0))
row(logistic, bits, pos_weight=EACH[:, :1])
row("cross_entropy", classes, variants=FORMER)
row("cross_entropy", one_of_the_classes, weight=C, label_smoothing=0.25, ignore_index=2)
row("cross_entropy", pixels, weight=C)
row("cross_entropy", soft, weight=C, label_smoothing=0.25)
row("cross_entropy", soft_pixels, weight=C)
row("cross_entropy", alone)
row("nll_loss", log_probs, variants=FORMER)
row("nll_loss", one_of_the_classes, weight=C, ignore_index=2)
row("nll_loss", pixels, weight=C)
row("linear_cross_entropy", embedded_and_ignored)
row(
    "linear_cross_entropy",
    embedded,
    linear_bias=np.array([0.5, 0.25, 0.0, -1.0, 2.0]),
    weight=np.array([0.5, 1.0, 2.0, 1.5, 1.0]),
    ignore_index=2,
    label_smoothing=0.25,
)
row("linear_cross_entropy", embedded_and_soft, label_smoothing=0.25)
row("linear_cross_entropy", embedded_in_pixels, linear_bias=BIAS, ignore_index=2)
row("kl_div", of_log_probs, variants=(NONE, MEAN, SUM, {"reduction": "batchmean"}))
row("kl_div", two_logs, variants=FORMER, log_target=True)
row("soft_margin_loss", signs, variants=FORMER, by=(0,))
row("soft_margin_loss", signs, by=(0,))
row("multi_margin_loss", one_of_the_classes, variants=FORMER)
row("multi_margin_loss", one_of_the_classes, p=2, margin=0.5, weight=C)
row("multilabel_margin_loss", listed, variants=FORMER)
row("multilabel_margin_loss", listed)
row("multilabel_soft_margin_loss", bits, variants=FORMER)
row("multilabel_soft_margin_loss", bits, weight=C)
row("hinge_embedding_loss", signs, variants=FORMER, by=(0,))
row("hinge_embedding_loss", signs, margin=0.5, by=(0,))
row("cosine_embedding_loss", vectors_of_pairs, variants=FORMER, by=(0, 1))
row("cosine_embedding_loss", vectors_of_pairs, margin=0.25, by=(0, 1))
row("margin_ranking_loss", scores_of_pairs, variants=FORMER, by=(0, 1))
row("margin_ranking_loss", scores_of_pairs, margin=0.5, by=(0, 1))
row("triplet_margin_loss", triplets, variants=FORMER)
row("triplet_margin_loss", triplets, margin=0.5, p=1, swap=True)
row("triplet_margin_loss", triplets, p=3, eps=0.25)


def city_block(x, y):
    return abs(x - y).sum(-1)


distant = "triplet_margin_with_distance_loss"
row(distant, triplets)
row(distant, triplets, distance_function=city_block, margin=0.5, swap=True)
row("ctc_loss", spoken, variants=(MEAN,))
row(
    "ctc_loss",
    spoken_at_once,
    variants=(NONE,),
    input_lengths=tuple(STEPS),
    target_lengths=tuple(LENGTHS),
)
row("ctc_loss", spoken_alone, variants=(MEAN,))
row("ctc_loss", spoken, variants=(SUM,), blank=4)
row("ctc_loss", spoken_too_fast, variants=(NONE,), zero_infinity=True)


def a(*values):
    return np.array(values[0] if len(values) == 1 else values, float)


def all_ignored(x, y, *rest, ignore_index=-100, **options):
    return np.array(y.dtype.kind == "i" and np.all(y == ignore_index))


ignored = {"inside": all_ignored, "theirs": "nan", "truth": lambda: 0, "reason": "0/0 of a mean"}
ignored |= {"region": "every label ignored", "args": (a([[1, 2]]), np.array([-100]))}
entry("cross_entropy", **ignored)
entry("nll_loss", **{**ignored, "args": (a([[-1, -2]]), np.array([-100]))})
entry(
    "linear_cross_entropy",
    **{
        **ignored,
        "inside": lambda x, w, y, **o: all_ignored(x, y, **o),
        "args": (a([[1, 2]]), np.eye(2), np.array([-100])),
    },
)
for name in ("l1_loss", "mse_loss"):
    entry(
        name,
        "weights that sum to 0",
        args=(a([1]), a([0])),
        options={"weight": a([0])},
        theirs="nan",
        truth=lambda: 0,
        reason="0/0 of a mean",
    )
    entry(
        name,
        "no elements",
        args=(a([]), a([])),
        theirs="nan",
        truth=lambda: 0,
        reason="0/0 of a mean; the same for every loss",
    )
entry(
    "cross_entropy",
    "a logit of -inf, probability 0",
    inside=lambda x, y, **o: np.array(y.dtype.kind == "f" and np.any(np.isneginf(x) & (y == 0))),
    args=(a([[1, 0, -np.inf]]), a([[1, 0, 0]])),
    theirs="nan",
    truth=lambda: mp.log1p(mp.exp(-1)),
    reason="0 · inf; the class is absent",
)
for name, error in (("cross_entropy", "IndexError"), ("nll_loss", "IndexError")):
    entry(
        name,
        "a label out of range",
        inside=lambda x, y, **o: (
            (y >= x.shape[min(1, x.ndim - 1)]) if y.dtype.kind == "i" else np.array(False)
        ),
        args=(a([[-1, -2]]), np.array([2])),
        theirs=error,
        truth=lambda: mp.nan,
        reason="an array's values raise nothing under jit; checked names them",
    )
entry(
    "binary_cross_entropy_with_logits",
    "a logit of ±inf",
    inside=lambda x, y, **o: np.isinf(x).any(-1),
    args=(a([np.inf]), a([1])),
    theirs="nan",
    truth=lambda: 0,
    reason="0 · inf; certain and right",
)
entry(
    "binary_cross_entropy",
    "held impossible, slope",
    args=(a([0]), a([1])),
    slope=0,
    theirs="-1e+12",
    truth=lambda: 0,
    reason="the value is the constant 100",
)
entry(
    "gaussian_nll_loss",
    "var below eps, slope by var",
    args=(a([1]), a([0]), a([1e-8])),
    slope=2,
    theirs="-5e+11",
    truth=lambda: 0,
    reason="the value is that of eps, a constant",
)
entry(
    "gaussian_nll_loss",
    "a negative var",
    inside=lambda x, y, var, **o: np.any(np.asarray(var) < 0, axis=-1),
    args=(a([1]), a([0]), a([-1])),
    theirs="ValueError",
    truth=lambda: mp.nan,
    reason="an array's values raise nothing under jit; checked names them",
)
entry(
    "poisson_nll_loss",
    "full=True, a target above 1",
    inside=lambda x, y, full=False, **o: full & np.any(y > 1, axis=-1),
    args=(a([0]), a([3])),
    options={"full": True},
    theirs="2.7641",
    truth=lambda: 1 + mp.log(6),
    reason="log target! by the first terms of Stirling's series",
)
entry(
    "kl_div",
    "an input of -inf, target 0",
    inside=lambda x, y, **o: np.any(np.isneginf(x) & (y == 0), axis=-1),
    args=(a([-np.inf]), a([0])),
    theirs="nan",
    truth=lambda: 0,
    reason="0 · inf; 0 · log 0 is 0",
)
entry(
    "kl_div",
    "a log-target of -inf",
    inside=lambda x, y, log_target=False, **o: log_target & np.isneginf(y).any(-1),
    args=(a([-1]), a([-np.inf])),
    options={"log_target": True},
    theirs="nan",
    truth=lambda: 0,
    reason="0 · inf; 0 · log 0 is 0",
)
entry(
    "soft_margin_loss",
    "a score of -710 or less on the wrong side",
    inside=lambda x, y, **o: np.any(-x * y > 709, axis=-1),
    args=(a([-1000]), a([1])),
    theirs="inf",
    truth=lambda: 1000,
    reason="the exponential overflows",
)
entry(
    "multilabel_margin_loss",
    "a class that is listed twice",
    args=(a([0, 1]), np.array([0, 0])),
    theirs="2",
    truth=lambda: 1,
    reason="labels are a set; there it counts twice",
)
entry(
    "ctc_loss",
    "more labels than steps, slope",
    args=(np.log(np.full((1, 1, 4), 0.25)), np.array([[1, 2]]), np.array([1]), np.array([2])),
    slope=0,
    theirs="nan",
    truth=lambda: 0,
    reason="the value is inf whatever the input",
)
refuse(
    "binary_cross_entropy_with_logits",
    "a `pos_weight` of two axes",
    np.ones((2, 2)),
    np.ones((2, 2)),
    pos_weight=np.ones((2, 2)),
    says="pos_weight must vary along one axis",
)
linear = (np.ones((2, 3)), np.ones((4, 3)), np.zeros(2, int))
refuse("linear_cross_entropy", "`options`", *linear, options=object(), says="options of torch's")
refuse(
    "linear_cross_entropy",
    "`ignore_index` of probabilities, as there",
    *linear[:2],
    np.full((2, 4), 0.25),
    ignore_index=0,
    says="ignore_index is of class indices",
)
refuse(
    "triplet_margin_loss", "`p` below 1", *np.ones((3, 2, 2)), p=0.5, says="norm must be 1 or more"
)
