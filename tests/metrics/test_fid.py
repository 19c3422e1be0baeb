"""Frechet distance: values that algebra gives, and rank-deficient covariances against high precision."""

from __future__ import annotations

from dataclasses import replace

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simet_cache.metrics import MetricValue, Summarised, evaluate, fid, sample, spectra
from simet_cache.metrics.metric import Noise

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


@settings(max_examples=40)
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


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_the_factor_does_not_depend_on_the_blocks_or_on_an_offset(
    offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = np.random.default_rng(7).standard_normal((101, 5))
    expected = np.cov(features, rowvar=False)
    moved = np.round(features, 6) + offset
    whole = fid.summarise(moved).factor
    np.testing.assert_allclose(whole.T @ whole, expected, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(spectra, "BLOCK_ELEMENTS", 15)
    blocked = fid.summarise(moved).factor
    np.testing.assert_allclose(blocked.T @ blocked, whole.T @ whole, rtol=1e-12, atol=1e-14)
    centred = np.cov(moved - np.round(offset), rowvar=False)
    np.testing.assert_allclose(blocked.T @ blocked, centred, rtol=1e-12, atol=1e-14)


@settings(max_examples=25)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 12), st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_order_rotation_and_scale(n: int, m: int, width: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, synth = rng.standard_normal((n, width)), 2 * rng.standard_normal((m, width)) + 0.5
    turn, _ = np.linalg.qr(rng.standard_normal((width, width)))
    expected = pytest.approx(value(real, synth), rel=1e-9)
    assert value(rng.permutation(real) @ turn, rng.permutation(synth) @ turn) == expected
    assert value(scale * real, scale * synth) / scale**2 == expected


@pytest.mark.parametrize("scale", [1e-30, 1e38])
def test_extreme_scales_lose_nothing(scale: float) -> None:
    rng = np.random.default_rng(21)
    real, synth = rng.standard_normal((50, 4)), 2 * rng.standard_normal((40, 4))
    assert value(scale * real, scale * synth) == pytest.approx(scale**2 * value(real, synth), rel=1e-12)


@pytest.mark.parametrize("rows", [2, 6, 12, 13, 14, 40])
def test_the_factor_gives_the_covariance_and_the_mean(rows: int) -> None:
    features = (np.random.default_rng(22).standard_normal((rows, 12)) + 3).astype(np.float32)
    made = fid.summarise(features)
    assert made.factor.shape == (min(rows - 1, 12), 12)
    assert made.triangular == (rows > 12)
    assert not made.triangular or (np.tril(made.factor, -1) == 0).all()
    np.testing.assert_allclose(made.mean, features.astype(np.float64).mean(axis=0), rtol=1e-14)
    covariance = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(made.factor.T @ made.factor, covariance, rtol=1e-12, atol=1e-14)


@pytest.fixture
def slow_ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The slow ways that are taken."""
    taken: list[str] = []
    for name in ("triangle", "singular_values"):
        real = getattr(spectra, name)
        monkeypatch.setattr(
            spectra, name, lambda *args, name=name, real=real, **given: taken.append(name) or real(*args, **given)
        )
    return taken


def test_well_conditioned_sets_go_the_fast_way(slow_ways: list[str]) -> None:
    rng = np.random.default_rng(10)
    value(rng.standard_normal((200, 20)), 2 * rng.standard_normal((150, 20)))
    value(rng.standard_normal((20, 60)), 2 * rng.standard_normal((10, 60)))
    assert slow_ways == []


def test_singular_covariances_go_the_slow_way(slow_ways: list[str]) -> None:
    rng = np.random.default_rng(11)
    real, synth = rng.standard_normal((60, 8)), rng.standard_normal((50, 8))
    real[:, 3] = real[:, 2]
    value(real, synth)
    assert set(slow_ways) == {"triangle", "singular_values"}


@pytest.mark.parametrize("least", [1e-5, 1e-7])
def test_nearly_singular_covariances_go_the_slow_way_and_keep_their_digits(least: float, slow_ways: list[str]) -> None:
    rng = np.random.default_rng(12)
    scales = np.array([1, 1, 1, least, least])
    real, synth = rng.standard_normal((40, 5)) * scales, rng.standard_normal((30, 5)) * scales
    assert abs(value(real, synth) - precise_fid(real, synth)) <= 1e-13
    assert "singular_values" in slow_ways


def test_first_rows_far_from_the_rest_are_centred_anew() -> None:
    """About the common centre, their squares of 1e16 would leave no digit of a variance of 1."""
    features = np.random.default_rng(13).standard_normal((90, 1))
    features[:20] += 1e8
    first, _ = fid.growing(features, [20, 90])
    assert first.factor.item() ** 2 == pytest.approx(features[:20].var(ddof=1), rel=1e-6)


@pytest.mark.parametrize("trailing", [1, 3])
def test_growing_sets_are_those_of_their_first_rows(trailing: int, slow_ways: list[str]) -> None:
    rng = np.random.default_rng(14)
    features, order = rng.standard_normal((90, 6)).astype(np.float32), rng.permutation(90)
    features[:, :trailing] *= 1e-9 if trailing == 3 else 1
    sizes = [2, 6, 7, 25, 40, 90]
    for size, made in zip(sizes, fid.growing(features, sizes, order=order), strict=True):
        alone = fid.summarise(features[order[:size]])
        np.testing.assert_allclose(made.mean, alone.mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(made.factor.T @ made.factor, alone.factor.T @ alone.factor, rtol=1e-9, atol=1e-12)
    assert ("triangle" in slow_ways) == (trailing == 3)


def test_constant_features_count_with_their_means_alone() -> None:
    real, synth = np.full((30, 4), 0.1), np.full((9, 4), 0.3)
    assert value(real, real) == 0.0
    assert value(real, synth) == pytest.approx(4 * 0.2**2, rel=1e-12)


def test_fewer_rows_than_features_carry_a_warning_that_names_the_side() -> None:
    rng = np.random.default_rng(8)
    few, many = rng.standard_normal((9, 10)), rng.standard_normal((10, 10))
    assert evaluate(real=many, synth=many + 1, metrics=["fid"])["fid"].warnings == ()
    (warning,) = evaluate(real=many, synth=few, metrics=["fid"])["fid"].warnings
    assert warning.startswith("biased upward: synth has 9 rows for 10 features")
    (both,) = evaluate(real=few, synth=few + 1, metrics=["fid"])["fid"].warnings
    assert "real has 9 and synth has 9" in both


def test_the_two_functions_work_without_evaluate() -> None:
    rng = np.random.default_rng(9)
    real, synth = rng.standard_normal((30, 4)), rng.standard_normal((20, 4))
    sides = [Summarised(features, fid.summarise(features)) for features in (real, synth)]
    assert fid.compare(real=sides[0], synth=sides[1]).value == value(real, synth)


def true_distance(shift: Floats, real: Floats, synth: Floats) -> float:
    """Of two Gaussians, from the factors of their covariances."""
    shared = np.linalg.svd(real @ synth.T, compute_uv=False).sum()
    return float(shift @ shift + (real**2).sum() + (synth**2).sum() - 2 * shared)


def sides(real: Floats, synth: Floats) -> dict[str, Summarised[fid.Gaussian]]:
    return {name: Summarised(rows, fid.summarise(rows)) for name, rows in (("real", real), ("synth", synth))}


def noise(real: Floats, synth: Floats) -> Noise:
    made = fid.noise(**sides(real, synth))
    assert isinstance(made, Noise)
    return made


def test_the_influence_is_what_a_row_s_weight_does() -> None:
    """Against the derivative of the distance by one row's weight, by finite differences of weighted moments."""
    rng = np.random.default_rng(15)
    real, synth = rng.exponential(size=(60, 3)), rng.standard_normal((50, 3)) * [1, 2, 0.5]
    step = 1e-5

    def weighted(rows: Floats, row: int, change: float) -> fid.Gaussian:
        weights = np.full(len(rows), (1 - change) / len(rows))
        weights[row] += change
        centre = weights @ rows
        centred = rows - centre
        return fid.Gaussian(centre, np.linalg.cholesky(centred.T @ (centred * weights[:, None])).T)

    plain = weighted(real, 0, 0.0), weighted(synth, 0, 0.0)
    found = fid.sides_of(fid.Pair(*plain), real, synth, seed=0)
    for row in (0, 7, 31):
        up, down = (fid.Pair(weighted(real, row, change), plain[1]).distance for change in (step, -step))
        assert found[0].influence[row] == pytest.approx((up - down) / (2 * step), rel=1e-4, abs=1e-6)
        up, down = (fid.Pair(plain[0], weighted(synth, row, change)).distance for change in (step, -step))
        assert found[1].influence[row] == pytest.approx((up - down) / (2 * step), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("skewed", "gap"), [(False, 0.0), (False, 0.4), (True, 0.4)])
def test_intervals_about_the_value_less_its_bias_hold_the_true_distance(skewed: bool, gap: float) -> None:
    """At least 95% give or take three standard errors; near equality more, as the noise is skewed there.

    Without the bias taken off, not one of them would hold the truth for equal distributions.
    """
    rng = np.random.default_rng(16)
    width, rows, repetitions = 12, 600, 150
    first = np.eye(width) + rng.standard_normal((width, width)) / 4
    second = first @ (np.eye(width) + gap * rng.standard_normal((width, width)) / 4)
    truth = true_distance(np.full(width, gap / 2), first, second)
    held, raw, values, variances = 0, 0, [], []
    for _ in range(repetitions):
        draws = (rng.exponential(size=(2, rows, width)) - 1) if skewed else rng.standard_normal((2, rows, width))
        real, synth = draws[0] @ first, draws[1] @ second + gap / 2
        found, made = value(real, synth), noise(real, synth)
        reach = 1.96 * np.sqrt(made.variance)
        held += abs(found - made.bias - truth) <= reach
        raw += abs(found - truth) <= reach
        values.append(found)
        variances.append(made.variance)
    assert np.sqrt(np.mean(variances)) == pytest.approx(np.std(values), rel=0.25)
    assert 0.9 <= held / repetitions <= (0.99 if gap else 1.0)
    if not gap:
        assert raw == 0


def test_the_standard_error_is_that_of_the_bootstrap() -> None:
    rng = np.random.default_rng(17)
    real, synth = rng.standard_normal((800, 5)) ** 2, rng.standard_normal((700, 5)) + 1
    again = [value(real[rng.integers(0, 800, 800)], synth[rng.integers(0, 700, 700)]) for _ in range(200)]
    assert np.sqrt(noise(real, synth).variance) == pytest.approx(np.std(again), rel=0.15)
    centre = 2 * value(real, synth) - np.mean(again)  # the reflected bootstrap's
    assert value(real, synth) - noise(real, synth).bias == pytest.approx(centre, abs=0.3 * np.std(again))


def test_rows_that_are_looked_at_are_few_and_do_not_change_the_noise_much(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(18)
    real, synth = rng.standard_normal((3000, 4)), 1.5 * rng.standard_normal((2500, 4))
    few = noise(real, synth)
    assert len(few.shared) == sample.ROWS < 2500
    assert few.count == 3000
    assert few.shared.mean() == pytest.approx(0, abs=1e-12)
    monkeypatch.setattr(sample, "ROWS", 10**6)
    assert np.sqrt(few.variance) == pytest.approx(np.sqrt(noise(real, synth).variance), rel=0.1)


def test_noise_and_value_share_the_eigenvectors(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(19)
    both = sides(rng.standard_normal((90, 6)), 2 * rng.standard_normal((80, 6)))
    alone = fid.compare(**both).value
    joint = fid.join(**both)
    monkeypatch.delattr(spectra, "eigenvalues")
    fid.noise(**both, joint=joint)
    assert fid.compare(**both, joint=joint).value == pytest.approx(alone, rel=1e-12)


def test_the_value_alone_needs_no_eigenvectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(spectra, "eigenvectors")
    rng = np.random.default_rng(20)
    assert value(rng.standard_normal((90, 6)), rng.standard_normal((80, 6))) > 0


@pytest.mark.parametrize("rows", [12, 60])
@pytest.mark.parametrize("kind", ["dead", "twice", "tiny"])
def test_directions_without_variance_change_neither_value_nor_interval(rows: int, kind: str) -> None:
    """Fewer rows than features, and more: the quadratic form at the rows needs no inverse."""
    rng = np.random.default_rng(21)
    real, synth = rng.standard_normal((rows, 20)), 1.3 * rng.standard_normal((rows + 5, 20)) + 0.2
    more = {"dead": lambda a: np.full((len(a), 2), 3.0), "twice": lambda a: a[:, :1], "tiny": lambda a: 1e-9 * a[:, :1]}
    plain = with_interval(real, synth)
    wider = with_interval(*(np.hstack([rows_, more[kind](rows_)]) for rows_ in (real, synth)))
    if kind == "twice":  # the same as one feature in other units
        real, synth = (np.hstack([rows_[:, :1] * np.sqrt(2), rows_[:, 1:]]) for rows_ in (real, synth))
        plain = with_interval(real, synth)
    assert wider.interval.low == pytest.approx(plain.interval.low, rel=1e-6)
    assert wider.interval.high == pytest.approx(plain.interval.high, rel=1e-6)


def with_interval(real: Floats, synth: Floats, metric: str = "fid") -> MetricValue:
    found = evaluate(real=real, synth=synth, metrics=[metric], intervals=True)[metric]
    assert found.interval is not None
    return found


@pytest.mark.parametrize("metric", ["fid", "fd_unbiased"])
@pytest.mark.parametrize("rows", [40, 130, 400])
def test_intervals_hold_on_power_law_spectra_with_few_rows_for_each_feature(rows: int, metric: str) -> None:
    """A standard error of 0.8 to 1.5 times the spread, from a third to three times as many rows as features."""
    width, repetitions = 112, 60
    scales = np.arange(1.0, width + 1) ** -0.75
    scales[-4:] = 0.0
    values = []
    for repetition in range(repetitions):
        rng = np.random.default_rng([22, repetition])
        real, synth = rng.standard_normal((2, rows, width))
        values.append(with_interval(real * scales, synth * scales * np.linspace(1.0, 1.3, width), metric))
    spread = np.std([one.value for one in values])
    mean = np.mean([one.value for one in values])
    errors = np.array([one.interval.standard_error for one in values if one.interval])
    held = np.mean([one.interval.low <= mean <= one.interval.high for one in values if one.interval])
    assert 0.8 < errors.mean() / spread < 1.5
    assert held >= 0.88


@pytest.mark.parametrize("metric", ["fid", "fd_infinity", "fd_unbiased"])
def test_classes_in_turn_have_the_interval_of_shuffled_ones(metric: str) -> None:
    """Evenly spaced rows would be of some classes alone: [0.324, 0.360] instead of [0.205, 0.514]."""
    rng = np.random.default_rng(23)
    label = np.arange(10_240) % 10
    real, synth = (rng.standard_normal((10_240, 16)) * np.where(label % 2, 3.0, 0.3)[:, None] for _ in range(2))
    in_turn = with_interval(real, synth, metric)
    shuffled = with_interval(rng.permutation(real), rng.permutation(synth), metric)
    assert in_turn.interval.standard_error == pytest.approx(shuffled.interval.standard_error, rel=0.25)


@pytest.mark.parametrize("metric", ["fid", "fd_infinity", "fd_unbiased"])
@pytest.mark.parametrize("side", ["real", "synth"])
def test_a_few_far_rows_are_in_the_noise_whichever_rows_are_drawn(side: str, metric: str) -> None:
    """Five rows of 5,000 hold nearly all of the variance: most draws of 512 rows, all alike, miss every one of them."""
    rng = np.random.default_rng(24)
    real, synth = rng.standard_normal((5000, 8)), rng.standard_normal((5000, 8)) + 0.1
    (real if side == "real" else synth)[rng.choice(5000, 5, replace=False), 0] += 30
    errors = []
    for seed in range(8):
        given = {metric: {"seed": seed} if metric != "fid" else None}
        found = evaluate(real=real, synth=synth, metrics=given, intervals={"seed": seed})[metric]
        assert found.interval is not None
        errors.append(found.interval.standard_error)
    assert max(errors) < 1.1 * min(errors)


def test_rows_of_equal_length_are_drawn_alike_wherever_they_stand() -> None:
    """Classes in turn, of which three in each set differ in nothing that the draw looks at."""
    rng = np.random.default_rng(25)
    real, synth = (np.eye(4)[np.arange(8192) % 4] for _ in range(2))
    synth[:, 0] *= 1.5
    orders = [np.arange(8192), np.argsort(np.arange(8192) % 4, kind="stable"), rng.permutation(8192)]
    found = [with_interval(real[order], synth[order]).interval for order in orders]
    errors = [interval.standard_error for interval in found if interval]
    assert max(errors) < 1.15 * min(errors)


def test_the_second_order_grows_with_the_square_of_what_rows_add_beyond_gaussian_ones() -> None:
    rng = np.random.default_rng(13)
    real, synth = (
        Summarised(rows, fid.summarise(rows)) for rows in (rng.standard_normal((400, 4)), rng.standard_normal((400, 4)))
    )
    pair = fid.join(real=real, synth=synth)
    sides = fid.sides_of(pair, real.features, synth.features, seed=0)
    assert all(side.excess == pytest.approx(side.gaussian, rel=0.2) for side in sides)
    heavy = np.exp(rng.standard_normal((400, 4)))
    tails = Summarised(heavy, fid.summarise(heavy))
    (skewed, _) = fid.sides_of(fid.join(real=tails, synth=tails), heavy, heavy, seed=0)
    assert skewed.excess > 1.5 * skewed.gaussian

    def variance(times: float) -> float:
        """Of sets whose rows have no influence, so that the second order is all there is."""
        still = [replace(side, influence=np.zeros(400), excess=times * side.gaussian) for side in sides]
        given = {"rows": (400, 400), "shares": (1 / 400, 1 / 400), "second": (2 / 400) ** 2, "bias": 0.0}
        return fid.noise_of(pair, (still[0], still[1]), **given).variance

    assert variance(2.0) == pytest.approx(4 * variance(1.0))
    assert variance(0.5) == variance(1.0)
