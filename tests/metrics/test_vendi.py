"""Vendi score: the samples of its README, and sets whose number of different rows is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics import Summarised, evaluate, vendi
from simet_cache.metrics.metric import Noise

Floats = NDArray[np.float64]


def value(synth: Floats) -> float:
    return evaluate(real=np.ones((2, synth.shape[1])), synth=synth, metrics=["vendi"])["vendi"].value


def with_cosines(cosines: Floats) -> Floats:
    """Rows of length 1 whose products are these."""
    values, vectors = np.linalg.eigh(cosines)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))


def by_definition(synth: Floats) -> float:
    unit = synth / np.linalg.norm(synth, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T / len(unit))
    values = values[values > 1e-14]
    return float(np.exp(-(values * np.log(values)).sum()))


def test_the_samples_of_the_readme() -> None:
    """https://github.com/vertaix/Vendi-Score: ``vendi.score(samples, k)`` and ``vendi.score_K(K)``."""
    samples = np.array([0, 0, 10, 10, 20, 20])
    assert value(with_cosines(np.exp(-np.abs(samples[:, None] - samples)))) == pytest.approx(2.9999, abs=1e-4)
    cosines = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert value(with_cosines(cosines)) == pytest.approx(2.1573, abs=5e-5)


@settings(max_examples=40)
@given(st.integers(2, 40), st.integers(1, 30), st.integers(0, 99))
def test_both_matrices_give_the_definition(n: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    synth = rng.standard_normal((n, width)) + rng.uniform(0, 2)
    assert value(synth) == pytest.approx(by_definition(synth), rel=1e-9)


@pytest.mark.parametrize("n", [4, 8, 400])
def test_it_counts_what_is_different(n: int) -> None:
    assert value(np.eye(4)[np.arange(n) % 4] * 7) == pytest.approx(4, rel=1e-12)
    assert value(np.eye(9)[np.arange(n) % 4]) == pytest.approx(4, rel=1e-12)
    assert value(np.full((n, 3), 0.1)) == pytest.approx(1, rel=1e-12)
    assert value(np.linspace(1, 2, n)[:, None]) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-50, 1e-30, 1e30, 1e40])
def test_lengths_change_nothing(scale: float) -> None:
    rng = np.random.default_rng(1)
    synth = rng.uniform(-1, 1, (20, 5))
    assert value(synth * scale) == pytest.approx(value(synth), rel=1e-9)
    assert value(synth * rng.uniform(1, 9, (20, 1))) == pytest.approx(value(synth), rel=1e-9)


def test_row_order_rotation_and_repetition_change_nothing() -> None:
    rng = np.random.default_rng(2)
    synth = rng.standard_normal((30, 5)) + 1
    turn, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    assert value(rng.permutation(synth) @ turn) == pytest.approx(value(synth), rel=1e-9)
    assert value(np.repeat(synth, 3, axis=0)) == pytest.approx(value(synth), rel=1e-9)


def test_a_common_offset_leaves_one_direction() -> None:
    rng = np.random.default_rng(3)
    assert value(rng.standard_normal((30, 5)) + 1e8) == pytest.approx(1, abs=1e-6)


def test_the_lines_for_a_gpu_find_the_same() -> None:
    synth = np.random.default_rng(9).standard_normal((30, 5))
    found = [vendi.summarise(synth, device=device).entropy for device in ("cpu", "cpu:0")]
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_the_real_set_is_not_looked_at() -> None:
    rng = np.random.default_rng(4)
    synth, real = rng.standard_normal((30, 5)), np.zeros((2, 5))
    assert evaluate(real=real, synth=synth, metrics=["vendi"])["vendi"].value == value(synth)


def test_few_rows_carry_a_warning() -> None:
    rng = np.random.default_rng(5)
    real, few = np.ones((2, 5)), rng.standard_normal((4, 5))
    (warning,) = evaluate(real=real, synth=few, metrics=["vendi"])["vendi"].warnings
    assert warning == "biased downward: synth has 4 rows for 5 features"
    assert evaluate(real=real, synth=np.vstack([few, few]), metrics=["vendi"])["vendi"].warnings == ()


def test_a_row_without_a_direction_is_named() -> None:
    synth = np.random.default_rng(6).standard_normal((9, 3))
    synth[7] = 0
    with pytest.raises(MetricError, match="row 7 zero everywhere"):
        value(synth)


@pytest.mark.parametrize(("n", "width"), [(80, 5), (300, 20)])
def test_noise_is_the_variance_of_repetitions(n: int, width: int) -> None:
    rng = np.random.default_rng(7)
    mixing, values, noises = rng.standard_normal((width, width)), [], []
    for _ in range(200):
        synth = rng.standard_normal((n, width)) @ mixing + 1
        sides = {"real": Summarised(synth, None), "synth": Summarised(synth, vendi.summarise(synth))}
        values.append(vendi.compare(**sides).value)
        noises.append(vendi.noise(**sides))
    assert np.mean([noise.variance for noise in noises]) == pytest.approx(np.var(values), rel=0.35)
    assert noises[0].shared.shape == (0,)


def test_noise_is_the_same_from_both_matrices() -> None:
    """Zero columns appended make the rows fewer than the features without changing a cosine."""
    synth = np.random.default_rng(8).standard_normal((60, 5)) * np.arange(1, 6)
    wide = np.pad(synth, ((0, 0), (0, 80)))
    found = [noise(rows).variance for rows in (synth, wide)]
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def noise(synth: Floats) -> Noise:
    found = vendi.noise(real=Summarised(synth, None), synth=Summarised(synth, vendi.summarise(synth)))
    assert isinstance(found, Noise)
    return found


def like_features(rng: np.random.Generator, n: int, width: int) -> Floats:
    """Rows whose spread falls slowly from one feature to the next: about as many directions as fit into the rows."""
    return np.asarray(rng.standard_normal((n, width)) / np.sqrt(np.arange(1, width + 1)))


@pytest.mark.parametrize(("n", "width"), [(50, 128), (100, 128), (200, 64)])
def test_intervals_of_few_rows_for_each_direction_hold_the_mean_over_repetitions(n: int, width: int) -> None:
    rng = np.random.default_rng(10)
    sets = [like_features(rng, n, width) for _ in range(150)]
    found = [evaluate(real=np.ones((2, width)), synth=synth, metrics=["vendi"], intervals=True) for synth in sets]
    truth = np.mean([each["vendi"].value for each in found])
    ends = [each["vendi"].interval for each in found]
    assert 0.91 <= np.mean([end.low <= truth <= end.high for end in ends]) <= 0.995  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("synth", "sentence"),
    [
        (like_features(np.random.default_rng(0), 2, 8), "it needs 50 synthetic rows; synth has 2"),
        (like_features(np.random.default_rng(0), 49, 8), "it needs 50 synthetic rows; synth has 49"),
        (np.random.default_rng(0).standard_normal((60, 400)), "it needs 1.5 rows for each of its directions; synth"),
        (np.random.default_rng(0).standard_normal((900, 2)), "the value is next to 2, the largest that there can be"),
        (np.ones((90, 1)), "the value is next to 1, the largest that there can be"),
    ],
)
def test_where_no_standard_error_is_known_to_hold_there_is_no_interval_but_a_reason(
    synth: Floats, sentence: str
) -> None:
    found = evaluate(real=synth, synth=synth, metrics=["vendi"], intervals=True)["vendi"]
    assert found.interval is None
    assert found.warnings[-1].startswith(f"no interval: {sentence}")
