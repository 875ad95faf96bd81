import numpy as np

import jaxloss
from cases import case
from cases.binary import labels_of, of_logits
from cases.divergence import js_terms
from cases.multiclass import EVERYTHING, minus_log_p, softmax
from jaxloss.fused import Plan

FEATURES, CLASSES = 3, 5


def heads(rng, units):
    hidden = 10 ** rng.uniform(-2, 1, (*units, 1)) * rng.normal(size=(*units, FEATURES))
    return hidden, rng.normal(size=(FEATURES, CLASSES)), rng.integers(CLASSES, size=units)


def logits_of(hidden, head, bias):
    return (hidden[..., None] * head).sum(-2) + bias


def dense(hidden, head, labels, bias=0, temperature=1, schedule=None, **options):
    if not options:
        return softmax(logits_of(hidden, head, bias), labels)
    cap = options["logit_softcap"]
    x = cap * np.tanh(logits_of(hidden, head, bias) / cap) / temperature
    return softmax(x, labels, **{**options, "logit_softcap": None})


def largest(hidden, head, labels, bias=0, temperature=1, schedule=None, **options):
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
ALL = {
    **EVERYTHING,
    "bias": np.array([0.5, -1.0, 0.0, 2.0, 0.25], np.float32),
    "temperature": 0.75,
}
case(**LINEAR, options=ALL)
# parts that divide neither the units nor the classes
case(**LINEAR, options={**ALL, "schedule": Plan("tokens", 4, CLASSES)}, reverse_only=True)
case(**LINEAR, options={**ALL, "schedule": Plan("tiles", 4, 3)}, reverse_only=True)
case(**LINEAR, options={"schedule": Plan("classes", 2000, 3)}, reverse_only=True)


def two_heads(rng, units):
    hidden, head, _ = heads(rng, units)
    others, other, _ = heads(rng, units)
    return (
        hidden,
        head,
        np.append(others, others[..., :1], axis=-1),
        np.append(other, other[:1], axis=0),
    )


def log_probs(hidden, head, bias, temperature):
    return -minus_log_p(logits_of(hidden, head, bias) / temperature)


def both(h, w, g, v, student_bias=0, teacher_bias=0, temperature=1, beta=0.5, schedule=None):
    return log_probs(h, w, student_bias, temperature), log_probs(g, v, teacher_bias, temperature)


def kl(*arrays, **options):
    p, q = both(*arrays, **options)
    return (np.exp(q) * (q - p)).sum(-1)


def js(*arrays, beta=0.5, **options):
    p, q = both(*arrays, **options)
    return np.add(*js_terms(p, q, beta)).sum(-1)


def two_scale(h, w, g, v, student_bias=0, teacher_bias=0, temperature=1, **options):
    p = logits_of(abs(h), abs(w), abs(student_bias)).max(-1)
    q = logits_of(abs(g), abs(v), abs(teacher_bias)).max(-1)
    return np.maximum(np.maximum(p, q) / temperature, 1)


BIASES = {
    "student_bias": np.array([0.5, -1.0, 0.0, 2.0, 0.25], np.float32),
    "teacher_bias": np.array([0.25, 1.0, -0.5, 0.0, 0.5], np.float32),
    "temperature": 1.5,
}
TWO = {
    "inputs": two_heads,
    "scale": two_scale,
    "domains": ("moderate", "none", "none", "none"),
    "shared": (1, 3),
}
for loss, truth, options in (
    (jaxloss.linear_kl_divergence, kl, {}),
    (jaxloss.linear_js_divergence, js, {"beta": 0.25}),
):
    case(**TWO, loss=loss, truth=truth)
    case(
        **TWO,
        loss=loss,
        truth=truth,
        options={**BIASES, **options, "schedule": Plan("tokens", 4, CLASSES)},
        reverse_only=True,
    )


def multi_labelled(rng, units):
    hidden, head, _ = heads(rng, units)
    return hidden, head, labels_of(rng, (*units, CLASSES))


def of_bits(hidden, head, labels, bias=0, schedule=None):
    return of_logits(logits_of(hidden, head, bias), labels)


def bits_scale(hidden, head, labels, bias=0, schedule=None):
    return np.maximum(logits_of(abs(hidden), abs(head), abs(bias)), 1)


MANY = {
    "loss": jaxloss.linear_binary_cross_entropy,
    "inputs": multi_labelled,
    "truth": of_bits,
    "scale": bits_scale,
    "domains": ("moderate", "none", "probability"),
    "shared": (1,),
}
case(**MANY)
case(
    **MANY,
    options={"bias": ALL["bias"], "schedule": Plan("tokens", 4, CLASSES)},
    reverse_only=True,
)
