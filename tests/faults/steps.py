"""Every step that the store takes towards the file system: each of them can be the last one, or fail."""

from __future__ import annotations

import fcntl
import io
import os
import signal
from collections.abc import Callable
from typing import Any, Self
from unittest import mock

NAMES = ["open", "close", "fsync", "fchmod", "replace", "rename", "unlink", "mkdir", "utime", "link", "ftruncate"]


class Steps:
    """While it is entered, counts the steps that this process takes, and calls ``act`` at one of them.

    Args:
        act: What happens there.
        at: The number of the step; -1 for none.
        after: Whether ``act`` is called when the step is done.
        through: Steps that are done before ``act`` in any case.

    Attributes:
        taken: The names of the steps so far. Every write is two of them, so that half of it can be done.
    """

    def __init__(
        self,
        act: Callable[[], None] = lambda: None,
        *,
        at: int = -1,
        after: bool = False,
        through: tuple[str, ...] = (),
    ) -> None:
        self.act, self.at, self.after, self.through = act, at, after, through
        self.taken: list[str] = []
        self._patches = [mock.patch.object(os, name, self.counted(name, getattr(os, name))) for name in NAMES]
        lock, unlock = (self.counted(name, fcntl.flock) for name in ("lock", "unlock"))
        self._patches.append(
            mock.patch.object(
                fcntl, "flock", lambda handle, how: (unlock if how & fcntl.LOCK_UN else lock)(handle, how)
            )
        )
        self._patches.append(mock.patch.object(os, "fdopen", self._opened(os.fdopen)))

    def counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            mine = len(self.taken)
            self.taken.append(name)
            late = self.after or name in self.through
            if mine == self.at and not late:
                self.act()
            try:
                return function(*arguments, **named)
            finally:  # it may be done in vain, like mkdir where a folder is there
                if mine == self.at and late:
                    self.act()

        return step

    def _opened(self, fdopen: Callable[..., Any]) -> Callable[..., Any]:
        def opened(handle: int, mode: str, *arguments: Any, **named: Any) -> Any:
            if mode != "wb":
                return fdopen(handle, mode, *arguments, **named)
            return io.BufferedWriter(_Halves(handle, mode, self))  # type: ignore[arg-type]

        return opened

    def __enter__(self) -> Self:
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patch in self._patches:
            patch.stop()


class _Halves(io.FileIO):
    """Writes half of what it is given, and then the other half."""

    def __init__(self, handle: int, mode: str, steps: Steps) -> None:
        super().__init__(handle, mode)
        self._write = steps.counted("write", super().write)

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        half = len(view) // 2
        return sum(self._write(part) for part in (view[:half], view[half:]))


def die() -> None:
    """As ``kill -9`` would."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Callable[[], object], *, at: int, after: bool) -> bool:
    """Do something in a forked process that is killed at a step.

    Returns:
        Whether it was; False where all was done before that.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with Steps(die, at=at, after=after):
                work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed in the child; its traceback is above"
    return False
