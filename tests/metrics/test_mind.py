"""Monge distance: Gaussians with a known one, sorting by hand, and sets of different sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics import Summarised, evaluate, mind

Floats = NDArray[np.float64]


def value(real: Floats, synth: Floats, **parameters: int) -> float:
    return evaluate(real=real, synth=synth, metrics={"mind": {"directions": 50, **parameters}})["mind"].value


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


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 9), st.integers(1, 200), st.integers(0, 9))
def test_every_row_counts_in_sets_of_any_sizes(n: int, m: int, width: int, held: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, synth = rng.standard_normal((n, width)), rng.standard_normal((m, width)) * 2 + 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mind, "PROJECTIONS", held)
        assert value(real, synth, seed=seed) == pytest.approx(by_definition(real, synth, seed=seed), rel=1e-9)


def test_round_gaussians_are_three_times_as_far_apart_as_their_frechet_distance() -> None:
    rng = np.random.default_rng(1)
    real, synth = rng.standard_normal((20_000, 6)), 1.5 * rng.standard_normal((15_000, 6)) + 0.25
    assert value(real, synth, directions=400) == pytest.approx(3 * (6 * 0.25**2 + 6 * 0.5**2), rel=0.05)


def test_a_translate_is_three_times_width_times_the_mean_squared_shift_along_the_directions() -> None:
    rng = np.random.default_rng(2)
    real, shift = rng.standard_normal((30, 4)), rng.standard_normal(4)
    expected = 3 * 4 * ((mind.drawn(50, 4, 0) @ shift) ** 2).mean()
    assert value(real, real + shift) == pytest.approx(expected, rel=1e-9)
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
def test_noise_is_the_variance_of_repetitions(shift: float, spread: float) -> None:
    rng = np.random.default_rng(7)
    values, noises = [], []
    for _ in range(200):
        real, synth = rng.standard_normal((80, 4)), rng.standard_normal((60, 4)) * spread + shift
        sides = {"real": Summarised(real, None), "synth": Summarised(synth, None)}
        values.append(mind.compare(**sides, directions=20, seed=0).value)
        noises.append(mind.noise(**sides, directions=20, seed=0))
    assert np.mean([noise.variance for noise in noises]) == pytest.approx(np.var(values), rel=0.35)
    assert noises[0].shared.shape == (80,)
    assert abs(noises[0].shared.mean()) < 1e-12


def test_influence_is_what_a_little_more_weight_on_a_row_does() -> None:
    """Every row twelve times, and one of them a thirteenth time."""
    rng = np.random.default_rng(8)
    real, synth = rng.standard_normal((300, 3)), rng.standard_normal((200, 3)) + 1
    sides = {"real": Summarised(real, None), "synth": Summarised(synth, None)}
    shared = mind.noise(**sides, directions=10, seed=0).shared
    many = np.repeat(real, 12, axis=0)
    row = int(np.argmax(shared))
    gained = value(np.vstack([many, real[row]]), synth, directions=10) - value(real, synth, directions=10)
    assert gained * (len(many) + 1) == pytest.approx(shared[row], rel=0.05)


@pytest.mark.parametrize("parameters", [{"directions": 0}, {"directions": 2.5}, {"seed": -1}, {"seed": True}])
def test_parameters_out_of_range_are_refused(parameters) -> None:
    with pytest.raises(MetricError, match="expected a whole number"):
        value(np.eye(3), np.eye(3), **parameters)
