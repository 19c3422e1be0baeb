"""Whether labelled synthetic rows teach what real ones teach: a probe trained on one set and tested on the other.

Source: Esteban, Hyland & Ratsch 2017, "Real-valued (Medical) Time Series Generation with Recurrent Conditional GANs",
https://arxiv.org/abs/1706.02633: TSTR trains on synthetic and tests on real rows, TRTS the other way round. The probe
is a logistic regression on rows standardised by those that it is trained on.

Every row of the tested set counts: those of a class that the training set never had are wrong, or else a set without
the hard classes would win. Among the details, ``accuracy_on_known_classes`` leaves such rows out, and ``real_on_real``
is the accuracy on a fifth of the real rows of a probe trained on the rest of them. For ``tstr``,
``accuracy_on_held_out`` is that of the probe of synthetic rows on exactly the same fifth: the two compare row by row.
``trts`` is tested on other rows than ``real_on_real``; ``real_on_real_of_same_classes`` is that on held-out rows of the
classes that the synthetic set has, so that neither number is about classes that the other one leaves out.

Their noise has two parts: the tested rows, which are right or wrong independently of each other given the probe, and
the rows that it was trained on, for which it is trained again on rows drawn with replacement (Efron 1979, "Bootstrap
methods: another look at the jackknife").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simet_cache.errors import MetricError
from simet_cache.metrics import freedom
from simet_cache.metrics.logistic import fitted
from simet_cache.metrics.metric import Labels, Noise, Outcome, Summarised
from simet_cache.metrics.rows import Features, block_rows, slices
from simet_cache.metrics.standard import Indices, Moments

HELD_OUT = 0.2
RESAMPLES = 10  # of the training set
FEWEST_ROWS = 50  # of either set, for an interval
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
        rows: Indices of the rows that it was tested on.
        labels: The class of each of them, shape (n,).
        right: Whether it named their class, shape (n,); never so where it was trained on no row of that class.
        known: Whether it was trained on rows of their class, shape (n,), at least once.
        warnings: What a reader must know of it.
    """

    rows: Indices
    labels: Labels
    right: NDArray[np.bool_]
    known: NDArray[np.bool_]
    warnings: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """Share of the tested rows that it named rightly."""
        return float(self.right.mean())

    @property
    def accuracy_on_known(self) -> float:
        """The same of the rows whose class it was trained on."""
        return float(self.right[self.known].mean())

    def accuracy_on(self, rows: Indices) -> float | None:
        """The same of those among ``rows``; None where it was tested on none of them."""
        asked = np.isin(self.rows, rows)
        return float(self.right[asked].mean()) if asked.any() else None


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
    def on_real_again(self) -> NDArray[np.bool_]:
        """Which rows are right in ``on_real`` if other synthetic rows had been drawn, shape (RESAMPLES, n)."""
        return probed_again(self.synth, self.real, self.seed)

    @cached_property
    def on_synth_again(self) -> NDArray[np.bool_]:
        """The same in ``on_synth`` if other real rows had been drawn, the same ones for every synthetic set."""
        return probed_again(self.real, self.synth, self.seed)

    @cached_property
    def among_real(self) -> Tested | None:
        """Trained and tested on real rows; None where too few of them have a class in common, or all have one class."""
        rng, held = np.random.default_rng(self.seed), []
        for label in self.real.classes():
            rows = rng.permutation(np.flatnonzero(self.real.labels == label))
            held.append(rows[: round(HELD_OUT * len(rows))])
        tested = np.sort(np.concatenate(held))
        if not len(tested):
            return None
        learnt = np.setdiff1d(self.real.rows, tested)
        sets = [Labelled("real", self.real.features, self.real.labels, rows) for rows in (learnt, tested)]
        return probed(*sets) if len(sets[0].classes()) > 1 else None


