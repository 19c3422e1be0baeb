"""Frechet distance of infinitely many rows: where the line leads, and how far it can be trusted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics import MetricValue, Summarised, evaluate, fd_infinity, fid, spectra
from simet_cache.metrics.metric import Noise

Floats = NDArray[np.float64]


def found(real: Floats, synth: Floats, **parameters: int) -> MetricValue:
    return evaluate(real=real, synth=synth, metrics={"fd_infinity": parameters})["fd_infinity"]


def drawn(rng: np.random.Generator, rows: int, width: int = 16) -> Floats:
    return rng.standard_normal((rows, width)) * np.logspace(0.3, -0.3, width)


def test_samples_of_one_distribution_are_at_distance_zero() -> None:
    rng = np.random.default_rng(1)
    real = drawn(rng, 20_000)
    values = [found(real, drawn(rng, 400)) for _ in range(12)]
    assert np.mean([value.details["all_rows"] for value in values]) > 0.2
    assert abs(np.mean([value.value for value in values])) < 0.1


def test_few_rows_tell_the_distance_of_many() -> None:
    rng = np.random.default_rng(2)
    real, synth = drawn(rng, 20_000), 1.3 * drawn(rng, 40_000) + 0.1
    many = evaluate(real=real, synth=synth, metrics=["fid"])["fid"].value
    few = [found(real, synth[start : start + 500]) for start in range(0, 5000, 500)]
    raised = np.mean([value.details["all_rows"] for value in few]) - many
    assert raised > 0.2
    assert abs(np.mean([value.value for value in few]) - many) < 0.3 * raised


def test_the_intercept_is_that_of_least_squares_over_prefixes_of_one_order() -> None:
    rng = np.random.default_rng(3)
    real, synth = drawn(rng, 300, 5), 2 * drawn(rng, 200, 5)
    value = found(real, synth, sizes=4, seed=7)
    order, rows = np.random.default_rng(7).permutation(200), np.array([20, 80, 140, 200])
    distances = [evaluate(real=real, synth=synth[order[:size]], metrics=["fid"])["fid"].value for size in rows]
    slope, intercept = np.polyfit(1 / rows, distances, 1)
    assert value.value == pytest.approx(intercept, rel=1e-9)
    assert value.details["slope"] == pytest.approx(slope, rel=1e-9)
    assert value.details["r_squared"] == pytest.approx(np.corrcoef(1 / rows, distances)[0, 1] ** 2, rel=1e-9)
    assert value.details["all_rows"] == pytest.approx(distances[-1], rel=1e-12)
    assert (value.details["smallest"], value.details["sizes"]) == (20, 4)


def test_the_seed_decides() -> None:
    rng = np.random.default_rng(4)
    real, synth = drawn(rng, 300), drawn(rng, 200)
    assert found(real, synth).value == found(real, synth, seed=0).value != found(real, synth, seed=1).value


@pytest.mark.parametrize(
    ("rows", "width", "smallest"),
    [
        (50_000, 2048, 5000),
        (10_000, 2048, 4096),
        (5000, 2048, 2500),
        (1000, 8, 100),
        (40, 16, 20),
        (3, 1, 2),
        (2, 9, 2),
    ],
)
def test_subsets_grow_from_a_tenth_or_from_twice_the_features(rows: int, width: int, smallest: int) -> None:
    line = fd_infinity.line(rows, width, 15)
    assert line.rows[0] == smallest
    assert line.rows[-1] == rows
    assert line.rows == sorted(set(line.rows))
    assert line.weights.sum() == pytest.approx(1)
    if len(line.rows) > 1:
        assert line.weights @ (1 / np.array(line.rows)) == pytest.approx(0, abs=1e-12)


@settings(max_examples=15)
@given(st.integers(2, 40), st.integers(1, 8), st.floats(-30, 30), st.integers(0, 2**32 - 1))
def test_scale_rotation_and_translation(rows: int, width: int, shift: float, seed: int) -> None:
    """Of both sets together; a translate of one moves every subset's mean, and the intercept is no longer quadratic."""
    rng = np.random.default_rng(seed)
    real, synth = rng.standard_normal((30, width)), rng.standard_normal((rows, width))
    turn, _ = np.linalg.qr(rng.standard_normal((width, width)))
    expected = pytest.approx(found(real, synth).value, rel=1e-7, abs=1e-7)
    assert found(real @ turn + shift, synth @ turn + shift).value == expected
    assert found(3 * real, 3 * synth).value / 9 == expected


