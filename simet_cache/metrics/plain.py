"""The metrics of nearest neighbours by their definitions, on sets so small that all distances fit into memory.

Their noise is found from many small parts of the sets (see ``blocks``), for which passes over tiles take too long.
Squared distances are read off products in float64; the metrics themselves are in ``precision_recall``,
``density_coverage``, ``clipped`` and ``authenticity``, which decide exactly where these round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simet_cache.metrics.neighbours import clipped_squared
from simet_cache.metrics.rows import Features, Floats, mean

ROUNDING = 1e-12  # of the squared lengths: squared distances below it are those of equal rows
FELT = 1e-3  # of a squared distance: so much rounding decides what balls hold
TRUSTED = 0.99  # of the rows must be at the distance of their nearest one that they are said to be

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Part:
    """What a metric finds on some rows of both sets.

    Attributes:
        value: Its value there, not cut off at a bound; of a calibrated share, what it was before.
        known: Variance of the value over the rows that are looked up, while the balls stay.
    """

    value: float
    known: float = 0.0


@dataclass(frozen=True)
class Distances:
    """Squared distances of two sets' rows.

    Attributes:
        real: Of the real rows, shape (N, N); infinite for a row with itself.
        synth: Of the synthetic rows, shape (M, M), likewise.
        across: Of real rows with synthetic ones, shape (N, M).
        exact_enough: Whether balls are decided by the rows, and not by rounding, as when one is far from the others.
    """

    real: Floats
    synth: Floats
    across: Floats
    exact_enough: bool
    _reaches: dict[tuple[str, int], Floats] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, real: Features, synth: Features) -> Distances:
        """All distances of two sets, moved by their middle, about which products do not cancel."""
        centre = mean(real)
        sides = [np.subtract(rows, centre, dtype=np.float64) for rows in (real, synth)]
        lengths = [np.einsum("ij,ij->i", rows, rows) for rows in sides]
        ours, theirs = (_squared(rows, rows, length, length) for rows, length in zip(sides, lengths, strict=True))
        for matrix in (ours, theirs):
            np.fill_diagonal(matrix, np.inf)
        return cls(
            real=ours,
            synth=theirs,
            across=_squared(*sides, *lengths),
            exact_enough=_agrees(ours, sides[0]) and _agrees(theirs, sides[1]),
        )

    def part(self, rows: Indices, others: Indices) -> Distances:
        """Those of some real and some synthetic rows."""
        return Distances(
            real=self.real[np.ix_(rows, rows)],
            synth=self.synth[np.ix_(others, others)],
            across=self.across[np.ix_(rows, others)],
            exact_enough=self.exact_enough,
        )

    def reach(self, side: str, k: int) -> Floats:
        """Squared distance of each row of one set to its k-th nearest other one."""
        if (side, k) not in self._reaches:
            matrix = self.real if side == "real" else self.synth
            rank = min(k, len(matrix) - 1) - 1
            self._reaches[side, k] = np.partition(matrix, rank, axis=1)[:, rank]
        return self._reaches[side, k]


def _squared(left: Floats, right: Floats, ours: Floats, theirs: Floats) -> Floats:
    found = left @ right.T
    found *= -2.0
    found += ours[:, None]
    found += theirs
    found[found <= ROUNDING * np.add.outer(ours, theirs)] = 0.0
    return np.asarray(found)


def _agrees(squared: Floats, rows: Floats) -> bool:
    """Whether squared distances to nearest rows are those of the rows' differences."""
    nearest = squared.argmin(axis=1)
    exact = ((rows - rows[nearest]) ** 2).sum(axis=1)
    found = squared[np.arange(len(rows)), nearest]
    return bool((abs(found - exact) <= FELT * exact).mean() >= TRUSTED)


def _mean(scores: Any) -> Part:
    return Part(float(scores.mean()), float(scores.var()) / len(scores))


def _precision(distances: Distances, k: int) -> Part:
    return _mean((distances.across <= distances.reach("real", k)[:, None]).any(axis=0))


def _recall(distances: Distances, k: int) -> Part:
    return _mean((distances.across <= distances.reach("synth", k)).any(axis=1))


def _density(distances: Distances, k: int) -> Part:
    held = (distances.across <= distances.reach("real", k)[:, None]).sum(axis=0)
    return _mean(held / min(k, len(distances.real) - 1))


def _coverage(distances: Distances, k: int) -> Part:
    return Part(float((distances.across <= distances.reach("real", k)[:, None]).any(axis=1).mean()))


def _clipped_density(distances: Distances, k: int) -> Part:
    limit, used = clipped_squared(distances.reach("real", k))[:, None], min(k, len(distances.real) - 1)
    among, held = ((matrix <= limit).sum(axis=0) for matrix in (distances.real, distances.across))
    return _mean(np.minimum(held, used) / np.minimum(among, used).mean())


def _clipped_coverage(distances: Distances, k: int) -> Part:
    used = min(k, len(distances.real) - 1)
    holding = (distances.across <= distances.reach("real", k)[:, None]).sum(axis=1)
    return Part(float(np.minimum(holding, used).mean()) / used)


def _authenticity(distances: Distances, k: int) -> Part:
    nearest = distances.across.argmin(axis=0)
    return _mean(distances.across[nearest, np.arange(len(nearest))] > distances.reach("real", k)[nearest])


VALUES: dict[str, Callable[[Distances, int], Part]] = {
    "precision": _precision,
    "recall": _recall,
    "density": _density,
    "coverage": _coverage,
    "clipped_density": _clipped_density,
    "clipped_coverage": _clipped_coverage,
    "authenticity": _authenticity,
}
