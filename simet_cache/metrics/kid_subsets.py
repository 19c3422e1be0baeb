"""Kernel distance by the papers' protocol: the mean of the unbiased estimate over random subsets of both sets.

Source: Binkowski et al. 2018, "Demystifying MMD GANs", https://arxiv.org/abs/1801.01401, section 4; drawn without
replacement, as in ``torch-fidelity`` and ``clean-fid``. It estimates what ``kid`` estimates, with more variance.

Subsets overlap, so the kernel of all rows is computed once, tile by tile, and added up by subset; only where subsets
are few and small beside the sets, each is computed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics import kid
from simet_cache.metrics.metric import Outcome, Summarised
from simet_cache.metrics.rows import Features, Floats, slices
from simet_cache.metrics.tiles import PREPARED_ROWS, Tile, opened, read_all

SMALLEST = 2  # rows of a subset

Indices = NDArray[np.intp]


def check(*, subsets: object, subset_size: object, seed: object) -> None:
    """Raise ``MetricError`` unless there are subsets, of two rows at least, and a seed."""
    for name, value, least in (("subsets", subsets, 1), ("subset_size", subset_size, SMALLEST), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise MetricError(f"{name}: expected a whole number of at least {least}, found {value!r}")


def compare(*, real: Summarised[Any], synth: Summarised[Any], subsets: int, subset_size: int, seed: int) -> Outcome:
    """Mean squared discrepancy over subsets; lower is better, 0 in expectation for equal distributions.

    ``details["std"]`` is the standard deviation over the subsets, as papers report it. It is that of sets of the
    subsets' size, and no standard error of the value.

    Args:
        real: The real rows.
        synth: The synthetic rows.
        subsets: How many subsets of each set are drawn.
        subset_size: How many rows each has, without replacement; lowered to the rows that there are.
        seed: Of the draws.
    """
    size = min(subset_size, len(real.features), len(synth.features))
    rng = np.random.default_rng(seed)
    drawn = [
        (rng.choice(len(real.features), size, replace=False), rng.choice(len(synth.features), size, replace=False))
        for _ in range(subsets)
    ]
    values = values_of(real.features, synth.features, drawn, device=real.device)
    largest = float(abs(values).max()) or 1.0  # its square may be more than a float holds
    lowered = f"subset_size={subset_size} was lowered to {size}: one set has no more rows"
    return Outcome(
        float(values.mean()),
        () if size == subset_size else (lowered,),
        {"std": largest * float((values / largest).std()), "subset_size": float(size)},
    )


def values_of(
    real: Features, synth: Features, drawn: Sequence[tuple[Indices, Indices]], *, device: str = "cpu"
) -> Floats:
    """The squared discrepancy of each pair of subsets.

    Args:
        real: Shape (N, D).
        synth: Shape (M, D).
        drawn: For each pair the numbers of its real and of its synthetic rows, without repetition, two at least.
        device: Where tiles are computed.
    """
    alone = sum((len(i) + len(j)) ** 2 for i, j in drawn)
    if alone < (len(real) + len(synth)) ** 2:
        return np.array([_alone(real[np.sort(i)], synth[np.sort(j)], device) for i, j in drawn])
    left, right = (kid.Side.of(rows) for rows in opened(real, synth, device=device))
    of_left, of_right = (_Members(side, [pair[which] for pair in drawn]) for which, side in enumerate((left, right)))
    readers = [_Reader(of_left, of_left), _Reader(of_right, of_right), _Reader(of_left, of_right)]
    if any(reader.rounding_is_felt() for reader in readers):
        return np.array([_alone(real[np.sort(i)], synth[np.sort(j)], device) for i, j in drawn])
    within_left, within_right, across = map(_means, readers)
    return np.asarray(within_left + within_right - 2 * across)


def _alone(real: Features, synth: Features, device: str) -> float:
    sides = [Summarised(rows, kid.summarise(rows, device=device), device=device) for rows in (real, synth)]
    across = kid.cross(real=sides[0], synth=sides[1])
    return kid.compare(real=sides[0], synth=sides[1], joint=across).value


class _Members:
    """Which rows of a set are in which subsets, and what follows from the rows of a subset alone.

    Attributes:
        side: The set.
        inside: 1 for rows that are in a subset, else 0, shape (N, S).
        counts: Rows in each subset, shape (S,).
        sums: For each subset, sums of its moved rows times their shift to the power of 0 to 2, shape (3, S, D).
        moments: For each subset, sums of the shift to the power of 0 to 3, shape (4, S).
    """

    def __init__(self, side: kid.Side, drawn: Sequence[Indices]) -> None:
        rows, self.side = side.rows, side
        self.inside = np.zeros((len(rows), len(drawn)))
        for subset, members in enumerate(drawn):
            self.inside[members, subset] = 1.0
        self.counts = self.inside.sum(axis=0)
        self.powers = np.stack([side.shift**power for power in range(4)])
        self.moments = self.powers @ self.inside
        self.sums = np.zeros((3, len(drawn), rows.features.shape[1]))
        for part in slices(len(rows), 4 * PREPARED_ROWS):
            weights = self.inside[part].T * self.powers[:3, None, part]
            self.sums += (weights.reshape(-1, weights.shape[2]) @ rows.moved(part)).reshape(self.sums.shape)


def _means(reader: _Reader) -> Floats:
    """The mean kernel of each pair of subsets, or within each of them when both are the same object."""
    left, right = reader.left, reader.right
    read_all(left.side.rows, right.side.rows, [reader])
    width = left.sums.shape[2]
    linear = np.zeros(len(left.counts))
    for weight, power in ((1, 2), (2, 1), (1, 0)):
        linear += 3 * weight * np.einsum("sd,sd->s", left.sums[power], right.sums[2 - power]) / width
    constant = np.zeros(len(left.counts))
    for weight, power in ((1, 3), (3, 2), (3, 1), (1, 0)):
        constant += weight * left.moments[power] * right.moments[3 - power]
    pairs = left.counts * right.counts
    if left is right:  # without each row's pair with itself
        pairs = pairs - left.counts
        linear -= 12 * (left.powers[2] * left.side.rows.squared / left.side.unit) @ left.inside
        constant -= 8 * left.moments[3]
    return np.asarray((reader.totals + linear + constant) / pairs - reader.excess)


class _Reader:
    """Adds up, by subset, the terms of the kernel that need every pair."""

    def __init__(self, left: _Members, right: _Members) -> None:
        self.left, self.right = left, right
        trial = kid.tried(left.side, right.side)
        self.spread, self.excess, self.wide = trial.spread, trial.excess, not trial.narrow
        self.totals = np.zeros(len(left.counts))

    def rounding_is_felt(self) -> bool:
        """Whether sums over rows are so large that the kernel is better computed pair by pair (see ``kid``)."""
        left, right = self.left.side, self.right.side
        rounding = kid.rounding_of(left, right) / len(left.rows) / len(right.rows)
        return bool(rounding > kid.TOLERANCE * self.spread / self.left.counts.max())

    def read(self, tile: Tile) -> None:
        """Add the tile; pairs of rows of one set count twice, but where a tile has them twice."""
        self.excess *= tile.kind == torch.float32
        unit = self.left.side.unit
        twice = 2.0 if self.left is self.right else 1.0
        rows, columns = self.left.inside[tile.rows], self.right.inside[tile.columns].copy()
        columns[tile.own :] *= twice
        down, across = self._on_device(rows, tile), self._on_device(columns, tile)
        shift = self._on_device(self.left.side.shift[tile.rows] * 3, tile)[:, None]
        other = self._on_device(self.right.side.shift[tile.columns] * 3, tile)
        products = tile.products if tile.products.is_cuda else tile.products.numpy()
        for part in slices(len(rows), kid.PATCH[0]):
            first = products[part] / unit
            terms = first + other
            terms += shift[part]
            terms *= first
            terms *= first
            self.totals += _sums((terms @ across) * down[part])

    def results(self) -> list[Floats]:
        """Totals by subset."""
        return [self.totals]

    def _on_device(self, values: Floats, tile: Tile) -> Any:
        """In the tile's dtype; on the CPU as a NumPy array, which is multiplied by the faster BLAS."""
        narrow = np.ascontiguousarray(values, dtype=kid.NUMPY[tile.kind])
        return torch.from_numpy(narrow).to(tile.left.device) if tile.products.is_cuda else narrow


def _sums(values: Any) -> Floats:
    """Sums over the rows, in float64."""
    if isinstance(values, torch.Tensor):
        return np.asarray(values.sum(0, dtype=torch.float64).cpu().numpy())
    return np.asarray(values.sum(axis=0, dtype=np.float64))
