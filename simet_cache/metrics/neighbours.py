"""k-nearest-neighbour balls: their radii, and which points they hold.

Squared distances are read off tiles of products, which is fast and inexact. Where a tile's error leaves a decision
open, it is taken from the same tile in float64, and what is open even then from the pair alone, as the sum of squared
differences of the rows: every radius and every decision is that of the plain float64 computation, ties, duplicates and
large means included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics.metric import Parameters, Summarised, kept_as
from simet_cache.metrics.pairs import Pairs
from simet_cache.metrics.rows import Features, Floats, slices
from simet_cache.metrics.tiles import (
    Reader,
    Rows,
    Tensor,
    Tile,
    at_least,
    count_of,
    either,
    opened,
    places_of,
    read_all,
    sums_of,
    values_at,
)

STRIP = 256  # columns of a tile that give a first idea of how near neighbours are
SPARSE = 32  # a tile is sparse when at most one in so many of its pairs is near
OPEN = 256  # more open decisions than one in so many pairs are worth a float64 tile
LISTED = 2**19  # pairs that are looked at one by one at once
FARTHEST = -1e38  # below every half of a scaled distance, above minus infinity, where rows are with themselves

Indices: TypeAlias = NDArray[np.intp]
Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Radii:
    """Reach of every row to its k-th nearest other row.

    Attributes:
        squared: Squared Euclidean distances, shape (N,), float64.
        k: The neighbour that was used: the requested one, or N - 1 where the set is too small for it.
        neighbours: The ``k`` nearest other rows, nearest first, lowest index first among ties, shape (N, k).
    """

    squared: Floats
    k: int
    neighbours: Indices


@dataclass(frozen=True)
class Counts:
    """How often the balls of one set hold the points of the other.

    Attributes:
        held: For each point, how many balls hold it, int64.
        holding: For each ball, how many points it holds, int64.
    """

    held: NDArray[np.int64]
    holding: NDArray[np.int64]


@dataclass(frozen=True)
class Balls:
    """What the balls about the rows of either set hold of the other one; None for a set without radii."""

    real: Counts | None
    synth: Counts | None


@dataclass(frozen=True)
class Nearest:
    """The nearest real row of each synthetic one.

    Attributes:
        index: Its number, the lowest among ties, shape (M,).
        squared: Its squared distance, shape (M,), float64.
    """

    index: Indices
    squared: Floats


def check_k(*, k: object) -> None:
    """Raise ``MetricError`` unless ``k`` is a whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise MetricError(f"k: expected a whole number of at least 1, found {k!r}; set the metric's parameter k")


@kept_as("radii", version=1)
def radii(features: Features, *, k: int, device: str = "cpu") -> Radii:
    """Squared distance of each row to its k-th nearest other row; duplicates of a row are other rows.

    Args:
        features: Shape (N, D), N >= 2, any floating point dtype.
        k: Which neighbour, 1 or more; above N - 1 it is lowered to N - 1.
        device: Where tiles are computed.

    Raises:
        MetricError: ``k`` is not a whole number of at least 1.
    """
    (rows,) = opened(features, device=device)
    reader = RadiiReader(rows, [{"k": k}])
    read_all(rows, rows, [reader])
    return reader.results()[0]


def balls(*, real: Summarised[Radii | None], synth: Summarised[Radii | None], k: int) -> Balls:
    """Count what the balls of each set that has radii hold of the other set; the rim belongs to the ball.

    Args:
        real: The real rows, with or without their radii.
        synth: The synthetic rows, with or without their radii.
        k: The neighbour that the radii reach to, which names the result.
    """
    del k
    found: Balls = _read_pair(BallsReader, balls, real, synth)
    return found


