"""Inception score against its definition, and sets of logits whose score is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax

from simet_cache.errors import MetricError
from simet_cache.metrics import MetricValue, Summarised, evaluate, inception_score, rows

Floats = NDArray[np.float64]


def measured(synth: Floats, **parameters: int) -> MetricValue:
    real = np.full((2, synth.shape[1]), 0.5)
    return evaluate(real=real, synth=synth, metrics={"inception_score": parameters})["inception_score"]


def by_definition(logits: Floats, splits: int, seed: int) -> Floats:
    shuffled, n = logits[np.random.default_rng(seed).permutation(len(logits))], len(logits)
    scores = []
    for part in range(splits):
        shares = softmax(shuffled[part * n // splits : (part + 1) * n // splits].astype(np.float64), axis=1)
        scores.append(np.exp((shares * np.log(shares / shares.mean(axis=0))).sum(axis=1).mean()))
    return np.array(scores)


@settings(max_examples=30)
@given(st.integers(10, 60), st.integers(1, 12), st.integers(1, 10), st.integers(0, 9))
def test_values_are_those_of_the_definition(n: int, classes: int, splits: int, seed: int) -> None:
    logits = np.random.default_rng(seed).standard_normal((n, classes)) * 3
    expected = by_definition(logits, splits, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK_ELEMENTS", 50)
        found = measured(logits, splits=splits, seed=seed)
    assert found.value == pytest.approx(expected.mean(), rel=1e-12)
    assert found.details["std"] == pytest.approx(expected.std(), rel=1e-9, abs=1e-12)


def test_sure_and_even_classes_score_their_number_and_unsure_ones_nothing() -> None:
    sure = 1e3 * np.eye(7)[np.arange(70) % 7] - 500
    assert measured(sure, splits=1).value == pytest.approx(7, rel=1e-9)
    assert measured(-np.ones((40, 7))).value == 1.0
    assert measured(sure[::7]).value == 1.0  # all of one class
    assert measured(-1e30 * np.eye(3)[np.arange(30) % 3], splits=1).value == pytest.approx(1.5, rel=1e-9)


def test_an_offset_of_each_row_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((50, 4))
    assert measured(logits + rng.integers(-9, 9, (50, 1))).value == pytest.approx(measured(logits).value, rel=1e-12)


def test_the_seed_decides_and_one_part_does_not_depend_on_it() -> None:
    logits = np.random.default_rng(2).standard_normal((50, 4))
    assert measured(logits, seed=1).value == measured(logits, seed=1).value != measured(logits, seed=0).value
    whole = [measured(logits, splits=1, seed=seed).value for seed in (0, 1)]
    assert whole[0] == pytest.approx(whole[1], rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_shares_are_float64(dtype: type) -> None:
    logits = np.random.default_rng(3).standard_normal((200, 30)).astype(dtype)
    assert measured(logits).value == pytest.approx(by_definition(logits, 10, 0).mean(), rel=1e-12)


def test_what_is_no_logits_is_said() -> None:
    rng = np.random.default_rng(4)
    (warning,) = measured(np.maximum(rng.standard_normal((300, 8)), 0)).warnings
    assert "no feature is negative" in warning
    assert measured(rng.standard_normal((300, 8))).warnings == ()


def test_parts_smaller_than_the_number_of_classes_are_said() -> None:
    (warning,) = measured(np.random.default_rng(5).standard_normal((79, 8))).warnings
    assert warning == "biased downward: parts of 7 rows for 8 classes"


def test_fewer_rows_than_parts_are_refused() -> None:
    logits = np.random.default_rng(6).standard_normal((9, 4))
    with pytest.raises(MetricError, match="expected at least 10 rows for 10 splits, found 9"):
        measured(logits)
    assert measured(logits, splits=9).value == 1.0
    side = Summarised(logits, None)
    parts = inception_score.parts_of(real=side, synth=side, splits=9, seed=0)
    assert inception_score.noise(real=side, synth=side, joint=parts).variance == 0.0


@pytest.mark.parametrize("splits", [1, 5])
def test_noise_is_the_variance_of_repetitions(splits: int) -> None:
    rng = np.random.default_rng(7)
    values, noises = [], []
    for _ in range(200):
        logits = rng.standard_normal((300, 6)) * 2 + np.arange(6)
        side = Summarised(logits, None)
        parts = inception_score.parts_of(real=side, synth=side, splits=splits, seed=0)
        values.append(inception_score.compare(real=side, synth=side, joint=parts).value)
        noises.append(inception_score.noise(real=side, synth=side, joint=parts))
    assert np.mean([noise.variance for noise in noises]) == pytest.approx(np.var(values), rel=0.35)
    assert noises[0].shared.shape == (0,)


@pytest.mark.parametrize("parameters", [{"splits": 0}, {"splits": 1.5}, {"seed": -1}, {"seed": True}])
def test_parameters_out_of_range_are_refused(parameters) -> None:
    with pytest.raises(MetricError, match="expected a whole number"):
        measured(-np.eye(30), **parameters)


def test_intervals_hold_where_parts_have_fewer_rows_than_classes() -> None:
    """The mean of the classes is then known from few rows, and moves with each of them."""
    values, errors = [], []
    for seed in range(200):
        rng = np.random.default_rng([seed, 8])
        kinds, logits = rng.integers(100, size=200), rng.standard_normal((200, 100))
        logits[np.arange(200), kinds] += 8 * rng.random(200)
        side = Summarised(logits, None)
        parts = inception_score.parts_of(real=side, synth=side, splits=10, seed=0)
        values.append(inception_score.compare(real=side, synth=side, joint=parts).value)
        errors.append(inception_score.noise(real=side, synth=side, joint=parts).variance ** 0.5)
    assert np.sqrt(np.mean(np.square(errors))) > 0.88 * np.std(values, ddof=1)
    held = np.mean(np.abs(np.array(values) - np.mean(values)) <= 1.96 * np.array(errors))
    assert held >= 0.91, held


def test_noise_is_that_of_the_jackknife() -> None:
    logits = np.random.default_rng(9).standard_normal((30, 7)) * 3
    side = Summarised(logits, None)
    parts = inception_score.parts_of(real=side, synth=side, splits=1, seed=0)
    without = [by_definition(np.delete(logits, row, axis=0), 1, 0)[0] for row in range(30)]
    expected = 29 / 30 * np.sum(np.square(without - np.mean(without)))
    assert inception_score.noise(real=side, synth=side, joint=parts).variance == pytest.approx(expected, rel=1e-9)
