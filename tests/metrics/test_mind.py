"""Monge distance: Gaussians with a known one, sorting by hand, and sets of different sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics import MetricValue, Summarised, difference, evaluate, mind

Floats = NDArray[np.float64]


def value(real: Floats, synth: Floats, **parameters: int) -> float:
    return evaluate(real=real, synth=synth, metrics={"mind": {"directions": 50, **parameters}})["mind"].value


def with_interval(real: Floats, synth: Floats, **parameters: int) -> MetricValue:
    return evaluate(real=real, synth=synth, metrics={"mind": parameters}, intervals=True)["mind"]


def by_definition(real: Floats, synth: Floats, directions: int = 50, seed: int = 0) -> float:
    """Every row repeated until both sets have the same number, then sorted."""
    width, both = real.shape[1], np.lcm(len(real), len(synth))
    total = 0.0
    for direction in mind.drawn(directions, width, seed):
        x, y = (np.sort(np.repeat(rows @ direction, both // len(rows))) for rows in (real, synth))
        total += float(((x - y) ** 2).mean())
    return 3 * width * total / directions


def test_the_reference_code_gives_this_value() -> None:
    """torch-fidelity's ``mind_features_to_metric(synth, real, mind_num_projections=50, rng_seed=2020)`` in float32."""
    torch = pytest.importorskip("torch")
    real = np.random.default_rng(0).standard_normal((40, 6))
    synth = 1.2 * np.random.default_rng(1).standard_normal((40, 6)) + 0.3
    drawn = torch.randn(50, 6, generator=torch.Generator().manual_seed(2020)).double().numpy()
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    found = 3 * 6 * mind.along(drawn, real=real, synth=synth).mean()
    assert found == pytest.approx(4.35007631778717, rel=1e-6)


@settings(max_examples=40)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 9), st.integers(1, 200), st.integers(0, 9))
def test_every_row_counts_in_sets_of_any_sizes(n: int, m: int, width: int, held: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, synth = rng.standard_normal((n, width)), rng.standard_normal((m, width)) * 2 + 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mind, "PROJECTIONS", held)
        found = 3 * width * mind.along(mind.drawn(50, width, seed), real=real, synth=synth).mean()
        assert found == pytest.approx(by_definition(real, synth, seed=seed), rel=1e-9)


@pytest.mark.parametrize("directions", [20, 40])  # without slopes and with them
def test_the_value_is_the_mean_over_many_more_directions(directions: int) -> None:
    rng = np.random.default_rng(10)
    real, synth = rng.standard_normal((40, 3)), rng.standard_normal((30, 3)) * [2, 1, 1] + 0.5
    found = np.mean([value(real, synth, directions=directions, seed=seed) for seed in range(200)])
    assert found == pytest.approx(by_definition(real, synth, directions=20_000), rel=0.03)


def test_what_is_known_of_all_directions_is_not_left_to_those_drawn() -> None:
    """Two Gaussians apart in mean and scale, where plain means over the directions differ by several percent."""
    rng = np.random.default_rng(11)
    scales = np.arange(1, 65) ** -0.5
    real, synth = rng.standard_normal((500, 64)) * scales, 1.2 * rng.standard_normal((500, 64)) * scales + 0.1
    found = [value(real, synth, directions=200, seed=seed) for seed in range(10)]
    plain = [by_definition(real, synth, directions=200, seed=seed) for seed in range(10)]
    assert np.std(found) < 0.1 * np.std(plain)
    assert np.mean(found) == pytest.approx(np.mean(plain), rel=0.05)


def test_rows_that_were_made_by_the_same_seed_are_not_the_directions() -> None:
    rows = np.random.default_rng(0).standard_normal((30, 3000))
    other = np.random.default_rng(1).standard_normal((30, 3000))
    same = value(rows, other, directions=30, seed=0)
    assert 0.5 < same / value(rows, other, directions=30, seed=7) < 2  # it was 500 times as much


