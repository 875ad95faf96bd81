"""What stands behind a name on the command line: an option of a loss, an optimizer."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jax import Array
from jaxtyping import PyTree

from jaxloss.cli.catalogue import Entry
from jaxloss.cli.mistakes import Mistake, unknown
from jaxloss.cli.recipes import Recipe
from jaxloss.train.objective import LossFn
from jaxloss.train.precision import Precision
from jaxloss.train.step import TrainState, TrainStep, make_train_step

Option: TypeAlias = bool | float | str | np.ndarray | None
#: Keywords of a loss that are not its own options.
CONTRACT = ("where", "weights", "reduction")
#: What optimizers call their learning rate.
RATES = {"learning_rate", "max_learning_rate"}


def loss_options(entry: Entry, given: Sequence[str]) -> dict[str, Option]:
    """Each `name=value` as the keyword of the loss that it is.

    Raises:
        Mistake: A name is not one of its options, a value is missing, a needed one is not given.
    """
    parameters = inspect.signature(entry.loss).parameters.values()
    own = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in CONTRACT]
    found, hints = {}, get_type_hints(entry.loss)
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise Mistake(f"--loss-option is name=value, such as delta=0.5, got {text!r}.")
        if name not in [p.name for p in own]:
            raise unknown(f"{entry.name} has no option", name, [p.name for p in own])
        found[name] = value if value in _words(hints[name]) else _value(name, value)
    for p in own:
        if entry.learns and p.default is p.empty and p.name not in found:
            raise Mistake(f"{entry.name} needs its {p.name}: say --loss-option {p.name}=...")
    return found


def _words(hint: object) -> list[str]:
    """Those that an option may be, by its annotation, such as the name of a schedule."""
    if get_origin(hint) is Literal:
        return [word for word in get_args(hint) if isinstance(word, str)]
    return [word for part in get_args(hint) for word in _words(part)]


def _value(name: str, text: str) -> Option:
    word = text.strip().capitalize()
    try:
        value = ast.literal_eval(word if word in ("True", "False", "None") else text.strip())
        if isinstance(value, complex):
            raise TypeError
        return np.asarray(value, np.float32) if isinstance(value, (list, tuple)) else value
    except (ValueError, SyntaxError, TypeError):
        raise Mistake(
            f"--loss-option {name} is a number, numbers with commas between, true, false or none, "
            f"got {text!r}."
        ) from None


def optimizers() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """Every optimizer of Optax that needs at most a learning rate."""
    found = {}
    for name, make in [*vars(optax.contrib).items(), *vars(optax).items()]:
        if not inspect.isfunction(make) or name.startswith(("_", "scale")):
            continue
        parameters = inspect.signature(make).parameters
        needed = {
            p.name
            for p in parameters.values()
            if p.default is p.empty and p.kind is not p.VAR_KEYWORD
        }
        if not parameters.keys().isdisjoint(RATES) and needed <= RATES:
            found[name] = make
    return found


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """The optimizer of the recipe, with its learning rate and weight decay."""
    known = optimizers()
    if recipe.optimizer not in known:
        raise unknown("There is no optimizer", recipe.optimizer, sorted(known))
    make = known[recipe.optimizer]
    parameters = inspect.signature(make).parameters
    (rate,) = parameters.keys() & RATES
    given: dict[str, float | Array] = {rate: recipe.learning_rate}
    if "key" in parameters:
        given["key"] = jax.random.key(recipe.seed)
    if recipe.weight_decay is not None:
        given["weight_decay"] = recipe.weight_decay
    if not given.keys() <= parameters.keys():
        raise Mistake(f"{recipe.optimizer} has no weight decay: leave --weight-decay out.")
    return make(**given)


def precision(recipe: Recipe) -> Precision | None:
    """What the recipe computes in; float16 needs a scale of the loss."""
    if recipe.precision == "float32":
        return None
    scale = "dynamic" if recipe.precision == "float16" else None
    return Precision(jnp.dtype(recipe.precision), loss_scale=scale)


def step(loss: LossFn, recipe: Recipe) -> TrainStep:
    """The training step of the recipe."""
    return make_train_step(
        loss,
        optimizer(recipe),
        microbatches=recipe.microbatches,
        precision=precision(recipe),
        nonfinite=recipe.nonfinite,
        ema=recipe.ema,
    )


def trained(name: str, state: TrainState) -> PyTree:
    """The parameters to use: averages, and those that a schedule-free optimizer arrives at."""
    if name.startswith("schedule_free"):
        return optax.contrib.schedule_free_eval_params(state.opt_state, state.params)
    return state.eval_params
