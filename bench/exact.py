"""Numbers of 110 digits that NumPy computes with, for truths that are written in NumPy.

They are numbers of MPFR, rounded correctly; an array of them has dtype object. A long double among
them is a TypeError, so a truth that rounds on its way is noticed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any
from unittest import mock

import numpy as np

gmpy2: Any = import_module("gmpy2")  # which has no types
mpfr, is_finite = gmpy2.mpfr, gmpy2.is_finite
gmpy2.get_context().precision = 366
HUGE, long_double = mpfr("1e2000"), np.longdouble
FUNCTIONS = {
    name: getattr(gmpy2, name)
    for name in ("exp", "expm1", "log", "log1p", "sqrt", "tanh", "sinh", "cosh", "sin", "cos")
} | {"arccos": gmpy2.acos, "arctan": gmpy2.atan, "floor": gmpy2.floor}
QUESTIONS = ("isinf", "isfinite", "isnan")


def digits(array: np.ndarray) -> np.ndarray:
    """The same numbers as objects; ±inf stands for ±1e2000, so that limits come out."""
    return np.asarray(np.frompyfunc(_number, 1, 1)(array), object)


def _number(x: Any) -> Any:
    """Exactly what x is: a long double has more digits than a float."""
    high = float(x)
    if np.isinf(high):
        return HUGE if high > 0 else -HUGE
    return mpfr(high) + mpfr(float(x - long_double(high)))


@contextlib.contextmanager
def numpy_of_objects() -> Iterator[None]:
    """NumPy as the truths use it, on arrays of objects.

    It asks them for methods that they do not have, and `where` puts plain numbers among them; the
    constants of the truths are long doubles.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(np, "longdouble", mpfr))
        for name in (*FUNCTIONS, *QUESTIONS, "where"):
            function = functools.partial(_of_objects, name, getattr(np, name))
            stack.enter_context(mock.patch.object(np, name, function))
        yield


def _of_objects(name: str, plain: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    if not any(np.asarray(x).dtype == object for x in args):
        return plain(*args, **keywords)
    if name == "where":
        return np.frompyfunc(lambda x: x if type(x) is mpfr else _number(x), 1, 1)(plain(*args))
    if name in QUESTIONS:
        return plain(np.asarray(args[0]).astype(float))
    return np.frompyfunc(FUNCTIONS[name], 1, 1)(args[0])
