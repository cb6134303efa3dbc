"""A method is registered by its line in prunus/methods/__init__.py: everything else follows from it."""

import inspect
import pkgutil
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

import pytest
import torch

import prunus
from bench.quality import grid
from prunus import methods
from prunus.methods.known import METHODS, by_word


@dataclass(frozen=True)
class Smallest(methods.Method):
    """A method that nobody has registered."""

    seed: int = 0
    name: ClassVar[str] = "smallest"
    variants: ClassVar[dict[str, dict[str, int]]] = {"seven": {"seed": 7}}

    def scores(self, weight, stats):
        return -weight.abs()


def test_every_method_in_the_folder_has_its_line_and_a_word() -> None:
    found = set()
    for module in pkgutil.iter_modules(methods.__path__):
        inside = vars(import_module(f"prunus.methods.{module.name}")).values()
        found |= {c for c in inside if inspect.isclass(c) and issubclass(c, methods.Method)}
    public = {c for c in found if not c.__name__.startswith("_")} - {methods.Method}
    assert public == set(METHODS.values())
    for cls in public:
        assert getattr(prunus, cls.__name__) is cls
        assert cls.__name__ in prunus.__all__
        assert set(cls.words()) == {word for word, known in METHODS.items() if known is cls}


def test_words_are_as_they_were() -> None:
    """Scripts have them: a word is never taken away."""
    words = {
        "magnitude",
        "magnitude-row",
        "magnitude-column",
        "random",
        "wanda",
        "sparsegpt",
        "taylor",
        "snip",
    }
    assert words <= set(METHODS)


def test_a_word_means_one_method() -> None:
    assert by_word({"a": Smallest, "Method": methods.Method}) == {
        "smallest": Smallest,
        "smallest-seven": Smallest,
    }
    with pytest.raises(ValueError, match="'smallest' of Smallest"):
        by_word({"a": Smallest, "b": Smallest})


def test_options_reach_the_fields_that_are_there() -> None:
    assert Smallest.of("smallest", steps=2, loss=None) == Smallest(steps=2)
    assert Smallest.of("smallest-seven", seed=3) == Smallest(seed=7)
    with pytest.raises(KeyError):
        Smallest.of("smallest-eight")


def test_the_bench_offers_it(monkeypatch) -> None:
    assert {word.replace("-", "/") for word in METHODS} == {*grid.METHODS, *grid.NOT_IN_ROWS}
    for word in grid.METHODS:
        known = METHODS[word.replace("/", "-")]
        assert type(grid.method_of(word, 0, torch.mean)) is known
        assert (word in grid.FIXED) == (not known.needs and not known.takes("seed"))
    monkeypatch.setitem(grid.WORDS, "smallest/seven", Smallest)
    assert grid.method_of("smallest/seven+repair x2", 0, None) == Smallest(7, steps=2, repair=True)
