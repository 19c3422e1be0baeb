"""Folders of a cache, opened without following links: nothing outside of a cache is written, moved or removed.

The cache folder itself may be a link, as to a scratch disk. What lies below it may not: whoever can write into a shared
folder could otherwise have another user's ``prune`` empty a folder of that user. So folders below it are opened part by
part, and files in them are made, moved and removed relative to what was opened.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LINKED = (
    "{} is a link, which is not followed: what it leads to is not this cache's alone. Put a folder in its place, or"
    " link the cache folder as a whole"
)

log = logging.getLogger(__name__)


class LinkedFolderError(OSError):
    """A folder below a cache folder is a link."""

    def __init__(self, name: str) -> None:
        super().__init__(errno.ELOOP, _LINKED.format(name))


@contextmanager
def opened(root: Path, name: str = "", *, make: bool = False) -> Iterator[int]:
    """A folder of a cache, open for as long as the block lasts.

    Args:
        root: The cache folder; it may be a link.
        name: The folder below it, like ``prefect/records``; empty for the cache folder itself.
        make: Make what is missing of it below the cache folder.

    Raises:
        LinkedFolderError: It is a link, or in one.
        OSError: It is missing, or no folder, or cannot be opened.
    """
    handle = os.open(root, _OPEN)
    try:
        for part in Path(name).parts:
            outer, handle = handle, _inner(handle, part, make=make)
            os.close(outer)  # whatever that says, it is closed
        yield handle
    finally:
        os.close(handle)


def _inner(folder: int, name: str, *, make: bool) -> int:
    with suppress(FileNotFoundError):
        return _open_inner(folder, name, make=make)
    if not make:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    made = True
    try:
        os.mkdir(name, dir_fd=folder)
    except FileExistsError:  # another process was first
        made = False
    handle = _open_inner(folder, name, make=make)
    if made:
        share(handle, folder)
    return handle


def _open_inner(folder: int, name: str, *, make: bool) -> int:
    try:
        return os.open(name, _OPEN | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        with suppress(FileNotFoundError):
            if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise LinkedFolderError(name) from error
        if make and isinstance(error, NotADirectoryError):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from error
        raise


def shared_bits(folder: int) -> int:
    """What a folder that users share gives them in the files that are made in it, whatever their owner's umask.

    A folder is shared by a group where its group may write to it and is handed on (``chmod g+ws``), and by all where
    all may write to it and remove each other's files.
    """
    mode = os.fstat(folder).st_mode
    of_group = 0o060 if mode & stat.S_IWGRP and mode & stat.S_ISGID else 0
    of_all = 0o006 if mode & stat.S_IWOTH and not mode & stat.S_ISVTX else 0
    return of_group | of_all


def file_mode(folder: int) -> int:
    """The permissions of a file that is made in a folder."""
    return 0o666 & ~_UMASK | shared_bits(folder)


def share(handle: int, folder: int) -> None:
    """Give a file or folder that was just made to those who share the folder that it is in."""
    bits = shared_bits(folder)
    if not bits:
        return
    mode = os.fstat(handle).st_mode
    if stat.S_ISDIR(mode):
        bits |= (bits & 0o044) >> 2  # who may read it may enter it
    with suppress(OSError):  # some file systems have no permissions
        os.fchmod(handle, stat.S_IMODE(mode) | bits)


def open_or_make(folder: int, name: str) -> int:
    """A file of ours for a lock, open for reading and writing, or only for reading where it is another user's.

    Args:
        folder: Opened.
        name: In that folder; links are not followed.

    Raises:
        OSError: It can neither be opened nor made.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with suppress(FileNotFoundError):
        return _open_file(folder, name, flags)
    try:
        handle = os.open(name, flags | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
    except FileExistsError:  # another process was first
        return _open_file(folder, name, flags)
    share(handle, folder)
    return handle


def _open_file(folder: int, name: str, flags: int) -> int:
    try:  # NFS locks exclusively only what is open for writing
        return os.open(name, flags | os.O_RDWR, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return os.open(name, flags | os.O_RDONLY, dir_fd=folder)


def overwrite(folder: int, name: str, content: bytes) -> None:
    """Write a short file: in place where it is a file of its own, and anew where anything else has that name.

    In place, since some file systems bring a file to the disk that was emptied first.

    Raises:
        OSError: It cannot be written.
    """
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = -1
    with suppress(OSError):
        handle = os.open(name, flags, dir_fd=folder)
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:  # a pipe, or also the file of somebody else
            os.close(handle)
            handle = -1
    if handle < 0:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        handle = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
        share(handle, folder)
    try:
        os.pwrite(handle, content, 0)
        os.ftruncate(handle, len(content))
    finally:
        os.close(handle)


def files_in(root: Path, name: str = "", *, named: Callable[[str], object] = bool) -> list[tuple[str, os.stat_result]]:
    """The regular files in a folder of a cache and their status, sorted by name; none where there is no folder.

    Of one that is a link a warning says that nothing in it is looked at.

    Args:
        root: The cache folder.
        name: The folder below it; empty for the cache folder itself.
        named: Whether a name is wanted.

    Raises:
        OSError: The folder cannot be read.
    """
    found = []
    try:
        with opened(root, name) as folder, os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # removed since
                    if named(entry.name) and entry.is_file(follow_symlinks=False):
                        found.append((entry.name, entry.stat(follow_symlinks=False)))
    except FileNotFoundError:
        return []
    except LinkedFolderError as error:
        log.warning("%s: %s", root / name, error.strerror)
        return []
    return sorted(found, key=lambda one: one[0])


def folders_in(root: Path, name: str) -> list[str]:
    """The names of the folders in a folder of a cache, sorted; none where there is no folder, or it is a link.

    Raises:
        OSError: The folder cannot be read.
    """
    try:
        with opened(root, name) as folder, os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, LinkedFolderError):
        return []


def is_file(root: Path, file: Path) -> bool:
    """Whether there is a regular file below a cache folder, in no folder that is a link."""
    try:
        with opened(root, str(file.parent.relative_to(root))) as folder:
            return stat.S_ISREG(os.stat(file.name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def remove(root: Path, file: Path) -> int:
    """Remove a file below a cache folder; of a link, the link.

    Returns:
        How many bytes it had; 0 where it is gone already.

    Raises:
        OSError: It cannot be removed, or its folder is a link.
    """
    try:
        with opened(root, str(file.parent.relative_to(root))) as folder:
            freed = os.stat(file.name, dir_fd=folder, follow_symlinks=False).st_size
            os.unlink(file.name, dir_fd=folder)
            return freed
    except FileNotFoundError:
        return 0


def _read_umask() -> int:
    """The umask can only be read by setting it: once, at import, before there are threads."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_UMASK = _read_umask()
