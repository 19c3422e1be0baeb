"""Datasets from a configuration: opened, subset drawn, ready for an extractor."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Subset

from simet_cache.datasets import digits, torchvision_sets
from simet_cache.datasets.folder import FolderDataset
from simet_cache.datasets.images import MAX_PIXELS
from simet_cache.errors import DatasetError

if TYPE_CHECKING:
    from PIL import Image

    from simet_cache.config import SubsetConfig

Transform = Callable[["Image.Image"], Any]


@dataclass(frozen=True)
class OpenedDataset:
    """A dataset whose images can be read by position.

    Attributes:
        dataset: A map-style torch dataset, or a Subset of one.
        suffix: What it adds to the extractor's suffix: ``@CIFAR10-test`` for a torchvision set, since many of them
            lie under one root.
    """

    dataset: Any
    suffix: str = ""


def open_dataset(config: Any, *, transform: Transform, home: Path, max_pixels: int = MAX_PIXELS) -> OpenedDataset:
    """Open what a dataset's configuration names.

    Args:
        config: A ``FolderConfig``, ``TorchvisionConfig`` or ``DigitsConfig``.
        transform: RGB image -> tensor (3, H, W).
        home: Where generated and downloaded images may be written.
        max_pixels: Images of a folder with more cannot be read.

    Raises:
        DatasetError: There is no such dataset, it has no images, or fewer than its subset asks for.
    """
    opened = _OPEN[type(config).__name__](config, transform, home, max_pixels)
    return OpenedDataset(_drawn(opened.dataset, config.subset), opened.suffix)


def _folder(config: Any, transform: Transform, _: Path, max_pixels: int) -> OpenedDataset:
    bit_depth = None if config.bit_depth == "auto" else config.bit_depth
    folder = FolderDataset(
        config.path, transform=transform, classes=config.classes, max_pixels=max_pixels, bit_depth=bit_depth
    )
    return OpenedDataset(folder)


def _digits(config: Any, transform: Transform, home: Path, _: int) -> OpenedDataset:
    folder = digits.digits_folder(home / "digits", config.digits, config.seed)
    dataset = FolderDataset(folder, transform=transform)
    dataset.classes, dataset.targets = digits.classes_of(dataset.files)
    return OpenedDataset(dataset)


def _torchvision(config: Any, transform: Transform, _: Path, __: int) -> OpenedDataset:
    dataset, suffix = torchvision_sets.open_torchvision(config.torchvision, config.root, config.split, transform)
    return OpenedDataset(dataset, suffix)


_OPEN: dict[str, Callable[[Any, Transform, Path, int], OpenedDataset]] = {
    "FolderConfig": _folder,
    "DigitsConfig": _digits,
    "TorchvisionConfig": _torchvision,
}


def _drawn(dataset: Any, subset: SubsetConfig | None) -> Any:
    """So many items, always the same for a seed; the dataset itself where all are asked for."""
    if subset is None or subset.size == len(dataset):
        return dataset
    if subset.size > len(dataset):
        raise DatasetError(f"a subset of {subset.size} images was asked for, and there are {len(dataset)}")
    drawn = random.Random(subset.seed).sample(range(len(dataset)), subset.size)  # noqa: S311 - no secret
    return Subset(dataset, sorted(drawn))
