"""Bad images are remembered while their files stay as they are; then the next run reads no image at all."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset
from torchvision.datasets import ImageFolder

from simet_cache.datasets.folder import FolderDataset
from simet_cache.errors import ImageReadError
from simet_cache.key import feature_key
from simet_cache.manifest import Source
from simet_cache.skipped import SkippedImage, forget_skipped, remember_skipped, without_skipped
from simet_cache.sources import source_of
from simet_cache.store import FeatureStore

BAD = [SkippedImage("01.png", "empty"), SkippedImage("03.png", "damaged")]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "cache")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (1, 1)).save(folder / f"{number:02d}.png")
    for image in BAD:
        (folder / image.path).write_bytes(b"no image")
    return folder


def key(dataset: Any) -> str:
    return feature_key(dataset, suffix="x", batch_size=1)


def remember(store: FeatureStore, dataset: Any, positions: list[int]) -> None:
    remember_skipped(store, key(dataset), positions, BAD, source(dataset))


def source(dataset: Any) -> Source:
    return source_of(dataset, suffix="x", batch_size=1)


def without(store: FeatureStore, dataset: Any) -> tuple[Any, list[SkippedImage]]:
    rest, rests, skipped = without_skipped(store, key(dataset), dataset, source(dataset))
    assert rests == source(rest)
    return rest, skipped


def test_nothing_remembered(store: FeatureStore, root: Path) -> None:
    dataset = FolderDataset(root)
    assert without(store, dataset) == (dataset, [])


def test_the_good_ones_are_known_without_reading_them(
    store: FeatureStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = FolderDataset(root)
    remember(store, dataset, [1, 3])
    read = []

    def fail(path: str, **_: Any) -> Any:
        read.append(Path(path).name)
        raise ImageReadError(path, "still")

    monkeypatch.setattr("simet_cache.datasets.folder.read_image", fail)
    again = FolderDataset(root)
    good, skipped = without(store, again)
    assert read == ["01.png", "03.png"]
    assert (good.dataset, list(good.indices)) == (again, [0, 2, 4, 5])
    assert skipped == BAD


def test_a_bad_image_that_can_be_read_after_all_makes_the_list_void(
    store: FeatureStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after too many open files, or with a newer Pillow: no file has changed."""
    dataset = FolderDataset(root)
    remember(store, dataset, [1, 3])
    monkeypatch.setattr("simet_cache.datasets.folder.read_image", lambda *_, **__: Image.new("RGB", (1, 1)))
    assert without(store, dataset) == (dataset, [])


def test_features_of_all_images_count_for_more_than_the_list(store: FeatureStore, root: Path) -> None:
    dataset = FolderDataset(root)
    remember(store, dataset, [1, 3])
    store.put(key(dataset), np.ones((5, 2), dtype=np.float32))
    assert without(store, dataset)[0] is not dataset
    store.put(key(dataset), np.ones((6, 2), dtype=np.float32))
    assert without(store, dataset) == (dataset, [])


def test_a_list_can_be_forgotten(store: FeatureStore, root: Path) -> None:
    dataset = FolderDataset(root)
    remember(store, dataset, [1, 3])
    for _ in range(2):
        forget_skipped(store, key(dataset))
    assert without(store, dataset) == (dataset, [])


def test_positions_in_a_subset_are_those_of_its_key(store: FeatureStore, root: Path) -> None:
    dataset = FolderDataset(root)
    subset = Subset(dataset, [5, 3, 1, 0])  # in the key's order: 0, 1, 3, 5
    remember(store, subset, [1, 2])
    good, skipped = without(store, subset)
    assert (good.dataset, list(good.indices)) == (dataset, [0, 5])
    assert skipped == BAD
    assert without(store, dataset) == (dataset, [])


@pytest.mark.parametrize(
    "change",
    [
        lambda root: Image.new("RGB", (9, 9)).save(root / "01.png"),
        lambda root: os.utime(root / "01.png"),
        lambda root: Image.new("RGB", (9, 9)).save(root / "02.png"),
        lambda root: (root / "01.png").rename(root / "01a.png"),
    ],
    ids=["repaired", "touched", "another", "renamed"],
)
def test_a_change_of_any_file_makes_the_list_void(store: FeatureStore, root: Path, change: Any) -> None:
    dataset = FolderDataset(root)
    remember(store, dataset, [1, 3])
    os.utime(root / "01.png", ns=(1, 1))
    os.utime(root / "02.png", ns=(1, 1))
    remember(store, dataset, [1, 3])
    change(root)
    again = FolderDataset(root)
    assert without(store, again) == (again, [])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"skipped": 3}',
        b'{"skipped": [{"position": 1}]}',
        b'{"skipped": [{"position": "x", "path": "a", "reason": "b"}]}',
        b"\xff",
    ],
)
def test_a_damaged_list_is_no_list(
    store: FeatureStore, root: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = FolderDataset(root)
    store.path(key(dataset)).with_suffix(".skipped.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert without(store, dataset) == (dataset, [])
    assert "all images are read again" in caplog.text


def test_where_files_are_not_known_nothing_is_believed(store: FeatureStore) -> None:
    dataset = TensorDataset(torch.zeros(6))
    remember_skipped(store, key(dataset), [1, 3], BAD, Source())
    assert without(store, dataset) == (dataset, [])


def test_a_link_that_leads_nowhere(store: FeatureStore, root: Path) -> None:
    """It is a bad image like another, until it leads somewhere."""
    (root / "01.png").unlink()
    (root / "01.png").symlink_to("nowhere.png")
    dataset = FolderDataset(root)
    remember(store, dataset, [1, 3])
    assert list(without(store, dataset)[0].indices) == [0, 2, 4, 5]
    (root / "01.png").rename(root / "02a.png")
    renamed = FolderDataset(root)
    assert without(store, renamed) == (renamed, [])
    (root / "02a.png").rename(root / "01.png")
    (root / "nowhere.png").symlink_to("00.png")
    (root / "nowhere.png").rename(root / "nowhere")
    (root / "01.png").unlink()
    (root / "01.png").symlink_to("nowhere")
    assert without(store, dataset) == (dataset, [])


def test_the_list_can_be_read_by_a_person(store: FeatureStore, root: Path) -> None:
    dataset = FolderDataset(root)
    remember(store, dataset, [1, 3])
    record = json.loads(store.path(key(dataset)).with_suffix(".skipped.json").read_text())
    assert record["fingerprint"] == source(dataset).fingerprint.to_json()
    assert record["skipped"] == [
        {"position": 1, "path": "01.png", "reason": "empty"},
        {"position": 3, "path": "03.png", "reason": "damaged"},
    ]


def test_a_bad_image_of_torchvisions_own_classes_stays_bad(store: FeatureStore, root: Path) -> None:
    (root / "class").mkdir()
    for file in list(root.glob("*.png")):
        file.rename(root / "class" / file.name)
    dataset = ImageFolder(str(root))
    remember(store, dataset, [1, 3])
    assert list(without(store, dataset)[0].indices) == [0, 2, 4, 5]


def test_features_that_are_stale_do_not_speak_for_all_images(
    store: FeatureStore, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once all images were good; looking for their features here is no use of them, and no reason to warn or refuse."""
    dataset = FolderDataset(root)
    strict = FeatureStore(store.cache_dir, on_stale="error")
    store.put(key(dataset), np.ones((6, 2), dtype=np.float32), source=source(dataset))
    (root / "01.png").write_bytes(b"changed")
    remember(store, dataset, [1, 3])
    assert list(without(strict, dataset)[0].indices) == [0, 2, 4, 5]
    assert caplog.text == ""
