"""Squared distances of single pairs of rows: the plain float64 computation that every decision must agree with."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from simet_cache.metrics.rows import Features, Floats, blocks, slices

MANY_PAIRS = 2**14  # from here on, equal rows are sought first
CHUNK_ELEMENTS = 2**16  # float64 values that stay in a processor's cache
THREADED_ELEMENTS = 2**20  # less is done before threads have started


class Pairs:
    """Squared distances of pairs of rows of two sets, or of one."""

    def __init__(self, left: Features, right: Features) -> None:
        """Compute nothing yet.

        Args:
            left: Shape (N, D).
            right: Shape (M, D); the same object for pairs within one set.
        """
        self.left, self.right = left, right

    def squared(self, i: NDArray[np.intp], j: NDArray[np.intp]) -> Floats:
        """Sums of squared differences of the pairs (left[i], right[j]), shape (len(i),).

        Every sum is NumPy's pairwise one over a row of its own: equal pairs have equal sums, in either order.
        """
        if len(i) < MANY_PAIRS:
            return self._computed(i, j)
        names = self._names[0][i], self._names[1][j]
        pairs, back = np.unique(np.minimum(*names) * self._count + np.maximum(*names), return_inverse=True)
        first = np.empty(len(pairs), dtype=np.intp)
        first[back] = np.arange(len(i))
        found = np.zeros(len(pairs))
        different = np.flatnonzero(pairs // self._count != pairs % self._count)
        found[different] = self._computed(i[first[different]], j[first[different]])
        return np.asarray(found[back])

    def _computed(self, i: NDArray[np.intp], j: NDArray[np.intp]) -> Floats:
        width = int(self.left.shape[1])
        found = np.empty(len(i))
        step = max(1, CHUNK_ELEMENTS // width)

        def compute(part: slice) -> None:
            for chunk in slices(part.stop - part.start, step):
                here = slice(part.start + chunk.start, part.start + chunk.stop)
                difference = self.left[i[here]].astype(np.float64)
                difference -= self.right[j[here]]
                difference *= difference
                found[here] = difference.sum(axis=1)

        if len(i) * width < THREADED_ELEMENTS:
            compute(slice(0, len(i)))
        else:
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                list(threads.map(compute, slices(len(i), 16 * step)))
        return found

    @cached_property
    def _names(self) -> list[NDArray[np.int64]]:
        """A number for each row, equal for equal rows, so that a set of duplicates does not cost N^2 distances."""
        seen: dict[bytes, int] = {}
        sets = [self.left] if self.left is self.right else [self.left, self.right]
        found = [
            np.array([seen.setdefault(_digest(row), len(seen)) for block in blocks(rows) for row in block], np.int64)
            for rows in sets
        ]
        self._count = len(seen)
        return [found[0], found[-1]]


def _digest(row: Floats) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()
