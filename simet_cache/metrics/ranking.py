"""Which set is the best by a metric, and from which others it is separated by more than chance.

The best of K sets was picked because its value is the best one: comparing it with each other one at 95% calls one of
20 equal sets separated in 38 to 90% of all tries. Here the statements hold jointly: each difference gets the quantile
of Tukey's studentized range of K sets. It is the exact one for independent values of equal variance, and conservative
for unequal variances; what the shared reference adds to all values alike cancels in differences.

Sources: Tukey 1953; Kramer 1956, https://doi.org/10.2307/3001469; Hayter 1984, "A proof of the conjecture that the
Tukey-Kramer multiple comparisons procedure is conservative", https://doi.org/10.1214/aos/1176346392.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from scipy import stats

from simet_cache.errors import MetricError
from simet_cache.metrics.evaluate import evaluate_each, opened, resolve
from simet_cache.metrics.intervals import Difference, Intervals, difference_of, interval_of
from simet_cache.metrics.metric import MetricValue, Noise, Parameters
from simet_cache.metrics.table import METRICS


@dataclass(frozen=True)
class Ranking:
    """Sets in the order of one metric against one reference, and what may be said about the best of them.

    Attributes:
        metric: Name in ``METRICS``.
        level: How often everything that is said to be separated here is so, jointly.
        order: Names of the sets that can be compared, the best value first.
        differences: The best set less each other one, by the other's name, with intervals that hold jointly.
        separated: Names of the sets from which the best one is separated.
        open: Why it is not, by the other sets' names.
        left_out: Why a set takes no part in the ranking, by its name.
        remark: Why no set is called the best; empty where one may be.
        values: By the names of all sets.
    """

    metric: str
    level: float
    order: tuple[str, ...]
    differences: Mapping[str, Difference] = field(default_factory=dict)
    separated: tuple[str, ...] = ()
    open: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""
    values: Mapping[str, MetricValue] = field(default_factory=dict, compare=False, repr=False)

    @property
    def first(self) -> frozenset[str]:
        """The names with the best value; none where nothing is ranked by this metric, or a set stands alone."""
        if self.remark or len(self.order) < 2:
            return frozenset()
        metric = METRICS[self.metric]
        distances = {name: metric.from_best(self.values[name].value) for name in self.order}
        return frozenset(name for name, distance in distances.items() if distance == distances[self.order[0]])

    @property
    def best(self) -> str | None:
        """The set that is better than every other one by more than chance; None where there is none."""
        return self.order[0] if len(self.order) > 1 and not (self.open or self.remark) else None


def rank(
    *,
    real: object,
    synths: Mapping[str, object],
    metrics: Iterable[str] | Mapping[str, Parameters | None],
    level: float = 0.95,
    seed: int = 0,
    real_labels: object = None,
    device: str = "auto",
) -> dict[str, Ranking]:
    """Rank synthetic sets against one real set, and say what is more than chance.

    ::

        ranking = rank(real=real, synths={"10k": first, "20k": second}, metrics=["fid"])["fid"]
        ranking.order, ranking.separated, ranking.open

    Args:
        real: As in ``evaluate``; summaries of it are computed once.
        synths: By the names of the sets, each as ``synth`` in ``evaluate``; for metrics of labels, ``Summaries`` with
            labels.
        metrics: Names of ``METRICS``, or names with parameters that replace defaults.
        level: How often all statements of one ranking are to be right, jointly.
        seed: Of whatever is drawn for intervals.
        real_labels: Shape (N,): the class of each real row.
        device: As in ``evaluate``.

    Returns:
        The rankings by metric, in the order asked for. A set that cannot be measured is among ``left_out``.

    Raises:
        MetricError: A name or parameter is unknown, or the rows of a set cannot be used at all.
    """
    if not isinstance(synths, Mapping):
        raise MetricError(f"synths: expected a mapping of names to sets, found a {type(synths).__name__}")
    requests = resolve(metrics)
    intervals = Intervals.of({"level": level, "seed": seed})
    reference = opened(real, "real", real_labels, device)
    values: dict[str, dict[str, MetricValue]] = {metric: {} for metric in requests}
    failed: dict[str, dict[str, str]] = {metric: {} for metric in requests}
    for name, source in synths.items():
        synth = opened(source, name, None, device)
        measured, failures = evaluate_each(requests, real=reference, synth=synth, intervals=intervals)
        for metric, value in measured.items():
            values[metric][name] = value
        for metric, sentence in failures.items():
            failed[metric][name] = sentence
    return {
        metric: ranking_of(values[metric], metric=metric, level=level, left_out=failed[metric]) for metric in requests
    }


def ranked(values: Mapping[str, MetricValue]) -> list[str]:
    """The names of the sets from the best value of one metric to the worst; equal ones in the order given."""
    return sorted(values, key=lambda name: METRICS[values[name].metric].from_best(values[name].value))


def ranking_of(
    values: Mapping[str, MetricValue],
    *,
    metric: str,
    level: float,
    left_out: Mapping[str, str] | None = None,
    with_noise: Callable[[str], MetricValue | None] | None = None,
) -> Ranking:
    """Rank sets that have been measured.

    Args:
        values: Of one metric against one reference, by the name of the set.
        metric: The metric's name.
        level: How often the statements are to hold, jointly.
        left_out: Why other sets have no value, by their names.
        with_noise: Reads the value of a set with what ``difference_of`` needs beside it, which is as large as the
            reference: two are held at once, those of the best and of one other. None where it is gone. By default,
            ``values`` have it.

    Raises:
        MetricError: The values cannot be compared, as they are of different references or parameters.
    """
    excluded = {**(left_out or {}), **_not_comparable(values, metric)}
    order = [name for name in ranked(values) if name not in excluded]
    found = Ranking(metric, level, tuple(order), left_out=excluded, remark=METRICS[metric].no_best, values=dict(values))
    if len(order) < 2 or found.remark:
        return found
    differences, separated, open_ = _compared(order, metric, level, with_noise or values.__getitem__)
    return replace(found, differences=differences, separated=tuple(separated), open=open_)


def _not_comparable(values: Mapping[str, MetricValue], metric: str) -> dict[str, str]:
    """Sets that a ranking would be unfair to, or flattered by, with the reason."""
    found = {}
    for name, value in values.items():
        if value.copies is not None and value.copies.suspicious:
            copies = value.copies.exact + value.copies.near
            found[name] = f"{copies} of its {value.copies.rows} rows are copies of real ones"
    rest = {name: value.n_synth for name, value in values.items() if name not in found}
    if METRICS[metric].counts_matter and len(set(rest.values())) > 1:
        times = Counter(rest.values())
        usual = max(times, key=lambda count: (times[count], count))
        for name, count in rest.items():
            if count != usual:
                found[name] = f"{count} rows, others {usual}: the metric depends on the number of rows"
    return found


def _compared(
    order: list[str], metric: str, level: float, read: Callable[[str], MetricValue | None]
) -> tuple[dict[str, Difference], list[str], dict[str, str]]:
    """The best less each other set; the others from which it is separated; and why not, for the rest."""
    first, *others = order
    best = read(first)
    why = _without_noise(best)
    if best is None or why:
        return {}, [], dict.fromkeys(others, f"{first} has no interval: {why}")
    differences, separated, open_ = dict[str, Difference](), list[str](), dict[str, str]()
    joint = joint_level(level, len(order))
    within = f"the interval of the difference holds 0, at {100 * level:.6g}% for all {len(order)} sets together"
    other: MetricValue | None
    for name in others:
        other = None  # given up before the next is read, as its noise is large
        other = read(name)
        why = _without_noise(other)
        if other is None or why:
            open_[name] = f"{name} has no interval: {why}"
            continue
        differences[name] = difference_of(best, other, level=joint)
        if differences[name].better == "first" and not _enough(other, metric, joint):
            separated.append(name)
        else:
            open_[name] = within
    return differences, separated, open_


def _without_noise(value: MetricValue | None) -> str:
    """Why a value cannot be compared with others; empty where it can."""
    if value is None:
        return "what belongs to its value is no longer there; run again"
    if isinstance(value.noise, Noise):
        return ""
    said = [warning for warning in value.warnings if warning.startswith("no interval: ")]
    return said[0].removeprefix("no interval: ") if said else "no intervals were asked for; set intervals: true"


def _enough(value: MetricValue, metric: str, level: float) -> bool:
    """Whether a value can be one beyond which more is no better, so that nothing is better than it."""
    sufficient, interval = METRICS[metric].sufficient, interval_of(value, METRICS[metric], level).interval
    return sufficient is not None and interval is not None and interval.high >= sufficient


@lru_cache(maxsize=256)
def joint_level(level: float, sets: int) -> float:
    """The level of each difference at which those of all pairs of so many sets hold jointly at ``level``."""
    if sets <= 2:
        return level
    reach = float(stats.studentized_range.ppf(level, sets, math.inf)) / math.sqrt(2)
    return 1.0 - 2.0 * float(stats.norm.sf(reach))
