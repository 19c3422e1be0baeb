"""Clipped density and clipped coverage: robust against outliers, and calibrated to read as shares of good rows.

Source: Salvy, Talbot & Thirion 2026, "Enhanced Generative Model Evaluation with Clipped Density and Coverage",
https://arxiv.org/abs/2507.01761, and ``Clipped_Density_Coverage.py`` in the repository
nicolassalvy/ClippedDensityCoverage. Two things differ from that file:

- counts are those of the definition also where distances are tied, not those of one list of k neighbours among many,
  and rims belong to the balls of both metrics, not of the density alone;
- the calibration of the coverage is inverted by interpolation between whole numbers of good rows, from 0 to M. The file
  takes the next number, divides it by M + 1, and takes the expectation to be 0 below k good rows: its values are at
  most k/M away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from simet_cache.metrics.metric import Outcome, Parameters, Summarised, kept_as
from simet_cache.metrics.neighbours import Balls, Counts, Radii, RadiiReader, balls, check_k, clipped_squared
from simet_cache.metrics.pairs import Pairs
from simet_cache.metrics.precision_recall import cautions
from simet_cache.metrics.rows import Features, Floats, slices
from simet_cache.metrics.tiles import Rows, Tile, opened, read_all

TIED_ROWS = 4096  # that are counted at once
STEP = 0.005  # of a share, over which the steepness of its calibration is taken


@dataclass(frozen=True)
class Scored(Radii):
    """Radii, before they are clipped, and how well the clipped balls hold the set's own rows.

    Attributes:
        ideal: Mean score of the rows, each among the balls of the others; above 0, as half of the balls hold k rows.
    """

    ideal: float


@kept_as("scored", version=1)
def summarise(features: Features, *, k: int, device: str = "cpu") -> Scored:
    """Radii of a set and the score that its own rows have.

    Args:
        features: Shape (N, D), N >= 2, any floating point dtype.
        k: Which neighbour, 1 or more; above N - 1 it is lowered to N - 1.
        device: Where tiles are computed.

    Raises:
        MetricError: ``k`` is not a whole number of at least 1.
    """
    (rows,) = opened(features, device=device)
    reader = ScoredReader(rows, [{"k": k}])
    read_all(rows, rows, [reader])
    return reader.results()[0]


class ScoredReader:
    """Reads the radii, and one neighbour beyond them, which tells where a rim is shared."""

    wide = False

    def __init__(self, rows: Rows, wanted: Sequence[Parameters]) -> None:
        """Prepare for a pass over ``rows`` with themselves."""
        for given in wanted:
            check_k(k=given["k"])
        self.rows = rows
        self.radii = RadiiReader(rows, [{"k": given["k"] + beyond} for given in wanted for beyond in (0, 1)])

    def read(self, tile: Tile) -> None:
        """Keep the pairs that can be among the nearest."""
        self.radii.read(tile)

    def results(self) -> list[Scored]:
        """Radii and scores for each k."""
        found = self.radii.results()
        return [self._scored(reach, beyond) for reach, beyond in zip(found[::2], found[1::2], strict=True)]

    def _scored(self, reach: Radii, beyond: Radii) -> Scored:
        shared = beyond.squared == reach.squared
        held = held_by_others(self.rows.features, reach, shared, device=self.rows.device)
        return Scored(reach.squared, reach.k, reach.neighbours, _filled(held, reach.k))


def held_by_others(features: Features, reach: Radii, shared: NDArray[np.bool_], *, device: str) -> NDArray[np.int64]:
    """How many clipped balls of the other rows hold each row, shape (N,).

    A ball that is not clipped holds its k neighbours, a clipped one those of them that are near enough. Only a ball
    that has more rows on its rim than were listed must be counted anew.
    """
    limit = clipped_squared(reach.squared)
    whole, among = limit == reach.squared, reach.neighbours
    clipped, tied = np.flatnonzero(~whole), np.flatnonzero(whole & shared)
    centre, listed = np.repeat(clipped, reach.k), among[clipped].ravel()
    inside = listed[Pairs(features, features).squared(centre, listed) <= limit[centre]]
    held = np.bincount(np.append(inside, among[whole & ~shared]), minlength=len(features))
    points = Summarised(features, None, device=device)
    for part in slices(len(tied), TIED_ROWS):
        rows = tied[part]
        centres = Summarised(features[rows], Radii(reach.squared[rows], reach.k, among[rows]), device=device)
        held += cast("Counts", balls(real=centres, synth=points, k=reach.k).real).held
    held[tied] -= 1  # a row is no neighbour of itself
    return held


def compare_density(*, real: Summarised[Scored], synth: Summarised[None], joint: Counts, k: int) -> Outcome:
    """Share of good rows among the synthetic ones, 0 to 1; higher is better.

    A row scores the share of k balls that hold it, 1 at most; no ball reaches farther than the median one. The mean is
    divided by that of the real rows, each among the others' balls. ``details["uncapped"]`` is above 1 where the
    synthetic rows are held better than the real ones.
    """
    del synth
    reach, found = real.summary, _filled(joint.held, real.summary.k)
    uncapped = found / reach.ideal
    details = {"uncalibrated": found, "ideal": reach.ideal, "uncapped": uncapped}
    return Outcome(min(uncapped, 1.0), cautions("real", reach, k), details)


def compare_coverage(*, real: Summarised[Radii], synth: Summarised[None], joint: Balls, k: int) -> Outcome:
    """Share of good rows among the synthetic ones that would cover the real ones as well, 0 to 1; higher is better.

    A real ball scores the share of k synthetic rows that it holds, 1 at most. The mean is traced back to the number of
    rows from the real source, the others being far from every ball, that would have the same expectation.
    ``details["uncapped"]`` is above 1 where more than all of them would be needed.
    """
    reach = real.summary
    found = _filled(cast("Counts", joint.real).holding, reach.k)
    expected = expected_coverage(n_real=len(real.features), n_synth=len(synth.features), k=reach.k)
    uncapped = _inverted(expected, found) / len(synth.features)
    details = {"uncalibrated": found, "ideal": float(expected[-1]), "uncapped": uncapped}
    return Outcome(min(uncapped, 1.0), cautions("real", reach, k), details)


def expected_coverage(*, n_real: int, n_synth: int, k: int) -> Floats:
    """Mean uncalibrated coverage if m synthetic rows are from the real source and the rest far away.

    The share of the source inside a ball is distributed as Beta(k, N - k), the number of rows that it holds therefore
    as BetaBinomial(m, k, N - k). Only its probabilities below k are needed.

    Returns:
        Shape (M + 1,), for m from 0 to M; nowhere falling.
    """
    m = np.arange(n_synth + 1.0)
    probability = np.prod([(n_real - i) / (n_real + m - i) for i in range(1, k + 1)], axis=0)  # of holding none
    missing = np.zeros_like(m)
    for held in range(k):
        missing += (1 - held / k) * probability
        others = np.maximum(n_real - k + m - held - 1, 1)  # it is below 1 only where the next probability is 0
        probability = probability * (m - held) * (k + held) / ((held + 1) * others)
    return np.maximum.accumulate(1 - missing)


def steepness(uncalibrated: float, *, n_real: int, n_synth: int, k: int) -> float:
    """How much clipped coverage grows with what it is before it is calibrated, at sets of these sizes."""
    expected = expected_coverage(n_real=n_real, n_synth=n_synth, k=k)
    low, high = (_inverted(expected, uncalibrated + step) for step in (-STEP, STEP))
    return (high - low) / (2 * STEP) / n_synth


def _inverted(expected: Floats, found: float) -> float:
    """The number of rows with that expectation, between whole ones too; beyond all of them along the last step."""
    last, step = float(expected[-1]), float(expected[-1] - expected[-2])
    beyond = (found - last) / step if found > last and step > 0 else 0.0
    return float(np.interp(found, expected, np.arange(len(expected)))) + beyond


def _filled(counts: NDArray[Any], k: int) -> float:
    return float(np.minimum(counts, k).mean()) / k
