"""Maximum mean discrepancy under a Gaussian kernel, on rows scaled to length 1.

Source: Jayasumana et al. 2024, "Rethinking FID: Towards a Better Evaluation Metric for Image Generation",
https://arxiv.org/abs/2401.09603; reference code ``cmmd/distance.py`` of https://github.com/google-research/google-research:
1000 times the biased estimate (a row's kernel with itself counts), sigma 10.

The kernel exp(-t), t = |a - b|^2 / (2 sigma^2), is 1 but for a hundredth here, and the value a difference of its
means: so it is exp(-t) - 1 that is averaged, in float64. Products in float32 and a closed form for the means of -t
would do for most sets; in such as hold few different rows, their rounding does not average out and costs the sixth
digit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from simet_cache.errors import MetricError
from simet_cache.metrics.metric import Noise, Outcome, Summarised, kept_as
from simet_cache.metrics.rows import Features, Floats, block_rows, blocks, slices
from simet_cache.metrics.unit import unit_blocks

SCALE = 1000.0
PANEL, TILE = 4096, 1024  # rows of the two sides of a kernel tile
SAMPLE = 256  # rows whose median is the centre: rows far out must not move it
DOUBT = 1e-9  # squared distances that can be further off are computed again, up to FAR, where the kernel is 0
FAR = 50.0


@dataclass(frozen=True)
class Points:
    """Rows as the kernel sees them, in units in which it is exp(-|a - b|^2).

    Attributes:
        features: Shape (N, D).
        centre: What is taken from each row, shape (D,): distances do not see it, and rounding is relative to the rest.
        sigma: Width of the kernel.
        normalise: Whether rows are scaled to length 1 first.
    """

    features: Features
    centre: Floats
    sigma: float
    normalise: bool

    def blocks(self, rows: int, start: int = 0) -> Iterator[Floats]:
        """The rows from ``start`` on, in float64 blocks."""
        for block in _blocks(self.features[start:], self.normalise, rows):
            yield (block - self.centre) / (np.sqrt(2) * self.sigma)


@dataclass(frozen=True)
class Means:
    """Means of the kernel less 1, over one set with itself or with another.

    Attributes:
        centre: The middle of the first set, before its units are changed; shape (D,).
        rows: For each row of the first set, over the second; shape (N,).
        columns: For each row of the second set, over the first; shape (M,).
        square: Mean square over all pairs.
    """

    centre: Floats
    rows: Floats
    columns: Floats
    square: float

    @property
    def total(self) -> float:
        """Mean over all pairs."""
        return float(self.rows.mean())

    @property
    def interaction(self) -> float:
        """Mean square of what is left of the kernel without its row and column means."""
        centred = self.square + self.total**2 - (self.rows**2).mean() - (self.columns**2).mean()
        return max(float(centred), 0.0)


def check(*, sigma: object, normalise: object) -> None:
    """Raise ``MetricError`` unless ``sigma`` is a number above 0 and ``normalise`` is true or false."""
    if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0 < sigma < np.inf:
        raise MetricError(f"sigma: expected a number above 0, found {sigma!r}")
    if not isinstance(normalise, bool):
        raise MetricError(f"normalise: expected true or false, found {normalise!r}")


@kept_as("means", version=1)
def summarise(features: Features, *, sigma: float, normalise: bool, device: str = "cpu") -> Means:
    """Kernel means of one set with itself.

    Args:
        features: Shape (N, D), any floating point dtype.
        sigma: Width of the kernel.
        normalise: Whether rows are scaled to length 1 first.
        device: Where tiles are computed.

    Raises:
        MetricError: A row is zero and is to be scaled.
    """
    few = [block[:: 1 + len(features) // SAMPLE] for block in _blocks(features, normalise, TILE)]
    points = Points(features, np.median(np.concatenate(few), axis=0), sigma, normalise)
    return _means(points, points, device)


def join(*, real: Summarised[Means], synth: Summarised[Means], sigma: float, normalise: bool) -> Means:
    """Kernel means of the real set with the synthetic one."""
    left, right = (Points(side.features, real.summary.centre, sigma, normalise) for side in (real, synth))
    return _means(left, right, real.device)


def compare(*, real: Summarised[Means], synth: Summarised[Means], joint: Means) -> Outcome:
    """1000 times the biased squared discrepancy; lower is better, 0 for equal sets.

    The details hold the unbiased estimate too, whose expectation is 0 for equal distributions.
    """
    cross = 2 * joint.total
    biased = real.summary.total + synth.summary.total - cross
    others = sum(side.summary.total * len(side.features) / (len(side.features) - 1) for side in (real, synth))
    return Outcome(SCALE * max(biased, 0.0), (), {"unbiased": SCALE * (others - cross)})


def noise(*, real: Summarised[Means], synth: Summarised[Means], joint: Means) -> Noise:
    """The V-statistic's variance, of first order by the projections of the rows, and of second order by their error."""
    n, m = len(real.features), len(synth.features)
    shared = _influence(real.summary.rows - joint.rows, real.summary.interaction / n + joint.interaction / m)
    moved = _influence(synth.summary.rows - joint.columns, synth.summary.interaction / m + joint.interaction / n)
    return Noise(shared=shared, count=n, own=float(moved.var(ddof=1)) / m)


