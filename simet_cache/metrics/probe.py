"""Whether labelled synthetic rows teach what real ones teach: a probe trained on one set and tested on the other.

Source: Esteban, Hyland & Ratsch 2017, "Real-valued (Medical) Time Series Generation with Recurrent Conditional GANs",
https://arxiv.org/abs/1706.02633: TSTR trains on synthetic and tests on real rows, TRTS the other way round. The probe
is a logistic regression on rows standardised by those that it is trained on. Beside both stands its accuracy on a fifth
of the real rows when it is trained on the rest of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics.logistic import fitted
from simet_cache.metrics.metric import Labels, Noise, Outcome, Summarised
from simet_cache.metrics.rows import Features, Floats, block_rows, slices
from simet_cache.metrics.standard import Indices, Moments

HELD_OUT = 0.2
SHOWN_CLASSES = 5


@dataclass(frozen=True)
class Labelled:
    """Some rows of a set.

    Attributes:
        name: ``real`` or ``synth``.
        features: Shape (N, D).
        labels: The class of each row as text, shape (N,).
        rows: Indices of those that are meant, shape (n,).
    """

    name: str
    features: Features
    labels: Labels
    rows: Indices

    @classmethod
    def of(cls, name: str, side: Summarised[None]) -> Labelled:
        """All rows of one side."""
        labels = np.asarray(side.labels).astype(str)  # 3 and "3" are one class
        return cls(name, side.features, labels, np.arange(len(labels)))

    def classes(self) -> Labels:
        """The classes that its rows have."""
        return np.unique(self.labels[self.rows])


@dataclass(frozen=True)
class Tested:
    """How a probe did.

    Attributes:
        rows: Indices of the rows that it was tested on: those of classes that it knows.
        right: Whether it named their class, shape (n,).
        warnings: What a reader must know of it.
    """

    rows: Indices
    right: NDArray[np.bool_]
    warnings: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """Share of the tested rows that it named rightly."""
        return float(self.right.mean())

    def influence(self, count: int) -> Floats:
        """How each of ``count`` rows moves the accuracy, with mean 0; rows that were not tested do not."""
        found = np.zeros(count)
        found[self.rows] = (self.right - self.accuracy) * (count / len(self.rows))
        return found


@dataclass(frozen=True)
class Probes:
    """The probes of a pair of sets, each trained when it is first asked for.

    Attributes:
        real: The real set.
        synth: The synthetic set.
        seed: Of which real rows are held out.
    """

    real: Labelled
    synth: Labelled
    seed: int

    @cached_property
    def on_real(self) -> Tested:
        """Trained on synthetic rows, tested on real ones."""
        return probed(self.synth, self.real)

    @cached_property
    def on_synth(self) -> Tested:
        """Trained on real rows, tested on synthetic ones."""
        return probed(self.real, self.synth)

    @cached_property
    def among_real(self) -> Tested | None:
        """Trained and tested on real rows; None where too few of them have a class in common."""
        rng, held = np.random.default_rng(self.seed), []
        for label in self.real.classes():
            rows = rng.permutation(np.flatnonzero(self.real.labels == label))
            held.append(rows[: round(HELD_OUT * len(rows))])
        tested = np.sort(np.concatenate(held))
        if not len(tested):
            return None
        learnt = np.setdiff1d(self.real.rows, tested)
        sets = (Labelled("real", self.real.features, self.real.labels, rows) for rows in (learnt, tested))
        return probed(*sets)


def check(*, seed: object) -> None:
    """Raise ``MetricError`` unless ``seed`` is a whole number from 0."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise MetricError(f"seed: expected a whole number of at least 0, found {seed!r}")


def join(*, real: Summarised[None], synth: Summarised[None], seed: int) -> Probes:
    """The probes of both sets, not trained yet."""
    return Probes(Labelled.of("real", real), Labelled.of("synth", synth), seed)


def compare_tstr(*, real: Summarised[None], synth: Summarised[None], joint: Probes) -> Outcome:
    """Accuracy on real rows of a probe trained on synthetic ones, 0 to 1; higher is better."""
    del real, synth
    return _outcome(joint.on_real, joint)


def compare_trts(*, real: Summarised[None], synth: Summarised[None], joint: Probes) -> Outcome:
    """Accuracy on synthetic rows of a probe trained on real ones, 0 to 1; higher is better."""
    del real, synth
    return _outcome(joint.on_synth, joint)


def noise_tstr(*, real: Summarised[None], synth: Summarised[None], joint: Probes) -> Noise:
    """Of the real rows tested on, given the probe."""
    del synth
    count = len(real.features)
    return Noise(shared=joint.on_real.influence(count), count=count, own=0.0)


def noise_trts(*, real: Summarised[None], synth: Summarised[None], joint: Probes) -> Noise:
    """Of the synthetic rows tested on, given the probe."""
    del real
    count = len(synth.features)
    return Noise(shared=np.empty(0), count=1, own=float(joint.on_synth.influence(count).var(ddof=1)) / count)


def probed(learnt: Labelled, tested: Labelled) -> Tested:
    """Train a probe on one set and test it on those rows of another whose classes it knows.

    Raises:
        MetricError: There are fewer than two classes to learn, or none of them is tested.
    """
    known, asked = learnt.classes(), tested.classes()
    if len(known) < 2:
        raise MetricError(
            f"{learnt.name}: expected rows of at least two classes to train a probe on, "
            f"found only class {known[0]}; add classes or leave tstr and trts out"
        )
    rows = tested.rows[np.isin(tested.labels[tested.rows], known)]
    if not len(rows):
        raise MetricError(
            f"real and synth: expected a class that both sets have, found {_listed(known)} in {learnt.name} "
            f"and {_listed(asked)} in {tested.name}; name the classes alike"
        )
    moments = Moments.of(learnt.features, learnt.rows)
    probe, settled = fitted(moments.standardised(learnt.features, learnt.rows), learnt.labels[learnt.rows])
    right = np.empty(len(rows), dtype=np.bool_)
    for part in slices(len(rows), block_rows(tested.features)):
        right[part] = probe.predict(moments.standardised(tested.features, rows[part])) == tested.labels[rows[part]]
    return Tested(rows, right, tuple(_remarks(learnt, tested, settled=settled)))


def _remarks(learnt: Labelled, tested: Labelled, *, settled: bool) -> list[str]:
    found = []
    known, asked = learnt.classes(), tested.classes()
    for here, there, why in (
        (tested.name, learnt.name, "its rows are not tested"),
        (learnt.name, tested.name, "the probe knows it all the same"),
    ):
        only = np.setdiff1d(asked, known) if here == tested.name else np.setdiff1d(known, asked)
        if len(only) and learnt.name != tested.name:
            found.append(f"{_listed(only)} in {here} and not in {there}: {why}")
    if not settled:
        found.append("the probe was stopped before it had converged")
    return found


def _outcome(tested: Tested, probes: Probes) -> Outcome:
    try:
        own = probes.among_real
    except MetricError:  # a single class among the rows that are left to learn
        own = None
    if own is None:
        return Outcome(tested.accuracy, (*tested.warnings, "real on real: too few rows to hold some out"))
    return Outcome(tested.accuracy, tested.warnings, {"real_on_real": own.accuracy})


def _listed(classes: Labels) -> str:
    shown = ", ".join(classes[:SHOWN_CLASSES])
    more = f" and {len(classes) - SHOWN_CLASSES} more" if len(classes) > SHOWN_CLASSES else ""
    return f"class{'es' if len(classes) > 1 else ''} {shown}{more}"
