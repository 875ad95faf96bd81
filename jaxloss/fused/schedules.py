"""How the logits of a linear head are blocked: chosen by a formula of costs that can be asked."""

from __future__ import annotations

import dataclasses
import importlib
import math
from numbers import Real
from typing import Literal, TypeAlias, cast, get_args

import jax
import jax.numpy as jnp

from jaxloss.core import inputs
from jaxloss.fused import blocks, kernels, products
from jaxloss.fused.kernels import HasShape

Name: TypeAlias = Literal["plain", "tokens", "classes", "tiles"]
#: The implementations of `blocks.Kernel`, and the modules that hold them.
KERNELS = {"xla": "blocks", "pallas_tpu": "pallas_tpu", "mosaic_gpu": "pallas_gpu"}
SMALL = 2**26  # bytes: whatever takes less is computed plainly
#: The most tokens and classes at a time; 0 is all of them.
MOST = {"plain": (0, 0), "tokens": (2048, 0), "classes": (0, 8192), "tiles": (4096, 8192)}
ON_CPU = {"plain": (0, 0), "tokens": (256, 0), "classes": (0, 3200), "tiles": (1024, 1600)}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a linear head is gone through; `schedule=` of its losses takes one.

    schedule: "plain" builds all scores; "tokens" takes `rows` tokens at a time, with all classes;
        "classes" takes `classes` of them at a time, with all tokens; "tiles" takes `rows` tokens
        and `classes` classes.
    bytes: About how much is there at once, besides the arguments and their gradients.
    """

    schedule: Name
    rows: int
    classes: int
    implementation: str = "xla"
    bytes: int = 0
    reason: str = "asked for"

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Name):
            raise ValueError(f"schedule must be one of {get_args(Name)}, got {self.schedule!r}.")
        if self.implementation not in KERNELS:
            raise ValueError(
                f"implementation must be one of {[*KERNELS]}, got {self.implementation!r}."
            )
        if not all(isinstance(n, int) and n > 0 for n in (self.rows, self.classes)):
            raise ValueError(
                f"a Plan takes 1 or more rows and classes, got {self.rows} and {self.classes}."
            )

    def __str__(self) -> str:
        size = f"{self.rows} tokens x {self.classes} classes at a time"
        return (
            f"{self.schedule} ({self.implementation}): {size}, {self.bytes / 2**20:.1f} MiB; "
            f"{self.reason}"
        )

    def kernel(self) -> blocks.Kernel:
        """What computes a block of classes; a kernel is imported when it is used."""
        module = importlib.import_module(f"jaxloss.fused.{KERNELS[self.implementation]}")
        return cast(blocks.Kernel, module)


def plan(
    hidden: HasShape,
    head: HasShape,
    *,
    schedule: Name | Plan | None = None,
    memory_budget: int | None = None,
    implementation: str | None = None,
    per_token: bool = False,
    by_rows: bool = False,
    backend: str | None = None,
) -> Plan:
    """What a loss of a linear head does, without doing it.

    Nothing is tried out: the choice is a formula of the backend, the shapes and the budget.

    Args:
        hidden: `[*units, features]`, an array or a `jax.ShapeDtypeStruct`.
        head: `[features, classes]`.
        schedule: A name forces the schedule, a `Plan` the sizes too.
        memory_budget: Bytes, besides the arguments and their gradients.
        implementation: Forces what computes a block of classes: "xla", which None is too, or a
            kernel for an accelerator, "pallas_tpu" or "mosaic_gpu" (Hopper). No kernel has been
            timed on hardware, so none is chosen; the reason says what there is against it.
        per_token: Whether the loss is asked for one value per token.
        by_rows: Whether the loss sees all classes of a token at once, as a divergence does.
        backend: "cpu", "gpu" or "tpu"; None is the one in use.

    Returns:
        A `Plan`, which prints.

    Raises:
        ValueError: A name is unknown, the budget is not positive, or the kernel that is asked for
            cannot serve: the device, a dtype or a size is not one of its own.

    Example:
        >>> hidden = jax.ShapeDtypeStruct((2048, 512), jnp.float32)
        >>> head = jax.ShapeDtypeStruct((512, 32000), jnp.float32)
        >>> print(jaxloss.fused.plan(hidden, head, backend="cpu", memory_budget=2**26))
        tokens (xla): 192 tokens x 32000 classes at a time, 59.4 MiB; fits the budget; ...
    """
    _require_known(schedule, memory_budget, implementation, backend)
    backend = backend or jax.default_backend()
    costs = _Costs.of(hidden, head, backend, "xla")
    if 0 in (*hidden.shape, *head.shape):
        return costs.within("plain", None, "nothing to do")
    if isinstance(schedule, Plan):
        return schedule
    if implementation in kernels.BACKENDS:
        return _by_kernel(implementation, hidden, head, schedule, memory_budget, backend)
    if schedule is not None:
        return costs.within(schedule, memory_budget, "asked for")
    made = costs.choose(memory_budget, implementation, per_token, by_rows)
    passed_over = kernels.passed_over(hidden, head, backend)
    return dataclasses.replace(made, reason=f"{made.reason}; {passed_over}")


def _require_known(
    schedule: str | Plan | None,
    memory_budget: int | None,
    implementation: str | None,
    backend: str | None,
) -> None:
    if implementation is not None and implementation not in KERNELS:
        raise ValueError(
            f"implementation must be None or one of {[*KERNELS]}, got {implementation!r}."
        )
    if memory_budget is not None and not (isinstance(memory_budget, Real) and memory_budget > 0):
        raise ValueError(
            f"memory_budget must be a positive number of bytes, got {memory_budget!r}."
        )
    if not isinstance(schedule, Plan | None) and schedule not in get_args(Name):
        raise ValueError(
            f"schedule must be None, a Plan or one of {get_args(Name)}, got {schedule!r}."
        )
    if backend not in (None, "cpu", "gpu", "tpu"):
        raise ValueError(f"backend must be None, 'cpu', 'gpu' or 'tpu', got {backend!r}.")
    if isinstance(schedule, Plan) and implementation not in (None, schedule.implementation):
        raise ValueError(
            "implementation must be left out, or be that of the Plan, "
            f"{schedule.implementation!r}, got {implementation!r}."
        )


def _by_kernel(
    name: str,
    hidden: HasShape,
    head: HasShape,
    schedule: Name | None,
    budget: int | None,
    backend: str,
) -> Plan:
    its_own: Name = "tiles" if name == "pallas_tpu" else "classes"
    against = kernels.against_here(name, hidden, head, backend)
    if schedule not in (None, its_own):
        against = f"{name} goes by {its_own}, and the schedule is {schedule!r}."
    if against:
        raise ValueError(f"{against} Leave implementation=None for a schedule in pure JAX.")
    rows, classes, bytes_ = kernels.size(name, hidden, head, budget)
    return Plan(its_own, rows, classes, name, bytes_)


@dataclasses.dataclass(frozen=True)
class _Costs:
    tokens: int
    features: int
    classes: int
    item: int
    half: bool
    backend: str
    implementation: str

    @classmethod
    def of(cls, hidden: HasShape, head: HasShape, backend: str, implementation: str) -> _Costs:
        tokens, dtype = math.prod(hidden.shape[:-1]), jnp.dtype(hidden.dtype)
        wide = inputs.wide_dtype(dtype)
        classes, half = max(1, head.shape[-1]), wide != dtype
        return cls(tokens, hidden.shape[-1], classes, wide.itemsize, half, backend, implementation)

    def choose(
        self, budget: int | None, implementation: str | None, per_token: bool, by_rows: bool
    ) -> Plan:
        plain = self.within("plain", None, "small")
        small = plain.bytes <= min(SMALL, SMALL if budget is None else budget)
        if small and implementation is None:
            return plain
        allowed = plain.bytes // 2 if budget is None else budget
        why = "half of what plain takes" if budget is None else "the budget"
        by_classes = not by_rows and (per_token or implementation is not None)
        faster = self.within("classes" if by_classes else "tokens", allowed, f"fits {why}")
        if by_rows or faster.bytes <= allowed:
            return faster
        return self.within("tiles", allowed, f"the least memory, as nothing faster fits {why}")

    def within(self, schedule: Name, budget: int | None, reason: str) -> Plan:
        """The largest pieces that fit the budget, or the smallest ones."""
        most_rows, most_classes = (ON_CPU if self.backend == "cpu" else MOST)[schedule]
        rows, classes = max(1, self.tokens), self.classes
        least_rows, least_classes = rows, classes
        if most_rows:
            rows = min(rows, most_rows)
            least_rows = min(rows, 64)
        if most_classes:
            classes = self.balanced(most_classes)
            least_classes = min(classes, 512)
        # XLA for TPU copies tokens that the pieces do not divide: on v6e 768 of Gemma 2's 8,192 at
        # a time take 256 MiB, 1,024 take 217
        less = 0.75 if self.backend == "cpu" else 0.5
        while budget is not None and self.bytes(schedule, rows, classes) > budget:
            if (rows, classes) == (least_rows, least_classes):
                break
            rows = max(least_rows, int(less * rows))
            classes = max(least_classes, self.balanced(math.ceil(less * classes)))
        size = self.bytes(schedule, rows, classes)
        return Plan(schedule, rows, classes, self.implementation, size, reason)

    def balanced(self, most: int) -> int:
        """Blocks of about one size, so that the last one overlaps little; of whole lanes.

        A block of other than 128 lanes makes XLA for TPU keep a second, transposed gradient.
        """
        size = -(-self.classes // -(-self.classes // most))
        return size if self.backend == "cpu" else min(self.classes, -(-size // 128) * 128)

    def bytes(self, schedule: Name, rows: int, classes: int) -> int:
        """Two arrays of scores, and sums of gradients that are not the gradients themselves.

        Of halves the sums of the head's gradient are of float32, and beside it; accelerators have
        them beside it for chunks of tokens only.
        """
        scores, on_cpu = 2 * rows * classes, self.backend == "cpu"
        beside = self.half * self.features * self.classes
        of_hidden = 3 if on_cpu else 2  # which is turned there, see `products`
        by_classes = of_hidden * self.tokens * self.features + self.features * classes
        block = 2 * self.features * min(products.BLOCK, classes) if on_cpu else 0
        sums = {
            "plain": on_cpu * beside,
            "tokens": beside + block,
            "classes": by_classes + on_cpu * beside,
            "tiles": by_classes + on_cpu * beside,
        }
        return self.item * (scores + sums[schedule])
