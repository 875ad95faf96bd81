"""Checkpoints of a training, written by Orbax: all that it takes to go on from there."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.multihost_utils import process_allgather, sync_global_devices

from jaxloss.loop.batches import Place
from jaxloss.loop.history import History
from jaxloss.loop.stopping import EarlyStop
from jaxloss.train.objective import PyTree
from jaxloss.train.program import changes, described
from jaxloss.train.step import TrainState

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

_LONGEST = 300  # bytes of what processes tell each other


class CheckpointError(ValueError):
    """There are checkpoints, and none that can be gone on from."""


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where `fit` keeps its checkpoints, how often it makes one, and which of them stay.

    A checkpoint is written while the training goes on, and has its name only when it is whole.

    Args:
        path: The folder.
        every: How many updates lie between two of them; None makes one at the end of each row of
            the history. The end of the training always has one.
        keep_last: How many of the newest stay. One that is damaged needs an older one.
        keep_best: How many of those with the best validation loss stay, or with the best of what
            `stop` watches.

    Raises:
        ValueError: `every` or `keep_last` is less than 1, or `keep_best` less than 0.

    Example:
        >>> jaxloss.Checkpoints("runs/digits", every=1000, keep_last=3)
        Checkpoints(path='runs/digits', every=1000, keep_last=3, keep_best=1)
    """

    path: str | os.PathLike[str]
    every: int | None = None
    keep_last: int = 2
    keep_best: int = 1

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("keep_last", 1), ("keep_best", 0)):
            count = getattr(self, name)
            if count is not None and count < least:
                raise ValueError(f"{name} must be {least} or more, got {count}.")


Checkpoint: TypeAlias = "str | os.PathLike[str] | Checkpoints | ocp.CheckpointManager | None"