def test_round_gaussians_are_three_times_as_far_apart_as_their_frechet_distance() -> None:
    rng = np.random.default_rng(1)
    real, synth = rng.standard_normal((20_000, 6)), 1.5 * rng.standard_normal((15_000, 6)) + 0.25
    assert value(real, synth, directions=400) == pytest.approx(3 * (6 * 0.25**2 + 6 * 0.5**2), rel=0.05)


def test_a_translate_is_three_times_the_squared_shift_away_whatever_the_directions() -> None:
    rng = np.random.default_rng(2)
    real, shift = rng.standard_normal((30, 4)), rng.standard_normal(4)
    expected = 3 * shift @ shift
    for directions in (1, 50):
        assert value(real, real + shift, directions=directions) == pytest.approx(expected, rel=1e-9)
    assert value(1e30 * real, 1e30 * (real + shift)) == pytest.approx(1e60 * expected, rel=1e-9)
    assert value(1e-30 * real, 1e-30 * (real + shift)) == pytest.approx(1e-60 * expected, rel=1e-9)


def test_a_common_offset_costs_no_digits() -> None:
    rng = np.random.default_rng(3)
    grain = 2.0**-8  # so that the sums are exact
    real, synth = (np.round(rng.standard_normal((40, 5)) / grain) * grain for _ in "ab")
    assert value(real + 2.0**40, synth + 2.0**40) == pytest.approx(value(real, synth), rel=1e-9)


def test_equal_and_reordered_and_constant_sets_are_at_distance_zero() -> None:
    rng = np.random.default_rng(4)
    real = rng.standard_normal((40, 5)) + 3
    assert value(real, real) == 0.0
    assert value(real, rng.permutation(real)) == pytest.approx(0, abs=1e-12)
    assert value(np.repeat(real, 2, axis=0), real) == pytest.approx(0, abs=1e-12)
    assert value(np.full((5, 3), 0.1), np.full((4, 3), 0.1)) == 0.0


def test_exchange_changes_nothing_and_the_seed_decides() -> None:
    rng = np.random.default_rng(5)
    real, synth = rng.standard_normal((40, 5)), rng.standard_normal((30, 5)) + 1
    assert value(synth, real) == pytest.approx(value(real, synth), rel=1e-12)
    assert value(real, synth, seed=1) == value(real, synth, seed=1) != value(real, synth)


def test_the_lines_for_a_gpu_find_the_same() -> None:
    rng = np.random.default_rng(9)
    real, synth, drawn = (
        rng.standard_normal((40, 5)),
        rng.standard_normal((30, 5)).astype(np.float32),
        mind.drawn(9, 5, 0),
    )
    expected = mind.along(drawn, real=real, synth=synth)
    np.testing.assert_allclose(mind.along(drawn, real=real, synth=synth, device="cpu:0"), expected, rtol=1e-12)


def test_the_error_of_the_directions_is_told() -> None:
    rng = np.random.default_rng(6)
    real, synth = rng.standard_normal((60, 5)), rng.standard_normal((50, 5)) * [2, 1, 1, 1, 1] + 0.5
    found = [
        evaluate(real=real, synth=synth, metrics={"mind": {"directions": 40, "seed": seed}})["mind"]
        for seed in range(60)
    ]
    told = np.mean([each.details["standard_error_of_directions"] for each in found])
    assert told == pytest.approx(np.std([each.value for each in found]), rel=0.35)


@pytest.mark.parametrize(("shift", "spread"), [(1.0, 1.0), (0.0, 2.0)])
@pytest.mark.parametrize("directions", [20, 40])
def test_noise_is_the_variance_of_repetitions_with_directions_of_their_own(
    shift: float, spread: float, directions: int
) -> None:
    rng = np.random.default_rng(7)
    values, errors = [], []
    for seed in range(200):
        real, synth = rng.standard_normal((80, 4)), rng.standard_normal((60, 4)) * spread + shift
        found = with_interval(real, synth, directions=directions, seed=seed)
        assert found.interval is not None
        values.append(found.value)
        errors.append(found.interval.standard_error)
    assert 0.65 < np.mean(np.square(errors)) / np.var(values) < 1.6


