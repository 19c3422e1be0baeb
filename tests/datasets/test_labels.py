"""The class of each image: from folders, torchvision's sets, the digits, and subsets of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset

from simet_cache.config import DigitsConfig
from simet_cache.datasets import open_dataset
from simet_cache.datasets.folder import FolderDataset
from simet_cache.datasets.labels import labels_of
from simet_cache.errors import DatasetError


class Set(Dataset[Any]):
    """A map-style dataset of six items with whatever attributes a test gives it."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def __len__(self) -> int:
        return 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("dog/a.png", "cat/b.png", "cat/c.png", "emu/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def test_folders_name_their_classes(folder: Path) -> None:
    dataset = FolderDataset(folder, classes=True)
    assert labels_of(dataset).tolist() == ["cat", "cat", "dog", "emu"]
    assert labels_of(dataset).dtype.kind == "U"


def test_subsets_have_the_order_of_their_features(folder: Path) -> None:
    dataset = FolderDataset(folder, classes=True)
    assert labels_of(Subset(dataset, [3, 0, 2])).tolist() == ["cat", "dog", "emu"]
    assert labels_of(Subset(Subset(dataset, [3, 0, 2]), [2, 0])).tolist() == ["dog", "emu"]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"targets": [0, 1, 1, 0, 2, 2]}, ["0", "1", "1", "0", "2", "2"]),
        ({"targets": torch.tensor([0, 1, 1, 0, 2, 2]), "classes": ["a", "b", "c"]}, ["a", "b", "b", "a", "c", "c"]),
        ({"labels": np.array([0, 1, 1, 0, -1, -1]), "classes": ["a", "b"]}, ["0", "1", "1", "0", "-1", "-1"]),
        ({"_labels": [0, 1, 1, 0, 1, 1], "classes": [("tench", "Tinca tinca"), ("shark",)]}, ["tench", "shark"]),
        ({"_samples": [("a.png", 3), ("b.png", 4)] * 3}, ["3", "4"]),
        ({"y": [1, 0] * 3, "targets": None, "classes": {"not": "a list"}}, ["1", "0"]),
    ],
)
def test_whatever_torchvision_calls_them(attributes: dict[str, Any], expected: list[str]) -> None:
    found = labels_of(Set(**attributes)).tolist()
    assert found[: len(expected)] == expected
    assert len(found) == 6


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"targets": [0, 1]},
        {"targets": [0.5] * 6},
        {"targets": [{"boxes": []}] * 6},
        {"targets": [[1], [1, 2], [1], [1], [1], [1]]},
        {"labels": np.zeros((6, 2), int)},
        {"targets": np.ma.masked_array([0, 1, 1, 0, 2, 2], [0, 0, 1, 0, 0, 0])},
        {"targets": torch.empty(6, dtype=torch.int64, device="meta")},
    ],
)
def test_no_label_for_each_image(attributes: dict[str, Any]) -> None:
    with pytest.raises(
        DatasetError, match=r"^mine: expected a label for each image, found none in Set; .*classes: true"
    ):
        labels_of(Set(**attributes), name="mine")


def test_a_folder_without_classes_has_no_labels(folder: Path) -> None:
    with pytest.raises(DatasetError, match="found none in FolderDataset"):
        labels_of(FolderDataset(folder))


def test_the_digits_know_their_classes(tmp_path: Path) -> None:
    dataset = open_dataset(DigitsConfig(digits="three-classes"), transform=np.asarray, home=tmp_path).dataset
    labels = labels_of(dataset)
    assert set(labels) == {"0", "1", "2"}
    assert all(file.endswith(f"_{label}.png") for file, label in zip(dataset.files, labels, strict=True))
