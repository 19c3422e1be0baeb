"""Monge distance: how far the sets are apart along random directions, as one-dimensional optimal transport.

Source: Berthet et al. 2026, "MIND: Monge Inception Distance for Generative Models Evaluation",
https://arxiv.org/abs/2605.06797; reference code ``metric_mind.py`` of https://github.com/toshas/torch-fidelity. Where
the sets differ in size, that code drops rows of the larger one; here both quantile functions are followed on the grid
of their steps, so every row counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics.metric import Noise, Outcome, Summarised
from simet_cache.metrics.rows import Features, Floats, block_rows, mean, slices

PROJECTIONS = 2**24  # held at once: 128 MiB


@dataclass(frozen=True)
class Grid:
    """The steps of two quantile functions, merged.

    Attributes:
        left: Which of the N sorted values of the first set holds on each step.
        right: Which of the M sorted values of the second set does.
        weights: Length of each step; their sum is 1.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    weights: Floats

    @classmethod
    def of(cls, left: int, right: int) -> Grid:
        """The grid for sets of that many rows."""
        ends = np.union1d(np.arange(1, left + 1) * right, np.arange(1, right + 1) * left)  # in units of 1 / (N M)
        starts = np.concatenate([[0], ends[:-1]])
        return cls(starts // right, starts // left, (ends - starts) / (left * right))


def check(*, directions: object, seed: object) -> None:
    """Raise ``MetricError`` unless ``directions`` is a whole number from 1 and ``seed`` one from 0."""
    for name, value, least in (("directions", directions, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise MetricError(f"{name}: expected a whole number of at least {least}, found {value!r}")


def compare(*, real: Summarised[None], synth: Summarised[None], directions: int, seed: int) -> Outcome:
    """Three times D times the mean squared distance; lower is better, 0 for equal sets. Unit: squared feature units.

    The factor makes it three times the Frechet distance of two Gaussians whose covariances are multiples of identity.
    """
    chosen = drawn(directions, real.features.shape[1], seed)
    squared = 3 * real.features.shape[1] * along(chosen, real=real.features, synth=synth.features, device=synth.device)
    spread = float(squared.std(ddof=1)) / np.sqrt(directions) if directions > 1 else 0.0
    return Outcome(float(squared.mean()), (), {"standard_error_of_directions": float(spread)})


def noise(*, real: Summarised[None], synth: Summarised[None], directions: int, seed: int) -> Noise:
    """The delta method: a row moves the distance along a direction by its Kantorovich potential less their mean."""
    chosen = drawn(directions, real.features.shape[1], seed)
    pairs = ((real.features, synth.features), (synth.features, real.features))
    shared, own = (_influence(chosen, left, right, mean(real.features)) for left, right in pairs)
    return Noise(shared=shared, count=len(shared), own=float(own.var(ddof=1)) / len(own))


def drawn(directions: int, width: int, seed: int) -> Floats:
    """Random directions of length 1, shape (directions, width)."""
    found = np.random.default_rng(seed).standard_normal((directions, width))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def along(directions: Floats, *, real: Features, synth: Features, device: str = "cpu") -> Floats:
    """Squared 2-Wasserstein distance of the two sets along each direction, shape (directions,)."""
    centre, grid, found = mean(real), Grid.of(len(real), len(synth)), []
    left, right, weights = (_placed(part, device) for part in (grid.left, grid.right, grid.weights))
    for part in _few(directions, len(real) + len(synth)):
        ours, theirs = (_sorted(_projected(rows, centre, part, device)) for rows in (real, synth))
        for a, b in zip(ours, theirs, strict=True):
            gap = a[left] - b[right]
            gap *= gap
            found.append(float(gap @ weights))
    return np.array(found)


def _influence(directions: Floats, left: Features, right: Features, centre: Floats) -> Floats:
    """How each row of ``left`` moves the value, shape (N,), with mean 0."""
    grid, total = Grid.of(len(left), len(right)), np.zeros(len(left))
    for part in _few(directions, len(left) + len(right)):
        ours, theirs = (_projected(rows, centre, part, "cpu") for rows in (left, right))
        theirs.sort(axis=1)
        for values, others in zip(ours, theirs, strict=True):
            order = np.argsort(values)
            total[order] += _potential(values[order], others, grid)
    total -= total.mean()
    return np.asarray(total * (3 * left.shape[1] / len(directions)))


def _potential(values: Floats, others: Floats, grid: Grid) -> Floats:
    """Integral of 2 (x - T(x)) up to each of the sorted ``values``, where T transports them to ``others``."""
    share = grid.weights * len(values)
    moved = values - np.bincount(grid.left, share * others[grid.right], minlength=len(values))
    steps = np.diff(values) * (moved[1:] + moved[:-1])
    return np.concatenate([[0.0], np.cumsum(steps)])


def _few(directions: Floats, rows: int) -> Iterator[Floats]:
    return (directions[part] for part in slices(len(directions), max(1, PROJECTIONS // rows)))


def _projected(features: Features, centre: Floats, directions: Floats, device: str) -> Any:
    """Rows less the centre along each direction, shape (directions, N), float64: an array, or a tensor on CUDA."""
    if device == "cpu":
        found = np.empty((len(directions), len(features)))
        for part in slices(len(features), block_rows(features)):
            np.matmul(directions, (features[part] - centre).T, out=found[:, part])
        return found
    import torch  # noqa: PLC0415 - who computes on the CPU need not wait for it

    placed = _placed(directions, device)
    parts = slices(len(features), block_rows(features))
    return torch.cat([placed @ _placed(features[part] - centre, device).T for part in parts], dim=1)


def _sorted(values: Any) -> Any:
    if not isinstance(values, np.ndarray):
        return values.sort(dim=1).values
    values.sort(axis=1)
    return values


def _placed(array: NDArray[Any], device: str) -> Any:
    if device == "cpu":
        return array
    import torch  # noqa: PLC0415 - who computes on the CPU need not wait for it

    return torch.from_numpy(array).to(device)
