"""Includes and imports go one way (csrc/README.md, "Layer rule")."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# folder of csrc -> what it may include besides itself: a folder, or one header of it.
MAY_INCLUDE = {
    "core": set(),
    # Nothing else of kernels: the loops over scores per isa, without which selection ran at a third of its
    # speed (csrc/decisions/0015-selection-in-isa-objects.md).
    "pruning": {"core", "kernels/score_kernels.h"},
    "formats": {"core"},
    # And where the parts of a tile lie (formats/layout/<format>.inl.h).
    "kernels": {"core", "formats/packed.h", "formats/layout"},
    "ops": {"core", "formats", "kernels"},
    "cuda": {"core", "formats"},
    "bindings": {"core", "pruning", "formats", "kernels", "ops", "cuda"},
}

# Folders and modules of python/prunus, lowest first: each imports only from lines above its own, and from
# its own line in no circle.
LEVELS = [
    {"_core"},
    {"_tools", "families", "patterns"},
    {"masks", "packed"},
    {"ops"},
    {"nn"},
    {"calibration"},
    {"methods"},
    {"allocation"},
    {"prune", "shrink"},
    {"checkpoint", "training"},
    {"accelerate"},
    {"recover", "balance", "engines"},
    {"report"},
    {"cli"},
    {"__main__"},
]
# The package itself: a table of public names, which it imports when they are asked for.
PACKAGE = "__init__"
INTRINSICS = re.compile(r"#\s*include\s*<(?:\w*mmintrin|arm_neon)\.h>")
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
CPP = sorted(p for s in ("*.h", "*.cpp", "*.inl") for p in (ROOT / "csrc").rglob(s))
PYTHON = sorted((ROOT / "python/prunus").rglob("*.py"))


def include_allowed(folder: str, target: str) -> bool:
    parts = target.split("/")
    return any("/".join(parts[: i + 1]) in {folder, *MAY_INCLUDE[folder]} for i in range(len(parts)))


def level(module: str) -> int:
    for i, names in enumerate(LEVELS):
        if module in names:
            return i
    raise AssertionError(f"prunus.{module} has no place in the layer rule: add it to LEVELS in {__file__}")


def imported(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Every import of a file, at the top or in functions, as the node and `module.name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"line {node.lineno}: write `from prunus.x import y`, not a relative import"
            )
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def imports_of(source: str, whole: str = "prunus") -> set[str]:
    """Modules right below `whole` that `source` imports; not for typing only."""
    tree = ast.parse(source)
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    typing_only = {id(child) for guard in guards for child in ast.walk(guard)}
    found = set()
    for node, name in imported(tree):
        parts = name.split(".")
        if id(node) not in typing_only and parts[0] == whole:
            found.add(parts[1] if len(parts) > 1 and is_module(whole, parts[1]) else PACKAGE)
    return found


def files_of(sources: dict[str, str], whole: str) -> dict[str, set[str]]:
    """Module -> modules that it names in imports, for typing too; without `whole`, a table of names."""
    graph = {}
    for me in sources.keys() - {whole}:
        graph[me] = set()
        for _, name in imported(ast.parse(sources[me])):
            while name and name not in sources:
                name = name.rpartition(".")[0]
            graph[me] |= {name} - {"", me, whole}
    return graph


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join([root.name, *(part for part in parts if part != PACKAGE)])


def is_module(whole: str, name: str) -> bool:
    base = ROOT / ("python/prunus" if whole == "prunus" else whole) / name
    return name == "_core" or base.is_dir() or base.with_suffix(".py").exists()


def module_of(path: Path) -> str:
    return path.relative_to(ROOT / "python/prunus").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", CPP, ids=lambda p: str(p.relative_to(ROOT / "csrc")))
def test_includes_go_one_way(path: Path) -> None:
    folder, text = path.relative_to(ROOT / "csrc").parts[0], path.read_text()
    for target in INCLUDE.findall(text):
        assert (ROOT / "csrc" / target).exists(), f'"{target}": includes are written from csrc'
        assert include_allowed(folder, target), f"{folder} must not include {target}"
    # core/denormals.h sets the control register: no vector code.
    if folder != "kernels" and path.name != "denormals.h":
        assert not INTRINSICS.search(text), "only kernels knows intrinsics"
    if folder != "bindings":
        assert "pybind11" not in text, "only bindings knows pybind11"


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: str(p.relative_to(ROOT / "python/prunus")))
def test_imports_go_one_way(path: Path) -> None:
    me = module_of(path)
    if me == PACKAGE:
        return
    for other in imports_of(path.read_text()) - {me}:
        assert other != PACKAGE or me == "cli", f"{me} must not import the package: name the module"
        assert other == PACKAGE or level(other) <= level(me), f"{me} must not import {other}"


@pytest.mark.parametrize("root", [ROOT / "python/prunus", ROOT / "bench"], ids=lambda p: p.name)
def test_imports_have_no_circle(root: Path) -> None:
    """Neither folders, by what runs, nor files, by types either."""
    sources = {path: path.read_text() for path in sorted(root.rglob("*.py"))}
    folders: dict[str, set[str]] = {}
    for path, source in sources.items():
        me = path.relative_to(root).parts[0].removesuffix(".py")
        if me not in (PACKAGE, "__main__"):
            folders.setdefault(me, set()).update(imports_of(source, root.name) - {me, PACKAGE})
    files = files_of({module_name(path, root): source for path, source in sources.items()}, root.name)
    for graph in (folders, files):
        list(TopologicalSorter(graph).static_order())


def test_a_circle_of_types_is_seen() -> None:
    sources = {
        "prunus": "from prunus.a.b import B",
        "prunus.a": "from prunus.a.b import B",
        "prunus.a.b": "if TYPE_CHECKING:\n    from prunus.a.c import C\n",
        "prunus.a.c": "def f():\n    from prunus.a import b\n",
    }
    assert files_of(sources, "prunus")["prunus.a"] == {"prunus.a.b"}
    with pytest.raises(CycleError):
        list(TopologicalSorter(files_of(sources, "prunus")).static_order())
    sources["prunus.a.c"] = "import prunus\n"
    list(TopologicalSorter(files_of(sources, "prunus")).static_order())


def test_the_package_knows_no_bench() -> None:
    for path in PYTHON:
        assert not re.search(r"^\s*(from|import) bench\b", path.read_text(), re.MULTILINE), path


def test_the_top_of_the_package_is_small() -> None:
    """Folders and modules, without the extension, its stub, `__init__` and `__main__`."""
    top = [
        path.name
        for path in (ROOT / "python/prunus").iterdir()
        if (path.suffix == ".py" or path.is_dir()) and not path.name.startswith(("__", "."))
    ]
    assert len(top) <= 20, sorted(top)
    assert [name for name in top if name.startswith("_")] == ["_tools"]  # a folder; no module


def test_the_reader_sees_what_it_should() -> None:
    source = (
        "import prunus.masks\nfrom prunus import patterns, __version__\n"
        "if TYPE_CHECKING:\n    import prunus.nn\n"
        "def f():\n    from prunus._core import select\n"
    )
    assert imports_of(source) >= {PACKAGE, "_core"}
    assert "nn" not in imports_of(source)
    assert not include_allowed("kernels", "formats/col8.h")
    assert include_allowed("kernels", "formats/packed.h")
    assert include_allowed("kernels", "formats/layout/col8.inl.h")
    assert include_allowed("pruning", "kernels/score_kernels.h")
    assert not include_allowed("pruning", "kernels/kernels.h")
    assert not include_allowed("core", "ops/linear.h")


@pytest.mark.parametrize("path", CPP + PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_small(path: Path) -> None:
    # The target is 300; a file that needs more than that by half is two files.
    assert len(path.read_text().splitlines()) <= 450
