"""Loaders of others feed `fit`, which goes on where it was killed in their order.

Of tf.data, which is large and has no wheel for every Python, there is what `fit` uses of it.
"""

import importlib.util
import os
from typing import Any

import grain
import numpy as np
import pytest
import training
from test_checkpoint import Killed, run
from training import bits

# of seven batches the last one is ragged
ROWS: Any = np.concatenate([np.concatenate(batch, axis=1) for batch in training.batches(0)])[:100]


def of_grain():
    def cut(row):
        return row[:3], row[3:]

    rows: Any = list(ROWS)
    batches = grain.transforms.Batch(16)
    sampler = grain.samplers.IndexSampler(len(ROWS), shuffle=True, num_epochs=1, seed=4)
    cutting = type("Cut", (grain.transforms.Map,), {"map": lambda self, row: cut(row)})()
    return grain.DataLoader(
        data_source=rows, sampler=sampler, operations=[cutting, batches], worker_count=0
    )


def of_torch():
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    x, y = torch.from_numpy(ROWS).split([3, 1], dim=1)
    generator = torch.Generator().manual_seed(4)
    return DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True, generator=generator)


class OfTensorFlow:
    """A `tf.data.Dataset` that does not know its length, and makes tensors."""

    class Tensor:
        def __init__(self, values):
            self.values = values

        def __array__(self, dtype=None, copy=None):
            return self.values

    def __iter__(self):
        for first in range(0, len(ROWS), 16):
            rows = ROWS[first : first + 16]
            yield self.Tensor(rows[:, :3]), self.Tensor(rows[:, 3:])

    def __len__(self):
        raise TypeError("The dataset length is unknown.")


LOADERS = {"grain": of_grain, "tf.data": OfTensorFlow}
if importlib.util.find_spec("torch") is not None:
    LOADERS["torch"] = of_torch


@pytest.mark.parametrize("make", LOADERS.values(), ids=list(LOADERS))
def test_a_loader_feeds_fit_and_is_gone_on_from(make, tmp_path):
    assert "torch" in LOADERS or "CI" not in os.environ
    options = {"steps": 14, "epochs": None, "every": 1}
    whole = run(None, make(), **options)
    copied = [tuple(map(np.asarray, batch)) for batch in make()]
    _, epoch = run(None, copied, steps=7, epochs=None, every=1)
    assert epoch["loss"].tolist() == whole[1]["loss"][:7].tolist()

    def dies(state, history):
        if state.step == 10:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, make(), callbacks=[dies], **options)
    assert bits(*run(tmp_path, make(), **options)) == bits(*whole)