class Saved(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    history: History
    place: Place

    @classmethod
    def first(cls, state: TrainState) -> Saved:
        """Where a training begins."""
        return cls(state, History(), Place())


class Keeper:
    """Saves a training, and finds where it was."""

    def __init__(self, manager: ocp.CheckpointManager, options: Checkpoints | None) -> None:
        self.manager, self.options = manager, options
        self.last = 0

    def due(self, step: int, *, row_ended: bool) -> bool:
        """Whether to save now."""
        if step == self.last:
            return False
        if self.options is None:
            return self.manager.should_save(step)
        every = self.options.every
        return row_ended if every is None else step // every > self.last // every

    def save(self, step: int, saved: Saved, metrics: Mapping[str, float] | None) -> None:
        """Returns when the arrays are copied, and before they are written."""
        import orbax.checkpoint as ocp

        best = saved.history.best_state
        training = {
            "leaves": described(state=saved.state),
            "history": saved.history.to_json(),
            "place": dataclasses.asdict(saved.place),
            "has_best": best is not None,
        }
        items: dict[str, ocp.args.CheckpointArgs] = {
            "state": ocp.args.StandardSave(saved.state),
            "training": ocp.args.JsonSave(training),
        }
        if best is not None:
            items["best_state"] = ocp.args.StandardSave(best)
        self.manager.save(step, args=ocp.args.Composite(**items), metrics=metrics, force=True)
        self.last = step

    def restore(self, like: TrainState, resume: Literal["auto", "never"]) -> Saved | None:
        """The newest checkpoint that can be read, in the shardings of `like`; None without any."""
        bad: dict[int, str] = {}
        steps = sorted(self.manager.all_steps(), reverse=True)
        if resume == "never" and steps:
            raise ValueError(
                f"{self.manager.directory} has checkpoints, the newest of step {steps[0]}: say "
                "resume='auto' to go on from it, or give another folder."
            )
        self.last = int(like.step)
        for step in steps:
            saved, fault = self._attempt(step, like)
            if saved is None:
                bad[step] = fault
                continue
            self._set_aside(bad, step)
            self.last = step
            return saved
        if not bad:
            return None
        raise CheckpointError(
            f"no checkpoint in {self.manager.directory} can be continued: {_listed(bad)}. Give "
            "the model and the optimizer that it was made with, or another folder."
        )

    def _attempt(self, step: int, like: TrainState) -> tuple[Saved | None, str]:
        """What was saved, or what is wrong with it for any of the processes."""
        try:
            saved, fault = self._read(step, like), ""
        except Exception as error:  # of a part of an array Orbax raises no narrower one
            saved, fault = None, str(error).strip().partition("\n")[0] or type(error).__name__
        fault = _of_any_process(fault)
        return (None if fault else saved), fault

    def _read(self, step: int, like: TrainState) -> Saved:
        import orbax.checkpoint as ocp

        training = self._items(step, training=ocp.args.JsonRestore())["training"]
        then, now = training["leaves"], described(state=like)
        if then != now:
            raise ValueError(f"it is of another training, as {changes(then, now)}")
        wanted = {"state": like, "best_state": like} if training["has_best"] else {"state": like}
        found = self._items(
            step, **{name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        )
        history = History.from_json(**training["history"])
        if training["has_best"]:
            history.best_state = jax.tree.map(_placed, found["best_state"], like)
        state = jax.tree.map(_placed, found["state"], like)
        return Saved(state, history, Place(**training["place"]))

    def _items(self, step: int, **wanted: ocp.args.CheckpointArgs) -> dict[str, PyTree]:
        import orbax.checkpoint as ocp

        args = ocp.args.Composite(**wanted)
        if self.options is None:
            return dict(self.manager.restore(step, args=args).items())
        # the manager would wait for processes that found a fault in their part
        handler = ocp.CompositeCheckpointHandler()
        return dict(handler.restore(self.manager.directory / str(step), args=args).items())

    def _set_aside(self, bad: Mapping[int, str], used: int) -> None:
        """Says what is wrong with newer checkpoints, and renames them: their steps come again."""
        if not bad:
            return
        if jax.process_index() == 0:
            self._rename(bad, used)
        sync_global_devices("damaged checkpoints are renamed")
        self.manager.reload()

    def _rename(self, bad: Mapping[int, str], used: int) -> None:
        moved = "" if self.options is None else " They were renamed to damaged-<step>."
        warnings.warn(
            f"checkpoints in {self.manager.directory} cannot be continued: {_listed(bad)}. The "
            f"one of step {used} is used.{moved}",
            stacklevel=3,
        )
        if self.options is not None:
            for step in bad:
                folder = self.manager.directory / str(step)
                folder.rename(self.manager.directory / f"damaged-{step}")


@contextlib.contextmanager
def keeper(checkpoint: Checkpoint, watch: EarlyStop) -> Iterator[Keeper | None]:
    """What saves to the folder or the manager; at its end all that was saved is written."""
    if checkpoint is None:
        yield None
        return
    try:
        import orbax.checkpoint as ocp
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "fit makes its checkpoints with Orbax: pip install 'jaxloss[demo]'.", name="orbax"
        ) from missing
    if isinstance(checkpoint, ocp.CheckpointManager):
        yield Keeper(checkpoint, None)
        checkpoint.wait_until_finished()
        return
    options = checkpoint if isinstance(checkpoint, Checkpoints) else Checkpoints(checkpoint)
    path = pathlib.Path(options.path).absolute()
    with ocp.CheckpointManager(path, options=_of_orbax(options, watch)) as manager:
        yield Keeper(manager, options)


def _of_orbax(options: Checkpoints, watch: EarlyStop) -> ocp.CheckpointManagerOptions:
    import orbax.checkpoint as ocp

    def quality(metrics: Mapping[str, float]) -> float:
        value = metrics.get(f"validation_{watch.monitor}", math.nan)
        value = -value if watch.mode == "min" else value
        return value if math.isfinite(value) else -math.inf

    policies = ocp.checkpoint_managers
    best = policies.BestN(
        get_metric_fn=quality, n=options.keep_best, keep_checkpoints_without_metrics=False
    )
    return ocp.CheckpointManagerOptions(
        cleanup_tmp_directories=True,
        preservation_policy=policies.AnyPreservationPolicy(
            [policies.LatestN(options.keep_last), best]
        ),
    )


def _placed(found: Array, like: Array) -> Array:
    """On no device in particular, if the leaf that it stands for is not."""
    if like.committed:
        return found
    if jnp.issubdtype(found.dtype, jax.dtypes.prng_key):
        data = jnp.array(np.asarray(jax.random.key_data(found)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(found))
    return jnp.array(np.asarray(found))


def _of_any_process(fault: str) -> str:
    """What one of them found, each of which may have read another part."""
    if jax.process_count() == 1:
        return fault
    own = np.frombuffer(fault.encode()[:_LONGEST].ljust(_LONGEST), np.uint8)
    texts = [bytes(each).decode(errors="replace").strip() for each in process_allgather(own)]
    return next(filter(None, texts), "")


def _listed(bad: Mapping[int, str]) -> str:
    return "; ".join(f"step {step}: {why.rstrip('.')}" for step, why in bad.items())
