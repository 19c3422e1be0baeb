"""torchvision's own datasets by name, with one way to say ``split`` for all of them."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torchvision.datasets
from torchvision.transforms import Compose

from simet_cache.datasets.images import to_rgb
from simet_cache.errors import DatasetError


@cache
def names() -> tuple[str, ...]:
    """The datasets that this torchvision has."""
    kinds = {name: getattr(torchvision.datasets, name) for name in torchvision.datasets.__all__}
    return tuple(name for name, kind in kinds.items() if isinstance(kind, type) and name != "VisionDataset")


def split_problem(name: str, split: str | None) -> str | None:
    """What is wrong with asking a dataset for a split, in one sentence; None where nothing is known to be wrong."""
    kind = getattr(torchvision.datasets, name)
    taken = inspect.signature(kind).parameters
    if "split" in taken:
        return _wrong_split(kind, split)
    if "train" in taken:
        return None if split in (None, "train", "test") else f"torchvision's {name} has train and test, found {split!r}"
    return None if split is None else f"torchvision's {name} has no splits; leave it out"


def _wrong_split(kind: Any, split: str | None) -> str | None:
    options = {"split": split} if split else {}
    with contextlib.suppress(Exception):  # its files are missing: the folder cannot exist
        try:
            kind(root=f"{os.devnull}/none", **options)
        except (TypeError, ValueError) as error:  # what it says before it looks for them
            return f"torchvision's {kind.__name__}: {error}"
    return None


def open_torchvision(name: str, root: Path, split: str | None, transform: Callable[[Any], Any]) -> tuple[Any, str]:
    """One of torchvision's datasets, downloaded when it is not there.

    Args:
        name: The class, like ``CIFAR10``.
        root: Its folder.
        split: ``train``, ``test`` or what else the dataset has; None for the dataset's default.
        transform: RGB image -> tensor (3, H, W).

    Returns:
        The dataset, and what its class and split add to the suffix: root and length do not tell these apart, as many
        sets lie under one root, and MNIST and CIFAR10 both have a test split of 10,000.

    Raises:
        DatasetError: It is not there and cannot be downloaded, or does not have this split.
    """
    kind = getattr(torchvision.datasets, name)
    taken = inspect.signature(kind).parameters
    options: dict[str, Any] = {"transform": Compose([to_rgb, transform])}
    default: str | None = None
    if "split" in taken:
        default = taken["split"].default
        options |= {"split": split} if split else {}
    elif "train" in taken:
        default = "train" if taken["train"].default is True else "test"
        options |= {"train": split == "train"} if split else {}
    return _open(kind, root, options), f"@{name}" + (f"-{split}" if split not in (None, default) else "")


def _can_download(kind: Any) -> bool:
    """Some hand ``download`` on to the class that they are made of."""
    return any("download" in inspect.signature(one).parameters for one in kind.__mro__[:-1])


def _open(kind: Any, root: Path, options: dict[str, Any]) -> Any:
    takes_root = "root" in inspect.signature(kind).parameters
    if takes_root:
        options = {"root": str(root), **options}
    try:
        try:
            return kind(**options)
        except (RuntimeError, FileNotFoundError):
            if not _can_download(kind):
                raise
            return kind(**options, download=True)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DatasetError(f"torchvision's {kind.__name__} cannot be opened under {root}: {reason}") from error
