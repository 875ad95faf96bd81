"""Our modules of other libraries' names: the same signatures, values, gradients; nothing missing."""

import inspect

import compat
import jax
import numpy as np
import pytest

PEERS = compat.load()


def of_every_peer(things):
    """A test of each thing of each peer; one process imports a peer."""
    return [
        pytest.param(
            peer, thing, id=f"{peer.name}-{thing}", marks=pytest.mark.xdist_group(peer.name)
        )
        for peer in PEERS
        for thing in things(peer)
    ]


def functions(module):
    return {
        name: function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(("peer", "row"), of_every_peer(lambda peer: peer.rows))
def test_value_and_gradient_are_the_peers(peer, row):
    arrays = compat.inputs_of(row, [], np.float64)
    oracle = peer.oracle(peer.theirs(row.name), row, compat.differentiated(row, arrays))
    for dtype in (np.float32, np.float64):
        compat.check(getattr(peer.ours, row.name), oracle, row, peer.entries, dtype)
