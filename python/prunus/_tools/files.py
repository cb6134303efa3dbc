"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["creating", "replacing", "write_atomic"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file in the folder of `path`; when the block ends well it becomes `path` in one step.

    The old file stays until the new one is completely on disk, and after an error. A link is followed: its
    target is replaced. Raises OSError.
    """
    target = Path(os.path.realpath(path))
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:64]}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        # mkstemp makes private files; a saved model is as readable as any other new file.
        os.chmod(temporary, _mode_for(target))
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # some network file systems cannot sync a folder; the file itself is complete
        _sync(target.parent)


@contextmanager
def creating(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; when the block ends well it becomes `path` in one step.

    Nobody ever sees half of it, and after an error nothing of it is left. Raises FileExistsError when `path`
    is there already, OSError.
    """
    target = Path(path)
    if os.path.lexists(target):
        raise FileExistsError(f"{os.fspath(path)}: expected nothing there yet, got a file or folder")
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name[:64]}.", suffix=".tmp", dir=target.parent))
    try:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
        os.chmod(temporary, 0o777 & ~_umask())
        os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    with suppress(OSError):
        _sync(target.parent)


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write bytes to `path` in one step: see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _mode_for(target: Path) -> int:
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        return 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
