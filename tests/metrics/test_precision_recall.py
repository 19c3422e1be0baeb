"""Precision and recall against brute force, where ties, duplicates and large means make it hard."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simet_cache.metrics import Summarised, evaluate, neighbours

Floats = NDArray[np.float64]
Maker = Callable[[np.random.Generator, int], Floats]


def squared(left: Floats, right: Floats) -> Floats:
    difference = left[:, None].astype(np.float64) - right[None].astype(np.float64)
    return np.asarray((difference * difference).sum(axis=-1))


def brute_radii(features: Floats, k: int) -> Floats:
    distances = squared(features, features)
    np.fill_diagonal(distances, np.inf)
    return np.asarray(np.sort(distances, axis=1)[:, min(k, len(features) - 1) - 1])


def brute_tile(centres: Floats, points: Floats, k: int) -> NDArray[np.bool_]:
    return np.asarray(squared(centres, points) <= brute_radii(centres, k)[:, None])


def both(real: Floats, synth: Floats, k: int = 3) -> tuple[float, float]:
    values = evaluate(real=real, synth=synth, metrics={"precision": {"k": k}, "recall": {"k": k}})
    return values["precision"].value, values["recall"].value


HARD: dict[str, Maker] = {
    "gaussian": lambda rng, n: rng.standard_normal((n, 7)),
    "lattice": lambda rng, n: rng.integers(0, 3, (n, 3)).astype(np.float64),
    "tenths": lambda rng, n: rng.integers(0, 4, (n, 2)) / 10,
    "duplicates": lambda rng, n: rng.standard_normal((4, 5))[rng.integers(0, 4, n)] + 0.1,
    "constant": lambda _, n: np.full((n, 6), 0.1),
    "one outlier": lambda rng, n: np.vstack([rng.standard_normal((n - 1, 4)), np.full((1, 4), 1e9)]),
    "mean 1e8": lambda rng, n: rng.standard_normal((n, 7)) + 1e8,
    "two far clusters": lambda rng, n: rng.standard_normal((n, 5)) * 1e-7 + 1e6 * rng.integers(0, 2, (n, 1)),
    "float32, mean 1e4": lambda rng, n: (rng.standard_normal((n, 7)) / 1e3 + 1e4).astype(np.float32),
    "float16": lambda rng, n: rng.standard_normal((n, 2)).astype(np.float16),
    "tiny": lambda rng, n: rng.standard_normal((n, 7)) * 1e-30,
    "huge": lambda rng, n: rng.standard_normal((n, 7)) * 1e30,
}


@pytest.mark.parametrize("make", HARD.values(), ids=HARD)
@pytest.mark.parametrize("k", [1, 3, 100])
def test_radii_and_decisions_are_those_of_brute_force(make: Maker, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    real, other = make(rng, 90), make(rng, 40)
    synth = np.vstack([other, real[:20], real[20:40] + (real[21:41] - real[20:40])])
    for tile in (1024, 17):
        monkeypatch.setattr(neighbours, "TILE", tile)
        for centres, points in ((real, synth), (synth, real)):
            reach = neighbours.radii(centres, k=k)
            np.testing.assert_array_equal(reach.squared, brute_radii(centres, k))
            found = np.zeros((len(centres), len(points)), dtype=np.bool_)
            for i, j, held in neighbours.holding(balls=Summarised(centres, reach), points=points):
                found[i, j] = held
            np.testing.assert_array_equal(found, brute_tile(centres, points, k))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 4), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_ties_everywhere(n: int, m: int, width: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, synth = (rng.integers(0, 4, (rows, width)).astype(np.float64) * 0.1 + 7e5 for rows in (n, m))
    expected = brute_tile(real, synth, k).any(axis=0).mean(), brute_tile(synth, real, k).any(axis=0).mean()
    assert both(real, synth, k) == expected


def test_several_panels_give_the_same_radii(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(2).standard_normal((300, 5))
    monkeypatch.setattr(neighbours, "PANEL_ELEMENTS", 1)
    np.testing.assert_array_equal(neighbours.radii(features, k=5).squared, brute_radii(features, 5))


def test_a_dropped_mode_hurts_recall_and_an_invented_one_hurts_precision() -> None:
    rng = np.random.default_rng(3)
    centres = np.array([[0.0, 0.0], [50.0, 0.0]])
    two = np.vstack([rng.standard_normal((100, 2)) + centre for centre in centres])
    one = rng.standard_normal((100, 2))
    precision, recall = both(real=two, synth=one)
    assert precision > 0.9
    assert recall == pytest.approx(0.5, abs=0.05)
    assert both(real=one, synth=two) == (recall, precision)


def test_identical_and_disjoint_sets() -> None:
    features = np.random.default_rng(4).standard_normal((50, 6))
    assert both(features, features) == (1.0, 1.0)
    assert both(features, features + 1e3) == (0.0, 0.0)


def test_rotation_shift_and_row_order_change_nothing() -> None:
    rng = np.random.default_rng(5)
    real, synth = rng.standard_normal((120, 6)), 0.8 * rng.standard_normal((90, 6)) + 0.3
    turn, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    moved = rng.permutation(real) @ turn + 1e3, rng.permutation(synth) @ turn + 1e3
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
    assert values["precision"].value == brute_tile(real, synth, 2).any(axis=0).mean()
    assert values["recall"].warnings == ()
