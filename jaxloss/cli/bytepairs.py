"""Tokens of more than a byte: the pairs that are frequent in a text, merged again and again."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from jaxloss.cli.mistakes import Mistake


def encode(
    parts: list[list[bytes]], vocab: int, source: str
) -> tuple[str, np.ndarray, list[list[np.ndarray]]]:
    """A tokenizer of the first part as JSON, the bytes of its tokens, and all parts in them.

    Raises:
        Mistake: The text is no UTF-8, or has too few pairs.
    """
    try:
        texts = [[piece.decode() for piece in part] for part in parts]
    except UnicodeDecodeError:
        raise Mistake(
            f"{source} is not UTF-8, which --vocab needs: leave it out to learn bytes."
        ) from None
    tokenizer = _trained(texts[0], vocab)
    names = tokenizer.get_vocab()
    if len(names) < vocab:
        raise Mistake(
            f"{source} has pairs for no more than {len(names)} tokens: say --vocab {len(names)} or "
            "less, or let a larger --limit of it be read."
        )
    lengths = np.zeros(vocab, int)
    lengths[list(names.values())] = [len(name) for name in names]  # a letter stands for a byte
    encoded = [
        [np.array(each.ids, np.int32) for each in tokenizer.encode_batch(part)] for part in texts
    ]
    return tokenizer.to_str(), lengths, encoded


def _trained(texts: list[str], vocab: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
