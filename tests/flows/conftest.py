"""What tests of flows share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simet_cache.datasets.folder import FolderDataset


@pytest.fixture
def images_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every image that is read, with its folder."""
    read: list[str] = []
    original = FolderDataset.__getitem__

    def counted(self: FolderDataset, index: int) -> Any:
        read.append(f"{Path(self.root).name}/{self.files[index]}")
        return original(self, index)

    monkeypatch.setattr(FolderDataset, "__getitem__", counted)
    return read
