"""Our modules of other libraries' names: same signatures, values and gradients, nothing missing."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import compat
import jax
import numpy as np
import pytest

import jaxloss

PEERS = compat.load()
WRAPPERS = sorted((Path(jaxloss.__file__).parent / "compat").glob("*.py"))


def of_every_peer(*lists):
    """A test of each thing of each peer."""
    return [
        pytest.param(peer, thing, id=f"{peer.name}-{thing}")
        for peer in PEERS
        for name in lists
        for thing in getattr(peer, name)
    ]


each_peer = pytest.mark.parametrize("peer", [pytest.param(p, id=p.name) for p in PEERS])


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(("peer", "row"), of_every_peer("rows"))
def test_values_and_gradients_are_the_peers(peer, row):
    mine = peer.mine()[row.name]
    by = compat.differentiated(row, compat.inputs_of(row, [], np.float64))
    oracle = peer.oracle(peer.theirs()[row.name], row, by)
    for dtype in (np.float32, np.float64):
        compat.check(mine, oracle, row, peer.entries, dtype)
    assert not compat.idle_options(peer, row)


@pytest.mark.parametrize(("peer", "entry"), of_every_peer("entries"))
def test_where_the_peer_is_wrong(peer, entry):
    """The peer does what the table says, and we what mathematics says."""
    assert entry.inside is None or np.any(entry.inside(*entry.args, **entry.options))
    row, truth = entry.row(), float(entry.truth())
    (mine,) = compat.numbers(compat.of_jax(peer.mine()[entry.name], row, row.by)(*entry.args))
    np.testing.assert_allclose(entry.of(mine), truth, rtol=1e-14)
    if peer.is_pinned():
        assert compat.printed(peer, entry, row) == entry.theirs


@each_peer
def test_the_docstring_ends_with_the_entries_and_refusals(peer):
    assert inspect.cleandoc(peer.ours.__doc__).endswith(peer.table())


@pytest.mark.parametrize(("peer", "refusal"), of_every_peer("refused"))
def test_refused(peer, refusal):
    with pytest.raises(ValueError, match=refusal.says):
        peer.mine()[refusal.name](*refusal.args, **refusal.options)


@each_peer
def test_nothing_is_missing_and_signatures_are_the_peers(peer):
    mine = peer.mine()
    assert {row.name for row in peer.rows} == set(mine)
    if peer.is_pinned():
        theirs = peer.theirs()
        assert set(mine) == set(theirs)
        for name, function in theirs.items():
            assert parameters(mine[name]) == parameters(function), name


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@each_peer
def test_every_argument_with_a_default_is_exercised(peer):
    """A row's options change its values; an entry and a refusal are tests of theirs."""
    used = {name: set() for name in peer.mine()}
    for row in peer.rows:
        names = list(inspect.signature(peer.mine()[row.name]).parameters)
        number = len(row.arrays(np.random.default_rng(0), np.ones((compat.UNITS, 1))))
        used[row.name] |= {*names[:number], *row.options}.union(*row.variants)
    for each in [*peer.entries, *peer.refused]:
        used[each.name] |= set(each.options)
    for name, function in peer.mine().items():
        assert set(inspect.signature(function).parameters) <= used[name], name


def test_every_peer_is_counted(capsys):
    counted = {p.name: (len(p.rows), sum(map(calls, p.rows)), len(p.entries)) for p in PEERS}
    with capsys.disabled():
        for name, (rows, number, entries) in counted.items():
            print(f"\n{name}: {rows} rows, {number} calls, {entries} entries", end="")
    assert all(all(numbers) for numbers in counted.values())
    assert not compat.CI or set(counted) == {"optax", "torch", "keras"}


def calls(row):
    return len(row.calls())


@pytest.mark.parametrize("path", WRAPPERS, ids=lambda path: path.name)
def test_no_peer_is_imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in getattr(node, "names", [])]
        names = [getattr(node, "module", "")] if isinstance(node, ast.ImportFrom) else names
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert not {name.split(".")[0] for name in names} & {"optax", "torch", "keras"}


def test_a_peer_need_not_be_installed():
    code = """
import sys
sys.modules.update(torch=None, keras=None)
import jaxloss
assert not any(name.startswith("jaxloss.compat") for name in sys.modules)
import jax.numpy as jnp
import jaxloss.compat.keras as losses
import jaxloss.compat.torch as F
print(F.mse_loss(jnp.ones(2), jnp.zeros(2)), losses.mean_squared_error(jnp.ones(2), jnp.zeros(2)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1.0", "1.0"]
