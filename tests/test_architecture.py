"""The house: who imports whom, how long things are, and that nothing public lacks its parts."""

import ast
import graphlib
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import CASES

import jaxloss
from jaxloss.cli.learns import LEARNS
from jaxloss.cli.tasks import KINDS

ROOT = Path(jaxloss.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
FOLDERS = ["core", "parts", "fused", "losses", "sharded", "train", "loop", "compat", "cli"]
# what a folder may import of jaxloss besides itself; the others: every folder above them
NARROW = {
    "core": set(),
    "parts": {"core"},
    "fused": {"core"},
    "train": {"core"},
    "loop": {"core", "train"},
}
CORE_DEPENDENCIES = {"jax", "jaxlib", "jaxtyping", "numpy", "optax", "typing_extensions"}
SECTIONS = ["Args", "Returns", "Raises", "Also known as", "Example", "Reference"]


def name_of(path):
    return str(path.relative_to(ROOT))


def public_functions(module):
    return {
        name: function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }


FAMILIES = [  # of fused, what is public; the rest are its engines
    importlib.import_module(f"jaxloss.{folder}.{module.name}")
    for folder in ("losses", "fused")
    for module in pkgutil.iter_modules([str(ROOT / folder)])
    if folder == "losses"
    or f"from jaxloss.fused.{module.name} " in (ROOT / "__init__.py").read_text()
]
LOSSES = {
    name: function
    for family in FAMILIES
    for name, function in public_functions(family).items()
    if "reduction" in inspect.signature(function).parameters
}
# over devices they are held to the losses of one device, in place of a row
DOCUMENTED = LOSSES | {name: f for name, f in vars(jaxloss).items() if name.startswith("sharded_")}


def imports_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


# the root imports everything, and nothing imports the root
@pytest.mark.parametrize("path", [p for p in MODULES if p.parent != ROOT], ids=name_of)
def test_imports_point_down(path):
    folder = path.relative_to(ROOT).parts[0]
    allowed = NARROW.get(folder, set(FOLDERS[: FOLDERS.index(folder)])) | {folder}
    for name in imports_of(ast.parse(path.read_text())):
        first, *rest = name.split(".")
        if first == "jaxloss" and folder != "cli":
            assert rest and rest[0] in allowed, f"{path.name} imports {name}"


def test_no_imports_go_round():
    """Not even those for types alone."""
    names = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in MODULES}
    graph = {}
    for path in MODULES:
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        tree = ast.parse(path.read_text())
        graph[name] = {found for found in imports_of(tree) if found in names}
    list(graphlib.TopologicalSorter(graph).static_order())


def without_docstring(node):
    body = node.body
    is_text = body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    return body[1:] if is_text else body


def lines_of(nodes):
    return nodes[-1].end_lineno - nodes[0].lineno + 1 if nodes else 0


def lines_outside_docstrings(path):
    text = path.read_text()
    defined = (ast.FunctionDef, ast.ClassDef, ast.Module)
    nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, defined)]
    documented = [n for n in nodes if ast.get_docstring(n)]
    return len(text.splitlines()) - sum(lines_of(node.body[:1]) for node in documented)


@pytest.mark.parametrize(("folder", "most"), [("train", 1500), ("loop", 1275)])
def test_training_is_small(folder, most):
    assert sum(lines_outside_docstrings(path) for path in (ROOT / folder).glob("*.py")) < most


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_sizes(path):
    """At most 700 lines, 300 outside docstrings, 25 in the body of a function."""
    text = path.read_text()
    tree, total = ast.parse(text), len(text.splitlines())
    assert total <= 700
    assert lines_outside_docstrings(path) <= 300
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = lines_of(without_docstring(node))
            assert length <= 25, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.rglob("*.py")), ids=lambda p: p.name)
def test_tests_are_short(path):
    assert len(path.read_text().splitlines()) <= 700


def test_names_of_files_and_functions():
    assert not [path.name for path in MODULES if re.match(r"_(?!_)", path.name)]
    assert (ROOT / "py.typed").exists()


def test_every_loss_is_exported_once_and_has_a_row():
    exported = {name: value for name, value in vars(jaxloss).items() if inspect.isfunction(value)}
    for name, loss in LOSSES.items():
        assert exported.get(name) is loss, f"{name} is not exported"
    rows = {case.loss.__name__ for case in CASES}
    assert rows == set(LOSSES), f"rows and losses differ by {rows ^ set(LOSSES)}"


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_signature(name):
    parameters = list(inspect.signature(DOCUMENTED[name]).parameters.values())
    assert [p.name for p in parameters][-3:] == ["where", "weights", "reduction"]
    assert [p.default for p in parameters][-3:] == [None, None, "mean"]
    for parameter in parameters:
        positional = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        assert not positional or parameter.default is parameter.empty, parameter.name
        assert "Any" not in str(parameter.annotation)
    assert not {"axis", "ignore_index", "eps", "epsilon"} & {p.name for p in parameters} or (
        name == "poly_loss_cross_entropy"  # its epsilon is the paper's coefficient
    )


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_docstring(name):
    """A sentence, a formula, the sections in order, each argument named, an example that prints."""
    text = inspect.getdoc(DOCUMENTED[name]) or ""
    first, formula = text.split("\n\n")[:2]
    assert first.endswith(".") and "\n" not in first
    assert formula.startswith("    ") and any(sign in formula for sign in "=ℓ")
    places = [text.index(f"\n{section}:\n") for section in SECTIONS]
    assert places == sorted(places)
    described = text[places[0] : places[1]]
    for parameter in inspect.signature(DOCUMENTED[name]).parameters:
        assert re.search(rf"\b{parameter}\b", described), f"{parameter} is not described"
    assert ">>> " in text[places[4] : places[5]] and re.search(r"\d{4}", text[places[5] :])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__.split(".")[-1])
def test_families_say_their_unit(family):
    first = (family.__doc__ or "").splitlines()[0]
    assert "unit" in first or "no units" in first


def test_what_is_learnt_is_a_kind_of_target():
    assert set(LEARNS) <= set(LOSSES) and set(LEARNS.values()) == set(KINDS)


def test_import_needs_the_core_dependencies_only():
    code = """
import sys
import jax, optax, jaxtyping
before = set(sys.modules)
import jaxloss
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    added = set(result.stdout.split()) - set(sys.stdlib_module_names)
    assert added <= CORE_DEPENDENCIES | {"jaxloss"}, added
