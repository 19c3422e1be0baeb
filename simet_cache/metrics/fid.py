"""Frechet distance between the Gaussians that have the two sets' means and covariances.

Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", https://arxiv.org/abs/1706.08500;
reference code TTUR ``fid.py``. Its limit law: Rippl, Munk & Sturm 2016, "Limit laws of the empirical Wasserstein
distance: Gaussian distributions", https://arxiv.org/abs/1507.04090.

With any factors of the covariances, S = F^T F, the trace term Tr((Sr^1/2 Ss Sr^1/2)^1/2) is the nuclear norm of
P = Fr Fs^T (its singular values are the roots of the eigenvalues of Sr^1/2 Ss Sr^1/2). Factors and singular values come
from squared matrices (covariance, Gram matrix of P) as long as a bound on the rounding shows that squaring cost
nothing, else by orthogonal transformations alone: no eigenvalue is cut off or regularised, and rank-deficient
covariances are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from simet_cache.metrics import freedom, spectra
from simet_cache.metrics.metric import Noise, Outcome, Summarised, kept_as
from simet_cache.metrics.rows import Features, Floats, blocks, mean
from simet_cache.metrics.sample import Sample, drawn

CENTRE_ROWS = 256  # enough for a centre beside which the mean's distance from it is small
NEGLIGIBLE = 1e-10  # error of a distance relative to the traces
SMALL = 1e-9  # the same relative to the distance itself
SMALL_OF_MANY = 1e-7  # where the exact way would take as long as all the rest
MANY = 1024  # singular values
RESOLVED = 1e-6  # singular values of P below this share of the largest have no reliable direction, and no weight


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of a set.

    Attributes:
        mean: Shape (D,), float64.
        factor: Shape (min(N - 1, D), D), float64; ``factor.T @ factor`` is the unbiased covariance. A square one is an
            upper triangle.
    """

    mean: Floats
    factor: Floats

    @property
    def triangular(self) -> bool:
        """Whether the factor is an upper triangle."""
        return bool(len(self.factor) == self.factor.shape[1])


@kept_as("gaussian", version=1)
def summarise(features: Features, *, device: str = "cpu") -> Gaussian:
    """Mean and covariance factor of one set.

    Up to D rows, the factor is made of the centred rows, N - 1 of them. Beyond, it is the Cholesky factor of the
    covariance; or, where that one is too near to singular, the triangle of the QR decomposition of the centred rows.

    Args:
        features: Shape (N, D), N >= 2, any floating point dtype.
        device: Where to compute.
    """
    (gaussian,) = growing(features, [len(features)], device=device)
    return gaussian


def growing(
    features: Features, sizes: Iterable[int], *, order: NDArray[np.intp] | None = None, device: str = "cpu"
) -> Iterator[Gaussian]:
    """The Gaussian of the first n rows for each n of ``sizes``, which ascend; each row is read once for all of them.

    Args:
        features: Shape (N, D), N >= 2, any floating point dtype.
        sizes: Between 2 and N.
        order: Shape (N,): the order in which rows are taken; None for their own.
        device: Where to compute.
    """
    centre = mean(features[drawn(len(features), CENTRE_ROWS, seed=0)])
    width, done = features.shape[1], 0
    total, products = np.zeros(width), np.zeros((1, 1))
    for size in sizes:
        if size <= width:
            yield _of_few(_taken(features, order, 0, size))
            continue
        more = spectra.moments(_taken(features, order, done, size), centre, device=device)
        total, products, done = total + more[0], products + more[1], size
        yield _of_moments(centre, total, products, size, device) or _of_many(_taken(features, order, 0, size), device)


def _taken(features: Features, order: NDArray[np.intp] | None, start: int, stop: int) -> Features:
    return features[start:stop] if order is None else features[order[start:stop]]


