"""The file that a killed run goes on from."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunus._tools.files import replacing

__all__ = ["Checkpoint"]

VERSION = 2
# Options that do not change what a step does, or that have no text that says what they are.
LEFT_OUT = ("checkpoint", "loss", "minutes")


class Checkpoint:
    """What a run needs to go on, in a file at `path`; path None: nothing is kept.

    options and parameters: of the run; a file of one with others is refused. Raises ValueError when the
    folder of the file does not exist.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        options: Mapping[str, Any],
        parameters: Mapping[str, Tensor],
    ) -> None:
        self._path = None if path is None else Path(path)
        if self._path is not None and not self._path.absolute().parent.is_dir():
            raise ValueError(f"checkpoint: expected a file in an existing folder, got {str(self._path)!r}")
        self._key = "" if path is None else _key(options, parameters)

    def save(self, content: Mapping[str, Any]) -> None:
        """Write the file in one step."""
        if self._path is None:
            return
        with replacing(self._path) as temporary:
            torch.save({"version": VERSION, "key": self._key, **content}, temporary)

    def load(self) -> dict[str, Any] | None:
        """What the file holds; None when there is none. ValueError when it is another run's."""
        if self._path is None or not self._path.exists():
            return None
        name = f"checkpoint: expected a file of this run at {str(self._path)!r}"
        try:
            found: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"{name}, got one that cannot be read ({error})") from error
        if found.get("version") != VERSION or found.get("key") != self._key:
            raise ValueError(f"{name}, got one of another model, other options or another version; remove it")
        return found


def _key(options: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> str:
    """What must be the same for the file to fit: options, shapes, and which weights are zero."""
    kept = {name: value for name, value in options.items() if name not in LEFT_OUT}
    parts = [repr(sorted(kept.items(), key=lambda item: item[0]))]
    for name, parameter in parameters.items():
        zeros = zlib.crc32((parameter.detach() == 0).cpu().numpy().tobytes())
        parts.append(f"{name} {tuple(parameter.shape)} {zeros}")
    return f"{zlib.crc32(chr(10).join(parts).encode()):08x}"
