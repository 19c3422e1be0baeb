"""From a dataset's configuration to images: kinds, subsets, names."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch.utils.data import Subset

from simet_cache.config import DigitsConfig, FolderConfig, TorchvisionConfig
from simet_cache.datasets import OpenedDataset, open_dataset
from simet_cache.datasets.folder import FolderDataset
from simet_cache.errors import DatasetError


def width(image: Image.Image) -> int:
    return image.width


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twenty images, each as wide as its position and one."""
    folder = tmp_path / "images"
    (folder / "cat").mkdir(parents=True)
    for number in range(20):
        Image.new("RGB", (number + 1, 1)).save(folder / "cat" / f"{number:02d}.png")
    return folder


def opened(config: Any, home: Path) -> OpenedDataset:
    return open_dataset(config, transform=width, home=home)


def subset(root: Path, **options: int) -> Any:
    return opened(FolderConfig(path=root, name="mine", subset=options), root.parent).dataset


def test_a_folder(root: Path) -> None:
    found = opened(FolderConfig(path=root), root.parent)
    assert isinstance(found.dataset, FolderDataset)
    assert list(found.dataset) == list(range(1, 21))
    assert found.suffix == ""


def test_a_folder_of_classes(root: Path) -> None:
    found = opened(FolderConfig(path=root, classes=True), root.parent)
    assert found.dataset.classes == ["cat"]
    assert found.dataset[2] == (3, 0)
    assert found.suffix == ""


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no image in"):
        opened(FolderConfig(path=tmp_path), tmp_path)


def test_digits_are_written_below_home(tmp_path: Path) -> None:
    found = opened(DigitsConfig(digits="three-classes", seed=2), tmp_path)
    assert found.dataset.root == tmp_path / "digits" / "seed-2" / "three-classes"
    assert found.dataset[0] == (32, 2)  # with its class, as a folder of classes has it
    assert found.suffix == ""


def test_a_torchvision_set_and_a_part_of_it(tmp_path: Path) -> None:
    config = TorchvisionConfig(torchvision="FakeData", root=tmp_path, subset={"size": 5, "seed": 1})
    found = opened(config, tmp_path)
    assert isinstance(found.dataset, Subset)
    assert len(found.dataset) == 5
    assert found.dataset[0][0] == 224


@pytest.mark.parametrize(("size", "seed"), [(1, 0), (7, 0), (7, 1), (19, 123456789), (7, -1)])
def test_a_subset_is_pythons_own_sample(root: Path, size: int, seed: int) -> None:
    found = subset(root, size=size, seed=seed)
    assert list(found.indices) == sorted(random.Random(seed).sample(range(20), size))
    assert list(found.indices) == list(subset(root, size=size, seed=seed).indices)


def test_a_subset_stays_the_same_for_ever(root: Path) -> None:
    """The key of its features hangs on it."""
    random.seed(5)
    before = random.getstate()
    assert list(subset(root, size=5, seed=0).indices) == [1, 8, 12, 13, 15]
    assert random.getstate() == before


def test_seeds_draw_different_subsets(root: Path) -> None:
    drawn = {tuple(subset(root, size=5, seed=seed).indices) for seed in range(10)}
    assert len(drawn) > 5


def test_all_images_are_no_subset(root: Path) -> None:
    """They have the key of the whole."""
    assert isinstance(subset(root, size=20), FolderDataset)


def test_more_than_there_is(root: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        subset(root, size=21)
    assert str(caught.value) == "a subset of 21 images was asked for, and there are 20"
