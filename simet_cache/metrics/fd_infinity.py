"""Frechet distance of infinitely many synthetic rows, extrapolated from growing subsets.

Source: Chong & Forsyth 2020, "Effectively Unbiased FID and Inception Score and where to find them",
https://arxiv.org/abs/1911.07023; reference code mchong6/FID_IS_infinity ``score_infinity.py``.

The distance exceeds that of the distributions by about a constant over n. As in the reference code, the synthetic set
is what is cut into subsets, while all real rows stand for the real distribution: what few real rows add remains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simet_cache.errors import MetricError
from simet_cache.metrics import fid
from simet_cache.metrics.fid import Gaussian, Pair
from simet_cache.metrics.metric import Noise, Outcome, Summarised
from simet_cache.metrics.rows import Floats

SMALLEST = 0.1  # of the rows, as 5,000 of the paper's 50,000
PER_FEATURE = 2  # with fewer rows for each feature, the distance is no line in 1/n


def check(*, sizes: object, seed: object) -> None:
    """Raise ``MetricError`` unless ``sizes`` is a whole number from 2 and ``seed`` one from 0."""
    for name, value, least in (("sizes", sizes, 2), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise MetricError(f"{name}: expected a whole number of at least {least}, found {value!r}")


@dataclass(frozen=True)
class Line:
    """A least-squares line through distances against 1/n.

    Attributes:
        rows: The subsets' sizes, ascending, the last one the whole set; shape (sizes,).
        weights: How much each distance counts in the intercept; they add up to 1.
    """

    rows: list[int]
    weights: Floats


def line(rows: int, width: int, sizes: int) -> Line:
    """Sizes of the subsets, and what their distances weigh in the intercept.

    The sizes are evenly spaced, from the largest of a tenth of the rows and twice the features (but at most half the
    rows) to all of them; fewer sizes where there are not so many.
    """
    smallest = max(SMALLEST * rows, min(PER_FEATURE * width, rows / 2), 2)
    spaced = np.unique(np.linspace(smallest, rows, sizes).astype(int))
    inverse = 1 / spaced
    centred = inverse - inverse.mean()
    square = float(centred @ centred)
    tilt = centred * inverse.mean() / square if square > 0 else np.zeros_like(centred)
    return Line(spaced.tolist(), 1 / len(spaced) - tilt)


def compare(
    *,
    real: Summarised[Gaussian],
    synth: Summarised[Gaussian],
    joint: Pair | None = None,
    sizes: int = 15,
    seed: int = 0,
) -> Outcome:
    """Intercept of the distance against 1/n; lower is better. Unit: squared feature units. It can be negative.

    The subsets are the beginnings of one random order of the synthetic rows, so that one pass builds all their
    covariances. Drawn independently, as in the paper, they would cost eight times as many rows and make the intercept
    vary little less, as they share most rows anyway (a standard error smaller by 5% to 15% for 15 sizes).

    Args:
        real: The real set; all its rows are used every time.
        synth: The synthetic set.
        joint: What ``fid.join`` returns.
        sizes: How many subsets.
        seed: Of the order.

    Returns:
        The intercept. Details: ``slope`` (what one row less does, times n^2), ``r_squared``, ``smallest`` subset and
        ``sizes``, the number of distinct ones, and ``all_rows``, the distance of the whole sets, which is ``fid``.
    """
    whole = joint or fid.join(real=real, synth=synth)
    fit = line(len(synth.features), synth.features.shape[1], sizes)
    order = np.random.default_rng(seed).permutation(len(synth.features))
    parts = fid.growing(synth.features, fit.rows[:-1], order=order, device=synth.device)
    distances = np.array([Pair(real.summary, part, real.device).distance for part in parts] + [whole.distance])
    value = float(fit.weights @ distances)
    slope, r_squared = _fit(1 / np.array(fit.rows), distances)
    details = {
        "slope": slope,
        "r_squared": r_squared,
        "smallest": fit.rows[0],
        "sizes": len(fit.rows),
        "all_rows": float(distances[-1]),
    }
    return Outcome(value, _warnings(len(real.features), real.features.shape[1], fit), details)


def _fit(inverse: Floats, distances: Floats) -> tuple[float, float]:
    """Slope, and the share of the distances' variance that the line explains (1 where there is none)."""
    across, up = inverse - inverse.mean(), distances - distances.mean()
    square = float(across @ across)
    slope = float(across @ up) / square if square > 0 else 0.0
    total = float(up @ up)
    return slope, slope**2 * square / total if total > 0 else 1.0


def _warnings(rows: int, width: int, fit: Line) -> tuple[str, ...]:
    said = []
    if rows < width:
        said.append(f"biased upward: real has {rows} rows for {width} features, which is not corrected")
    if len(fit.rows) == 1:
        said.append("synth has too few rows for subsets: this is the distance of all rows")
    elif fit.rows[0] < width:
        said.append(
            f"subsets of synth from {fit.rows[0]} rows for {width} features: the distance is no line in 1/n there, "
            "and its intercept is off"
        )
    return tuple(said)


def noise(
    *,
    real: Summarised[Gaussian],
    synth: Summarised[Gaussian],
    joint: Pair | None = None,
    sizes: int = 15,
    seed: int = 0,
) -> Noise | str:
    """Noise of the intercept by the delta method: the intercept is a weighted sum of distances, whose noise is known.

    Args:
        real: The real set.
        synth: The synthetic set.
        joint: What ``fid.join`` returns.
        sizes: As in ``compare``.
        seed: Of the rows that stand for all.

    Returns:
        The noise; or why there is none.
    """
    width = real.features.shape[1]
    if min(len(real.features), len(synth.features)) <= width:
        found = f"found {len(real.features)} and {len(synth.features)}"
        return f"expected more rows than the {width} features on both sides, {found}"
    pair = joint or fid.join(real=real, synth=synth)
    sides = fid.sides_of(pair, real.features, synth.features, seed=seed)
    fit = line(len(synth.features), synth.features.shape[1], sizes)
    rows = len(real.features)
    shared = 1 / np.maximum.outer(fit.rows, fit.rows)  # covariance of the means of two subsets, in variances of a row
    together = np.outer(fit.weights, fit.weights)
    return fid.noise_of(
        pair,
        sides,
        rows=(rows, len(synth.features)),
        shares=(1 / rows, float((together * shared).sum())),
        second=float((together * (1 / rows + shared) ** 2).sum()),
        bias=sides[0].excess / rows,
        signed=True,
    )