def clipped_balls(*, real: Summarised[Radii], synth: Summarised[Any], k: int) -> Counts:
    """Count what the real balls hold of the synthetic set when none reaches farther than the median one.

    Args:
        real: The real rows with their radii. Larger ones than their median (of distances, not of their squares) are
            lowered to it.
        synth: The synthetic rows.
        k: The neighbour that the radii reach to, which names the result.
    """
    del k
    found: Counts = _read_pair(BallsReader, clipped_balls, real, synth)
    return found


def nearest(*, real: Summarised[Any], synth: Summarised[Any]) -> Nearest:
    """The nearest real row of each synthetic one."""
    found: Nearest = _read_pair(NearestReader, nearest, real, synth)
    return found


def _read_pair(
    reader_of: Callable[..., Reader], function: Callable[..., Any], real: Summarised[Any], synth: Summarised[Any]
) -> Any:
    left, right = opened(real.features, synth.features, device=real.device)
    reader = reader_of(left, right, [(function, real, synth, {})])
    read_all(left, right, [reader])
    return reader.results()[0]


class RadiiReader:
    """Reads the k nearest other rows of each row, for every k asked for."""

    wide = False

    def __init__(self, rows: Rows, wanted: Sequence[Parameters]) -> None:
        """Prepare for a pass over ``rows`` with themselves."""
        for given in wanted:
            check_k(k=given["k"])
        self.used = [min(int(given["k"]), len(rows) - 1) for given in wanted]
        self.candidates = Candidates(rows, rows, max(self.used))

    def read(self, tile: Tile) -> None:
        """Keep the pairs that can be among the nearest, for the rows of the tile and for its columns."""
        self.candidates.read(tile, across=False)
        self.candidates.read(tile, across=True)

    def results(self) -> list[Radii]:
        """Radii for each k."""
        index, squared = self.candidates.nearest([used - 1 for used in self.used])
        return [
            Radii(np.ascontiguousarray(squared[:, used - 1]), used, np.ascontiguousarray(index[:, :used]))
            for used in self.used
        ]


class NearestReader:
    """Reads the nearest left row of each right one."""

    wide = False

    def __init__(self, left: Rows, right: Rows, wanted: Sequence[Any]) -> None:
        """Prepare for a pass over two sets."""
        self.candidates, self.wanted = Candidates(right, left, 1), len(wanted)

    def read(self, tile: Tile) -> None:
        """Keep the pairs that can be the nearest."""
        self.candidates.read(tile, across=True)

    def results(self) -> list[Nearest]:
        """The same for everybody who asked."""
        index, squared = self.candidates.nearest([0])
        return [Nearest(index[:, 0], squared[:, 0])] * self.wanted


