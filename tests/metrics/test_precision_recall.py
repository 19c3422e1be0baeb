"""Precision and recall against brute force, where ties, duplicates and large means make it hard."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simet_cache.metrics import evaluate
from tests.metrics.brute import HARD, Floats, Maker, hard_pair, holds, two_modes


def both(real: Floats, synth: Floats, k: int = 3) -> tuple[float, float]:
    values = evaluate(real=real, synth=synth, metrics={"precision": {"k": k}, "recall": {"k": k}})
    return values["precision"].value, values["recall"].value


@pytest.mark.parametrize("make", HARD.values(), ids=HARD)
@pytest.mark.parametrize("k", [1, 3, 100])
def test_values_are_those_of_brute_force(make: Maker, k: int) -> None:
    real, synth = hard_pair(make)
    assert both(real, synth, k) == (holds(real, synth, k).any(axis=0).mean(), holds(synth, real, k).any(axis=0).mean())


@settings(max_examples=60)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 4), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_ties_everywhere(n: int, m: int, width: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, synth = (rng.integers(0, 4, (rows, width)).astype(np.float64) * 0.1 + 7e5 for rows in (n, m))
    expected = holds(real, synth, k).any(axis=0).mean(), holds(synth, real, k).any(axis=0).mean()
    assert both(real, synth, k) == expected


def test_a_dropped_mode_hurts_recall_and_an_invented_one_hurts_precision() -> None:
    two, one = two_modes()
    precision, recall = both(real=two, synth=one)
    assert precision > 0.9
    assert recall == pytest.approx(0.5, abs=0.05)
    assert both(real=one, synth=two) == (recall, precision)


def test_one_far_real_row_makes_its_ball_hold_what_lies_between() -> None:
    """What both are known to fail at: a single outlier."""
    rng = np.random.default_rng(8)
    real, synth = rng.standard_normal((200, 4)), rng.standard_normal((200, 4)) + 20
    assert both(real, synth) == (0.0, 0.0)
    assert both(np.vstack([real, np.full((1, 4), 40.0)]), synth)[0] == 1.0
    assert both(real, np.vstack([synth, np.full((1, 4), -20.0)]))[1] == 1.0


def test_identical_and_disjoint_sets() -> None:
    features = np.random.default_rng(4).standard_normal((50, 6))
    assert both(features, features) == (1.0, 1.0)
    assert both(features, features + 1e3) == (0.0, 0.0)


def test_rotation_shift_scale_and_row_order_change_nothing() -> None:
    rng = np.random.default_rng(5)
    real, synth = rng.standard_normal((120, 6)), 0.8 * rng.standard_normal((90, 6)) + 0.3
    turn, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    moved = rng.permutation(real) @ turn * 7 + 1e3, rng.permutation(synth) @ turn * 7 + 1e3
    assert both(*moved) == both(real, synth)


def test_larger_k_never_lowers_either() -> None:
    rng = np.random.default_rng(6)
    real, synth = rng.standard_normal((60, 8)), rng.standard_normal((50, 8)) + 0.7
    values = np.array([both(real, synth, k) for k in range(1, 60, 6)])
    assert (np.diff(values, axis=0) >= 0).all()
    assert (values[-1] > values[0]).all()


def test_k_beyond_the_set_is_lowered_with_a_warning_on_the_set_that_has_the_balls() -> None:
    rng = np.random.default_rng(7)
    real, synth = rng.standard_normal((3, 2)), rng.standard_normal((20, 2))
    values = evaluate(real=real, synth=synth, metrics={"precision": {"k": 3}, "recall": {"k": 3}})
    assert values["precision"].warnings == ("k=3 was lowered to 2: real has only 3 rows",)
    assert values["precision"].value == holds(real, synth, 2).any(axis=0).mean()
    assert values["recall"].warnings == ()


def test_duplicates_leave_balls_without_a_radius_and_a_warning() -> None:
    rng = np.random.default_rng(9)
    real, synth = rng.standard_normal((20, 2)), rng.standard_normal((30, 2))
    real[:4], synth[:3] = real[0], synth[0]
    values = evaluate(real=real, synth=synth, metrics=["precision", "recall", "coverage", "authenticity"])
    assert {name: value.warnings for name, value in values.items()} == {
        "precision": ("4 of 20 real rows have 3 or more duplicates: their balls have radius 0",),
        "recall": (),
        "coverage": (),
        "authenticity": ("4 of 20 real rows have 1 or more duplicates: their balls have radius 0",),
    }
