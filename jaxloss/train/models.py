"""Models of Flax and Equinox as parameters, a state and a function that puts them together."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.train.objective import PyTree, takes

if TYPE_CHECKING:
    import equinox as eqx
    from flax import linen, nnx


class Bind(Protocol):
    """`bind(params, model_state, rng=rng)(inputs) -> (outputs, new model_state)`, a pure function.

    With `rng=None` the model is evaluated. The call passes keyword arguments on to the model;
    `method=Model.encode`, or any function of the model and the inputs, stands for its `__call__`.
    """

    def __call__(
        self, params: PyTree, model_state: PyTree, *, rng: Array | None
    ) -> Callable[..., tuple[PyTree, PyTree]]: ...


def from_linen(
    module: linen.Module, variables: Mapping[str, PyTree]
) -> tuple[PyTree, PyTree, Bind]:
    """The parameters of a Flax Linen module, its other collections, and how to call it with both.

    The module says by an argument of its own whether it trains: `train=rng is not None` is right
    for a loss function that is also evaluated. After training, `{"params": state.params,
    **state.model_state}` are variables of the module.

    Args:
        module: The module.
        variables: What `module.init` returned.

    Returns:
        `(params, model_state, bind)`. Both are copies: "params", and a dict of the collections
        besides it, such as "batch_stats", all of which a call may change. `bind(params,
        model_state, rng=rng)` takes what the module takes; every stream of random numbers, such
        as "dropout", comes from `rng`.

    Raises:
        ModuleNotFoundError: Flax is not installed.

    Example:
        >>> import flax.linen as nn
        >>> import optax
        >>> model = nn.BatchNorm(momentum=0.5, use_scale=False)
        >>> x, y = jnp.array([[1.0], [3.0]]), jnp.array([[4.0], [6.0]])
        >>> variables = model.init(jax.random.key(0), x, use_running_average=True)
        >>> params, model_state, bind = jaxloss.from_linen(model, variables)
        >>> def loss_fn(params, batch, *, rng, model_state):
        ...     x, y = batch
        ...     model = bind(params, model_state, rng=rng)
        ...     p, model_state = model(x, use_running_average=rng is None)
        ...     loss = jaxloss.squared_error(p, y, reduction=jaxloss.stats)
        ...     return loss, jaxloss.Aux(model_state)
        >>> step = jaxloss.make_train_step(loss_fn, optax.sgd(0.5))
        >>> state = step.init(params, rng=jax.random.key(1), model_state=model_state)
        >>> state, metrics = step(state, (x, y))
        >>> print(state.params["bias"], state.model_state["batch_stats"]["mean"])
        [5.] [1.]
    """
    with _needed("from_linen", "flax"):
        from flax.core import unfreeze
    collections = jax.tree.map(jnp.array, unfreeze(dict(variables)))
    params = collections.pop("params", {})

    def bind(
        params: PyTree, model_state: PyTree, *, rng: Array | None
    ) -> Callable[..., tuple[PyTree, PyTree]]:
        variables, mutable = {"params": params, **model_state}, list(model_state)
        return functools.partial(module.apply, variables, rngs=rng, mutable=mutable)

    return params, collections, bind


def from_nnx(model: nnx.Module) -> tuple[PyTree, PyTree, Bind]:
    """The parameters of a Flax NNX model, its other variables, and how to call it with both.

    With an rng the model does what it did when it was given, and without it what `model.eval()`
    does: a model with BatchNorm trains only with an rng. After training,
    `nnx.update(model, state.params, state.model_state)` puts both into the model.

    Args:
        model: The model, which a call or a step leaves as it is.

    Returns:
        `(params, model_state, bind)`. Both are dicts of copies: of every `nnx.Param`, and of what
        else a call may change, such as `nnx.BatchStat`. Streams of random numbers are in
        neither: each starts anew from the rng of `bind(params, model_state, rng=rng)`.
        What is sown (`nnx.Intermediate`) is dropped after the call.

    Raises:
        ModuleNotFoundError: Flax is not installed.

    Example:
        >>> import optax
        >>> from flax import nnx
        >>> model = nnx.BatchNorm(1, momentum=0.5, use_scale=False, rngs=nnx.Rngs(0))
        >>> params, model_state, bind = jaxloss.from_nnx(model)
        >>> def loss_fn(params, batch, *, rng, model_state):
        ...     x, y = batch
        ...     p, model_state = bind(params, model_state, rng=rng)(x)
        ...     loss = jaxloss.squared_error(p, y, reduction=jaxloss.stats)
        ...     return loss, jaxloss.Aux(model_state)
        >>> step = jaxloss.make_train_step(loss_fn, optax.sgd(0.5))
        >>> state = step.init(params, rng=jax.random.key(1), model_state=model_state)
        >>> x, y = jnp.array([[1.0], [3.0]]), jnp.array([[4.0], [6.0]])
        >>> state, metrics = step(state, (x, y))
        >>> print(state.params["bias"], state.model_state["mean"])
        [5.] [1.]
    """
    with _needed("from_nnx", "flax"):
        from flax import nnx
    whole, passing = type(model).__call__, (nnx.RngState, nnx.Intermediate)
    graph, *parts = nnx.split(model, nnx.Param, passing, ...)
    params, passed, model_state = (
        jax.tree.map(jnp.array, nnx.to_pure_dict(part)) for part in parts
    )

    def bind(
        params: PyTree, model_state: PyTree, *, rng: Array | None
    ) -> Callable[..., tuple[PyTree, PyTree]]:
        own = nnx.merge(graph, params, _reseeded(passed, rng), model_state)
        if rng is None:
            own.eval()

        def call(*inputs: PyTree, method: Callable[..., PyTree] = whole, **kwargs: PyTree):
            outputs = method(own, *inputs, **kwargs)
            *_, changed = nnx.state(own, nnx.Param, passing, ...)
            return outputs, nnx.to_pure_dict(changed)

        return call

    return params, model_state, bind


def from_equinox(
    model: eqx.Module, state: eqx.nn.State | None = None
) -> tuple[PyTree, PyTree, Bind]:
    """The parameters of an Equinox model, its state, and how to call it with both on a batch.

    With an rng the model does what it did when it was given, and without it what
    `eqx.nn.inference_mode(model)` does: a model with BatchNorm trains only with an rng. After
    training, `eqx.combine(state.params, model)` is the trained model, and `state.model_state` its
    state.

    Args:
        model: The model, which takes one example, and if its signature names it a `key`.
        state: What `eqx.nn.make_with_state` returned beside the model, if that made it.

    Returns:
        `(params, model_state, bind)`. Both are copies: the floating arrays of the model, and its
        `eqx.nn.State`, which has no leaves if no layer has a state.
        `bind(params, model_state, rng=rng)` maps the model over the leading axis of its inputs,
        which has the name "batch", as for `eqx.nn.BatchNorm(size, "batch")`. Each example has a
        key of its own, split from `rng`.

    Raises:
        ModuleNotFoundError: Equinox is not installed.
        ValueError: A layer has a state, and none was given.

    Example:
        >>> import equinox as eqx
        >>> import optax
        >>> model = eqx.nn.Linear(2, 1, key=jax.random.key(0))
        >>> params, model_state, bind = jaxloss.from_equinox(model)
        >>> def loss_fn(params, batch, *, rng, model_state):
        ...     x, y = batch
        ...     p, model_state = bind(params, model_state, rng=rng)(x)
        ...     loss = jaxloss.squared_error(p, y, reduction=jaxloss.stats)
        ...     return loss, jaxloss.Aux(model_state)
        >>> step = jaxloss.make_train_step(loss_fn, optax.sgd(0.5))
        >>> state = step.init(params, rng=jax.random.key(1), model_state=model_state)
        >>> state, metrics = step(state, (jnp.zeros((4, 2)), jnp.ones((4, 1))))
        >>> print(state.params.bias)
        [1.]
    """
    with _needed("from_equinox", "equinox"):
        import equinox as eqx
    nodes = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, eqx.nn.StateIndex))
    stateful = any(isinstance(node, eqx.nn.StateIndex) for node in nodes)
    if stateful and state is None:
        raise ValueError(
            "model has layers with a state, and none was given: say "
            "from_equinox(*eqx.nn.make_with_state(Model)(...))."
        )
    params, static = eqx.partition(model, eqx.is_inexact_array)
    state = eqx.nn.State(()) if state is None else state

    def bind(
        params: PyTree, model_state: PyTree, *, rng: Array | None
    ) -> Callable[..., tuple[PyTree, PyTree]]:
        own = eqx.combine(params, static)
        if rng is None:
            own = eqx.nn.inference_mode(own)

        return functools.partial(_over_rows, own, model_state, rng, stateful)

    return *jax.tree.map(jnp.array, (params, state)), bind


def _over_rows(
    model: eqx.Module,
    state: PyTree,
    rng: Array | None,
    stateful: bool,
    *batch: PyTree,
    method: Callable[..., PyTree] | None = None,
    **kwargs: PyTree,
) -> tuple[PyTree, PyTree]:
    whole = type(model).__call__ if method is None else method

    def one(key: Array | None, state: PyTree, *example: PyTree) -> tuple[PyTree, PyTree]:
        given = kwargs | ({"key": key} if takes(whole, "key") else {})
        if stateful:
            return whole(model, *example, state, **given)
        return whole(model, *example, **given), state

    rows = jax.tree.leaves(batch)[0].shape[0]
    keys = None if rng is None else jax.random.split(rng, rows)
    axes = (0, None, *(0 for _ in batch))
    mapped = jax.vmap(one, in_axes=axes, out_axes=(0, None), axis_name="batch")
    return mapped(keys, state, *batch)


def _reseeded(streams: PyTree, rng: Array | None) -> PyTree:
    """The same tree, with keys that come from `rng` and differ by stream."""
    if rng is None:
        return streams
    leaves, structure = jax.tree.flatten(streams)
    return structure.unflatten(
        jax.random.split(jax.random.fold_in(rng, index), leaf.shape)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else leaf
        for index, leaf in enumerate(leaves)
    )


@contextlib.contextmanager
def _needed(caller: str, package: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(f"{caller} needs {package}: pip install {package}.") from missing
