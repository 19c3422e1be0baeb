"""Which set is the best, and whether that is luck."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from simet_cache.errors import MetricError
from simet_cache.metrics import MetricValue
from simet_cache.report.rankings import best_of, differences_of, ranked
from simet_cache.report.results import Table

Tables = Callable[..., Table]
Values = Callable[..., dict[str, MetricValue]]


@pytest.fixture
def values(table: Tables) -> Values:
    """Values of one metric by dataset."""

    def make(numbers: dict[str, Any], metric: str = "fid") -> dict[str, MetricValue]:
        return table({name: {metric: number} for name, number in numbers.items()}, metrics=(metric,)).values(metric)

    return make


def noisy(**numbers: float) -> dict[str, Any]:
    return {name: {"number": number, "error": 0.1} for name, number in numbers.items()}


def test_the_order_is_from_the_best_to_the_worst(values: Values) -> None:
    assert ranked(values({"a": 2.0, "b": 1.0, "c": 3.0})) == ["b", "a", "c"]
    assert ranked(values({"a": 2.0, "b": 1.0, "c": 2.0}, "recall")) == ["a", "c", "b"]
    assert ranked(values({"a": 0.9, "b": 0.55, "c": 0.4}, "roc_auc")) == ["b", "c", "a"]
    assert best_of(values({"a": 2.0, "b": 1.0, "c": 2.0}, "recall")) == {"a", "c"}
    assert best_of({}) == set()


def test_a_ranking_is_separated_where_the_difference_is_larger_than_its_noise(values: Values) -> None:
    differences = differences_of(values(noisy(a=1.0, near=1.2, far=2.0)), level=0.95)
    assert {name: one.better for name, one in differences.items()} == {"near": None, "far": "first"}
    assert differences["far"].value == -1.0
    assert differences["far"].interval.level == 0.95


def test_of_equal_ones_the_first_is_compared_with_the_others(values: Values) -> None:
    assert differences_of(values(noisy(z=2.0, b=1.0, a=1.0)), level=0.95).keys() == {"z", "a"}


def test_who_has_no_interval_is_compared_with_nobody(values: Values) -> None:
    assert differences_of(values({"a": 1.0, "b": 2.0}), level=0.95) == {}
    assert differences_of(values({"a": 1.0, **noisy(b=2.0)}), level=0.95) == {}  # the best one
    assert differences_of(values({**noisy(a=1.0, c=3.0), "b": 2.0}), level=0.95).keys() == {"c"}
    assert differences_of({}, level=0.95) == {}


def test_noise_that_is_gone_costs_its_differences_alone(values: Values) -> None:
    full = values(noisy(a=1.0, b=2.0, c=3.0))
    for gone, left in {"b": {"c"}, "a": set()}.items():
        found = differences_of(
            full, level=0.95, with_noise=lambda name, gone=gone: full[name] if name != gone else None
        )
        assert found.keys() == left


def test_noise_is_read_one_by_one_and_never_that_of_more_than_two(values: Values) -> None:
    """The differences need the noise of the best and of one other; what has been compared must be given up."""
    full = values(noisy(a=1.0, b=1.2, c=2.0, d=3.0))
    plain = {name: replace(value, noise=None) for name, value in full.items()}
    held: list[int] = []
    read: list[str] = []

    class Counted(MetricValue):
        def __del__(self) -> None:
            held.append(-1)

    def with_noise(name: str) -> MetricValue:
        read.append(name)
        held.append(1)
        assert sum(held) <= 2
        return Counted(**vars(full[name]))

    assert differences_of(plain, level=0.95, with_noise=with_noise) == differences_of(full, level=0.95)
    assert read == ["a", "b", "c", "d"]
    with pytest.raises(MetricError, match="expected values of 'fid' with intervals"):
        differences_of(plain, level=0.95)


def test_one_alone_is_not_even_read(values: Values) -> None:
    def with_noise(name: str) -> MetricValue:
        raise AssertionError(name)

    assert differences_of(values(noisy(a=1.0)), level=0.95, with_noise=with_noise) == {}
