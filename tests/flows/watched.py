"""Images that say who reads them, and that can be told to end; in a module of its own, for workers to import."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from simet_cache.datasets.folder import FolderDataset
from simet_cache.errors import SimetCacheError

_asked: list[bool] = []


class StoppedError(SimetCacheError):
    """The end was requested."""


def request() -> None:
    _asked.append(True)


@contextmanager
def listening() -> Iterator[None]:
    _asked.clear()
    yield


class Watched(FolderDataset):
    """Each image that is read leaves a line in a file: the process, and the path. Reading takes its time."""

    log = ""
    seconds = 0.0

    def __getitem__(self, index: Any) -> Any:
        if _asked:
            raise StoppedError("stopped")
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()} {self.root}/{self.files[index]}\n")
        time.sleep(self.seconds)
        return super().__getitem__(index)
