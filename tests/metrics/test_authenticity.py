"""Authenticity against brute force: copies have none, and only what is farther has it."""

from __future__ import annotations

import numpy as np
import pytest

from simet_cache.metrics import evaluate
from tests.metrics.brute import HARD, Floats, Maker, among_others, hard_pair, squared


def authenticity(real: Floats, synth: Floats) -> float:
    return evaluate(real=real, synth=synth, metrics=["authenticity"])["authenticity"].value


@pytest.mark.parametrize("make", HARD.values(), ids=HARD)
def test_values_are_those_of_brute_force(make: Maker) -> None:
    real, synth = hard_pair(make)
    distances = squared(synth, real)
    nearest = among_others(real).min(axis=1)[distances.argmin(axis=1)]  # of the first of those that are nearest
    assert authenticity(real, synth) == (distances.min(axis=1) > nearest).mean()


def test_copies_have_none_and_far_rows_all() -> None:
    real = np.random.default_rng(1).standard_normal((60, 5))
    assert authenticity(real, real) == 0.0
    assert authenticity(real, real[:7] + 1e-9) == 0.0
    assert authenticity(real, real + 1e3) == 1.0
    assert authenticity(real, np.vstack([real[:30], real[30:] + 1e3])) == 0.5


def test_a_copy_of_a_row_that_the_training_set_has_twice_is_a_copy() -> None:
    real = np.repeat(np.random.default_rng(2).standard_normal((20, 3)), 2, axis=0)
    assert authenticity(real, real[::2]) == 0.0
    assert authenticity(real, real[::2] + 1e-6) == 1.0  # those twins are at distance 0 of one another


def test_equal_distances_are_not_farther() -> None:
    real = np.array([[0.0], [2.0], [10.0]])
    assert authenticity(real, np.array([[-2.0], [0.5]])) == 0.0
    assert authenticity(real, np.array([[-2.5], [-2.0]])) == 0.5


def test_the_first_of_two_nearest_rows_decides() -> None:
    real, between = np.array([[0.0], [1.0], [7.0]]), np.array([[4.0], [4.0]])
    assert authenticity(real, between) == 1.0  # 3 from 1, whose neighbour is at 1
    assert authenticity(real[::-1], between) == 0.0  # 3 from 7, whose neighbour is at 6


def test_a_larger_k_asks_for_more_distance() -> None:
    real, synth = np.array([[0.0], [1.0], [7.0]]), np.array([[-5.0], [-5.0]])
    found = [evaluate(real=real, synth=synth, metrics={"authenticity": {"k": k}})["authenticity"] for k in (1, 2, 3)]
    assert [value.value for value in found] == [1.0, 0.0, 0.0]  # 5 from 0, whose others are at 1 and 7
    assert [value.warnings for value in found] == [(), (), ("k=3 was lowered to 2: real has only 3 rows",)]


def test_it_is_about_the_synthetic_rows() -> None:
    real = np.random.default_rng(3).standard_normal((50, 4))
    copied = np.vstack([real[:10], np.full((1, 4), 50.0)])
    assert authenticity(real, copied) == pytest.approx(1 / 11)
    assert authenticity(copied, real) != pytest.approx(1 / 11)


def test_rotation_shift_scale_and_row_order_change_nothing() -> None:
    rng = np.random.default_rng(5)
    real, synth = rng.standard_normal((120, 6)), 0.8 * rng.standard_normal((90, 6)) + 0.3
    turn, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    moved = rng.permutation(real) @ turn * 7 + 1e3, rng.permutation(synth) @ turn * 7 + 1e3
    assert 0 < authenticity(real, synth) < 1
    assert authenticity(*moved) == authenticity(real, synth)