def check(*, seed: object) -> None:
    """Raise ``MetricError`` unless ``seed`` is a whole number from 0."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise MetricError(f"seed: expected a whole number of at least 0, found {seed!r}")


def join(*, real: Summarised[None], synth: Summarised[None], seed: int) -> Probes:
    """The probes of both sets, not trained yet."""
    return Probes(Labelled.of("real", real), Labelled.of("synth", synth), seed)


def compare_tstr(*, real: Summarised[None], synth: Summarised[None], joint: Probes) -> Outcome:
    """Accuracy on real rows of a probe trained on synthetic ones, 0 to 1; higher is better.

    Real rows of classes that the synthetic set lacks count as wrong.
    """
    del real, synth
    tested, among = joint.on_real, joint.among_real
    return _outcome(tested, among, {} if among is None else {"accuracy_on_held_out": tested.accuracy_on(among.rows)})


def compare_trts(*, real: Summarised[None], synth: Summarised[None], joint: Probes) -> Outcome:
    """Accuracy on synthetic rows of a probe trained on real ones, 0 to 1; higher is better.

    Synthetic rows of classes that the real set lacks count as wrong. Classes that the synthetic set lacks are not
    tested: a warning names them.
    """
    del real, synth
    tested, among, details = joint.on_synth, joint.among_real, {}
    if among is not None:
        same = np.flatnonzero(np.isin(joint.real.labels, joint.synth.classes()))
        details = {"real_on_real_of_same_classes": among.accuracy_on(same)}
    return _outcome(tested, among, details)


def noise_tstr(*, real: Summarised[None], synth: Summarised[None], joint: Probes) -> Noise | str:
    """Of the real rows given the probe, and of the synthetic ones that it is trained on."""
    if too_few := _too_few(real=len(real.features), synth=len(synth.features)):
        return too_few
    return _tstr_noise(joint.on_real.right, joint.on_real_again)


def noise_trts(*, real: Summarised[None], synth: Summarised[None], joint: Probes) -> Noise | str:
    """Of the synthetic rows given the probe, and of the real ones that it is trained on."""
    if too_few := _too_few(real=len(real.features), synth=len(synth.features)):
        return too_few
    return _trts_noise(joint.on_synth.right, joint.on_synth_again)


def classes_of_tstr(*, joint: Probes, intervals: bool) -> Iterator[tuple[str, Outcome, Noise | str | None]]:
    """Accuracy on the real rows of each class, of the probe that was trained on synthetic rows of all classes."""
    yield from _by_class(joint.on_real, joint.among_real, joint.on_real_again if intervals else None, _tstr_noise)


def classes_of_trts(*, joint: Probes, intervals: bool) -> Iterator[tuple[str, Outcome, Noise | str | None]]:
    """Accuracy on the synthetic rows of each class, of the probe that was trained on real rows of all classes."""
    yield from _by_class(joint.on_synth, joint.among_real, joint.on_synth_again if intervals else None, _trts_noise)


def _by_class(
    tested: Tested,
    among_real: Tested | None,
    again: NDArray[np.bool_] | None,
    noise: Callable[[NDArray[np.bool_], NDArray[np.bool_]], Noise],
) -> Iterator[tuple[str, Outcome, Noise | str | None]]:
    for label in np.unique(tested.labels):
        here = tested.labels == label
        details, count = {}, int(here.sum())
        if among_real is not None and (there := among_real.labels == label).any():
            details["real_on_real"] = float(among_real.right[there].mean())
        found: Noise | str | None = None
        if again is not None and not tested.known[here].any():
            found = "the probe was trained on no row of this class"
        elif again is not None:
            found = _too_few(**{f"class {label}": count}) or noise(tested.right[here], again[:, here])
        yield str(label), Outcome(float(tested.right[here].mean()), (), details), found


def _tstr_noise(right: NDArray[np.bool_], again: NDArray[np.bool_]) -> Noise:
    shared, trained = right - right.mean(), float(again.mean(axis=1).var(ddof=1))
    tested = float(shared.var(ddof=1)) / len(right)
    known = freedom.of_sum((trained, RESAMPLES - 1), (tested, np.inf))
    return Noise(shared=shared, count=len(right), own=trained, freedom=known)


def _trts_noise(right: NDArray[np.bool_], again: NDArray[np.bool_]) -> Noise:
    """The probes of real rows are those of every set that is compared with them: their part is what two sets share."""
    trained, tested = again.mean(axis=1), float(right.var(ddof=1)) / len(right)
    known = freedom.of_sum((float(trained.var(ddof=1)), RESAMPLES - 1), (tested, np.inf))
    return Noise(shared=trained, count=1, own=tested, freedom=known)


def _too_few(**rows: int) -> str:
    few = [f"{side} has {count}" for side, count in rows.items() if count < FEWEST_ROWS]
    return f"it needs {FEWEST_ROWS} rows; {few[0]}" if few else ""


def probed(learnt: Labelled, tested: Labelled) -> Tested:
    """Train a probe on one set and test it on all rows of another: those of classes that it never had are wrong.

    Raises:
        MetricError: There are fewer than two classes to learn, or none of them is tested.
    """
    classes = learnt.classes()
    if len(classes) < 2:
        raise MetricError(
            f"{learnt.name}: expected rows of at least two classes to train a probe on, "
            f"found only class {classes[0]}; add classes or leave tstr and trts out"
        )
    known = np.isin(tested.labels[tested.rows], classes)
    if not known.any():
        raise MetricError(
            f"real and synth: expected a class that both sets have, found {_listed(classes)} in {learnt.name} "
            f"and {_listed(tested.classes())} in {tested.name}; name the classes alike"
        )
    moments = Moments.of(learnt.features, learnt.rows)
    probe, settled = fitted(moments.standardised(learnt.features, learnt.rows), learnt.labels[learnt.rows])
    (right,) = _right([probe], moments, tested)
    remarks = tuple(_remarks(learnt, tested, known, settled=settled))
    return Tested(tested.rows, tested.labels[tested.rows], right, known, remarks)


def probed_again(learnt: Labelled, tested: Labelled, seed: int) -> NDArray[np.bool_]:
    """Train probes on rows of one set drawn with replacement, as many as there are, and test each on another set.

    Which rows are drawn depends on the seed and their number alone.

    Returns:
        Whether each row is named rightly, shape (RESAMPLES, n).
    """
    moments, labels = Moments.of(learnt.features, learnt.rows), learnt.labels[learnt.rows]
    rows = moments.standardised(learnt.features, learnt.rows)
    rng = np.random.default_rng([seed, len(labels)])
    probes: list[Any] = []
    while len(probes) < RESAMPLES:
        times = np.bincount(rng.integers(len(labels), size=len(labels)), minlength=len(labels))
        drawn = times > 0
        if len(np.unique(labels[drawn])) > 1:  # a single class teaches nothing
            probes.append(fitted(rows[drawn], labels[drawn], times[drawn])[0])
    return _right(probes, moments, tested)


def _right(probes: Sequence[Any], moments: Moments, tested: Labelled) -> NDArray[np.bool_]:
    """Which rows each probe names rightly, shape (probes, n)."""
    found = np.empty((len(probes), len(tested.rows)), dtype=np.bool_)
    for part in slices(len(tested.rows), block_rows(tested.features)):
        rows = moments.standardised(tested.features, tested.rows[part])
        for right, probe in zip(found, probes, strict=True):
            right[part] = probe.predict(rows) == tested.labels[tested.rows[part]]
    return found


def _remarks(learnt: Labelled, tested: Labelled, known: NDArray[np.bool_], *, settled: bool) -> Iterator[str]:
    if not known.all():
        missing, count = np.setdiff1d(tested.classes(), learnt.classes()), int((~known).sum())
        rows = f"{count} of {len(known)} {tested.name} rows, which count as wrong"
        yield f"{_listed(missing)} in {tested.name} and not in {learnt.name}: {rows}"
    untested = np.setdiff1d(learnt.classes(), tested.classes())
    if len(untested) and learnt.name != tested.name:
        yield f"{_listed(untested)} in {learnt.name} and not in {tested.name}: learnt and not tested"
    if not settled:
        yield "the probe was stopped before it had converged"


def _outcome(tested: Tested, among_real: Tested | None, beside: Mapping[str, float | None]) -> Outcome:
    details = {"accuracy_on_known_classes": tested.accuracy_on_known}
    if among_real is None:
        return Outcome(tested.accuracy, (*tested.warnings, "real on real: too few rows to hold some out"), details)
    details |= {"real_on_real": among_real.accuracy}
    details |= {name: value for name, value in beside.items() if value is not None}
    return Outcome(tested.accuracy, tested.warnings, details)


def _listed(classes: Labels) -> str:
    shown = ", ".join(classes[:SHOWN_CLASSES])
    more = f" and {len(classes) - SHOWN_CLASSES} more" if len(classes) > SHOWN_CLASSES else ""
    return f"class{'es' if len(classes) > 1 else ''} {shown}{more}"
