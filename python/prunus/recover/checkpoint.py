"""The file that a killed run goes on from."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from prunus._tools.files import replacing
from prunus.recover.quality import Quality

if TYPE_CHECKING:
    from prunus.recover.train import Training

__all__ = ["Checkpoint"]

VERSION = 1
NUMBERS = ("step", "tokens", "epoch", "position", "best_step", "looked", "looked_at", "bfloat16")


class Checkpoint:
    """Saves and loads everything of a `Training` that the next step depends on; path None: nothing."""

    def __init__(self, training: Training, path: Path | None) -> None:
        self._training, self._path = training, path
        self._key = _key(training) if path is not None else ""

    @classmethod
    def of(cls, training: Training) -> Checkpoint:
        """For the options of the run; ValueError when the folder of the file does not exist."""
        if training.how.checkpoint is None:
            return cls(training, None)
        path = Path(training.how.checkpoint)
        if not path.absolute().parent.is_dir():
            raise ValueError(f"checkpoint: expected a file in an existing folder, got {str(path)!r}")
        return cls(training, path)

    def save(self) -> None:
        """Write the file in one step."""
        if self._path is None:
            return
        t = self._training
        content = {
            "version": VERSION,
            "key": self._key,
            "seconds": t.seconds,
            "numbers": {name: getattr(t, name) for name in NUMBERS},
            "parameters": {name: p.detach() for name, p in t.parameters.items()},
            "state": t.state,
            "best": t.best.figures,
            "optimizer": t.optimizer.state_dict(),
            "curve": t.session.curve,
        }
        with replacing(self._path) as temporary:
            torch.save(content, temporary)

    @torch.no_grad()
    def load(self) -> bool:
        """Go on where the file ends; False when there is none. ValueError when it is another run's."""
        if self._path is None or not self._path.exists():
            return False
        name = f"checkpoint: expected a file of this run at {str(self._path)!r}"
        try:
            found: dict[str, Any] = torch.load(self._path, weights_only=True)
        except Exception as error:
            raise ValueError(f"{name}, got one that cannot be read ({error})") from error
        if found.get("version") != VERSION or found.get("key") != self._key:
            raise ValueError(f"{name}, got one of another model, other options or another version; remove it")
        t = self._training
        for key, value in found["numbers"].items():
            setattr(t, key, value)
        for key, parameter in t.parameters.items():
            parameter.copy_(found["parameters"][key])
        t.state, t.best, t.earlier = found["state"], Quality(found["best"]), found["seconds"]
        t.optimizer.load_state_dict(found["optimizer"])
        t.session.curve[:] = found["curve"]
        t.resumed = f"went on at step {t.step}"
        return True


def _key(training: Training) -> str:
    """What must be the same for the file to fit: options, shapes, and which weights are zero."""
    how = training.how
    options = {k: v for k, v in vars(how).items() if k not in ("checkpoint", "loss", "minutes")}
    parts = [repr(sorted(options.items(), key=lambda item: item[0]))]
    for name, parameter in training.parameters.items():
        zeros = zlib.crc32((parameter.detach() == 0).cpu().numpy().tobytes())
        parts.append(f"{name} {tuple(parameter.shape)} {zeros}")
    return f"{zlib.crc32(chr(10).join(parts).encode()):08x}"
