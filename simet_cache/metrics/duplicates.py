"""Synthetic rows that are copies of real ones: such images may have leaked out of the training set.

An exact copy equals a real row in every number. A near copy is any other row that is less than half as far from one
real row as from a second one. (Yoon et al. 2023, "Diffusion probabilistic models generalize when they fail to
memorize", call an image memorised at a third. Of copies that were compressed again, shifted or flipped, many are
between a third and a half in the features of image classifiers.) The ratio of two distances needs no scale: rows that
crowd where real ones do are no copies, and by chance a new row in k dimensions is one with probability 2^-k.

Real rows are near copies of one another, too: by chance in few dimensions, and where a data set has one thing twice.
Near copies are therefore counted beyond the rate at which real rows are near copies of the other real rows.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import stats

from simet_cache.metrics.metric import Copies
from simet_cache.metrics.pairs import Pairs
from simet_cache.metrics.projected import Indices, Points, Projected
from simet_cache.metrics.rows import Features, row_digests, slices
from simet_cache.metrics.summaries import Summaries

RATIO = 0.5
LIKELY = 0.8  # squared ratio in the projection, up to which it is computed in all features
LEVEL = 1e-5  # of the test; near copies come in pairs among real rows, so that it is exceeded a few times too often
COMMON = 5  # times that the real set has a row which a new sample equals by nature
MOST_TRIED = 20_000  # real rows that are compared with the others, for their rate
PAIRS = 4096  # at once

Mask = NDArray[np.bool_]


def copies_of(*, real: Summaries, synth: Summaries) -> Copies:
    """Count synthetic rows that are copies of real ones.

    Neither count depends on the order of rows. Near copies of a row that stands in the real set twice, but not in
    equal numbers, are not found: both are near.

    Args:
        real: Shape (N, D). What concerns it alone is kept in its memo.
        synth: Shape (M, D).

    Returns:
        The exact copies, and how many near ones there are beyond those that the rate among real rows explains: none
        unless their share is larger by Fisher's exact test at a level of 1e-5.
    """
    dtype = np.result_type(real.features, synth.features)
    known = Counter(_digests(real, dtype))
    times = np.array([known[digest] for digest in _digests(synth, dtype)])
    others = np.flatnonzero(times == 0)
    return Copies(
        exact=len(synth) - len(others),
        near=_near(real, synth, others, dtype),
        rows=len(synth),
        common=int((times >= COMMON).sum()),
    )


def leakage(copies: Copies) -> tuple[str, ...]:
    """The copies as warnings; none where there are none."""
    found = []
    if copies.exact:
        found.append(f"possible leakage: {copies.exact} of {copies.rows} synthetic rows equal a real one")
    if copies.near:
        found.append(
            f"possible leakage: {copies.near} of {copies.rows} synthetic rows are nearly equal to a real one"
            " (less than half as far from it as from the next one; what real rows explain is taken off)"
        )
    return tuple(found)


def _digests(rows: Summaries, dtype: DTypeLike) -> tuple[int, ...]:
    """A number of 128 bits for each row, equal for equal rows; computed once for each set and dtype."""
    key = f"{__name__}.digests({np.dtype(dtype).name})"
    if key not in rows.memo:
        rows.memo[key] = tuple(row_digests(rows.features, dtype))
    digests: tuple[int, ...] = rows.memo[key]
    return digests


def _near(real: Summaries, synth: Summaries, rows: Indices, dtype: DTypeLike) -> int:
    """How many of these synthetic rows are near copies, beyond what the rate among real rows explains.

    The rate is that of all real rows, or of those which are nearest to a synthetic row, if theirs is higher: a model
    that stays where real rows are much alike copies none. Synthetic rows with the same nearest one do not testify
    independently; the test counts as many of them as there are nearest rows.
    """
    if not len(rows):
        return 0
    projected = _projected(real, dtype)
    near, nearest = _near_copies(projected, synth.features, rows, projected.points(synth.features)[rows])
    if not near.any():
        return 0
    among_real = _among_real(real, projected, dtype)
    nearest = np.unique(nearest)
    tried = among_real[nearest[nearest < len(among_real)]]
    rate = max(float(among_real.mean()), float(tried.mean()) if len(tried) else 0.0)
    hits = int(near.mean() * len(nearest))
    known = round(rate * len(among_real))
    by_chance = stats.hypergeom.sf(hits - 1, len(among_real) + len(nearest), known + hits, len(nearest))
    return max(int(near.sum()) - round(rate * len(rows)), 0) if by_chance < LEVEL else 0


def _projected(real: Summaries, dtype: DTypeLike) -> Projected:
    key = f"{__name__}.projected({np.dtype(dtype).name})"
    if key not in real.memo:
        real.memo[key] = Projected(real.features, _digests(real, dtype))
    projected: Projected = real.memo[key]
    return projected


def _among_real(real: Summaries, projected: Projected, dtype: DTypeLike) -> Mask:
    """Which of the real rows, or of the first ``MOST_TRIED`` of them, are near copies of others."""
    key = f"{__name__}.among_real({np.dtype(dtype).name})"
    if key not in real.memo:
        places = np.arange(min(len(projected.rows), MOST_TRIED))
        points = projected.points_of(places)
        real.memo[key], _ = _near_copies(projected, real.features, projected.rows[places], points, places)
    mask: Mask = real.memo[key]
    return mask


def _near_copies(
    projected: Projected, features: Features, rows: Indices, points: Points, own: Indices | None = None
) -> tuple[Mask, Indices]:
    """Which of these rows are near copies of the projected set's, and the place of the nearest one of each."""
    squared, places = projected.two_nearest(points, own)
    likely = np.flatnonzero(np.isfinite(squared[:, 1]) & (squared[:, 0] < LIKELY * squared[:, 1]))
    pairs, near = Pairs(projected.features, features), np.zeros(len(rows), dtype=bool)
    for part in slices(len(likely), PAIRS):
        some = likely[part]
        first, second = (pairs.squared(projected.rows[places[some, which]], rows[some]) for which in range(2))
        near[some] = np.minimum(first, second) < RATIO**2 * np.maximum(first, second)
    return near, places[:, 0]
