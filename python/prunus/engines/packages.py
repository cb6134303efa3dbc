"""What an engine needs to be installed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

__all__ = ["installed", "need"]


def installed(*names: str) -> bool:
    """Whether all of these packages are there; imports none of them.

    >>> installed("json"), installed("json", "no_such_package")
    (True, False)
    """
    return all(importlib.util.find_spec(name) is not None for name in names)


def need(what: str, *names: str) -> Any:
    """The first of these packages, imported. Raises ImportError that says which one is missing for what.

    >>> need("this", "json").__name__
    'json'
    """
    missing = [name for name in names if not installed(name)]
    if missing:
        raise ImportError(
            f"{what} needs the package {missing[0]}, which is not installed: "
            f"pip install {' '.join(missing)}  (or: pip install 'prunus[export]')"
        )
    return importlib.import_module(names[0])
