"""Optax: rows for `jaxloss.compat.optax`, and where Optax is wrong."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from mpmath import mp

import jaxloss.compat.optax
from compat import UNITS, Peer, of_jax


def oracle(function, row, by):
    call = of_jax(function, row, by)

    def promoting(*arrays):
        with (
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
            warnings.catch_warnings(action="ignore"),
        ):
            return call(*arrays)

    return promoting


PEER = Peer(
    name="optax",
    title="Optax",
    losses="optax.losses",
    is_loss=lambda name, function: True,
    ours=jaxloss.compat.optax,
    oracle=oracle,
)
row, entry, refuse = PEER.row, PEER.entry, PEER.refuse


PRESENT = np.array([1, 1, 0, 1, 1], bool)
SOME = np.arange(UNITS * 5).reshape(UNITS, 5) % 4 != 1
UNITS_KEPT = np.arange(UNITS) != 2


EACH = np.resize([0.5, 1.0, 2.0], (UNITS, 5))


def reals(rng, size):
    """The first unit agrees with its target."""
    predictions, targets = size * rng.normal(size=(2, UNITS, 5))
    targets[0] = predictions[0]
    return predictions, targets


def errors(rng, size):
    return reals(rng, size)[:1]


def column(rng, size):
    """Targets that are broadcast."""
    return size * rng.normal(size=(UNITS, 5)), size * rng.normal(size=(UNITS, 1))


def logits(rng, size):
    return 3 * size * rng.normal(size=(UNITS, 5))


def bits(rng, size):
    return logits(rng, size), rng.choice([0.0, 1.0, 0.25], (UNITS, 5))


def shares(rng, size):
    return logits(rng, size), rng.uniform(0.1, 0.9, (UNITS, 5))


def signs(rng, size):
    scores = size * rng.normal(size=(UNITS, 5))
    return scores, rng.choice([-1.0, 1.0], (UNITS, 5))


def distributions(rng):
    return rng.dirichlet(np.ones(5), UNITS)


def soft(rng, size):
    """Half the rows are one-hot."""
    hot = np.eye(5)[rng.integers(5, size=UNITS)]
    return logits(rng, size), np.where(np.arange(UNITS)[:, None] % 2, distributions(rng), hot)


def classes(rng, size):
    return logits(rng, size), rng.integers(5, size=UNITS)


def first_class(rng, size):
    """The classes are the first axis."""
    return logits(rng, size), rng.integers(UNITS, size=5)


def one_class(rng, size):
    """The classes are all axes."""
    return logits(rng, size), np.array(7)


def present_classes(rng, size):
    return logits(rng, size), np.argmax(SOME, axis=-1)


def log_and_probabilities(rng, size):
    return np.log(distributions(rng)), distributions(rng)


def two_logs(rng, size):
    return np.log(distributions(rng)), np.log(distributions(rng))


def images(rng, size):
    return 2 * rng.normal(size=(UNITS, 4, 3)), np.eye(3)[rng.integers(0, 3, (UNITS, 4))]


def masks(rng, size):
    return 2 * rng.normal(size=(UNITS, 6)), rng.choice([0.0, 1.0], (UNITS, 6))


def masks_of_one_class(rng, size):
    return tuple(array[..., None] for array in masks(rng, size))


def labels_and_share(rng, size):
    return distributions(rng), np.array(0.25)


def shares_of_classes(rng, size):
    return rng.dirichlet(np.ones(3), (UNITS, 4)), np.eye(3)[rng.integers(0, 3, (UNITS, 4))]


def logits_and_bits(rng, size):
    return logits(rng, size), rng.integers(2, size=(UNITS, 5))


def ordinary(rng, size):
    return soft(rng, np.ones_like(size))


def fenchel_young(make, scores, targets):
    return make(jax.nn.logsumexp)(scores, targets)


def embedded(rng, size):
    """Three pairs, of one a third, and one that is alone."""
    return rng.normal(size=(UNITS, 4)), np.array([0, 1, 2, 0, 1, 2, 2, 3])


def triplets(rng, size):
    return tuple(size * rng.normal(size=(3, UNITS, 4)))


def lists(rng, size):
    return logits(rng, size), rng.integers(4, size=(UNITS, 5)).astype(float)


def spoken(rng, size):
    """Steps and labels of different lengths."""
    steps = np.arange(7) >= np.resize([7, 6], (UNITS, 1))
    lengths = np.arange(3) >= np.resize([3, 2, 0, 1], (UNITS, 1))
    labels = rng.integers(1, 4, (UNITS, 3))
    return rng.normal(size=(UNITS, 7, 5)), steps.astype(float), labels, lengths.astype(float)


def forward_probs(function, *args, **options):
    """The losses, and the probabilities of the prefixes that can be."""
    loss, blank, label = function(*args, **options)
    there = args[3] == 0
    prefixes = jnp.concatenate([jnp.ones_like(there[:, :1]), there], axis=1)
    for logs, known in ((blank, prefixes), (label, there)):
        kept = jnp.where((logs > -1e4) & known[None], logs, 0)
        loss = jnp.concatenate([loss, kept.sum(axis=(0, 2))])
    return loss


for name in ("squared_error", "l2_loss", "huber_loss", "log_cosh"):
    row(name, reals)
    row(name, errors)
for name in ("huber_loss", "log_cosh", "sigmoid_binary_cross_entropy", "hinge_loss"):
    row(name, column)
row("huber_loss", reals, delta=0.25)
for options in ({}, {"axis": 0, "epsilon": 8.0}, {"axis": (1, 0), "where": SOME}):
    row("cosine_distance", reals, scale=1.0, **options)
row("cosine_similarity", reals, scale=1.0, epsilon=4.0)
row("cosine_similarity", reals, scale=1.0, axis=None, where=PRESENT)
row("sigmoid_binary_cross_entropy", bits)
row("sigmoid_focal_loss", bits, by=(0,))
row("sigmoid_focal_loss", shares, alpha=0.25, gamma=1.5)
row("hinge_loss", signs)
row("perceptron_loss", signs)
row("multiclass_hinge_loss", classes)
row("multiclass_perceptron_loss", classes)
row("softmax_cross_entropy", soft)
row("softmax_cross_entropy", soft, axis=None)
row("softmax_cross_entropy", soft, axis=(1, 0), where=SOME, by=(0,))
row("softmax_cross_entropy", soft, where=UNITS_KEPT, by=(0,))
row("poly_loss_cross_entropy", soft)
row("poly_loss_cross_entropy", soft, axis=0, where=SOME, by=(0,))
row("poly_loss_cross_entropy", soft, epsilon=-0.5)
row("safe_softmax_cross_entropy", soft)
integer = "softmax_cross_entropy_with_integer_labels"
row(integer, classes)
row(integer, first_class, axis=0)
row(integer, one_class, axis=(1, 0))
row(integer, present_classes, where=SOME)
row(integer, classes, where=UNITS_KEPT)
for name in ("kl_divergence", "generalized_kl_divergence"):
    row(name, log_and_probabilities)
    row(name, log_and_probabilities, axis=None, where=PRESENT)
row("convex_kl_divergence", log_and_probabilities, axis=0, where=SOME)
row("kl_divergence_with_log_targets", two_logs)
row("kl_divergence_with_log_targets", two_logs, axis=0, where=SOME)
C = np.array([0.5, 1.0, 2.0])
row("dice_loss", images)
row("dice_loss", images, class_weights=C, smooth=0.5, alpha=0.25, beta=0.75)
row("dice_loss", images, reduction="sum", ignore_background=True)
row("dice_loss", images, reduction="none", class_weights=C, axis=0)
row("dice_loss", images, axis=(0, 1))
row("dice_loss", masks)
row("multiclass_generalized_dice_loss", images, by=(0,))
row("multiclass_generalized_dice_loss", images, smooth=0.25, ignore_background=True)
row("binary_dice_loss", masks)
row("binary_dice_loss", masks, smooth=0.25)
row("binary_dice_loss", masks_of_one_class)
row("smooth_labels", labels_and_share)
for axis in (0, None):
    row("smooth_labels", labels_and_share, axis=axis)
row("smooth_labels", labels_and_share, where=SOME | True)
row("dice_loss", shares_of_classes, apply_softmax=False, eager=True)
row("multiclass_generalized_dice_loss", shares_of_classes, apply_softmax=False, eager=True, by=())
row("sparsemax_loss", logits_and_bits)
row("multiclass_sparsemax_loss", classes)
# any function that is maximised: the loss is a difference of what may be as large as the scores
row("make_fenchel_young_loss", ordinary, scale=10.0, through=fenchel_young)
for options in ({}, {"temperature": 0.5}):
    row("ntxent", embedded, **options)
row("triplet_margin_loss", triplets)
# a slope is a difference of slopes of up to 1
row("triplet_margin_loss", triplets, axis=0, norm_degree=4, margin=0.5, eps=0.25, scale=1.0)
row("ranking_softmax_loss", lists)
row("ranking_softmax_loss", lists, where=SOME, weights=EACH, by=(0,))
row("ranking_softmax_loss", lists, where=SOME, reduce_fn=jnp.sum, by=(0,))
row("ranking_softmax_loss", lists, where=SOME, reduce_fn=None, by=(0,))
row("ctc_loss", spoken, by=(0,))
row("ctc_loss", spoken, by=(0,), blank_id=4)
row("ctc_loss_with_forward_probs", spoken, by=(0,), blank_id=4, through=forward_probs)


def a(*values):
    return np.array(values[0] if len(values) == 1 else values, float)


def out_of_range(scores, labels, **options):
    return (labels < 0) | (labels >= scores.shape[-1])


def certain_zero(x, y, **options):
    return np.any(np.isneginf(x) & (y == 0), axis=-1)


def a_zero_vector(p, t, epsilon=0.0, **options):
    zeros = np.all(p == 0, axis=-1) | np.all(t == 0, axis=-1)
    return zeros & (epsilon == 0)


zero_vectors = {"region": "a vector of zeros, epsilon=0", "inside": a_zero_vector}
zero_vectors |= {"args": (a([0, 0]), a([1, 2])), "theirs": "nan", "reason": "0/0; it has no angle"}
entry("cosine_similarity", truth=lambda: 0, **zero_vectors)
entry("cosine_distance", truth=lambda: 1, **zero_vectors)
entry(
    "sigmoid_binary_cross_entropy",
    "a logit of ±inf",
    inside=lambda x, y: np.isinf(x).any(-1),
    args=(a([np.inf]), a([1])),
    theirs="nan",
    truth=lambda: 0,
    reason="0 · inf; certain and right",
)
entry(
    "sigmoid_focal_loss",
    "a label of 0 or 1, slope by labels",
    args=(a([0.5]), a([1])),
    options={"gamma": 2.0},
    slope=1,
    theirs="0.063879",
    truth=lambda: focal_slope(mp.mpf(0.5)),
    reason="a term of coefficient 0 is left out of the slope",
)


def focal_slope(x):
    """At label 1 and gamma 2, of m ** 2 · ℓ."""
    p, m = 1 / (1 + mp.exp(-x)), 1 / (1 + mp.exp(x))
    return m**2 * -x + 2 * m * (m - p) * mp.log1p(mp.exp(-x))


absent = {"region": "a logit of -inf, label 0", "inside": certain_zero, "theirs": "nan"}
absent |= {"args": (a([1, 0, -np.inf]), a([1, 0, 0])), "reason": "0 · inf; the class is absent"}
entry("softmax_cross_entropy", truth=lambda: mp.log1p(mp.exp(-1)), **absent)
entry(
    "poly_loss_cross_entropy",
    truth=lambda: mp.log1p(mp.exp(-1)) + 2 / (1 + mp.e),
    **absent,
)
entry("ranking_softmax_loss", truth=lambda: mp.log1p(mp.exp(-1)), **absent)
for name in ("softmax_cross_entropy", "poly_loss_cross_entropy"):
    entry(
        name,
        "slope by a label that where leaves out",
        args=(a([1, 0]), a([0.5, 0.5])),
        options={"where": np.array([False, True])},
        slope=1,
        theirs="nan",
        truth=lambda: 0,
        reason="the class takes part in nothing",
    )
entry(
    integer,
    "a label of -1",
    inside=lambda x, y, **o: np.asarray(y) < 0,
    args=(a([[1, 2, 3]]), np.array([-1])),
    theirs="0.40761",
    truth=lambda: mp.nan,
    reason="it is no class; there it is the last one",
)
entry(
    integer,
    "a label that where leaves out",
    args=(a([[1, 2, 3]]), np.array([0])),
    options={"where": np.array([[False, True, True]])},
    theirs="2.3133",
    truth=lambda: mp.inf,
    reason="an absent class has probability 0",
)
for name in ("multiclass_hinge_loss", "multiclass_perceptron_loss"):
    entry(
        name,
        "a label out of range",
        inside=out_of_range,
        args=(a([[1, 2, 3]]), np.array([3])),
        theirs="4" if "hinge" in name else "3",
        truth=lambda: mp.nan,
        reason="it is no class; there it has a score of 0",
    )
impossible = {"region": "a log-prediction of -inf, target 0", "inside": certain_zero}
impossible |= {"args": (a([0, -np.inf]), a([0.5, 0])), "theirs": "nan"}
impossible |= {"reason": "0 · inf; 0 · log 0 is 0"}
for name in ("kl_divergence", "generalized_kl_divergence", "convex_kl_divergence"):
    more = 0 if name == "kl_divergence" else 0.5
    entry(name, truth=lambda more=more: mp.log(0.5) / 2 + more, **impossible)
entry(
    "kl_divergence_with_log_targets",
    "a log-target of -inf",
    inside=lambda x, y, **o: np.any(np.isneginf(y), axis=-1),
    args=(a([0, -1]), a([-1, -np.inf])),
    theirs="nan",
    truth=lambda: -mp.exp(-1),
    reason="0 · inf; 0 · log 0 is 0",
)
entry(
    "kl_divergence",
    "a target of 0, slope by targets",
    args=(a([-1, -1]), a([0, 0.5])),
    slope=1,
    theirs="nan",
    truth=lambda: 1,
    reason="0 · log 0 stays 0, and the rest is -log_predictions",
)
entry(
    "multiclass_sparsemax_loss",
    "scores that are not a matrix",
    inside=lambda x, y: np.array(np.ndim(x) != 2),
    args=(a([3, 0]), np.array(0)),
    theirs="ValueError",
    truth=lambda: 0,
    reason="it maps over exactly one axis",
)
for name, option in (("dice_loss", "apply_softmax"), ("binary_dice_loss", "apply_sigmoid")):
    entry(
        name,
        f"{option}=False under jit",
        args=(a([[0.75, 0.25]]), a([[1, 0]])),
        options={option: False},
        theirs="TracerBoolConversionError",
        truth=lambda name=name: mp.mpf(4) / 45 if name == "dice_loss" else 0.125,
        reason="it looks at the sums of the rows",
    )
entry(
    "smooth_labels",
    "classes that where leaves out",
    inside=lambda labels, alpha, where=True, **o: ~np.all(np.broadcast_to(where, labels.shape), -1),
    args=(a([0, 1]), np.array(0.5)),
    options={"where": np.array([False, True])},
    theirs="0.5",
    truth=lambda: 0,
    reason="an absent class gets a share, and rows do not sum to 1",
)
entry(
    "ntxent",
    "no two labels alike",
    inside=lambda x, y, **o: np.array(len(set(np.asarray(y).tolist())) == len(y)),
    args=(a([1, 2], [2, 1]), np.array([0, 1])),
    theirs="nan",
    truth=lambda: 0,
    reason="0/0; an anchor without a positive counts for nothing",
)
for degree, truth in ((1, lambda: 2), (3, lambda: mp.cbrt(9) - 1)):
    entry(
        "triplet_margin_loss",
        f"norm_degree={degree}",
        inside=lambda *arrays, norm_degree=2, **o: np.array(norm_degree % 2 == 1),
        args=(a([0, 0]), a([1, 2]), a([2, 0])),
        options={"norm_degree": degree, "eps": 0.0},
        theirs="0" if degree == 1 else "nan",
        truth=truth,
        reason="differences are not made positive before the power",
    )
too_many = {"region": "more labels than steps", "theirs": "99999", "truth": lambda: mp.inf}
too_many |= {"inside": lambda x, xp, y, yp, **o: (1 - yp).sum(1) > (1 - xp).sum(1)}
too_many |= {"args": (np.zeros((1, 1, 3)), np.zeros((1, 1)), np.array([[1, 2]]), np.zeros((1, 2)))}
too_many |= {"reason": "no path spells the labels; -1e5 stands for log 0"}
entry("ctc_loss", **too_many)
entry("ctc_loss_with_forward_probs", through=forward_probs, **too_many)
refuse(
    "ctc_loss",
    "another `log_epsilon`",
    *too_many["args"],
    log_epsilon=-1e4,
    says="log_epsilon must be left at -1e5",
)
refuse(
    "ctc_loss_with_forward_probs",
    "another `log_epsilon`",
    *too_many["args"],
    log_epsilon=-1e4,
    says="log_epsilon must be left at -1e5",
)
refuse(
    "dice_loss",
    "`axis` with the classes",
    np.ones((2, 3)),
    np.ones((2, 3)),
    axis=-1,
    says="axis must leave out",
)
