"""What counting says of a next token, which a language model has to be better than."""

from __future__ import annotations

import numpy as np

from jaxloss.parts.targets import next_token_targets


def of(tokens: np.ndarray, segments: np.ndarray, padding: int) -> np.ndarray:
    """`[2, pairs]`, every token that has a next one of the same segment, and that one."""
    labels, where = (np.asarray(each) for each in next_token_targets(tokens, segments, padding))
    return np.stack([tokens[where], labels[where]])


def bits(known: np.ndarray, asked: np.ndarray, vocabulary: int) -> float:
    """What the second tokens of `asked` cost, by the counts of `known`, each after its first one.

        p(b | a) = (n(a, b) + d(a)·p(b)) / (n(a) + d(a)),   p(b) = (n(b) + 1) / (n + vocabulary)

    d(a) is how many different tokens have followed a: Witten and Bell, "The Zero-Frequency
    Problem", 1991.
    """
    codes, counts = np.unique(known[0] * vocabulary + known[1], return_counts=True)
    follows = np.bincount(codes // vocabulary, minlength=vocabulary)
    before, after = (np.bincount(tokens, minlength=vocabulary) for tokens in known)
    first, second = asked
    wanted = first * vocabulary + second
    places = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    together = np.where(codes[places] == wanted, counts[places], 0)
    alone = (after[second] + 1) / (known.shape[1] + vocabulary)
    number = before[first] + follows[first]
    share = (together + follows[first] * alone) / np.maximum(number, 1)
    return float(-np.log2(np.where(number > 0, share, alone)).sum())
