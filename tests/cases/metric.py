import jax.numpy as jnp
import numpy as np

import jaxloss
from cases import case

CLASSES, FEATURES = 4, 3


def squared_distance(x, y):
    return jnp.sum((x - y) ** 2, axis=-1)


def triplets(rng, units):
    return tuple(rng.normal(size=(*units, FEATURES)) for _ in range(3))


def groups(rng, units):
    """Two groups, of which in six rows none is alone, nor where the law's mask deletes two."""
    return rng.normal(size=(*units, FEATURES)), np.where(np.arange(units[0]) % 3 > 0, 7, -2)


def with_centers(rng, units):
    centers = rng.normal(size=(CLASSES, FEATURES))
    return rng.normal(size=(*units, FEATURES)), centers, rng.integers(0, CLASSES, units)


def with_head(rng, units):
    embeddings, centers, labels = with_centers(rng, units)
    return embeddings, centers.T, labels


def length(x, n=2):
    if np.isinf(n):
        return np.abs(x).max(-1)
    largest = np.abs(x).max(-1)
    shares = np.abs(x) / np.where(largest == 0, 1, largest)[..., None]
    return largest * (shares**n).sum(-1) ** (1 / np.longdouble(n))


def unit(x):
    lengths = length(x)
    return x / np.where(lengths == 0, 1, lengths)[..., None]


def squares(x, y):
    return ((x - y) ** 2).sum(-1)


def distances(anchors, positives, negatives, norm, swap, distance):
    d = (lambda x, y: length(x - y, norm)) if distance is None else squares
    near, far = d(anchors, positives), d(anchors, negatives)
    return near, np.minimum(far, d(positives, negatives)) if swap else far


def triplet(a, p, n, norm=2, margin=1.0, swap=False, distance=None):
    near, far = distances(a, p, n, norm, swap, distance)
    return np.maximum(0, near - far + margin)


def terms_of_triplet(a, p, n, norm=2, margin=1.0, swap=False, distance=None):
    return np.maximum(margin, np.maximum(*distances(a, p, n, norm, swap, distance)))


def center(embeddings, centers, labels):
    return squares(embeddings, centers[labels]) / 2


def island(embeddings, centers, labels, pair_weight=10.0):
    directions, pairs = unit(centers), 0
    for j in range(len(centers)):
        for k in range(len(centers)):
            pairs = pairs + (j != k) * (directions[j] @ directions[k] + 1)
    return center(embeddings, centers, labels) + pair_weight * pairs


def terms_of_island(embeddings, centers, labels, pair_weight=10.0):
    pairs = pair_weight * len(centers) * (len(centers) - 1)
    return center(embeddings, centers, labels) + pairs


def cross_entropy(logits, labels):
    """log(1 + Σ over the other classes of exp(x - x of the label))."""
    own = np.take_along_axis(logits, labels[..., None], -1)
    behind = np.where(np.arange(logits.shape[-1]) == labels[..., None], -np.inf, logits - own)
    top = behind.max(-1, keepdims=True)
    top = np.where(top > 0, top, 0)
    total = np.exp(behind - top).sum(-1)
    top = top[..., 0]
    return np.where(top > 0, top + np.log(np.exp(-top) + total), np.log1p(total))


def of_angles(target):
    """Cross entropy where the logit of the label is a function of its cosine."""

    def truth(embeddings, head, labels, scale=64.0, **options):
        directions = unit(head.T)
        x = scale * np.einsum("...f,cf->...c", unit(embeddings), directions)
        cosine = np.clip((unit(embeddings) * directions[labels]).sum(-1), -1, 1)
        own = np.arange(len(directions)) == labels[..., None]
        return cross_entropy(np.where(own, scale * target(cosine, **options)[..., None], x), labels)

    return truth


def less(cosine, margin=0.35):
    return cosine - margin


def wider(cosine, margin=0.5):
    angle = np.arccos(cosine)
    near = angle < np.arccos(np.longdouble(-1)) - margin
    return np.where(near, np.cos(angle + margin), cosine - margin * np.sin(margin))