def _of_few(features: Features) -> Gaussian:
    """A reflection that takes the vector of ones to the first axis makes one row of the centred rows vanish.

    It adds a multiple of the first row to all others, which then serve as the factor.
    """
    first, rows = features[0].astype(np.float64), len(features)
    factor = np.subtract(features[1:], first, dtype=np.float64)
    offset = factor.sum(axis=0) / rows
    factor -= offset + offset / (np.sqrt(rows) - 1)
    factor /= np.sqrt(rows - 1)
    return Gaussian(first + offset, factor)


def _of_moments(centre: Floats, total: Floats, products: Floats, rows: int, device: str) -> Gaussian | None:
    """From sums about ``centre``; None where too few digits would be left."""
    offset = total / rows
    spread = np.diagonal(products)
    if (rows * offset**2 > spread / 2).any():  # the centre lies outside of the rows: differences would cancel
        return None
    covariance = spectra.less_outer(products, total, rows) / (rows - 1)
    factor = spectra.cholesky_factor(covariance, device=device)
    return None if factor is None else Gaussian(centre + offset, factor)


def _of_many(features: Features, device: str) -> Gaussian:
    rows, width = features.shape
    centre, factor = mean(features), np.empty((0, width))
    for block in blocks(features, 2 * width):
        factor = spectra.triangle(np.vstack([factor, block - centre]), device=device)
    return Gaussian(centre, factor / np.sqrt(rows - 1))


@dataclass(frozen=True)
class Pair:
    """Two Gaussians, and what is found about them together: each part once, when it is first asked for."""

    real: Gaussian
    synth: Gaussian
    device: str = "cpu"

    @cached_property
    def product(self) -> Floats:
        """P = Fr Fs^T."""
        return _times_factor(self.real.factor, self.synth, self.device)

    @cached_property
    def traces(self) -> tuple[float, float]:
        """Total variance of each side."""
        return float(np.square(self.real.factor).sum()), float(np.square(self.synth.factor).sum())

    @cached_property
    def gram(self) -> Floats:
        """Products of the rows of P, or of its columns, whichever are fewer; the upper triangle."""
        return spectra.gram(self.product, device=self.device)

    @cached_property
    def spectrum(self) -> tuple[Floats, Floats]:
        """Eigenvalues of the Gram matrix, ascending, and its eigenvectors as columns."""
        return spectra.eigenvectors(self.gram, device=self.device)

    @cached_property
    def singular_values(self) -> Floats:
        """Those of P, ascending; as roots of squares where the distance surely does not suffer from it."""
        known = vars(self).get("spectrum")  # the noise needs it: asked for before the distance, it serves both
        squares = spectra.eigenvalues(self.gram, device=self.device) if known is None else known[0]
        values, error = spectra.roots(squares)
        small = SMALL if len(values) < MANY else SMALL_OF_MANY
        if 2 * error <= max(NEGLIGIBLE * sum(self.traces), small * self.distance_by(values)):
            return values
        return spectra.singular_values(self.product, device=self.device)

    @cached_property
    def distance(self) -> float:
        """Frechet distance."""
        return self.distance_by(self.singular_values)

    def distance_by(self, values: Floats) -> float:
        """Frechet distance by these singular values of P."""
        shift = self.real.mean - self.synth.mean
        trace = sum(self.traces)
        spread = float(trace - 2 * values.sum())
        rounding = (spectra.RELIABLE + np.finfo(np.float64).eps * len(shift)) * trace
        if -rounding <= spread < 0:
            spread = 0.0
        return float(shift @ shift) + spread


def join(*, real: Summarised[Gaussian], synth: Summarised[Gaussian]) -> Pair:
    """What the distance and its noise both need."""
    return Pair(real.summary, synth.summary, real.device)


def compare(*, real: Summarised[Gaussian], synth: Summarised[Gaussian], joint: Pair | None = None) -> Outcome:
    """Frechet distance; lower is better, 0 for equal means and covariances. Unit: squared feature units."""
    pair = joint or join(real=real, synth=synth)
    return Outcome(pair.distance, _too_few(real.features, synth.features))


