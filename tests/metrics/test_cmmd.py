"""Kernel discrepancy of directions against its definition in extended precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics import Outcome, Summarised, cmmd, evaluate
from simet_cache.metrics.metric import Noise

Floats = NDArray[np.float64]


def value(real: Floats, synth: Floats, **parameters: float) -> float:
    return evaluate(real=real, synth=synth, metrics={"cmmd": parameters})["cmmd"].value


def measured(real: Floats, synth: Floats) -> tuple[Outcome, Noise]:
    sides = {
        name: Summarised(rows, cmmd.summarise(rows, sigma=10.0, normalise=True))
        for name, rows in (("real", real), ("synth", synth))
    }
    joint = cmmd.join(**sides, sigma=10.0, normalise=True)
    return cmmd.compare(**sides, joint=joint), cmmd.noise(**sides, joint=joint)


def by_definition(real: Floats, synth: Floats, *, sigma: float = 10.0, normalise: bool = True) -> float:
    def kernel(left: NDArray[np.longdouble], right: NDArray[np.longdouble]) -> NDArray[np.longdouble]:
        return np.expm1(-((left[:, None] - right[None]) ** 2).sum(axis=2) / (2 * np.longdouble(sigma) ** 2))

    x, y = (np.asarray(rows, dtype=np.longdouble) for rows in (real, synth))
    if normalise:
        x, y = (rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True)) for rows in (x, y))
    return 1000 * float(kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean())


def test_the_reference_code_gives_this_value() -> None:
    """``mmd`` of google-research's cmmd/distance.py, in float64, on the same rows scaled to length 1."""
    real = np.random.default_rng(0).standard_normal((40, 6))
    synth = 1.2 * np.random.default_rng(1).standard_normal((40, 6)) + 0.3
    assert value(real, synth) == pytest.approx(1.3305434631571966, rel=1e-6)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3, 1e6])
def test_values_are_those_of_the_definition(sigma: float, normalise: bool, offset: float) -> None:
    rng = np.random.default_rng(1)
    real, synth = rng.standard_normal((70, 9)) + offset, rng.standard_normal((50, 9)) * 1.1 + offset
    expected = by_definition(real, synth, sigma=sigma, normalise=normalise)
    assert value(real, synth, sigma=sigma, normalise=normalise) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "rows",
    [
        lambda rng, n: np.repeat(rng.standard_normal((4, 9)), n // 4, axis=0) + 1e-6 * rng.standard_normal((n, 9)),
        lambda rng, n: np.eye(9)[rng.integers(0, 3, n)],
        lambda rng, n: np.maximum(rng.standard_normal((n, 200)) + 1, 0),
        lambda rng, n: rng.standard_normal((n, 9)) * 1e-30,
        lambda rng, n: rng.standard_normal((n, 9)) * 1e30,
        lambda rng, n: rng.standard_normal((n, 9)).astype(np.float16),
        lambda rng, n: rng.standard_normal((n, 9)).astype(np.float32) + 1e4,
        lambda rng, n: rng.standard_normal((n, 1)) + 0.5,
    ],
    ids=["near duplicates", "few rows", "non-negative", "tiny", "huge", "float16", "float32, mean 1e4", "one column"],
)
def test_hard_sets_keep_six_digits(rows) -> None:
    """Two samples of one distribution: the value is then as small as it gets beside its terms."""
    rng = np.random.default_rng(2)
    real, synth = rows(rng, 120), rows(rng, 80)
    assert value(real, synth) == pytest.approx(by_definition(real, synth), rel=1e-6)


@settings(max_examples=25)
@given(st.integers(2, 20), st.integers(2, 20), st.integers(1, 4), st.integers(1, 6), st.booleans())
def test_tiles_of_any_size_give_the_definition(n: int, m: int, tile: int, panels: int, normalise: bool) -> None:
    rng = np.random.default_rng(3)
    real, synth = rng.standard_normal((n, 4)), rng.standard_normal((m, 4)) + 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cmmd, "TILE", tile)
        patch.setattr(cmmd, "PANEL", tile * panels)
        assert value(real, synth, normalise=normalise) == pytest.approx(
            by_definition(real, synth, normalise=normalise), rel=1e-6
        )


