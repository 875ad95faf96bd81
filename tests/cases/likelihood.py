import mpmath
import numpy as np

import jaxloss
from cases import case


def normal(rng, units):
    """Errors from far below to far above the standard deviation, of every size."""
    variances = 10 ** rng.uniform(-4, 4, units)
    targets = 10 ** rng.uniform(-3, 3, units) * rng.normal(size=units)
    errors = 10 ** rng.uniform(-3, 1, units) * rng.normal(size=units) * np.sqrt(variances)
    return targets + errors, variances, targets


def gaussian_terms(means, variances, targets, full=False):
    logs = np.where(
        variances > np.longdouble("1e1000"), np.inf, np.log(variances)
    )  # 1e2000 stands for infinity
    two_pi = 2 * np.arccos(np.longdouble(-1))
    return logs / 2, (means - targets) ** 2 / (2 * variances), full * np.log(two_pi) / 2


def gaussian(*arrays, full=False):
    return sum(gaussian_terms(*arrays, full=full))


def largest_of(terms):
    return lambda *arrays, **options: np.maximum.reduce(
        np.broadcast_arrays(*map(np.abs, terms(*arrays, **options)))
    )


def counts(rng, units):
    """Rates around the counts, zeros among them."""
    targets = np.floor(10 ** rng.uniform(-1, 3, units))
    return np.log1p(targets) * rng.uniform(0.5, 1.2, units) + rng.normal(size=units), targets


def rates(rng, units):
    log_rates, targets = counts(rng, units)
    return np.exp(log_rates), targets


@np.vectorize
def log_factorial(count):
    if not count > -1:
        return np.longdouble("nan")
    with mpmath.workdps(130):
        return np.longdouble(mpmath.nstr(mpmath.loggamma(mpmath.mpf(str(count)) + 1), 120))


def poisson_terms(predictions, targets, log_input=True, full=False):
    rates = np.exp(predictions) if log_input else predictions
    logs = predictions if log_input else np.log(predictions)
    fits = np.where(targets == 0, 0, targets * logs)
    return rates, -fits, log_factorial(targets) if full else np.longdouble(0)


def poisson(*arrays, **options):
    return sum(poisson_terms(*arrays, **options))


for full in (False, True):
    case(
        loss=jaxloss.gaussian_nll_loss,
        inputs=normal,
        truth=gaussian,
        scale=largest_of(gaussian_terms),
        options={"full": full} if full else {},
        domains=("real", "positive", "real"),
        corners=(((1.0, 0.0, 1.0), np.nan, np.nan), ((1.0, -2.0, 1.0), np.nan, np.nan)),
    )
case(
    loss=jaxloss.poisson_nll_loss,
    inputs=counts,
    truth=poisson,
    scale=largest_of(poisson_terms),
    domains=("real", "bit"),
    corners=(((-np.inf, 0.0), 0.0, 0.0), ((-np.inf, 1.0), np.inf, -1.0)),
)
case(
    loss=jaxloss.poisson_nll_loss,
    inputs=counts,
    truth=poisson,
    scale=largest_of(poisson_terms),
    options={"full": True},
    domains=("real", "bit"),
)
case(
    loss=jaxloss.poisson_nll_loss,
    inputs=rates,
    truth=poisson,
    scale=largest_of(poisson_terms),
    options={"log_input": False},
    domains=("positive", "bit"),
    corners=(((0.0, 0.0), 0.0, 1.0), ((0.0, 2.0), np.inf, -np.inf)),
)