def sphereface(embeddings, head, labels, margin=4):
    directions, lengths = unit(head.T), length(embeddings)
    x = np.einsum("...f,cf->...c", embeddings, directions)
    angle = np.arccos(np.clip((unit(embeddings) * directions[labels]).sum(-1), -1, 1))
    k = np.floor(margin * angle / np.arccos(np.longdouble(-1)))
    target = lengths * ((-1) ** k * np.cos(margin * angle) - 2 * k)
    own = np.arange(len(directions)) == labels[..., None]
    return cross_entropy(np.where(own, target[..., None], x), labels)


def circle(embeddings, labels, margin=0.4, gamma=80.0, at=None):
    """`at` are the embeddings that the weights of the pairs are of: constants of the derivative."""
    s, fixed = (
        np.array([[sum(a * b) for b in unit(e)] for a in unit(e)]) for e in (embeddings, at)
    )
    values = []
    for i, label in enumerate(labels):
        pull, push = [], []
        for j, other in enumerate(labels):
            if other != label:
                push.append(gamma * max(0, margin + fixed[i, j]) * (s[i, j] - margin))
            elif i != j:
                pull.append(-gamma * max(0, 1 + margin - fixed[i, j]) * (s[i, j] - (1 - margin)))
        both = [a + b for a in pull for b in push]
        values.append(cross_entropy(np.array([0, *both]), np.array(0)))
    return np.array(values)


def terms_of_circle(embeddings, labels, margin, gamma):
    """No promise where a partial, of gamma / ‖embedding‖, is beyond the largest float."""
    lengths = length(embeddings)
    beyond = (lengths > 0) & (lengths < 1e-30)
    return np.where(beyond, np.inf, gamma * (2 + margin))


DOMAINS_OF_TRIPLET = {
    "distance": ("moderate",) * 3,
    "swap": ("real", "none", "none"),  # extremes are as far from the anchor as from the positive
}
for options in (
    {},
    {"swap": True, "norm": 3.0, "margin": 0.5},
    {"norm": 1.0, "margin": 0.5},
    {"distance": squared_distance, "margin": 0.3},
):
    case(
        loss=jaxloss.triplet_margin_loss,
        inputs=triplets,
        truth=triplet,
        scale=terms_of_triplet,
        options=options,
        domains=DOMAINS_OF_TRIPLET.get(next(iter(options), ""), ("real",) * 3),
        corners=()
        if options
        else (
            (([1.0, 2.0], [1.0, 2.0], [1.0, 2.0]), 1.0, [0.0, 0.0]),
            (([0.0, 0.0], [3.0, 4.0], [0.0, 2.0]), 4.0, [-0.6, 0.2]),
        ),
    )
case(
    loss=jaxloss.center_loss,
    inputs=with_centers,
    truth=center,
    domains=("real", "real", "none"),
    shared=(1,),
    classes=(1, 0),
)
case(
    loss=jaxloss.island_loss,
    inputs=with_centers,
    truth=island,
    scale=terms_of_island,
    options={"pair_weight": 0.5},
    domains=("real", "real", "none"),
    shared=(1,),
    classes=(1, 0),
    corners=((([1.0, 1.0], [[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]], 1), 3.0, [1.0, 1.0]),),
)
case(
    loss=jaxloss.sphereface_loss,
    inputs=with_head,
    truth=sphereface,
    scale=lambda embeddings, head, labels, margin=4: 8 * length(embeddings) + np.log(CLASSES),
    options={"margin": 3},
    domains=("moderate", "real", "none"),
    shared=(1,),
    classes=(1, -1),
)
for loss, target in ((jaxloss.cosface_loss, less), (jaxloss.arcface_loss, wider)):
    case(
        loss=loss,
        inputs=with_head,
        truth=of_angles(target),
        scale=lambda embeddings, *_, scale, margin: scale + 0 * length(embeddings),
        options={"margin": 0.3, "scale": 8.0},
        domains=("moderate", "real", "none"),
        shared=(1,),
        classes=(1, -1),
    )
case(
    loss=jaxloss.circle_loss,
    inputs=groups,
    truth=circle,
    scale=terms_of_circle,
    options={"margin": 0.25, "gamma": 32.0},
    domains=("moderate", "none"),
    kind="coupled",
    detached=True,
)
