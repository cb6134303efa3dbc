"""Every example in a public docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

import prunus

# _core is C++; __main__ would run the command line.
MODULES = ["prunus"] + [
    m.name
    for m in pkgutil.walk_packages(prunus.__path__, "prunus.")
    if m.name.rpartition(".")[2] not in ("_core", "__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
