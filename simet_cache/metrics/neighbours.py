"""k-nearest-neighbour balls: their radii, and which points they hold.

Squared distances come from ``|a|^2 + |b|^2 - 2 a.b`` on centred float64 rows, which is fast and inexact. Where its
error bound leaves a decision open, the pair is computed again as the sum of squared differences of the original rows,
so that every radius and every decision is that of the plain float64 computation: ties, duplicates and large means
included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics.metric import Summarised
from simet_cache.metrics.rows import BLOCK_ELEMENTS, Features, Floats, block_rows, blocks, mean, slices

TILE = 1024  # rows of one side of a distance tile
PANEL_ELEMENTS = BLOCK_ELEMENTS  # distances held at once while radii are sought

Indices: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True)
class Radii:
    """Reach of every row to its k-th nearest other row.

    Attributes:
        squared: Squared Euclidean distances, shape (N,), float64.
        k: The neighbour that was used: the requested one, or N - 1 where the set is too small for it.
    """

    squared: Floats
    k: int


def check_k(*, k: object) -> None:
    """Raise ``MetricError`` unless ``k`` is a whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise MetricError(f"k: expected a whole number of at least 1, found {k!r}; set the metric's parameter k")


def radii(features: Features, *, k: int) -> Radii:
    """Squared distance of each row to its k-th nearest other row; duplicates of a row are other rows.

    Args:
        features: Shape (N, D), N >= 2, any floating point dtype.
        k: Which neighbour, 1 or more; above N - 1 it is lowered to N - 1.

    Raises:
        MetricError: ``k`` is not a whole number of at least 1.
    """
    check_k(k=k)
    used = min(int(k), len(features) - 1)
    centre, (names,) = mean(features), _row_names(features)
    squared = np.empty(len(features))
    for part in slices(len(features), max(64, PANEL_ELEMENTS // len(features))):
        row, column = _nearest_candidates(features, part, centre, used)
        exact = _exact_squared(features, row + part.start, features, column, names[row + part.start] == names[column])
        order = np.lexsort((exact, row))
        first = np.searchsorted(row[order], np.arange(part.stop - part.start))
        squared[part] = exact[order][first + used - 1]
    return Radii(squared, used)


def holding(*, balls: Summarised[Radii], points: Features) -> Iterator[tuple[slice, slice, NDArray[np.bool_]]]:
    """Tell, tile by tile, which balls hold which points; the rim belongs to the ball.

    Args:
        balls: Centres of shape (N, D) with their radii.
        points: Shape (M, D).

    Yields:
        Slice of the centres, slice of the points, and the tile: ``tile[i, j]`` is true when ball i holds point j.
    """
    centres, reach = balls.features, balls.summary.squared
    centre, (centre_names, point_names) = mean(centres), _row_names(centres, points)
    for rows in slices(len(centres), TILE):
        left = centres[rows] - centre
        for columns in slices(len(points), TILE):
            upper, doubt = _upper_squared(left, points[columns] - centre)
            beyond = upper - reach[rows, None]
            tile = beyond <= doubt
            row, column = np.nonzero(tile & (beyond >= 0))
            i, j = row + rows.start, column + columns.start
            exact = _exact_squared(centres, i, points, j, centre_names[i] == point_names[j])
            tile[row, column] = exact <= reach[i]
            yield rows, columns, tile


def _nearest_candidates(features: Features, part: slice, centre: Floats, k: int) -> tuple[Indices, Indices]:
    """Pairs (row within ``part``, row of ``features``) that can be the k nearest; at least k for each row."""
    left = features[part] - centre
    upper, doubt = np.empty((len(left), len(features))), np.empty((len(left), len(features)))
    for columns in slices(len(features), TILE):
        upper[:, columns], doubt[:, columns] = _upper_squared(left, features[columns] - centre)
    own = np.arange(len(left))
    upper[own, own + part.start] = np.inf
    kth = np.partition(upper, k - 1, axis=1)[:, k - 1 : k]
    row, column = np.nonzero(upper - doubt <= kth)
    return row, column


def _upper_squared(left: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Upper bounds of the squared distances, and by how much they can be too high.

    With u the unit roundoff, dot product and norms err by at most D u (|a|^2 + |b|^2) each, the sum of squared
    differences itself by 2 D u (|a|^2 + |b|^2); the constant covers centring and the last additions. (Standard bounds:
    Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., section 3.1.)
    """
    bound = (2 * left.shape[1] + 20) * float(np.finfo(np.float64).eps)
    doubt = np.einsum("ij,ij->i", left, left)[:, None] + np.einsum("ij,ij->i", right, right)
    upper = left @ right.T
    upper *= -2.0
    upper += doubt
    doubt *= 2 * bound
    upper += doubt / 2
    return upper, doubt


def _exact_squared(left: Features, i: Indices, right: Features, j: Indices, same: NDArray[np.bool_]) -> Floats:
    """Sums of squared differences of the pairs (left[i], right[j]); pairs known to be the ``same`` are 0."""
    squared = np.zeros(len(i))
    pairs = np.flatnonzero(~same)
    for part in slices(len(pairs), block_rows(left)):
        pair = pairs[part]
        difference = left[i[pair]].astype(np.float64) - right[j[pair]].astype(np.float64)
        squared[pair] = (difference * difference).sum(axis=1)
    return squared


def _row_names(*sets: Features) -> list[Indices]:
    """A number for each row, equal for equal rows, so that a set of duplicates does not cost N^2 exact distances."""
    seen: dict[bytes, int] = {}
    digests = ([hashlib.blake2b(row, digest_size=16).digest() for b in blocks(rows) for row in b] for rows in sets)
    return [np.array([seen.setdefault(digest, len(seen)) for digest in digest_list]) for digest_list in digests]
