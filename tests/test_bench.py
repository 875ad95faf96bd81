"""The bench measures what it says: planted errors come out at their size, bad input is counted."""

import dataclasses

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from harness import CASES
from rich.console import Console

import jaxloss
from bench import accuracy, faults, oracles
from bench.exact import digits, numpy_of_objects


def row(loss):
    return next(case for case in CASES if case.loss is loss and not case.options)


def instead(case, loss):
    return dataclasses.replace(case, loss=loss)


def test_numpy_computes_with_many_digits(rng):
    x = rng.normal(size=(5, 3))
    with numpy_of_objects():
        exact = np.log1p(np.exp(np.where(x > 0, digits(x), 1))).sum(-1)
    with mpmath.workdps(120):
        for got, numbers in zip(exact, x, strict=True):
            want = sum(mpmath.log1p(mpmath.exp(n if n > 0 else 1)) for n in map(float, numbers))
            assert abs(mpmath.mpf(str(got)) - want) < 1e-100
    third = digits(np.ones(1)) / 3 - np.ones(1) / 3
    assert 1e-18 < abs(third[0]) < 1e-16
    assert digits(np.array(np.inf))[()] * 0 == 0
    with pytest.raises(TypeError):
        _ = third + np.ones(1, np.longdouble)


@pytest.mark.parametrize("count", [1, 2, 5, 8, 24])
def test_no_two_inputs_cancel_in_every_row_of_signs(rng, count):
    signs = accuracy.signs(count, rng)
    products = np.abs(signs.T @ signs)
    assert set(np.unique(signs)) <= {-1, 1}
    assert (products[~np.eye(count, dtype=bool)] < len(signs)).all()


@pytest.mark.parametrize("eps", [3, 30])
def test_a_planted_error_has_its_size(eps):
    """A loss that is off by some eps, and whose gradient is."""

    def off(predictions, targets, **keywords):
        factor = 1 + eps * np.finfo(np.float32).eps
        return factor * jaxloss.absolute_error(predictions, targets, **keywords)

    case = row(jaxloss.absolute_error)
    right, wrong = (
        accuracy.measure(each, {"us": (oracles.callers(each, {})["jaxloss"], 1)}, "float32", 40)[
            "us"
        ]
        for each in (case, instead(case, off))
    )
    assert right.points == wrong.points == 40
    assert max(right.value) < 1 and max(right.gradient) < 1e-60
    assert eps / 2 < max(wrong.value) < eps + 2  # relative to a scale of up to twice the value
    assert eps - 1 < min(wrong.gradient) <= max(wrong.gradient) < eps + 1


def test_bad_input_is_counted():
    """Of a loss that broadcasts, overflows, has no derivative at 0 and multiplies by its mask."""

    def careless(predictions, targets, *, where=None, reduction="mean", **rest):
        values = jnp.sqrt((predictions - targets) ** 2)
        mask = 1.0 if where is None else where.astype(jnp.float32)
        return values if reduction is None else jnp.mean(values * mask)

    careful = row(jaxloss.absolute_error)
    case = instead(careful, careless)
    for wanted, of in (("0", careful), ("many", case)):
        for count in (
            faults.not_finite(of, oracles.callers(of, {}), jnp.float32),
            faults.misused(of, {}),
            faults.polluted(of, oracles.callers(of, {})),
        ):
            found, every = map(int, count["jaxloss"].split(" / "))
            assert every >= 3 and (found == 0) == (wanted == "0"), (wanted, count)


def test_the_report_has_every_dtype_and_peer(tmp_path):
    out = tmp_path / "accuracy.md"
    accuracy.report("l2_loss", 12, ("optax",), out, Console(quiet=True))
    text = out.read_text()
    for name in accuracy.DTYPES:
        table = text.split(f"## {name}\n")[1].split("\n## ")[0]
        assert [line.split(" | ")[1] for line in table.splitlines()[3:] if line] == [
            "jaxloss",
            "optax",
        ]
    assert "## bad input" in text and list(tmp_path.iterdir()) == [out]


def test_peers_are_called_with_the_options_of_the_row():
    for case in CASES:
        for line in oracles.lines_of(case, ("optax",)).values():
            assert set(case.options) <= set(line.options)
