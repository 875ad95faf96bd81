"""Which axes of a mesh an array is split over, and what runs on every device of it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec
from jax.typing import ArrayLike

from jaxloss.core.reductions import R, Reduction, reduce
from jaxloss.core.statistics import Mean, merge, stats

Axes: TypeAlias = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where units and classes are: the mesh, and the axes of it that they are spread over.

    Of rows that meet each other, the classes of a unit are the other rows.
    """

    mesh: Mesh | AbstractMesh
    units: PartitionSpec
    classes: Axes

    @classmethod
    def of(
        cls,
        rows: ArrayLike,
        matrix: ArrayLike,
        mesh: Mesh | None,
        data_axis: str | Sequence[str] | None,
        class_axis: str | Sequence[str] | None,
    ) -> Place:
        """As the names say, and without them the types of the arrays, on an explicit mesh."""
        units = jax.typeof(rows).sharding.spec[:-1]
        if data_axis is not None:
            if jnp.ndim(rows) < 2:
                raise ValueError("data_axis needs units to spread, and there is one: leave it out.")
            units = (names(data_axis), *[None] * (jnp.ndim(rows) - 2))
        last = jax.typeof(matrix).sharding.spec[-1:]
        classes = names(last if class_axis is None else class_axis)
        if not classes:
            raise ValueError(
                "class_axis must name the axes of the mesh over which the classes are spread: the "
                "types of the arrays do not say it."
            )
        if both := sorted({*names(units)} & {*classes}):
            raise ValueError(
                f"data_axis and class_axis must be different axes of the mesh, and {both} are in "
                "both."
            )
        place = cls.on(mesh, PartitionSpec(*units), classes)
        place.require_division(jnp.shape(rows)[:-1], jnp.shape(matrix)[-1:])
        return place

    @classmethod
    def of_rows(
        cls, rows: ArrayLike, mesh: Mesh | None, data_axis: str | Sequence[str] | None
    ) -> Place:
        """Of rows that meet those of all devices."""
        axes = names(jax.typeof(rows).sharding.spec[:1] if data_axis is None else data_axis)
        if not axes:
            raise ValueError(
                "data_axis must say over which axes of the mesh the rows are spread: the type of "
                "image_embeddings does not."
            )
        place = cls.on(mesh, PartitionSpec(axes), axes)
        place.require_division(jnp.shape(rows)[:1], ())
        return place

    @classmethod
    def on(cls, mesh: Mesh | None, units: PartitionSpec, classes: Axes) -> Place:
        """On a mesh that has these axes: the one that is given, or that of the context."""
        where = mesh or jax.sharding.get_abstract_mesh()
        missing = sorted({*names((*units, classes))} - {*where.axis_names})
        if missing:
            raise ValueError(
                f"the mesh must have the axes {missing}, got {where.axis_names}: give mesh=, or "
                "run inside jax.set_mesh(mesh)."
            )
        return cls(where, units, classes)

    def require_division(self, units: tuple[int, ...], classes: tuple[int, ...]) -> None:
        """As `jax.shard_map` needs it."""
        if self.inside:
            return
        for what, size, axes in (
            *(("classes", size, self.classes) for size in classes),
            *zip(itertools.repeat("units"), units, map(names, self.units)),
        ):
            devices = math.prod(self.mesh.shape[axis] for axis in axes)
            if size % devices:
                raise ValueError(
                    f"the devices of {', '.join(map(repr, axes))} are {devices} and do not divide "
                    f"the {what}, {size}: pad them with what is absent (a bias of -inf) or deleted."
                )

    @property
    def data(self) -> Axes:
        return names(tuple(self.units))

    @property
    def inside(self) -> bool:
        """Whether this is inside of a `jax.shard_map` over the classes already."""
        return set(self.classes) <= set(jax.sharding.get_abstract_mesh().manual_axes)

    @property
    def parts(self) -> int:
        """How many times as many classes there are as the arrays have."""
        return jax.lax.axis_size(self.classes) if self.inside else 1

    def run(self, body: Callable[..., Any], arrays: Any, specs: Any) -> Any:
        """`body(*arrays)` on every device, of its parts; what it returns has the units' axes."""
        if self.inside:
            return body(*arrays)
        explicit = AxisType.Explicit in self.mesh.axis_types

        def put(array: Array, spec: PartitionSpec) -> Array:
            return jax.sharding.reshard(array, spec) if explicit else array

        axes = {*self.classes, *self.data}
        mapped = jax.shard_map(
            body, mesh=self.mesh, in_specs=specs, out_specs=self.units, axis_names=axes
        )
        return mapped(*jax.tree.map(put, arrays, specs))

    def reduce(
        self,
        values: Array,
        *,
        counts: Array | None = None,
        where: ArrayLike | None,
        weights: ArrayLike | None,
        reduction: Reduction[R],
    ) -> R:
        """What `run` returned, reduced; inside of a `jax.shard_map` "mean" and "sum" are of all."""
        given = {"counts": counts, "where": where, "weights": weights}
        if not (self.inside and self.data and reduction in ("mean", "sum")):
            return reduce(values, **given, reduction=reduction)
        mean = cast(Mean, reduce(values, **given, reduction=stats))
        mean = merge(mean, axis_name=self.data)
        return cast(R, mean.value() if reduction == "mean" else mean.total)


def names(axes: Any) -> Axes:
    """The axes of a mesh that are named somewhere in `axes`."""
    return tuple(jax.tree.leaves(axes))