def _too_few(real: Features, synth: Features) -> tuple[str, ...]:
    """The warning about sets with fewer rows than features; nothing where there is none."""
    width = real.shape[1]
    few = [f"{name} has {len(rows)}" for name, rows in (("real", real), ("synth", synth)) if len(rows) < width]
    if not few:
        return ()
    return (f"biased upward: {' and '.join(few)} rows for {width} features; compare it at equal row counts only",)


@dataclass(frozen=True)
class Side:
    """What the rows of one set do to the distance.

    Attributes:
        influence: First-order term of each row looked at, about zero; shape (n,). Where not all rows are, it is scaled
            so that its variance is that over all rows (see ``Sample``).
        excess: By how much the set's rows raise the distance on average, times their number.
        gaussian: What ``excess`` would be if the rows were Gaussian.
        kurtosis: Of the influences of all rows.
    """

    influence: Floats
    excess: float
    gaussian: float
    kurtosis: float


def noise(
    *, real: Summarised[Gaussian], synth: Summarised[Gaussian], joint: Pair | None = None, seed: int = 0
) -> Noise:
    """Noise of the distance by the delta method.

    The influence of a real row x is ``2 (mr - ms).(x - mr) + (x - mr)^T (1 - A) (x - mr)`` less its mean, with the
    optimal map A from the real to the synthetic Gaussian; likewise for a synthetic row. It vanishes where the two are
    equal, where the second-order term takes over.

    What remains is about the distance that sets of these sizes have on average. It lies above that of the
    distributions by ``bias``, the mean of the second-order term; with few rows for each feature by more than that.

    Args:
        real: The real set.
        synth: The synthetic set.
        joint: What ``join`` returns. Its eigenvectors, found here, also give the distance, if that is asked for later.
        seed: Of the rows that stand for all.
    """
    pair = joint or join(real=real, synth=synth)
    sides = sides_of(pair, real.features, synth.features, seed=seed)
    rows = len(real.features), len(synth.features)
    shares = 1 / rows[0], 1 / rows[1]
    return noise_of(
        pair,
        sides,
        rows=rows,
        shares=shares,
        second=sum(shares) ** 2,
        bias=np.dot(shares, [side.excess for side in sides]),
    )


def noise_of(
    pair: Pair,
    sides: tuple[Side, Side],
    *,
    rows: tuple[int, int],
    shares: tuple[float, float],
    second: float,
    bias: float,
    signed: bool = False,
) -> Noise:
    """Noise of a distance, or of a weighted sum of distances.

    An influence that is estimated never vanishes. Its mean square is that of the true one, and twice the variance that
    the second-order term of ``fid`` has: that is taken off, and the variance of the value's own second-order term is
    added. It grows with the square of the rows' excess, which heavy tails raise beyond that of Gaussian rows.

    Args:
        pair: The two sets.
        sides: What their rows do.
        rows: Of the real and of the synthetic set.
        shares: Sum of squares of the weights with which the mean influence of either set's rows enters.
        second: The same for the products of two rows that make up the second-order term.
        bias: By how much few rows raise the distance.
        signed: Whether the second-order term is of either sign, as its mean has been taken off. Few directions then
            give it the long tails of products of two normal numbers: its quantiles are those of the Student
            distribution with the same kurtosis.
    """
    unit, directions = second_order(pair.singular_values)
    surplus = 2 * unit * (1 / rows[0] + 1 / rows[1])
    gaussian = sum(side.gaussian for side in sides)
    heavier = max(sum(side.excess for side in sides) / gaussian, 1.0) if gaussian > 0 else 1.0
    beyond = unit * heavier**2 * second / sum(shares)
    raw = [float(side.influence.var(ddof=1)) for side in sides]
    real, synth = (max(variance - surplus, 0.0) + beyond for variance in raw)
    shrunk = np.sqrt(real * shares[0] * rows[0] / raw[0]) if raw[0] > 0 else 0.0
    parts = real * shares[0], synth * shares[1]
    known = freedom.of_sum(
        *((part, freedom.of_rows(count, side.kurtosis)) for part, count, side in zip(parts, rows, sides, strict=True))
    )
    if signed and beyond > 0:
        share = beyond * sum(shares) / sum(parts)
        known = min(known, float(4 + directions / share**2))  # excess kurtosis 6 / directions, if all is second order
    return Noise(shared=sides[0].influence * shrunk, count=rows[0], own=parts[1], freedom=known, bias=float(bias))


