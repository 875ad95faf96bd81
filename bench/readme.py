"""The reports, and the README's tables of accuracy and of speed, from the committed results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench import markdown, show
from bench.rows import Results, Row

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
START, END = "<!-- {}, written by python -m bench readme -->", "<!-- until here -->"
# the rows that are shown, where a machine's results have them
SHOWN = {
    "sigmoid_binary_cross_entropy, 64M float32, value_and_grad": "binary cross entropy, 64M",
    "huber_loss, 64M float32, value_and_grad": "Huber, 64M",
    "softmax_cross_entropy_with_integer_labels, Llama 2, 2048 tokens [2048, 32000] float32, "
    "value_and_grad": "cross entropy, [2048, 32000]",
    "linear head, small model, Llama 2's vocabulary [2048, 512, 32000] float32, value_and_grad": (
        "head and cross entropy, 32,000 classes"
    ),
}
HEADS = ["value and gradient of", "on", "ours, ms", "/ Optax", "/ torch", "temporaries / Optax's"]
WHO = {"jaxloss": "jaxloss", "optax": "Optax", "torch": "torch", "keras": "Keras"}
EPS = 4  # as much as the contract allows a 99th percentile
# what is counted of whom, and the table and the column of the report that say it
FAULTS = {
    "extremes with a result that is not finite": ("float32", "not finite"),
    "calls that make no sense and give a number": ("bad input", "silent misuse"),
    "masks that leak NaN": ("bad input", "masks that leak"),
}


def accuracy(folder: Path = RESULTS) -> str:
    """What becomes of bad input, and how many losses of float32 are not accurate, for each."""
    _, *parts = (folder / "accuracy.md").read_text().split("\n## ")
    tables = {part.splitlines()[0]: markdown.rows(part) for part in parts}
    lines = []
    for who, name in WHO.items():
        own = {title: [row for row in rows if row["of"] == who] for title, rows in tables.items()}
        faults = (_sum(row[column] for row in own[title]) for title, column in FAULTS.values())
        worst = [max(_number(r["value p99"]), _number(r["gradient p99"])) for r in own["float32"]]
        above = sum(each > EPS for each in worst)
        lines.append([name, str(len(worst)), *faults, str(above)])
    heads = ["", "losses", *FAULTS, f"losses with a 99th percentile above {EPS} eps"]
    return markdown.table(heads, lines)


def _number(cell: str) -> float:
    return 0 if cell == "-" else float(cell)


def _sum(cells: Iterable[str]) -> str:
    """Of cells such as "2 / 10"; others say why there are none."""
    tried = [cell.split(" / ") for cell in cells if " / " in cell]
    some, all_ = (sum(int(each[i]) for each in tried) for i in (0, 1))
    return f"{some:,} of {all_:,}"


def speed(folder: Path = RESULTS) -> str:
    """A table of some rows on each machine that was really measured, and where all are."""
    machines = {path.stem: Results.load(path) for path in sorted(folder.glob("*.json"))}
    lines = [
        _line(title, results.machine["device"], row)
        for name, title in SHOWN.items()
        for results in machines.values()
        for row in results.rows
        if row.name == name
    ]
    places = (
        f"[{results.machine['device']}](bench/results/{stem}.md), {results.machine['cores']} cores"
        for stem, results in machines.items()
    )
    return f"All rows: {'; '.join(places)}.\n\n{markdown.table(HEADS, lines)}"


def _line(title: str, device: str, row: Row) -> list[str]:
    peers = [_ratio(row, who) for who in ("optax", "torch")]
    theirs = row.contenders.get("optax")
    mine = row.ours.memory
    memory = f"{mine / theirs.memory:.2f}" if theirs and theirs.memory and mine is not None else "–"
    return [title, device, f"{1e3 * (row.ours.median or 0):.0f}", *peers, memory]


def _ratio(row: Row, who: str) -> str:
    ratio = row.ratio(who) if who in row.contenders else None
    return "–" if ratio is None else "even" if ratio.even() else f"{ratio.middle:.2f}"


def written(text: str, folder: Path = RESULTS) -> str:
    """The README with its sections between their markers."""
    for name, section in {"accuracy": accuracy, "speed": speed}.items():
        before, rest = text.split(START.format(name))
        _, after = rest.split(END, 1)
        text = f"{before}{START.format(name)}\n\n{section(folder)}\n{END}{after}"
    return text


def reports(folder: Path = RESULTS) -> dict[str, str]:
    """What is written beside the results: a report of each machine, and two suites of all."""
    machines = {path.stem: Results.load(path) for path in sorted(folder.glob("*.json"))}
    found = {name: show.report(results) for name, results in machines.items()}
    return found | {
        suite: "\n".join(show.report(results, suite) for results in machines.values())
        for suite in ("fused", "step")
    }


def main() -> None:
    for name, text in reports().items():
        markdown.save(RESULTS / f"{name}.md", text)
    path = ROOT / "README.md"
    path.write_text(written(path.read_text()))
