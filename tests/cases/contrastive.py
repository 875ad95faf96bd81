import numpy as np

import jaxloss
from cases import case


def rows(rng, units):
    return rng.normal(size=(*units, 3)), rng.normal(size=(*units, 3))


def groups(rng, units):
    """Two groups, of which in six rows none is alone, nor where the law's mask deletes two."""
    return rng.normal(size=(*units, 3)), np.where(np.arange(units[0]) % 3 > 0, 7, -2)


def pairs(rng, units):
    return *rows(rng, units), rng.choice([0.0, 1.0, 0.25], units)


def own_negatives(rng, units):
    return *rows(rng, units), rng.normal(size=(*units, 4, 3))


def shared_negatives(rng, units):
    return *rows(rng, units), rng.normal(size=(4, 3))


def length(x):
    return np.sqrt((x**2).sum(-1))


def log_one_plus(exponents):
    """log(1 + Σ exp), of a list."""
    top = max([np.longdouble(0), *exponents])
    total = sum(np.exp(x - top) for x in exponents)
    return top + np.log(np.exp(-top) + total) if top > 0 else np.log1p(total)


def info_nce(anchors, positives, temperature=0.1, **how):
    """Anchor by anchor, over the positives of all."""
    values = []
    for i, anchor in enumerate(anchors):
        s = [sum(anchor * positive) / temperature for positive in positives]
        values.append(np.log1p(sum(np.exp(s[j] - s[i]) for j in range(len(s)) if j != i)))
    return np.array(values)


def largest_similarity(anchors, positives, temperature=0.1, **how):
    lengths = [length(z) for z in (anchors, positives)]
    return np.maximum(lengths[0] * lengths[1].max(initial=0) / temperature, np.log(len(anchors)))


def info_nce_of_given(anchors, positives, negatives, temperature=0.1):
    own = (anchors * positives).sum(-1)
    s = (anchors[..., None, :] * negatives).sum(-1)
    behind = (s - own[..., None]) / temperature
    return np.apply_along_axis(log_one_plus, -1, behind)


def largest_given(anchors, positives, negatives, temperature=0.1):
    others = np.maximum(length(positives), length(negatives).max(-1))
    return np.maximum(length(anchors) * others / temperature, 1)


def cosines(embeddings):
    lengths = length(embeddings)
    unit = embeddings / np.where(lengths == 0, 1, lengths)[:, None]
    return np.array([[sum(a * b) for b in unit] for a in unit])


def of_groups(i, labels):
    """The positives and the negatives of an anchor."""
    others = [j for j in range(len(labels)) if j != i]
    return [j for j in others if labels[j] == labels[i]], [
        j for j in others if labels[j] != labels[i]
    ]


def ntxent(embeddings, labels, temperature=0.07):
    s = cosines(embeddings) / temperature
    values = []
    for i in range(len(labels)):
        positives, negatives = of_groups(i, labels)
        values.append(sum(log_one_plus([s[i, n] - s[i, p] for n in negatives]) for p in positives))
    return np.array(values)


def supcon(embeddings, labels, temperature=0.1, **how):
    s = cosines(embeddings) / temperature
    values = []
    for i in range(len(labels)):
        positives, negatives = of_groups(i, labels)
        each = [
            log_one_plus([s[i, j] - s[i, p] for j in positives + negatives if j != p])
            for p in positives
        ]
        values.append(sum(each) / max(len(each), 1))
    return np.array(values)


def pairs_over(temperature):
    """The largest cosine over the temperature, times the pairs of an anchor."""

    def scale(embeddings, labels, temperature=temperature, **how):
        counts = [len(of_groups(i, labels)[0]) for i in range(len(labels))]
        return np.array(counts) / np.longdouble(temperature)

    return scale


def clip(images, texts, logit_scale, **how):
    ways = info_nce(images, texts, 1 / logit_scale), info_nce(texts, images, 1 / logit_scale)
    return sum(ways) / 2


