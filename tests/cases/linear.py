import numpy as np

import jaxloss
from cases import case
from cases.multiclass import EVERYTHING, softmax

FEATURES, CLASSES = 3, 5


def heads(rng, units):
    hidden = 10 ** rng.uniform(-2, 1, (*units, 1)) * rng.normal(size=(*units, FEATURES))
    return hidden, rng.normal(size=(FEATURES, CLASSES)), rng.integers(CLASSES, size=units)


def logits_of(hidden, head, bias):
    return (hidden[..., None] * head).sum(-2) + bias


def dense(hidden, head, labels, bias=0, temperature=1, **options):
    if not options:
        return softmax(logits_of(hidden, head, bias), labels)
    cap = options["logit_softcap"]
    x = cap * np.tanh(logits_of(hidden, head, bias) / cap) / temperature
    return softmax(x, labels, **{**options, "logit_softcap": None})


def largest(hidden, head, labels, bias=0, temperature=1, **options):
    terms = abs(logits_of(abs(hidden), abs(head), abs(bias))).max(-1) / temperature
    return np.maximum(terms, 1) ** (2 if options else 1)


LINEAR = {
    "loss": jaxloss.linear_softmax_cross_entropy,
    "inputs": heads,
    "truth": dense,
    "scale": largest,
    "domains": ("moderate", "none", "none"),
    "shared": (1,),
    "classes": (1, -1),
}
case(
    **LINEAR,
    corners=(
        (([1.0, 0.0], [[20.0, 0.0], [0.0, 0.0]], 0), np.exp(-20.0)),
        (([0.0, 0.0], [[20.0, 0.0], [0.0, 0.0]], 1), np.log(2), [10.0, 0.0]),
        (([2.0, 3.0], np.zeros((2, 0)), 0), np.nan),
    ),
)
case(
    **LINEAR,
    options={
        **EVERYTHING,
        "bias": np.array([0.5, -1.0, 0.0, 2.0, 0.25], np.float32),
        "temperature": 0.75,
    },
)
