"""`jaxloss fit` with checkpoints, averages and fewer bits, and a run that goes on in its folder."""

import shutil
import signal

import commands
import jax
import pytest

from jaxloss.cli import catalogue, data, fit
from jaxloss.cli.experiment import Experiment, prepare
from jaxloss.cli.recipes import Recipe

jaxloss, mistake = commands.jaxloss, commands.mistake
IRIS = "fit --data iris --hidden 8 --out run --checkpoint-every 1 --epochs".split()


def test_a_run_goes_on_in_its_folder(jaxloss, mistake, tmp_path, monkeypatch):
    usual = [*IRIS, 4, "--precision", "float16", "--ema", 0.5]
    assert jaxloss(*usual)[0] == 0
    (tmp_path / "run").rename(tmp_path / "whole")

    def terminate(state, history):
        if len(history.steps) == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        train = fit.fit
        patch.setattr(fit, "fit", lambda *a, **k: train(*a, callbacks=[terminate], **k))
        code, out, _ = jaxloss(*usual)
    assert code == 143 and "stopped: SIGTERM" in out
    assert "say --resume, or give another --out" in mistake(*usual)
    other = [*IRIS, 5, *usual[-4:], "--resume"]
    assert "whose epochs is 4 and not 5" in mistake(*other)
    config = tmp_path / "run" / "config.json"
    text = config.read_text()
    for wrong in ("{", "[]"):
        config.write_text(wrong)
        assert "config.json" in mistake(*usual, "--resume")
    config.write_text(text)
    shutil.copytree(tmp_path / "run", tmp_path / "damaged")
    for file in (tmp_path / "damaged" / "checkpoints").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    damaged = ["damaged" if word == "run" else word for word in usual]
    assert "can be continued" in mistake(*damaged, "--resume")
    assert jaxloss(*usual, "--resume")[0] == 0
    for name in ("history.csv", "model.npz", "result.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_is_evaluated_is_computed_like_what_is_trained(monkeypatch):
    seen, outputs = [], Experiment.outputs

    def noted(self, params, inputs):
        seen.append(jax.tree.leaves(params)[0].dtype.name)
        return outputs(self, params, inputs)

    monkeypatch.setattr(Experiment, "outputs", noted)
    table = data.load("iris", None, None)
    experiment = prepare(table, table.split(0), catalogue.find("nll_loss"), {}, (4,))
    fitted = fit.train(experiment, Recipe(epochs=1, precision="bfloat16"), progress=False)
    scores = fit.scores(experiment, fitted)
    assert scores["validation"]["loss"] == fitted.history.last("validation_loss")
    assert set(seen) == {"bfloat16"} and len(seen) >= 3  # in training, and in both evaluations


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--resume", "--resume needs --out"),
        ("--resume --out nowhere", "--resume finds none in nowhere"),
        ("--precision float8", "--precision cannot be 'float8'"),
        ("--nonfinite ignore", "--nonfinite cannot be 'ignore'"),
        ("--ema 1", "--ema is at least 0 and less than 1"),
        ("--ema 0.9 --optimizer schedule_free_adamw", "leave --ema out"),
        ("--data line --precision bfloat16", "leave out"),
        ("--data iris --nonfinite raise --learning-rate 1e30 --hidden 4", "not finite: lower"),
    ],
)
def test_wrong_options_are_a_sentence(arguments, sentence, mistake):
    assert sentence in mistake("fit", *arguments.split())
