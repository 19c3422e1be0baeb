"""Kernel distance: the unbiased squared maximum mean discrepancy under a cubic kernel, over all samples.

Source: Binkowski et al. 2018, "Demystifying MMD GANs", https://arxiv.org/abs/1801.01401. This is their U-statistic on
all rows at once; their protocol of averaging it over subsets has the same expectation and more variance.
"""

from __future__ import annotations

import numpy as np

from simet_cache.metrics.metric import Outcome, Summarised
from simet_cache.metrics.rows import Features, Floats, blocks

TILE = 1024  # rows of one side of a kernel tile


def summarise(features: Features) -> float:
    """Mean kernel value over all pairs of different rows of one set.

    Args:
        features: Shape (N, D), N >= 2, any floating point dtype.
    """
    rows = len(features)
    total = 0.0
    for number, left in enumerate(blocks(features, TILE)):
        start = number * TILE
        tile = _kernel(left, left)
        np.fill_diagonal(tile, 0.0)
        total += float(tile.sum())
        for right in blocks(features[start + TILE :], TILE):
            total += 2 * float(_kernel(left, right).sum())
    return total / rows / (rows - 1)


def compare(*, real: Summarised[float], synth: Summarised[float]) -> Outcome:
    """Squared discrepancy; lower is better, 0 in expectation for equal distributions, so it can be negative."""
    total = 0.0
    for left in blocks(real.features, TILE):
        for right in blocks(synth.features, TILE):
            total += float(_kernel(left, right).sum())
    cross = total / len(real.features) / len(synth.features)
    return Outcome(real.summary + synth.summary - 2 * cross)


def _kernel(left: Floats, right: Floats) -> Floats:
    base = left @ right.T
    base /= left.shape[1]
    base += 1.0
    cube = base * base
    cube *= base
    return cube
