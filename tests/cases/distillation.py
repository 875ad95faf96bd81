import numpy as np

import jaxloss
from cases import case
from cases.multiclass import minus_log_p


def pairs(rng, units):
    """Students from close to their teacher to far from it."""
    teacher = 10 ** rng.uniform(-1, 1, (*units, 1)) * rng.normal(size=(*units, 5))
    far = 10 ** rng.uniform(-3, 1, (*units, 1)) * rng.normal(size=(*units, 5))
    return teacher + far, teacher


def labelled(rng, units):
    return *pairs(rng, units), rng.integers(5, size=units)


def terms(student, teacher, temperature):
    """Of each class, less and more, and 0 where the teacher knows no such class."""
    p, q = -minus_log_p(student / temperature), -minus_log_p(teacher / temperature)
    return np.where(np.exp(q) == 0, 0, np.exp(q) * q), np.where(np.exp(q) == 0, 0, np.exp(q) * p)


def soft(student, teacher, temperature=1.0):
    own, others = terms(student, teacher, temperature)
    return temperature**2 * (own - others).sum(-1)


def soft_scale(student, teacher, temperature=1.0):
    own, others = terms(student, teacher, temperature)
    return temperature**2 * np.maximum(abs(own), abs(others)).max(-1)


def hard(student, labels):
    return np.take_along_axis(minus_log_p(student), labels[..., None], -1)[..., 0]


def both(student, teacher, labels, temperature, alpha):
    return alpha * soft(student, teacher, temperature) + (1 - alpha) * hard(student, labels)


def both_scale(student, teacher, labels, temperature, alpha):
    return soft_scale(student, teacher, temperature) + hard(student, labels)


case(
    loss=jaxloss.distillation_loss,
    inputs=pairs,
    truth=soft,
    scale=soft_scale,
    domains=("real", "none"),
    corners=(
        (([1.0, 2.0, -3.0], [1.0, 2.0, -3.0]), 0.0, [0.0, 0.0, 0.0]),
        (([1.0, 2.0, -np.inf], [1.0, 2.0, -np.inf]), 0.0, [0.0, 0.0, 0.0]),
        (([0.0, 0.0, -np.inf], [0.0, 0.0, 0.0]), np.inf),
        (([0.0, 0.0], [0.0, -np.inf]), np.log(2), [-0.5, 0.5]),
        (([0.0, 1e4], [1e4, 0.0]), 1e4, [-1.0, 1.0]),
        (([-np.inf], [0.0]), np.nan),
        (([], []), np.nan),
    ),
)
case(
    loss=jaxloss.distillation_loss,
    inputs=labelled,
    truth=both,
    scale=both_scale,
    options={"temperature": 2.0, "alpha": 0.25},
    domains=("real", "real", "none"),
    data=("labels",),
    corners=(
        (([20.0, 0.0], [20.0, 0.0], 0), 0.75 * np.exp(-20.0)),
        (([0.0, 0.0, -np.inf], [0.0, 0.0, -np.inf], 1), 0.75 * np.log(2), [0.375, -0.375, 0.0]),
    ),
)
