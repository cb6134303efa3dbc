"""Text for a small language model, from what the bench extra installs anyway: docstrings."""

import importlib.util
import re
import sysconfig
import zlib
from pathlib import Path

from prunus.cli.texts import DOCSTRING

PACKAGES = ("torch", "transformers", "numpy", "scipy")
SHORTEST = 200  # characters; shorter docstrings teach names only
HELD_OUT = 16  # one docstring in so many


def docstrings(limit: int) -> list[str]:
    """About `limit` characters of whole docstrings, each once, an even share of every package's."""
    found = list(dict.fromkeys(text for folder in _folders() for text in _of_folder(folder)))
    total = sum(map(len, found))
    share = min(1.0, limit / max(1, total))
    return [text for text in found if _hash("share " + text) < share * 2**32]


def split(texts: list[str]) -> tuple[list[str], list[str]]:
    """(training, held out), disjoint, by a hash of the text."""
    sides: tuple[list[str], list[str]] = ([], [])
    for text in texts:
        sides[_hash(text) % HELD_OUT == 0].append(text)
    return sides


def fingerprint(texts: list[str]) -> str:
    """Changes with the installed packages: a model trained on other text has another name."""
    return f"{_hash(chr(0).join(texts)):08x}"


def _hash(text: str) -> int:
    return zlib.crc32(text.encode())


def _folders() -> list[Path]:
    folders = [Path(sysconfig.get_paths()["stdlib"])]
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        folders += [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    return folders


def _of_folder(folder: Path) -> list[str]:
    skip = {"tests", "test", "site-packages", "__pycache__"}
    files = (p for p in sorted(folder.rglob("*.py")) if not skip & set(p.relative_to(folder).parts))
    return [text for path in files for text in _of_source(path.read_text(encoding="utf-8", errors="ignore"))]


def _of_source(source: str) -> list[str]:
    # Indentation differs with the place in the file: lines start at the margin, blanks count once.
    cleaned = (re.sub(r"[ \t]+", " ", re.sub(r"\n\s*", "\n", d)).strip() for d in DOCSTRING.findall(source))
    return [text for text in cleaned if len(text) >= SHORTEST]
