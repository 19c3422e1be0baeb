"""Frechet distance: values that algebra gives, and rank-deficient covariances against high precision."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simet_cache.metrics import Summarised, evaluate, fid, rows

Floats = NDArray[np.float64]


def value(real: Floats, synth: Floats) -> float:
    return evaluate(real=real, synth=synth, metrics=["fid"])["fid"].value


def trace(features: Floats) -> float:
    return float(features.var(axis=0, ddof=1).sum())


def precise_fid(real: Floats, synth: Floats, digits: int = 60) -> float:
    """The definition, Tr((Sr Ss)^1/2) from the eigenvalues of the small M x M Gram product, in ``digits`` digits."""
    with mpmath.workdps(digits):
        x, y = mpmath.matrix(real.tolist()), mpmath.matrix(synth.tolist())
        means = [mpmath.matrix([sum(m[:, j]) / m.rows for j in range(m.cols)]) for m in (x, y)]
        for m, centre in ((x, means[0]), (y, means[1])):
            for i in range(m.rows):
                for j in range(m.cols):
                    m[i, j] -= centre[j]
        scale = mpmath.mpf((x.rows - 1) * (y.rows - 1))
        cross = x * y.T
        shared = sum(mpmath.sqrt(max(v, 0)) for v in mpmath.eigsy(cross.T * cross / scale, eigvals_only=True))
        spread = mpmath.mnorm(x, "f") ** 2 / (x.rows - 1) + mpmath.mnorm(y, "f") ** 2 / (y.rows - 1)
        return float(mpmath.norm(means[0] - means[1]) ** 2 + spread - 2 * shared)


def with_spectrum(rng: np.random.Generator, n: int, rank: int, width: int) -> Floats:
    scales = np.logspace(0, -4, rank)
    return rng.standard_normal((n, rank)) * scales @ rng.standard_normal((rank, width)) + rng.standard_normal(width)


def test_gaussians_have_the_analytic_distance() -> None:
    rng = np.random.default_rng(1)
    width, n = 16, 40_000
    real = rng.standard_normal((n, width))
    synth = 1.5 * rng.standard_normal((n, width)) + 0.25
    assert value(real, synth) == pytest.approx(width * 0.25**2 + width * 0.5**2, rel=0.03)


@pytest.mark.parametrize(("n", "width"), [(200, 8), (20, 50), (50, 50), (51, 50), (2, 5), (300, 1)])
def test_a_set_is_at_distance_zero_from_itself_and_from_its_reordering(n: int, width: int) -> None:
    rng = np.random.default_rng(2)
    real = rng.standard_normal((n, width)) @ rng.standard_normal((width, width)) + 100
    assert 0 <= value(real, real) <= 1e-9 * trace(real)
    assert 0 <= value(real, rng.permutation(real)) <= 1e-9 * trace(real)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(1, 30), st.floats(-100, 100), st.integers(0, 2**32 - 1))
def test_a_translate_is_at_the_squared_length_of_the_shift(n: int, width: int, length: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, shift = rng.standard_normal((n, width)), length * rng.standard_normal(width)
    assert value(real, real + shift) == pytest.approx(shift @ shift, rel=1e-9, abs=1e-10)


@pytest.mark.parametrize(
    ("n", "m", "rank", "width"), [(20, 20, 50, 50), (20, 15, 5, 50), (60, 20, 8, 30), (60, 25, 30, 30), (12, 9, 1, 10)]
)
def test_rank_deficient_covariances_agree_with_sixty_digits(n: int, m: int, rank: int, width: int) -> None:
    rng = np.random.default_rng(3)
    real, synth = with_spectrum(rng, n, rank, width), with_spectrum(rng, m, rank, width)
    assert abs(value(real, synth) - precise_fid(real, synth)) <= 1e-12 * (trace(real) + trace(synth))


def test_spectra_that_do_not_overlap_keep_every_digit() -> None:
    """Directions of variance 1e-14 beside 1: roots of a covariance's eigenvalues would be off by 1e-8 here."""
    rng = np.random.default_rng(4)
    real, synth = rng.standard_normal((40, 6)), rng.standard_normal((40, 6))
    real[:, :3] *= 1e-7
    synth[:, 3:] *= 1e-7
    assert abs(value(real, synth) - precise_fid(real, synth)) <= 1e-13


def test_both_routes_meet_where_the_rows_outnumber_the_features() -> None:
    """Zero columns appended turn the QR route into the centred-rows route without changing the distance."""
    rng = np.random.default_rng(5)
    real, synth = rng.standard_normal((70, 40)), rng.standard_normal((60, 40)) * 2
    wide = [np.pad(features, ((0, 0), (0, 60))) for features in (real, synth)]
    assert value(real, synth) == pytest.approx(value(wide[0], wide[1]), rel=1e-12)


def test_rotation_and_exchange_change_nothing() -> None:
    rng = np.random.default_rng(6)
    real, synth = rng.standard_normal((80, 12)), 3 * rng.standard_normal((50, 12)) + 1
    turn, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    assert value(real @ turn, synth @ turn) == pytest.approx(value(real, synth), rel=1e-11)
    assert value(synth, real) == pytest.approx(value(real, synth), rel=1e-11)


def test_the_factor_does_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(7).standard_normal((101, 5)) + 1e6
    factor = fid.summarise(features).factor
    np.testing.assert_allclose(factor.T @ factor, np.cov(features, rowvar=False), rtol=1e-8, atol=1e-10)
    monkeypatch.setattr(rows, "BLOCK_ELEMENTS", 15)
    monkeypatch.setattr(fid, "blocks", lambda features, _rows: rows.blocks(features, 7))
    blocked = fid.summarise(features).factor
    np.testing.assert_allclose(blocked.T @ blocked, factor.T @ factor, rtol=1e-9, atol=1e-12)


def test_constant_features_count_with_their_means_alone() -> None:
    real, synth = np.full((30, 4), 0.1), np.full((9, 4), 0.3)
    assert value(real, real) == 0.0
    assert value(real, synth) == pytest.approx(4 * 0.2**2, rel=1e-12)


def test_fewer_rows_than_features_carry_a_warning_that_names_the_side() -> None:
    rng = np.random.default_rng(8)
    few, many = rng.standard_normal((9, 10)), rng.standard_normal((10, 10))
    assert evaluate(real=many, synth=many, metrics=["fid"])["fid"].warnings == ()
    (warning,) = evaluate(real=many, synth=few, metrics=["fid"])["fid"].warnings
    assert warning.startswith("biased upward: synth has 9 rows for 10 features")
    (both,) = evaluate(real=few, synth=few, metrics=["fid"])["fid"].warnings
    assert "real has 9 and synth has 9" in both


def test_the_two_functions_work_without_evaluate() -> None:
    rng = np.random.default_rng(9)
    real, synth = rng.standard_normal((30, 4)), rng.standard_normal((20, 4))
    sides = [Summarised(features, fid.summarise(features)) for features in (real, synth)]
    assert fid.compare(real=sides[0], synth=sides[1]).value == value(real, synth)
