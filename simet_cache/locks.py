"""Who computes, who changes, who uses: the kernel's locks, which end with their holder.

On disk::

    cache_dir/                        a byte of it is locked by who uses an entry: whoever can read entries can do that
    cache_dir/locks/<md5>.lock        held while one process computes
    cache_dir/locks/<md5>.holder      who that is, for those who wait; one that was killed leaves it behind
    cache_dir/locks/entries.lock      held for moments by who changes an entry, and shared by who must see no change
    cache_dir/locks/entries.holder    who that is
    cache_dir/locks/used.lock         a byte of it is locked by who uses an entry, and alone by who removes that

Who finds an entry as it should be takes the last of these alone, and so waits for nobody but who removes that entry.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from simet_cache import stopping
from simet_cache.atomic import is_held
from simet_cache.errors import StoreError
from simet_cache.folders import file_mode, open_or_make, opened, overwrite, remove
from simet_cache.holders import Holder

_PLACE, _ENTRIES, _USED = "locks", "entries.lock", "used.lock"
_PATIENCE = 5.0  # seconds to wait for another process before saying so
_SHORTEST_WAIT, _LONGEST_WAIT = 0.0005, 0.02  # seconds between two looks at a lock that is held for moments

log = logging.getLogger(__name__)


@contextmanager
def computing(folder: Path, key: str, *, what: str = "features", place: str = _PLACE) -> Iterator[None]:
    """Keep other threads and processes from computing the same key meanwhile.

    Where there can be no lock, as in a folder that may only be read, a warning says that others are not kept from it.

    Args:
        folder: The cache folder.
        key: The documented md5.
        what: What is computed, as messages call it.
        place: The folder of the lock, below the cache folder.

    Raises:
        StoreError: This thread is computing it already, and would wait for itself.
        StoppedError: The run was asked to stop while it waited.
    """
    lock = _acquired(folder, place, key, what)
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):  # a file server that is gone must not cost what was computed meanwhile
                remove(folder, folder / place / f"{key}.holder")
            with suppress(OSError):
                lock.release()


def _acquired(folder: Path, place: str, key: str, what: str) -> BaseFileLock | None:
    file = folder / place / f"{key}.lock"
    try:
        with opened(folder, place, make=True) as handle:
            # not a lock file, as the library makes where the system has no locks: it would outlive a killed holder
            lock = FileLock(file, mode=file_mode(handle), fallback_to_soft=False)
            try:
                lock.acquire(timeout=_PATIENCE, cancel_check=stopping.requested)
            except Timeout:
                stopping.check()
                holder = Holder.noted_in(f"{key}.holder", folder=handle)
                if holder is None or not holder.is_this_process:  # another thread of ours is nothing to say
                    log.warning("Waiting for %s, which computes %s for key %s", holder or "another process", what, key)
                _acquire_unless_stopped(lock)
            _note(handle, key, Holder.myself().note())
    except RuntimeError as error:  # it would wait for itself
        raise StoreError(f"{what} for key {key} are wanted by the very function that computes them") from error
    except OSError as error:
        reason = error.strerror or error
        log.warning("cannot lock %s: %s. Other processes may compute the same %s meanwhile", file, reason, what)
        return None
    return lock


def _acquire_unless_stopped(lock: BaseFileLock) -> None:
    while True:
        try:
            lock.acquire(cancel_check=stopping.requested)
        except Timeout:
            stopping.check()
        else:
            return


@contextmanager
def unchanging(folder: Path) -> Iterator[None]:
    """Nobody changes an entry meanwhile; in a folder where nobody ever has, nothing is written for that."""
    try:
        with opened(folder, _PLACE) as place:
            handle = os.open(_ENTRIES, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
    except OSError:
        yield
        return
    with _locked(handle, fcntl.LOCK_SH, folder):
        yield


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Keep others from changing entries for the moment that a change takes; who waits can be told for whom."""
    with opened(folder, _PLACE, make=True) as place, _locked(open_or_make(place, _ENTRIES), fcntl.LOCK_EX, folder):
        _note(place, "entries", Holder.myself().note())
        try:
            yield
        finally:
            _note(place, "entries", b"")


