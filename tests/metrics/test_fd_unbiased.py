"""Frechet distance without the bias of few rows: its formula, and truths that are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics import MetricValue, Summaries, difference, evaluate

Floats = NDArray[np.float64]


def measured(real: Floats, synth: Floats, **options: object) -> MetricValue:
    return evaluate(real=real, synth=synth, metrics={"fd_unbiased": {}}, **options)["fd_unbiased"]  # type: ignore[arg-type]


def fid(real: Floats, synth: Floats) -> float:
    return evaluate(real=real, synth=synth, metrics=["fid"])["fid"].value


def halves(rows: Floats, seed: int) -> tuple[Floats, Floats]:
    order = np.random.default_rng([seed, len(rows)]).permutation(len(rows))
    return rows[order[: len(rows) // 2]], rows[order[len(rows) // 2 :]]


@pytest.mark.parametrize(("n", "m", "width"), [(90, 120, 6), (31, 20, 40), (4, 5, 2), (61, 61, 40)])
def test_it_is_twice_the_distance_less_that_of_the_halves(n: int, m: int, width: int) -> None:
    rng = np.random.default_rng(1)
    real, synth = rng.standard_normal((n, width)), 1.5 * rng.standard_normal((m, width)) + 1
    found = measured(real, synth)
    parts = [fid(*pair) for pair in zip(halves(real, 0), halves(synth, 0), strict=True)]
    whole = fid(real, synth)
    assert found.value == pytest.approx(2 * whole - sum(parts) / 2, rel=1e-9)
    assert found.details["all_rows"] == pytest.approx(whole, rel=1e-12)
    assert found.details["removed"] == pytest.approx(whole - found.value, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(128, 128), (256, 160)])
def test_few_rows_on_either_side_tell_the_distance_of_the_distributions(n: int, m: int) -> None:
    """From two rows for each feature on: within four percent of the bias that fid has there."""
    width, repetitions = 64, 40
    variances = 1 / np.arange(1.0, width + 1)
    others = variances * np.linspace(0.5, 1.5, width)
    shift = np.zeros(width)
    shift[0] = 0.5
    truth = 0.25 + np.square(np.sqrt(variances) - np.sqrt(others)).sum()
    values = []
    for repetition in range(repetitions):
        rng = np.random.default_rng([2, repetition])
        real = rng.standard_normal((n, width)) * np.sqrt(variances)
        values.append(measured(real, rng.standard_normal((m, width)) * np.sqrt(others) + shift))
    mean, bias = np.mean([one.value for one in values]), np.mean([one.details["all_rows"] for one in values]) - truth
    noise = np.std([one.value for one in values]) / np.sqrt(repetitions)
    assert bias > truth / 2
    assert abs(mean - truth) < 0.04 * bias + 3 * noise


def test_equal_distributions_are_at_distance_zero_and_below_it_as_often_as_above() -> None:
    values = [measured(*np.random.default_rng([3, n]).standard_normal((2, 200, 16))).value for n in range(60)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(60)
    assert 15 < np.sum(np.array(values) < 0) < 45


def test_two_sets_of_one_source_are_not_separated_more_often_than_stated() -> None:
    separated = 0
    for n in range(60):
        real, first, second = np.random.default_rng([4, n]).standard_normal((3, 150, 24))
        separated += (
            difference(real=real, first=first, second=second, metrics=["fd_unbiased"])["fd_unbiased"].better is not None
        )
    assert separated <= 7  # of 60 at 95%: more than 7 once in 50


def test_too_few_rows_are_said() -> None:
    rng = np.random.default_rng(5)
    assert measured(rng.standard_normal((12, 6)), rng.standard_normal((12, 6))).warnings == ()
    (warning,) = measured(rng.standard_normal((12, 6)), rng.standard_normal((11, 6))).warnings
    assert warning.startswith("still biased upward: synth has 11 rows for 6 features; with 12 on both sides")


def test_the_seed_decides_and_summaries_are_shared() -> None:
    real, synth = np.random.default_rng(6).standard_normal((2, 50, 4))
    reference = Summaries(real)
    one, other = (
        evaluate(real=reference, synth=synth, metrics={"fd_unbiased": {"seed": seed}})["fd_unbiased"].value
        for seed in (0, 1)
    )
    assert one != other
    assert len(reference.memo) >= 2
    with pytest.raises(MetricError, match="seed: expected a whole number of at least 0, found -1"):
        evaluate(real=real, synth=synth, metrics={"fd_unbiased": {"seed": -1}})


def test_three_rows_are_too_few() -> None:
    with pytest.raises(MetricError, match="expected at least 4 rows"):
        measured(np.ones((3, 2)), np.ones((9, 2)))


@pytest.mark.parametrize("metric", ["fid", "fd_unbiased", "fd_infinity"])
def test_intervals_of_heavy_tails_hold(metric: str) -> None:
    """The degrees of freedom follow from the rows' influences, of which few decide the variance."""
    found = []
    for seed in range(60):
        rng = np.random.default_rng([seed, 6])
        real, synth = (np.exp(rng.standard_normal((150, 3))) for _ in range(2))
        value = evaluate(real=real, synth=synth, metrics=[metric], intervals=True, device="cpu")[metric]
        assert value.interval is not None
        found.append((value.value, value.interval.low, value.interval.high))
    values, low, high = np.array(found).T
    held = float(((low <= values.mean()) & (values.mean() <= high)).mean())
    assert held >= 0.9, held
