"""Numbers of 110 digits that NumPy computes with, for truths that are written in NumPy."""

from __future__ import annotations

import contextlib
import functools
import math
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
        self.x = _number(x)

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
    kind = type(x)
    if kind is Digits:
        return x.x
    if kind is mpmath.mpf:
        return x
    if kind is int:
        return mpmath.mpf(x)
    high = float(x)
    if kind is not np.longdouble:
        return mpmath.mpf(high)
    if math.isinf(high):
        return mpmath.mpf(str(x))
    return mpmath.mpf(high) + float(x - np.longdouble(high))


def _binary(name: str, function: Callable[[Any, Any], Any]) -> None:
    def forward(a: Digits, b: Any) -> Any:
        if isinstance(b, np.ndarray):
            return np.frompyfunc(lambda each: forward(a, each), 1, 1)(b)
        return Digits(function(a.x, b.x if type(b) is Digits else _number(b)))

    def backward(a: Digits, b: Any) -> Any:
        return forward(Digits(b), a)

    setattr(Digits, f"__{name}__", forward)
    setattr(Digits, f"__r{name}__", backward)


def _quotient(x: Any, y: Any) -> Any:
    """As floats divide: by 0 too."""
    if y != 0:
        return x / y
    return mpmath.nan if x == 0 or mpmath.isnan(x) else mpmath.inf * mpmath.sign(x)


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


for each in ("add", "sub", "mul", "mod"):
    _binary(each, getattr(operator, each))
_binary("truediv", _quotient)
_binary("pow", lambda x, y: _real(x**y))
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
    return np.frompyfunc(lambda x: x if type(x) is Digits else Digits(x), 1, 1)(result)


def _asked(function: Callable[..., Any], x: Any) -> Any:
    array = np.asarray(x)
    return function(array.astype(float) if array.dtype == object else x)
