"""Density and coverage against brute force, their expectations, and what moves them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simet_cache.metrics import MetricValue, evaluate
from simet_cache.metrics.density_coverage import expected_coverage
from tests.metrics.brute import HARD, Floats, Maker, hard_pair, holds, two_modes


def values_of(real: Floats, synth: Floats, k: int = 5) -> dict[str, MetricValue]:
    return evaluate(real=real, synth=synth, metrics={"density": {"k": k}, "coverage": {"k": k}})


def both(real: Floats, synth: Floats, k: int = 5) -> tuple[float, float]:
    values = values_of(real, synth, k)
    return values["density"].value, values["coverage"].value


def brute(real: Floats, synth: Floats, k: int) -> tuple[float, float]:
    table = holds(real, synth, k)
    return table.sum(axis=0).mean() / min(k, len(real) - 1), table.any(axis=1).mean()


@pytest.mark.parametrize("make", HARD.values(), ids=HARD)
@pytest.mark.parametrize("k", [1, 5, 100])
def test_values_are_those_of_brute_force(make: Maker, k: int) -> None:
    real, synth = hard_pair(make)
    assert both(real, synth, k) == brute(real, synth, k)


@settings(max_examples=60)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 4), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_ties_everywhere(n: int, m: int, width: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, synth = (rng.integers(0, 4, (rows, width)).astype(np.float64) * 0.1 + 7e5 for rows in (n, m))
    assert both(real, synth, k) == brute(real, synth, k)


def test_a_dropped_mode_hurts_coverage_and_an_invented_one_hurts_density() -> None:
    two, one = two_modes()
    density, coverage = both(real=two, synth=one)
    assert density > 0.9
    assert coverage == pytest.approx(0.5, abs=0.02)
    density, coverage = both(real=one, synth=two)
    assert density == pytest.approx(0.5, abs=0.1)
    assert coverage > 0.85


def test_two_samples_of_one_source_have_the_expectation_of_the_papers() -> None:
    rng = np.random.default_rng(10)
    found = np.array([both(rng.random((60, 3)), rng.random((40, 3)), k=3) for _ in range(300)])
    expected = expected_coverage(n_real=60, n_synth=40, k=3)
    error = found.std(axis=0) / np.sqrt(len(found))
    assert found.mean(axis=0) == pytest.approx((1.0, expected), abs=float(4 * error.max()))
    assert error.max() < 0.01
    assert expected_coverage(n_real=2, n_synth=1, k=1) == 0.5  # either row may be the nearer one
    assert expected_coverage(n_real=10_000, n_synth=10_000, k=5) == pytest.approx(0.96877, abs=5e-6)


def test_coverage_says_what_it_would_be_for_two_samples_of_one_source() -> None:
    rng = np.random.default_rng(11)
    coverage = values_of(rng.random((30, 2)), rng.random((20, 2)))["coverage"]
    assert coverage.details == {"expected": expected_coverage(n_real=30, n_synth=20, k=5)}


def test_density_is_above_1_where_the_rows_crowd_in_the_middle() -> None:
    """Known to fail there: in many dimensions the middle is inside of most balls."""
    rng = np.random.default_rng(12)
    density, coverage = both(rng.standard_normal((300, 32)), 0.1 * rng.standard_normal((300, 32)))
    assert density > 10
    assert coverage > 0.9


def test_identical_and_disjoint_sets() -> None:
    features = np.random.default_rng(4).standard_normal((50, 6))
    assert both(features, features) == ((5 + 1) / 5, 1.0)  # each ball holds its k neighbours and its centre
    assert both(features, features + 1e3) == (0.0, 0.0)


def test_rotation_shift_scale_and_row_order_change_nothing() -> None:
    rng = np.random.default_rng(5)
    real, synth = rng.standard_normal((120, 6)), 0.8 * rng.standard_normal((90, 6)) + 0.3
    turn, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    moved = rng.permutation(real) @ turn * 7 + 1e3, rng.permutation(synth) @ turn * 7 + 1e3
    assert both(*moved) == both(real, synth)


def test_larger_k_never_lowers_the_counts_nor_coverage() -> None:
    rng = np.random.default_rng(6)
    real, synth = rng.standard_normal((60, 8)), rng.standard_normal((50, 8)) + 0.7
    found = np.array([(k * density, coverage) for k in range(1, 60, 6) for density, coverage in [both(real, synth, k)]])
    assert (np.diff(found, axis=0) >= -1e-12).all()
    assert (found[-1] > found[0]).all()


def test_k_beyond_the_real_set_is_lowered_with_a_warning() -> None:
    rng = np.random.default_rng(7)
    real, synth = rng.standard_normal((3, 2)), rng.standard_normal((20, 2))
    values = values_of(real, synth)
    for value in values.values():
        assert value.warnings == ("k=5 was lowered to 2: real has only 3 rows",)
    assert (values["density"].value, values["coverage"].value) == brute(real, synth, 2)
    assert all(value.warnings == () for value in values_of(synth, real).values())