def test_a_far_translate_is_at_about_the_squared_length_of_the_shift() -> None:
    rng = np.random.default_rng(5)
    real = drawn(rng, 2000)
    assert found(real, rng.permutation(real) + 100).value == pytest.approx(16 * 100**2, rel=1e-3)


def test_summaries_are_those_of_fid_and_the_whole_set_is_not_compared_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    calls: list[int] = []
    products = spectra.times_triangle
    monkeypatch.setattr(spectra, "times_triangle", lambda *args, **given: calls.append(1) or products(*args, **given))
    both = evaluate(real=drawn(rng, 300), synth=drawn(rng, 200), metrics={"fid": None, "fd_infinity": {"sizes": 5}})
    assert both["fd_infinity"].details["all_rows"] == both["fid"].value
    assert len(calls) == 5


@pytest.mark.parametrize("gap", [0.0, 0.5])
def test_intervals_hold_the_true_distance(gap: float) -> None:
    rng = np.random.default_rng(7)
    scales = 1 + gap * rng.uniform(-1, 1, 6)
    truth = 6 * (gap / 2) ** 2 + ((scales - 1) ** 2).sum()
    held, repetitions = 0, 100
    for _ in range(repetitions):
        real, synth = rng.standard_normal((400, 6)), rng.standard_normal((300, 6)) * scales + gap / 2
        sides = {name: Summarised(rows, fid.summarise(rows)) for name, rows in (("real", real), ("synth", synth))}
        noise = fd_infinity.noise(**sides, sizes=6)
        assert isinstance(noise, Noise)
        value = fd_infinity.compare(**sides, sizes=6).value
        held += abs(value - noise.bias - truth) <= 1.96 * np.sqrt(noise.variance)
    assert held / repetitions >= 0.88
    assert gap == 0 or held < repetitions


def test_the_noise_exceeds_that_of_the_distance_itself() -> None:
    """What the line extrapolates it also amplifies."""
    rng = np.random.default_rng(8)
    sides = {
        name: Summarised(rows, fid.summarise(rows))
        for name, rows in (("real", drawn(rng, 900)), ("synth", 1.5 * drawn(rng, 800)))
    }
    plain, extrapolated = fid.noise(**sides), fd_infinity.noise(**sides)
    assert isinstance(plain, Noise)
    assert isinstance(extrapolated, Noise)
    assert 1.2 < extrapolated.own / plain.own < 2
    assert 0 < extrapolated.bias < plain.bias


def test_few_rows_carry_warnings() -> None:
    rng = np.random.default_rng(9)
    few, many = drawn(rng, 12), drawn(rng, 60)
    assert found(many, drawn(rng, 60)).warnings == ()
    (real,) = found(few, many).warnings
    assert real.startswith("biased upward: real has 12 rows for 16 features")
    (synth,) = found(many, few).warnings
    assert synth.startswith("subsets of synth from 6 rows for 16 features")
    (two,) = found(many, drawn(rng, 2)).warnings
    assert "too few rows for subsets" in two
    noise = fd_infinity.noise(real=Summarised(many, fid.summarise(many)), synth=Summarised(few, fid.summarise(few)))
    assert noise == "expected more rows than the 16 features on both sides, found 60 and 12"


def test_identical_and_constant_sets_have_a_value() -> None:
    features = drawn(np.random.default_rng(10), 100, 4)
    assert found(features, features).details["all_rows"] == pytest.approx(0, abs=1e-9)
    constant = found(np.full((30, 4), 2.0), np.full((30, 4), 5.0))
    assert constant.value == pytest.approx(36, rel=1e-12)
    assert constant.details["slope"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("parameter", "given"), [("sizes", 1), ("sizes", 2.5), ("sizes", True), ("seed", -1)])
def test_numbers_that_make_no_sense_are_refused(parameter: str, given: object) -> None:
    with pytest.raises(MetricError, match=f"{parameter}: expected a whole number of at least"):
        evaluate(real=np.eye(3), synth=np.eye(3), metrics={"fd_infinity": {parameter: given}})
