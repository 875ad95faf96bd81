"""A small language model that learns a text: the model, its loss, and what it is worth."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree
from matplotlib.figure import Figure

import jaxloss
from jaxloss.cli import folder, pairs, pictures, tasks
from jaxloss.cli.catalogue import Entry
from jaxloss.cli.mistakes import Mistake
from jaxloss.cli.options import Option
from jaxloss.cli.table import Split
from jaxloss.cli.tasks import Values
from jaxloss.cli.text import Text
from jaxloss.core.statistics import Mean, Statistic, value
from jaxloss.loop.evaluate import pad_batch
from jaxloss.loop.history import History
from jaxloss.parts.targets import next_token_targets
from jaxloss.train.precision import Precision, computing

#: The usual width of an attention head.
HEAD = 32
#: The losses that are, without options, what the next tokens cost.
CROSS_ENTROPIES = ("linear_softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels")
#: How many windows are evaluated at once.
EVALUATED = 32


class Windows(TypedDict):
    """Windows of a text; `where` they are real."""

    tokens: Values
    segments: Values
    where: Values


class Norm(nn.Module):
    """Features of one size, whatever they are computed in: that of flax promotes their dtype."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        wide = x.astype(jnp.float32)
        size = jnp.sqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + 1e-6)
        return (wide / size).astype(x.dtype) * scale.reshape((1,) * (x.ndim - 1) + scale.shape)


