"""`jaxloss fit --data text`: what is read, the language model that learns it, and its price."""

import argparse
import collections
import dataclasses
import itertools
import math
import signal
import sys
from pathlib import Path
from typing import Any, Literal

import commands
import jax
import numpy as np
import pytest
import tokenizers
from commands import read_arrays, read_csv, read_json
from matplotlib.image import imread

from jaxloss.cli import catalogue, fit, language, main, options, pairs, text
from jaxloss.cli.mistakes import Mistake
from jaxloss.cli.recipes import for_windows
from jaxloss.cli.text import Reading

jaxloss, mistake = commands.jaxloss, commands.mistake
SOURCE = Path(argparse.__file__).read_bytes()[:20_000]
SMALL = ["--hidden", "32", "--context", "32", "--learning-rate", "0.005", "--epochs", "6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a text and a trained model."""
    path = tmp_path_factory.mktemp("text")
    (path / "source.txt").write_bytes(SOURCE)
    arguments = ["--file", str(path / "source.txt"), *SMALL, "--checkpoint-every", "1"]
    with pytest.raises(SystemExit) as ended:
        main.run(["fit", "--data", "text", *arguments, "--out", str(path / "run")])
    assert not ended.value.code
    return path


# --- what is read


def bytes_of(tokens, segments):
    """The tokens of each segment, window after window, without what windows share."""
    joined = collections.defaultdict(list)
    for window, owners in zip(tokens, segments, strict=True):
        for place, (token, owner) in enumerate(zip(window, owners, strict=True)):
            if owner >= 0 and (place > 0 or not joined):
                joined[int(owner)].append(int(token))
    return [bytes(each) for each in joined.values()]


def test_windows_hold_every_pair_of_a_text_once_and_none_of_two_files(tmp_path, monkeypatch, rng):
    contents = [rng.integers(0, 256, size).astype(np.uint8).tobytes() for size in (300, 0, 1, 260)]
    paths = [tmp_path / f"{i}.py" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    monkeypatch.setattr(text, "_standard_library", lambda: paths)
    read = text.load(Reading(context=8, limit=500))
    assert (read.read, read.size, read.vocabulary) == (500, 561, 256)
    whole = b"".join(contents)[:500]
    found = {
        part: bytes_of(read.tokens[rows], read.segments[rows]) for part, rows in read.split.items()
    }
    ends = [len(b"".join(pieces)) for pieces in found.values()]
    assert b"".join(piece for pieces in found.values() for piece in pieces) == whole
    assert all(
        abs(end - share * 500) < 4 for end, share in zip(ends, (0.9, 0.05, 0.05), strict=True)
    )
    assert [len(piece) for piece in found["train"]][:2] == [300, 1]
    for part, pieces in found.items():
        wanted = [pair for piece in pieces for pair in itertools.pairwise(piece)]
        assert list(map(tuple, read.pairs(part).T.tolist())) == wanted
        assert read.bytes_of(part) == len(wanted)


def test_the_usual_text_is_the_source_of_the_standard_library():
    read = text.load(Reading(limit=100_000))
    assert read.read == 100_000 < read.size and "of the standard library of Python 3" in (
        read.described()
    )
    assert set(read.split) == {"train", "validation", "test"}
    assert text.load(Reading(limit=99_999)).digest != read.digest


def test_a_letter_of_many_bytes_is_in_one_part(tmp_path):
    (tmp_path / "letters.txt").write_text("aö€𝄞" * 100)
    read = text.load(Reading(file=tmp_path / "letters.txt", context=8))
    for rows in read.split.values():
        (piece,) = bytes_of(read.tokens[rows], read.segments[rows])
        assert piece.decode()


def test_counts_cost_what_a_loop_says(rng):
    known, asked = rng.integers(0, 5, (2, 60)), rng.integers(0, 6, (2, 40))
    followers = collections.defaultdict(collections.Counter)
    for a, b in known.T.tolist():
        followers[a][b] += 1
    after = collections.Counter(known[1].tolist())
    bits = 0.0
    for a, b in asked.T.tolist():
        alone, n, d = (after[b] + 1) / 67, followers[a].total(), len(followers[a])
        bits -= math.log2((followers[a][b] + d * alone) / (n + d) if n else alone)
    assert pairs.bits(known, asked, 7) == pytest.approx(bits, rel=1e-9)
    shares = [2 ** -pairs.bits(known, np.array([[a], [b]]), 7) for a in range(7) for b in range(7)]
    np.testing.assert_allclose(np.reshape(shares, (7, 7)).sum(1), 1)


# --- the model


def test_the_model_sees_only_what_came_before_in_the_same_file(tmp_path, rng):
    (tmp_path / "t.txt").write_bytes(SOURCE[:2000])
    read = text.load(Reading(file=tmp_path / "t.txt", context=8))
    lesson = language.prepare(read, catalogue.find("linear_softmax_cross_entropy"), {}, (32,))
    params = lesson.init(jax.random.key(0))
    features = jax.jit(lambda tokens, segments: lesson.model.apply(params, tokens, segments)[0])
    tokens, segments = read.tokens[:1], np.array([[0, 0, 0, 1, 1, 1, 1, 1]], np.int32)
    whole = np.asarray(features(tokens, segments))
    for place in range(8):
        changed = tokens.copy()
        changed[0, place] = (changed[0, place] + 1) % 256
        moved = np.abs(np.asarray(features(changed, segments)) - whole).max(-1)[0] > 1e-6
        end = 3 if place < 3 else 8
        assert moved.tolist() == [place <= other < end for other in range(8)]


def test_a_language_model_is_better_than_counting(folder):
    run, config = folder / "run", read_json(folder / "run" / "config.json")
    result, cost = read_json(run / "result.json"), read_json(run / "cost.json")
    for part in ("validation", "test"):
        assert result[part]["bits_per_byte"] < result[part]["bits_per_byte_of_counts"]
        nats = result[part]["loss"] / math.log(2)
        assert result[part]["bits_per_byte"] == pytest.approx(nats, rel=1e-5)
    assert config["loss"] == "linear_softmax_cross_entropy"
    assert (config["read"], config["vocabulary"], config["context"]) == (20_000, 256, 32)
    history = read_csv(run / "history.csv")
    assert len(history) == 19 and int(history[-1]["step"]) == result["steps"] == 6 * 37
    assert min(cost.values()) > 0
    model = read_arrays(run / "model.npz")
    assert model["head"].shape == (32, 256) and "Block_0/Dense_0/kernel" in model
    for picture in ("loss.png", "bits.png"):
        assert imread(run / picture).shape[0] > 400
    assert for_windows(7000).epochs == 1 and for_windows(581).epochs == 12


def test_a_text_goes_on_in_its_folder(folder, jaxloss, mistake, tmp_path, monkeypatch):
    usual = ["fit", "--data", "text", "--file", folder / "source.txt", *SMALL, "--out", "run"]
    usual += ["--checkpoint-every", 1]

    def terminate(state, history):
        if len(history.steps) == 9:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        train = fit.fit
        patch.setattr(fit, "fit", lambda *a, **k: train(*a, callbacks=[terminate], **k))
        code, out, _ = jaxloss(*usual)
    assert code == 143 and "stopped: SIGTERM" in out
    assert "run in run, whose digest is" in mistake(*usual, "--limit", 10_000, "--resume")
    assert jaxloss(*usual, "--resume")[0] == 0
    for name in ("history.csv", "model.npz", "result.json"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / "run" / name).read_bytes()


def test_fewer_bits_averages_and_pairs_of_bytes(folder, jaxloss, tmp_path):
    """Half precision and all that a step can do, with a vocabulary trained on the text."""
    usual = ["fit", "--data", "text", "--file", folder / "source.txt", *SMALL, "--vocab", 300]
    step = ["--precision", "bfloat16", "--ema", 0.5, "--microbatches", 2, "--nonfinite", "skip"]
    code, out, _ = jaxloss(*usual, *step, "--loss-option", "label_smoothing=0.1", "--out", "run")
    assert code == 0 and "Read all 20,000 bytes of" in out and "windows of 32 tokens" in out
    size = sum(leaf.size for leaf in read_arrays(tmp_path / "run" / "model.npz").values())
    assert f"vocabulary of 300: {size:,} parameters." in out
    assert "stopped: the limit of 6 epochs." in out
    cost = read_json(tmp_path / "run" / "cost.json")
    assert f"{1000 * cost['seconds_per_step']:.3g} ms a step" in out
    assert f"{cost['temporaries'] / 1e6:,.1f} MB of temporaries" in out
    assert f"held at most {cost['peak_memory'] / 1e6:,.1f} MB." in out
    result = read_json(tmp_path / "run" / "result.json")["test"]
    assert f"{result['bits_per_byte']:.5g}" in out
    assert f"{result['bits_per_byte_of_counts']:.5g}" in out
    assert result["bits_per_byte"] < 4 and result["loss"] > 2
    read = text.load(Reading(file=folder / "source.txt", vocab=300, context=32))
    saved = tokenizers.Tokenizer.from_file(str(tmp_path / "run" / "tokenizer.json"))
    tokens = [read.tokens[rows] for rows in read.split.values()]
    whole = "".join(
        saved.decode([*rows[0, :1], *rows[:, 1:][rows[:, 1:] < 300]]) for rows in tokens
    )
    assert whole.encode() == SOURCE and read.lengths[256:].min() > 1
    first = sum(int(read.lengths[rows[0, 0]]) for rows in tokens)
    assert sum(map(read.bytes_of, read.split)) + first == len(SOURCE)


def test_the_loss_of_logits_has_the_same_curves(folder, jaxloss, mistake, tmp_path):
    usual = ["compare", "--data", "text", "--file", folder / "source.txt", *SMALL]
    losses = ["linear_softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels"]
    code, out, _ = jaxloss(*usual, "--losses", ",".join(losses), "--out", "run")
    rows, curves = (read_csv(tmp_path / "run" / f"{name}.csv") for name in ("compare", "curves"))
    assert code == 0 and [row["loss_function"] for row in rows] == losses
    one, two = ([each for each in curves if each["loss_function"] == loss] for loss in losses)
    for first, second, alone in zip(
        one, two, read_csv(folder / "run" / "history.csv"), strict=True
    ):
        for name in ("step", "loss", "validation_bits_per_byte"):
            assert float(second[name]) == pytest.approx(float(first[name]), abs=1e-3)
            assert float(alone[name]) == pytest.approx(float(first[name]), abs=1e-3)
    assert float(rows[0]["apart"]) == 0 and float(rows[1]["apart"]) < 1e-3
    for row in rows:
        (line,) = [line for line in out.splitlines() if row["loss_function"] in line]
        assert f" {float(row['validation_bits_per_byte']):.5g} " in line
        assert f" {1000 * float(row['seconds_per_step']):.3g} " in line
        assert f" {float(row['temporaries']) / 1e6:,.1f} " in line
    assert imread(tmp_path / "run" / "compare.png").shape[0] > 400
    assert "a text has none" in mistake(*usual, "--losses", losses[0], "--outliers", 0.1)
    assert "squared_error learns numbers" in mistake(*usual, "--losses", "squared_error")


def schedule_of(
    *, schedule: Literal["tokens", "classes"] | None = None, budget: int = 1
) -> Any: ...


def test_an_option_that_is_a_word_is_given_as_it_is():
    entry = dataclasses.replace(catalogue.find("squared_error"), loss=schedule_of)
    chosen = options.loss_options(entry, ["schedule=tokens", "budget=4"])
    assert chosen == {"schedule": "tokens", "budget": 4}
    for wrong in ("schedule=token", "budget=tokens"):
        with pytest.raises(Mistake, match="is a number"):
            options.loss_options(entry, [wrong])


# --- wrong on purpose


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--file nope", "There is no file nope."),
        ("--file .", ". cannot be read: Is a directory."),
        ("--file empty", "empty is empty: there is nothing to learn."),
        ("--file short", "its validation part is 50 bytes, less than one window of --context 128."),
        ("--file short --limit 10", "its train part is 9 bytes"),
        ("--file short --vocab 256", "--vocab is 257 or more"),
        ("--file short --vocab 32000", "short has pairs for no more than"),
        ("--file binary --vocab 300", "binary is not UTF-8, which --vocab needs"),
        ("--file short --context 8 --loss squared_error", "learns numbers and does not fit the"),
        ("--file short --context 8 --loss dice_loss", "these fit: multiclass_hinge_loss"),
        ("--file short --context 8 --loss-option temperature=0", "temperature must be positive"),
        ("--file short --context 8 --hidden 64,32", "all the same and a multiple of 32"),
        ("--file short --context 8 --hidden 0", "got 0."),
        ("--file short --context 8 --microbatches 3", "does not divide the batch of 16 rows"),
        ("--target x", "--target is for a CSV file"),
        ("--task regression", "--task is for a CSV file"),
    ],
)
def test_a_wrong_text_is_one_sentence(arguments, sentence, mistake, tmp_path):
    files = {"empty": b"", "short": SOURCE[:1000], "binary": b"\xff\0" * 500}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert sentence in mistake("fit", "--data", "text", *arguments.split())


def test_what_is_of_a_text_is_of_nothing_else(mistake):
    for option in ("--file", "--vocab", "--context", "--limit"):
        said = mistake("fit", "--data", "iris", option, 300)
        assert "--file, --vocab, --context and --limit are for --data text." in said
    assert "did you mean text?" in mistake("fit", "--data", "texts")


def test_without_tokenizers_a_vocabulary_is_one_sentence(mistake, tmp_path, monkeypatch):
    (tmp_path / "short").write_bytes(SOURCE[:1000])
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.delitem(sys.modules, "jaxloss.cli.bytepairs", raising=False)
    monkeypatch.delattr("jaxloss.cli.bytepairs", raising=False)
    said = mistake("fit", "--data", "text", "--file", "short", "--vocab", 300)
    assert said == "tokenizers is not installed: say pip install 'jaxloss[demo]'.\n"
