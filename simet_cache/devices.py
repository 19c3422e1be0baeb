"""Devices: which ones an extraction may use, and that each is used by one extraction at a time.

Within a run each device is used by one task at a time. ``DeviceLocks`` says which devices are also used by one process
of this machine at a time. Who uses such a device holds a lock of the kernel, which ends with its holder, in a folder of
this user's own::

    <temporary folder>/simet-cache-<uid>/<device>.lock     held by who uses the device, who writes a note into it
    <temporary folder>/simet-cache-<uid>/<device>.next     held by who will use it next, so that nobody overtakes
    <temporary folder>/simet-cache-<uid>/run-<run>-<device>.lock, .next     the same among the processes of one run
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import logging
import os
import stat
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from simet_cache import stopping
from simet_cache.errors import ExtractorError
from simet_cache.holders import Holder

_PATIENCE = 5.0  # seconds to wait for a device before saying so
_POLL = 0.05  # seconds
_FORGOTTEN = 86_400.0  # seconds after which nobody comes back to the files of a run

_warned = threading.Event()

# Within this process, who waits is woken when a device is free; the kernel has to be asked again and again.
_moved = threading.Condition(threading.RLock())
_lines: dict[tuple[str, ...], deque[object]] = {}
_ours: set[str] = set()

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceLocks:
    """Which devices are used by one process of this machine at a time; the tasks of one run take turns on all of them.

    Attributes:
        kind: ``auto``: accelerators, whose memory is small, and not the CPU; or ``all``; or ``none``.
        run: What the run is called, that others may be told.
        in_one_process: Whether all tasks of the run are in this process: then turns need no files.
    """

    kind: str = "auto"
    run: str = ""
    in_one_process: bool = True

    def of_machine(self, device: str) -> bool:
        """Whether other runs are kept from a device too."""
        return self.kind == "all" or (self.kind == "auto" and not device.startswith("cpu"))

    def file_name(self, device: str) -> str | None:
        """The beginning of the names of a device's locks; None where it needs none."""
        if self.of_machine(device):
            return _file_name(device)
        if self.in_one_process:
            return None
        return f"run-{hashlib.md5(self.run.encode(), usedforsecurity=False).hexdigest()[:16]}-{_file_name(device)}"


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
def taken(names: Sequence[str], locks: DeviceLocks = DeviceLocks()) -> Iterator[str]:
    """One of some devices, which no other task of this run uses meanwhile, and no other process where it is locked.

    It is free again when its holder ends, however it ends. Who waits for it is served before who has just had it. Where
    there can be no lock, a warning says so once, and the first device is used all the same.

    Args:
        names: As ``available`` says them; any of them will do.
        locks: Which devices are locked.

    Raises:
        StoppedError: The run was asked to stop while it waited.
    """
    with ExitStack() as held:
        name = _taken(names, locks, held)
        held.callback(_give_memory_back)
        yield name


def _taken(names: Sequence[str], locks: DeviceLocks, held: ExitStack) -> str:
    """In this process one waits after the other, and only the first of them asks the kernel."""
    me, said, since = object(), False, 0.0
    with _moved, ExitStack() as queue:
        line = _lines.setdefault(tuple(names), deque())
        line.append(me)
        queue.callback(_leave, line, me)
        try:
            files = {name: locks.file_name(name) for name in names}
            folder = queue.enter_context(_folder()) if any(files.values()) else -1
            if not locks.in_one_process and any(files.values()):
                _remove_old(folder)
            first_in_line = {name for name, file in files.items() if file is None}
            while True:
                stopping.check()
                if line[0] is me:
                    since = since or time.monotonic()
                    for name, file in files.items():
                        if name not in first_in_line and (handle := _try(folder, f"{file}.next")) is not None:
                            queue.callback(_unlock, handle)
                            first_in_line.add(name)
                        if name in first_in_line and name not in _ours and _hold(name, file, folder, locks, held):
                            return name
                    if not said and time.monotonic() - since > _PATIENCE:
                        said = _say_who_is_waited_for(files, folder, locks)
                _moved.wait(_POLL)
        except OSError as error:
            if not _warned.is_set():
                _warned.set()
                why = error.strerror or error
                log.warning("cannot lock a device: %s. Other extractions may use %s meanwhile", why, names[0])
            return names[0]


def _hold(name: str, file: str | None, folder: int, locks: DeviceLocks, held: ExitStack) -> bool:
    """Take a device that nobody of this process has, unless another process has it."""
    handle = None
    if file is not None:
        if (handle := _try(folder, f"{file}.lock")) is None:
            return False
        with suppress(OSError):  # rather no name than no extraction
            os.ftruncate(handle, 0)
            os.pwrite(handle, Holder.myself(run=locks.run).note(), 0)
    held.callback(_give_back, name, handle)
    _ours.add(name)
    return True


def _give_back(name: str, handle: int | None) -> None:
    if handle is not None:
        _unlock(handle)
    with _moved:
        _ours.discard(name)
        _moved.notify_all()


def _say_who_is_waited_for(files: Mapping[str, str | None], folder: int, locks: DeviceLocks) -> bool:
    """Nothing is said of waiting for this very run, in whichever of its processes.

    Returns:
        Whether it was said.
    """
    if any(name in _ours or not locks.of_machine(name) for name in files):
        return False
    holders = {name: Holder.noted_in(f"{file}.lock", folder=folder) for name, file in files.items()}
    if any(one and (one.is_this_process or (one.run and one.run == locks.run)) for one in holders.values()):
        return False
    waited_for = (f"{name}, which {holder or 'another process'} uses" for name, holder in holders.items())
    log.info("Waiting for %s", ", or for ".join(waited_for))
    return True


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


def _try(folder: int, name: str) -> int | None:
    """Lock a file in a folder, unless somebody has done so.

    Returns:
        The open file.

    Raises:
        OSError: It cannot be opened, or the file system has no locks.
    """
    handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return handle


def _unlock(handle: int) -> None:
    with suppress(OSError):
        os.ftruncate(handle, 0)  # nobody holds it
    with suppress(OSError):  # closing is not enough: the loader's processes were forked with the handle
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _remove_old(folder: int) -> None:
    """The files of runs that are long over."""
    for name in os.listdir(folder):
        with suppress(OSError):
            if name.startswith("run-") and time.time() - os.stat(name, dir_fd=folder).st_mtime > _FORGOTTEN:
                handle = _try(folder, name)
                if handle is not None:
                    os.unlink(name, dir_fd=folder)
                    _unlock(handle)


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
