"""Files that are seen whole or not at all, on the disk before they are seen, and sentences for what goes wrong."""

from __future__ import annotations

import errno
import fcntl
import io
import logging
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from simet_cache import folders
from simet_cache.bounded import JSON_BYTES
from simet_cache.errors import DamagedEntryError, StoreError

log = logging.getLogger(__name__)

_LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
_YOUNG = 60.0  # seconds: a writer locks its file just after making it


class Staged:
    """A file that is being written beside the place where it shall be.

    Args:
        path: That place.
        folder: The folder that it is in, opened; so that nobody puts a link in its place. None opens it by its name.

    Attributes:
        file: To write to.
        path: Its temporary name.
    """

    def __init__(self, path: Path, folder: int | None = None) -> None:
        self._folder = {} if folder is None else {"src_dir_fd": folder, "dst_dir_fd": folder}
        self._in = {} if folder is None else {"dir_fd": folder}
        if folder is None:
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        else:
            handle, name = _made_in(folder, path.name)
        self.file: IO[bytes] = os.fdopen(handle, "wb")
        self.path, self._target = path.parent / name, path
        with suppress(OSError):  # where a file system has no locks, leftovers stay until somebody removes them
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def finish(self, *, durable: bool = True) -> os.stat_result:
        """All is written: bring it to the disk, if it is to be ``durable``.

        Returns:
            Its status, which the rename does not change.
        """
        self.file.flush()
        os.fchmod(self.file.fileno(), self._mode())
        now = time.time_ns()  # many kernels' own clock ticks every few milliseconds, and two files would agree
        os.utime(self.file.fileno(), ns=(now, now))
        if durable:
            os.fsync(self.file.fileno())
        return os.fstat(self.file.fileno())

    def replace(self) -> None:
        """Put it in its place."""
        os.replace(self._named(self.path), self._named(self._target), **self._folder)

    def close(self) -> None:
        """Remove what was not put in its place."""
        with suppress(OSError):  # what could not be flushed was reported when it was written
            self.file.close()
        with suppress(FileNotFoundError):
            os.unlink(self._named(self.path), **self._in)

    def _named(self, path: Path) -> str | Path:
        return path.name if self._in else path

    def _mode(self) -> int:
        if self._in:
            return folders.file_mode(self._in["dir_fd"])
        with folders.opened(self.path.parent) as folder:
            return folders.file_mode(folder)


def _made_in(folder: int, name: str) -> tuple[int, str]:
    """As ``tempfile.mkstemp``, which knows no open folders: with a name that nobody guesses."""
    while True:
        hidden = f".{name}.{secrets.token_hex(4)}.tmp"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with suppress(FileExistsError):
            return os.open(hidden, flags, 0o600, dir_fd=folder), hidden


@contextmanager
def staged(path: Path, folder: int | None = None) -> Iterator[Staged]:
    """A file to be written beside ``path``; it disappears unless ``replace`` puts it there. See ``Staged``."""
    new = Staged(path, folder)
    try:
        yield new
    finally:
        new.close()


def write_atomically(
    path: Path, write: Callable[[IO[bytes]], Any], *, durable: bool = True, folder: int | None = None
) -> None:
    """Temporary file in the same folder, fsync, rename, fsync of the folder.

    Args:
        path: The file.
        write: Writes what it shall hold.
        durable: False leaves out the two fsyncs, which take milliseconds: for files that show what a loss of power did
            to them, and that can be made again.
        folder: The folder that the file is in, opened; None opens it by its name.
    """
    with staged(path, folder) as new:
        write(new.file)
        new.finish(durable=durable)
        new.replace()
    if durable:
        sync_folder(path.parent) if folder is None else os.fsync(folder)


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


def sweep(root: Path, name: str = "", *, now: float | None = None) -> list[Path]:
    """Remove what writers left behind that are dead: the kernel has freed the locks on their files.

    Args:
        root: The cache folder.
        name: The folder below it that is swept; empty for the cache folder itself.
        now: Seconds since 1970.

    Returns:
        What was removed.

    Raises:
        OSError: The folder cannot be read, or is a link.
    """
    removed = []
    for file, status in folders.files_in(root, name, named=_LEFTOVER.fullmatch):
        if (now or time.time()) - status.st_mtime < _YOUNG:
            continue
        with suppress(OSError), folders.opened(root, name) as folder:
            if not is_held(file, folder=folder):
                os.unlink(file, dir_fd=folder)
                removed.append(root / name / file)
    if removed:
        log.info("removed %d leftovers of writers that were killed in %s", len(removed), root / name)
    return removed


def is_held(path: str | Path, *, folder: int | None = None) -> bool:
    """Whether a living process holds the lock on a file; also where nobody can tell.

    Args:
        path: The file.
        folder: The open folder that a relative path starts in.

    Raises:
        OSError: The file is gone, or is a link.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, os.O_RDWR | flags, dir_fd=folder)
    except PermissionError:  # another user's
        handle = os.open(path, os.O_RDONLY | flags, dir_fd=folder)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def open_regular(path: str | Path, *, folder: int | None = None) -> io.BufferedReader:
    """Open a file for reading. A pipe in the place of one would keep its reader waiting for ever.

    Args:
        path: The file; links are followed.
        folder: The open folder that a relative path starts in.

    Raises:
        OSError: It cannot be opened.
        DamagedEntryError: It is no regular file.
    """

    def unhindered(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK, dir_fd=folder)

    file = open(path, "rb", opener=unhindered)  # noqa: SIM115 - returned
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DamagedEntryError(f"{path} is no regular file")
    return file


def read_regular(path: str | Path, *, folder: int | None = None, most: int = JSON_BYTES) -> bytes:
    """The content of a file that others may have written.

    Args:
        path: The file; links are followed.
        folder: The open folder that a relative path starts in.
        most: How many bytes it may have.

    Raises:
        OSError: It cannot be read.
        DamagedEntryError: It has more, or is no regular file.
    """
    with open_regular(path, folder=folder) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= most else b""
    if max(size, len(content)) > most:
        raise DamagedEntryError(f"{path} is damaged: expected at most {most} bytes, found {max(size, len(content))}")
    return content


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


def iso(seconds: float) -> str | None:
    """Seconds since 1970 in ISO 8601; None where no calendar has that."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return None
