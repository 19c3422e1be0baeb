"""Monge distance: how far the sets are apart along random directions, as one-dimensional optimal transport.

Source: Berthet et al. 2026, "MIND: Monge Inception Distance for Generative Models Evaluation",
https://arxiv.org/abs/2605.06797; reference code ``metric_mind.py`` of https://github.com/toshas/torch-fidelity. Where
the sets differ in size, that code drops rows of the larger one; here both quantile functions are followed on the grid
of their steps, so every row counts.

The value is the mean over all directions, of which those drawn are a sample. What is known of all directions is not
left to them (control variates): the means of the sets, which add exactly ``|real - synth|^2 / D`` to the mean squared
distance, and the sets' variances, whose mean over all directions is the mean variance of the features. The plain mean
over the drawn directions, as the reference code takes it, has the same expectation and more noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics.metric import Noise, Outcome, Summarised, side_by_side
from simet_cache.metrics.rows import Features, Floats, block_rows, mean_from, slices

PROJECTIONS = 2**24  # held at once: 128 MiB
FEWEST_FITTED = 30  # directions: slopes from fewer would add more noise than they take away
STREAM = 1  # of random numbers: rows that somebody made by ``default_rng(seed)`` must not be the directions
NEGLIGIBLE = 1e-9  # differences between directions below this share of the variance are rounding


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

    def placed(self, device: str) -> tuple[Any, Any, Any]:
        """Its parts on a device."""
        return _placed(self.left, device), _placed(self.right, device), _placed(self.weights, device)

    def swapped(self) -> Grid:
        """The same steps with the second set first."""
        return Grid(self.right, self.left, self.weights)


@dataclass(frozen=True)
class Centred:
    """A set about its mean.

    Attributes:
        features: Shape (N, D).
        origin: Shape (D,): a point that both sets share, near to them, so that a large common offset costs no digits.
        mean: The set's mean less the origin, shape (D,).
    """

    features: Features
    origin: Floats
    mean: Floats

    @classmethod
    def of(cls, features: Features, origin: Floats) -> Centred:
        """The set about its mean."""
        return cls(features, origin, mean_from(features, origin))

    def __len__(self) -> int:
        """Rows of the set."""
        return len(self.features)

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Rows less their mean, float64, and which they are."""
        for part in slices(len(self.features), block_rows(self.features)):
            block = np.subtract(self.features[part], self.origin, dtype=np.float64)
            block -= self.mean
            yield part, block

    @cached_property
    def lengths(self) -> Floats:
        """Squared distance of each row from the mean, shape (N,)."""
        return np.concatenate([np.einsum("nd,nd->n", block, block) for _, block in self.blocks()])

    @property
    def variance(self) -> float:
        """Mean over the features; and over all directions, as they are all alike."""
        return float(self.lengths.mean() / self.features.shape[1])


@dataclass(frozen=True)
class Gaps:
    """What is found along each direction.

    Attributes:
        distances: Squared 2-Wasserstein distance of the centred sets, shape (K,).
        excess: By how much the variance of either set exceeds its mean over all directions, shape (K, 2).
        slopes: How the distance goes with either excess, by least squares; 0 where that is not known.
        residuals: What of the distances' differences the slopes leave, shape (K,), with mean 0.
        unfitted: Degrees of freedom that the residuals have.
    """

    distances: Floats
    excess: Floats
    slopes: Floats
    residuals: Floats
    unfitted: int

    @classmethod
    def of(cls, distances: Floats, excess: Floats, variances: Floats) -> Gaps:
        """With the slopes that fit best."""
        moved, slopes = excess - excess.mean(axis=0), np.zeros(2)
        sizes = np.sqrt((moved**2).mean(axis=0))
        fitted = sizes > NEGLIGIBLE * variances if len(distances) >= FEWEST_FITTED else np.zeros(2, dtype=bool)
        residuals = distances - distances.mean()
        if fitted.any():
            scaled = np.linalg.lstsq(moved[:, fitted] / sizes[fitted], residuals, rcond=None)[0]
            slopes[fitted] = scaled / sizes[fitted]
        return cls(distances, excess, slopes, residuals - moved @ slopes, len(distances) - 1 - int(fitted.sum()))

    @property
    def mean(self) -> float:
        """Of the centred sets' distances over all directions."""
        return max(float(self.distances.mean() - self.excess.mean(axis=0) @ self.slopes), 0.0)

    def influence(self) -> Floats:
        """How each direction moves the mean, shape (K,), with mean 0, scaled for what the fit took away."""
        return np.asarray(self.residuals * np.sqrt((len(self.residuals) - 1) / self.unfitted))


