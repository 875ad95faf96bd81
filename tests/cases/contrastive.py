import numpy as np

import jaxloss
from cases import case


def rows(rng, units):
    return rng.normal(size=(*units, 3)), rng.normal(size=(*units, 3))


def info_nce(anchors, positives, temperature=0.1):
    """Anchor by anchor, over the positives of all."""
    values = []
    for i, anchor in enumerate(anchors):
        s = [sum(anchor * positive) / temperature for positive in positives]
        values.append(np.log1p(sum(np.exp(s[j] - s[i]) for j in range(len(s)) if j != i)))
    return np.array(values)


def largest_similarity(anchors, positives, temperature=0.1):
    lengths = [np.sqrt((z**2).sum(-1)) for z in (anchors, positives)]
    return np.maximum(lengths[0] * lengths[1].max(initial=0) / temperature, np.log(len(anchors)))


for options in ({}, {"temperature": 0.5}):
    case(
        loss=jaxloss.info_nce_loss,
        inputs=rows,
        truth=info_nce,
        scale=largest_similarity,
        options=options,
        domains=("moderate", "moderate"),
        kind="coupled",
        corners=((([1.0, 2.0], [3.0, 4.0]), 0.0, [0.0, 0.0]),) if not options else (),
    )
