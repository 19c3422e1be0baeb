"""Kernel distance: the unbiased squared maximum mean discrepancy under a cubic kernel, over all samples.

Source: Binkowski et al. 2018, "Demystifying MMD GANs", https://arxiv.org/abs/1801.01401. This is their U-statistic on
all rows at once; their protocol of averaging it over subsets (``kid_subsets``) has the same expectation and more
variance.

With rows moved to x = a + c and y = b + c, the kernel (x.y / D + 1)^3 is (a.b / D + A + B)^3, where A depends on x
alone and B on y alone. Of its terms only those with the square and the cube of a.b need every pair. They are small, and
may be read off float32 tiles; all others follow in float64 from sums over rows. Where the rounding of such sums could
be felt (one row far from all others, or features so small that the kernel is hardly more than its constant), the kernel
is computed pair by pair instead. Means are those of the kernel less 1, which changes no distance.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from simet_cache.metrics import freedom
from simet_cache.metrics.metric import Noise, Outcome, Summarised, kept_as
from simet_cache.metrics.rows import Features, Floats, slices
from simet_cache.metrics.tiles import Rows, Tensor, Tile, multiplied, opened, read_all

SAMPLED = 512  # rows of a set on which the error of float32 and the kernel's variance are measured
SMALL = 2**32  # products up to here are float64: trying whether float32 would do takes as long
TOLERANCE = 1e-6  # largest error of a mean that float32 may make, in standard errors of the value for equal sources
LARGEST_TRIAL = 1 / 6  # of the rows: a thirty-sixth of the pairs
PATCH = (256, 1024)  # of a tile: it stays in a processor's cache, and its float32 sums are short
LARGEST_SQUARED = 1e150  # whose square is a float, and sums of such squares
ROUNDING = 8 * sys.float_info.epsilon  # of sums of as many terms as there are, by blocks
PAIRED_ROWS = 2048
FELT = 1e-3  # of the value: rounding beyond it is told
FEW_ROWS = 100  # below, the value is mostly noise

Indices: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True)
class Within:
    """The kernel within one set.

    Attributes:
        mean: Over all pairs of different rows.
        rows: Mean over each row's pairs with the others, shape (N,).
        spread: Standard deviation of the kernel beyond that of row means: what no single row has by itself.
        rounding: How far the mean can be off.
    """

    mean: float
    rows: Floats
    spread: float
    rounding: float


@dataclass(frozen=True)
class Across:
    """The kernel between two sets.

    Attributes:
        mean: Over all pairs.
        real: Mean over each real row's pairs, shape (N,).
        synth: Mean over each synthetic row's pairs, shape (M,).
        spread: Standard deviation of the kernel beyond that of row means: what no single row has by itself.
        rounding: How far the mean can be off.
    """

    mean: float
    real: Floats
    synth: Floats
    spread: float
    rounding: float


@kept_as("within", version=1)
def summarise(features: Features, *, device: str = "cpu") -> Within:
    """The kernel within one set.

    Args:
        features: Shape (N, D), N >= 2, any floating point dtype.
        device: Where tiles are computed.
    """
    (rows,) = opened(features, device=device)
    reader = SelfReader(rows, [{}])
    read_all(rows, rows, [reader])
    return reader.results()[0]


def cross(*, real: Summarised[Any], synth: Summarised[Any]) -> Across:
    """The kernel between two sets."""
    left, right = opened(real.features, synth.features, device=real.device)
    reader = CrossReader(left, right, [None])
    read_all(left, right, [reader])
    return reader.results()[0]


def compare(*, real: Summarised[Within], synth: Summarised[Within], joint: Across) -> Outcome:
    """Squared discrepancy; lower is better, 0 in expectation for equal distributions, so it can be negative."""
    value = real.summary.mean + synth.summary.mean - 2 * joint.mean
    rounding = real.summary.rounding + synth.summary.rounding + 2 * joint.rounding
    lost = (f"known to ±{rounding:.1g} only, for the rounding of its kernel's values; rescale the features",)
    return Outcome(value, _warnings(real, synth, joint) + (lost if rounding > FELT * abs(value) else ()))


def noise(*, real: Summarised[Within], synth: Summarised[Within], joint: Across) -> Noise | str:
    """The variance of the U-statistic, with its terms of the second order, which are all there is for equal sources.

    The first order is the variance of each row's influence. Estimated influences are means over finite sets, and vary
    by more than the true ones: their variance holds the second order twice. What is too much is taken away without
    bias. (Sutherland et al. 2017, "Generative models and model criticism via optimized maximum mean discrepancy",
    https://arxiv.org/abs/1611.04488, section 3; Bounliphone et al. 2016, https://arxiv.org/abs/1511.04581.) Of few rows
    that variance is itself uncertain, so that quantiles are Student's.
    """
    n, m = len(real.features), len(synth.features)
    shared, influence = 2 * (real.summary.rows - joint.real), 2 * (synth.summary.rows - joint.synth)
    if max(abs(shared).max(), abs(influence).max(), joint.spread) > LARGEST_SQUARED:
        return "the kernel's values are so large that their variance overflows; rescale the features"
    own = 2 * synth.summary.spread**2 / (m * (m - 1))
    surplus = 2 * real.summary.spread**2 / (n * (n - 1))
    between = 4 * joint.spread**2 / (n * m)
    found = Noise(
        shared=shared - shared.mean(),
        count=n,
        own=max(float(influence.var(ddof=1)) / m - own - between, own),
        surplus=min(surplus, float(shared.var(ddof=1)) / n / 2),
    )
    return replace(found, freedom=_freedom(found.variance, shared, influence))


def _freedom(variance: float, *influences: Floats) -> float:
    """Degrees of freedom of a variance that was found from the variances of these means."""
    parts = (
        (float(one.var(ddof=1)) / len(one), freedom.of_rows(len(one), freedom.kurtosis_of(one))) for one in influences
    )
    return max(freedom.of_sum(*parts, total=variance), 1.0)


def _warnings(real: Summarised[Within], synth: Summarised[Within], joint: Across) -> tuple[str, ...]:
    sides = {"real": len(real.features), "synth": len(synth.features)}
    few = " and ".join(f"{side} has only {count} rows" for side, count in sides.items() if count < FEW_ROWS)
    if not few:
        return ()
    found = noise(real=real, synth=synth, joint=joint)
    error = f", here with a standard error of {np.sqrt(found.variance):.2g}" if isinstance(found, Noise) else ""
    return (f"{few}: so small sets give noisy values{error}",)


@dataclass(frozen=True)
class Side:
    """A set as kernels see it: the part of the kernel's base that depends on one row alone, and its powers.

    Attributes:
        rows: The set.
        shift: The part of each row, shape (N,).
        unit: What products of moved and scaled rows are divided by.
    """

    rows: Rows
    shift: Floats
    unit: float

    @classmethod
    def of(cls, rows: Rows) -> Side:
        """Split the kernel's base."""
        width = int(rows.features.shape[1])
        return cls(rows, (rows.along + _constant(rows)) / width, width * rows.scale**2)

    def powers(self, part: slice | Indices, kind: torch.dtype) -> Tensor:
        """1, the shift and its square, shape (3, n)."""
        shift = self.shift[part]
        with np.errstate(over="ignore"):
            powers = np.stack([np.ones_like(shift), shift, shift * shift]).astype(NUMPY[kind])
        return torch.from_numpy(powers).to(self.rows.device)

    @cached_property
    def moments(self) -> Floats:
        """Sums of the shift to the power of 0 to 3."""
        return np.array([float((self.shift**power).sum()) for power in range(4)])

    @cached_property
    def sums(self) -> Floats:
        """Sums of the moved rows times the shift to the power of 0 to 2, shape (3, D)."""
        constant, (zeroth, first, second) = _constant(self.rows), self.rows.sums
        width = len(zeroth)
        square = second / width + 2 * constant / width * first + constant * (constant / width) * zeroth
        return np.stack([zeroth, (first + constant * zeroth) / width, square / width])

    def cubes(self, other: Floats) -> Floats:
        """For each row, the sum of (shift + shift of another row)^3 over the rows with these moments."""
        shift = self.shift
        return np.asarray(((other[0] * shift + 3 * other[1]) * shift + 3 * other[2]) * shift + other[3])


NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


def _constant(rows: Rows) -> float:
    centre = rows.centre.astype(np.float64)
    return (float(centre @ centre) + len(centre)) / 2


class _Reduced:
    """Sums over the pairs of each row of a set: products times powers of the others' shifts, squares, cubes.

    Columns: products times 1, shift and its square; their squares times 1 and shift; their cubes.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        self.sums = np.zeros((len(side.rows), 6))

    def means(self, count: int) -> tuple[Floats, Floats]:
        """Mean kernel of each row over ``count`` others, without what is constant; and its nonlinear part alone."""
        shift, unit = self.side.shift, self.side.unit
        first, weighted, twice, square, square_weighted, cube = self.sums.T
        nonlinear = cube / unit / unit / unit + 3 * (shift * square + square_weighted) / unit / unit
        linear = 3 * (shift * (shift * first + 2 * weighted) + twice) / unit
        return (linear + nonlinear) / count, nonlinear / count


def reduce(products: Tensor, left: Tensor, right: Tensor) -> tuple[Floats, Floats]:
    """Sums over the rows and over the columns of a tile, shapes (n, 6) and (m, 6), as ``_Reduced`` holds them.

    Args:
        products: Shape (n, m).
        left: Powers of the rows' shifts, shape (3, n).
        right: Powers of the columns' shifts, shape (3, m).
    """
    n, m = products.shape
    by_row, by_column = np.zeros((n, 6)), np.zeros((m, 6))
    height, width = (n, m) if products.is_cuda else PATCH
    memory = torch.empty(min(height, n) * min(width, m), dtype=products.dtype, device=products.device)
    for rows in slices(n, height):
        for columns in slices(m, width):
            first, down, across = products[rows, columns], left[:, rows], right[:, columns]
            power = memory[: first.numel()].view(first.shape)
            _multiply(first, first, out=power)
            _add(first, down, across, by_row[rows, :3], by_column[columns, :3])
            _add(power, down[:2], across[:2], by_row[rows, 3:5], by_column[columns, 3:5])
            _multiply(power, first, out=power)
            _add(power, down[:1], across[:1], by_row[rows, 5:], by_column[columns, 5:])
    return by_row, by_column


def _multiply(left: Tensor, right: Tensor, out: Tensor) -> None:
    if out.is_cuda:
        torch.mul(left, right, out=out)
    else:
        np.multiply(left.numpy(), right.numpy(), out=out.numpy())  # torch's threads would wait where BLAS needs them


def _add(values: Tensor, left: Tensor, right: Tensor, by_row: Floats, by_column: Floats) -> None:
    if values.is_cuda:
        by_row += (values @ right.T).cpu().numpy()
        by_column += (values.T @ left.T).cpu().numpy()
        return
    patch = values.numpy()
    for power, (down, across) in enumerate(zip(left.numpy(), right.numpy(), strict=True)):
        by_row[:, power] += patch @ across  # one vector at a time: a few are no faster at once
        by_column[:, power] += down @ patch


class SelfReader:
    """Reads the kernel within one set."""

    def __init__(self, rows: Rows, wanted: Sequence[Any]) -> None:
        """Choose between float32 and float64 by trying both on some of the rows."""
        self.side, self.wanted = Side.of(rows), len(wanted)
        self.reduced = _Reduced(self.side)
        trial = tried(self.side, self.side)
        self.spread, self.excess, self.wide = trial.spread, trial.excess, not trial.narrow

    def read(self, tile: Tile) -> None:
        """Add a tile's sums, to its columns too where they are not its rows."""
        self.excess *= tile.kind == torch.float32
        by_row, by_column = reduce(
            tile.products, self.side.powers(tile.rows, tile.kind), self.side.powers(tile.columns, tile.kind)
        )
        self.reduced.sums[tile.rows] += by_row
        self.reduced.sums[tile.columns][tile.own :] += by_column[tile.own :]

    def results(self) -> list[Within]:
        """The same for everybody who asked."""
        found = self._summed()
        felt = found.rounding > TOLERANCE * self.spread / len(self.side.rows)
        return [self._computed() if felt else found] * self.wanted

    def _summed(self) -> Within:
        side, count = self.side, len(self.side.rows)
        varying, nonlinear = self.reduced.means(count - 1)
        zeroth, first, second = side.sums
        own = side.shift**2 @ side.rows.squared / side.unit
        linear = 6 * ((zeroth @ second + first @ first) / len(zeroth) - 2 * own)
        cubes = side.cubes(side.moments) - (2 * side.shift) ** 3
        mean = nonlinear.mean() + (linear + cubes.sum()) / count / (count - 1) - self.excess
        rounding = rounding_of(side, side) / count / (count - 1)
        return Within(float(mean) - 1, varying + cubes / (count - 1) - 1, self.spread, rounding)

    def _computed(self) -> Within:
        by_row, _, rounding = pair_by_pair(self.side, self.side)
        pairs = len(by_row) * (len(by_row) - 1)
        return Within(float(by_row.sum()) / pairs, by_row / (len(by_row) - 1), self.spread, rounding / pairs)


class CrossReader:
    """Reads the kernel between two sets."""

    def __init__(self, left: Rows, right: Rows, wanted: Sequence[Any]) -> None:
        """Choose between float32 and float64 by trying both on some of the rows."""
        self.left, self.right, self.wanted = Side.of(left), Side.of(right), len(wanted)
        self.by_row, self.by_column = _Reduced(self.left), _Reduced(self.right)
        trial = tried(self.left, self.right)
        self.spread, self.excess, self.wide = trial.spread, trial.excess, not trial.narrow

    def read(self, tile: Tile) -> None:
        """Add a tile's sums."""
        self.excess *= tile.kind == torch.float32
        by_row, by_column = reduce(
            tile.products, self.left.powers(tile.rows, tile.kind), self.right.powers(tile.columns, tile.kind)
        )
        self.by_row.sums[tile.rows] += by_row
        self.by_column.sums[tile.columns] += by_column

    def results(self) -> list[Across]:
        """The same for everybody who asked."""
        found = self._summed()
        felt = found.rounding > TOLERANCE * self.spread / np.sqrt(len(self.left.rows) * len(self.right.rows))
        return [self._computed() if felt else found] * self.wanted

    def _summed(self) -> Across:
        left, right = self.left, self.right
        n, m = len(left.rows), len(right.rows)
        by_row, nonlinear = self.by_row.means(m)
        by_column, _ = self.by_column.means(n)
        rows, columns = left.cubes(right.moments) / m, right.cubes(left.moments) / n
        linear = 3 * (left.sums[2] @ right.sums[0] + 2 * left.sums[1] @ right.sums[1] + left.sums[0] @ right.sums[2])
        mean = nonlinear.mean() + linear / left.sums.shape[1] / n / m + rows.mean() - self.excess
        rounding = rounding_of(left, right) / n / m
        return Across(float(mean) - 1, by_row + rows - 1, by_column + columns - 1, self.spread, rounding)

    def _computed(self) -> Across:
        by_row, by_column, rounding = pair_by_pair(self.left, self.right)
        n, m = len(by_row), len(by_column)
        return Across(float(by_row.sum()) / n / m, by_row / m, by_column / n, self.spread, rounding / n / m)


def rounding_of(left: Side, right: Side) -> float:
    """How far the kernel's sum over all pairs can be off when it is put together from sums over rows."""
    reaches = [abs(side.shift) + side.rows.squared / side.unit for side in (left, right)]
    one, other = (np.array([float((reach**power).sum()) for power in range(4)]) for reach in reaches)
    return ROUNDING * float(one[0] * other[3] + 3 * one[1] * other[2] + 3 * one[2] * other[1] + one[3] * other[0])


def pair_by_pair(left: Side, right: Side) -> tuple[Floats, Floats, float]:
    """Sums of the kernel less 1 over each row's pairs, each column's, and how far their total can be off.

    Args:
        left: A set.
        right: Another one, or the same object for the pairs of different rows within one set.
    """
    width = int(left.rows.features.shape[1])
    by_row, by_column, reach = np.zeros(len(left.rows)), np.zeros(len(right.rows)), 0.0
    for down in slices(len(left.rows), PAIRED_ROWS):
        rows = left.rows.features[down].astype(np.float64)
        for across in slices(len(right.rows), PAIRED_ROWS):
            base = rows @ right.rows.features[across].astype(np.float64).T / width
            values = ((base + 3) * base + 3) * base
            if left is right and down == across:
                np.fill_diagonal(values, 0.0)
            by_row[down] += values.sum(axis=1)
            by_column[across] += values.sum(axis=0)
            reach += float(abs(values).sum())
    return by_row, by_column, ROUNDING * reach


def _drawn(rows: int, sampled: int, seed: int) -> slice | Indices:
    """Some rows at random, in order; all where they are hardly more."""
    if rows < 2 * sampled:
        return slice(0, rows)
    return np.sort(np.random.default_rng([seed, rows]).choice(rows, sampled, replace=False))


def tried(left: Side, right: Side) -> Trial:
    """A trial of as many rows as can tell whether float32 will do, where that is no great part of the work."""
    trial = Trial(left, right, SAMPLED)
    if trial.narrow or trial.needed > LARGEST_TRIAL * min(len(left.rows), len(right.rows)):
        return trial
    return Trial(left, right, trial.needed)


class Trial:
    """The kernel of some rows of two sets, or of one, drawn at random, in float32 and in float64.

    Evenly spaced rows do not stand for all of them: where a set is saved class by class in turn, they are of one class.
    The seed is fixed, so that a set has one value.

    What float32 tiles get wrong depends on the rows and hardly averages out where many are alike. What is found on some
    rows is taken off the mean over all; what that leaves is told by how much the rows' errors vary.

    Attributes:
        spread: Standard deviation of the kernel beyond that of row means.
        excess: By how much means are too high when they are read off float32 tiles.
        narrow: Whether they are right to ``TOLERANCE`` without this excess.
        needed: How many rows would have told that they are.
    """

    def __init__(self, left: Side, right: Side, sampled: int) -> None:
        """Compute both."""
        self.sides = left, right
        part = _drawn(len(left.rows), sampled, 0)
        self.parts = [part, part if left is right else _drawn(len(right.rows), sampled, 1)]
        wide = self._products(torch.float64)
        shifts = left.shift[self.parts[0]][:, None] + right.shift[self.parts[1]]
        base = wide.cpu().numpy() / left.unit + shifts
        self.kernel = base * base * base
        self.spread = self._spread_within() if left is right else self._spread_across()
        self.excess, self.narrow, self.needed = 0.0, False, sys.maxsize
        pairs = len(left.rows) * len(right.rows)
        if pairs * left.rows.features.shape[1] > SMALL:
            with np.errstate(all="ignore"):
                narrow = self._products(torch.float32).double()  # rounding of sums averages out over many more of them
                error = self._nonlinear(narrow) - self._nonlinear(wide)
                needed = (2 * error.std() * np.sqrt(pairs) / self.spread / TOLERANCE) ** 2
            if needed <= sys.maxsize:  # it is a number
                self.excess, self.narrow, self.needed = float(error.mean()), needed <= len(error), int(1.2 * needed)

    def _spread_within(self) -> float:
        """Beyond that of row means; unbiased as a variance, by U-centred matrices (Szekely & Rizzo 2014)."""
        (kernel, largest), n = self._normalised(), len(self.kernel)
        np.fill_diagonal(kernel, 0.0)
        if n < 4:
            return largest * float(kernel[np.triu_indices(n, 1)].std())
        total, rows = kernel.sum() / (n - 1) / (n - 2), kernel.sum(axis=1) / (n - 2)
        centred = kernel - rows - rows[:, None] + total
        np.fill_diagonal(centred, 0.0)
        return largest * float(np.sqrt((centred**2).sum() / n / (n - 3)))

    def _spread_across(self) -> float:
        """Beyond that of row and column means; unbiased as a variance."""
        kernel, largest = self._normalised()
        centred = kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean()
        return largest * float(np.sqrt((centred**2).sum() / (len(kernel) - 1) / (kernel.shape[1] - 1)))

    def _normalised(self) -> tuple[Floats, float]:
        """The kernel in units of its largest value, whose square may be more than a float holds; and that value."""
        largest = float(abs(self.kernel).max()) or 1.0
        return self.kernel / largest, largest

    def _products(self, kind: torch.dtype) -> Tensor:
        left = self.sides[0].rows.block(self.parts[0], kind)
        if self.sides[0] is self.sides[1]:
            return multiplied(left, left.T).fill_diagonal_(0.0)
        return multiplied(left, self.sides[1].rows.block(self.parts[1], kind).T)

    def _nonlinear(self, products: Tensor) -> Floats:
        """Means over the columns of what tiles are read for, for each row."""
        left, _ = self.sides
        powers = [side.powers(part, products.dtype) for side, part in zip(self.sides, self.parts, strict=True)]
        sums, _ = reduce(products, *powers)
        square, weighted, cube = sums[:, 3:].T
        shift, unit = left.shift[self.parts[0]], left.unit
        total = cube / unit / unit / unit + 3 * (shift * square + weighted) / unit / unit
        return np.asarray(total / products.shape[1])
