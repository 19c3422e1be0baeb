"""Stopping: one word that ends extractions and metrics of this process within seconds.

A signal handler, or whoever runs a flow, calls ``request``. Whatever takes long calls ``check`` between its steps: per
image, per tile of a pass, and while it waits for a lock. What is on the disk by then stays there, and the next run goes
on from it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from simet_cache.errors import StoppedError

# A plain value: a signal handler may interrupt whoever is setting an Event, and would wait for its lock for ever.
_asked = False
_listeners = 0
_counting = threading.Lock()


def request() -> None:
    """Everything that is under way in this process shall end. Safe to call from a signal handler."""
    global _asked  # noqa: PLW0603
    _asked = True


def requested() -> bool:
    """Whether it shall."""
    return _asked


def check() -> None:
    """Go on, or end here. It costs less than a tenth of a microsecond.

    Raises:
        StoppedError: The end was requested.
    """
    if _asked:
        raise StoppedError("stopped on request; what is stored by now is kept, and the next run goes on from there")


@contextmanager
def listening() -> Iterator[None]:
    """A run that can be stopped: requests from before it do not count, and when it is over it leaves none behind.

    Runs that overlap in one process are stopped together, and the request stands until the last of them is over.
    """
    global _asked, _listeners  # noqa: PLW0603
    with _counting:
        if not _listeners:
            _asked = False
        _listeners += 1
    try:
        yield
    finally:
        with _counting:
            _listeners -= 1
            if not _listeners:
                _asked = False
