"""Batches in the order of training, and the place in it where a training stands."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TypeAlias

import jax
import numpy as np
from jax import Array
from jax.sharding import Sharding
from jax.typing import ArrayLike

from jaxloss.train.objective import PyTree

Batches: TypeAlias = Iterable[PyTree] | Callable[[int], Iterable[PyTree]]
IteratorState: TypeAlias = Mapping[str, object] | str | None


@dataclasses.dataclass
class Place:
    """How far a training has come: what `Reader` needs to go on with the next batch.

    Args:
        row: The rows of the history that are whole.
        calls: Of the step, in all.
        row_calls: Of the step, since the last whole row.
        epoch: The epochs that are over.
        batch: The batches that were read in the running one.
        iterator: The state of its iterator, if that has `get_state` and `set_state`.
        steps_per_call: Of the step, and so of a batch.
    """

    row: int = 0
    calls: int = 0
    row_calls: int = 0
    epoch: int = 0
    batch: int = 0
    iterator: IteratorState = None
    steps_per_call: int = 1

    def in_calls_of(self, updates: int) -> Place:
        """The place, which a step of other calls cannot go on from."""
        if self.calls and self.steps_per_call != updates:
            raise ValueError(
                f"the checkpoint is of a training with steps_per_call={self.steps_per_call}, and "
                f"the step has {updates}: go on with the former, or begin in another folder."
            )
        return dataclasses.replace(self, steps_per_call=updates)


class Reader:
    """Goes through batches, epoch after epoch, from a place on, which moves along."""

    def __init__(self, batches: Batches, place: Place) -> None:
        self.batches, self.place = batches, place
        self.resumed = place.calls > 0
        self.iterator: Iterator[PyTree] | None = None

    def rows(
        self, calls: int | None, epochs: int | None, calls_per_row: int
    ) -> Iterator[Iterator[PyTree]]:
        """The batches of each row: an epoch, or `calls_per_row` calls of the step."""
        place, stream = self.place, self._endless()
        while epochs is not None and place.epoch < epochs:
            yield self._epoch()
        while epochs is None and calls is not None and place.calls < calls:
            left = min(calls_per_row - place.row_calls, calls - place.calls)
            yield itertools.islice(stream, max(left, 0))  # less with an `every` that is less now

    def end_row(self) -> None:
        """The next batch begins a row."""
        self.place.row, self.place.row_calls = self.place.row + 1, 0

    def here(self, *, with_iterator: bool) -> Place:
        """A copy of the place, with the state of the iterator if it has one."""
        get_state = getattr(self.iterator, "get_state", None)
        if get_state is None or not with_iterator:
            return dataclasses.replace(self.place)
        state = get_state()
        state = state.decode() if isinstance(state, bytes) else state
        return dataclasses.replace(self.place, iterator=state)

    def _endless(self) -> Iterator[PyTree]:
        """Epoch after epoch, until one is empty."""
        more = True
        while more:
            more = yield from self._epoch()

    def _epoch(self) -> Generator[PyTree, None, bool]:
        """What is left of the running epoch; then, whether it has any batches."""
        place, self.iterator = self.place, self._opened()
        for batch in self.iterator:
            place.batch, place.calls = place.batch + 1, place.calls + 1
            place.row_calls += 1
            yield batch
        self.iterator, read = None, place.batch
        place.epoch, place.batch = place.epoch + 1, 0
        return read > 0

    def _opened(self) -> Iterator[PyTree]:
        """The iterator of the running epoch, which the first time is brought to the place."""
        place, resumed, self.resumed = self.place, self.resumed, False
        iterator = iter(self.batches(place.epoch) if callable(self.batches) else self.batches)
        set_state = getattr(iterator, "set_state", None)
        if resumed and set_state is not None and place.iterator is not None:
            state, place.iterator = place.iterator, None
            set_state(state.encode() if isinstance(state, str) else state)
            return iterator
        if resumed and set_state is None and not callable(self.batches):
            for _ in range(place.epoch):  # its order may depend on the epochs before
                collections.deque(iterator, maxlen=0)
                iterator = iter(self.batches)
        skipped = sum(1 for _ in itertools.islice(iterator, place.batch))
        if skipped < place.batch:
            raise ValueError(
                f"batches has {skipped} batches in epoch {place.epoch}, of which {place.batch} "
                "were read before the checkpoint: resume with the batches of that training."
            )
        return iterator


def on_device(batch: PyTree, sharding: PyTree) -> PyTree:
    """On its way to where `sharding` says; from a copy, as a loader may fill its arrays again."""
    if sharding is None:
        return jax.tree.map(lambda leaf: jax.device_put(_host_copy(leaf)), batch)
    return jax.tree.map(
        lambda sharding, part: jax.tree.map(lambda leaf: _spread(leaf, sharding), part),
        sharding,
        batch,
    )


def require_own_parts(batch: PyTree, *, axis: int, microbatches: int) -> None:
    """Each device has as many rows of every microbatch, or they would move between devices."""
    for path, leaf in jax.tree.leaves_with_path(batch):
        rows = leaf.sharding.shard_shape(leaf.shape)[axis]
        if rows % microbatches:
            raise ValueError(
                f"batch{jax.tree_util.keystr(path)} has {rows} rows on each device, which "
                f"microbatches={microbatches} must divide: jaxloss.pad_batch fills up a batch."
            )


def _host_copy(leaf: ArrayLike) -> ArrayLike:
    """Of an array of NumPy, torch or TensorFlow."""
    is_foreign = hasattr(leaf, "__array__") and not isinstance(leaf, jax.Array)
    return np.asarray(leaf).copy() if is_foreign else leaf


def _spread(leaf: ArrayLike, sharding: Sharding) -> Array:
    leaf = _host_copy(leaf)
    if isinstance(leaf, np.ndarray):
        return jax.make_array_from_process_local_data(sharding, leaf)
    return jax.device_put(leaf, sharding)