@dataclass(frozen=True)
class Lines:
    """Both sets along the directions; what is found there is found once, when it is first asked for."""

    real: Centred
    synth: Centred
    directions: Floats
    device: str

    @cached_property
    def shift(self) -> Floats:
        """Mean of the real rows less that of the synthetic ones, shape (D,)."""
        return self.real.mean - self.synth.mean

    @cached_property
    def gaps(self) -> Gaps:
        """The distances along each direction."""
        return self.influences[0] if "influences" in vars(self) else self._gaps(_distances(self))

    @cached_property
    def influences(self) -> tuple[Gaps, Floats, Floats]:
        """The same, and how each row of either set moves the value, with mean 0."""
        moved = Moved.of(len(self.real)), Moved.of(len(self.synth))
        gaps = self._gaps(_distances(self, moved))
        pulls = (2 * self.shift, -2 * self.shift)
        real, synth = (
            self._influence(*parts) for parts in zip((self.real, self.synth), moved, gaps.slopes, pulls, strict=True)
        )
        return gaps, real, synth

    def _gaps(self, found: Floats) -> Gaps:
        variances = np.array([self.real.variance, self.synth.variance])
        return Gaps.of(found[:, 0], found[:, 1:] - variances, variances)

    def _influence(self, rows: Centred, moved: Moved, slope: float, pull: Floats) -> Floats:
        count, width = self.directions.shape
        total = (moved.potentials - slope * moved.squares) * (width / count) + slope * rows.lengths
        for part, block in rows.blocks():
            total[part] += block @ pull
        return np.asarray(3 * (total - total.mean()))


@dataclass(frozen=True)
class Moved:
    """Sums over directions for each row of a set.

    Attributes:
        potentials: Kantorovich potentials: how the row moves the distance, shape (N,).
        squares: Squared projections: how it moves the variance, shape (N,).
    """

    potentials: Floats
    squares: Floats

    @classmethod
    def of(cls, rows: int) -> Moved:
        """Nothing summed up yet."""
        return cls(np.zeros(rows), np.zeros(rows))


