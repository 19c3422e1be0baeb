"""Metrics of a synthetic set against a real one, with the work that they share done once."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from simet_cache.errors import MetricError
from simet_cache.metrics.blocks import block_noise
from simet_cache.metrics.duplicates import copies_of, leakage
from simet_cache.metrics.intervals import Difference, Intervals, difference_of, interval_of, reference_mark
from simet_cache.metrics.metric import Metric, MetricValue, Noise, Outcome, Parameters, Side, key_of, named
from simet_cache.metrics.names import metric_name
from simet_cache.metrics.passes import joints_of
from simet_cache.metrics.summaries import Summaries
from simet_cache.metrics.table import METRICS

VERSION = 3  # of what values carry beside their number: intervals, classes, warnings; part of the keys they are kept by
SHOWN_CLASSES = 5

Requests = Mapping[str, Mapping[str, Any]]


def evaluate(
    *,
    real: object,
    synth: object,
    metrics: Iterable[str] | Mapping[str, Parameters | None],
    intervals: Intervals | Mapping[str, Any] | bool | None = None,
    per_class: bool = False,
    real_labels: object = None,
    synth_labels: object = None,
    device: str = "auto",
) -> dict[str, MetricValue]:
    """Compute metrics of a synthetic set against a real one.

    Every name, parameter and row is checked before the first metric runs. What concerns one set alone is computed once
    and shared by the metrics that need it; pass ``Summaries`` to share it between calls too.

    Args:
        real: Array-like of shape (N, D), an object whose ``load()`` returns one, or ``Summaries``.
        synth: The same, of shape (M, D).
        metrics: Names of ``METRICS``, or names with parameters that replace defaults.
        intervals: ``{"level": 0.95, "seed": 0}`` or any part of it, or True, for confidence intervals.
        per_class: Also compute every metric on the rows of each label that both sets have, and the accuracies of
            ``tstr`` and ``trts`` on the tested rows of each label.
        real_labels: Shape (N,): the class of each row, integers or texts. ``Summaries`` bring their own.
        synth_labels: The same, of shape (M,).
        device: ``auto`` (the first GPU, or else the CPU), ``cpu``, ``cuda`` or ``cuda:1`` and so on.

    Returns:
        The values by name, in the order asked for.

    Raises:
        MetricError: A name or parameter is unknown, or the rows or labels cannot be used.
    """
    requests = resolve(metrics)
    wanted = Intervals.of(intervals)
    sets = opened(real, "real", real_labels, device), opened(synth, "synth", synth_labels, device)
    _check_pair(requests, real=sets[0], synth=sets[1], per_class=per_class)
    values = _values(requests, real=sets[0], synth=sets[1], intervals=wanted, per_class=per_class)
    values = _with_copies(values, real=sets[0], synth=sets[1])
    if wanted is not None:
        values = _with_intervals(values, requests, real=sets[0], synth=sets[1], intervals=wanted)
    return _with_classes(values, requests, real=sets[0], synth=sets[1], intervals=wanted) if per_class else values


def evaluate_each(
    metrics: Iterable[str] | Mapping[str, Parameters | None], *, real: Summaries, synth: Summaries, **options: Any
) -> tuple[dict[str, MetricValue], dict[str, str]]:
    """Like ``evaluate``, but a metric that cannot be computed on these sets leaves the others their values.

    Args:
        metrics: As in ``evaluate``; names and parameters must be right.
        real: The real set.
        synth: The synthetic set.
        options: ``intervals`` and ``per_class`` of ``evaluate``.

    Returns:
        The values by name, and why others have none.

    Raises:
        MetricError: A name or parameter is unknown.
    """
    requests = resolve(metrics)
    try:
        return evaluate(real=real, synth=synth, metrics=requests, **options), {}
    except MetricError:
        values: dict[str, MetricValue] = {}
        failures: dict[str, str] = {}
    for name, parameters in requests.items():
        try:
            values |= evaluate(real=real, synth=synth, metrics={name: parameters}, **options)
        except MetricError as error:
            failures[name] = str(error)
    return values, failures


def difference(
    *,
    real: object,
    first: object,
    second: object,
    metrics: Iterable[str] | Mapping[str, Parameters | None],
    intervals: Intervals | Mapping[str, Any] | bool = True,
    device: str = "auto",
) -> dict[str, Difference]:
    """Compare two synthetic sets against one real one: by how much they differ, and whether they are separated.

    Rows of the real set that move both values the same way cancel, so two sets can be separated whose own intervals
    overlap.

    Args:
        real: As in ``evaluate``; summaries of it are computed once.
        first: As ``synth`` in ``evaluate``. Metrics of labels need all three sets as ``Summaries`` with labels.
        second: The other synthetic set.
        metrics: Names of ``METRICS`` that offer intervals, or names with parameters that replace defaults.
        intervals: As in ``evaluate``.
        device: As in ``evaluate``.

    Returns:
        The differences by name, in the order asked for.

    Raises:
        MetricError: As ``evaluate`` does, or a metric has no interval on these sets.
    """
    wanted = Intervals.of(intervals)
    if wanted is None:
        raise MetricError("difference: expected intervals to be asked for, found none; pass intervals=True")
    requests = resolve(metrics)
    reference = opened(real, "real", None, device)
    values = [
        evaluate(real=reference, synth=opened(synth, where, None, device), metrics=requests, intervals=wanted)
        for where, synth in (("first", first), ("second", second))
    ]
    return {name: difference_of(values[0][name], values[1][name], level=wanted.level) for name in requests}


def resolve(metrics: Iterable[str] | Mapping[str, Parameters | None]) -> dict[str, dict[str, Any]]:
    """Metric names, as the table spells them, with all their parameters, defaults filled in.

    Raises:
        MetricError: A name or parameter is unknown, a parameter's value is out of range, or a metric stands twice.
    """
    if isinstance(metrics, str):
        metrics = [metrics]
    wanted = metrics if isinstance(metrics, Mapping) else dict.fromkeys(metrics)
    requests: dict[str, dict[str, Any]] = {}
    for written, given in wanted.items():
        name = metric_name(written)
        if name in requests:
            raise MetricError(f"metric '{name}': expected once, found again as '{written}'; leave one of them out")
        requests[name] = _parameters(name, {} if given is None else given)
    return requests


def _parameters(name: str, given: Parameters) -> dict[str, Any]:
    _check_known(name, METRICS, "metric", "The metrics are")
    metric = METRICS[name]
    if not isinstance(given, Mapping):
        raise MetricError(f"metric '{name}': expected parameters by name, such as {{'k': 3}}, found {given!r}")
    for parameter in given:
        _check_known(parameter, metric.parameters, f"parameter of metric '{name}':", "Its parameters are")
    parameters = {**metric.parameters, **given}
    metric.check(**named(metric.check, parameters))
    return parameters


def _check_known(name: str, known: Mapping[str, object], what: str, listing: str) -> None:
    if name in known:
        return
    close = difflib.get_close_matches(str(name).lower(), known, n=1)  # known names are in lower case
    hint = f"Did you mean '{close[0]}'? " if close else ""
    raise MetricError(f"Unknown {what} '{name}'. {hint}{listing}: {', '.join(known) or 'none'}.")


def opened(source: object, where: str, labels: object, device: str) -> Summaries:
    """``Summaries`` of whatever ``evaluate`` takes.

    Raises:
        MetricError: The rows or labels cannot be used.
    """
    if not isinstance(source, Summaries):
        return Summaries(source, where=where, labels=labels, device=device)
    if labels is not None:
        raise MetricError(f"{where}: expected labels inside the Summaries, found them beside; Summaries(..., labels=)")
    return source


def _check_pair(requests: Iterable[str], *, real: Summaries, synth: Summaries, per_class: bool) -> None:
    if real.width != synth.width:
        raise MetricError(
            f"real and synth: expected rows of equal width, found {real.width} and {synth.width} features; "
            "extract both with the same extractor"
        )
    sides = (("real", real), ("synth", synth))
    for name in requests:
        for side, rows in sides:
            if len(rows) < METRICS[name].minimal_n:
                raise MetricError(
                    f"{side}: expected at least {METRICS[name].minimal_n} rows for metric '{name}', "
                    f"found {len(rows)}; add samples or leave this metric out"
                )
            if METRICS[name].needs_labels and rows.labels is None:
                raise MetricError(f"{side}: expected labels for metric '{name}', found none; pass {side}_labels")
    for side, rows in sides:
        if per_class and rows.labels is None:
            raise MetricError(f"{side}: expected labels for values of each class, found none; pass {side}_labels")


def _values(
    requests: Requests, *, real: Summaries, synth: Summaries, intervals: Intervals | None, per_class: bool = False
) -> dict[str, MetricValue]:
    _prepare(requests, real, "real")
    _prepare(requests, synth, "synth")
    joints = _joints(requests, real=real, synth=synth)
    values = {}
    for name, parameters in requests.items():
        metric, arguments = METRICS[name], _arguments(name, parameters, real, synth, joints)
        try:
            noise: Noise | str | None = None
            if intervals is not None and metric.noise is not None:  # first: what it finds may give the value, too
                noise = metric.noise(**arguments, **named(metric.noise, {"seed": intervals.seed, **parameters}))
            outcome = metric.compare(**arguments, **named(metric.compare, parameters))
        except np.linalg.LinAlgError as error:
            raise MetricError(f"metric '{name}': {error}") from error
        if not math.isfinite(outcome.value):
            raise MetricError(f"metric '{name}': expected a finite value, found {outcome.value}; rescale the features")
        value = MetricValue(
            value=outcome.value,
            metric=name,
            version=metric.version,
            direction=metric.direction,
            parameters=parameters,
            n_real=len(real),
            n_synth=len(synth),
            width=real.width,
            warnings=outcome.warnings,
            details=outcome.details,
            noise=noise,
        )
        if per_class and metric.classes is not None:
            found = metric.classes(joint=arguments["joint"], intervals=intervals is not None)
            value = replace(value, per_class=_of_classes(value, found, real=real, synth=synth))
        values[name] = value
    return values


def _of_classes(
    whole: MetricValue,
    found: Iterable[tuple[str, Outcome, Noise | str | None]],
    *,
    real: Summaries,
    synth: Summaries,
) -> dict[str, MetricValue]:
    return {
        label: replace(
            whole,
            value=outcome.value,
            n_real=len(real.classes.get(label, ())),
            n_synth=len(synth.classes.get(label, ())),
            warnings=outcome.warnings,
            details=outcome.details,
            noise=noise,
        )
        for label, outcome, noise in found
    }


def _with_copies(values: Mapping[str, MetricValue], *, real: Summaries, synth: Summaries) -> dict[str, MetricValue]:
    copies = copies_of(real=real, synth=synth)
    return {
        name: replace(value, copies=copies, warnings=value.warnings + leakage(copies)) for name, value in values.items()
    }


def _prepare(requests: Requests, rows: Summaries, side: Side) -> None:
    rows.prepare([(METRICS[name], given) for name, given in requests.items() if side in METRICS[name].sides])


def _arguments(
    name: str, parameters: Parameters, real: Summaries, synth: Summaries, joints: Mapping[str, Any]
) -> dict[str, Any]:
    metric = METRICS[name]
    arguments: dict[str, Any] = {
        "real": real.standing_as("real", metric, parameters),
        "synth": synth.standing_as("synth", metric, parameters),
    }
    return arguments if metric.join is None else {**arguments, "joint": joints[_joint_key(metric, parameters)]}


def _joints(requests: Requests, *, real: Summaries, synth: Summaries) -> dict[str, Any]:
    """What concerns both sets, once for all the metrics that share it."""
    wanted = {
        _joint_key(metric, parameters): (
            metric.join,
            real.standing_as("real", metric, parameters),
            synth.standing_as("synth", metric, parameters),
            parameters,
        )
        for metric, parameters in ((METRICS[name], given) for name, given in requests.items())
        if metric.join is not None
    }
    return dict(zip(wanted, joints_of(list(wanted.values())), strict=True)) if wanted else {}


def _joint_key(metric: Metric, parameters: Parameters) -> str:
    return f"{'+'.join(metric.sides)}: {key_of(metric.join, parameters)}" if metric.join else ""


def _with_intervals(
    values: Mapping[str, MetricValue], requests: Requests, *, real: Summaries, synth: Summaries, intervals: Intervals
) -> dict[str, MetricValue]:
    noises = {name: value.noise for name, value in values.items()}
    by_blocks = {
        name: requests[name]
        for name, value in values.items()
        if METRICS[name].blocks and not isinstance(value.noise, str)
    }
    if by_blocks:
        parts_of = partial(_values, by_blocks, intervals=intervals)
        whole = {name: values[name] for name in by_blocks}
        noises |= block_noise(whole, parts_of, real=real, synth=synth, seed=intervals.seed)
    mark = reference_mark(real, intervals.seed)
    noises = {
        name: replace(noise, reference=mark) if isinstance(noise, Noise) else noise for name, noise in noises.items()
    }
    return {name: _with_interval(replace(value, noise=noises[name]), intervals.level) for name, value in values.items()}


def _with_interval(value: MetricValue, level: float) -> MetricValue:
    metric = METRICS[value.metric]
    of_classes = {label: interval_of(one, metric, level) for label, one in value.per_class.items()}
    return interval_of(replace(value, per_class=of_classes), metric, level)


def _with_classes(
    values: Mapping[str, MetricValue],
    requests: Requests,
    *,
    real: Summaries,
    synth: Summaries,
    intervals: Intervals | None,
) -> dict[str, MetricValue]:
    """Each metric on the rows of each label too, but for those whose values of classes are read off the whole.

    A warning names the classes that a metric says nothing about.
    """
    of_rows = {name: given for name, given in requests.items() if METRICS[name].classes is None}
    found: dict[str, dict[str, MetricValue]] = {name: {} for name in of_rows}
    without: dict[str, dict[str, list[str]]] = {name: {} for name in of_rows}
    for label in sorted({*real.classes, *synth.classes}):
        sides = {
            side: rows.part(rows.classes[label]) if label in rows.classes else None
            for side, rows in (("real", real), ("synth", synth))
        }
        missing = next((side for side, part in sides.items() if part is None), None)
        if missing is not None:
            for reasons in without.values():
                reasons.setdefault(f"not in {missing}", []).append(label)
            continue
        measured, failures = evaluate_each(of_rows, **sides, intervals=intervals)  # type: ignore[arg-type]
        for name, value in measured.items():
            found[name][label] = value
        for name, sentence in failures.items():
            without[name].setdefault(sentence, []).append(label)
    measured_by_rows = {
        name: replace(
            values[name],
            per_class=of_classes,
            warnings=values[name].warnings
            + tuple(f"no value for {_listed(labels)}: {why}" for why, labels in without[name].items()),
        )
        for name, of_classes in found.items()
    }
    return {**values, **measured_by_rows}


def _listed(labels: list[str]) -> str:
    shown = ", ".join(labels[:SHOWN_CLASSES])
    more = f" and {len(labels) - SHOWN_CLASSES} more" if len(labels) > SHOWN_CLASSES else ""
    return f"class{'es' if len(labels) > 1 else ''} {shown}{more}"
