import numpy as np

import jaxloss
from cases import case


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def distributions(rng, units):
    """Predictions near and far from targets that are flat, sharp, or have zeros."""
    x = 10 ** rng.uniform(-1, 1, (*units, 1)) * rng.normal(size=(*units, 4))
    away = 10 ** rng.uniform(-2, 0.5, (*units, 1)) * rng.normal(size=(*units, 4))
    return log_softmax(x + away), log_softmax(x)


def against_probabilities(rng, units):
    log_probs, log_targets = distributions(rng, units)
    return log_probs, np.exp(log_targets)


def relative_entropy(log_probs, targets):
    return np.where(targets == 0, 0, targets * (np.log(targets) - log_probs))


def kl(log_probs, targets):
    return relative_entropy(log_probs, targets).sum(-1)


def kl_with_log_targets(log_probs, log_targets):
    return (np.exp(log_targets) * (log_targets - log_probs)).sum(-1)


def generalized_kl(log_probs, targets):
    return (relative_entropy(log_probs, targets) - targets + np.exp(log_probs)).sum(-1)


def kl_scale(log_probs, targets):
    entropy = np.where(targets == 0, 0, targets * np.log(targets))
    return np.maximum(abs(entropy), abs(np.where(targets == 0, 0, targets * log_probs))).max(-1)


def generalized_kl_scale(log_probs, targets):
    most = np.maximum(abs(targets), np.exp(log_probs)).max(-1)
    return np.maximum(kl_scale(log_probs, targets), most)


def above_mixture(log_p, log_q, share):
    """p·log(p / m) with m = (1 - share)·p + share·q, from the ratio q / p."""
    p, apart = np.exp(log_p), np.where(log_p == log_q, 0, log_q - log_p)
    return np.where(p == 0, 0, -p * np.log1p(share * np.expm1(apart)))


def js_terms(log_probs, log_targets, beta=0.5):
    b = np.longdouble(beta)
    of_targets = b * above_mixture(log_targets, log_probs, 1 - b)
    return of_targets, (1 - b) * above_mixture(log_probs, log_targets, b)


case(
    loss=jaxloss.kl_divergence,
    inputs=against_probabilities,
    truth=kl,
    scale=kl_scale,
    domains=("log probability", "probability"),
    corners=(
        (([-np.inf, 0.0], [0.0, 1.0]), 0.0, [0.0, -1.0]),
        (([-np.inf, 0.0], [0.5, 0.5]), np.inf),
        (([0.0], [1.0]), 0.0, [-1.0]),
    ),
)
case(
    loss=jaxloss.kl_divergence_with_log_targets,
    inputs=distributions,
    truth=kl_with_log_targets,
    scale=lambda p, t: kl_scale(p, np.exp(t)),
    domains=("log probability", "log probability"),
    corners=(
        (([-np.inf, 0.0], [-np.inf, 0.0]), 0.0, [0.0, -1.0]),
        (([-1.0, -2.0], [-np.inf, 0.0]), 2.0, [0.0, -1.0]),
        (([-np.inf, 0.0], [0.0, -np.inf]), np.inf),
    ),
)
case(
    loss=jaxloss.generalized_kl_divergence,
    inputs=against_probabilities,
    truth=generalized_kl,
    scale=generalized_kl_scale,
    domains=("log probability", "probability"),
    corners=((([-np.inf, 0.0], [0.0, 0.0]), 1.0, [0.0, 1.0]),),
)
for options in ({}, {"beta": 0.1}):
    case(
        loss=jaxloss.js_divergence,
        inputs=distributions,
        truth=lambda p, t, beta=0.5: np.add(*js_terms(p, t, beta)).sum(-1),
        scale=lambda p, t, beta=0.5: np.maximum(*map(abs, js_terms(p, t, beta))).max(-1),
        options=options,
        domains=("log probability", "log probability"),
        corners=()
        if options
        else (
            (([-np.inf, 0.0], [-np.inf, 0.0]), 0.0, [0.0, 0.0]),
            (([-np.inf, 0.0], [0.0, -np.inf]), np.log(2), [0.0, np.log(2) / 2]),
            (([0.0], [0.0]), 0.0, [0.0]),
        ),
    )