def check(*, directions: object, seed: object) -> None:
    """Raise ``MetricError`` unless ``directions`` is a whole number from 1 and ``seed`` one from 0."""
    for name, value, least in (("directions", directions, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise MetricError(f"{name}: expected a whole number of at least {least}, found {value!r}")


def join(*, real: Summarised[None], synth: Summarised[None], directions: int, seed: int) -> Lines:
    """Both sets, nothing projected yet."""
    return _lines(
        drawn(directions, real.features.shape[1], seed), real=real.features, synth=synth.features, device=real.device
    )


def compare(*, real: Summarised[None], synth: Summarised[None], joint: Lines) -> Outcome:
    """Three times D times the mean squared distance; lower is better, 0 for equal sets. Unit: squared feature units.

    The factor makes it three times the Frechet distance of two Gaussians whose covariances are multiples of identity.
    ``details["standard_error_of_directions"]`` is that of other directions on the same rows.
    """
    del real, synth
    gaps, (count, width) = joint.gaps, joint.directions.shape
    value = 3 * (float(joint.shift @ joint.shift) + width * gaps.mean)
    if gaps.unfitted < 1:
        return Outcome(value)
    error = 3 * width * float(gaps.influence().std(ddof=1)) / np.sqrt(count)
    return Outcome(value, (), {"standard_error_of_directions": float(error)})


def noise(*, real: Summarised[None], synth: Summarised[None], joint: Lines) -> Noise | str:
    """Of the rows, by the delta method, and of the directions, by their spread.

    A row moves the distance along a direction by its Kantorovich potential less their mean. Sets that are compared
    along the same directions share the directions' noise as they share the reference, so in a difference it cancels as
    far as both values move together.
    """
    del real, synth
    count, width = joint.directions.shape
    if count < 2:
        return "it needs at least two directions"
    gaps, ours, theirs = joint.influences
    along = 3 * width * gaps.influence()
    shared, size = side_by_side(ours, along)
    found = Noise(shared=shared, count=size, own=float(theirs.var(ddof=1)) / len(theirs))
    part = float(along.var(ddof=1)) / count
    return replace(found, freedom=gaps.unfitted * (found.variance / part) ** 2) if part > 0 else found


def drawn(directions: int, width: int, seed: int) -> Floats:
    """Random directions of length 1, shape (directions, width)."""
    found = np.random.default_rng([seed, STREAM]).standard_normal((directions, width))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def along(directions: Floats, *, real: Features, synth: Features, device: str = "cpu") -> Floats:
    """Squared 2-Wasserstein distance of the two sets along each direction, shape (directions,)."""
    lines = _lines(directions, real=real, synth=synth, device=device)
    return np.asarray(_distances(lines)[:, 0] + (directions @ lines.shift) ** 2)


def _lines(directions: Floats, *, real: Features, synth: Features, device: str) -> Lines:
    origin = real[0].astype(np.float64)
    return Lines(Centred.of(real, origin), Centred.of(synth, origin), directions, device)


def _distances(lines: Lines, moved: tuple[Moved, Moved] | None = None) -> Floats:
    """Of each direction the centred sets' squared distance and both variances, shape (K, 3).

    Args:
        lines: The sets and directions.
        moved: What to add each row's part to; that is computed on the CPU.
    """
    sets, device = (lines.real, lines.synth), "cpu" if moved else lines.device
    pairs: Iterator[tuple[Any, Any]]
    grid, found = Grid.of(len(lines.real), len(lines.synth)), []
    steps = None if len(lines.real) == len(lines.synth) else grid.placed(device)
    for part in _few(lines.directions, len(lines.real) + len(lines.synth)):
        ours, theirs = (_projected(rows, part, device) for rows in sets)
        if moved:
            for values, sums in zip((ours, theirs), moved, strict=True):
                sums.squares[:] += np.einsum("kn,kn->n", values, values)
            pairs = (_with_potentials(*both, grid, moved) for both in zip(ours, theirs, strict=True))
        else:
            pairs = zip(_sorted(ours), _sorted(theirs), strict=True)
        for a, b in pairs:
            found.append((_squared(a, b, steps), float(a @ a) / len(a), float(b @ b) / len(b)))
    return np.array(found)


def _squared(a: Any, b: Any, steps: tuple[Any, Any, Any] | None) -> float:
    """Squared distance of sorted values: step by step, or one by one in sets of one size."""
    if steps is None:
        gap = a - b
        return float(gap @ gap) / len(gap)
    left, right, weights = steps
    gap = a[left] - b[right]
    gap *= gap
    return float(gap @ weights)


def _with_potentials(ours: Floats, theirs: Floats, grid: Grid, moved: tuple[Moved, Moved]) -> tuple[Floats, Floats]:
    """Both projections, sorted, after each row's potential has been added up."""
    orders = np.argsort(ours), np.argsort(theirs)
    a, b = ours[orders[0]], theirs[orders[1]]
    moved[0].potentials[orders[0]] += _potential(a, b, grid)
    moved[1].potentials[orders[1]] += _potential(b, a, grid.swapped())
    return a, b


def _potential(values: Floats, others: Floats, grid: Grid) -> Floats:
    """Integral of 2 (x - T(x)) up to each of the sorted ``values``, where T transports them to ``others``."""
    share = grid.weights * len(values)
    moved = values - np.bincount(grid.left, share * others[grid.right], minlength=len(values))
    steps = np.diff(values) * (moved[1:] + moved[:-1])
    return np.concatenate([[0.0], np.cumsum(steps)])


def _few(directions: Floats, rows: int) -> Iterator[Floats]:
    return (directions[part] for part in slices(len(directions), max(1, PROJECTIONS // rows)))


def _projected(rows: Centred, directions: Floats, device: str) -> Any:
    """Centred rows along each direction, shape (directions, N), float64: an array, or a tensor on CUDA."""
    if device == "cpu":
        found = np.empty((len(directions), len(rows)))
        for part, block in rows.blocks():
            np.matmul(directions, block.T, out=found[:, part])
        return found
    import torch  # noqa: PLC0415 - who computes on the CPU need not wait for it

    placed = _placed(directions, device)
    return torch.cat([placed @ _placed(block, device).T for _, block in rows.blocks()], dim=1)


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
