"""Devices: which ones an extraction may use, and that each is used by one extraction of this machine at a time.

Who extracts on a device holds a lock of the kernel, which ends with its holder, in a folder of this user's own::

    <temporary folder>/simet-cache-<uid>/<device>.lock     held by who uses the device
    <temporary folder>/simet-cache-<uid>/<device>.next     held by who will use it next, so that nobody overtakes
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import stat
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch

from simet_cache import stopping
from simet_cache.errors import ExtractorError

_PATIENCE = 5.0  # seconds to wait for a device before saying so
_POLL = 0.05  # seconds

_warned = threading.Event()

# Within this process, who waits is woken when a device is free; the kernel has to be asked again and again.
_moved = threading.Condition(threading.RLock())
_lines: dict[tuple[str, ...], deque[object]] = {}
_ours: set[str] = set()

log = logging.getLogger(__name__)


def available(name: str) -> tuple[str, ...]:
    """The devices that a configuration's word stands for, by torch's names.

    Args:
        name: ``auto``, which is every CUDA device that this process sees, or else the CPU; or one of them by its name.

    Raises:
        ExtractorError: The device is not there.
    """
    if name == "auto":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return tuple(f"cuda:{number}" for number in range(count)) or ("cpu",)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ExtractorError(f"device {name!r} cannot be used here ({reason}); use 'device: auto' or 'cpu'") from error
    return (f"cuda:{torch.cuda.current_device()}",) if name == "cuda" else (name,)


@contextmanager
def taken(names: Sequence[str]) -> Iterator[str]:
    """One of some devices, which nobody else on this machine uses for an extraction meanwhile.

    It is held across threads and processes of this user, and is free again when its holder ends, however it ends. Who
    waits for it is served before who has just had it. Where there can be no lock, a warning says so once, and the first
    device is used all the same.

    Args:
        names: As ``available`` says them; any of them will do.

    Raises:
        StoppedError: The run was asked to stop while it waited.
    """
    with ExitStack() as held:
        name = _taken(names, held)
        held.callback(_give_memory_back)
        yield name


def _taken(names: Sequence[str], held: ExitStack) -> str:
    """In this process one waits after the other, and only the first of them asks the kernel."""
    me, since, said = object(), time.monotonic(), False
    with _moved, ExitStack() as queue:
        line = _lines.setdefault(tuple(names), deque())
        line.append(me)
        queue.callback(_leave, line, me)
        try:
            files = {name: _file_name(name) for name in names}
            folder = queue.enter_context(_folder())
            first_in_line = set[str]()
            while True:
                stopping.check()
                for name, file in files.items() if line[0] is me else ():
                    if name not in first_in_line and _try(folder, f"{file}.next", queue):
                        first_in_line.add(name)
                    if name in first_in_line and _try(folder, f"{file}.lock", held):
                        held.callback(_ours.discard, name)
                        _ours.add(name)
                        return name
                if not said and time.monotonic() - since > _PATIENCE and not _ours & set(names):
                    said = True
                    log.info("Waiting for %s, which another process uses", " or ".join(names))
                _moved.wait(_POLL)
        except OSError as error:
            if not _warned.is_set():
                _warned.set()
                why = error.strerror or error
                log.warning("cannot lock a device: %s. Other extractions may use %s meanwhile", why, names[0])
            return names[0]


def _give_memory_back() -> None:
    """What a thread has freed, glibc keeps in a heap of the thread's own: those that compute by turns would add up."""
    with suppress(OSError, AttributeError):  # other systems have other ways
        ctypes.CDLL(None).malloc_trim(0)


def _leave(line: deque[object], me: object) -> None:
    line.remove(me)
    _moved.notify_all()


def _renew() -> None:
    """In a forked child, the threads that wait and those that hold something do not exist."""
    global _moved  # noqa: PLW0603
    _moved = threading.Condition(threading.RLock())
    _lines.clear()
    _ours.clear()


os.register_at_fork(after_in_child=_renew)


def _try(folder: int, name: str, held: ExitStack) -> bool:
    """Lock a file in a folder, unless somebody has done so.

    Raises:
        OSError: It cannot be opened, or the file system has no locks.
    """
    handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            return False
        raise
    held.callback(_release, handle)
    return True


def _release(handle: int) -> None:
    with suppress(OSError):  # closing is not enough: the loader's processes were forked with the handle
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)
    with _moved:
        _moved.notify_all()


@contextmanager
def _folder() -> Iterator[int]:
    """The folder of the locks, opened: this user's own, whatever others have put in its place.

    Raises:
        OSError: It cannot be made, or is not this user's alone.
    """
    path = _place()
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise PermissionError(None, f"{path} is not a folder of this user alone")
        yield handle
    finally:
        os.close(handle)


def _place() -> Path:
    return Path(tempfile.gettempdir()) / f"simet-cache-{os.getuid()}"


def _file_name(device: str) -> str:
    """A device's name on the whole machine: CUDA_VISIBLE_DEVICES numbers them anew in each process."""
    if not device.startswith("cuda"):
        return device
    return f"cuda-{getattr(torch.cuda.get_device_properties(device), 'uuid', device.partition(':')[2])}"
