"""Rows whose influences stand for those of all rows, drawn by a seed with chances that grow with their distance.

Source: Horvitz & Thompson 1952, "A generalization of sampling without replacement from a finite universe",
https://doi.org/10.1080/01621459.1952.10483446.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simet_cache.metrics.rows import Features, Floats, cached_rows, slices

ROWS = 400  # of either set; a standard error from so many rows is off by some six percent


@dataclass(frozen=True)
class Sample:
    """Rows whose influences stand for those of all rows.

    An influence can be as large as the squared distance of its row from the mean. One row in a thousand that is far
    away, such as an image that is all black, may hold most of the variance, and a few hundred rows drawn alike often
    miss it. So half of the chance to be drawn goes with the square of that.

    Attributes:
        rows: Their indices, ascending.
        weights: How many rows each stands for, shape (n,).
        signs: 1 or -1 by chance, shape (n,): weighted influences have no mean of 0, which a variance would take off.
    """

    rows: NDArray[np.intp] | slice
    weights: Floats
    signs: Floats

    @classmethod
    def of(cls, features: Features, mean: Floats, *, seed: int) -> Sample:
        """At most ``ROWS`` rows: the same ones of the same set, whatever it is compared with."""
        count = len(features)
        if count <= ROWS:
            return cls(slice(None), np.ones(count), np.ones(count))
        sizes = _squared_lengths(features, mean)
        chances = _chances((sizes / (sizes.max() or 1.0)) ** 2, ROWS)
        certain, rng = chances >= 1, np.random.default_rng([seed, count])
        order = rng.permutation(count)  # else rows of equal length stand in the order in which they were saved
        order = order[~certain[order]]
        order = order[np.argsort(sizes[order], kind="stable")]
        points = rng.random() + np.arange(ROWS - np.count_nonzero(certain))
        places = np.searchsorted(np.cumsum(chances[order]), points, side="right")
        rows = np.sort(np.concatenate([np.flatnonzero(certain), order[np.minimum(places, len(order) - 1)]]))
        return cls(rows, 1 / chances[rows], rng.choice([-1.0, 1.0], len(rows)))

    def mean(self, values: Floats) -> float:
        """Mean over all rows, from values of these."""
        return float(np.average(values, weights=self.weights))

    def scaled(self, influence: Floats) -> Floats:
        """Influences about zero whose variance is that over all rows."""
        found = influence * self.signs * np.sqrt(self.weights / self.weights.mean())
        return np.asarray(found - found.mean())


def drawn(count: int, most: int, *, seed: int) -> NDArray[np.intp] | slice:
    """Some of ``count`` rows that stand for all, in order: which ones depends on their number and the seed alone.

    Never evenly spaced ones: sets are saved class by class, or the classes in turn, and even steps meet some of them.
    """
    if count <= most:
        return slice(None)
    return np.sort(np.random.default_rng([seed, count]).choice(count, most, replace=False))


def _squared_lengths(features: Features, mean: Floats) -> Floats:
    """Squared distance of each row from the mean, shape (N,)."""
    found = np.empty(len(features))
    for part in slices(len(features), cached_rows(features)):
        block = np.subtract(features[part], mean, dtype=np.float64)
        found[part] = np.einsum("nd,nd->n", block, block)
    return found


def _chances(sizes: Floats, most: int) -> Floats:
    """Chances of rows to be among ``most``: half of them equal, half in proportion to ``sizes``, none above 1."""
    certain = np.zeros(len(sizes), dtype=bool)
    while True:
        parts = sizes + sizes[~certain].mean() + np.finfo(np.float64).tiny  # of rows that are all alike, too
        chances = (most - np.count_nonzero(certain)) * parts / parts[~certain].sum()
        more = ~certain & (chances >= 1)
        if not more.any():
            return np.where(certain, 1.0, chances)
        certain |= more
