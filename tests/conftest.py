"""Eight fake devices, strict promotion, seeds, the names of the examples, the closing table."""

import gc
import os
import re
import signal
import zlib

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MPLBACKEND"] = "agg"
import hypothesis
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from effort import FLAGS
from xdist.scheduler import LoadScopeScheduling

import jaxloss

os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count=8 {FLAGS}"  # read when JAX starts
)
# which a shell ignores in what it runs in the background
signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
hypothesis.settings.register_profile("seeded", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.load_profile("seeded")


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture
def wide():
    """Float64, and a truth of 150 digits."""
    with jax.enable_x64(True), mpmath.workdps(150):
        yield


class Names:
    """What examples in `jaxloss` take for granted; a plugin, since fixtures here stay in tests."""

    @pytest.fixture(autouse=True)
    def names(self, doctest_namespace):
        doctest_namespace.update(jax=jax, jnp=jnp, np=np, jaxloss=jaxloss)


def pytest_addoption(parser):
    few = "of the contract, the first row of each loss, and those of a schedule"
    parser.addoption("--few-rows", action="store_true", help=few)


def pytest_collection_modifyitems(config, items):
    if not config.option.few_rows:
        return
    seen, kept = set(), []
    for item in items:
        case = item.callspec.params.get("case") if hasattr(item, "callspec") else None
        key = case and (item.function, case.loss)
        if case is None or key not in seen or "schedule" in case.options:
            seen.add(key)
            kept.append(item)
    items[:] = kept


def pytest_configure(config):
    config.pluginmanager.register(Names())


class Shared(LoadScopeScheduling):
    """One process runs all laws of a row, or a whole other file, and shares what it compiled."""

    def _split_scope(self, nodeid):
        file, _, test = nodeid.partition("::")
        row = re.search(r"\[(?:(?:32|64)-)?(.*)\]$", test)
        return row[1] if row and file.endswith("test_contract.py") else file


def pytest_xdist_make_scheduler(config, log):
    return Shared(config, log)


def pytest_collection_finish():
    """What was imported is no garbage, and is not searched for any; the rest is so less often."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_terminal_summary(terminalreporter):
    from harness import CASES, EXEMPT_FIELDS, EXEMPTIONS, TOLERANCES

    write = terminalreporter.write_line
    terminalreporter.section("tolerances and exemptions of the contract")
    for name, (value, reason) in TOLERANCES.items():
        write(f"{name}: {value:g}  ({reason})")
    for (loss, law), reason in EXEMPTIONS.items():
        write(f"{loss} is exempt from {law}: {reason}")
    for field, (law, reason) in EXEMPT_FIELDS.items():
        for case in CASES:
            if getattr(case, field):
                write(f"{case} is exempt from {law}: {reason}")
    write(f"{len(TOLERANCES)} tolerances, {len(EXEMPTIONS)} exemptions")
