"""How far a value would move if other rows had been drawn: intervals, and differences of two sets.

The truth that an interval is to hold is the expectation of the metric over other sets of the same sizes. A bias that
comes with few rows, as that of ``fid``, is in that expectation: no interval takes it away.

docs/decisions/0014 says which method is valid for which metric, and what was tried against simulated truth.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from simet_cache.errors import MetricError
from simet_cache.metrics.metric import Interval, Metric, MetricValue, Noise
from simet_cache.metrics.summaries import Summaries
from simet_cache.metrics.table import METRICS

MARKED_ROWS = 64  # of the reference, by which it is told from others
SHARE = (0.0, 1.0)

Ends: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Intervals:
    """What intervals are asked for.

    Attributes:
        level: How often they are to hold the truth, between 0 and 1.
        seed: Of whatever is drawn to make them.
    """

    level: float = 0.95
    seed: int = 0

    @classmethod
    def of(cls, wanted: Intervals | Mapping[str, Any] | bool | None) -> Intervals | None:
        """Read ``True``, ``{"level": 0.9}`` and the like; None and False ask for no intervals.

        Raises:
            MetricError: A name is unknown or a value is out of range.
        """
        if wanted is None or wanted is False:
            return None
        given = {} if wanted is True else vars(wanted) if isinstance(wanted, Intervals) else dict(wanted)
        unknown = given.keys() - {"level", "seed"}
        if unknown:
            raise MetricError(f"intervals: expected level and seed, found {', '.join(sorted(map(str, unknown)))}")
        found = cls(**given)
        if isinstance(found.level, bool) or not isinstance(found.level, float) or not 0 < found.level < 1:
            raise MetricError(f"intervals: expected a level between 0 and 1, like 0.95, found {found.level!r}")
        if isinstance(found.seed, bool) or not isinstance(found.seed, int) or found.seed < 0:
            raise MetricError(f"intervals: expected a whole number from 0 as seed, found {found.seed!r}")
        return found


@dataclass(frozen=True)
class Difference:
    """How two synthetic sets differ in one metric against the same reference.

    Attributes:
        metric: Name in ``METRICS``.
        value: The first set's value less the second's.
        interval: Of the difference.
        better: ``first`` or ``second``, where the sets are separated: the interval does not hold 0. Else None: the
            ranking is open. Where nearer to 0.5 is better, the distances to 0.5 are what is compared.
        warnings: Sentences about how far the comparison can be trusted.
    """

    metric: str
    value: float
    interval: Interval
    better: str | None
    warnings: tuple[str, ...] = ()


def interval_of(value: MetricValue, metric: Metric, level: float) -> MetricValue:
    """A value with its interval, or with a warning that says why it has none."""
    noise = value.noise
    if not isinstance(noise, Noise):
        why = noise or metric.method or "no valid method is known"
        return replace(value, noise=None, warnings=(*value.warnings, f"no interval: {why}"))
    low, high = np.clip(_ends(value, noise, metric, level), *metric.bounds)
    interval = Interval(float(low), float(high), level, metric.method, math.sqrt(noise.variance))
    details = {**value.details, "bias": noise.bias} if noise.bias else value.details
    return replace(value, interval=interval, details=details)


def difference_of(first: MetricValue, second: MetricValue, *, level: float = 0.95) -> Difference:
    """Compare two sets that were measured against the same reference, with intervals of the same seed.

    What the reference contributes to both values cancels as far as both move together with its rows. The ends follow
    from those of the two values: Zou & Donner 2008, "Construction of confidence limits about effect measures: a
    general approach", https://doi.org/10.1002/sim.3095; for symmetric intervals that is the normal one.

    Args:
        first: A value of ``evaluate(..., intervals=...)``.
        second: The other set's value of the same metric.
        level: How often the interval is to hold the truth.

    Raises:
        MetricError: The values are of different metrics, versions, parameters or references, or carry no intervals.
    """
    noises = _noises(first, second)
    sides = [
        _Side(value.value, *_ends(value, noise, METRICS[value.metric], level), noise)
        for value, noise in zip((first, second), noises, strict=True)
    ]
    spread = _spread(*sides)
    error = math.sqrt(_variance(*sides))
    method = f"paired; {METRICS[first.metric].method}"
    low, high = (first.value - second.value + reach for reach in spread)
    return Difference(
        metric=first.metric,
        value=first.value - second.value,
        interval=Interval(low, high, level, method, error),
        better=_better(first.direction, *sides),
        warnings=_unequal(first, second),
    )


def _unequal(first: MetricValue, second: MetricValue) -> tuple[str, ...]:
    if first.n_synth == second.n_synth:
        return ()
    rows = f"{first.n_synth} and {second.n_synth} rows"
    return (f"the sets have {rows}: as far as the metric depends on the number of rows, that is in the difference",)


@dataclass(frozen=True)
class _Side:
    """One of two values that are compared, with the ends of its own interval."""

    value: float
    low: float
    high: float
    noise: Noise

    def mirrored(self) -> _Side:
        return _Side(-self.value, -self.high, -self.low, replace(self.noise, shared=-self.noise.shared))

    def distance_to(self, centre: float) -> _Side:
        moved = replace(self, value=self.value - centre, low=self.low - centre, high=self.high - centre)
        return moved if moved.value >= 0 else moved.mirrored()


def _noises(first: MetricValue, second: MetricValue) -> tuple[Noise, Noise]:
    for what in ("metric", "version", "parameters", "n_real", "width"):
        one, other = getattr(first, what), getattr(second, what)
        if one != other:
            raise MetricError(
                f"difference: expected two values of equal {what}, found {one!r} and {other!r}; "
                "compare values of one metric against one reference"
            )
    one, other = first.noise, second.noise
    if not isinstance(one, Noise) or not isinstance(other, Noise):
        raise MetricError(
            f"difference: expected values of '{first.metric}' with intervals, found one without; "
            "evaluate both with intervals=True, and see the values' warnings"
        )
    if len(one.shared) != len(other.shared) or one.count != other.count or one.reference != other.reference:
        raise MetricError(
            "difference: expected values against the same reference, with intervals of the same seed, found others; "
            "evaluate both sets against one Summaries(real)"
        )
    return one, other


def _ends(value: MetricValue, noise: Noise, metric: Metric, level: float) -> Ends:
    quantile = _quantile(level, noise.freedom)
    error = math.sqrt(noise.variance)
    rows = min(value.n_real, value.n_synth)
    if metric.bounds == SHARE and "uncapped" not in value.details:
        return _wilson(min(max(value.value, 0.0), 1.0), error, quantile, rows)
    reach = quantile * error
    middle = value.uncapped + (_bend(value.value - noise.bias, reach) if metric.squared else 0.0)
    low, high = middle - reach, middle + reach
    if "uncapped" not in value.details:
        return low, high
    low, high = (min(max(end, metric.bounds[0]), metric.bounds[1]) for end in (low, high))
    if value.value in SHARE:  # however far it was cut off
        bare = _wilson(value.value, 0.0, quantile, rows)
        low, high = min(low, bare[0]), max(high, bare[1])
    return low, high


@lru_cache(maxsize=1024)
def _quantile(level: float, freedom: float) -> float:
    """Kept, since scipy takes longer for one than a difference does for everything else."""
    return float(stats.t.ppf((1 + level) / 2, freedom))


def _bend(square: float, reach: float) -> float:
    """By how much an interval that is symmetric about the root of a value lies higher than one about the value.

    The root ``r = sqrt(v)`` has the error ``s / 2r``, and ``(r -+ q s / 2r)^2 = v -+ q s + (q s)^2 / 4v``. Where the
    value, less its bias, is within its noise it has no such root, and the last term stays what it is at the border.
    """
    return reach**2 / (4 * max(square, reach)) if reach > 0 else 0.0


def _wilson(share: float, error: float, quantile: float, rows: int) -> Ends:
    """Ends of a share with that standard error: those of a binomial share of as many draws as have that error.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference"; effective sample sizes
    as in Korn & Graubard 1998. A share of 0 or 1, or one without noise, counts as one of at most ``rows`` draws, so
    that it claims no certainty.
    """
    square = quantile**2
    inner = share if 0 < share < 1 else (rows * share + square / 2) / (rows + square)
    draws = inner * (1 - inner) / error**2 if error > 0 else math.inf
    if not 0 < share < 1 or error == 0:
        draws = min(draws, rows)
    centre = (share + square / (2 * draws)) / (1 + square / draws)
    reach = quantile / (1 + square / draws) * math.sqrt(share * (1 - share) / draws + square / (4 * draws**2))
    return min(centre - reach, share), max(centre + reach, share)


def _variance(first: _Side, second: _Side) -> float:
    shared = first.noise.shared - second.noise.shared
    return replace(first.noise, shared=shared, own=first.noise.own + second.noise.own, surplus=0.0).variance


def _spread(first: _Side, second: _Side) -> Ends:
    """How far the difference of two values reaches below and above itself."""
    one, other = math.sqrt(first.noise.variance), math.sqrt(second.noise.variance)
    together = (one**2 + other**2 - _variance(first, second)) / 2
    correlation = together / (one * other) if one * other > 0 else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(a**2 + b**2 - 2 * correlation * a * b, 0.0))

    below = reach(first.value - first.low, second.high - second.value)
    above = reach(first.high - first.value, second.value - second.low)
    return -below, above


def _better(direction: str, first: _Side, second: _Side) -> str | None:
    if direction == "nearer 0.5":
        first, second = first.distance_to(0.5), second.distance_to(0.5)
    below, above = _spread(first, second)
    gap = first.value - second.value
    if gap + below <= 0 <= gap + above:
        return None
    return "first" if (gap > 0) == (direction == "higher") else "second"


def reference_mark(real: Summaries, seed: int) -> str:
    """What two values must have in common to be compared as pairs: the reference, roughly, and the seed."""
    sample = real.features[:: max(1, len(real) // MARKED_ROWS)]
    return f"{hashlib.md5(np.ascontiguousarray(sample).tobytes(), usedforsecurity=False).hexdigest()}, seed {seed}"
