"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["creating", "replacing", "write_atomic"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to; when the block ends well, what is there becomes `path` in one step.

    The old file stays until the new one is completely on disk, and after an error. A link is followed: its
    target is replaced. Where the file system has files without a name, a process that is killed leaves
    nothing behind. Raises OSError, also where `path` is something else than a file: a device, a folder.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise FileExistsError(errno.EEXIST, "expected a regular file or nothing", os.fspath(path))
    with _nameless(target.parent) as handle:
        if handle is None:
            with _named(target) as temporary:
                yield temporary
                _finish(temporary, target)
                os.replace(temporary, target)
        else:
            memory = Path(f"/proc/self/fd/{handle}")
            yield memory
            _finish(memory, target)
            with _named(target) as temporary:  # for a moment
                temporary.unlink()
                # A folder's handle makes Python call linkat, which follows /proc's link; link does not.
                os.link(memory, temporary, src_dir_fd=handle, follow_symlinks=True)
                os.replace(temporary, target)
    with suppress(OSError):  # some network file systems cannot sync a folder; the file itself is complete
        _sync(target.parent)


@contextmanager
def _nameless(folder: Path) -> Iterator[int | None]:
    """An open file in `folder` that ends with its handle, or None where there is no such thing."""
    try:
        handle = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    except (AttributeError, OSError):
        yield None
        return
    try:
        yield handle if os.path.exists(f"/proc/self/fd/{handle}") else None
    finally:
        os.close(handle)


@contextmanager
def _named(target: Path) -> Iterator[Path]:
    """A temporary file beside `target`, gone after an error."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:64]}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    try:
        yield Path(name)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _finish(temporary: Path, target: Path) -> None:
    _sync(temporary)
    # Temporary files are private; a saved model is as readable as any other new file.
    os.chmod(temporary, _mode_for(target))


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
