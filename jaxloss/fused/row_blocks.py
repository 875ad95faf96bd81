"""Blocks of rows, one after the other: no units, but how many rows at once and where they go."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

PairSchedule: TypeAlias = Literal["plain", "blocks"]
Carry = TypeVar("Carry")
Tree = TypeVar("Tree")

#: An array of pairs of this many bytes is built, whatever the inputs take.
SMALL = 2**24


@dataclasses.dataclass(frozen=True)
class Pairs:
    """How all pairs of the rows of two arrays are gone through.

    `schedule` builds the array of all pairs ("plain"), or goes by "blocks" of rows, whose pairs
    take at most `memory_budget` bytes. None is blocks where all pairs would take more than that;
    the budget itself is by default 16 MiB or half of what one of the arrays takes, if that is more.
    With `half` the operands of products are bfloat16.
    """

    schedule: PairSchedule | None = None
    memory_budget: int | None = None
    half: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in (None, "plain", "blocks"):
            raise ValueError(f"schedule must be None, 'plain' or 'blocks', got {self.schedule!r}.")
        if self.memory_budget is not None and not self.memory_budget > 0:
            raise ValueError(f"memory_budget must be positive, got {self.memory_budget}.")

    def block(self, x: Array | jax.ShapeDtypeStruct, z: Array | jax.ShapeDtypeStruct) -> int | None:
        """How many rows of `x` meet all of `z` at once; None where all do."""
        one, rows = z.shape[0] * z.dtype.itemsize, x.shape[0]
        budget = self.memory_budget or max(SMALL, x.size * x.dtype.itemsize // 2)
        small = self.schedule is None and one * rows <= budget
        if self.schedule == "plain" or small or not one * rows:
            return None
        block = max(1, min(budget // one, rows))
        return block if block in (*range(8), rows) else block // 8 * 8


def operands(half: bool, *arrays: Array) -> list[Array]:
    """The arrays as factors of a product."""
    return [array.astype(jnp.bfloat16) if half else array for array in arrays]


def half(*arrays: ArrayLike) -> bool:
    """Whether all are bfloat16, as the user gave them."""
    return all(jnp.result_type(array) == jnp.bfloat16 for array in arrays)


def fold(
    body: Callable[[Carry, Array, Array], Carry], carry: Carry, rows: int, block: int
) -> Carry:
    """`body(carry, start, fresh)` over blocks of rows.

    Where the block does not divide the rows the last one starts early: `fresh` are those of its
    rows that no other has had.
    """

    def step(carry: Carry, k: Array) -> tuple[Carry, None]:
        start = jnp.minimum(k * block, rows - block)
        return body(carry, start, start + _range(block) >= k * block), None

    return jax.lax.scan(step, carry, _range(math.ceil(rows / block)))[0]


def by_rows(f: Callable[..., Tree], rows: tuple[Array, ...], block: int) -> Tree:
    """`f(indices, *rows)` of a block of rows at a time, computed again for its derivative."""

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one(start: Array) -> Tree:
        return f(start + _range(block), *(take(array, start, block) for array in rows))

    def joined(values: Array) -> Array:
        first = values[:-1].reshape(-1, *values.shape[2:])
        return jnp.concatenate([first, values[-1, first.shape[0] - count :]])

    count = rows[0].shape[0]
    starts = _range(math.ceil(count / block)) * block
    return jax.tree.map(joined, jax.lax.map(one, jnp.minimum(starts, count - block)))


def _range(n: int) -> Array:
    return jnp.arange(n, dtype=jnp.int32)


def take(array: Array, start: Array, block: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, start, block)


def put(array: Array, rows: Array, start: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(array, rows, start, 0)


def add(array: Array, rows: Array, start: Array) -> Array:
    return put(array, take(array, start, rows.shape[0]) + rows, start)


def product(x: Array, z: Array, over: tuple[int, int]) -> Array:
    """Summed over an axis of each, in float32 or wider; bfloat16 operands stay what they are."""
    as_it_is = x.dtype == jnp.bfloat16
    return jax.lax.dot_general(
        x,
        z,
        (((over[0],), (over[1],)), ((), ())),
        precision=None if as_it_is else "highest",
        preferred_element_type=jnp.float32 if as_it_is else x.dtype,
    )


def varying(tree: Tree, *like: Array) -> Tree:
    """The same, differing from device to device inside of `jax.shard_map` where `like` does."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    never = functools.reduce(jnp.logical_or, [jnp.any(jnp.atleast_1d(a)[:0]) for a in like])
    return jax.tree.map(lambda leaf: jnp.where(never, leaf, leaf), tree)