def largest_of_clip(images, texts, logit_scale, **how):
    ways = ((images, texts), (texts, images))
    return np.maximum(*(largest_similarity(*each, 1 / logit_scale) for each in ways))


def siglip(images, texts, logit_scale, logit_bias, **how):
    values = []
    for i, image in enumerate(images):
        s = [logit_scale * sum(image * text) + logit_bias for text in texts]
        values.append(sum(log_one_plus([-x if i == j else x]) for j, x in enumerate(s)))
    return np.array(values)


def sum_of_siglip(images, texts, logit_scale, logit_bias, **how):
    terms = logit_scale * length(images)[:, None] * length(texts)[None] + abs(logit_bias)
    return terms.sum(-1)


def contrastive(x1, x2, labels, margin=1.0):
    d = length(x1 - x2)
    return (labels * d**2 + (1 - labels) * np.maximum(0, margin - d) ** 2) / 2


def terms_of_contrastive(x1, x2, labels, margin=1.0):
    d = length(x1 - x2)
    return (labels * d**2 + np.where((labels < 1) & (d < margin), margin**2, 0)) / 2


# blocks of a few rows, the last of which starts early
BLOCKS = {"schedule": "blocks", "memory_budget": 64}

for options in ({}, {"temperature": 0.5}, {"temperature": 0.5, **BLOCKS}):
    case(
        loss=jaxloss.info_nce_loss,
        inputs=rows,
        truth=info_nce,
        scale=largest_similarity,
        options=options,
        domains=("moderate", "moderate"),
        kind="coupled",
        corners=((([1.0, 2.0], [3.0, 4.0]), 0.0, [0.0, 0.0]),) if not options else (),
        half_products="schedule" in options,
    )
for inputs, shared in ((own_negatives, ()), (shared_negatives, (2,))):
    case(
        loss=jaxloss.info_nce_loss,
        inputs=inputs,
        truth=info_nce_of_given,
        scale=largest_given,
        options={"temperature": 0.5},
        domains=("moderate", "moderate", "moderate"),
        data=("negatives",),
        shared=shared,
    )
for loss, truth, default, how in (
    (jaxloss.ntxent, ntxent, 0.07, {}),
    (jaxloss.supcon_loss, supcon, 0.1, {}),
    (jaxloss.supcon_loss, supcon, 0.1, BLOCKS),
):
    case(
        loss=loss,
        inputs=groups,
        truth=truth,
        scale=pairs_over(default),
        options={"temperature": 0.5, **how},
        domains=("moderate", "none"),
        kind="coupled",
        corners=((([1.0, 2.0, 0.0], 3), 0.0, [0.0, 0.0, 0.0]),),
    )
for how in ({}, BLOCKS):
    case(
        loss=jaxloss.clip_loss,
        inputs=rows,
        truth=clip,
        scale=largest_of_clip,
        options={"logit_scale": 5.0, **how},
        domains=("moderate", "moderate"),
        kind="coupled",
        reverse_only=bool(how),
        half_products=bool(how),
        corners=((([1.0, 2.0], [3.0, 4.0]), 0.0, [0.0, 0.0]),),
    )
    case(
        loss=jaxloss.siglip_loss,
        inputs=rows,
        truth=siglip,
        scale=sum_of_siglip,
        options={"logit_scale": 2.0, "logit_bias": -3.0, **how},
        domains=("moderate", "moderate"),
        kind="coupled",
        reverse_only=bool(how),
        half_products=bool(how),
        corners=((([1.0, 0.0], [1.5, 4.0]), np.log(2.0), [-1.5, -4.0]),),
    )
for options in ({}, {"margin": 2.5}):
    case(
        loss=jaxloss.contrastive_loss,
        inputs=pairs,
        truth=contrastive,
        scale=terms_of_contrastive,
        options=options,
        domains=("real", "real", "bit"),
        corners=()
        if options
        else (
            (([1.0, 2.0], [1.0, 2.0], 0.0), 0.5, [0.0, 0.0]),
            (([np.inf, 2.0], [1.0, 2.0], 0.0), 0.0, [0.0, 0.0]),
        ),
    )
