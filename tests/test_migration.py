"""What the docstrings say of peers is run: their call and ours, on the same numbers."""

import os
import re

import jax
import numpy as np
import pytest
from migration import INSTALLED, PEERS, Line, lines, ours, theirs

from jaxloss.cli.catalogue import entries

LINES = lines()
# inputs on which a peer means what its documentation says; the others: the row's own
INPUTS = {
    "ctc_loss_with_forward_probs": lambda rng, units: (
        rng.normal(size=(units, 5, 4)),
        rng.integers(1, 4, (units, 2)),
    ),
    "js_divergence": lambda rng, units: tuple(np.log(rng.dirichlet(np.ones(5), (2, units)))),
    "smooth_labels": lambda rng, units: (rng.dirichlet(np.ones(5), units), 0.2),
    "pairwise_distances": lambda rng, units: (rng.normal(size=(units, 3)), rng.normal(size=(4, 3))),
    "pairwise_cosine_similarities": lambda rng, units: tuple(rng.normal(size=(2, units, 3))),
}


def chosen(line: Line, rng):
    arrays = INPUTS.get(line.loss, line.calm)(rng, 50)
    if "-100" in line.counterpart.here:  # what is ignored is there
        arrays[1][::7] = -100
    return arrays


@pytest.mark.parametrize("line", LINES, ids=str)
def test_line_is_true(line, rng):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        arrays = chosen(line, rng)
        got, want = np.asarray(ours(line, arrays)), np.asarray(theirs(line, arrays))
    assert got.shape == want.shape
    # Keras adds 1e-7 to logarithms and norms or clips there; tokamax sums in float32
    tolerance = {"keras": 1e-5, "tokamax": 1e-6}.get(line.counterpart.peer, 1e-9)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def test_every_peer_has_lines(capsys):
    counted = {peer: sum(line.counterpart.peer == peer for line in LINES) for peer in INSTALLED}
    with capsys.disabled():
        print("\nlines of peers that ran:", counted)
    assert all(counted.values())
    assert os.environ.get("CI") is None or set(counted) == set(PEERS)


def test_lines_of_peers_are_code():
    """Of the three whose place we take every line has an expression of ours, or says why not."""
    for name, entry in entries().items():
        text = entry.loss.__doc__ or ""
        section = re.search(r"Also known as:\n(.*?)\n\n", text, re.DOTALL)
        written = re.findall(r"^ {8}`", section.group(1) if section else "", re.MULTILINE)
        assert len(written) == len(entry.counterparts), f"{name}: a line is not understood"
        for each in entry.counterparts:
            assert each.here or each.note, f"{name}: what becomes of {each.there}?"
