"""Metrics between a real and a synthetic feature set: a table of pure functions over arrays.

::

    evaluate(real=real, synth=synth, metrics=["fid", "precision"])["fid"].value
    evaluate(real=real, synth=synth, metrics={"precision": {"k": 5}})
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from simet_cache.errors import MetricError
from simet_cache.metrics import fid, kid, precision_recall
from simet_cache.metrics.metric import Metric, MetricValue, Outcome, Parameters, Summarised, named
from simet_cache.metrics.neighbours import check_k
from simet_cache.metrics.summaries import Summaries

__all__ = ["METRICS", "Metric", "MetricValue", "Outcome", "Summaries", "Summarised", "evaluate", "resolve"]

METRICS: dict[str, Metric] = {
    "fid": Metric(
        summarise=fid.summarise,
        compare=fid.compare,
        direction="lower",
        version=1,
        source="Heusel et al. 2017, https://arxiv.org/abs/1706.08500",
        parameters={},
        minimal_n=2,
    ),
    "kid": Metric(
        summarise=kid.summarise,
        compare=kid.compare,
        direction="lower",
        version=1,
        source="Binkowski et al. 2018, https://arxiv.org/abs/1801.01401",
        parameters={},
        minimal_n=2,
    ),
    "precision": Metric(
        summarise=precision_recall.summarise,
        compare=precision_recall.compare_precision,
        direction="higher",
        version=1,
        source="Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991",
        parameters={"k": 3},
        minimal_n=2,
        sides=("real",),
        check=check_k,
    ),
    "recall": Metric(
        summarise=precision_recall.summarise,
        compare=precision_recall.compare_recall,
        direction="higher",
        version=1,
        source="Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991",
        parameters={"k": 3},
        minimal_n=2,
        sides=("synth",),
        check=check_k,
    ),
}


def evaluate(
    *, real: object, synth: object, metrics: Iterable[str] | Mapping[str, Parameters | None]
) -> dict[str, MetricValue]:
    """Compute metrics of a synthetic set against a real one.

    Every name, parameter and row is checked before the first metric runs. What concerns one set alone is computed once
    and shared by the metrics that need it; pass ``Summaries`` to share it between calls too.

    Args:
        real: Array-like of shape (N, D), an object whose ``load()`` returns one, or ``Summaries``.
        synth: The same, of shape (M, D).
        metrics: Names of ``METRICS``, or names with parameters that replace defaults.

    Returns:
        The values by name, in the order asked for.

    Raises:
        MetricError: A name or parameter is unknown, or the rows cannot be used.
    """
    requests = resolve(metrics)
    real_set, synth_set = _opened(real, "real"), _opened(synth, "synth")
    _check_pair(requests, real=real_set, synth=synth_set)
    return {name: _value(name, parameters, real_set, synth_set) for name, parameters in requests.items()}


def resolve(metrics: Iterable[str] | Mapping[str, Parameters | None]) -> dict[str, dict[str, Any]]:
    """Metric names with all their parameters, defaults filled in.

    Raises:
        MetricError: A name or parameter is unknown, or a parameter's value is out of range.
    """
    if isinstance(metrics, str):
        metrics = [metrics]
    wanted = metrics if isinstance(metrics, Mapping) else dict.fromkeys(metrics)
    return {name: _parameters(name, {} if given is None else given) for name, given in wanted.items()}


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
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    raise MetricError(f"Unknown {what} '{name}'. {hint}{listing}: {', '.join(known) or 'none'}.")


def _opened(source: object, where: str) -> Summaries:
    return source if isinstance(source, Summaries) else Summaries(source, where=where)


def _check_pair(requests: Iterable[str], *, real: Summaries, synth: Summaries) -> None:
    if real.width != synth.width:
        raise MetricError(
            f"real and synth: expected rows of equal width, found {real.width} and {synth.width} features; "
            "extract both with the same extractor"
        )
    for name in requests:
        for side, rows in (("real", real), ("synth", synth)):
            if len(rows) < METRICS[name].minimal_n:
                raise MetricError(
                    f"{side}: expected at least {METRICS[name].minimal_n} rows for metric '{name}', "
                    f"found {len(rows)}; add samples or leave this metric out"
                )


def _value(name: str, parameters: dict[str, Any], real: Summaries, synth: Summaries) -> MetricValue:
    metric = METRICS[name]
    try:
        outcome = metric.compare(
            real=real.standing_as("real", metric, parameters),
            synth=synth.standing_as("synth", metric, parameters),
            **named(metric.compare, parameters),
        )
    except np.linalg.LinAlgError as error:
        raise MetricError(f"metric '{name}': {error}") from error
    if not math.isfinite(outcome.value):
        raise MetricError(f"metric '{name}': expected a finite value, found {outcome.value}; rescale the features")
    return MetricValue(
        value=outcome.value,
        metric=name,
        version=metric.version,
        direction=metric.direction,
        parameters=parameters,
        n_real=len(real),
        n_synth=len(synth),
        width=real.width,
        warnings=outcome.warnings,
    )
