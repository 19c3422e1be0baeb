"""Files that are seen whole or not at all, on the disk before they are seen, and sentences for what goes wrong."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from simet_cache.errors import StoreError

log = logging.getLogger(__name__)

_LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
_YOUNG = 60.0  # seconds: a writer locks its file just after making it


class Staged:
    """A file that is being written beside the place where it shall be.

    Attributes:
        file: To write to.
        path: Its temporary name.
    """

    def __init__(self, path: Path) -> None:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        self.file: IO[bytes] = os.fdopen(handle, "wb")
        self.path, self._target = Path(name), path
        with suppress(OSError):  # where a file system has no locks, leftovers stay until somebody removes them
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def finish(self, *, durable: bool = True) -> os.stat_result:
        """All is written: bring it to the disk, if it is to be ``durable``.

        Returns:
            Its status, which the rename does not change.
        """
        self.file.flush()
        os.fchmod(self.file.fileno(), 0o666 & ~_UMASK)
        now = time.time_ns()  # many kernels' own clock ticks every few milliseconds, and two files would agree
        os.utime(self.file.fileno(), ns=(now, now))
        if durable:
            os.fsync(self.file.fileno())
        return os.fstat(self.file.fileno())

    def replace(self) -> None:
        """Put it in its place."""
        os.replace(self.path, self._target)

    def close(self) -> None:
        """Remove what was not put in its place."""
        with suppress(OSError):  # what could not be flushed was reported when it was written
            self.file.close()
        self.path.unlink(missing_ok=True)


@contextmanager
def staged(path: Path) -> Iterator[Staged]:
    """A file to be written beside ``path``; it disappears unless ``replace`` puts it there."""
    new = Staged(path)
    try:
        yield new
    finally:
        new.close()


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any], *, durable: bool = True) -> None:
    """Temporary file in the same folder, fsync, rename, fsync of the folder.

    Args:
        path: The file.
        write: Writes what it shall hold.
        durable: False leaves out the two fsyncs, which take milliseconds: for files that show what a loss of power did
            to them, and that can be made again.
    """
    with staged(path) as new:
        write(new.file)
        new.finish(durable=durable)
        new.replace()
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def version_of(status: os.stat_result) -> tuple[int, int, int]:
    """Which file it is: another one has another inode, size or time."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def sweep(folder: Path, *, now: float | None = None) -> list[Path]:
    """Remove what writers left behind that are dead: the kernel has freed the locks on their files.

    Returns:
        What was removed.
    """
    removed = []
    for entry in os.scandir(folder):
        if not _LEFTOVER.fullmatch(entry.name):
            continue
        with suppress(OSError):
            young = (now or time.time()) - entry.stat(follow_symlinks=False).st_mtime < _YOUNG
            if not young and not is_held(entry.path):
                os.unlink(entry.path)
                removed.append(Path(entry.path))
    if removed:
        log.info("removed %d leftovers of writers that were killed in %s", len(removed), folder)
    return removed


def is_held(path: str | Path) -> bool:
    """Whether a living process holds the lock on a file; also where nobody can tell.

    Raises:
        OSError: The file is gone, or is a link.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError:  # another user's
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


@contextmanager
def reported(what: str, path: Path, *, needed: int = 0) -> Iterator[None]:
    """Trouble with the file system as one sentence.

    Args:
        what: Like ``cannot write``.
        path: The file or folder that it is about.
        needed: Bytes that were to be written.

    Raises:
        StoreError: In place of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(f"{what} {path}: {error.strerror or error}{_way_out(error, path, needed)}") from error


def _way_out(error: OSError, path: Path, needed: int) -> str:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    free = ""
    with suppress(OSError):
        free = f", {size(shutil.disk_usage(path.parent).free)} are free"
    wanted = f"; {size(needed)} are needed{free}" if needed else ""
    return f"{wanted}. Make room there, for example with 'simet-cache prune'"


def size(count: float) -> str:
    """Bytes as a person reads them: ``391 MiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _read_umask() -> int:
    """The umask can only be read by setting it: once, at import, before there are threads."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_UMASK = _read_umask()
