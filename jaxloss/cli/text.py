"""A text to learn from: read up to a limit, split by position, in tokens, cut into windows."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import platform
import sysconfig
from pathlib import Path

import numpy as np

from jaxloss.cli import pairs
from jaxloss.cli.mistakes import Mistake
from jaxloss.cli.table import Split

#: The parts, one after the other, and where each ends.
ENDS = {"train": 0.9, "validation": 0.95, "test": 1.0}
BYTES = 256
#: Folders of the standard library that are not it.
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
#: How many bytes are read, of which a vocabulary needs many.
MOST, MOST_FOR_VOCABULARY = 1_000_000, 12_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """Which text, and how it is read; None is the usual."""

    file: Path | None = None
    vocab: int | None = None
    context: int | None = None
    limit: int | None = None

    @property
    def window(self) -> int:
        """The tokens of a window."""
        return self.context or 128

    @property
    def most(self) -> int:
        """The bytes to read."""
        return self.limit or (MOST if self.vocab is None else MOST_FOR_VOCABULARY)

    @property
    def source(self) -> str:
        """Where the text is from."""
        if self.file is not None:
            return str(self.file)
        return f"the standard library of Python {platform.python_version()}"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """Windows of tokens, each of which begins with the last token of the one before."""

    reading: Reading
    digest: str  # of what was read
    read: int  # bytes
    size: int  # bytes, of all there is
    tokens: np.ndarray  # [windows, context], the number of tokens where there is none
    segments: np.ndarray  # [windows, context], the file of each token
    split: Split
    lengths: np.ndarray  # [vocabulary], the bytes of each token
    tokenizer: str | None  # as JSON; None: a token is a byte

    @property
    def vocabulary(self) -> int:
        """How many tokens there are, which is also the one that stands for none."""
        return len(self.lengths)

    def facts(self) -> dict[str, object]:
        """What tells it from other texts."""
        reading = self.reading
        return {
            "data": "text",
            "source": reading.source,
            "digest": self.digest,
            "read": self.read,
            "vocabulary": self.vocabulary,
            "context": reading.window,
        }

    def described(self) -> str:
        """What was read of how much, and how it is split."""
        of = f"all {self.size:,}" if self.read == self.size else f"{self.read:,} of {self.size:,}"
        parts = ", ".join(f"{len(rows):,} for {part}" for part, rows in self.split.items())
        return (
            f"Read {of} bytes of {self.reading.source}: windows of {self.reading.window} "
            f"{'tokens' if self.tokenizer else 'bytes'}, {parts}."
        )

    def pairs(self, part: str) -> np.ndarray:
        """`[2, pairs]`, the tokens of a part and the next ones."""
        rows = self.split[part]
        return pairs.of(self.tokens[rows], self.segments[rows], self.vocabulary)

    def bytes_of(self, part: str) -> int:
        """How many bytes of a part are to be predicted."""
        return int(self.lengths[self.pairs(part)[1]].sum())


def load(reading: Reading) -> Text:
    """The text in tokens.

    Raises:
        Mistake: It cannot be read, or is too short.
    """
    if reading.vocab is not None and reading.vocab <= BYTES:
        raise Mistake(
            f"--vocab is {BYTES + 1} or more, the bytes and what they are merged to: leave it out "
            "to learn bytes."
        )
    paths = _standard_library() if reading.file is None else [reading.file]
    documents, size = _read(paths, reading)
    pieces = _by_part(documents)
    tokenizer, lengths, encoded = _encoded(pieces, reading)
    windows = [_windows(part, reading, len(lengths)) for part in zip(ENDS, encoded, strict=True)]
    ends = np.cumsum([0, *(len(tokens) for tokens, _ in windows)])
    tokens, segments = (np.concatenate(each) for each in zip(*windows, strict=True))
    return Text(
        reading=reading,
        digest=hashlib.sha256(b"".join(documents)).hexdigest()[:16],
        read=sum(map(len, documents)),
        size=size,
        tokens=tokens,
        segments=segments,
        split={name: np.arange(ends[i], ends[i + 1]) for i, name in enumerate(ENDS)},
        lengths=lengths,
        tokenizer=tokenizer,
    )


def _standard_library() -> list[Path]:
    """The source of the running Python, without its tests and what was installed beside it."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = [path.relative_to(folder) for path in sorted(folder.rglob("*.py"))]
    paths = [folder / path for path in found if SKIPPED.isdisjoint(path.parts)]
    if not paths:
        raise Mistake("This Python brings no source of its standard library: give a --file.")
    return paths


def _read(paths: list[Path], reading: Reading) -> tuple[list[bytes], int]:
    """The beginning of each file, of the first ones, and the size of them all."""
    documents, left = [], reading.most
    try:
        for path in paths:
            with path.open("rb") as file:
                data = file.read(left)
            documents += [data] if data else []
            left -= len(data)
            if not left:
                break
        size = sum(path.stat().st_size for path in paths)
    except FileNotFoundError:
        raise Mistake(f"There is no file {reading.file}.") from None
    except OSError as error:
        raise Mistake(f"{reading.source} cannot be read: {error.strerror}.") from None
    if not documents:
        raise Mistake(f"{reading.source} is empty: there is nothing to learn.")
    return documents, max(size, reading.most - left)


def _by_part(documents: list[bytes]) -> list[list[bytes]]:
    """The documents of each part; where a part ends, one is cut in two."""
    size = sum(map(len, documents))
    cuts = [0, *(round(end * size) for end in ENDS.values())]
    starts = np.cumsum([0, *map(len, documents)])
    parts = []
    for low, high in itertools.pairwise(cuts):
        own = [
            document[_whole(document, low - start) : _whole(document, high - start)]
            for document, start in zip(documents, starts.tolist(), strict=False)
        ]
        parts.append([piece for piece in own if piece])
    return parts


def _encoded(
    parts: list[list[bytes]], reading: Reading
) -> tuple[str | None, np.ndarray, list[list[np.ndarray]]]:
    """The tokenizer, the bytes of its tokens, and the tokens of each document of each part."""
    if reading.vocab is not None:
        from jaxloss.cli import bytepairs

        return bytepairs.encode(parts, reading.vocab, reading.source)
    encoded = [[np.frombuffer(piece, np.uint8) for piece in part] for part in parts]
    return None, np.ones(BYTES, int), encoded


def _whole(document: bytes, place: int) -> int:
    """The place within the document, moved back to where a letter of UTF-8 begins."""
    place = min(max(place, 0), len(document))
    for back in range(4 if 0 < place < len(document) else 0):
        if document[place - back] >> 6 != 0b10:
            return place - back
    return place


def _windows(
    part: tuple[str, list[np.ndarray]], reading: Reading, padding: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `[windows, context]` that overlap by one, and the document of each."""
    (name, pieces), context = part, reading.window
    count = sum(map(len, pieces))
    if count < context:
        what = "tokens" if reading.vocab else "bytes"
        raise Mistake(
            f"{reading.source} is too short: its {name} part is {count} {what}, less than one "
            f"window of --context {context}."
        )
    starts = np.arange(0, max(count - 1, 1), context - 1)
    rest = starts[-1] + context - count
    tokens = np.concatenate([*pieces, np.full(rest, padding)]).astype(np.int32)
    owners = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    owners = np.concatenate([owners, np.full(rest, -1)]).astype(np.int32)
    places = starts[:, None] + np.arange(context)
    return tokens[places], owners[places]
