"""House rules that reading the source is enough for."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from prunus import _core

PACKAGE = Path(__file__).resolve().parents[2] / "python/prunus"
FILES = sorted(PACKAGE.rglob("*.py"))
# pruning/ in the C++ core owns the project's only top-k; the reference defines what it must give.
REFERENCE = "ops/reference.py"
SELECTION = {"topk", "argsort", "kthvalue", "quantile", "argpartition", "percentile", "msort"}
SELECTION_OF = {("torch", "sort"), ("np", "sort"), ("np", "partition")}


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def selections(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if node.attr in SELECTION or (owner, node.attr) in SELECTION_OF:
                found.append(f"line {node.lineno}: {owner}.{node.attr}")
    return found


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_python_selects_nothing_itself(path: Path) -> None:
    assert bool(selections(path.read_text())) == (relative(path) == REFERENCE)


def test_nothing_in_the_package_computes_by_the_reference() -> None:
    users = [relative(path) for path in FILES if re.search(r"import.*\breference\b", path.read_text())]
    assert users == []


def test_the_reader_knows_a_selection_from_a_list_sort() -> None:
    source = "names.sort()\na, _, b = text.partition(':')\nscores.topk(3)\ntorch.sort(x)\n"
    assert selections(source) == ["line 3: scores.topk", "line 4: torch.sort"]


def classes(source: str) -> list[str]:
    return [node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]


def test_a_class_has_a_name_of_its_own() -> None:
    found: dict[str, str] = {}
    for path in FILES:
        for name in classes(path.read_text()):
            assert name not in found, f"{name} is in {found[name]} and in {relative(path)}"
            found[name] = relative(path)
    assert classes("class A: pass\ndef f(): pass\nRows = int | str") == ["A"]


def test_one_place_knows_conv1d() -> None:
    """It stores its weight the other way round: whoever asks for it asks `is_conv1d`."""
    knows = [
        relative(path) for path in FILES if re.search(r"[\"']Conv1D[\"']|[\"']nf[\"']\)", path.read_text())
    ]
    assert knows == ["families/linears.py"]


def test_stub_names_what_the_extension_has() -> None:
    """_core.pyi is written by hand: names and argument names are those of the extension."""
    tree = ast.parse((PACKAGE / "_core.pyi").read_text())
    stub = {
        node.name: [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }
    built = {
        name: re.findall(r"[(,] ?(\w+):", value.__doc__.splitlines()[0].rpartition(" -> ")[0])
        for name in dir(_core)
        if inspect.isbuiltin(value := getattr(_core, name)) and not name.startswith("_")
    }
    assert stub.keys() == built.keys()
    for name, arguments in built.items():
        assert stub[name] == arguments, name
