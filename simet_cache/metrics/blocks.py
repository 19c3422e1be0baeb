"""The noise of metrics of nearest neighbours, from disjoint parts of both sets.

Rows are dealt to the parts without replacement: a row that is drawn twice is its own nearest neighbour. What such a
metric counts about a row depends on the rows near it, so that the variance falls as 1/n, and the mean over B parts
varies about as much as the value on all rows. Their means may differ (balls are larger where rows are fewer): the
value is never taken from the parts, and where the variance is known to depend on it, it is corrected for that.

The larger the parts, the nearer are their balls to those of the whole: with a tenth of 1,000 rows of twenty kinds, five
neighbours reach from one kind to the next, and density varies four times as much. Small sets are therefore cut into few
parts, and dealt again until there are as many degrees of freedom.

docs/decisions/0014 says what was tried against simulated truth. Subsampling of this kind: Politis, Romano & Wolf 1999,
"Subsampling"; why the jackknife is too wide for sums over neighbours: Efron & Stein 1981, "The jackknife estimate of
variance".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simet_cache.metrics import plain
from simet_cache.metrics.clipped import steepness
from simet_cache.metrics.metric import MetricValue, Noise
from simet_cache.metrics.plain import Distances, Part
from simet_cache.metrics.summaries import Summaries

BLOCKS = 10
FEWEST_IN_A_BLOCK = 50
ROWS = 500  # of the reference in a part, where that leaves two parts at least and ten at most
PLAIN_ROWS = 2048  # of a part, whose distances are held at once

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Cut:
    """Into how many parts sets are dealt, and how often.

    Attributes:
        parts: Disjoint ones, which together are the set.
        deals: Times that the sets are cut, each in another way.
    """

    parts: int
    deals: int

    @classmethod
    def of(cls, rows: int) -> Cut:
        """For a reference with that many rows; the synthetic set must not matter, or pairs would not fit together."""
        parts = min(max(rows // ROWS, 2), BLOCKS)
        return cls(parts, -(-(BLOCKS - 1) // (parts - 1)))

    @property
    def freedom(self) -> int:
        """Degrees of freedom of a variance within deals."""
        return self.deals * (self.parts - 1)

    def of_rows(self, rows: int, seed: int) -> Iterator[list[Indices]]:
        """The parts of each deal.

        Where a synthetic set is many times as large as a small reference, its halves would be no less work than it is:
        some of its rows are left out of each deal.
        """
        rng = np.random.default_rng([seed, rows])
        most = rows if self.deals == 1 else self.parts * PLAIN_ROWS
        for _ in range(self.deals):
            order = rng.permutation(rows)[:most]
            yield [np.sort(order[start :: self.parts]) for start in range(self.parts)]


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
            return dict.fromkeys(whole, f"it needs parts of both sets, {fewest} rows of each; {side} has {len(rows)}")
    cut = Cut.of(len(real))
    found = _plain_parts(whole, cut, real=real, synth=synth, seed=seed)
    if found is None:
        found = _parts(whole, values_of, cut, real=real, synth=synth, seed=seed)
    return {name: _noise(value, found[name], cut) for name, value in whole.items()}


def _plain_parts(
    whole: Mapping[str, MetricValue], cut: Cut, *, real: Summaries, synth: Summaries, seed: int
) -> dict[str, list[list[Part]]] | None:
    """What each metric finds on the parts of each deal; None where parts are too large, or rounding would decide."""
    if cut.deals == 1 and max(len(real), len(synth)) > cut.parts * PLAIN_ROWS:
        return None
    together = cut.deals > cut.parts and len(synth) <= cut.parts * PLAIN_ROWS  # is less work than every part by itself
    shared = Distances.of(real.features, synth.features) if together else None
    found: dict[str, list[list[Part]]] = {name: [] for name in whole}
    for dealt in zip(cut.of_rows(len(real), seed), cut.of_rows(len(synth), seed), strict=True):
        for values in found.values():
            values.append([])
        for rows, others in zip(*dealt, strict=True):
            if shared is None:
                part = Distances.of(real.features[rows], synth.features[others])
            else:
                part = shared.part(rows, others)
            if not part.exact_enough:
                return None
            for name, value in whole.items():
                found[name][-1].append(plain.VALUES[name](part, int(value.parameters["k"])))
    return found


def _parts(
    whole: Mapping[str, MetricValue],
    values_of: Callable[..., Mapping[str, MetricValue]],
    cut: Cut,
    *,
    real: Summaries,
    synth: Summaries,
    seed: int,
) -> dict[str, list[list[Part]]]:
    """The same through the metrics themselves."""
    found: dict[str, list[list[Part]]] = {name: [] for name in whole}
    for dealt in zip(cut.of_rows(len(real), seed), cut.of_rows(len(synth), seed), strict=True):
        values = [
            values_of(real=real.part(rows), synth=synth.part(others)) for rows, others in zip(*dealt, strict=True)
        ]
        for name, parts in found.items():
            parts.append([_part(each[name]) for each in values])
    return found


def _part(value: MetricValue) -> Part:
    known = value.noise.variance if isinstance(value.noise, Noise) else 0.0
    if isinstance(value.noise, str):  # authenticity, of which too few rows decide in a part: it is a share all the same
        known = value.value * (1 - value.value) / value.n_synth
    return Part(value.details["uncalibrated"] if value.metric == "clipped_coverage" else value.uncapped, known)


def _noise(value: MetricValue, deals: Sequence[Sequence[Part]], cut: Cut) -> Noise:
    """The parts' values about the mean of their deal, stretched until they have the variance of the value on all rows.

    Each has its row or column in ``shared``, so that two sets are compared part by part.
    """
    found = np.array([[part.value for part in parts] for parts in deals])
    theirs = float(np.mean([[part.known for part in parts] for parts in deals])) / cut.parts
    spread = float(found.var(axis=1, ddof=1).mean()) / cut.parts
    if isinstance(value.noise, Noise):
        wanted = _of_balls(value.noise.variance, theirs, spread)
    elif value.metric == "clipped_coverage":
        wanted = _of_a_calibrated_share(value, float(found.mean()), spread)
    elif "uncapped" in value.details:
        wanted = spread
    else:
        wanted = _of_a_share(value.value, float(found.mean()), spread)
    if spread == 0.0:
        return Noise(found.ravel(), count=found.size, own=wanted, freedom=cut.freedom)
    moved = (found - found.mean(axis=1, keepdims=True)).ravel()
    stretched = moved * np.sqrt(wanted * len(moved) / float(moved.var(ddof=1)))
    return Noise(stretched, count=len(moved), own=0.0, freedom=cut.freedom)


def _of_a_calibrated_share(value: MetricValue, mean: float, spread: float) -> float:
    """As the variance of the share that it was before, times the square of how steeply the calibration goes there."""
    before = value.details["uncalibrated"]
    slope = steepness(before, n_real=value.n_real, n_synth=value.n_synth, k=int(value.parameters["k"]))
    return _of_a_share(before, mean, spread) * slope**2


def _of_balls(known: float, theirs: float, spread: float) -> float:
    """The parts' variance without what they know of themselves, and with what is known of the whole instead.

    What it replaces is either added to the rest, or the rest goes along with it; the larger one counts. The first is
    too small where few rows are neighbours of most (density in many dimensions), the second one near an end (precision
    in few dimensions).
    """
    added = known + max(spread - theirs, 0.0)
    return max(added, spread * known / theirs) if theirs > 0 else added


def _of_a_share(whole: float, mean: float, spread: float) -> float:
    """As the variance of a share goes: with p (1 - p)."""
    here, there = whole * (1 - whole), mean * (1 - mean)
    return spread * here / there if here > 0 and there > 0 else spread
