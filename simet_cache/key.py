"""The documented md5: dataset identity, subset indices, extractor suffix, length and batch size.

The rule is that of the public package ``simet``, to the byte, so that caches are interchangeable::

    md5(str([dataset_id, suffix, len(dataset), batch_size]).encode())

What a dataset *contains* is not in the key, nor are transforms or weights: see ``docs/footguns.md``.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Subset

from simet_cache.errors import KeyInputError


def feature_key(dataset: Any, *, suffix: str, batch_size: int | None) -> str:
    """The key under which the features of a dataset are cached.

    Args:
        dataset: A map-style dataset: anything with a length, and with a ``root`` or a class name that identifies it.
        suffix: Names the extractor, and whatever else changes its output.
        batch_size: The loader's batch size; None where the loader was given a batch sampler.

    Returns:
        32 hexadecimal digits.

    Raises:
        KeyInputError: The dataset has no length, indices are out of range or no integers, or the suffix is no string.

    Source: ``simet``, ``FeatureCacheService``. It differs where ``simet`` is unstable or collides: integers of NumPy
    and torch count as plain ones, negative indices as the positions they mean, and nested subsets are resolved first.
    """
    return KeyComponents.of(dataset, suffix=suffix, batch_size=batch_size).key()


@dataclass(frozen=True)
class KeyComponents:
    """What is in a key, in clear.

    Attributes:
        dataset: The resolved path of the dataset's root, or its class name and length.
        subset: The hash of the sorted indices; None for a whole dataset.
        suffix: Names the extractor.
        length: How many items.
        batch_size: The loader's.
    """

    dataset: str
    subset: int | None
    suffix: str
    length: int
    batch_size: int | None

    @classmethod
    def of(cls, dataset: Any, *, suffix: str, batch_size: int | None) -> KeyComponents:
        """See ``feature_key``."""
        if not isinstance(suffix, str):
            raise KeyInputError(f"the extractor suffix must be a string, found {type(suffix).__name__}")
        base, indices = resolve_subset(dataset)
        return cls(
            dataset=_identity(base),
            subset=None if indices is None else hash(tuple(sorted(indices))),
            suffix=str.__str__(suffix),  # NumPy's strings and enumerations write themselves differently in a list
            length=_length(base) if indices is None else len(indices),
            batch_size=None if batch_size is None else _plain_int(batch_size, "the batch size"),
        )

    def key(self) -> str:
        """32 hexadecimal digits."""
        identity = self.dataset if self.subset is None else f"{self.dataset}_subset_{self.subset}"
        blob = str([identity, self.suffix, self.length, self.batch_size]).encode()
        return hashlib.md5(blob, usedforsecurity=False).hexdigest()


def resolve_subset(dataset: Any) -> tuple[Any, list[int] | None]:
    """The innermost dataset behind any nesting of subsets, and the positions in it that the outermost selects.

    Returns:
        The dataset and its indices in the subset's own order, as non-negative plain integers; None for no subset.

    Raises:
        KeyInputError: An index is no integer, or out of range.
    """
    if not isinstance(dataset, Subset):
        return dataset, None
    base, inner = resolve_subset(dataset.dataset)
    length = _length(base) if inner is None else len(inner)
    positions = [_position(index, length) for index in _plain(dataset.indices)]
    return base, positions if inner is None else [inner[position] for position in positions]


def _identity(dataset: Any) -> str:
    root = getattr(dataset, "root", None)
    if root is None:
        return f"{type(dataset).__name__}_{_length(dataset)}"
    try:
        return str(Path(root).resolve())
    except TypeError as error:
        raise KeyInputError(
            f"the root of {type(dataset).__name__} must be a path or None, found {type(root).__name__}"
        ) from error


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError) as error:  # torchvision's base class has one that is not implemented
        raise KeyInputError(
            f"{type(dataset).__name__} has no length, so that its features have no key; use a map-style dataset"
        ) from error


def _plain(indices: Any) -> Iterable[Any]:
    """Tensors and arrays as lists, in one step instead of one small object for each index."""
    if str(getattr(indices, "dtype", "")) in {"bool", "torch.bool"}:
        raise KeyInputError("subset indices must be positions, found a mask of booleans; call .nonzero() on it")
    plain: Any = indices.tolist() if hasattr(indices, "tolist") else indices
    if not isinstance(plain, Iterable):
        raise KeyInputError(f"subset indices must be a sequence of integers, found {type(indices).__name__}")
    return plain


def _position(index: Any, length: int) -> int:
    position = _plain_int(index, "a subset index")
    if not -length <= position < length:
        raise KeyInputError(f"subset index {position} is out of range for a dataset of {length}")
    return position + length if position < 0 else position


def _plain_int(value: Any, what: str) -> int:
    try:
        return int(operator.index(value))
    except TypeError as error:
        raise KeyInputError(f"{what} must be an integer, found {value!r} ({type(value).__name__})") from error
