"""Notes about who holds a lock, for those who wait for it.

A note is written by whoever takes the lock, and read by those who wait, for their messages alone. It may be what a
killed holder left, or anything else: nothing is decided by it, and only printable text of it is shown.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from simet_cache.urls import command_without_secrets

_LARGEST = 4096  # bytes of a note that are read
_PROCESS = re.compile(r"process (\d{1,9}) on (\S+)")


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock.

    Attributes:
        pid: Its number.
        host: Its machine.
        command: How it was started.
        since: When it took the lock.
        run: What it works for, where it has a name.
    """

    pid: int
    host: str
    command: str
    since: str
    run: str = ""

    @classmethod
    def myself(cls, *, run: str = "") -> Holder:
        """This process, as of now."""
        now = datetime.now(UTC).astimezone().isoformat(sep=" ", timespec="seconds")
        command = command_without_secrets([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else ""
        return cls(os.getpid(), socket.gethostname(), command[:80], now, run[:80])

    @classmethod
    def noted(cls, note: bytes) -> Holder | None:
        """The process that a note is about; None where it is about none, or about one of this machine that is gone."""
        try:
            found = json.loads(note)
            process = _PROCESS.fullmatch(_printable(found["process"]))
            command, since = _printable(found["command"]), _printable(found["since"])
            run = _printable(found.get("run", ""))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None
        if process is None:
            return None
        pid, host = int(process[1]), process[2]
        if host == socket.gethostname() and not _lives(pid):
            return None
        return cls(pid, host, command, since, run)

    @classmethod
    def noted_in(cls, file: str | Path, *, folder: int | None = None) -> Holder | None:
        """The process that a file is about, which may be a link, a pipe or gone; None as in ``noted``.

        Args:
            file: Its path.
            folder: The open folder that a relative path starts in.
        """
        try:
            handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            return None
        try:
            return cls.noted(os.read(handle, _LARGEST))
        except OSError:
            return None
        finally:
            os.close(handle)

    @property
    def is_this_process(self) -> bool:
        """Whether it is the one that asks."""
        return (self.pid, self.host) == (os.getpid(), socket.gethostname())

    def note(self) -> bytes:
        """What tells others about it."""
        about = {"process": self._process, "since": self.since, "command": self.command}
        return json.dumps(about | ({"run": self.run} if self.run else {})).encode()

    def __str__(self) -> str:
        run = f"run {self.run}: " if self.run else ""
        return f"{self._process} ({run}{self.command}, since {self.since})"

    @property
    def _process(self) -> str:
        return f"process {self.pid} on {self.host}"


def _printable(text: Any) -> str:
    """What a terminal can be given: nothing that moves the cursor, and not much of it."""
    if not isinstance(text, str):
        raise TypeError
    return "".join(letter if letter.isprintable() else "?" for letter in text[:80])


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return pid > 0
