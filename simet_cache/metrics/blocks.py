"""The noise of metrics of nearest neighbours and of probes, from disjoint parts of both sets.

Rows are dealt to the parts without replacement: a row that is drawn twice is its own nearest neighbour. What such a
metric counts about a row depends on the rows near it, so that the variance falls as 1/n, and the mean over B parts
varies about as much as the value on all rows. Their means may differ (balls are larger where rows are fewer): the
value is never taken from the parts, and where the variance is known to depend on it, it is corrected for that.

docs/decisions/0014 says what was tried against simulated truth. Subsampling of this kind: Politis, Romano & Wolf 1999,
"Subsampling"; why the jackknife is too wide for sums over neighbours: Efron & Stein 1981, "The jackknife estimate of
variance".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics.metric import MetricValue, Noise
from simet_cache.metrics.summaries import Summaries

BLOCKS = 10
FEWEST_IN_A_BLOCK = 50


def block_noise(
    whole: Mapping[str, MetricValue],
    values_of: Callable[..., Mapping[str, MetricValue]],
    *,
    real: Summaries,
    synth: Summaries,
    seed: int,
) -> dict[str, Noise | str]:
    """The noise of values whose variance falls as 1/n, from disjoint parts of both sets.

    Args:
        whole: The values on all rows.
        values_of: ``values_of(real=, synth=)``: the same metrics' values on other rows.
        real: The real set.
        synth: The synthetic set.
        seed: Of the order in which rows are dealt to the parts. Which rows go together depends on it and on the number
            of rows alone, so that the reference is cut in the same way for every set.

    Returns:
        The noise by the metrics' names, or why there is none.
    """
    fewest = BLOCKS * FEWEST_IN_A_BLOCK
    for side, rows in (("real", real), ("synth", synth)):
        if len(rows) < fewest:
            return dict.fromkeys(whole, f"it needs {BLOCKS} parts of the sets, {fewest} rows; {side} has {len(rows)}")
    dealt = zip(_dealt(len(real), seed), _dealt(len(synth), seed), strict=True)
    try:
        parts = [values_of(real=real.part(one), synth=synth.part(other)) for one, other in dealt]
    except MetricError as error:
        return dict.fromkeys(whole, f"there is no value on one of {BLOCKS} parts of the sets ({error})")
    return {name: _noise(value, [part[name] for part in parts]) for name, value in whole.items()}


def _dealt(rows: int, seed: int) -> Iterator[NDArray[np.intp]]:
    order = np.random.default_rng([seed, rows]).permutation(rows)
    return (np.sort(order[start::BLOCKS]) for start in range(BLOCKS))


def _noise(value: MetricValue, parts: list[MetricValue]) -> Noise:
    """The parts' values about their mean, stretched until they have the variance of the value on all rows."""
    found = np.array([part.uncapped for part in parts])
    spread = float(found.var(ddof=1)) / BLOCKS
    if isinstance(value.noise, Noise) and len(value.noise.shared):
        return _with_training(value.noise, parts, spread)
    if isinstance(value.noise, Noise):
        wanted = _of_balls(value.noise.variance, parts, spread)
    elif "uncapped" in value.details:
        wanted = spread
    else:
        wanted = _of_a_share(value.value, float(found.mean()), spread)
    if spread == 0.0:
        return Noise(found, count=BLOCKS, own=wanted, freedom=BLOCKS - 1)
    stretched = (found - found.mean()) * np.sqrt(wanted / spread)
    return Noise(stretched, count=BLOCKS, own=0.0, freedom=BLOCKS - 1)


def _with_training(known: Noise, parts: list[MetricValue], spread: float) -> Noise:
    """What is known row by row, which pairs two sets better than parts do, and what the parts say beyond it.

    The degrees of freedom are those of the sum (Satterthwaite 1946).
    """
    total = known.variance + max(spread - _known(parts), 0.0)
    freedom = (BLOCKS - 1) * max(total / spread, 1.0) ** 2 if spread > 0 else np.inf
    return replace(known, own=known.own + total - known.variance, freedom=freedom)


def _of_balls(known: float, parts: list[MetricValue], spread: float) -> float:
    """The parts' variance without what they know of themselves, and with what is known of the whole instead.

    What it replaces is either added to the rest, or the rest goes along with it; the larger one counts. The first is
    too small where few rows are neighbours of most (density in many dimensions), the second one near an end (precision
    in few dimensions).
    """
    theirs = _known(parts)
    added = known + max(spread - theirs, 0.0)
    return max(added, spread * known / theirs) if theirs > 0 else added


def _known(parts: list[MetricValue]) -> float:
    """Of the variance of the parts' mean, what they know of themselves."""
    return sum(part.noise.variance for part in parts if isinstance(part.noise, Noise)) / len(parts) / BLOCKS


def _of_a_share(whole: float, mean: float, spread: float) -> float:
    """As the variance of a share goes: with p (1 - p)."""
    here, there = whole * (1 - whole), mean * (1 - mean)
    return spread * here / there if here > 0 and there > 0 else spread
