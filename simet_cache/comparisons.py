"""Comparisons of feature sets whose summaries and values are looked up before they are computed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_hexdigest

from simet_cache.codec import FloatArray, digest
from simet_cache.derived import Derived, Recipe
from simet_cache.errors import DamagedEntryError, MetricError, MissingEntryError
from simet_cache.featureset import FeatureSet
from simet_cache.metrics import METRICS, Intervals, MetricValue, Summaries, evaluate_each, resolve
from simet_cache.metrics.evaluate import VERSION
from simet_cache.metrics.fd_unbiased import Halves
from simet_cache.metrics.fid import Gaussian
from simet_cache.metrics.metric import Metric, Parameters, Side, key_of, name_on_disk
from simet_cache.store import FeatureStore

Requests = Mapping[str, Mapping[str, Any]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """A feature set that is compared.

    Attributes:
        name: What people call it; no key depends on it.
        features: The handle on its features.
        labels: The class of each row, shape (N,), integers or texts; None where nobody needs it.
    """

    name: str
    features: FeatureSet
    labels: NDArray[Any] | None = field(default=None, compare=False, repr=False)

    @cached_property
    def labels_digest(self) -> str | None:
        """Equal for labels that metrics cannot tell apart."""
        if self.labels is None:
            return None
        labels = np.asarray(self.labels)
        texts = labels.astype(str)
        widest = max(map(len, texts.tolist()), default=0) or 1  # not that of an array that it was once a part of
        blob = texts.astype(f"<U{widest}").tobytes()
        return f"{labels.dtype.kind} {texts.shape} {widest} {xxh3_128_hexdigest(blob)}"


@dataclass(frozen=True)
class Comparison:
    """What is asked about a pair of sets.

    Attributes:
        real: The reference.
        synth: The synthetic set.
        metrics: Names of ``METRICS`` with parameters that replace defaults.
        intervals: What intervals are asked for.
        per_class: Whether each metric is also computed on the rows of each label.
    """

    real: Rows
    synth: Rows
    metrics: Requests
    intervals: Intervals | None = None
    per_class: bool = False

    @cached_property
    def requests(self) -> Requests:
        """The metrics with all of their parameters.

        Raises:
            MetricError: A name or parameter is unknown, or out of range.
        """
        return resolve(self.metrics)

    @cached_property
    def recipes(self) -> Mapping[str, Recipe]:
        """What each value is made from, by metric."""
        return {name: self._recipe(name, parameters) for name, parameters in self.requests.items()}

    @cached_property
    def keys(self) -> Mapping[str, str]:
        """The key of each value, by metric."""
        return {name: recipe.key for name, recipe in self.recipes.items()}

    def _recipe(self, name: str, parameters: Parameters) -> Recipe:
        labelled = self.per_class or METRICS[name].needs_labels
        parts = {
            "real": self.real.features.digest,
            "synth": self.synth.features.digest,
            "metric": name,
            "version": [METRICS[name].version, VERSION],
            "parameters": {parameter: repr(value) for parameter, value in parameters.items()},
            "intervals": self.intervals and [repr(self.intervals.level), repr(self.intervals.seed)],
            "per_class": self.per_class,
            "labels": [self.real.labels_digest, self.synth.labels_digest] if labelled else None,
        }
        return Recipe("values", parts)


def known(derived: Derived, comparison: Comparison) -> dict[str, MetricValue]:
    """Those values that are there, in the order asked for, without their noise; see ``Derived.noise``.

    Raises:
        MetricError: A metric or parameter is unknown.
    """
    found = {name: derived.value(key) for name, key in comparison.keys.items()}
    return {name: value for name, value in found.items() if value is not None}


def compare(
    derived: Derived, comparison: Comparison, *, device: str, real: Summaries | None = None
) -> tuple[dict[str, MetricValue], dict[str, str]]:
    """The values of a comparison: those that are missing are computed together, and kept.

    Args:
        derived: Where values and summaries are kept.
        comparison: What is asked.
        device: Where to compute; as in ``evaluate``.
        real: What ``summarise`` returned for the reference, where it serves several comparisons.

    Returns:
        The values by metric in the order asked for, with their noise where they were computed now; and why others have
        none, which is not kept.

    Raises:
        MetricError: A metric or parameter is unknown, or the features or labels of a set cannot be used at all.
        DamagedEntryError: Features are gone, or no longer what their handle says.
        StoreError: Features cannot be read.
    """
    values, failures = known(derived, comparison), dict[str, str]()
    missing = {name: given for name, given in comparison.requests.items() if name not in values}
    if missing:
        if real is None:
            real = opened(comparison.real, "real", device=device)
        synth = opened(comparison.synth, "synth", device=device)
        _complete(derived, real, comparison.real.features, "real", missing)
        _complete(derived, synth, comparison.synth.features, "synth", missing)
        made, failures = evaluate_each(
            missing, real=real, synth=synth, intervals=comparison.intervals, per_class=comparison.per_class
        )
        for name, value in made.items():
            derived.keep_value(comparison.recipes[name], value)
        values |= made
    return {name: values[name] for name in comparison.requests if name in values}, failures


def summarise(derived: Derived, rows: Rows, side: Side, metrics: Requests, *, device: str) -> Summaries:
    """One set with everything that these metrics need to know of it alone: looked up, or else computed and kept.

    Of several threads and processes that want the same summaries, one computes them.

    Args:
        derived: Where summaries are kept.
        rows: The set.
        side: As what it is compared.
        metrics: As in ``Comparison``.
        device: Where to compute.

    Raises:
        MetricError: A metric or parameter is unknown, or the features or labels cannot be used at all. A summary that
            cannot be made is left to the comparison, which says why.
        DamagedEntryError: The features are gone, or no longer what their handle says.
        StoreError: They cannot be read.
    """
    found = opened(rows, side, device=device)
    _complete(derived, found, rows.features, side, resolve(metrics))
    return found


def summary_recipes(features: FeatureSet, side: Side, requests: Requests) -> dict[str, Recipe]:
    """What the summaries that metrics need of one side are made from, by their ``key_of``.

    Which metrics share a summary does not matter, nor where its function stands: only the name and the version that the
    function was given (see ``kept_as``). Summaries of a function without a name are left out.
    """
    return {
        summary: Recipe("summaries", {"features": features.digest, "summary": summary, "version": kept.version})
        for summary, (metric, _) in _needed(side, requests).items()
        if (kept := name_on_disk(metric.summarise)) is not None  # type: ignore[arg-type]  # _needed has no others
    }


def _needed(side: Side, requests: Requests) -> dict[str, tuple[Metric, Parameters]]:
    asked = [(METRICS[name], parameters) for name, parameters in requests.items() if side in METRICS[name].sides]
    return {
        key_of(metric.summarise, parameters): (metric, parameters)
        for metric, parameters in asked
        if metric.summarise is not None
    }


def _complete(derived: Derived, rows: Summaries, features: FeatureSet, side: Side, requests: Requests) -> None:
    """Look up those summaries that are missing, or else compute and keep them."""
    enough = {name: given for name, given in requests.items() if len(rows) >= METRICS[name].minimal_n}
    recipes = summary_recipes(features, side, enough)
    if nameless := _needed(side, enough).keys() - recipes.keys():
        log.info("%s: not kept, because they have no name on the disk (see kept_as)", ", ".join(sorted(nameless)))

    def look_up() -> dict[str, Recipe]:
        for summary, recipe in recipes.items():
            if summary not in rows.memo and (found := derived.summary(recipe.key)) is not None:
                rows.memo[summary] = found
        return {summary: recipe for summary, recipe in recipes.items() if summary not in rows.memo}

    if not look_up():
        return
    with derived.computing(features.digest):
        if missing := look_up():
            needed = _needed(side, enough)
            _prepare(rows, [needed[summary] for summary in missing])
            for summary in missing.keys() & rows.memo.keys():
                derived.keep_summary(missing[summary], _worth_keeping(rows.memo[summary]))


def _worth_keeping(summary: Any) -> Any:
    """The summary, or None: up to as many rows as features, a Gaussian is those rows about their mean, twice as large.

    To make it takes as long as to read it: 12 and 10 ms for 1,000 rows of 2,048. For 3,000 it is seconds and 16 ms.
    """
    whole = summary.whole if isinstance(summary, Halves) else summary
    return None if isinstance(whole, Gaussian) and not whole.triangular else summary


def _prepare(rows: Summaries, requests: list[tuple[Metric, Parameters]]) -> None:
    """In one pass; or, where one of them cannot be made, each alone, so that the others are."""
    try:
        rows.prepare(requests)
    except MetricError:
        for request in requests if len(requests) > 1 else ():
            with suppress(MetricError):
                rows.prepare([request])


def opened(rows: Rows, side: Side, *, device: str) -> Summaries:
    """Features and labels, checked. What is computed from features is kept by their digest: so it is compared first.

    Damaged features are moved out of the way, so that the next run extracts them anew.

    Raises:
        MetricError: The features or labels cannot be used.
        DamagedEntryError: The features are gone, or no longer what their handle says.
        StoreError: They cannot be read.
    """
    handle = rows.features
    try:
        features = _loaded(handle)
    except MissingEntryError as error:
        sentence = f"{handle.path} was removed during this run; the next one extracts it again"
        raise DamagedEntryError(sentence) from error
    except DamagedEntryError as error:
        if FeatureStore(Path(handle.path).parent).quarantine_if_damaged(handle.key):
            raise DamagedEntryError(f"{error}; it was put aside, and the next run extracts it again") from error
        raise DamagedEntryError(f"{handle.path} was replaced during this run, by another one; run again") from error
    return Summaries(features, where=side, labels=rows.labels, device=device)


def _loaded(handle: FeatureSet) -> FloatArray:
    features = handle.load()
    if digest(features) != handle.digest:
        raise DamagedEntryError(f"{handle.path} no longer holds the features it held (digest {handle.digest})")
    return features


@dataclass(frozen=True)
class Counts:
    """How much of what comparisons need is there already.

    Attributes:
        values: How many values they ask for.
        values_there: How many of these are there.
        summaries: How many different summaries the other values need.
        summaries_there: How many of these are there.
    """

    values: int
    values_there: int
    summaries: int
    summaries_there: int


def counts(derived: Derived, comparisons: Iterable[Comparison]) -> Counts:
    """Count what is there, without a look at it.

    Raises:
        MetricError: A metric or parameter is unknown.
    """
    values: set[str] = set()
    there: set[str] = set()
    summaries: set[str] = set()
    for one in comparisons:
        values.update(one.keys.values())
        found = {name for name, key in one.keys.items() if derived.has("values", key)}
        there.update(one.keys[name] for name in found)
        missing = {name: given for name, given in one.requests.items() if name not in found}
        for recipes in (
            summary_recipes(one.real.features, "real", missing),
            summary_recipes(one.synth.features, "synth", missing),
        ):
            summaries.update(recipe.key for recipe in recipes.values())
    summaries_there = sum(derived.has("summaries", key) for key in summaries)
    return Counts(len(values), len(there), len(summaries), summaries_there)
