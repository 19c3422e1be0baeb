"""Radii, balls and nearest rows against brute force, on float32 tiles, where ties and large means make it hard."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simet_cache.metrics import Summarised, neighbours, pairs, tiles
from simet_cache.metrics.neighbours import Counts, Radii

Floats = NDArray[np.float64]
Maker = Callable[[np.random.Generator, int], Floats]

HARD: dict[str, Maker] = {
    "gaussian": lambda rng, n: rng.standard_normal((n, 7)),
    "wide": lambda rng, n: rng.standard_normal((n, 300)).astype(np.float32),
    "lattice": lambda rng, n: rng.integers(0, 3, (n, 3)).astype(np.float64),
    "tenths": lambda rng, n: rng.integers(0, 4, (n, 2)) / 10,
    "duplicates": lambda rng, n: rng.standard_normal((4, 5))[rng.integers(0, 4, n)] + 0.1,
    "near duplicates": lambda rng, n: rng.standard_normal((9, 5))[rng.integers(0, 9, n)] + 1e-9 * rng.random((n, 5)),
    "constant": lambda _, n: np.full((n, 6), 0.1),
    "zero": lambda _, n: np.zeros((n, 6), dtype=np.float32),
    "one column": lambda rng, n: rng.standard_normal((n, 1)).astype(np.float32),
    "one outlier": lambda rng, n: np.vstack([rng.standard_normal((n - 1, 4)), np.full((1, 4), 1e9)]),
    "mean 1000": lambda rng, n: (rng.standard_normal((n, 20)) + 1000).astype(np.float32),
    "mean 1e8": lambda rng, n: rng.standard_normal((n, 7)) + 1e8,
    "two far clusters": lambda rng, n: rng.standard_normal((n, 5)) * 1e-7 + 1e6 * rng.integers(0, 2, (n, 1)),
    "float32, mean 1e4": lambda rng, n: (rng.standard_normal((n, 7)) / 1e3 + 1e4).astype(np.float32),
    "float16": lambda rng, n: rng.standard_normal((n, 2)).astype(np.float16),
    "tiny": lambda rng, n: rng.standard_normal((n, 7)) * 1e-30,
    "huge": lambda rng, n: rng.standard_normal((n, 7)) * 1e30,
    "both": lambda rng, n: rng.standard_normal((n, 7)) * 10.0 ** rng.integers(-30, 30, (n, 1)),
}


def squared(left: Floats, right: Floats) -> Floats:
    difference = left[:, None].astype(np.float64) - right[None].astype(np.float64)
    return np.asarray((difference * difference).sum(axis=-1))


def brute_radii(features: Floats, k: int) -> Radii:
    distances, used = squared(features, features), min(k, len(features) - 1)
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, :used]
    return Radii(np.take_along_axis(distances, order, axis=1)[:, -1], used, order)


def assert_counts(found: Counts | None, held: NDArray[np.bool_]) -> None:
    """``held[i, j]``: ball i holds point j."""
    assert found is not None
    np.testing.assert_array_equal(found.held, held.sum(axis=0))
    np.testing.assert_array_equal(found.holding, held.sum(axis=1))


def assert_all(real: Floats, synth: Floats, k: int) -> None:
    """Everything that this module makes of two sets is what brute force makes of them."""
    sets = {}
    for name, features in (("real", real), ("synth", synth)):
        found, expected = neighbours.radii(features, k=k), brute_radii(features, k)
        assert found.k == expected.k
        np.testing.assert_array_equal(found.squared, expected.squared)
        np.testing.assert_array_equal(found.neighbours, expected.neighbours)
        sets[name] = Summarised(features, found)
    distances = squared(real, synth)
    radii = {name: side.summary.squared[:, None] for name, side in sets.items()}
    by_real = distances <= radii["real"]
    by_synth = radii["synth"] >= distances.T

    balls = neighbours.balls(**sets, k=k)
    assert_counts(balls.real, by_real)
    assert_counts(balls.synth, by_synth)

    reach = np.sqrt(sets["real"].summary.squared)
    median = np.median(reach)
    clipped = np.where((reach > median)[:, None], np.sqrt(distances) <= median, by_real)
    assert_counts(neighbours.clipped_balls(real=sets["real"], synth=Summarised(synth, None), k=k), clipped)

    nearest = neighbours.nearest(real=Summarised(real, None), synth=Summarised(synth, None))
    np.testing.assert_array_equal(nearest.index, distances.argmin(axis=0))
    np.testing.assert_array_equal(nearest.squared, distances.min(axis=0))


def two_sets(make: Maker) -> tuple[Floats, Floats]:
    """Two sets that share rows, and have rows on the rims of each other's balls."""
    rng = np.random.default_rng(1)
    real, other = make(rng, 90), make(rng, 40)
    return real, np.vstack([other, real[:20], real[20:40] + (real[21:41] - real[20:40])]).astype(real.dtype)


