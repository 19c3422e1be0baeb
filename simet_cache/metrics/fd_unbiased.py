"""Frechet distance less the bias of few rows, which is estimated from halves of both sets.

The distance of sets of n and m rows exceeds that of their distributions by about ``a/n + b/m``. Halves of both have
twice that excess: twice the distance of all rows, less the mean distance of the halves, is without it (Quenouille 1956,
"Notes on bias in estimation", with two groups). Two groups leave less of the terms beyond 1/n than the delta method's
second-order term or a jackknife of many groups. ``fd_infinity`` goes the same way with the synthetic set alone, and
keeps the bias of the real one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simet_cache.errors import MetricError
from simet_cache.metrics import fid
from simet_cache.metrics.fid import Gaussian, Pair
from simet_cache.metrics.metric import Noise, Outcome, Summarised, kept_as
from simet_cache.metrics.rows import Features

ENOUGH_ROWS = 2  # for each feature: then halves have full covariances, and all but a few percent of the bias is removed


@dataclass(frozen=True)
class Halves:
    """The Gaussians of a set and of its two halves.

    Attributes:
        whole: Of all rows.
        first: Of one half, drawn by the seed.
        second: Of the other half.
    """

    whole: Gaussian
    first: Gaussian
    second: Gaussian


@dataclass(frozen=True)
class Pairs:
    """The same of two sets together."""

    whole: Pair
    halves: tuple[Pair, Pair]


def check(*, seed: object) -> None:
    """Raise ``MetricError`` unless ``seed`` is a whole number from 0."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise MetricError(f"seed: expected a whole number of at least 0, found {seed!r}")


@kept_as("halves", version=1)
def summarise(features: Features, *, seed: int, device: str = "cpu") -> Halves:
    """Mean and covariance factor of one set and of its halves.

    Args:
        features: Shape (N, D), N >= 4, any floating point dtype.
        seed: Of which rows are in which half.
        device: Where to compute.
    """
    rows = len(features)
    half = rows // 2
    drawn = np.random.default_rng([seed, rows]).permutation(rows)
    order = np.concatenate([np.sort(drawn[:half]), np.sort(drawn[half:])])  # a mapped file is read forwards
    first, whole = fid.growing(features, [half, rows], order=order, device=device)
    (second,) = fid.growing(features, [rows - half], order=order[half:], device=device)
    return Halves(whole, first, second)


def join(*, real: Summarised[Halves], synth: Summarised[Halves]) -> Pairs:
    """What the value and its noise both need."""
    ours, theirs, device = real.summary, synth.summary, real.device
    halves = Pair(ours.first, theirs.first, device), Pair(ours.second, theirs.second, device)
    return Pairs(Pair(ours.whole, theirs.whole, device), halves)


def compare(*, real: Summarised[Halves], synth: Summarised[Halves], joint: Pairs) -> Outcome:
    """Frechet distance without its bias; lower is better, about 0 for equal distributions, so it can be negative.

    Unit: squared feature units. Details: ``all_rows``, the distance with its bias, which is ``fid``, and ``removed``,
    what was taken off.
    """
    distance = joint.whole.distance
    bias = sum(half.distance for half in joint.halves) / 2 - distance
    return Outcome(distance - bias, _too_few(real.features, synth.features), {"all_rows": distance, "removed": bias})


def _too_few(real: Features, synth: Features) -> tuple[str, ...]:
    width = real.shape[1]
    sides = (("real", real), ("synth", synth))
    few = [f"{name} has {len(rows)}" for name, rows in sides if len(rows) < ENOUGH_ROWS * width]
    if not few:
        return ()
    return (
        f"still biased upward: {' and '.join(few)} rows for {width} features; "
        f"with {ENOUGH_ROWS * width} on both sides nearly all of the bias goes",
    )


def noise(*, real: Summarised[Halves], synth: Summarised[Halves], joint: Pairs, seed: int) -> Noise:
    """Noise by the delta method, as that of ``fid``.

    In the first order the halves' mean moves as the whole does. The terms of second order are products of the two
    halves, where those of the whole are squares of their sum: twice their variance.

    Args:
        real: The real set.
        synth: The synthetic set.
        joint: What ``join`` returns.
        seed: Of the rows that stand for all.
    """
    rows = len(real.features), len(synth.features)
    shares = 1 / rows[0], 1 / rows[1]
    sides = fid.sides_of(joint.whole, real.features, synth.features, seed=seed)
    second = 2 * sum(shares) ** 2
    return fid.noise_of(joint.whole, sides, rows=rows, shares=shares, second=second, bias=0.0, signed=True)
