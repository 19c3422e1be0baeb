"""The class of each image, where a dataset knows it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simet_cache.errors import DatasetError
from simet_cache.key import resolve_subset

_ATTRIBUTES = ("targets", "labels", "_labels", "y", "_samples")  # as torchvision's datasets call them


def labels_of(dataset: Any, *, name: str = "dataset") -> NDArray[np.str_]:
    """The class of each image as text, in the order of the features: for a Subset, that of ascending indices.

    Classes go by their names where the dataset has names for them, so that sets that number them differently, as a
    folder does in which one class is missing, agree.

    Args:
        dataset: A map-style dataset with ``targets`` or ``labels``, or a Subset of one.
        name: What it is called in messages.

    Returns:
        Shape (N,).

    Raises:
        DatasetError: It has no label for each image.
    """
    base, indices = resolve_subset(dataset)
    found = (_numbers(getattr(base, attribute, None), len(base)) for attribute in _ATTRIBUTES)
    numbers = next((one for one in found if one is not None), None)
    if numbers is None:
        raise DatasetError(
            f"{name}: expected a label for each image, found none in {type(base).__name__};"
            " for a folder with a folder for each class, set classes: true"
        )
    names = getattr(base, "classes", None)
    chosen = numbers if indices is None else numbers[sorted(indices)]
    if isinstance(names, list | tuple) and numbers.min() >= 0 and numbers.max() < len(names):
        return np.array([_text(names[number]) for number in chosen])
    return chosen.astype(str)


def _numbers(found: Any, length: int) -> NDArray[np.int64] | None:
    """What an attribute holds, where that is a number for each image."""
    if not hasattr(found, "__len__") or len(found) != length or length == 0:
        return None
    if isinstance(found[0], tuple):  # pairs of a path and a number
        found = [one[-1] for one in found]
    try:
        array = np.asanyarray(found)
    except (ValueError, TypeError):  # of all lengths, like the objects in an image; a tensor on a GPU
        return None
    if np.ma.is_masked(array):
        return None
    return np.asarray(array, np.int64) if array.ndim == 1 and array.dtype.kind in "iu" else None


def _text(name: Any) -> str:
    """ImageNet has several words for a class."""
    return str(name[0]) if isinstance(name, tuple) and name else str(name)
