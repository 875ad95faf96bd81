"""Numbers of 110 digits that NumPy computes with, for truths that are written in NumPy."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import mpmath
import numpy as np

mpmath.mp.dps = 110


class Digits:
    """An mpmath number with the methods that NumPy looks for in an array of objects."""

    __slots__ = ("x",)

    def __init__(self, x: Any) -> None:
        self.x = x.x if isinstance(x, Digits) else _number(x)

    def __float__(self) -> float:
        return float(self.x)

    def __bool__(self) -> bool:
        return bool(self.x)

    def __repr__(self) -> str:
        return str(mpmath.nstr(self.x, 20))

    def __hash__(self) -> int:
        return hash(self.x)


def _number(x: Any) -> Any:
    """Exactly what x is: a long double has more digits than a float."""
    if hasattr(x, "_mpf_"):
        return x
    high = float(x)
    if np.isinf(high) and np.isfinite(x):
        return mpmath.mpf(str(x))
    return mpmath.mpf(high) + (float(x - type(x)(high)) if type(x) is np.longdouble else 0)


def _binary(name: str) -> None:
    function: Callable[[Any, Any], Any] = getattr(operator, name)

    def forward(a: Digits, b: Any) -> Any:
        return _apply(function, a, b)

    def backward(a: Digits, b: Any) -> Any:
        return _apply(function, Digits(b), a)

    setattr(Digits, f"__{name}__", forward)
    setattr(Digits, f"__r{name}__", backward)


def _apply(function: Callable[[Any, Any], Any], a: Digits, b: Any) -> Any:
    if isinstance(b, np.ndarray):
        return np.frompyfunc(lambda each: _apply(function, a, each), 1, 1)(b)
    x, y = a.x, b.x if isinstance(b, Digits) else _number(b)
    if function is operator.truediv and y == 0:
        return Digits(mpmath.nan if x == 0 or mpmath.isnan(x) else mpmath.inf * mpmath.sign(x))
    return Digits(_real(function(x, y)))


def _real(x: Any) -> Any:
    """NaN for a complex number."""
    return mpmath.nan if hasattr(x, "_mpc_") else x


def _comparison(name: str) -> None:
    function = getattr(operator, name)

    def compare(a: Digits, b: Any) -> Any:
        if isinstance(b, np.ndarray):
            return np.array([compare(a, each) for each in b.ravel()]).reshape(b.shape)
        return function(a.x, b.x if isinstance(b, Digits) else _number(b))

    setattr(Digits, f"__{name}__", compare)


def _unary(name: str, function: Callable[[Any], Any]) -> None:
    setattr(Digits, name, lambda a: Digits(_real(function(a.x))))


for each in ("add", "sub", "mul", "truediv", "pow", "mod"):
    _binary(each)
for each in ("lt", "le", "gt", "ge", "eq", "ne"):
    _comparison(each)
for each in ("exp", "expm1", "log", "log1p", "sqrt", "tanh", "sinh", "cosh", "sin", "cos"):
    _unary(each, getattr(mpmath, each))
for each, function in {"arccos": mpmath.acos, "arctan": mpmath.atan, "floor": mpmath.floor}.items():
    _unary(each, function)
for each in ("neg", "pos", "abs"):
    _unary(f"__{each}__", getattr(operator, each))


def digits(array: np.ndarray) -> np.ndarray:
    """The same numbers as objects; ±inf stands for ±1e2000, so that limits come out."""
    huge = mpmath.mpf("1e2000")
    convert = np.frompyfunc(lambda x: Digits(min(max(_number(x), -huge), huge)), 1, 1)
    return np.asarray(convert(array), object)


@contextlib.contextmanager
def numpy_of_objects() -> Iterator[None]:
    """NumPy as the truths use it, on arrays of objects: it puts plain numbers among them, and does
    not ask an object whether it is finite."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(np, "where", functools.partial(_lifted, np.where)))
        for question in (np.isinf, np.isfinite, np.isnan):
            answer = functools.partial(_asked, question)
            stack.enter_context(mock.patch.object(np, question.__name__, answer))
        yield


def _lifted(function: Callable[..., Any], *args: Any) -> Any:
    result = function(*args)
    if not isinstance(result, np.ndarray) or result.dtype.kind != "O":
        return result
    return np.array([Digits(each) for each in result.ravel()], object).reshape(result.shape)


def _asked(function: Callable[..., Any], x: Any) -> Any:
    array = np.asarray(x)
    return function(array.astype(float) if array.dtype == object else x)
