"""Who computes, who uses: the kernel's locks, which end with their holder. No lock file ever needs removing.

On disk::

    cache_dir/locks/<md5>.lock        held while one process computes
    cache_dir/locks/<md5>.holder      who that is, for those who wait; means nothing while the lock is free
    cache_dir/locks/entries.lock      held for moments: by who changes an entry, and shared by who starts to use one
    cache_dir/locks/users/*.keys      one for each process, held while it lives: the entries that it uses
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from simet_cache import stopping
from simet_cache.atomic import is_held
from simet_cache.errors import StoreError
from simet_cache.holders import Holder

_PATIENCE = 5.0  # seconds to wait for another process before saying so

log = logging.getLogger(__name__)


@contextmanager
def computing(folder: Path, key: str, *, what: str = "features") -> Iterator[None]:
    """Keep other threads and processes from computing the same key meanwhile.

    Where there can be no lock, as in a folder that may only be read, a warning says that others are not kept from it.

    Args:
        folder: The cache folder.
        key: The documented md5.
        what: What is computed, as messages call it.

    Raises:
        StoreError: This thread is computing it already, and would wait for itself.
        StoppedError: The run was asked to stop while it waited.
    """
    lock = _acquired(folder / "locks" / f"{key}.lock", key, what)
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):  # a file server that is gone must not cost what was computed meanwhile
                lock.release()


def _acquired(file: Path, key: str, what: str) -> BaseFileLock | None:
    # not a lock file, as the library makes where the system has no locks: it would outlive a holder that is killed
    lock = FileLock(file, fallback_to_soft=False)
    try:
        file.parent.mkdir(exist_ok=True)
        try:
            lock.acquire(timeout=_PATIENCE, cancel_check=stopping.requested)
        except Timeout:
            stopping.check()
            holder = Holder.noted_in(file.with_suffix(".holder"))
            if holder is None or not holder.is_this_process:  # another thread of ours is nothing to say
                log.warning("Waiting for %s, which computes %s for key %s", holder or "another process", what, key)
            _acquire_unless_stopped(lock)
    except RuntimeError as error:  # it would wait for itself
        raise StoreError(f"{what} for key {key} are wanted by the very function that computes them") from error
    except OSError as error:
        reason = error.strerror or error
        log.warning("cannot lock %s: %s. Other processes may compute the same %s meanwhile", file, reason, what)
        return None
    note = file.with_suffix(".holder")
    try:
        _overwrite(note, Holder.myself().note())
    except OSError:
        with suppress(OSError):  # rather no name than that of the last holder
            note.unlink()
    return lock


def _acquire_unless_stopped(lock: BaseFileLock) -> None:
    while True:
        try:
            lock.acquire(cancel_check=stopping.requested)
        except Timeout:
            stopping.check()
        else:
            return


def forget_holder(folder: Path, key: str) -> None:
    """Remove the name of who computed a key last; its lock stays, as somebody may be waiting for it."""
    with suppress(OSError):
        (folder / "locks" / f"{key}.holder").unlink()


def _overwrite(file: Path, text: bytes) -> None:
    """In place: some file systems bring a file to the disk that was emptied first."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.pwrite(handle, text, 0)
        os.ftruncate(handle, len(text))
    finally:
        os.close(handle)


@contextmanager
def unchanging(folder: Path) -> Iterator[None]:
    """Nobody changes an entry meanwhile; in a folder where nobody ever has, nothing is written for that."""
    try:
        handle = os.open(_entries_lock(folder), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    with _locked(handle, fcntl.LOCK_SH):
        yield


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Keep others from changing entries, and from starting to use one, for the moment that a change takes."""
    with _locked(_made_entries_lock(folder), fcntl.LOCK_EX):
        yield


@contextmanager
def _locked(handle: int, kind: int) -> Iterator[None]:
    try:
        with suppress(OSError):  # where a file system has no locks, nobody is kept out
            fcntl.flock(handle, kind)
        yield
    finally:
        with suppress(OSError):  # closing is not enough: a process that was forked meanwhile has the handle too
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _entries_lock(folder: Path) -> Path:
    return folder / "locks" / "entries.lock"


def _made_entries_lock(folder: Path) -> int:
    path = _entries_lock(folder)
    path.parent.mkdir(exist_ok=True)
    try:  # NFS locks exclusively only what is open for writing
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # another user's


class _Usage:
    """The entries that this process uses in one folder, in a file that it holds locked while it lives."""

    def __init__(self, folder: Path) -> None:
        users = folder / "locks" / "users"
        users.mkdir(parents=True, exist_ok=True)
        name = users / f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}.keys"
        self._handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        self._keys: set[str] = set()

    def add(self, key: str) -> None:
        if key not in self._keys:
            os.write(self._handle, f"{key}\n".encode())
            self._keys.add(key)

    def __contains__(self, key: str) -> bool:
        return key in self._keys


_usages: dict[tuple[int, Path], _Usage] = {}
_usages_lock = threading.Lock()


def _renew_lock() -> None:
    """In a forked child, the thread that may have held it does not exist."""
    global _usages_lock  # noqa: PLW0603
    _usages_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def use(folder: Path, key: str) -> None:
    """From now on, and as long as this process lives, the entry is in use and is not pruned.

    In a folder that may only be read there is nobody to prune, and nothing to do.
    """
    mine = (os.getpid(), folder)  # a forked child has a file of its own
    if mine in _usages and key in _usages[mine]:
        return
    with suppress(OSError), _usages_lock, _locked(_made_entries_lock(folder), fcntl.LOCK_SH):
        if mine not in _usages:
            _usages[mine] = _Usage(folder)
        _usages[mine].add(key)


def is_computing(folder: Path, key: str) -> bool:
    """Whether somebody holds the lock of a key at this moment."""
    file = folder / "locks" / f"{key}.lock"
    if not file.exists():
        return False
    lock = FileLock(file, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def in_use(folder: Path) -> set[str]:
    """The entries that processes use which are alive; what dead ones left is removed. To be called while `changing`."""
    keys: set[str] = set()
    for file in (folder / "locks" / "users").glob("*.keys"):
        with suppress(OSError):
            if is_held(file):
                keys.update(file.read_text(encoding="utf-8").split())
            else:
                file.unlink()
    return keys


def forget_the_dead(folder: Path) -> None:
    """Remove the notes of processes that are no more."""
    if (folder / "locks" / "users").is_dir():
        with changing(folder):
            in_use(folder)
