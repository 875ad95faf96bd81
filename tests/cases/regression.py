import numpy as np

import jaxloss
from cases import case


def pair(rng, units):
    """Errors from far below to far above 1, around targets of every size."""
    targets = 10 ** rng.uniform(-4, 4, units) * rng.normal(size=units)
    return targets + 10 ** rng.uniform(-4, 4, units) * rng.normal(size=units), targets


def positive_pair(rng, units):
    return 10 ** rng.uniform(-3, 3, units), 10 ** rng.uniform(-3, 3, units)


def vectors(rng, units):
    scale = 10 ** rng.uniform(-3, 3, (*units, 1))
    return scale * rng.normal(size=(*units, 3)), rng.normal(size=(*units, 3)) / scale


def quantiles(rng, units):
    predictions, targets = pair(rng, (*units, 3))
    return predictions, targets[..., 0]


def huber(predictions, targets, delta=1.0):
    e = abs(predictions - targets)
    return np.where(e <= delta, e**2 / 2, delta * (e - np.longdouble(delta) / 2))


def smooth_l1(predictions, targets, beta=1.0):
    e = abs(predictions - targets)
    return e if beta == 0 else huber(predictions, targets, beta) / np.longdouble(beta)


def log_cosh(predictions, targets):
    e = abs(predictions - targets)
    small = np.where(e < 1, e, 0 * e)
    near = np.log1p(np.expm1(-small) ** 2 / 2 * np.exp(small))
    return np.where(e < 1, near, e + np.log1p(np.exp(-2 * e)) - np.log(np.longdouble(2)))


def quantile(predictions, targets, quantile=0.5):
    q = np.asarray(quantile)
    e = (targets[..., None] if q.ndim else targets) - predictions
    return np.where(e > 0, q, q - 1) * e


def cosine(predictions, targets):
    norms = [np.sqrt((x**2).sum(-1)) for x in (predictions, targets)]
    return (predictions * targets).sum(-1) / (norms[0] * norms[1])


def squares(predictions, targets):
    return (predictions - targets) ** 2


case(loss=jaxloss.squared_error, inputs=pair, truth=squares)
case(loss=jaxloss.l2_loss, inputs=pair, truth=lambda p, t: squares(p, t) / 2)
case(loss=jaxloss.absolute_error, inputs=pair, truth=lambda p, t: abs(p - t))
case(
    loss=jaxloss.root_mean_squared_error,
    inputs=pair,
    truth=lambda p, t: np.sqrt(np.mean(squares(p, t))),
    kind="deferred",
)
case(loss=jaxloss.huber_loss, inputs=pair, truth=huber)
case(loss=jaxloss.huber_loss, inputs=pair, truth=huber, options={"delta": 0.3})
case(loss=jaxloss.smooth_l1_loss, inputs=pair, truth=smooth_l1)
case(loss=jaxloss.smooth_l1_loss, inputs=pair, truth=smooth_l1, options={"beta": 0.25})
case(loss=jaxloss.smooth_l1_loss, inputs=pair, truth=smooth_l1, options={"beta": 0.0})
case(loss=jaxloss.log_cosh, inputs=pair, truth=log_cosh)
case(loss=jaxloss.quantile_loss, inputs=pair, truth=quantile)
case(loss=jaxloss.quantile_loss, inputs=pair, truth=quantile, options={"quantile": 0.75})
case(
    loss=jaxloss.quantile_loss,
    inputs=quantiles,
    truth=quantile,
    options={"quantile": np.array([0.1, 0.5, 0.75], np.float32)},
)
case(
    loss=jaxloss.squared_logarithmic_error,
    inputs=positive_pair,
    truth=lambda p, t: (np.log1p(p) - np.log1p(t)) ** 2,
    scale=lambda p, t: np.maximum(abs(np.log1p(p)), abs(np.log1p(t))) ** 2,
    domains=("above -1", "above -1"),
)
case(
    loss=jaxloss.absolute_percentage_error,
    inputs=positive_pair,
    truth=lambda p, t: abs(p - t) / abs(t),
    domains=("real", "not 0"),
    corners=(((1.0, 0.0), np.inf),),
)
case(
    loss=jaxloss.cosine_similarity,
    inputs=vectors,
    truth=cosine,
    scale=lambda p, t: np.ones(p.shape[:-1]),
    corners=((([0.0, 0.0, 0.0], [1.0, 0.0, 0.0]), 0.0, [0.0, 0.0, 0.0]),),
)
case(
    loss=jaxloss.cosine_distance,
    inputs=vectors,
    truth=lambda p, t: 1 - cosine(p, t),
    scale=lambda p, t: np.ones(p.shape[:-1]),
    corners=((([0.0, 0.0, 0.0], [1.0, 0.0, 0.0]), 1.0, [0.0, 0.0, 0.0]),),
)
