"""How far a value would move if other rows had been drawn: intervals, and differences of two sets.

docs/decisions/0014 says which method is valid for which metric, and what was tried against simulated truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from simet_cache.errors import MetricError
from simet_cache.metrics.metric import Interval, Metric, MetricValue, Noise
from simet_cache.metrics.summaries import Summaries

BLOCKS = 20
FEWEST_IN_A_BLOCK = 50


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
        better: ``first`` or ``second``, where the interval does not hold 0; else None: the ranking is open.
    """

    metric: str
    value: float
    interval: Interval
    better: str | None


def interval_of(value: MetricValue, metric: Metric, level: float) -> MetricValue:
    """A value with its interval, or with a warning that says why it has none."""
    raise NotImplementedError


def difference_of(first: MetricValue, second: MetricValue, *, level: float = 0.95) -> Difference:
    """Compare two sets that were measured against the same reference, with intervals.

    Raises:
        MetricError: The values are of different metrics, parameters or references, or carry no intervals.
    """
    raise NotImplementedError


def block_noise(
    values_of: Callable[..., Mapping[str, MetricValue]], *, real: Summaries, synth: Summaries, seed: int
) -> dict[str, Noise]:
    """The noise of metrics whose value on a part of the rows varies as 1/n, from disjoint parts of both sets.

    Args:
        values_of: ``values_of(real=, synth=)``: the metrics' values.
        real: The real set.
        synth: The synthetic set.
        seed: Of the order in which rows are dealt to the parts.
    """
    raise NotImplementedError
