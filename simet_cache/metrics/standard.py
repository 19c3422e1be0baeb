"""Features standardised for classifiers: by the rows that are learnt from, never by those that are scored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from simet_cache.metrics.rows import Features, Floats, block_rows, slices

Single: TypeAlias = NDArray[np.float32]
Indices: TypeAlias = NDArray[np.intp]

FARTHEST = 1e4  # standard deviations: a row that far out must not overflow float32


@dataclass(frozen=True)
class Moments:
    """Mean and spread of some rows, such that those of several parts can be added up.

    Attributes:
        count: How many rows.
        mean: Shape (D,).
        squares: Sum of squared differences from the mean, shape (D,).
    """

    count: int
    mean: Floats
    squares: Floats

    @classmethod
    def of(cls, features: Features, rows: Indices) -> Moments:
        """Of the rows with these indices, at least one."""
        parts = slices(len(rows), block_rows(features))
        return reduce(cls.__add__, (cls._of(features[rows[part]].astype(np.float64)) for part in parts))

    @classmethod
    def _of(cls, block: Floats) -> Moments:
        first = block[0]  # so that a constant has exactly itself as its mean
        mean = first + (block - first).mean(axis=0)
        return cls(len(block), mean, ((block - mean) ** 2).sum(axis=0))

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        shift, share = other.mean - self.mean, other.count / count
        return Moments(count, self.mean + share * shift, self.squares + other.squares + self.count * share * shift**2)

    @property
    def scale(self) -> Floats:
        """Standard deviations; 1 where it is rounding alone that varies."""
        found = np.sqrt(self.squares / self.count)
        return np.where(found > 4 * np.finfo(np.float64).eps * np.abs(self.mean), found, 1.0)

    def standardised(self, features: Features, rows: Indices, out: Single | None = None) -> Single:
        """The rows with these indices, less the mean, in standard deviations; shape (n, D), float32."""
        scale = self.scale
        found = np.empty((len(rows), features.shape[1]), dtype=np.float32) if out is None else out
        for part in slices(len(rows), block_rows(features)):
            found[part] = np.clip((features[rows[part]] - self.mean) / scale, -FARTHEST, FARTHEST)
        return found


def total(parts: Iterable[Moments]) -> Moments:
    """Moments of all the parts together."""
    return reduce(Moments.__add__, parts)
