"""Which set is the best, and whether it is so by more than chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from simet_cache.metrics import METRICS, Difference, MetricValue, difference_of


def ranked(values: Mapping[str, MetricValue]) -> list[str]:
    """The names of the sets from the best value of one metric to the worst; equal ones in the order given."""
    return sorted(values, key=lambda name: _distance(values[name]))


def best_of(values: Mapping[str, MetricValue]) -> frozenset[str]:
    """The names of the sets with the best value of one metric: several where they are equal."""
    distances = {name: _distance(value) for name, value in values.items()}
    nearest = min(distances.values(), default=None)
    return frozenset(name for name, distance in distances.items() if distance == nearest)


def differences_of(
    values: Mapping[str, MetricValue],
    *,
    level: float,
    with_noise: Callable[[str], MetricValue | None] | None = None,
) -> dict[str, Difference]:
    """The best set less each other one, by the other's name: is the ranking separated?

    Args:
        values: Of one metric against one reference, by the name of the set.
        level: How often the intervals of the differences are to hold the truth.
        with_noise: Reads the value of a set with what ``difference_of`` needs beside it, which is as large as the
            reference: two are held at once, those of the best and of one other. None where it is gone. By default,
            ``values`` have it.

    Returns:
        Empty where the best has no interval, or what belongs to it is gone; without the other sets of which that is so.

    Raises:
        MetricError: The values cannot be compared, as they are of different references or parameters.
    """
    first = next(iter(ranked(values)), None)
    if first is None or values[first].interval is None:
        return {}
    others = [name for name, value in values.items() if name != first and value.interval is not None]
    read = with_noise or values.__getitem__
    best = read(first) if others else None
    if best is None:
        return {}

    def less(name: str) -> Difference | None:
        other = read(name)
        return None if other is None else difference_of(best, other, level=level)

    found = {name: less(name) for name in others}
    return {name: difference for name, difference in found.items() if difference is not None}


def _distance(value: MetricValue) -> float:
    return METRICS[value.metric].from_best(value.value)
