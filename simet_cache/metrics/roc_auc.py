"""Whether a classifier can tell real rows from synthetic ones: the area under its ROC curve, on rows it never saw.

Source: Lopez-Paz & Oquab 2017, "Revisiting Classifier Two-Sample Tests", https://arxiv.org/abs/1610.06545; network
and folds are those of ``RocAuc`` in simet, which reports the best epoch on the fold that is scored. Here nothing of a
fold is looked at before it is scored: not for standardising, not for choosing an epoch.

Each fold has an area of its own, and the value is their mean: scores of different folds come from different classifiers
and are never compared. A row that stands in both sets would push the value below 0.5 if its copy, with the other label,
were learnt from: both go to one fold. Copies within one set push it up, as that set can then be known by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from xxhash import xxh3_128_digest

from simet_cache.errors import MetricError
from simet_cache.metrics.logistic import fitted
from simet_cache.metrics.metric import Noise, Outcome, Summarised
from simet_cache.metrics.rows import Features, Floats, row_digests
from simet_cache.metrics.standard import Indices, Moments, Single, total

CLASSIFIERS = ("mlp", "logistic")
LEARNT_AND_TESTED = 2.0


@dataclass(frozen=True)
class Side:
    """The rows of one set, scored by classifiers that did not learn from them.

    Attributes:
        folds: The fold of each row, shape (N,).
        placements: Share of the other set's rows in the fold that it stands on the right side of, ties counted half.
    """

    folds: Indices
    placements: Floats

    def means(self) -> Floats:
        """Mean placement in each fold: its area under the curve."""
        return np.bincount(self.folds, self.placements) / np.bincount(self.folds)

    def influence(self) -> Floats:
        """How each row moves the mean over the folds, shape (N,), with mean 0."""
        counts = np.bincount(self.folds)
        return (self.placements - self.means()[self.folds]) * (len(self.folds) / (len(counts) * counts[self.folds]))


@dataclass(frozen=True)
class Told:
    """Both sets, scored.

    Attributes:
        real: The real rows.
        synth: The synthetic rows.
        unsettled: In how many folds the classifier was stopped before it had converged.
    """

    real: Side
    synth: Side
    unsettled: int


def check(*, folds: object, classifier: object, seed: object) -> None:
    """Raise ``MetricError`` unless ``folds`` is a whole number from 2, ``seed`` one from 0 and the classifier known."""
    for name, value, least in (("folds", folds, 2), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise MetricError(f"{name}: expected a whole number of at least {least}, found {value!r}")
    if classifier not in CLASSIFIERS:
        raise MetricError(f"classifier: expected one of {', '.join(CLASSIFIERS)}, found {classifier!r}")


def join(*, real: Summarised[None], synth: Summarised[None], folds: int, classifier: str, seed: int) -> Told:
    """Score every row of both sets with a classifier that was trained on the other folds.

    Raises:
        MetricError: A set has fewer rows than there are folds.
    """
    for name, side in (("real", real), ("synth", synth)):
        if len(side.features) < folds:
            raise MetricError(
                f"{name}: expected at least {folds} rows for {folds} folds, found {len(side.features)}; lower folds"
            )
    rng = np.random.default_rng(seed)
    sides = (real.features, synth.features)
    dealt = _dealt(sides, folds, rng)
    placements, unsettled = [np.empty(len(rows)) for rows in sides], 0
    parts = [
        [Moments.of(rows, np.flatnonzero(of == fold)) for rows, of in zip(sides, dealt, strict=True)]
        for fold in range(folds)
    ]
    for fold in range(folds):
        learnt = total(moments for other in range(folds) if other != fold for moments in parts[other])
        rows, labels = _gathered(learnt, sides, [np.flatnonzero(of != fold) for of in dealt])
        own = [np.flatnonzero(of == fold) for of in dealt]
        scored, _ = _gathered(learnt, sides, own)
        found, settled = _scores(rows, labels, scored, classifier, seed=int(rng.integers(2**62)), device=real.device)
        unsettled += not settled
        found = found[_firsts(scored)]
        placed = _placements(found[: len(own[0])], found[len(own[0]) :])
        for number in range(len(sides)):
            placements[number][own[number]] = placed[number]
    return Told(Side(dealt[0], placements[0]), Side(dealt[1], placements[1]), unsettled)


def _dealt(sides: tuple[Features, Features], folds: int, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """The fold of each row: a synthetic row that equals a real one goes with it, as far as no fold becomes empty."""
    real, synth = (rng.permutation(len(rows)) % folds for rows in sides)
    dtype = np.result_type(*sides)
    with_real = dict(zip(row_digests(sides[0], dtype), real.tolist(), strict=True))
    pairs = zip(row_digests(sides[1], dtype), synth.tolist(), strict=True)
    moved = np.array([with_real.get(digest, fold) for digest, fold in pairs])
    return real, moved if len(np.unique(moved)) == folds else synth


def compare(*, real: Summarised[None], synth: Summarised[None], joint: Told, folds: int) -> Outcome:
    """Mean area over the folds, 0 to 1; nearer 0.5 is better: the classifier cannot tell the sets apart."""
    del real, synth
    areas = joint.real.means()
    late = (f"the classifier had not converged in {joint.unsettled} of {folds} folds",) if joint.unsettled else ()
    return Outcome(float(areas.mean()), late, {"std": float(areas.std(ddof=1))})


def noise(*, real: Summarised[None], synth: Summarised[None], joint: Told) -> Noise:
    """Twice the variance of the rows' placements (DeLong, DeLong & Clarke-Pearson 1988).

    The placements alone say how the areas vary given the classifiers. But each row is also learnt from in the other
    folds: where the sets are hardly different, what it adds as a tested row it adds again as a learnt one, and the
    variance doubles. Where they differ clearly that effect fades, and the interval is too wide.
    """
    del real, synth
    ours, theirs = joint.real.influence(), joint.synth.influence()
    own = LEARNT_AND_TESTED * float(theirs.var(ddof=1)) / len(theirs)
    return Noise(shared=np.sqrt(LEARNT_AND_TESTED) * ours, count=len(ours), own=own)


def _gathered(learnt: Moments, sides: Sequence[Features], rows: Sequence[Indices]) -> tuple[Single, Single]:
    """Standardised rows of both sets, and 1 for each real and 0 for each synthetic one."""
    ours, theirs = (len(wanted) for wanted in rows)
    found = np.empty((ours + theirs, sides[0].shape[1]), dtype=np.float32)
    for features, wanted, out in zip(sides, rows, (found[:ours], found[ours:]), strict=True):
        learnt.standardised(features, wanted, out)
    return found, np.repeat(np.array([1, 0], dtype=np.float32), [ours, theirs])


def _scores(
    rows: Single, labels: Single, scored: Single, classifier: str, *, seed: int, device: str
) -> tuple[Floats, bool]:
    """A number for each of the scored rows, higher for real ones, and whether the classifier converged."""
    if classifier == "logistic":
        model, settled = fitted(rows, labels)
        return np.asarray(model.decision_function(scored), dtype=np.float64), settled
    from simet_cache.metrics import mlp  # noqa: PLC0415 - torch takes a second

    return mlp.scores(rows, labels=labels, scored=scored, seed=seed, device=device), True


def _firsts(rows: Single) -> Indices:
    """For each row, the first one that equals it: products round by a row's place, and equal rows must tie."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(xxh3_128_digest(row), number) for number, row in enumerate(rows)], dtype=np.intp)


def _placements(real: Floats, synth: Floats) -> tuple[Floats, Floats]:
    """For each score, the share of the other set's scores on the right side of it; ties are counted half."""
    together = rankdata(np.concatenate([real, synth]))
    above = (together[: len(real)] - rankdata(real)) / len(synth)
    return above, 1 - (together[len(real) :] - rankdata(synth)) / len(real)
