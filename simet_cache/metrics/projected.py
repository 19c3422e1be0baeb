"""Approximate nearest neighbours: rows in a random projection, searched cell by cell.

A search among all pairs in all features takes as long as the slowest metrics. Here each row is compared with about
3,000 others by 32 products (Johnson & Lindenstrauss 1984). A row that is much nearer than the others is found nearly
always.
Everything that is chosen among the rows is chosen by their digests, so that nothing depends on the order of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from simet_cache.metrics.rows import Features, Floats, block_rows, slices

DIRECTIONS = 32
CELL_ROWS = 1024
MOST_CELLS = 1024
PROBED_CELLS = 3
TILE_ROWS = 256  # with a cell's columns, a tile stays in the processor's cache
CENTRE_ROWS = 256
FARTHEST = 1e9  # times the largest coordinate: the squares of what is farther overflow float32

Indices = NDArray[np.intp]
Points = NDArray[np.float32]


class Projected:
    """The different rows of a set, projected on random directions.

    Attributes:
        features: All rows, shape (N, D).
        rows: One of each group of equal rows, ordered by digest; shape (n,).
    """

    def __init__(self, features: Features, digests: Sequence[int]) -> None:
        """Project the rows, and deal them to cells.

        Args:
            features: Shape (N, D).
            digests: A number for each row, equal for equal rows.
        """
        self.features = features
        self.rows = _different(digests)
        sample = self.rows[: min(CENTRE_ROWS, block_rows(features))]
        self._centre = np.median(features[sample].astype(np.float64), axis=0)
        self._directions = _directions(int(features.shape[1]))
        projected = self._projected(features)[self.rows]
        self._scale = float(np.abs(projected).max()) or 1.0
        self._points = self._scaled(projected)
        self._pivots = self._points[: min(-(-len(self.rows) // CELL_ROWS), MOST_CELLS)]
        cells = self._nearest_cells(self._points, 1)[:, 0]
        self._cells = [np.flatnonzero(cells == cell) for cell in range(len(self._pivots))]

    def points(self, features: Features) -> Points:
        """Rows of any set in the projection, shape (M, 32)."""
        return self._scaled(self._projected(features))

    def points_of(self, places: Indices) -> Points:
        """Rows of this set in the projection, by their places in ``rows``."""
        return self._points[places]

    def two_nearest(self, points: Points, own: Indices | None = None) -> tuple[Floats, Indices]:
        """For each point, the two nearest of the rows.

        Args:
            points: Shape (M, 32).
            own: For each point, the place of a row that is passed over; None for none.

        Returns:
            Squared distances in the projection and places in ``rows``, both of shape (M, 2), the nearest one first.
            The distance is infinite where a row is missing.
        """
        squared = np.full((len(points), 2), np.inf, dtype=np.float32)
        places = np.zeros((len(points), 2), dtype=np.intp)
        probes = min(PROBED_CELLS, len(self._cells))
        cells = self._nearest_cells(points, probes).ravel()
        order = np.argsort(cells, kind="stable")
        bounds = np.searchsorted(cells[order], np.arange(len(self._cells) + 1))
        for cell, members in enumerate(self._cells):
            asking = order[bounds[cell] : bounds[cell + 1]] // probes
            for part in slices(len(asking), TILE_ROWS) if len(members) else ():
                who = asking[part]
                tile = _less_own(points[who], self._points[members])
                if own is not None:
                    _pass_over(tile, members, own[who])
                _take_nearest(tile, members, who, squared, places)
        lengths = np.einsum("ij,ij->i", points, points)
        return np.maximum(squared + lengths[:, None], 0.0).astype(np.float64), places

    def _projected(self, features: Features) -> Floats:
        for kind in (np.result_type(features, np.float32), np.dtype(np.float64)):
            centre, directions = self._centre.astype(kind), self._directions.astype(kind)
            with np.errstate(over="ignore", invalid="ignore"):
                blocks = [
                    np.subtract(features[part], centre, dtype=kind) @ directions
                    for part in slices(len(features), TILE_ROWS)
                ]
            found = np.concatenate(blocks).astype(np.float64)
            if np.isfinite(found).all():  # float32 may overflow
                break
        return found

    def _scaled(self, projected: Floats) -> Points:
        return np.clip(projected / self._scale, -FARTHEST, FARTHEST).astype(np.float32)

    def _nearest_cells(self, points: Points, count: int) -> Indices:
        if len(self._pivots) <= count:
            return np.broadcast_to(np.arange(len(self._pivots)), (len(points), len(self._pivots)))
        return np.concatenate(
            [
                np.argpartition(_less_own(points[part], self._pivots), count - 1, axis=1)[:, :count]
                for part in slices(len(points), TILE_ROWS)
            ]
        )


def _different(digests: Sequence[int]) -> Indices:
    """One row of each digest, in the order of digests."""
    row = {digest: row for row, digest in enumerate(digests)}
    return np.array([row[digest] for digest in sorted(row)], dtype=np.intp)


def _directions(width: int) -> NDArray[np.float32]:
    """Columns that rows are multiplied with; features themselves where they are few."""
    if width <= DIRECTIONS:
        return np.eye(width, dtype=np.float32)
    drawn = np.random.default_rng(0).standard_normal((width, DIRECTIONS), dtype=np.float32)
    return drawn / np.float32(np.sqrt(DIRECTIONS))


def _less_own(points: Points, others: Points) -> Points:
    """Squared distances less the points' own squared lengths, which change no order in a row."""
    found = points @ (-2.0 * others.T)
    found += np.einsum("ij,ij->i", others, others)
    return found


def _pass_over(tile: Points, members: Indices, own: Indices) -> None:
    columns = np.minimum(np.searchsorted(members, own), len(members) - 1)
    here = np.flatnonzero(members[columns] == own)
    tile[here, columns[here]] = np.inf


def _take_nearest(tile: Points, members: Indices, who: Indices, squared: Points, places: Indices) -> None:
    """Put the two nearest members into the rows ``who``, where they are nearer than what is there."""
    values, found = [squared[who]], [places[who]]
    rows = np.arange(len(tile))
    for _ in range(2):
        columns = np.argmin(tile, axis=1)
        values.append(tile[rows, columns, None])
        found.append(members[columns, None])
        tile[rows, columns] = np.inf
    everything = np.hstack(values)
    best = np.argsort(everything, axis=1, kind="stable")[:, :2]
    squared[who] = np.take_along_axis(everything, best, axis=1)
    places[who] = np.take_along_axis(np.hstack(found), best, axis=1)