@contextmanager
def _locked(handle: int, kind: int, folder: Path) -> Iterator[None]:
    try:
        with suppress(OSError):  # where a file system has no locks, nobody is kept out
            _wait(lambda: _flocked(handle, kind), f"has locked the entries of {folder}", folder)
        yield
    finally:
        with suppress(OSError):  # closing is not enough: a process that was forked meanwhile has the handle too
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _flocked(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(take: Callable[[], bool], doing: str, folder: Path) -> None:
    """Take a lock that is held for moments; where that takes long, its holder is stopped, and is named.

    Raises:
        StoppedError: The run was asked to stop, and has waited long enough to say so.
        OSError: The file system has no locks.
    """
    delay, until, said = _SHORTEST_WAIT, time.monotonic() + _PATIENCE, False
    while not take():
        if not said and time.monotonic() > until:
            said = True
            holder = _holder(folder, "entries")
            log.warning("Waiting for %s, which %s; it may be stopped", holder or "another process", doing)
        if said:
            stopping.check()
        time.sleep(delay)
        delay = min(2 * delay, _LONGEST_WAIT)


def _note(place: int, name: str, note: bytes) -> None:
    try:
        overwrite(place, f"{name}.holder", note)
    except OSError:
        with suppress(OSError):  # rather no name than that of the last holder
            os.unlink(f"{name}.holder", dir_fd=place)


def _holder(folder: Path, name: str, place: str = _PLACE) -> Holder | None:
    with suppress(OSError), opened(folder, place) as handle:
        return Holder.noted_in(f"{name}.holder", folder=handle)
    return None


# Who uses what


class _Uses:
    """The entries of a folder that this process uses: for each a byte, locked as long as the process lives.

    A byte of the folder itself, which whoever reads entries can open, on a full disk and without permission to write
    too; and one of a file, since other machines are not told of the locks of a folder.
    """

    def __init__(self, folder: Path) -> None:
        self._keys: set[str] = set()
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._file: int | None = None
        with suppress(OSError), opened(folder, _PLACE, make=True) as place:
            self._file = open_or_make(place, _USED)
        # looked at with every hit
        self._paths = str(folder), os.path.join(folder, _PLACE, _USED)
        self._file_id = None if self._file is None else _id_of(os.fstat(self._file))
        self._folder_id = _id_of(os.fstat(self._folder))
        handles = [handle for handle in (self._folder, self._file) if handle is not None]
        self.close = weakref.finalize(self, _close, handles)  # not before the last thread is through with them
        self.close.atexit = False

    def hold(self, key: str, folder: Path) -> None:
        """Use an entry from now on. Where somebody is about to remove it, wait until that is over."""
        if key in self._keys:
            return
        with suppress(OSError):  # where a file system has no locks, whoever prunes cannot tell, and keeps everything
            _lock_byte(self._folder, fcntl.F_RDLCK, key)
        if (file := self._file) is not None:
            with suppress(OSError):
                _wait(lambda: _lock_byte(file, fcntl.F_RDLCK, key), f"removes the entry {key} of {folder}", folder)
        self._keys.add(key)

    def is_current(self) -> bool:
        """Whether folder and file are still those that are there: somebody may have removed and made them again."""
        folder, file = self._paths
        try:
            if _id_of(os.stat(folder)) != self._folder_id:
                return False
        except OSError:  # there is none at this moment
            return True
        try:
            return _id_of(os.stat(file, follow_symlinks=False)) == self._file_id
        except OSError:
            return self._file_id is None

    def renewed(self, folder: Path) -> _Uses:
        """The same entries in what is there now; none where that is another folder."""
        new = _Uses(folder)
        if self._folder_id == new._folder_id:
            for key in tuple(self._keys):
                new.hold(key, folder)
        return new


def _id_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _close(handles: list[int]) -> None:
    for handle in handles:
        os.close(handle)


_usages: dict[tuple[int, Path], _Uses] = {}
_usages_lock = threading.Lock()


def _renew_lock() -> None:
    """In a forked child, the thread that may have held it does not exist."""
    global _usages_lock  # noqa: PLW0603
    _usages_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def use(folder: Path, key: str) -> None:
    """From now on, and as long as this process lives, the entry is in use and is not pruned."""
    mine = (os.getpid(), folder)  # a forked child has handles of its own
    with suppress(OSError):  # the folder is gone, or cannot be read: then there is nothing to use
        while True:
            with _usages_lock:
                uses = _usages.get(mine)
                if uses is None:
                    uses = _usages[mine] = _Uses(folder)
                elif not uses.is_current():
                    uses = _usages[mine] = uses.renewed(folder)
            uses.hold(key, folder)
            if _usages.get(mine) is uses:
                return


def end_uses() -> None:
    """Use nothing any more, as when the process ends."""
    with _usages_lock:
        for mine in [mine for mine in _usages if mine[0] == os.getpid()]:
            _usages.pop(mine).close()


def is_used(folder: Path, key: str) -> bool:
    """Whether a living process uses an entry at this moment; it may start to right after.

    Raises:
        OSError: Nobody can tell.
    """
    with opened(folder) as root:
        if _is_byte_locked(root, key):
            return True
    try:
        with opened(folder, _PLACE) as place:
            file = os.open(_USED, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
    except FileNotFoundError:
        return False
    try:
        return _is_byte_locked(file, key)
    finally:
        os.close(file)


@contextmanager
def unused(folder: Path, key: str) -> Iterator[bool]:
    """Whether no living process uses an entry. Who wants to start to meanwhile waits until the block is over.

    Raises:
        OSError: Nobody can tell.
    """
    with ExitStack() as stack:
        try:
            free = _kept_unused(folder, key, stack)
        except OSError as error:
            reason = "it is another user's" if error.errno == errno.EBADF else error.strerror or error
            why = f"nobody can tell whether it is in use, as {folder / _PLACE / _USED} cannot be locked: {reason}"
            raise OSError(error.errno, why) from error
        yield free


def _kept_unused(folder: Path, key: str, stack: ExitStack) -> bool:
    with opened(folder, _PLACE, make=True) as place:
        file = open_or_make(place, _USED)
    stack.callback(os.close, file)
    if is_used(folder, key) or not _lock_byte(file, fcntl.F_WRLCK, key):
        return False
    stack.callback(_lock_byte, file, fcntl.F_UNLCK, key)
    with opened(folder) as root:  # who came before the lock is seen there, and who comes now waits for it
        return not _is_byte_locked(root, key)


_BYTES = "qqihh" if sys.platform == "darwin" else "hhqqi"  # struct flock
_SET = getattr(fcntl, "F_OFD_SETLK", 90)  # macOS has it, if not by this name; they belong to the handle, and not to
_GET = getattr(fcntl, "F_OFD_GETLK", 92)  # the process, which would lose them with any other handle that it closes


def _byte(kind: int, key: str) -> bytes:
    """The lock of the byte that stands for a key: two keys with the same one are merely kept together."""
    start = int(key, 16) % (2**61 - 1)
    values = (start, 1, 0, kind, os.SEEK_SET) if sys.platform == "darwin" else (kind, os.SEEK_SET, start, 1, 0)
    return struct.pack(_BYTES, *values)


def _lock_byte(handle: int, kind: int, key: str) -> bool:
    try:
        fcntl.fcntl(handle, _SET, _byte(kind, key))
    except BlockingIOError:
        return False
    return True


def _is_byte_locked(handle: int, key: str) -> bool:
    said = struct.unpack(_BYTES, fcntl.fcntl(handle, _GET, _byte(fcntl.F_WRLCK, key)))
    return bool(said[3 if sys.platform == "darwin" else 0] != fcntl.F_UNLCK)


# Who computes


def is_computing(folder: Path, key: str) -> bool:
    """Whether somebody holds the lock of a key at this moment; also where nobody can tell."""
    try:
        with opened(folder, _PLACE) as place:
            return is_held(f"{key}.lock", folder=place)
    except PermissionError:
        return True
    except OSError:  # where there can be no lock nobody has it
        return False


def forget(folder: Path, key: str) -> None:
    """Remove the lock of a key that nobody computes, and the name of who did; who waits for it sees that it is gone."""
    with suppress(OSError), opened(folder, _PLACE) as place, ExitStack() as stack:
        names = [f"{key}.holder"]
        with suppress(FileNotFoundError):
            lock = os.open(f"{key}.lock", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
            stack.callback(os.close, lock)
            if not _flocked(lock, fcntl.LOCK_EX):
                return
            names.append(f"{key}.lock")
        for name in names:
            with suppress(OSError):
                os.unlink(name, dir_fd=place)
