"""The reports and the README's section on performance, from the committed results."""

from __future__ import annotations

from pathlib import Path

from bench import markdown, show
from bench.rows import Results, Row

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
START, END = "<!-- written by python -m bench readme -->", "<!-- until here -->"
# the rows that are shown, where a machine's results have them
SHOWN = {
    "sigmoid_binary_cross_entropy, 64M float32, value_and_grad": "binary cross entropy, 64M",
    "huber_loss, 64M float32, value_and_grad": "Huber, 64M",
    "softmax_cross_entropy_with_integer_labels, Llama 2, 2048 tokens [2048, 32000] float32, "
    "value_and_grad": "cross entropy, [2048, 32000]",
    "linear head, small model, Llama 2's vocabulary [2048, 512, 32000] float32, value_and_grad": (
        "linear head and its cross entropy, 32,000 classes"
    ),
    "clip_loss, CLIP, batch of 8192 [8192, 512] float32, value_and_grad": "CLIP, 8192 pairs",
}
HEADS = ["value and gradient of", "on", "ours, ms", "/ Optax", "/ torch", "memory / Optax's"]


def section(folder: Path = RESULTS) -> str:
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
    """The README with the section between its two markers."""
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n\n{section(folder)}\n\n{END}{after}"


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
