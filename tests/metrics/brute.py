"""The k-nearest-neighbour metrics by definition, pair by pair in float64; and sets that make it hard."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Table = NDArray[np.bool_]
Maker = Callable[[np.random.Generator, int], Floats]

HARD: dict[str, Maker] = {
    "gaussian": lambda rng, n: rng.standard_normal((n, 7)),
    "one column": lambda rng, n: rng.standard_normal((n, 1)),
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


def hard_pair(make: Maker) -> tuple[Floats, Floats]:
    """90 real rows and 80 synthetic ones, of which some are real ones and some lie on a real row's rim."""
    rng = np.random.default_rng(1)
    real, other = make(rng, 90), make(rng, 40)
    return real, np.vstack([other, real[:20], real[20:40] + (real[21:41] - real[20:40])])


def two_modes() -> tuple[Floats, Floats]:
    """Rows of two modes far from one another, and rows of the first one alone."""
    rng = np.random.default_rng(3)
    both = [rng.standard_normal((100, 2)) + centre for centre in ((0.0, 0.0), (50.0, 0.0))]
    return np.vstack(both), rng.standard_normal((200, 2))


def squared(left: Floats, right: Floats) -> Floats:
    difference = left[:, None].astype(np.float64) - right[None].astype(np.float64)
    return np.asarray((difference * difference).sum(axis=-1))


def among_others(features: Floats) -> Floats:
    """Squared distances of a set's rows; no row is its own neighbour."""
    distances = squared(features, features)
    np.fill_diagonal(distances, np.inf)
    return distances


def radii(features: Floats, k: int) -> Floats:
    return np.asarray(np.sort(among_others(features), axis=1)[:, min(k, len(features) - 1) - 1])


def holds(centres: Floats, points: Floats, k: int) -> Table:
    """Whether the ball about each centre, in rows, holds each point, in columns; the rim belongs to the ball."""
    return np.asarray(squared(centres, points) <= radii(centres, k)[:, None])
