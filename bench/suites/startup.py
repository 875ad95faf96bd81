"""What one waits for: the import, the first step, and the compiler at each loss's gradient."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import subjaxprs

from bench import peers
from bench.oracles import CASES, Case, harness, quiet
from bench.registry import contenders
from bench.rows import Measured, Row
from bench.workload import Options

BESIDE = "import jax, optax, jaxtyping"
AFTER = """
import time
start = time.process_time()
import jaxloss
print(time.process_time() - start)
"""
TIME = "import time; print(time.process_time())"
MOST_MILLISECONDS = 60
FIRST_STEP = """
import jax, jax.numpy as jnp, optax{also}
tx, params, x = optax.adam(1e-3), {{"w": jnp.zeros((784, 10))}}, jnp.ones((64, 784))
y = jnp.zeros(64, int)
"""
OURS = (
    FIRST_STEP.format(also=", jaxloss")
    + """
f = lambda p, b: jaxloss.softmax_cross_entropy_with_integer_labels(b[0] @ p["w"], b[1])
step = jaxloss.make_train_step(f, tx)
jax.block_until_ready(step(step.init(params), (x, y)))
"""
)
BY_HAND = (
    FIRST_STEP.format(also="")
    + """
loss = optax.losses.softmax_cross_entropy_with_integer_labels
def step(p, s, x, y):
    value, g = jax.value_and_grad(lambda p: loss(x @ p["w"], y).mean())(p)
    u, s = tx.update(g, s, p)
    return optax.apply_updates(p, u), s, value
jax.block_until_ready(jax.jit(step, donate_argnums=(0, 1))(params, tx.init(params), x, y))
"""
)
LOSSES = ("squared_error", "huber_loss", "softmax_cross_entropy")  # of a quick run


def rows(options: Options) -> Iterator[Row]:
    count = 2 if options.quick else options.rounds
    yield imports(count)
    yield Row(
        "startup",
        "import and first step",
        _processes({"jaxloss": OURS + TIME, "by hand": BY_HAND + TIME}, 1 if options.quick else 5),
    )
    for case in _first_rows():
        if not options.quick or case.loss.__name__ in LOSSES:
            yield compiling(case, options)


def imports(count: int) -> Row:
    """CPU time of our import in a fresh process, after what it imports anyway."""
    found = _processes({"jaxloss": BESIDE + AFTER}, count)
    extra = 1e3 * (found["jaxloss"].median or 0)
    note = f"MISSED: {extra:.0f} ms" if extra > MOST_MILLISECONDS else ""
    name = f"import jaxloss after {BESIDE}, CPU time, bound {MOST_MILLISECONDS} ms"
    return Row("startup", name, found, note=note)


def _processes(programs: dict[str, str], count: int) -> dict[str, Measured]:
    """The seconds that programs print, each in processes of its own, the first of them unseen.

    The first one writes the bytecode of what it imports, which an installed package has.
    """
    found = {name: Measured() for name in programs}
    with tempfile.TemporaryDirectory() as folder:
        bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}
        for turn in range(count + 1):
            for name, program in programs.items():
                command = [sys.executable, "-W", "ignore", "-c", program]
                done = subprocess.run(
                    command, capture_output=True, text=True, check=True, env=os.environ | bytecode
                )
                if turn:
                    found[name].seconds.append(float(done.stdout.splitlines()[-1]))
    return found


def _first_rows() -> list[Case]:
    found: dict[str, Case] = {}
    for case in CASES:
        found.setdefault(case.loss.__name__, case)
    return list(found.values())


def compiling(case: Case, options: Options) -> Row:
    """CPU time of tracing and compiling the gradient anew, in turn, and its equations."""
    arrays = tuple(map(jax.numpy.asarray, harness.arrays_of(case, np.random.default_rng(0))))
    by = tuple(harness.floats_of(arrays)[:1])
    known = {}
    for name, each in contenders(case).items():
        wanted = each.peer in ("jaxloss", *set(options.peers) & {"optax", "keras"})
        if wanted and not peers.missing(each.peer):
            known[name] = jax.value_and_grad(each.f, by)
    found = {name: Measured() for name in known}
    with quiet():
        for name, f in known.items():
            found[name].figures["equations"] = float(equations(jax.make_jaxpr(f)(*arrays).jaxpr))
        for turn in range(1 + (2 if options.quick else 3)):
            for name, f in known.items():
                anew = functools.partial(f)
                start = time.process_time()
                jax.jit(anew).lower(*arrays).compile()
                if turn:
                    found[name].seconds.append(time.process_time() - start)
    bounds = {f"{name} time": 1.5 for name in known if name != "jaxloss"}
    return Row("startup", f"{case.loss.__name__}, compiling its gradient", found, bounds=bounds)


def equations(jaxpr: Any) -> int:
    """How many, inner ones too."""
    return len(jaxpr.eqns) + sum(map(equations, subjaxprs(jaxpr)))
