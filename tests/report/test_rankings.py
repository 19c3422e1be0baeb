"""Which set is the first of a table, whether that is luck, and how many large arrays are held to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from simet_cache.metrics import MetricValue, Ranking, ranked, ranking_of
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


def ranking(values: dict[str, MetricValue], metric: str = "fid", **options: Any) -> Ranking:
    return ranking_of(values, metric=metric, level=0.95, **options)


def test_the_order_is_from_the_best_to_the_worst(values: Values) -> None:
    assert ranked(values({"a": 2.0, "b": 1.0, "c": 3.0})) == ["b", "a", "c"]
    assert ranked(values({"a": 2.0, "b": 1.0, "c": 2.0}, "recall")) == ["a", "c", "b"]
    assert ranked(values({"a": 0.9, "b": 0.55, "c": 0.4}, "roc_auc")) == ["b", "c", "a"]
    assert ranking(values({"a": 2.0, "b": 1.0, "c": 2.0}, "recall"), "recall").first == {"a", "c"}
    assert ranking({}).first == set()


def test_a_ranking_is_separated_where_the_difference_is_larger_than_its_noise(values: Values) -> None:
    found = ranking(values(noisy(a=1.0, near=1.2, far=2.0)))
    assert (found.separated, set(found.open), found.best) == (("far",), {"near"}, None)
    assert found.differences["far"].value == -1.0
    assert found.differences["far"].interval.level > 0.95  # so that both of them hold at 95%


def test_of_equal_ones_the_first_is_compared_with_the_others(values: Values) -> None:
    assert ranking(values(noisy(z=2.0, b=1.0, a=1.0))).differences.keys() == {"z", "a"}


def test_who_has_no_interval_is_compared_with_nobody(values: Values) -> None:
    assert ranking(values({"a": 1.0, "b": 2.0})).differences == {}
    assert ranking(values({"a": 1.0, **noisy(b=2.0)})).differences == {}  # the best one
    assert ranking(values({**noisy(a=1.0, c=3.0), "b": 2.0})).differences.keys() == {"c"}
    assert ranking({}).differences == {}


def test_noise_that_is_gone_costs_its_differences_alone(values: Values) -> None:
    full = values(noisy(a=1.0, b=2.0, c=3.0))
    for gone, left in {"b": {"c"}, "a": set()}.items():
        found = ranking(full, with_noise=lambda name, gone=gone: full[name] if name != gone else None)
        assert found.differences.keys() == left
        assert all("run again" in found.open[name] for name in {"b", "c"} - left)


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

    found = ranking(plain, with_noise=with_noise)
    assert found == ranking(full)
    assert read == ["a", "b", "c", "d"]
    assert all(value.noise is None for value in found.values.values())
    assert set(ranking(plain).open) == {"b", "c", "d"}


def test_one_alone_is_not_even_read(values: Values) -> None:
    def with_noise(name: str) -> MetricValue:
        raise AssertionError(name)

    assert ranking(values(noisy(a=1.0)), with_noise=with_noise).differences == {}
