"""Kernel distance against its definition written as a double sum."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simet_cache.metrics import Summarised, evaluate, kid, tiles
from simet_cache.metrics.metric import Noise

Floats = NDArray[np.float64]


def value(real: Floats, synth: Floats) -> float:
    return evaluate(real=real, synth=synth, metrics=["kid"])["kid"].value


def kernel(left: Floats, right: Floats) -> Floats:
    return np.asarray((left.astype(np.float64) @ right.T.astype(np.float64) / left.shape[1] + 1) ** 3)


def within(rows: Floats) -> Floats:
    gram = kernel(rows, rows)
    np.fill_diagonal(gram, 0.0)
    return np.asarray(gram.sum(axis=1) / (len(rows) - 1))


def by_definition(real: Floats, synth: Floats) -> float:
    return float(within(real).mean() + within(synth).mean() - 2 * kernel(real, synth).mean())


def parts(real: Floats, synth: Floats) -> dict[str, object]:
    sets = {name: Summarised(rows, kid.summarise(rows)) for name, rows in (("real", real), ("synth", synth))}
    return {**sets, "joint": kid.cross(**sets)}


def noise(real: Floats, synth: Floats) -> Noise:
    found = kid.noise(**parts(real, synth))
    assert isinstance(found, Noise)
    return found


@settings(max_examples=40)
@given(st.integers(2, 25), st.integers(2, 25), st.integers(1, 9), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_tiles_of_any_size_give_the_definition(n: int, m: int, width: int, tile: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, synth = rng.standard_normal((n, width)), rng.standard_normal((m, width)) + 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_ROWS", tile)
        patch.setattr(tiles, "TILE_COLUMNS", 2 * tile + 1)
        patch.setattr(kid, "PATCH", (tile, 3))
        found = parts(real, synth)
        whole = kernel(real, synth) - 1
        np.testing.assert_allclose(found["real"].summary.rows, within(real) - 1, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(found["joint"].real, whole.mean(axis=1), rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(found["joint"].synth, whole.mean(axis=0), rtol=1e-11, atol=1e-11)
        assert kid.compare(**found).value == pytest.approx(by_definition(real, synth), rel=1e-9, abs=1e-11)


MADE: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "like Inception": lambda rng, n: np.maximum(rng.standard_normal((n, 256)) * 0.4 + 0.2, 0).astype(np.float32),
    "mean 1000": lambda rng, n: (rng.standard_normal((n, 256)) + 1000).astype(np.float32),
    "tiny variance": lambda rng, n: (rng.standard_normal((n, 256)) * 1e-3 + 0.5).astype(np.float32),
    "heavy tails": lambda rng, n: rng.standard_t(3, (n, 256)),
    "few clusters": lambda rng, n: np.eye(5, 256)[rng.integers(0, 5, n)] * 9 + 0.1 * rng.standard_normal((n, 256)),
    "duplicates": lambda rng, n: rng.standard_normal((9, 256))[rng.integers(0, 9, n)],
    "float16": lambda rng, n: rng.standard_normal((n, 256)).astype(np.float16),
    "1e30": lambda rng, n: rng.standard_normal((n, 256)) * 1e30,
    "1e-30": lambda rng, n: rng.standard_normal((n, 256)) * 1e-30,
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_long_passes_err_far_below_the_noise(make: Callable[..., Floats], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "SMALL", 0)
    monkeypatch.setattr(kid, "SMALL", 0)
    rng = np.random.default_rng(8)
    real, synth = make(rng, 700), make(rng, 600)
    found = parts(real, synth)
    exact, read = by_definition(real, synth), kid.compare(**found).value
    own = 2e-15 * kernel(real[:50], synth[:50]).max()  # of the definition in float64
    assert abs(read - exact) <= 2e-6 * found["real"].summary.spread / 600 + own


def test_float32_is_chosen_where_it_is_good_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    good, bad = rng.standard_normal((800, 600)), np.eye(3, 4)[rng.integers(0, 3, 800)] * 100 + rng.random((800, 4))
    monkeypatch.setattr(kid, "SMALL", 0)

    def wide(features: Floats) -> bool:
        return kid.SelfReader(tiles.opened(features, device="cpu")[0], [{}]).wide

    assert not wide(good)
    assert wide(bad)
    assert wide(np.ones((800, 4)))
    monkeypatch.setattr(kid, "SMALL", 2**32)
    assert wide(good)


def test_equal_distributions_have_expectation_zero_and_the_variance_that_noise_tells() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(300):
        sets = parts(rng.standard_normal((60, 8)), rng.standard_normal((40, 8)))
        found.append((kid.compare(**sets).value, kid.noise(**sets).variance))
    values, variances = np.array(found).T
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0
    assert np.mean(variances) == pytest.approx(np.var(values), rel=0.3)  # first order alone would be twice of it


def test_noise_is_the_variance_over_draws_of_unequal_sets() -> None:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(300):
        sets = parts(rng.standard_normal((80, 6)), 1.2 * rng.standard_normal((50, 6)) + 0.3)
        found.append((kid.compare(**sets).value, kid.noise(**sets).variance))
    values, variances = np.array(found).T
    assert np.mean(variances) == pytest.approx(np.var(values), rel=0.3)


def test_noise_of_the_reference_is_told_row_by_row() -> None:
    rng = np.random.default_rng(3)
    real, synth = rng.standard_normal((40, 5)), rng.standard_normal((30, 5)) + 0.5
    found = noise(real, synth)
    expected = 2 * (within(real) - kernel(real, synth).mean(axis=1))
    np.testing.assert_allclose(found.shared, expected - expected.mean(), rtol=1e-9, atol=1e-12)
    assert found.count == 40
    assert found.own > 0


def test_values_too_large_for_a_variance_have_no_noise_but_a_reason() -> None:
    rng = np.random.default_rng(4)
    found = kid.noise(**parts(rng.standard_normal((30, 4)) * 1e30, rng.standard_normal((30, 4))))
    assert isinstance(found, str)
    assert "rescale" in found


def test_rotation_and_row_order_change_nothing() -> None:
    rng = np.random.default_rng(2)
    real, synth = rng.standard_normal((50, 6)), rng.standard_normal((30, 6)) + 1
    turn, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    assert value(rng.permutation(real) @ turn, rng.permutation(synth) @ turn) == pytest.approx(value(real, synth))


def test_it_grows_with_the_shift() -> None:
    rng = np.random.default_rng(3)
    real, synth = rng.standard_normal((200, 6)), rng.standard_normal((200, 6))
    values = [value(real, synth + shift) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert values == sorted(values)


def test_constant_features_have_defined_values() -> None:
    real, synth = np.full((5, 3), 1.0), np.full((4, 3), 2.0)
    assert value(real, real) == pytest.approx(0.0, abs=1e-12)
    assert value(real, synth) == pytest.approx(2.0**3 + 5.0**3 - 2 * 3.0**3)


@pytest.mark.parametrize("side", ["real", "synth"])
@pytest.mark.parametrize("length", [1e3, 1e5, 1e8])
@pytest.mark.parametrize("name", ["kid", "kid_subsets"])
def test_one_row_far_from_all_others_costs_no_digits(name: str, length: float, side: str) -> None:
    rng = np.random.default_rng(7)
    sets = {"real": np.maximum(rng.standard_normal((41, 12)), 0), "synth": np.maximum(rng.standard_normal((41, 12)), 0)}
    sets[side][-1] = length * rng.standard_normal(12)
    metrics: dict[str, dict[str, int]] = {"kid": {}, "kid_subsets": {"subsets": 2, "subset_size": 41}}
    found = evaluate(**sets, metrics={name: metrics[name]})[name].value
    assert found == pytest.approx(by_definition(**sets), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1e-6, 1e-9, 1e-30])
def test_small_features_are_told_apart_beside_the_kernels_constant(scale: float) -> None:
    rng = np.random.default_rng(8)
    real, synth = rng.standard_normal((50, 6)) + 1, rng.standard_normal((40, 6)) + 2
    cross, own, other = (left @ right.T / 6 for left, right in ((real, synth), (real, real), (synth, synth)))
    linear = 3 * (  # the kernel less 1 of so small features, but for terms of the fourth order
        (own.sum() - np.trace(own)) / 50 / 49 + (other.sum() - np.trace(other)) / 40 / 39 - 2 * cross.mean()
    )
    assert value(real * scale, synth * scale) == pytest.approx(linear * scale**2, rel=max(20 * scale**2, 1e-10))


def test_values_below_the_rounding_of_their_kernel_say_so() -> None:
    rng = np.random.default_rng(9)
    real, synth = rng.standard_normal((200, 6)) + 1e7, rng.standard_normal((200, 6)) + 1e7
    (warning,) = evaluate(real=real, synth=synth, metrics=["kid"])["kid"].warnings
    assert re.fullmatch(r"known to ±\S+ only, for the rounding of its kernel's values; rescale the features", warning)
    assert evaluate(real=real - 1e7, synth=synth - 1e7, metrics=["kid"])["kid"].warnings == ()


@pytest.mark.parametrize(("n", "m"), [(2, 2), (2, 3), (3, 2), (4, 4)])
def test_the_smallest_sets_have_values_and_noise(n: int, m: int) -> None:
    rng = np.random.default_rng(5)
    real, synth = rng.standard_normal((n, 1)), rng.standard_normal((m, 1))
    assert value(real, synth) == pytest.approx(by_definition(real, synth))
    assert noise(real, synth).variance >= 0


def test_small_sets_are_told_with_a_standard_error() -> None:
    rng = np.random.default_rng(6)
    large, small = rng.standard_normal((200, 5)), rng.standard_normal((20, 5))
    found = kid.compare(**parts(large, small)).warnings
    error = np.sqrt(noise(large, small).variance)
    assert found == (
        f"synth has only 20 rows: so small sets give noisy values, here with a standard error of {error:.2g}",
    )
    assert kid.compare(**parts(large, large + 1)).warnings == ()


def skewed(rng: np.random.Generator, n: int) -> Floats:
    """Features without negative values, of which few rows have large ones; as they come out of networks."""
    return np.asarray(np.maximum(rng.standard_normal((n, 20)) @ MIXING + 0.3, 0) * rng.gamma(3, 1 / 3, (n, 1)))


MIXING = np.random.default_rng(11).standard_normal((20, 64)) / np.sqrt(np.arange(1, 21))[:, None]


def test_intervals_of_small_sets_hold_the_mean_over_repetitions() -> None:
    rng = np.random.default_rng(12)
    found = [
        evaluate(real=skewed(rng, 100), synth=0.7 * skewed(rng, 100), metrics=["kid"], intervals=True)["kid"]
        for _ in range(300)
    ]
    truth = np.mean([each.value for each in found])
    held = [each.interval.low <= truth <= each.interval.high for each in found]  # type: ignore[union-attr]
    assert np.mean(held) >= 0.9  # 95% of normal intervals: 0.86


def test_few_rows_have_few_degrees_of_freedom_and_many_rows_have_normal_quantiles() -> None:
    rng = np.random.default_rng(13)
    few, many = (noise(rng.standard_normal((n, 4)), rng.standard_normal((n, 4)) + 1) for n in (20, 2000))
    assert few.freedom < 20
    assert many.freedom > 200
    assert noise(np.ones((3, 2)), np.ones((3, 2))).freedom == np.inf


def test_the_order_of_the_rows_changes_neither_value_nor_interval() -> None:
    """Five classes of unequal spread, saved in turn: each fifth row is of one class."""
    rng, rows = np.random.default_rng(14), 2560
    label = np.arange(rows) % 5
    real, synth = (rng.standard_normal((rows, 16)) * (0.5 + label[:, None] / 4) for _ in range(2))
    orders = [rng.permutation(rows), np.arange(rows), np.argsort(label, kind="stable")]
    found = [parts(real[order], synth[order]) for order in orders]
    values = [kid.compare(**each).value for each in found]
    errors = [np.sqrt(kid.noise(**each).variance) for each in found]  # type: ignore[union-attr]
    np.testing.assert_allclose(values, values[0], rtol=1e-6)
    np.testing.assert_allclose(errors, errors[0], rtol=0.15)
