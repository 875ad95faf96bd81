"""What the README says is run: its code, its figures, its tables."""

import contextlib
import io
import re
from pathlib import Path

import jax
from harness import CASES

from jaxloss.cli.catalogue import entries

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def printed_by(block):
    """What it prints as a user runs it, who has not asked for strict promotion."""
    usual = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    with contextlib.redirect_stdout(io.StringIO()) as output, usual[0], usual[1]:
        exec(block, {"jax": jax, **START})
    return output.getvalue().splitlines()


START: dict = {}
exec("import jax, jax.numpy as jnp, jaxloss", START)


def test_examples_print_what_the_comments_say():
    comments = [
        re.findall(r"print\(.*#\s*(.*?)(?:: .*)?$", block, re.MULTILINE) for block in BLOCKS
    ]
    assert [len(each) for each in comments] == [3, 2, 0, 0]
    assert [printed_by(block) for block in BLOCKS[:2]] == comments[:2]
    assert [len(printed_by(block)) for block in BLOCKS[2:]] == [1, 0]


def test_opening_is_short():
    assert len(BLOCKS[0].strip().splitlines()) <= 12
    assert len(README.splitlines()) <= 250


def test_tables_name_losses_that_exist():
    names = {case.loss.__name__ for case in CASES}
    families = README.split("## The families")[1].split("\n## ")[0]
    assert names <= set(re.findall(r"`(\w+)`", families)), (
        "a loss is missing in the table of families"
    )


def test_migration_is_that_of_the_docstrings():
    """Each row is a line of `Also known as`, which is run; the rest is of no loss of a peer."""
    known = {(each.there, each.here) for e in entries().values() for each in e.counterparts}
    migration = README.split("## Coming from somewhere else")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)`.*? \| `([^`]+)`", migration, re.MULTILINE)
    others = {"(loss * mask).sum() / mask.sum()"}
    assert {there for there, _ in rows} >= others
    strange = [row for row in rows if row not in known and row[0] not in others]
    assert len(rows) >= 7 and not strange, strange
