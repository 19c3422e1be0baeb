"""The second step of a sweep: what is new is compared, in task runs of a sensible size.

What is known is read from the cache; so are values, after the runs, without the large arrays that belong to them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefect import get_run_logger
from prefect.futures import PrefectFuture

from flows.work import Found, Work
from simet_cache.comparisons import Comparison, Rows
from simet_cache.config import EvaluationConfig
from simet_cache.derived import Derived
from simet_cache.derived_policy import DerivedCachePolicy
from simet_cache.errors import SimetCacheError
from simet_cache.metrics import Intervals, MetricValue, Ranking, ranking_of
from simet_cache.metrics.packing import from_json
from simet_cache.plan import labels_for
from simet_cache.report.results import DatasetResult, Table
from simet_cache.sweep import Pairing, PlannedSet, Sweep
from tasks.metrics import measure, summarise
from tasks.states import error_of

_LARGEST_GROUP = 16  # comparisons in one task run, so that what a run costs by itself is little beside them
_GROUPS_EACH = 4  # for each place in flight, so that all places are busy to the end

Members = Sequence[tuple[PlannedSet, Mapping[str, Mapping[str, Any]]]]


@dataclass(frozen=True)
class _Group:
    """Sets that are measured against one reference in one run, and the keys of their values by metric."""

    run: PrefectFuture[dict[str, Any]]
    keys: Mapping[PlannedSet, Mapping[str, str]]


@dataclass(frozen=True)
class _Compared:
    """All comparisons of a pairing, under way; ``sets`` are those that cannot be compared, with the reason."""

    reference: DatasetResult
    sets: Mapping[PlannedSet, DatasetResult]
    groups: Sequence[_Group]


def compare_all(sweep: Sweep, found: Found, work: Work) -> tuple[Table, ...]:
    """Every set against its references, in runs of a sensible size; what is known is not computed again."""
    derived = Derived(work.store.cache_dir)
    begun = [(pairing, _compared(pairing, found, derived, work)) for pairing in sweep.pairings]
    return tuple(_table(pairing, compared, found, derived, work.config) for pairing, compared in begun)


def _compared(pairing: Pairing, found: Found, derived: Derived, work: Work) -> _Compared:
    """Summarise the reference, and start to measure the others, some of them together in each run."""
    reference = found[pairing.reference]
    try:
        labelled = any(work.config.wants_labels(wanted) for _, wanted in pairing.datasets)
        real = _rows(pairing.reference, reference, work, labelled=labelled)
    except SimetCacheError as error:
        return _Compared(replace(reference, error=str(error)), {}, [])
    options = {"cache_policy": DerivedCachePolicy(work.store.cache_dir), **work.tried_again}
    where = {"derived": derived, "device": pairing.reference.extractor.device, "locks": work.locks}
    on_what = work.on_what(pairing.reference.extractor)
    against = f" against {real.name}" if len(work.config.all_references) > 1 else ""
    metrics = {name: given for _, wanted in pairing.datasets for name, given in wanted.items()}
    summarised = work.crew.submit(
        summarise.with_options(**options), rows=real, side="real", metrics=metrics, name=real.name + on_what, **where
    )
    summarised.wait()  # whatever becomes of it: those that need it say so
    sets: dict[PlannedSet, DatasetResult] = {}
    groups: list[_Group] = []
    for members in _in_groups(pairing.datasets, work.config.max_in_flight):
        group, failed = _comparisons(members, real, found, work)
        sets |= failed
        if group:
            names = [one.name for one in group]
            name = names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]} ({len(names)})"
            run = work.crew.submit(
                measure.with_options(**options),
                group=[*group.values()],
                name=name + against + on_what,
                attempts=work.config.retries + 1,
                **where,
            )
            groups.append(_Group(run, {one: comparison.keys for one, comparison in group.items()}))
    return _Compared(reference, sets, groups)


def _comparisons(
    members: Members, real: Rows, found: Found, work: Work
) -> tuple[dict[PlannedSet, Comparison], dict[PlannedSet, DatasetResult]]:
    """Those that can be made; and of the others, why they cannot."""
    config = work.config
    group: dict[PlannedSet, Comparison] = {}
    failed: dict[PlannedSet, DatasetResult] = {}
    for one, wanted in members:
        try:
            synth = _rows(one, found[one], work, labelled=config.wants_labels(wanted))
        except SimetCacheError as error:
            failed[one] = replace(found[one], error=str(error))
            continue
        intervals = config.intervals.asked() if config.intervals else None
        group[one] = Comparison(real, synth, wanted, intervals, config.per_class)
    return group, failed


def _rows(one: PlannedSet, found: DatasetResult, work: Work, *, labelled: bool) -> Rows:
    """Features, and labels where they matter to what these are compared by.

    Raises:
        SimetCacheError: There are none.
    """
    if found.features is None:
        raise SimetCacheError(found.error or "there are no features")
    labels = None
    if labelled:
        labels = labels_for(found.features, one.one, one.extractor, work.config, work.store)
    return Rows(one.name, found.features, labels)


def _in_groups(members: Members, places: int) -> Iterator[Members]:
    size = min(_LARGEST_GROUP, math.ceil(len(members) / (_GROUPS_EACH * places)))
    return (members[start : start + size] for start in range(0, len(members), size))


def _table(pairing: Pairing, compared: _Compared, found: Found, derived: Derived, config: EvaluationConfig) -> Table:
    results = {one: compared.sets.get(one, found[one]) for one, _ in pairing.datasets}
    if compared.reference.error:
        results = {one: replace(each, error="the reference has no features") for one, each in results.items()}
    keys: dict[str, Mapping[str, str]] = {}
    for group in compared.groups:
        group.run.wait()
        state = group.run.state
        failed = None if state.is_completed() else {"error": error_of(state)}
        outcomes = {} if failed else group.run.result()
        for one, of_one in group.keys.items():
            keys[one.name] = of_one
            results[one] = _measured(results[one], of_one, failed or outcomes.get(one.name, {}), derived)
    wanted = {name for _, given in pairing.datasets for name in given}
    metrics = tuple(name for name in config.metrics if name in wanted)
    datasets = tuple(
        replace(results[one], excluded=tuple(name for name in metrics if name not in given))
        for one, given in pairing.datasets
    )
    table = Table(compared.reference, datasets, metrics)
    intervals = config.intervals.asked() if config.intervals else None
    return replace(table, rankings={metric: _ranking(table, metric, keys, derived, intervals) for metric in metrics})


def _measured(
    found: DatasetResult, keys: Mapping[str, str], outcome: Mapping[str, Any], derived: Derived
) -> DatasetResult:
    """With the values that are kept, and with those that could not be."""
    unkept = {name: from_json(value) for name, value in outcome.get("unkept", {}).items()}
    values = {name: unkept.get(name) or derived.value(key) for name, key in keys.items()}
    gone = [name for name, value in values.items() if value is None]
    failures = {} if "error" in outcome else dict.fromkeys(gone, "its value was removed during this run; run again")
    return replace(
        found,
        values={name: value for name, value in values.items() if value is not None},
        failures={**failures, **outcome.get("failures", {})},
        error=outcome.get("error"),
        metrics_seconds=outcome.get("seconds"),
    )


def _ranking(
    table: Table,
    metric: str,
    keys: Mapping[str, Mapping[str, str]],
    derived: Derived,
    intervals: Intervals | None,
) -> Ranking:
    """By one metric. What that takes is as large as the reference: it is read from the cache for two sets at a time."""

    def with_noise(name: str) -> MetricValue | None:
        found: MetricValue | None = derived.value(keys[name][metric], noise=True)
        if found is None:
            get_run_logger().warning("%s of %s could not be kept: no other set is compared with it", metric, name)
        return found

    return ranking_of(
        table.values(metric),
        metric=metric,
        level=(intervals or Intervals()).level,
        left_out=table.unmeasured(metric),
        with_noise=with_noise if intervals else None,
    )
