"""Clipped density and coverage against brute force, their calibration, and outliers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from simet_cache.metrics import MetricValue, clipped, evaluate
from simet_cache.metrics.clipped import expected_coverage
from tests.metrics.brute import HARD, Floats, Maker, among_others, hard_pair, holds, radii, squared, two_modes


def values_of(real: Floats, synth: Floats, k: int = 5) -> dict[str, MetricValue]:
    return evaluate(real=real, synth=synth, metrics={"clipped_density": {"k": k}, "clipped_coverage": {"k": k}})


def both(real: Floats, synth: Floats, k: int = 5) -> tuple[float, float]:
    values = values_of(real, synth, k)
    return values["clipped_density"].value, values["clipped_coverage"].value


def brute_density(real: Floats, synth: Floats, k: int) -> float:
    k, reach = min(k, len(real) - 1), radii(real, k)[:, None]
    median = np.median(np.sqrt(reach))
    clipped = np.sqrt(reach) > median

    def filled(table: Floats) -> float:
        inside = np.where(clipped, np.sqrt(table) <= median, table <= reach)
        return float(np.minimum(inside.sum(axis=0) / k, 1).mean())

    return min(filled(squared(real, synth)) / filled(among_others(real)), 1.0)


def brute_coverage(real: Floats, synth: Floats, k: int) -> float:
    k = min(k, len(real) - 1)
    found = np.minimum(holds(real, synth, k).sum(axis=1) / k, 1).mean()
    held = np.arange(len(synth) + 1)
    expected = [
        (np.minimum(held[: m + 1] / k, 1) * stats.betabinom.pmf(held[: m + 1], m, k, len(real) - k)).sum() for m in held
    ]
    return float(np.interp(found, expected, held / len(synth)))


@pytest.mark.parametrize("make", HARD.values(), ids=HARD)
@pytest.mark.parametrize("k", [1, 5, 100])
def test_values_are_those_of_brute_force(make: Maker, k: int) -> None:
    real, synth = hard_pair(make)
    expected = brute_density(real, synth, k), brute_coverage(real, synth, k)
    assert both(real, synth, k) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=60)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 4), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_ties_everywhere(n: int, m: int, width: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, synth = (rng.integers(0, 4, (rows, width)).astype(np.float64) for rows in (n, m))
    expected = brute_density(real, synth, k), brute_coverage(real, synth, k)
    assert both(real, synth, k) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "k"), [(300, 200, 5), (7, 40, 5), (6, 3, 5), (2, 2, 1), (40, 7, 20)])
def test_expected_coverage_is_that_of_the_beta_binomial_distribution(n: int, m: int, k: int) -> None:
    found = expected_coverage(n_real=n, n_synth=m, k=k)
    for good in range(m + 1):
        held = np.arange(good + 1)
        probabilities = stats.betabinom.pmf(held, good, k, n - k)
        assert found[good] == pytest.approx((np.minimum(held / k, 1) * probabilities).sum(), rel=1e-9)


def test_many_rows_have_an_expectation_too() -> None:
    expected = expected_coverage(n_real=50_000, n_synth=50_000, k=5)
    assert expected[0] == 0.0
    assert (np.diff(expected) > 0).all()
    draws = np.random.default_rng(0).beta(5, 50_000 - 5, 200_000)
    held = np.random.default_rng(1).binomial(50_000, draws)
    assert expected[-1] == pytest.approx(np.minimum(held / 5, 1).mean(), abs=0.003)


@pytest.mark.parametrize("width", [2, 16])
@pytest.mark.parametrize("good", [1.0, 0.75, 0.5, 0.1])
def test_both_read_as_the_share_of_good_rows(width: int, good: float) -> None:
    rng = np.random.default_rng(2)
    real, synth = rng.random((1000, width)), rng.random((800, width))
    synth[int(800 * good) :] += 100
    density, coverage = both(real, synth)
    assert density == pytest.approx(good, abs=0.06)
    assert coverage == pytest.approx(good, abs=0.06)


def test_outliers_on_either_side_change_little() -> None:
    rng = np.random.default_rng(8)
    real, synth = rng.standard_normal((400, 4)), rng.standard_normal((400, 4)) + 20
    far = 40 * rng.standard_normal((4, 4)) + 40
    assert both(np.vstack([real, far]), synth)[0] < 0.02
    assert max(both(real, np.vstack([synth, -far]))) < 0.02
    plain = evaluate(real=np.vstack([real, far]), synth=synth, metrics=["density"])["density"].value
    assert plain > 0.1


def test_a_dropped_mode_hurts_the_coverage_and_an_invented_one_the_density() -> None:
    two, one = two_modes()
    density, coverage = both(real=two, synth=one)
    assert density > 0.9
    assert coverage < 0.55
    density, _ = both(real=one, synth=two)
    assert density == pytest.approx(0.5, abs=0.08)


def test_rows_crowded_in_the_middle_do_not_make_up_for_bad_ones() -> None:
    rng = np.random.default_rng(9)
    real = rng.standard_normal((500, 2))
    synth = np.vstack([0.05 * rng.standard_normal((250, 2)), rng.standard_normal((250, 2)) + 50])
    plain = evaluate(real=real, synth=synth, metrics=["density"])["density"].value
    assert plain > 0.75
    assert both(real, synth)[0] <= 0.5 / values_of(real, synth)["clipped_density"].details["ideal"]


def test_identical_and_disjoint_sets() -> None:
    features = np.random.default_rng(4).standard_normal((50, 6))
    assert both(features, features) == (1.0, 1.0)
    assert both(features, features + 1e3) == (0.0, 0.0)


def test_details_tell_what_was_calibrated() -> None:
    rng = np.random.default_rng(13)
    real, synth = rng.random((100, 3)), rng.random((50, 3)) * 1.5
    density, coverage = values_of(real, synth).values()
    assert density.value == density.details["uncalibrated"] / density.details["ideal"]
    assert coverage.details["ideal"] == expected_coverage(n_real=100, n_synth=50, k=5)[-1]
    filled = np.minimum(holds(real, synth, 5).sum(axis=1) / 5, 1)
    assert coverage.details["uncalibrated"] == pytest.approx(filled.mean(), rel=1e-12)


def test_more_than_all_rows_can_be_needed_before_the_value_is_capped() -> None:
    rng = np.random.default_rng(14)
    real = rng.standard_normal((300, 16))
    for value in values_of(real, 0.5 * rng.standard_normal((200, 16))).values():
        assert value.value == 1.0
        assert value.details["uncapped"] > 1.2
    for value in values_of(real, rng.standard_normal((200, 16)) + 0.5).values():
        assert value.details["uncapped"] == value.value < 1


def test_far_more_synthetic_rows_than_real_ones_have_a_value() -> None:
    rng = np.random.default_rng(15)
    coverage = values_of(rng.random((21, 2)), rng.random((5000, 2)), k=20)["clipped_coverage"]
    assert coverage.value == coverage.details["uncapped"] == 1.0
    assert coverage.details["ideal"] == pytest.approx(1.0, abs=1e-12)


def test_shared_rims_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(16)
    real, synth = rng.integers(0, 12, (90, 2)).astype(float), rng.integers(0, 12, (60, 2)).astype(float)
    expected = values_of(real, synth)["clipped_density"].details["ideal"]
    monkeypatch.setattr(clipped, "TIED_ROWS", 7)
    assert values_of(real, synth)["clipped_density"].details["ideal"] == expected < 1.0


def test_rotation_shift_scale_and_row_order_change_nothing() -> None:
    rng = np.random.default_rng(5)
    real, synth = rng.standard_normal((121, 6)), 0.8 * rng.standard_normal((90, 6)) + 0.6
    turn, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    moved = rng.permutation(real) @ turn * 7 + 1e3, rng.permutation(synth) @ turn * 7 + 1e3
    assert both(*moved) == both(real, synth)


def test_tied_rows_in_another_order_change_nothing() -> None:
    rng = np.random.default_rng(6)
    real, synth = rng.integers(0, 3, (90, 2)).astype(float), rng.integers(0, 5, (60, 2)).astype(float)
    assert both(real, synth)[0] < 1
    assert both(rng.permutation(real), rng.permutation(synth)) == both(real, synth)


def test_k_beyond_the_real_set_is_lowered_with_a_warning() -> None:
    rng = np.random.default_rng(7)
    real, synth = rng.standard_normal((3, 2)), rng.standard_normal((20, 2))
    for value in values_of(real, synth).values():
        assert value.warnings == ("k=5 was lowered to 2: real has only 3 rows",)
    assert both(real, synth) == pytest.approx((brute_density(real, synth, 2), brute_coverage(real, synth, 2)), rel=1e-9)
    assert all(value.warnings == () for value in values_of(synth, real).values())  # k beyond the synthetic set is fine
