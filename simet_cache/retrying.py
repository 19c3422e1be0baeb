"""Which errors can pass: a file server that stumbles can, a corrupt image or a wrong configuration cannot."""

from __future__ import annotations

import errno
import sys
import urllib.error
from collections.abc import Iterator

from simet_cache.errors import (
    ConfigError,
    DamagedShardError,
    FeaturesError,
    ImageReadError,
    KeyInputError,
    MetricError,
    RemoteError,
    StaleEntryError,
    StoppedError,
    UnsafePickleError,
)

# Whatever caused them: the same inputs give the same end.
_FINAL = (ConfigError, FeaturesError, KeyInputError, MetricError, StaleEntryError, StoppedError, UnsafePickleError)

# A full disk is none of them: it stays full until somebody makes room, and the message says how.
_PASSING = {
    getattr(errno, name)
    for name in (
        *("EIO", "EREMOTEIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EINTR", "EBUSY", "ENOLCK", "EPIPE", "ENOTCONN"),
        *("ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETRESET"),
        *("ENETUNREACH", "ENOBUFS", "EMFILE", "ENFILE", "ENOMEM", "ESHUTDOWN"),
    )
    if hasattr(errno, name)  # not every system has them all
}
_BUSY = (408, 429, 500, 502, 503, 504)  # answers of a web server that may be another one next time


def can_pass(error: BaseException) -> bool:
    """Whether what failed may succeed when it is tried again.

    It can where the error, or one that it was caused by, is one of the file system or of the network that comes and
    goes, of a remote, of a device that is short of memory, or of a shard that was put aside. It cannot where the same
    inputs give the same end, where it was stopped, or where nothing is known of the error.
    """
    for one in causes(error):
        if isinstance(one, _FINAL):
            return False
        if _passing(one):
            return True
    return False


def errno_can_pass(number: int | None) -> bool:
    """Whether an error number of the system is one of those that come and go."""
    return number in _PASSING


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error itself, what it was raised from, what that was raised from, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        reason = getattr(error, "reason", None)  # where urllib keeps it
        error = error.__cause__ or (reason if isinstance(reason, BaseException) else None)


def _passing(error: BaseException) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _BUSY
    if isinstance(error, ImageReadError | OSError) and errno_can_pass(error.errno):
        return True
    return isinstance(error, RemoteError | DamagedShardError | ConnectionError | TimeoutError) or _out_of_memory(error)


def _out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")  # who has not imported it has no error of it
    return isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))
