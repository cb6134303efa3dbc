"""Recipes as YAML: one mapping a step, its word and its arguments."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from prunus.cli.recipes.steps import Accelerate, Export, Prune, Recover, Shrink, Step
from prunus.methods.known import METHODS
from prunus.patterns import NM, Block, Pattern, Scope, Unstructured
from prunus.recover import Distill
from prunus.shrink import Heads, Layers, Neurons

__all__ = ["steps_of"]

GROUPS = ("importance", "scope", "compensate")
WHAT: dict[str, Any] = {"neurons": Neurons, "heads": Heads, "layers": Layers}


def steps_of(path: Path) -> Iterator[Step]:
    """The steps in a file. Raises ValueError that says which step and what was expected, ImportError."""
    if importlib.util.find_spec("yaml") is None:
        raise ImportError("a recipe needs the package PyYAML, which is not installed: pip install pyyaml")
    import yaml

    if not path.is_file():
        raise ValueError(f"recipe: expected a file at {str(path)!r}, got none")
    try:
        whole = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            f"recipe: expected YAML in {str(path)!r}, got: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(whole, Mapping) or set(whole) != {"steps"} or not isinstance(whole["steps"], list):
        raise ValueError(f"recipe: expected a list under the one key 'steps' in {str(path)!r}, got {whole!r}")
    for i, item in enumerate(whole["steps"], 1):
        yield _numbered(i, item)


def _numbered(i: int, item: Any) -> Step:
    try:
        return _step(item)
    except (ValueError, TypeError) as error:
        raise ValueError(f"recipe: step {i}: {error}") from None


def _step(item: Any) -> Step:
    if isinstance(item, str):
        item = {item: {}}
    if not isinstance(item, Mapping) or len(item) != 1:
        raise ValueError(f"expected one of {', '.join(STEPS)} with its arguments, got {item!r}")
    ((word, given),) = item.items()
    if word not in STEPS:
        raise ValueError(f"expected one of {', '.join(STEPS)}, got {word!r}")
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise ValueError(f"{word}: expected arguments by name, got {given!r}")
    make, known = STEPS[word]
    for name in given:
        if name not in known:
            raise ValueError(f"{word}: expected some of {', '.join(known)}, got {name!r}")
    try:
        return make(dict(given))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{word}: {error}") from None


def _shrink(given: dict[str, Any]) -> Step:
    words = [word for word in WHAT if word in given]
    if len(words) != 1:
        raise ValueError(f"expected one of {', '.join(WHAT)}, got {' and '.join(words) or 'none'}")
    amount, round_to = given.pop(words[0]), given.pop("round_to", 1)
    return Shrink(WHAT[words[0]](amount, **given), round_to)


def _prune(given: dict[str, Any]) -> Step:
    word = given.get("method", "magnitude")
    if word not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {word!r}")
    method = METHODS[word]
    options = {name: given[name] for name in ("steps", "repair", "seed") if name in given}
    for name in options:
        if not method.takes(name):
            raise ValueError(f"{name}: {word} does not take it")
    return Prune(_pattern(given, method.scope), method.of(word, **options))


def _pattern(given: Mapping[str, Any], scope: str) -> Pattern:
    text, sparsity = given.get("pattern", "unstructured"), given.get("sparsity")
    if not isinstance(text, str):  # YAML reads 2:4 as minutes and seconds
        raise ValueError(f"pattern: expected text (write '2:4' in quotes), got {text!r}")
    nm, block = re.fullmatch(r"(\d+):(\d+)", text), re.fullmatch(r"(\d+)x(\d+)", text)
    if nm:
        if sparsity is not None:
            raise ValueError(
                f"sparsity: expected none with the pattern {text}, which fixes it, got {sparsity}"
            )
        return NM(int(nm[1]), int(nm[2]))
    if sparsity is None:
        raise ValueError("sparsity: expected a share of zeros, 0..1, got none")
    if block:
        return Block((int(block[1]), int(block[2])), sparsity)
    if text != "unstructured":
        raise ValueError(
            f"pattern: expected unstructured, N:M such as '2:4', or RxC such as 4x4, got {text!r}"
        )
    return Unstructured(sparsity, cast(Scope, given.get("scope", scope)))


def _recover(given: dict[str, Any]) -> Step:
    return Recover(Distill(**given))


def _accelerate(given: dict[str, Any]) -> Step:
    return Accelerate(**given)


def _export(given: dict[str, Any]) -> Step:
    file = given.get("file")
    if not isinstance(file, str) or Path(file).name != file:
        raise ValueError(f"file: expected a name without a folder, got {file!r}")
    given.setdefault("to", "openvino" if file.endswith(".xml") else "onnx")
    return Export(**given)


# Word -> what makes the step, and the names of its arguments.
STEPS: dict[str, tuple[Callable[[dict[str, Any]], Step], tuple[str, ...]]] = {
    "shrink": (_shrink, (*WHAT, *GROUPS, "round_to")),
    "prune": (_prune, ("method", "pattern", "sparsity", "scope", "steps", "repair", "seed")),
    "recover": (_recover, ("minutes", "steps", "learning_rate", "precision", "accumulate", "seed")),
    "accelerate": (_accelerate, ("precision", "min_speedup", "max_error")),
    "export": (_export, ("file", "to", "dtype")),
}
