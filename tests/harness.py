"""What laws are made of: typed inputs, compiled losses, exact derivatives, generated extremes."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, load

CASES = load()

TOLERANCES = {
    "accuracy p99": (4, "eps of the condition scale, design §4.5"),
    "accuracy max": (64, "eps of the condition scale, design §4.5"),
    "same mathematics": (4e-6, "relative, float32: the same terms summed in another order"),
    "partition": (1e-6, "relative, of value and gradient, design §1"),
    "differences": (1e-6, "relative, float64: central differences of step 1e-6"),
}
EXEMPTIONS: dict[tuple[str, str], str] = {
    ("circle_loss", "test_every_mode_of_differentiation"): (
        "its derivative holds the weights of the pairs constant, so it is no limit of differences "
        "of the loss; test_metric.py compares its modes with each other"
    ),
}
# what a field of a case exempts it from, and why
EXEMPT_FIELDS: dict[str, tuple[str, str]] = {
    "reverse_only": (
        "test_every_mode_of_differentiation",
        "a gradient by parts has no derivative of its own: forward mode and second derivatives are "
        "those of the plain schedule",
    ),
    "half_products": (
        "test_half_inputs_are_computed_in_float32",
        "the operands of its products stay bfloat16; test_fused_contrastive.py bounds the error",
    ),
}


def tolerance(name):
    return TOLERANCES[name][0]


def law(*kinds, losses=False, only=lambda case: True):
    """A test of every case, of some kinds of cases, or (`losses`) of one case per loss."""

    def decorate(test):
        chosen, seen = [], set()
        for case in CASES:
            exempt = (case.loss.__name__, test.__name__) in EXEMPTIONS
            for field, (name, _) in EXEMPT_FIELDS.items():
                exempt = exempt or (getattr(case, field) and test.__name__ == name)
            again = losses and case.loss in seen
            if not (exempt or again) and (not kinds or case.kind in kinds) and only(case):
                chosen.append(pytest.param(case, id=str(case)))
                seen.add(case.loss)
        return pytest.mark.parametrize("case", chosen)(test)

    return decorate


def has_parts(case):
    return bool(case.parts)


def has_corners(case):
    return bool(case.corners)


def has_class_indices(case):
    """Whether a label out of range is an error: the classes are the last axis of an argument."""
    arrays = case.inputs(np.random.default_rng(0), (2,))
    return case.kind == "plain" and any(a.dtype.kind in "iu" for a in arrays)


def is_float(array):
    return jnp.issubdtype(array.dtype, jnp.floating)


def floats_of(arrays):
    return [i for i, array in enumerate(arrays) if is_float(array)]


def typed(arrays, dtype):
    """Float arrays in `dtype`, integer arrays in int32, masks as they are."""
    other = {np.dtype(bool): bool}
    return tuple(
        np.asarray(a, dtype if is_float(a) else other.get(a.dtype, np.int32)) for a in arrays
    )


def arrays_of(case, rng, units=(6,), dtype: type = np.float32):
    return typed(case.inputs(rng, units), dtype)


def options_in(case, dtype):
    """The options as the truth must see them: rounded to the dtype that the loss computes in."""
    numbers = {k: np.asarray(v, dtype) for k, v in case.options.items() if _is_number(v)}
    return {**case.options, **{k: v.astype(np.longdouble)[()] for k, v in numbers.items()}}


def _is_number(value):
    return value is not None and np.asarray(value).dtype.kind == "f"


def exactly(case, arrays, dtype=np.float32, of="truth", at=None):
    """The truth, or the condition scale, of the inputs as they stand; ±inf stands for ±1e2000.

    Of a detached case, `at` are the inputs that the constants of the derivative are of.
    """
    huge = np.longdouble("1e2000")
    wide = [np.clip(a, -huge, huge) if is_float(a) else a for a in typed(arrays, np.longdouble)]
    options = options_in(case, dtype)
    if case.detached and of == "truth":
        options["at"] = typed(arrays if at is None else at, np.longdouble)[0]
    with np.errstate(all="ignore"):
        return np.asarray(getattr(case, of)(*wide, **options), np.longdouble)


@functools.cache
def compiled(case, reduction, jit):
    """(arrays, where, weights) -> what the loss returns, and the gradients of its sum."""

    def call(arrays, where, weights):
        def f(*arrays):
            values = case.call(*arrays, where=where, weights=weights, reduction=reduction)
            return jnp.sum(values), values

        (_, values), grads = jax.value_and_grad(f, floats_of(arrays), has_aux=True)(*arrays)
        return values, grads

    return jit(call)


def run(case, reduction, arrays, where=None, weights=None, jit=jax.jit):
    values, grads = compiled(case, reduction, jit)(arrays, where, weights)
    return np.asarray(values), [np.asarray(grad) for grad in grads]


def per_unit(case):
    return "mean" if case.kind == "deferred" else None


# ---- exact derivatives, by differences of the truth in extended precision

STENCIL = [  # central, of order 8
    (k + 1, numerator / np.longdouble(840)) for k, numerator in enumerate((672, -168, 32, -3))
]
STEPS = tuple(10.0**-k for k in range(-3, 10))


@dataclasses.dataclass
class Slope:
    """∂ truth / ∂ one element: of every unit at once, or where units see each other of one."""

    case: Case
    arrays: tuple
    place: tuple  # (argument, index in it)
    dtype: type

    def rise(self, arrays, h) -> np.ndarray:
        argument, index = self.place
        shifted = [np.array(a, np.longdouble) if is_float(a) else a for a in arrays]
        shifted[argument][index] += h
        value = exactly(self.case, shifted, self.dtype, at=arrays)
        rows = self.case.kind == "plain" and argument not in self.case.shared
        return value.reshape(len(value), -1).sum(1) if rows else np.asarray(np.sum(value))

    def at(self, arrays, h):
        return (
            sum(c * (self.rise(arrays, k * h) - self.rise(arrays, -k * h)) for k, c in STENCIL) / h
        )

    @np.errstate(all="ignore")
    def best(self):
        """The slope, its step, and how much it changes when the step does."""
        size = np.abs(np.asarray(self.arrays[self.place[0]][self.place[1]], np.longdouble))
        # powers of two, so that an element plus its step is exact
        steps = [2 ** np.floor(np.log2(step * np.where(size == 0, 1, size))) for step in STEPS]
        guesses = np.stack([self.at(self.arrays, h) for h in steps])
        height = np.abs(self.rise(self.arrays, 0))
        noise = 8 * np.finfo(np.longdouble).eps * height / np.stack(steps[1:])
        change = np.abs(np.diff(guesses, axis=0)) + noise
        floor = 1e-9 * height / np.maximum(size, steps[-1]) + np.finfo(np.longdouble).tiny
        share = change / np.maximum(np.abs(guesses[1:]), floor)
        share = np.where(np.isnan(share), np.inf, share)
        # a large step may straddle a kink and agree with a larger one, but not with the smaller
        for k in range(len(share)):
            apart = np.abs(guesses[k + 1] - guesses[k + 2 :])
            same = apart <= 1e-3 * np.abs(guesses[k + 2 :]) + 64 * noise[k + 1 :]
            share[k] = np.where(same.all(0), share[k], np.inf)
        # the smallest of the good steps
        good = share <= 100 * np.min(share, axis=0) + 1e-16
        best = len(good) - 1 - np.argmax(good[::-1], axis=0)
        tables = guesses[1:], np.stack(steps[1:]), change
        pick = [np.take_along_axis(table, best[None], 0)[0] for table in tables]
        return tuple(pick)


def places_of(case, arrays):
    """Where a derivative is taken: each element of a unit, or of the batch if units are coupled."""
    for argument in floats_of(arrays):
        shape = arrays[argument].shape
        at_once = case.kind == "plain" and argument not in case.shared
        for index in np.ndindex(shape[1:] if at_once else shape):
            yield argument, ((slice(None), *index) if at_once else index)


@np.errstate(all="ignore")
def exact_gradients(case, arrays, dtype, rng, draws=6):
    """Per element: the true slope, what one ulp of the inputs and of itself does to it, and doubt.

    Yields (argument, index, slope, unit, doubt), where doubt is the error of the differences. An
    ulp of each of n inputs moves the slope by at most √n times what random signs do on average.
    """
    eps, tiny = np.finfo(dtype).eps, np.finfo(dtype).tiny
    nudged = []
    for _ in range(draws):
        sign = [rng.choice([-1, 1], np.shape(a)) if is_float(a) else 0 for a in arrays]
        pairs = zip(typed(arrays, np.longdouble), sign, strict=True)
        nudged.append([a * (1 + s * np.longdouble(eps)) if is_float(a) else a for a, s in pairs])
    places = list(places_of(case, arrays))
    for argument, index in [places[k] for k in rng.permutation(len(places))[:12]]:
        slope = Slope(case, arrays, (argument, index), dtype)
        want, step, change = slope.best()
        moves = [(slope.at(each, step) - want) ** 2 for each in nudged]
        unit = len(places) ** 0.5 * np.sqrt(np.mean(moves, axis=0)) + eps * np.abs(want) + tiny
        yield argument, index, want, unit, change


# ---- extremes, generated from a dtype and the domains that the row declares


def extremes_of(domain, info):
    tiny, eps, epsneg = float(info.tiny), float(info.eps), float(info.epsneg)
    ends = [tiny, eps, 1.0, float(info.max) ** 0.5, float(info.max) / 8]
    moderate = [tiny, eps, 1.0, float(info.max) ** 0.2]  # products and sums are finite
    values = {
        "real": [0.0, *ends, *(-np.array(ends)), np.inf, -np.inf],
        "moderate": [0.0, *moderate, *(-np.array(moderate))],
        "positive": [*ends, np.inf],
        "probability": [0.0, tiny, eps, 0.5, 1 - epsneg, 1.0],
        "log probability": [
            0.0,
            -tiny,
            -eps,
            -1.0,
            -100.0,
            -float(info.max) / 8,
            -np.inf,
        ],
        "above -1": [-1.0, -1 + epsneg, 0.0, *ends],
        "not 0": [*ends, *(-np.array(ends))],
        "sign": [-1.0, 1.0],
        "bit": [0.0, 1.0],
    }
    return np.array(values[domain])


@np.errstate(all="ignore")
def generated_extremes(case, rng, dtype, points=2000, up_to=np.inf):
    """Inputs of `points` units whose floats are extremes of the dtype, in every combination."""
    arrays = list(case.inputs(rng, (points,)))
    info = jnp.finfo(dtype)
    for i, domain in enumerate(case.domains):
        if domain != "none" and i not in case.shared:
            values = extremes_of(domain, info)
            values = values[np.abs(values) <= up_to]
            chosen = rng.choice(values, arrays[i].shape)
            calm = rng.random(points) < 0.5  # half the units hold one extreme among equals
            same = np.broadcast_to(chosen.reshape(points, -1)[:, :1], (points, chosen[0].size))
            chosen = np.where(calm[:, None], same, chosen.reshape(points, -1))
            arrays[i] = chosen.reshape(arrays[i].shape)
    scalars = [
        i
        for i in floats_of(arrays)
        if arrays[i].ndim == 1 and case.domains[i] != "none" and i not in case.shared
    ]
    grid = list(itertools.product(*(extremes_of(case.domains[i], info) for i in scalars)))
    if scalars and len(grid) <= points:  # all combinations fit: take them all
        for i, column in zip(scalars, np.array(grid).T, strict=True):
            arrays[i][: len(grid)] = column
    return typed(arrays, dtype)


@np.errstate(all="ignore")
def one_sided(case, arrays, argument, index, dtype):
    """The interval of true subgradients per unit; NaN where a side has not settled."""
    x = np.asarray(arrays[argument], np.longdouble)[index]
    sides = []
    slope = Slope(case, arrays, (argument, index), dtype)
    middle = slope.rise(arrays, 0)
    terms = exactly(case, arrays, dtype, of="scale") if case.scale else middle
    height = np.maximum(np.abs(middle), np.abs(terms).reshape(len(middle), -1).max(1))
    size = np.where(np.isinf(x), np.longdouble("1e2000"), np.where(x == 0, 1, np.abs(x)))
    for sign in (-1, 1):
        near, far = (
            (slope.rise(arrays, sign * h * size) - middle) / (sign * h * size)
            for h in (np.longdouble(1e-9), np.longdouble(1e-8))
        )
        # what rounding hides: a slope of 0 counts where one of 1 % would have been seen
        hidden = 1e4 * np.finfo(np.longdouble).eps * height / (1e-9 * size)
        drowned = (np.abs(near) <= hidden) & (hidden > 1e-2)
        # a change of the slope by 1e-7 is none, unless the step was so large that it is one
        still = np.abs(near - far) <= 1e-5 * np.abs(near) + 1e-7 / np.maximum(size, 1)
        settled = still & ~drowned
        sides.append(np.where(settled, near, np.where(np.isfinite(near), np.inf, np.nan)))
    unknown = np.isinf(np.abs(sides)).any(0)  # a side that exists and has not settled
    return tuple(np.where(unknown, np.nan, end(*sides)) for end in (np.fmin, np.fmax))
