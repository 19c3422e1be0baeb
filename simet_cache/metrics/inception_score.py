"""Inception score: whether each sample is of one class for sure, and the set of many classes.

Source: Salimans et al. 2016, "Improved Techniques for Training GANs", https://arxiv.org/abs/1606.03498: the exponential
of the mean KL(p(y|x) || p(y)), averaged over disjoint parts of the shuffled rows; as in ``metric_isc.py`` of
https://github.com/toshas/torch-fidelity (which shuffles with another generator).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, xlogy

from simet_cache.errors import MetricError
from simet_cache.metrics.metric import Noise, Outcome, Summarised
from simet_cache.metrics.rows import Features, Floats, block_rows, slices

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Part:
    """One part of the rows.

    Attributes:
        rows: Their indices, ascending, shape (n,).
        classes: Share of each class on the mean, shape (C,).
        divergences: KL of each row's classes from those of the part, shape (n,).
    """

    rows: Indices
    classes: Floats
    divergences: Floats

    @property
    def score(self) -> float:
        """The score of this part alone."""
        return float(np.exp(max(self.divergences.mean(), 0.0)))  # not negative but for rounding


def check(*, splits: object, seed: object) -> None:
    """Raise ``MetricError`` unless ``splits`` is a whole number from 1 and ``seed`` one from 0."""
    for name, value, least in (("splits", splits, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise MetricError(f"{name}: expected a whole number of at least {least}, found {value!r}")


def parts_of(*, real: Summarised[None], synth: Summarised[None], splits: int, seed: int) -> list[Part]:
    """The synthetic rows dealt to ``splits`` parts in an order that depends on their number and ``seed`` alone.

    Raises:
        MetricError: There are fewer rows than parts.
    """
    del real
    logits, rows = synth.features, len(synth.features)
    if rows < splits:
        raise MetricError(f"synth: expected at least {splits} rows for {splits} splits, found {rows}; lower splits")
    order = np.random.default_rng(seed).permutation(rows)
    ends = [rows * number // splits for number in range(splits + 1)]
    return [_part(logits, order[start:end]) for start, end in pairwise(ends)]


def compare(*, real: Summarised[None], synth: Summarised[None], joint: list[Part]) -> Outcome:
    """Mean score of the parts, 1 to the number of classes; higher is better. The real set is not looked at."""
    del real
    scores = np.array([part.score for part in joint])
    return Outcome(float(scores.mean()), _warnings(synth.features, joint), {"std": float(scores.std())})


def noise(*, real: Summarised[None], synth: Summarised[None], joint: list[Part]) -> Noise:
    """The jackknife in each part: a row that is left out changes the mean of the classes, too.

    Given that mean, as the delta method sees it, standard errors are 0.8 of what they should be where parts have no
    more rows than there are classes.
    """
    del real
    own = sum(_variance(synth.features, part) for part in joint) / len(joint) ** 2
    return Noise(shared=np.empty(0), count=1, own=own)


def _variance(logits: Features, part: Part) -> float:
    """Variance of the part's score; 0 for a single row, whose score is 1."""
    count = len(part.rows)
    if count == 1:
        return 0.0
    own, of_others = np.empty(count), np.empty(count)  # entropies: of each row, and of the mean classes without it
    for block in slices(count, block_rows(logits)):
        logs = log_softmax(logits[part.rows[block]].astype(np.float64), axis=1)
        shares = np.exp(logs)
        others = np.maximum(count * part.classes - shares, 0.0) / (count - 1)
        own[block], of_others[block] = -(shares * logs).sum(axis=1), -xlogy(others, others).sum(axis=1)
    scores = np.exp(of_others - (own.sum() - own) / (count - 1))
    return (count - 1) / count * float(((scores - scores.mean()) ** 2).sum())


def _part(logits: Features, rows: Indices) -> Part:
    rows = np.sort(rows)  # a mapped file is read forwards
    total, own = np.zeros(logits.shape[1]), np.empty(len(rows))
    for part in slices(len(rows), block_rows(logits)):
        logs = log_softmax(logits[rows[part]].astype(np.float64), axis=1)
        shares = np.exp(logs)
        total += shares.sum(axis=0)
        own[part] = (shares * logs).sum(axis=1)
    classes = total / len(rows)
    log_classes = np.log(classes, out=np.zeros_like(classes), where=classes > 0)
    for part in slices(len(rows), block_rows(logits)):
        own[part] -= np.exp(log_softmax(logits[rows[part]].astype(np.float64), axis=1)) @ log_classes
    return Part(rows, classes, own)


def _warnings(logits: Features, parts: list[Part]) -> tuple[str, ...]:
    found = []
    if float(logits.min()) >= 0:
        found.append("no feature is negative: these are hardly logits, and of anything else the score says nothing")
    least, classes = min(len(part.divergences) for part in parts), logits.shape[1]
    if least < classes:
        found.append(f"biased downward: parts of {least} rows for {classes} classes")
    return tuple(found)