@pytest.fixture(params=["float64", "float32", "small tiles", "strips", "dense", "single decisions"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each way that a pass can take; all but the first on float32 tiles."""
    small = [(tiles, "SMALL", 0), (tiles, "TILE_ROWS", 13), (tiles, "TILE_COLUMNS", 32)]
    changes: dict[str, list[tuple[object, str, int]]] = {
        "float64": [],
        "float32": [(tiles, "SMALL", 0)],
        "small tiles": small,
        "strips": [*small, (neighbours, "LISTED", 50), (neighbours, "STRIP", 4)],
        "dense": [(tiles, "SMALL", 0), (tiles, "TILE_ROWS", 40), (neighbours, "SPARSE", 10**9)],
        "single decisions": [(tiles, "SMALL", 0), (neighbours, "OPEN", 1), (pairs, "MANY_PAIRS", 1)],
    }
    for module, name, value in changes[request.param]:
        monkeypatch.setattr(module, name, value)
    return request.param


@pytest.mark.parametrize("make", HARD.values(), ids=HARD)
def test_everything_is_that_of_brute_force(make: Maker, way: str) -> None:
    for k in (1, 3) if way != "float32" else (1, 3, 100):
        assert_all(*two_sets(make), k)


@settings(max_examples=60)
@given(
    st.tuples(st.integers(2, 30), st.integers(2, 30)),
    st.integers(1, 4),
    st.integers(1, 8),
    st.integers(1, 9),
    st.integers(0, 99),
)
def test_ties_everywhere(counts: tuple[int, int], width: int, k: int, step: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, synth = (rng.integers(0, 4, (rows, width)).astype(np.float64) * 0.1 + 7e5 for rows in counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "SMALL", 0)
        patch.setattr(tiles, "TILE_ROWS", step)
        patch.setattr(tiles, "TILE_COLUMNS", 2 * step + 1)
        assert_all(real, synth, k)


def test_balls_of_a_set_without_radii_are_not_counted() -> None:
    rng = np.random.default_rng(2)
    real, synth = rng.standard_normal((30, 4)), rng.standard_normal((20, 4))
    reach = neighbours.radii(real, k=3)
    assert neighbours.balls(real=Summarised(real, reach), synth=Summarised(synth, None), k=3).synth is None
    assert neighbours.balls(real=Summarised(synth, None), synth=Summarised(real, reach), k=3).real is None


def test_a_set_and_itself_are_two_sets() -> None:
    features = np.random.default_rng(3).standard_normal((30, 4))
    found = neighbours.nearest(real=Summarised(features, None), synth=Summarised(features, None))
    np.testing.assert_array_equal(found.index, np.arange(30))
    assert not found.squared.any()


def test_larger_sets_have_few_pairs_computed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    whole = pairs.Pairs.squared
    monkeypatch.setattr(tiles, "SMALL", 0)
    monkeypatch.setattr(
        pairs.Pairs, "squared", lambda self, i, j: (computed.append(len(i)), whole(self, i, j))[1], raising=True
    )
    rng = np.random.default_rng(4)
    real, synth = (rng.standard_normal((1500, 64), dtype=np.float32) for _ in range(2))
    reach = neighbours.radii(real, k=5)
    assert sum(computed) < 2 * 1500  # one for each radius, and what is open
    computed.clear()
    neighbours.balls(real=Summarised(real, reach), synth=Summarised(synth, None), k=5)
    assert sum(computed) < 1500 * 1500 / 10_000


@pytest.mark.parametrize("k", [0, -1, 2.5, True, "3"])
def test_k_must_be_a_whole_number(k: object) -> None:
    with pytest.raises(neighbours.MetricError, match="expected a whole number of at least 1"):
        neighbours.radii(np.zeros((3, 2)), k=k)


def test_read_only_rows_of_any_strides_are_read_as_they_are() -> None:
    rows = np.random.default_rng(5).standard_normal((80, 12)).astype(np.float32)
    apart = np.zeros((160, 24), dtype=np.float32)[::2, ::2]
    apart[...] = rows
    apart.flags.writeable = False
    np.testing.assert_array_equal(neighbours.radii(apart, k=3).squared, neighbours.radii(rows, k=3).squared)
