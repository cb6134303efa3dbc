"""English to embed, from what is installed anyway: the docstrings of Python packages."""

from __future__ import annotations

import importlib.util
import os
import re
import sysconfig
import zlib
from collections.abc import Iterable
from itertools import chain, islice, zip_longest
from pathlib import Path

__all__ = ["paragraphs", "split_texts"]

# Those that the demo extra brings, and the standard library. Only text is read, nothing imported.
PACKAGES = ("torch", "transformers", "sentence_transformers", "sklearn", "scipy", "numpy")
FILES_PER_PACKAGE = 150
DOCSTRING = re.compile(r':[ \t]*\n[ \t]*[rR]?"""(.*?)"""', re.DOTALL)
# What marks code, tables and templates rather than prose.
NOT_PROSE = re.compile(r">>>|::|[{}<>|=\\]|http|--|\.\. ")


def paragraphs(limit: int) -> list[str]:
    """Up to `limit` different paragraphs of prose from docstrings, the same ones for the same installation.

    >>> len(paragraphs(3))
    3
    """
    sources = [_of_package(files) for files in _files()]
    # Packages in turn, so that no subject fills the list.
    mixed = (text for turn in zip_longest(*sources) for text in turn if text is not None)
    return list(islice(dict.fromkeys(mixed), limit))


def split_texts(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Two disjoint sets, by a hash of the text: a paragraph is on the same side in every installation.

    >>> a, b = split_texts(["one", "two", "three", "four"])
    >>> sorted(a + b), set(a) & set(b)
    (['four', 'one', 'three', 'two'], set())
    """
    sides: tuple[list[str], list[str]] = ([], [])
    for text in texts:
        sides[zlib.crc32(text.encode()) & 1].append(text)
    return sides


def _files() -> list[list[Path]]:
    roots = [Path(sysconfig.get_paths()["stdlib"])]
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        roots += [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    return [files for root in roots if (files := _spread(root))]


def _spread(root: Path) -> list[Path]:
    """Some files from all over a package, without its tests."""
    found = []
    for folder, below, names in os.walk(root):
        below[:] = sorted(set(below) - {"tests", "test", "site-packages", "__pycache__"})
        found += [Path(folder, name) for name in sorted(names) if name.endswith(".py")]
    return found[:: max(1, len(found) // FILES_PER_PACKAGE)]


def _of_package(files: Iterable[Path]) -> Iterable[str]:
    return chain.from_iterable(_prose(path.read_text(encoding="utf-8", errors="ignore")) for path in files)


def _prose(source: str) -> Iterable[str]:
    for docstring in DOCSTRING.findall(source):
        for part in docstring.split("\n\n"):
            text = " ".join(part.split())
            if (
                60 <= len(text) <= 400
                and text[0].isupper()
                and text.endswith(".")
                and not NOT_PROSE.search(text)
            ):
                yield text
