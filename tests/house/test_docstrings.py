"""Every public name says what it is, what it raises and how it is used; the API pages can be made of it."""

import importlib
import inspect
import pkgutil
import re
import typing
import warnings
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import prunus
from prunus._tools.report import Report
from prunus.methods import Method
from prunus.ops import reference

ROOT = Path(__file__).resolve().parents[2]
MODULES = ["prunus"] + [
    m.name
    for m in pkgutil.walk_packages(prunus.__path__, "prunus.")
    if m.name.rpartition(".")[2] not in ("_core", "__main__")
]
PUBLIC = {name: getattr(prunus, name) for name in prunus.__all__ if not name.startswith("__")}
PUBLIC |= {f"ops.reference.{name}": getattr(reference, name) for name in reference.__all__}
CALLABLE = {name: it for name, it in PUBLIC.items() if callable(it)}
# Users get these from functions, they do not make them.
REPORTS = {name for name, it in CALLABLE.items() if isinstance(it, type) and issubclass(it, Report)}
GIVEN = {*REPORTS, "FormatError", "RecoverError", "ZeroKeeper"}
INHERITED = {field.name for field in fields(Method)}


def summary(doc: str) -> list[str]:
    """The lines up to the first empty one."""
    return inspect.cleandoc(doc).split("\n\n")[0].splitlines()


def own_doc(it: Any) -> str:
    """Of a class without one, `dataclass` writes its signature: that is none."""
    doc = (vars(it).get("__doc__") if isinstance(it, type) else it.__doc__) or ""
    return "" if doc.startswith(f"{it.__name__}(") else doc


def names_of(module: ModuleType) -> dict[str, Any]:
    """Public functions and classes that are made in a module, and the public members of the classes."""
    found = {}
    for name, it in vars(module).items():
        made_here = getattr(it, "__module__", None) == module.__name__
        if not name.startswith("_") and made_here and (inspect.isfunction(it) or inspect.isclass(it)):
            found[name] = it
            members = vars(it).items() if inspect.isclass(it) else ()
            for member, value in members:
                if not member.startswith("_") and (
                    inspect.isfunction(value) or isinstance(value, (property, classmethod, staticmethod))
                ):
                    found[f"{name}.{member}"] = getattr(value, "__func__", value)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_a_summary(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    assert summary(module.__doc__)
    for what, it in names_of(module).items():
        doc = own_doc(it) if inspect.isclass(it) else inspect.getdoc(it) or ""
        assert doc or _overrides(module, what), f"{what}: no docstring"
        lines = summary(doc) if doc else ["."]
        assert re.search(r"[.:]$", lines[-1]), f"{what}: {lines[-1]!r}"
        assert len(lines) <= 6, what


def _overrides(module: ModuleType, what: str) -> bool:
    """A method that has its words in a class above."""
    owner, _, member = what.partition(".")
    return bool(member and inspect.getdoc(getattr(getattr(module, owner), member)))


@pytest.mark.parametrize("name", CALLABLE)
def test_what_users_call_has_an_example(name: str) -> None:
    if name not in REPORTS | {"FormatError"}:
        assert ">>>" in own_doc(CALLABLE[name])


@pytest.mark.parametrize("name", CALLABLE)
def test_every_parameter_is_spoken_of(name: str) -> None:
    it = CALLABLE[name]
    if name in GIVEN:
        return
    for parameter in set(inspect.signature(it).parameters) - (INHERITED if isinstance(it, type) else set()):
        assert re.search(rf"\b{parameter}\b", own_doc(it)), parameter


def refuses(it: Any) -> bool:
    """Whether calling it may raise: every function looks at what it gets, a class where it says so itself
    (what `Method` refuses is said there)."""
    if not isinstance(it, type):
        return True
    ours = [c for c in it.__mro__ if c is not Method and c.__module__.startswith("prunus")]
    makers = [vars(c)[name] for c in ours for name in ("__post_init__", "__init__") if name in vars(c)]
    return any(re.search(r"\braise\b|check", source_of(make)) for make in makers)


def source_of(function: Any) -> str:
    """Empty for what `dataclass` writes."""
    return inspect.getsource(function) if function.__code__.co_filename != "<string>" else ""


@pytest.mark.parametrize("name", CALLABLE)
def test_what_it_raises_is_said(name: str) -> None:
    if name not in GIVEN and refuses(CALLABLE[name]):
        assert re.search(r"\b[Rr]aises\b", own_doc(CALLABLE[name]))


def test_annotations_of_modules_can_be_resolved() -> None:
    """Of the class that users subclass and load from pickles, whose module is a name only."""
    assert typing.get_type_hints(prunus.SparseLinear)["packed"].__name__ == "Tensor"


def test_the_pages_are_made(tmp_path: Path) -> None:
    """The command of CONTRIBUTING.md, with everything in it."""
    pdoc = pytest.importorskip("pdoc")
    command = re.search(r"pdoc -t (\S+) (.+) -o", (ROOT / "CONTRIBUTING.md").read_text())
    assert command
    pdoc.render.configure(template_directory=ROOT / command[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # SparseLinear says it lives in prunus.nn, for pickles.
        warnings.filterwarnings("ignore", "Cannot determine where prunus.SparseLinear")
        pdoc.pdoc(*command[2].split(), output_directory=tmp_path)
    page = (tmp_path / "prunus.html").read_text()
    for name in prunus.__all__:
        assert f'<section id="{name}"' in page
    assert re.search(r"white-space: ?pre-line", page)
    page += (tmp_path / "prunus/ops/reference.html").read_text()
    docs = re.findall(r'<div class="docstring">(.*?)</div>', page, re.DOTALL)
    assert len(docs) > 100
    # Underscores and stars of formulas must not become emphasis.
    assert not [doc for doc in docs if re.search(r"<(em|strong|h\d|blockquote)>", doc)]


def test_the_reader_sees_what_it_should() -> None:
    class Bare:
        pass

    assert own_doc(Bare) == ""
    assert summary("One\ntwo.\n\nthree") == ["One", "two."]
    assert not refuses(Report)
    assert refuses(prunus.Unstructured)
    assert refuses(prunus.Neurons)
    assert "Method.words" in names_of(importlib.import_module("prunus.methods.base"))
