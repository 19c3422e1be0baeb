"""Frechet distance between the Gaussians that have the two sets' means and covariances.

Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", https://arxiv.org/abs/1706.08500;
reference code TTUR ``fid.py``.

With any factors of the covariances, S = F^T F, the trace term Tr((Sr^1/2 Ss Sr^1/2)^1/2) is the nuclear norm of
Fr Fs^T (its singular values are the roots of the eigenvalues of Sr^1/2 Ss Sr^1/2). The factors come from the centred
rows by orthogonal transformations alone: no covariance is formed, so no eigenvalue has to be rooted, cut off or
regularised, and rank-deficient covariances need no special case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simet_cache.metrics.metric import Outcome, Summarised
from simet_cache.metrics.rows import Features, Floats, blocks, mean


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of a set.

    Attributes:
        mean: Shape (D,), float64.
        factor: Shape (min(N, D), D), float64; ``factor.T @ factor`` is the unbiased covariance.
    """

    mean: Floats
    factor: Floats


def summarise(features: Features) -> Gaussian:
    """Mean and covariance factor of one set.

    Up to D rows, the centred rows are the factor. Beyond, it is the triangle of their QR decomposition, updated block
    by block, so that about 4 D x D float64 numbers are held beside ``features``.

    Args:
        features: Shape (N, D), N >= 2, any floating point dtype.
    """
    rows, width = features.shape
    centre = mean(features)
    if rows <= width:
        factor = features - centre
    else:
        factor = np.empty((0, width))
        for block in blocks(features, 2 * width):
            factor = _triangle(np.vstack([factor, block - centre]))
    return Gaussian(mean=centre, factor=factor / np.sqrt(rows - 1))


def _triangle(rows: Floats) -> Floats:
    triangle: Floats = np.linalg.qr(rows, mode="r")  # type: ignore[assignment] # NumPy's stub knows no mode
    return triangle


def compare(*, real: Summarised[Gaussian], synth: Summarised[Gaussian]) -> Outcome:
    """Frechet distance; lower is better, 0 for equal means and covariances. Unit: squared feature units."""
    return Outcome(_distance(real.summary, synth.summary), _warnings(real.features, synth.features))


def _distance(real: Gaussian, synth: Gaussian) -> float:
    shift = real.mean - synth.mean
    trace = np.vdot(real.factor, real.factor) + np.vdot(synth.factor, synth.factor)
    shared = np.linalg.svd(real.factor @ synth.factor.T, compute_uv=False).sum()
    spread = float(trace - 2 * shared)
    rounding = np.finfo(np.float64).eps * len(shift) * trace
    if -rounding <= spread < 0:
        spread = 0.0
    return float(shift @ shift) + spread


def _warnings(real: Features, synth: Features) -> tuple[str, ...]:
    width = real.shape[1]
    few = [f"{name} has {len(rows)}" for name, rows in (("real", real), ("synth", synth)) if len(rows) < width]
    if not few:
        return ()
    return (f"biased upward: {' and '.join(few)} rows for {width} features; compare it at equal row counts only",)