def sides_of(pair: Pair, real: Features, synth: Features, *, seed: int) -> tuple[Side, Side]:
    """What the rows of either set do to the distance.

    A row x has the quadratic form ``x^T A x`` of the optimal map A from its Gaussian to the other one. With any factors
    and the singular vectors of P = Fr Fs^T = U s V^T, that of a real row is the squared length of ``x Fs^T V / s^1/2``,
    and that of a synthetic row y of ``y Fr^T U / s^1/2``. No covariance is inverted: directions in which either set
    does not vary are not among these coordinates, and carry no part of the trace term.
    """
    squares, vectors = pair.spectrum
    kept = squares > RESOLVED**2 * squares[-1]
    values, vectors = np.sqrt(squares[kept]), vectors[:, kept]
    shift, of_rows = pair.real.mean - pair.synth.mean, len(pair.product) <= pair.product.shape[1]
    found = []
    for features, own, other, sign in (
        (real, pair.real, pair.synth, 1),
        (synth, pair.synth, pair.real, -1),
    ):
        sample = Sample.of(features, own.mean, seed=seed)
        rows = np.subtract(features[sample.rows], own.mean, dtype=np.float64)
        mapped, power = _times_factor(rows, other, pair.device), 0.5
        if of_rows == (sign > 0):  # the eigenvectors are those of the other side: P takes them over
            over = pair.product.T if sign > 0 else pair.product
            mapped, power = spectra.product(mapped, over, device=pair.device), 1.5
        mapped = spectra.product(mapped, vectors / values**power, device=pair.device)
        found.append(_side(sample, rows, mapped, shift=sign * shift, values=values, device=pair.device))
    return found[0], found[1]


def _times_factor(rows: Floats, gaussian: Gaussian, device: str) -> Floats:
    """``rows`` times the transpose of the covariance's factor."""
    if gaussian.triangular:
        return spectra.times_triangle(rows, gaussian.factor, device=device)
    return spectra.product(rows, gaussian.factor.T, device=device)


def _side(sample: Sample, rows: Floats, mapped: Floats, *, shift: Floats, values: Floats, device: str) -> Side:
    """What rows do, given also their coordinates in a basis in which P is diagonal, where the variances are ``values``.

    The coordinates' squares add up to the quadratic form of the optimal map to the other side.
    """
    squares = mapped**2
    lengths = np.einsum("nd,nd->n", rows, rows)
    raw = 2 * np.einsum("nd,d->n", rows, shift) + lengths - squares.sum(axis=1)
    weighted = spectra.product(squares, 1 / np.add.outer(values, values), device=device)
    fourth = sample.mean(np.einsum("nd,nd->n", weighted, squares))
    of_gaussian = (np.multiply.outer(values, values) / np.add.outer(values, values)).sum() + values.sum()
    excess, gaussian = (sample.mean(lengths) + (one - values.sum() / 2) / 2 for one in (fourth, of_gaussian))
    tails = freedom.kurtosis_of(raw, sample.weights)
    return Side(sample.scaled(raw - sample.mean(raw)), float(excess), float(gaussian), tails)


def second_order(values: Floats) -> tuple[float, float]:
    """Variance of the second-order term of the distance, in units of ``(1/N + 1/M)**2``, near equality.

    Args:
        values: The singular values of P.

    Returns:
        The variance; and how many independent terms of equal variance would have as long tails.
    """
    values = values[values > 0]
    weights = np.multiply.outer(values, values) / np.add.outer(values, values)
    of_pairs, of_means = weights**2, 2.25 * values**2
    total = float(of_pairs.sum() + of_means.sum())
    squares = float(2 * (of_pairs**2).sum() + (of_means**2).sum())
    return total, total**2 / squares if squares > 0 else np.inf