def _influence(projections: Floats, error: float) -> Floats:
    """How each row moves the value, with mean 0, where the projections are known with an error of that variance.

    The influence is twice the projection, its variance 4 times the projections'. Of that, the error makes up 4 times
    its own variance, where the terms of second order, in which a row meets another, vary by 2 times it: for equal
    distributions, whose projections are error alone, half of the variance stays, and never less.
    """
    found = 2 * SCALE * (projections - projections.mean())
    variance = float(found.var(ddof=1))
    kept = 1 - 2 * SCALE**2 * error / variance if variance else 1.0
    return np.asarray(found * np.sqrt(max(kept, 0.5)))


def _blocks(features: Features, normalise: bool, rows: int) -> Iterator[Floats]:
    return unit_blocks(features, rows) if normalise else blocks(features, rows)


def _means(left: Points, right: Points, device: str) -> Means:
    import torch  # noqa: PLC0415 - takes a second

    same = left is right
    rows, columns, square = np.zeros(len(left.features)), np.zeros(len(right.features)), 0.0
    for number, panel in enumerate(left.blocks(PANEL)):
        start = number * PANEL
        first, done = torch.from_numpy(panel).to(device), start if same else 0
        for block in right.blocks(TILE, done):
            tile = _squared(first, torch.from_numpy(block).to(device))
            mirrored = same and done >= start + len(panel)  # stands for the tile below the diagonal too
            torch.expm1(tile.neg_(), out=tile)
            rows[start : start + len(panel)] += tile.sum(dim=1).cpu().numpy()
            (rows if mirrored else columns)[done : done + len(block)] += tile.sum(dim=0).cpu().numpy()
            square += (1 + mirrored) * float(torch.linalg.vector_norm(tile)) ** 2
            done += len(block)
    pairs = len(rows) * len(columns)
    return Means(left.centre, rows / len(columns), (rows if same else columns) / len(rows), square / pairs)


def _squared(left: Any, right: Any) -> Any:
    """Squared distances of rows with rows."""
    import torch  # noqa: PLC0415 - takes a second

    on_cpu = left.device.type == "cpu"  # where NumPy's products are the faster ones
    tile = torch.from_numpy(left.numpy() @ right.numpy().T) if on_cpu else left @ right.T
    ours, theirs = (left * left).sum(dim=1)[:, None], (right * right).sum(dim=1)
    tile.mul_(-2).add_(ours).add_(theirs).clamp_(min=0)
    rounding = 8 * float(np.finfo(np.float64).eps)
    if rounding * float(ours.max() + theirs.max()) > DOUBT:
        doubt = rounding * (ours + theirs)
        i, j = torch.nonzero((doubt > DOUBT) & (tile < FAR + doubt), as_tuple=True)
        for part in slices(len(i), block_rows(left)):
            tile[i[part], j[part]] = ((left[i[part]] - right[j[part]]) ** 2).sum(dim=1)
    return tile