def test_the_interval_holds_the_value_along_all_directions() -> None:
    """Few directions, and so many rows that the directions' noise is nearly all there is."""
    rng = np.random.default_rng(12)
    real = rng.standard_normal((3000, 40))
    synth = rng.standard_normal((3000, 40)) * np.repeat([3.0, 0.1], 20)
    truth = value(real, synth, directions=3000)
    found = [with_interval(real, synth, directions=10, seed=seed).interval for seed in range(20)]
    held = [interval is not None and interval.low <= truth <= interval.high for interval in found]
    assert np.mean(held) >= 0.85


def test_directions_that_two_sets_share_cancel_in_their_difference() -> None:
    """Two sets that differ from the reference alike in shape, along few directions."""
    rng = np.random.default_rng(13)
    scales = np.repeat([3.0, 0.1], 20)
    real = rng.standard_normal((2000, 40))
    first, second = (rng.standard_normal((2000, 40)) * scales for _ in "ab")
    metrics = {"mind": {"directions": 10}}
    one = evaluate(real=real, synth=first, metrics=metrics, intervals=True)["mind"]
    both = difference(real=real, first=first, second=second, metrics=metrics)["mind"]
    assert one.interval is not None
    assert one.details["standard_error_of_directions"] > 0.8 * one.interval.standard_error
    assert both.interval.standard_error < 0.5 * one.interval.standard_error
    assert both.better is None


def test_one_direction_has_no_interval() -> None:
    rng = np.random.default_rng(14)
    found = with_interval(rng.standard_normal((30, 3)), rng.standard_normal((30, 3)), directions=1)
    assert found.interval is None
    assert found.details == {}
    assert found.warnings == ("no interval: it needs at least two directions",)


@pytest.mark.parametrize("synth_rows", [200, 300])
def test_an_interval_changes_no_value(synth_rows: int) -> None:
    rng = np.random.default_rng(15)
    real, synth = rng.standard_normal((300, 5)), rng.standard_normal((synth_rows, 5)) * 1.5
    plain = evaluate(real=real, synth=synth, metrics=["mind"])["mind"]
    assert with_interval(real, synth).value == plain.value
    assert with_interval(real, synth).details == plain.details


@pytest.mark.parametrize("directions", [10, 40])
@pytest.mark.parametrize("side", ["real", "synth"])
def test_influence_is_what_a_little_more_weight_on_a_row_does(side: str, directions: int) -> None:
    """Every row twelve times, and one of them a thirteenth time."""
    rng = np.random.default_rng(8)
    sets = {"real": rng.standard_normal((300, 3)), "synth": rng.standard_normal((200, 3)) * 1.5 + 1}
    lines = mind.join(**{name: Summarised(rows, None) for name, rows in sets.items()}, directions=directions, seed=0)
    influence = lines.influences[1 if side == "real" else 2]
    assert abs(influence.mean()) < 1e-12
    row = int(np.argmax(influence))
    many = np.repeat(sets[side], 12, axis=0)
    more = {**sets, side: np.vstack([many, sets[side][row]])}
    gained = value(**more, directions=directions) - value(**sets, directions=directions)
    assert gained * (len(many) + 1) == pytest.approx(influence[row], rel=0.05)


@pytest.mark.parametrize("parameters", [{"directions": 0}, {"directions": 2.5}, {"seed": -1}, {"seed": True}])
def test_parameters_out_of_range_are_refused(parameters) -> None:
    with pytest.raises(MetricError, match="expected a whole number"):
        value(np.eye(3), np.eye(3), **parameters)
