"""FeatureSet: a handle on features, and what counts as features at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simet_cache import codec, locks, manifest
from simet_cache.atomic import reported, version_of
from simet_cache.codec import FloatArray
from simet_cache.errors import DamagedEntryError, FeaturesError, MissingEntryError, StoreError
from simet_cache.manifest import DATASET_ORDER, UNKNOWN_ORDER

_BLOCK = 1 << 22  # bytes of features that are looked at together


@dataclass(frozen=True)
class FeatureSet:
    """A small handle on stored features: what tasks hand each other instead of the matrix.

    Attributes:
        key: The documented md5.
        path: The ``.pkl`` file.
        shape: (N, D).
        dtype: NumPy's name of the dtype, like ``float32``.
        digest: The xxh3-128 of the content: equal digests, equal features.
        row_order: ``dataset`` where row i belongs to image i, else ``loader`` or ``unknown``.
        unsaved: The features themselves, only where they could not be stored.
    """

    key: str
    path: str
    shape: tuple[int, int]
    dtype: str
    digest: str
    row_order: str = UNKNOWN_ORDER
    unsaved: FloatArray | None = field(default=None, compare=False, repr=False)

    def load(self, *, copy: bool = False) -> FloatArray:
        """Read the features, shape (N, D).

        Args:
            copy: An ordinary array of its own, checked against the digest. Otherwise the file is mapped: a read-only
                array, whose rows are read from the disk when they are looked at.

        Raises:
            DamagedEntryError: The file no longer holds what this handle describes.
            MissingEntryError: The file is gone.
            StoreError: The file cannot be read.
        """
        if self.unsaved is not None:
            features = self.unsaved.copy() if copy else self.unsaved.view()
            features.flags.writeable = copy
            return features
        path = Path(self.path)
        with reported("cannot read", path):
            try:
                return self._read(path, copy=copy)
            except FileNotFoundError as error:
                raise MissingEntryError(f"{path} is gone: it was removed since it was found") from error

    def _read(self, path: Path, *, copy: bool) -> FloatArray:
        locks.use(path.parent, self.key)
        seen = path.stat()
        features = codec.read(path) if copy else codec.open_mapped(path)
        same = (features.shape, str(features.dtype)) == (self.shape, self.dtype)
        if not same or ((copy or not self._vouched(path, seen)) and codec.digest(features) != self.digest):
            raise DamagedEntryError(f"{path} no longer holds the features it held (digest {self.digest})")
        return features

    def require_dataset_order(self) -> None:
        """Make sure that row i belongs to image i, which labels and everything else that is aligned depend on.

        Raises:
            FeaturesError: It is not known to.
        """
        if self.row_order != DATASET_ORDER:
            raise FeaturesError(
                f"{self.path} has its rows in {self.row_order} order, and labels need that of the dataset."
                " Extract the features again, with force_recompute: true"
            )

    def _vouched(self, path: Path, seen: os.stat_result) -> bool:
        """Whether the manifest says that this is still the file, which has not changed since it was ``seen``."""
        try:
            entry = manifest.read(path.with_suffix(".json"), self.key)
        except StoreError:
            return False
        features = entry.get("features")
        same = isinstance(features, dict) and features.get("digest") == self.digest
        return same and version_of(path.stat()) == version_of(seen) and manifest.describes(entry, seen)

    @classmethod
    def from_manifest(cls, path: Path, entry: Mapping[str, Any]) -> FeatureSet:
        """The handle on the features that a manifest describes.

        Raises:
            DamagedEntryError: It does not say what the features are.
        """
        try:
            said = entry["features"]
            rows, width = said["shape"]
            dtype, digest = said["dtype"] + "", said["digest"] + ""  # text, or a TypeError
            order = str(said.get("row_order", UNKNOWN_ORDER))
            return cls(path.stem, str(path), (int(rows), int(width)), dtype, digest, order)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise DamagedEntryError(f"{path.with_suffix('.json')} does not say what the features are") from error

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; unsaved features stay behind."""
        values = {name: getattr(self, name) for name in ("key", "path", "dtype", "digest", "row_order")}
        return {**values, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FeatureSet:
        """The reverse of ``to_json``."""
        rows, width = data["shape"]
        return cls(**{**data, "shape": (int(rows), int(width))})


def check_features(value: object, *, rows: int | None = None) -> None:
    """Make sure that a value is a feature matrix.

    Args:
        value: What somebody's function returned.
        rows: How many rows are expected; None takes any number above zero.

    Raises:
        FeaturesError: It is no 2-D float array, has other rows, no columns, or values that are not finite.
    """
    if isinstance(value, np.memmap):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        hint = "; call .cpu().numpy() on a tensor" if hasattr(value, "numpy") else ""
        raise FeaturesError(f"expected a 2-D NumPy float array of features, found {codec.describe(value)}{hint}")
    if not codec.is_feature_array(value):
        raise FeaturesError(f"expected a 2-D array of dtype float16, float32 or float64, found {codec.describe(value)}")
    if rows is not None and value.shape[0] != rows:
        raise FeaturesError(f"expected {rows} rows, one for each item of the loader, found {value.shape[0]}")
    if 0 in value.shape:
        raise FeaturesError(f"expected at least one row and one column of features, found shape {value.shape}")
    step = max(1, _BLOCK // (value.shape[1] * value.itemsize))
    blocks = (value[start : start + step] for start in range(0, value.shape[0], step))
    if not all(np.isfinite(block).all() for block in blocks):
        bad = np.flatnonzero(~np.isfinite(value).all(axis=1))
        raise FeaturesError(
            f"expected finite features, found NaN or infinity in {bad.size} of {value.shape[0]} rows,"
            f" first in row {bad[0]}"
        )
