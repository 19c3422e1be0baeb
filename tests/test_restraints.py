"""Bounds, and what holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from simet_cache.config import RestraintConfig
from simet_cache.metrics import METRICS, Copies, MetricValue
from simet_cache.report.results import DatasetResult, Table
from simet_cache.restraints import Verdict, judge


def verdict(value: float | None, lower: float | None = None, upper: float | None = None) -> Verdict:
    return Verdict("set", "fid", value, lower, upper, "real", "fid_inception")


def copies_verdict(value: float | None) -> Verdict:
    return Verdict("set", "max_copies", value, None, 0, "real", "fid_inception")


@pytest.mark.parametrize(
    ("value", "lower", "upper", "passed"),
    [
        (1.0, 1.0, None, True),  # a bound itself is allowed
        (1.0, None, 1.0, True),
        (1.0, 1.0, 1.0, True),
        (math.nextafter(1, 0), 1.0, None, False),
        (math.nextafter(1, 2), None, 1.0, False),
        (1.5, 1.0, 2.0, True),
        (0.5, 1.0, 2.0, False),
        (2.5, 1.0, 2.0, False),
        (-0.1, 0.0, None, False),  # a bound of zero is a bound
        (0.1, None, 0.0, False),
        (math.nan, 1.0, None, False),
        (math.nan, None, None, False),
        (math.nan, None, 1.0, False),
        (math.inf, None, 1.0, False),
        (None, 1.0, None, False),
        (None, None, 1.0, False),
    ],
)
def test_bounds_are_inclusive_and_what_is_no_number_fails(
    value: float | None, lower: float | None, upper: float | None, passed: bool
) -> None:
    assert verdict(value, lower, upper).passed is passed


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (verdict(42.123456789, None, 40), "set: FID is 42.1235 (upper_bound 40)"),
        (verdict(0.5, 0, 1.5), "set: FID is 0.5 (lower_bound 0, upper_bound 1.5)"),
        (verdict(None, 0.7), "set: FID was not measured (lower_bound 0.7)"),
        (verdict(math.nan, 0.7), "set: FID is nan (lower_bound 0.7)"),
        (copies_verdict(12), "set: copies of real rows are 12 (max_copies 0)"),
        (copies_verdict(None), "set: copies of real rows were not counted (max_copies 0)"),
    ],
)
def test_a_verdict_in_words(one: Verdict, text: str) -> None:
    assert str(one) == text


def table(values: Mapping[str, Any], *, reference: str = "real", suffix: str = "fid_inception") -> Table:
    """Of ``{dataset: {metric: number}}``; an error in place of the numbers fails the dataset."""
    datasets = tuple(
        DatasetResult(name, suffix, error=numbers)
        if isinstance(numbers, str)
        else DatasetResult(
            name,
            suffix,
            values={
                metric: MetricValue(number, metric, 1, METRICS[metric].direction, {}, 9, 9, 9)
                for metric, number in numbers.items()
            },
        )
        for name, numbers in values.items()
    )
    return Table(DatasetResult(reference, suffix), datasets, ("fid", "precision"))


def test_every_restraint_is_judged_on_every_set_that_it_is_about() -> None:
    restraints = {
        "fid": RestraintConfig(upper_bound=40, datasets=["ckpt-*"]),
        "precision": RestraintConfig(lower_bound=0.7),
    }
    values = {
        "ckpt-1": {"fid": 50.0, "precision": 0.6},  # both broken: the first does not cut the second short
        "ckpt-2": {"fid": 30.0, "precision": 0.8},
        "failed": "no image",
        "other": {"fid": 90.0, "precision": 0.9},
    }
    assert [(one.dataset, one.metric, one.value, one.passed) for one in judge(restraints, [table(values)])] == [
        ("ckpt-1", "fid", 50.0, False),
        ("ckpt-1", "precision", 0.6, False),
        ("ckpt-2", "fid", 30.0, True),
        ("ckpt-2", "precision", 0.8, True),
        ("failed", "precision", None, False),
        ("other", "precision", 0.9, True),
    ]


@pytest.mark.parametrize(
    ("about", "judged"),
    [
        (
            {},
            {("r1", "resnet18_random0"), ("r1", "fid_inception"), ("r2", "resnet18_random0"), ("r2", "fid_inception")},
        ),
        ({"references": ["*2"]}, {("r2", "resnet18_random0"), ("r2", "fid_inception")}),
        ({"extractors": ["resnet18"]}, {("r1", "resnet18_random0"), ("r2", "resnet18_random0")}),  # by its name
        ({"extractors": ["*random0"]}, {("r1", "resnet18_random0"), ("r2", "resnet18_random0")}),  # by its suffix
        ({"extractors": ["resnet"]}, set()),
        ({"references": ["r1"], "extractors": ["fid*"], "datasets": ["a"]}, {("r1", "fid_inception")}),
        ({"references": ["r1"], "datasets": ["b"]}, set()),
    ],
)
def test_a_restraint_is_about_the_tables_that_match(about: dict[str, list[str]], judged: set[tuple[str, str]]) -> None:
    tables = [
        table({"a": {"fid": 3.0}}, reference=reference, suffix=suffix)
        for reference in ("r1", "r2")
        for suffix in ("resnet18_random0@CIFAR10", "fid_inception")
    ]
    verdicts = judge({"fid": RestraintConfig(upper_bound=2, **about)}, tables)
    assert {(one.reference, one.extractor) for one in verdicts} == judged
    assert not any(one.passed for one in verdicts)


def test_what_was_left_out_breaks_nothing_and_what_is_missing_does() -> None:
    restraints = {"fid": RestraintConfig(upper_bound=2), "kid": RestraintConfig(upper_bound=2)}  # no table has kid
    found = table({"left out": {}, "failed": "no image", "missing": {}})
    left_out, failed, missing = found.datasets
    found = replace(
        found,
        datasets=(replace(left_out, excluded=("fid",)), replace(failed, excluded=("precision",)), missing),
    )
    verdicts = judge(restraints, [found])
    assert [(one.dataset, one.metric, one.passed) for one in verdicts] == [
        ("failed", "fid", False),
        ("missing", "fid", False),
    ]


def test_a_verdict_may_call_its_subject_otherwise() -> None:
    assert verdict(3, None, 2).sentence("set against real") == "set against real: FID is 3 (upper_bound 2)"


def test_without_restraints_there_is_nothing_to_break() -> None:
    assert judge({}, [table({"set": {"fid": 1.0}})]) == []


def with_copies(found: Table, copies: Mapping[str, Copies | None]) -> Table:
    """The table with copies in the values of its datasets."""
    datasets = tuple(
        replace(one, values={name: replace(value, copies=copies.get(one.name)) for name, value in one.values.items()})
        for one in found.datasets
    )
    return replace(found, datasets=datasets)


def test_copies_exact_and_near_may_not_be_more_than_is_allowed() -> None:
    sets: dict[str, Any] = {name: {"fid": 1.0} for name in ("none", "few", "many", "nobody looked")}
    found = with_copies(
        table({**sets, "failed": "no image"}),
        {"none": Copies(0, 0, 100), "few": Copies(2, 1, 100), "many": Copies(0, 4, 100)},
    )
    verdicts = judge({"max_copies": RestraintConfig(upper_bound=3)}, [found])
    assert [(one.dataset, one.metric, one.value, one.passed) for one in verdicts] == [
        ("none", "max_copies", 0, True),
        ("few", "max_copies", 3, True),
        ("many", "max_copies", 4, False),
        ("nobody looked", "max_copies", None, False),
        ("failed", "max_copies", None, False),
    ]


def test_copies_are_judged_where_they_are_asked_about() -> None:
    tables = [
        with_copies(table({"a": {"fid": 3.0}, "b": {"fid": 3.0}}, suffix=suffix), {"a": Copies(1, 0, 9)})
        for suffix in ("resnet18_random0", "fid_inception")
    ]
    verdicts = judge({"max_copies": RestraintConfig(upper_bound=0, datasets=["a"], extractors=["fid*"])}, tables)
    assert [(one.dataset, one.extractor, one.passed) for one in verdicts] == [("a", "fid_inception", False)]


def test_a_set_of_which_nothing_is_asked_breaks_no_limit_of_copies() -> None:
    found = table({"left out": {}, "asked": {}})
    left_out, asked = found.datasets
    found = replace(found, datasets=(replace(left_out, excluded=("fid", "precision")), asked))
    verdicts = judge({"max_copies": RestraintConfig(upper_bound=0)}, [found])
    assert [(one.dataset, one.passed) for one in verdicts] == [("asked", False)]
