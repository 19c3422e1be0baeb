"""Numbers as people read them: intervals as they are, cut to what they tell, and below each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simet_cache.metrics import METRICS, Copies, Interval, MetricValue
from simet_cache.report.numbers import aligned, bias_of, written


def value(
    number: float, low: float | None = None, high: float | None = None, *, metric: str = "kid", bias: float = 0.0
) -> MetricValue:
    return MetricValue(
        value=number,
        metric=metric,
        version=1,
        direction=METRICS["kid"].direction,
        parameters={},
        n_real=100,
        n_synth=100,
        width=8,
        details={"bias": bias} if bias else {},
        interval=None if low is None or high is None else Interval(low, high, 0.95, "made up", 0.1),
    )


@pytest.mark.parametrize(
    ("number", "low", "high", "shown"),
    [
        (0.0056, 0.0007, 0.04, ("0.0056", "[0.0007, 0.0400]")),  # the shorter arm is the finer one
        (12.153, 10.5, 13.93, ("12.2", "[10.5, 13.9]")),
        (162.31, 140.2, 190.7, ("162", "[140, 191]")),
        (1623.1, 1402.0, 1907.0, ("1623", "[1402, 1907]")),  # no digit before the point is cut off
        (0.91234, 0.85, 0.9512, ("0.912", "[0.850, 0.951]")),
        (0.0, 0.0, 0.04, ("0.0000", "[0.0000, 0.0400]")),  # one arm alone
        (1.0, 0.93, 1.0, ("1.0000", "[0.9300, 1.0000]")),
        (0.99999, 0.98, 1.0, ("1.0000", "[0.9800, 1.0000]")),  # an arm next to none does not ask for ten digits
        (-0.000002, -0.0018, 0.0009, ("0.00000", "[-0.00180, 0.00090]")),  # and no minus before a zero
        (3.0, 3.0, 3.0, ("3", "[3, 3]")),
        (1.2345e-7, 1.1e-7, 1.4e-7, ("1.23e-07", "[1.10e-07, 1.40e-07]")),
        (1.6234e9, 1.4e9, 1.9e9, ("1.62e+09", "[1.40e+09, 1.90e+09]")),
    ],
)
def test_an_interval_is_shown_as_it_is_with_as_many_digits_as_it_tells(
    number: float, low: float, high: float, shown: tuple[str, str]
) -> None:
    assert written(value(number, low, high)) == shown


@pytest.mark.parametrize(("number", "shown"), [(0.912345, "0.9123"), (3.0, "3"), (123456.0, "1.235e+05")])
def test_a_value_alone_has_four_digits(number: float, shown: str) -> None:
    assert written(value(number)) == (shown, "")


def test_numbers_stand_below_each_other_by_their_points_and_so_do_words() -> None:
    column = [("0.0056", "[0.0007, 0.0400]", "(*)"), ("162", "[140, 191]", ""), ("-12.2", "", ""), ("3e+09", "", "*")]
    assert aligned(column) == [
        "  0.0056 [0.0007, 0.0400] (*)",
        "162      [140, 191]          ",
        "-12.2                        ",
        "  3e+09                   *  ",
    ]
    assert aligned([("1", "", ""), ("10", "", "")]) == [" 1", "10"]
    assert aligned([]) == []


@pytest.mark.parametrize(
    ("of", "biased"),
    [
        (value(12.15, 10.5, 13.9, bias=10.94), True),
        (value(12.15, 10.5, 13.9, bias=1.69), False),  # half of the interval is 1.7
        (value(12.15, 10.5, 13.9), False),
        (value(12.15, bias=6.1), True),
        (value(12.15, bias=6.0), False),
        (value(1.2, 0.9, 1.5, metric="fd_unbiased", bias=10.94), False),  # which is what it has been freed of
    ],
)
def test_a_bias_counts_where_the_interval_does_not_tell_it(of: MetricValue, biased: bool) -> None:
    assert bias_of(of) == (of.details["bias"] if biased else None)


def test_a_set_of_copies_has_no_bias_that_could_be_estimated() -> None:
    copied = replace(value(0.0, 0.0, 0.1, bias=0.8), copies=Copies(exact=100, near=0, rows=100))
    assert bias_of(copied) is None