class Candidates:
    """The pairs of a pass that can be among the k nearest of each row, with bounds of their squared distances."""

    def __init__(self, rows: Rows, others: Rows, k: int) -> None:
        """Start without any.

        Args:
            rows: Whose neighbours are sought.
            others: Among which they are sought; rows are not their own neighbours.
            k: How many.
        """
        self.rows, self.k = rows, k
        self.pairs = Pairs(rows.features, others.features)
        self.limit = np.full(len(rows), np.inf)  # the k-th nearest is no farther than this, scaled
        self.done = np.zeros(len(rows), dtype=np.bool_)  # k equal rows were found, and no later one comes before them
        self.kept: list[_List] = []
        self.enough = 2 * k * len(rows) + LISTED // 4  # pairs until those beyond the limits are dropped

    def read(self, tile: Tile, *, across: bool) -> None:
        """Take from a tile what can be nearer to its rows, or ``across`` to its columns."""
        halves = tile.halves[:, tile.own :] if across else tile.halves
        if not halves.numel():
            return
        part = slice(tile.columns.start + tile.own, tile.columns.stop) if across else tile.rows
        self._first_idea(tile, halves, part, across=across)
        reach = tile.on_device(np.where(self.done[part], np.inf, np.maximum(-0.5 * self.limit[part], FARTHEST)))
        near = tile.memory("near", torch.bool, halves.shape[1])
        at_least(halves, reach if across else reach[:, None], out=near)
        count = count_of(near)
        if (
            count > near.numel() // SPARSE
            and tile.kind == torch.float32
            and near.numel() > 4 * SPARSE * self.k * len(reach)
        ):
            self.read(tile.wide, across=across)
            return
        for strip in slices(len(near), max(1, LISTED // near.shape[1]) if count > LISTED else len(near)):
            row, column = places_of(near[strip])
            if len(row):
                self._take(tile, row + strip.start, column + (tile.own if across else 0), across=across)

    def nearest(self, ranks: Iterable[int]) -> tuple[Indices, Floats]:
        """The k nearest of each row, shape (N, k), and their squared distances, exact at the ``ranks`` alone."""
        self._prune()
        (kept,) = self.kept
        slack = np.zeros(len(self.rows))
        np.maximum.at(slack, kept.row, kept.upper - kept.lower)
        kept = kept[np.lexsort((kept.other, kept.lower, kept.row))]
        touching = np.diff(kept.lower) <= slack[kept.row[1:]]
        touching &= np.diff(kept.row) == 0
        unclear = np.append(touching, [False]) | np.append([False], touching)
        squared = kept.lower / self.rows.scale**2
        squared[unclear] = self.pairs.squared(kept.row[unclear], kept.other[unclear])
        order = np.lexsort((kept.other, squared, kept.row))
        first = np.searchsorted(kept.row, np.arange(len(self.rows)))  # rows are in order before and after
        chosen = order[first[:, None] + np.arange(self.k)]
        needed = np.unique(chosen[:, list(ranks)])
        needed = needed[~unclear[needed]]
        squared[needed] = self.pairs.squared(kept.row[needed], kept.other[needed])
        return kept.other[chosen], squared[chosen]

    def _first_idea(self, tile: Tile, halves: Tensor, part: slice, *, across: bool) -> None:
        """Bound the distances of rows without any bound by the nearest ones in a few columns."""
        if np.isfinite(self.limit[part]).all() or halves.shape[0 if across else 1] < self.k:
            return
        count = max(STRIP, 2 * self.k)
        strip = halves[:count].T if across else halves[:, :count]
        best = strip.contiguous().topk(min(self.k, strip.shape[1]), dim=1)
        lower, index = -2.0 * best.values.cpu().numpy().astype(np.float64), best.indices.cpu().numpy()
        own = np.arange(len(lower))[:, None]
        slack = tile.slack(index, own + tile.own) if across else tile.slack(own, index)
        if lower.shape[1] == self.k:
            self.limit[part] = np.minimum(self.limit[part], (lower + slack).max(axis=1))

    def _take(self, tile: Tile, row: Indices, column: Indices, *, across: bool) -> None:
        lower = tile.lower(row, column)
        upper = lower + tile.slack(row, column)
        i, j = row + tile.rows.start, column + tile.columns.start
        found = self._below_limits(_List(j, i, lower, upper) if across else _List(i, j, lower, upper))
        self.kept.append(found)
        if sum(map(len, self.kept)) > self.enough:
            self._prune()
            if len(self.kept[0]) > 3 * self.enough // 4:
                self._settle()
            self.enough = max(self.enough, 2 * len(self.kept[0]))

    def _below_limits(self, found: _List) -> _List:
        """Tighten the limits by what was found, and drop what is beyond them."""
        found = found[np.lexsort((found.upper, found.row))]
        first = np.searchsorted(found.row, found.row)
        kth = np.flatnonzero(np.arange(len(found.row)) - first == self.k - 1)
        np.minimum.at(self.limit, found.row[kth], found.upper[kth])
        return found[found.lower <= self.limit[found.row]]

    def _prune(self) -> None:
        self.kept = [self._below_limits(_List.of(self.kept))]

    def _settle(self) -> None:
        """Compute all that is kept, and keep k for each row: many are as near as the k-th."""
        (kept,) = self.kept
        open_ = kept.upper > kept.lower
        exact = kept.lower.copy()
        exact[open_] = self.pairs.squared(kept.row[open_], kept.other[open_]) * self.rows.scale**2
        kept = _List(kept.row, kept.other, exact, exact)[np.lexsort((kept.other, exact, kept.row))]
        rank = np.arange(len(kept.row)) - np.searchsorted(kept.row, kept.row)
        self.kept = [kept[rank < self.k]]
        last = kept[rank == self.k - 1]
        self.limit[last.row] = np.minimum(self.limit[last.row], last.lower)
        self.done[last.row] = last.lower == 0


@dataclass(frozen=True)
class _List:
    """Pairs of rows with bounds of their squared distances, scaled."""

    row: Indices
    other: Indices
    lower: Floats
    upper: Floats

    @classmethod
    def of(cls, parts: Sequence[_List]) -> _List:
        columns = zip(*((part.row, part.other, part.lower, part.upper) for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, chosen: NDArray[Any]) -> _List:
        return _List(self.row[chosen], self.other[chosen], self.lower[chosen], self.upper[chosen])


@dataclass(frozen=True)
class _Family:
    """Balls of one size each about the rows of one set.

    Attributes:
        across: Whether their centres are the columns of tiles.
        squared: Squared radii, shape (centres,).
        counts: What they hold, added to with each tile.
    """

    across: bool
    squared: Floats
    counts: Counts

    @classmethod
    def of(cls, squared: Floats, *, points: int, across: bool) -> _Family:
        counts = Counts(np.zeros(points, dtype=np.int64), np.zeros(len(squared), dtype=np.int64))
        return cls(across, squared, counts)

    def reach(self, i: Indices, j: Indices) -> Floats:
        return self.squared[j if self.across else i]

    def add(self, i: Indices, j: Indices) -> None:
        """Count pairs (left row, right row) of a centre and a point that it holds."""
        centre, point = (j, i) if self.across else (i, j)
        self.counts.held[:] += np.bincount(point, minlength=len(self.counts.held))
        self.counts.holding[:] += np.bincount(centre, minlength=len(self.counts.holding))

    def add_tile(self, tile: Tile, held: Tensor) -> None:
        """Count a tile of which pairs are held."""
        by_row, by_column = sums_of(held)
        left, right = (
            (self.counts.held, self.counts.holding) if self.across else (self.counts.holding, self.counts.held)
        )
        left[tile.rows] += by_row
        right[tile.columns] += by_column


class BallsReader:
    """Reads what balls of several sizes about the rows of either set hold of the other one."""

    wide = False

    def __init__(self, left: Rows, right: Rows, wanted: Sequence[Any]) -> None:
        """Prepare for a pass over the real (left) and the synthetic (right) set.

        Args:
            left: The real rows.
            right: The synthetic rows.
            wanted: Who asks, which is ``balls`` or ``clipped_balls``, with the sets as they were summarised.
        """
        self.pairs, self.scale = Pairs(left.features, right.features), left.scale**2
        self.families: list[_Family] = []
        self.asked = [self._families_of(function is clipped_balls, real, synth) for function, real, synth, _ in wanted]
        self.row_reach = self._largest(len(left), across=False)
        self.column_reach = self._largest(len(right), across=True)

    def read(self, tile: Tile) -> None:
        """Count what is surely held, and decide what is not sure."""
        near = tile.memory("near", torch.bool)
        at_least(tile.halves, tile.on_device(-0.5 * self.row_reach[tile.rows])[:, None], out=near)
        if any(family.across for family in self.families):
            other = tile.memory("near too", torch.bool)
            at_least(tile.halves, tile.on_device(-0.5 * self.column_reach[tile.columns]), out=other)
            near = either(near, other)
        if count_of(near) <= near.numel() // SPARSE:
            self._read_sparse(tile, *places_of(near))
        else:
            self._read_dense(tile)

    def results(self) -> list[Balls | Counts | None]:
        """Counts of those balls that each asked for."""
        counts = [[family.counts if family else None for family in families] for families in self.asked]
        return [Balls(*found) if len(found) == 2 else found[0] for found in counts]

    def _families_of(self, clipped: bool, real: Summarised[Any], synth: Summarised[Any]) -> list[_Family | None]:
        n, m = len(real.features), len(synth.features)
        if clipped:
            return [self._family(clipped_squared(real.summary.squared), points=m, across=False)]
        return [
            None if real.summary is None else self._family(real.summary.squared, points=m, across=False),
            None if synth.summary is None else self._family(synth.summary.squared, points=n, across=True),
        ]

    def _family(self, squared: Floats, *, points: int, across: bool) -> _Family:
        for known in self.families:
            if known.across == across and (known.squared is squared or np.array_equal(known.squared, squared)):
                return known
        self.families.append(_Family.of(squared, points=points, across=across))
        return self.families[-1]

    def _largest(self, count: int, *, across: bool) -> Floats:
        radii = [family.squared for family in self.families if family.across == across]
        return np.max(radii, axis=0) * self.scale if radii else np.full(count, -np.inf)

    def _read_sparse(self, tile: Tile, row: Indices, column: Indices) -> None:
        lower = tile.lower(row, column)
        upper = lower + tile.slack(row, column)
        i, j = row + tile.rows.start, column + tile.columns.start
        sure = [upper <= family.reach(i, j) * self.scale for family in self.families]
        open_ = np.zeros(len(row), dtype=np.bool_)
        for family, inside in zip(self.families, sure, strict=True):
            open_ |= (lower <= family.reach(i, j) * self.scale) & ~inside
        unsure = np.flatnonzero(open_)
        if tile.kind == torch.float32 and len(unsure) > tile.halves.numel() // OPEN:
            self.read(tile.wide)
            return
        exact = self.pairs.squared(i[unsure], j[unsure])
        for family, inside in zip(self.families, sure, strict=True):
            inside[unsure] = exact <= family.reach(i[unsure], j[unsure])
            family.add(i[inside], j[inside])

    def _read_dense(self, tile: Tile) -> None:
        least = tile.least_halves
        sure, unsure = [], torch.zeros_like(tile.halves, dtype=torch.bool)
        for family in self.families:
            part = tile.columns if family.across else tile.rows
            reach = -0.5 * family.squared[part] * self.scale
            low, high = tile.on_device(reach), tile.on_device(reach, up=True)
            inside = least >= (high if family.across else high[:, None])
            unsure |= (tile.halves >= (low if family.across else low[:, None])) & ~inside
            sure.append(inside)
        if tile.kind == torch.float32 and count_of(unsure) > unsure.numel() // OPEN:
            self.read(tile.wide)
            return
        for family, inside in zip(self.families, sure, strict=True):
            family.add_tile(tile, inside)
        for strip in slices(len(unsure), max(1, LISTED // unsure.shape[1])):
            row, column = places_of(unsure[strip])
            if len(row):
                self._decide(tile, row + strip.start, column, sure)

    def _decide(self, tile: Tile, row: Indices, column: Indices, sure: Sequence[Tensor]) -> None:
        i, j = row + tile.rows.start, column + tile.columns.start
        exact = self.pairs.squared(i, j)
        for family, inside in zip(self.families, sure, strict=True):
            held = (exact <= family.reach(i, j)) & ~values_at(inside, row, column)
            family.add(i[held], j[held])


def clipped_squared(squared: Floats) -> Floats:
    """Squared radii, none above the largest number whose root is at most the median radius."""
    reach = np.sqrt(squared)
    median = float(np.median(reach))
    limit = median * median
    while np.sqrt(np.nextafter(limit, np.inf)) <= median:
        limit = float(np.nextafter(limit, np.inf))
    while np.sqrt(limit) > median:
        limit = float(np.nextafter(limit, -np.inf))
    return np.where(reach <= median, squared, limit)
