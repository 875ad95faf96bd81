"""Rows, and classes, in four real processes meet over gloo."""

import json
from pathlib import Path

import contrastive_worker
import jax
import jax.numpy as jnp
import numpy as np
from test_processes import free_port, ours, start

import jaxloss


def test_four_processes_have_the_gradients_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(jaxloss.__file__).parents[1]))
    port, script = free_port(), Path(contrastive_worker.__file__)
    ended = start([[script, port, i, 4] for i in range(4)], tmp_path)
    assert [each.returncode for each, _, _ in ended] == [0] * 4, ended
    both = contrastive_worker.losses(jaxloss.clip_loss, jaxloss.siglip_loss)
    value, grads = both(*contrastive_worker.embeddings(), jnp.float32(2))
    alone = contrastive_worker.cross_entropy(jaxloss.linear_softmax_cross_entropy)
    entropy, of_entropy = alone(*contrastive_worker.heads())
    for _, out, _ in ended:
        said = json.loads(ours(out))
        assert said["count"] == jax.process_count() * 4
        for columns in said["said"]:
            close(columns, (value, *grads))
        close(said["entropy"], (entropy, *of_entropy))


def close(got, want):
    for each, wanted in zip(got, want, strict=True):
        np.testing.assert_allclose(each, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