class Block(nn.Module):
    """Attention to what came before in the same segment, and a layer of its own per token."""

    heads: int

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        *units, width = x.shape
        mixed = nn.Dense(3 * width, use_bias=False)(Norm()(x))
        q, k, v = jnp.moveaxis(mixed.reshape(*units, 3, self.heads, width // self.heads), -3, 0)
        seen = attention(rotated(q), rotated(k), v, mask)
        x = x + nn.Dense(width, use_bias=False)(seen.reshape(x.shape))
        return x + nn.Dense(width)(nn.gelu(nn.Dense(4 * width)(Norm()(x))))


class Transformer(nn.Module):
    """The features of each place `[batch, time, width]`, and the head `[width, vocabulary]`."""

    vocabulary: int
    width: int
    blocks: int

    @nn.compact
    def __call__(self, tokens: Array, segments: Array) -> tuple[Array, Array]:
        past = jnp.tril(jnp.ones((tokens.shape[-1],) * 2, bool))
        mask = (segments[:, None, :, None] == segments[:, None, None, :]) & past[None, None]
        x = nn.Embed(self.vocabulary + 1, self.width)(tokens)
        for _ in range(self.blocks):
            x = Block(max(self.width // HEAD, 1))(x, mask)
        head = self.param("head", nn.initializers.zeros, (self.width, self.vocabulary))
        return Norm()(x), head


def attention(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """For each query the values where `mask` is, by how well their keys fit; all like `v`.

    The softmax is in float32. `jax.nn.dot_product_attention` promotes dtypes on the way.
    """
    scale = q.shape[-1] ** -0.5
    scores = jnp.einsum("bqhd,bkhd->bhqk", q * scale, k, preferred_element_type=jnp.float32)
    shares = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", shares.astype(v.dtype), v)


def rotated(x: Array) -> Array:
    """Queries or keys `[batch, time, heads, features]`, turned by angles that grow with time.

    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.
    """
    half = x.shape[-1] // 2
    rates = 1e4 ** -(np.arange(half) / half)
    angles = np.arange(x.shape[1])[None, :, None, None] * rates
    cos, sin = (jnp.asarray(f(angles), x.dtype) for f in (np.cos, np.sin))
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Lesson:
    """A text, a loss and a model that fit together: all that a training needs but the optimizer."""

    text: Text
    entry: Entry
    options: Mapping[str, Option]
    model: Transformer

    @property
    def split(self) -> Split:
        """The windows of each part."""
        return self.text.split

    def init(self, key: Array) -> PyTree:
        """The first parameters."""
        return jax.jit(self.model.init)(key, self.text.tokens[:1], self.text.segments[:1])

    def loss(self, params: PyTree, batch: Windows) -> Statistic:
        """The training loss of a batch."""
        *made, labels, where = self._targets(params, batch)
        loss = functools.partial(self.entry.loss, **self.options)
        if self.entry.learns != "token":
            made = [self._linked(*made)]
        return loss(*made, labels, where=where, reduction=jaxloss.stats)

    def entropy(self, params: PyTree, batch: Windows) -> Array:
        """What the next tokens cost in all, in nats, whatever the loss is."""
        hidden, head, labels, where = self._targets(params, batch)
        loss = jaxloss.linear_softmax_cross_entropy
        return loss(hidden, head, labels, where=where, reduction="sum")

    def batch(self, rows: np.ndarray) -> Windows:
        """All of these windows at once."""
        tokens, segments = self.text.tokens[rows], self.text.segments[rows]
        return {"tokens": tokens, "segments": segments, "where": np.ones(len(rows), bool)}

    def scorer(self, precision: Precision | None) -> Callable[[PyTree, str], dict[str, float]]:
        """A function that gives the loss and the bits per byte of parameters on a part."""

        @jax.jit
        def measured(params: PyTree, batch: Windows) -> tuple[Statistic, Array]:
            params = computing(params, precision)
            loss = self.loss(params, batch)
            if isinstance(loss, Mean) and self.entry.name in CROSS_ENTROPIES and not self.options:
                return loss, loss.total
            return loss, self.entropy(params, batch)

        def score(params: PyTree, part: str) -> dict[str, float]:
            rows = self.split[part]
            taken = [rows[i : i + EVALUATED] for i in range(0, len(rows), EVALUATED)]
            padded = [pad_batch(each, EVALUATED) for each in taken]
            batches = [{**self.batch(each), "where": where} for each, where in padded]
            found = jax.device_get([measured(params, batch) for batch in batches])
            loss = value(jaxloss.merge([loss for loss, _ in found]))
            bits = sum(float(nats) for _, nats in found) / math.log(2)
            return {"loss": float(loss), "bits_per_byte": bits / self.text.bytes_of(part)}

        return score

    def scores(self, params: PyTree, precision: Precision | None) -> dict[str, dict[str, float]]:
        """What parameters are worth on the parts that are held out, and what counting is."""
        score = self.scorer(precision)
        return {
            part: {
                **score(params, part),
                "bits_per_byte_of_counts": bits_of_counts(self.text, part),
            }
            for part in ("validation", "test")
        }

    def described(self) -> str:
        """The model, in words."""
        model, params = self.model, jax.eval_shape(self.init, jax.random.key(0))
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        blocks = f"{model.blocks} block{'s' * (model.blocks > 1)} of width {model.width}"
        return (
            f"A transformer of {blocks} for a vocabulary of {model.vocabulary:,}: {size:,} "
            "parameters."
        )

    def arrays(self, params: PyTree) -> dict[str, np.ndarray]:
        """The parameters by their paths, such as `Block_0/Dense_0/kernel`."""
        leaves = jax.tree.leaves_with_path(jax.device_get(params)["params"])
        return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}

    def _targets(self, params: PyTree, batch: Windows) -> tuple[Array, Array, Array, Array]:
        tokens, segments = jnp.asarray(batch["tokens"]), jnp.asarray(batch["segments"])
        hidden, head = cast(tuple[Array, Array], self.model.apply(params, tokens, segments))
        labels, where = next_token_targets(tokens, segments, self.text.vocabulary)
        return hidden, head, labels, where & jnp.asarray(batch["where"])[:, None]

    def _linked(self, hidden: Array, head: Array) -> Array:
        """What the loss takes that is not of a head: logits, or what comes of them."""
        logits = jnp.matmul(hidden, head, preferred_element_type=jnp.float32)
        (name,) = tasks.leading(self.entry.loss)
        return tasks.OF_CLASSES.get(name, lambda logits: logits)(logits)


def bits_of_counts(text: Text, part: str) -> float:
    """The bits per byte of counting which token follows which in the training part."""
    bits = pairs.bits(text.pairs("train"), text.pairs(part), text.vocabulary)
    return bits / text.bytes_of(part)


def require_fit(entry: Entry) -> None:
    """Raises a `Mistake` where the loss cannot learn the next token."""
    tasks.require_kind(entry, ("token", "class"), "the next token of a text")


def prepare(
    text: Text, entry: Entry, options: Mapping[str, Option], hidden: tuple[int, ...]
) -> Lesson:
    """The model for the text.

    Raises:
        Mistake: The loss does not fit, or refuses an option, or the widths are none of a model.
    """
    require_fit(entry)
    if len(set(hidden)) != 1 or hidden[0] % HEAD:
        raise Mistake(
            f"--hidden of a text is a width for each block, all the same and a multiple of {HEAD}, "
            f"such as 128,128, got {','.join(map(str, hidden)) or 0}."
        )
    lesson = Lesson(text, entry, options, Transformer(text.vocabulary, hidden[0], len(hidden)))
    try:
        params = jax.eval_shape(lesson.init, jax.random.key(0))
        jax.eval_shape(lesson.loss, params, lesson.batch(text.split["train"][:1]))
    except (ValueError, TypeError) as error:
        raise Mistake(f"{entry.name}: {error}") from None
    return lesson


def save(path: Path, lesson: Lesson, history: History) -> None:
    """`bits.png`, if anything was evaluated, and the tokenizer if there is one."""
    if "validation_bits_per_byte" in history.names:
        pictures.save(_draw(lesson, history), path / "bits.png")
    tokenizer = lesson.text.tokenizer
    if tokenizer is not None:
        folder.save(path / "tokenizer.json", lambda temporary: temporary.write_text(tokenizer))


def _draw(lesson: Lesson, history: History) -> Figure:
    made, (axis,) = pictures.figure(1, [7], height=4)
    axis.plot(history.steps, history["validation_bits_per_byte"], marker=".", label="the model")
    axis.axhline(
        bits_of_counts(lesson.text, "validation"), color="k", linestyle="--", label="order-1 counts"
    )
    axis.set_xlabel("step")
    axis.set_ylabel("validation bits per byte")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    return made
