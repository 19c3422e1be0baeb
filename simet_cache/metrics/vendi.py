"""Vendi score: how many different samples a set effectively holds.

Source: Friedman & Dieng 2023, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning",
https://arxiv.org/abs/2210.02410; reference code ``vendi_score/vendi.py`` of https://github.com/vertaix/Vendi-Score. The
exponential of the entropy of the eigenvalues of K/n, where K holds the cosines of rows with rows. The eigenvalues other
than 0 are also those of the rows' D x D second moment, so the smaller one of the two matrices is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simet_cache.metrics.metric import Noise, Outcome, Summarised, kept_as
from simet_cache.metrics.rows import Features, Floats
from simet_cache.metrics.unit import unit_blocks

FEWEST_ROWS = 50  # for a standard error: of 20 rows it was half of what it is
ROWS_A_DIRECTION = 1.5
NEAR_LARGEST = 0.98


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of the cosines of rows with rows, over n.

    Attributes:
        values: Those that can differ from 0, shape (min(N, D),); not negative, with sum 1.
    """

    values: Floats

    @property
    def entropy(self) -> float:
        """Entropy of the eigenvalues."""
        return -float(self.values @ _logarithm(self.values))


@kept_as("spectrum", version=1)
def summarise(features: Features, *, device: str = "cpu") -> Spectrum:
    """Eigenvalues of the cosine matrix of one set, over n.

    Args:
        features: Shape (N, D), any floating point dtype.
        device: Where the eigenvalues are found.

    Raises:
        MetricError: A row is zero.
    """
    matrix = _moment(features)
    if device == "cpu":
        found = np.linalg.eigvalsh(matrix)
    else:
        import torch  # noqa: PLC0415 - who computes on the CPU need not wait for it

        found = torch.linalg.eigvalsh(torch.from_numpy(matrix).to(device)).cpu().numpy()
    return Spectrum(np.maximum(found, 0.0))  # the matrix is positive semidefinite: below 0 is rounding


def compare(*, real: Summarised[None], synth: Summarised[Spectrum]) -> Outcome:
    """Effective number of different synthetic rows, 1 to min(M, D); higher is better. The real set is not looked at."""
    del real
    rows, width = synth.features.shape
    few = (f"biased downward: synth has {rows} rows for {width} features",) if rows < width else ()
    return Outcome(float(np.exp(synth.summary.entropy)), few)


def noise(*, real: Summarised[None], synth: Summarised[Spectrum]) -> Noise | str:
    """The delta method: a row x moves the entropy of the second moment C by -x' log(C) x - H.

    That is its variance about known directions. They are found from the same rows, and the value says how many of them:
    the variance is the larger by rows / (rows - value), as with the parameters of a regression. It does not hold for
    very few rows, nor near the largest value, where no row can move it by itself.
    """
    del real
    rows, width = synth.features.shape
    score = float(np.exp(synth.summary.entropy))
    if rows < FEWEST_ROWS:
        return f"it needs {FEWEST_ROWS} synthetic rows; synth has {rows}"
    if rows < ROWS_A_DIRECTION * score:
        return f"it needs {ROWS_A_DIRECTION:g} rows for each of its directions; synth has {rows} for {score:.1f}"
    if score > NEAR_LARGEST * min(rows, width):
        return f"the value is next to {min(rows, width)}, the largest that there can be"
    values, vectors = np.linalg.eigh(_moment(synth.features))
    logarithm = _logarithm(values)
    if rows < width:  # the eigenvectors are those of K/n
        influence = -(vectors**2) @ (rows * np.maximum(values, 0.0) * logarithm)
    else:
        influence = np.concatenate([-((unit @ vectors) ** 2 @ logarithm) for unit in unit_blocks(synth.features)])
    moved = score * influence
    return Noise(shared=np.empty(0), count=1, own=float(moved.var(ddof=1)) / (rows - score))


def _moment(features: Features) -> Floats:
    """K/n where the features outnumber the rows, and otherwise the second moment of the rows scaled to length 1."""
    rows, width = features.shape
    if rows < width:
        units = np.concatenate(list(unit_blocks(features)))
        return np.asarray(units @ units.T / rows)
    total = np.zeros((width, width))
    for unit in unit_blocks(features):
        total += unit.T @ unit
    total /= rows
    return total


def _logarithm(values: Floats) -> Floats:
    """Logarithms of those that are above rounding, and 0 for the others, whose share of an entropy is 0."""
    found: Floats = np.zeros_like(values)
    np.log(values, out=found, where=values > len(values) * np.finfo(np.float64).eps * values.max())
    return found