@pytest.mark.parametrize("tile", [1, 3, 7])
def test_tiles_of_any_size_give_the_same_noise(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(10)
    real, synth = rng.standard_normal((30, 4)), rng.standard_normal((20, 4)) + 0.8
    _, whole = measured(real, synth)
    monkeypatch.setattr(cmmd, "TILE", tile)
    monkeypatch.setattr(cmmd, "PANEL", 2 * tile)
    _, tiled = measured(real, synth)
    np.testing.assert_allclose(tiled.shared, whole.shared, rtol=1e-6)
    assert tiled.own == pytest.approx(whole.own, rel=1e-6)


@pytest.mark.parametrize("reach", [1e5, 1e7, 1e9, 1e39])
def test_rows_far_out_cost_no_digits_and_are_like_themselves(reach: float) -> None:
    rng = np.random.default_rng(11)
    real, synth = rng.standard_normal((9, 4)), rng.standard_normal((8, 4))
    real[2] = synth[[3, 4]] = reach * rng.standard_normal(4)
    synth[4] += 3
    expected = by_definition(real, synth, normalise=False)
    assert value(real, synth, normalise=False) == pytest.approx(expected, rel=1e-6)


def test_lengths_and_rotations_and_row_order_change_nothing() -> None:
    rng = np.random.default_rng(4)
    real, synth = rng.standard_normal((50, 6)), rng.standard_normal((40, 6)) + 0.3
    turn, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    longer = rng.uniform(0.1, 10, (50, 1))
    assert value(rng.permutation(longer * real) @ turn, 7 * synth @ turn) == pytest.approx(value(real, synth), rel=1e-6)
    assert value(synth, real) == pytest.approx(value(real, synth), rel=1e-6)


def test_a_set_is_at_distance_zero_from_itself() -> None:
    rng = np.random.default_rng(5)
    real = rng.standard_normal((60, 5)) + 2
    assert 0 <= value(real, real) < 1e-12
    assert value(np.full((5, 3), 2.0), np.full((4, 3), 7.0)) == 0.0


def test_two_directions_at_right_angles() -> None:
    expected = 2000 * (1 - np.exp(-2 / 200))
    assert value(np.array([[1.0, 0], [3, 0]]), np.array([[0, 1.0], [0, 5]])) == pytest.approx(expected, rel=1e-12)


def test_the_unbiased_estimate_stands_beside() -> None:
    rng = np.random.default_rng(6)
    found = [
        evaluate(real=rng.standard_normal((30, 4)), synth=rng.standard_normal((20, 4)), metrics=["cmmd"])["cmmd"]
        for _ in range(200)
    ]
    unbiased = [each.details["unbiased"] for each in found]
    assert abs(np.mean(unbiased)) < 4 * np.std(unbiased) / np.sqrt(len(unbiased))
    assert min(each.value for each in found) > 0


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.9, 1.7), (0.4, 0.7, 1.4)])
def test_noise_is_the_variance_of_repetitions(shift: float, low: float, high: float) -> None:
    rng = np.random.default_rng(7)
    found = [measured(rng.standard_normal((60, 5)), rng.standard_normal((50, 5)) + shift) for _ in range(200)]
    told = np.mean([noise.variance for _, noise in found])
    assert low < told / np.var([outcome.value for outcome, _ in found]) < high
    assert found[0][1].shared.shape == (60,)
    assert abs(found[0][1].shared.mean()) < 1e-12


def test_noise_is_not_lost_where_a_few_rows_come_over_and_over() -> None:
    rng = np.random.default_rng(9)
    found = [measured(rng.choice([-1.0, 1], (40, 1)), rng.choice([-1.0, 1], (30, 1))) for _ in range(200)]
    assert min(noise.variance for outcome, noise in found if outcome.value > 1e-9) > 0
    told = np.mean([noise.variance for _, noise in found])
    assert 0.5 < told / np.var([outcome.value for outcome, _ in found]) < 1.7


def test_a_row_without_a_direction_is_named() -> None:
    real = np.random.default_rng(8).standard_normal((9, 3))
    real[4] = 0
    with pytest.raises(MetricError, match="row 4 zero everywhere"):
        value(real, real)
    assert value(real, real, normalise=False) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("parameters", [{"sigma": 0}, {"sigma": "10"}, {"sigma": np.inf}, {"normalise": 1}])
def test_parameters_out_of_range_are_refused(parameters) -> None:
    with pytest.raises(MetricError, match="expected"):
        value(np.eye(3), np.eye(3), **parameters)
