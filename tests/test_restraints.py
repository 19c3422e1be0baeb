"""Bounds, and what holds them."""

from __future__ import annotations

import math

import pytest

from simet_cache.config import RestraintConfig
from simet_cache.restraints import Verdict, judge


def verdict(value: float | None, lower: float | None = None, upper: float | None = None) -> Verdict:
    return Verdict("set", "fid", value, lower, upper)


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
        (verdict(42.123456789, None, 40), "set: fid is 42.1235 (upper_bound 40)"),
        (verdict(0.5, 0, 1.5), "set: fid is 0.5 (lower_bound 0, upper_bound 1.5)"),
        (verdict(None, 0.7), "set: fid was not measured (lower_bound 0.7)"),
        (verdict(math.nan, 0.7), "set: fid is nan (lower_bound 0.7)"),
    ],
)
def test_a_verdict_in_words(one: Verdict, text: str) -> None:
    assert str(one) == text


def test_every_restraint_is_judged_on_every_set_that_it_is_about() -> None:
    restraints = {
        "fid": RestraintConfig(upper_bound=40, datasets=["ckpt-*"]),
        "precision": RestraintConfig(lower_bound=0.7),
    }
    values = {
        "ckpt-1": {"fid": 50.0, "precision": 0.6},  # both broken: the first does not cut the second short
        "ckpt-2": {"fid": 30.0, "precision": 0.8},
        "failed": {},
        "other": {"fid": 90.0, "precision": 0.9},
    }
    assert [(one.dataset, one.metric, one.value, one.passed) for one in judge(restraints, values)] == [
        ("ckpt-1", "fid", 50.0, False),
        ("ckpt-1", "precision", 0.6, False),
        ("ckpt-2", "fid", 30.0, True),
        ("ckpt-2", "precision", 0.8, True),
        ("failed", "precision", None, False),
        ("other", "precision", 0.9, True),
    ]


def test_without_restraints_there_is_nothing_to_break() -> None:
    assert judge({}, {"set": {"fid": 1.0}}) == []
