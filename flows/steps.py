"""The steps of a sweep, in task runs: what is missing is extracted, then what is new is compared.

They keep handles and numbers of every set, and data only of those that are in flight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from prefect import Task, get_run_logger
from prefect.futures import PrefectFuture
from prefect.tasks import exponential_backoff
from prefect.utilities.annotations import NotSet

from flows.runners import Crew
from simet_cache.comparisons import Comparison, Rows
from simet_cache.config import EvaluationConfig
from simet_cache.derived import Derived
from simet_cache.derived_policy import DerivedCachePolicy
from simet_cache.errors import SimetCacheError
from simet_cache.featureset import FeatureSet
from simet_cache.plan import Planned, labels_for, plan
from simet_cache.policy import FeatureCachePolicy
from simet_cache.manifest import Source
from simet_cache.metrics import Difference, MetricValue
from simet_cache.metrics.packing import from_json
from simet_cache.report.rankings import differences_of
from simet_cache.report.results import DatasetResult, Table
from simet_cache.shards import drop_leftovers, shards_of
from simet_cache.store import FeatureStore
from simet_cache.sweep import Pairing, PlannedSet, Sweep
from tasks.features import assemble_shards, extract_features
from tasks.metrics import measure, summarise
from tasks.states import error_of, is_temporary

_LARGEST_GROUP = 16  # comparisons in one task run, so that what a run costs by itself is little beside them
_GROUPS_EACH = 4  # for each place in flight, so that all places are busy to the end

Found = Mapping[PlannedSet, DatasetResult]


# Extraction


@dataclass(frozen=True)
class _UnderWay:
    """A feature set that is being extracted: the run that will have it, and those of its shards."""

    planned: Planned | None = None
    run: PrefectFuture[FeatureSet] | None = None
    shards: Sequence[PrefectFuture[FeatureSet]] = ()
    error: str = ""


def extract_all(sweep: Sweep, config: EvaluationConfig, store: FeatureStore, crew: Crew) -> Found:
    """The features of every set: a run for each; for a large one that is missing, one for each shard and one for all.

    Returns:
        A result without values for each set; with an error where there are no features.
    """
    extract = extract_features.with_options(
        cache_policy=FeatureCachePolicy(store),
        refresh_cache=True if config.force_recompute else NotSet,
        **_tried_again(config),
    )
    spare = frozenset(one.key for one in sweep.sets)  # a shard of one may be a set of its own
    under_way: dict[str, _UnderWay] = {}
    for one in sweep.sets:
        if one.key and one.key not in under_way:  # equal ones are extracted once
            under_way[one.key] = _begun(one, extract, config, store, crew, spare)
    ended = {key: _ended(one, store) for key, one in under_way.items()}
    return {
        one: replace(ended[one.key], name=one.name, step=one.one.step)
        if one.key
        else DatasetResult(one.name, one.suffix, error=one.reason, step=one.one.step)
        for one in sweep.sets
    }


def _begun(
    one: PlannedSet,
    extract: Task[..., FeatureSet],
    config: EvaluationConfig,
    store: FeatureStore,
    crew: Crew,
    spare: frozenset[str],
) -> _UnderWay:
    try:
        planned = plan(one.one, one.extractor, config, store)  # once more: file lists are not kept meanwhile
        shards = _missing_shards(planned, config, store, spare)
    except SimetCacheError as error:
        get_run_logger().error("%s: %s", one.name, error)
        return _UnderWay(error=str(error))

    def run(part: Planned, shard_of: str | None) -> PrefectFuture[FeatureSet]:
        return crew.submit(
            extract,
            dataset=part.dataset,
            batch_size=one.extractor.batch_size,
            suffix=part.suffix,
            source=part.source,
            name=part.name,
            extractor=one.extractor,
            store=store,
            on_bad_image=config.on_bad_image,
            shard_of=shard_of,
            limit=config.extraction_limit,
        )

    if not shards:
        return _UnderWay(_light(planned), run(planned, None))
    parts = [run(part, planned.key) for part in shards]
    assembled = crew.submit(
        assemble_shards.with_options(**_tried_again(config)),
        planned=planned,
        shards=parts,  # Prefect waits for them
        name=one.name,
        extractor=one.extractor,
        store=store,
        size=config.shard_size,
        keep=config.keep_shards,
        force=config.force_recompute,
        spare=spare,
        on_bad_image=config.on_bad_image,
        limit=config.extraction_limit,
    )
    return _UnderWay(_light(planned), assembled, parts)


def _missing_shards(
    planned: Planned, config: EvaluationConfig, store: FeatureStore, spare: frozenset[str]
) -> list[Planned]:
    """The parts of a large set that is missing; none of one that is there, by now or at the remote, or is small."""
    rows, size = len(planned.dataset), config.shard_size
    if rows <= size:
        return []
    if not config.force_recompute and (whole := store.find(planned.key, rows=rows, source=planned.source)):
        drop_leftovers(store, planned, whole, size=size, spare=spare)
        return []
    return shards_of(planned, size=size)


def _light(planned: Planned) -> Planned:
    """Without the lists of files: of those there may be too many in a sweep."""
    return replace(planned, dataset=None, source=Source())


def _ended(one: _UnderWay, store: FeatureStore) -> DatasetResult:
    if one.planned is None or one.run is None:
        return DatasetResult("", "", error=one.error)
    one.run.wait()
    for part in one.shards:
        part.wait()
    failed = [part.state for part in one.shards if not part.state.is_completed()]
    if failed or not one.run.state.is_completed():
        return DatasetResult("", one.planned.suffix, error=error_of((failed or [one.run.state])[0]))
    features: FeatureSet = one.run.result()
    manifest = {} if features.unsaved is not None else store.manifest(features.key)  # else it is about older ones
    return DatasetResult(
        "",
        one.planned.suffix,
        features=features,
        cached=one.run.state.name == "Cached",
        extraction_seconds=manifest.get("seconds"),
        images_per_second=manifest.get("images_per_second"),
        device=(manifest.get("extractor") or {}).get("device"),
        skipped=tuple(manifest.get("skipped") or [asdict(image) for image in one.planned.skipped]),
    )


def _tried_again(config: EvaluationConfig) -> dict[str, Any]:
    """For trouble that can pass, like that of a file server; never for what cannot, like a corrupt image."""
    return {
        "retries": config.retries,
        "retry_delay_seconds": exponential_backoff(backoff_factor=2),
        "retry_condition_fn": is_temporary,
    }


# Comparison


@dataclass(frozen=True)
class _Group:
    """Sets that are measured against one reference in one run, and the keys of their values by metric."""

    run: PrefectFuture[dict[str, Any]]
    keys: Mapping[PlannedSet, Mapping[str, str]]


@dataclass(frozen=True)
class _Pair:
    """All comparisons of a pairing while they are being made; ``sets`` are those that cannot be compared already."""

    reference: DatasetResult
    sets: Mapping[PlannedSet, DatasetResult]
    groups: Sequence[_Group]


def compare_all(
    sweep: Sweep, found: Found, config: EvaluationConfig, store: FeatureStore, crew: Crew
) -> tuple[Table, ...]:
    """Every set against its references, in runs of a sensible size; what is known is not computed again."""
    derived = Derived(store.cache_dir)
    begun = [_compared(pairing, found, config, store, derived, crew) for pairing in sweep.pairings]
    return tuple(
        _table(pairing, pair, found, config, derived) for pairing, pair in zip(sweep.pairings, begun, strict=True)
    )


def _compared(
    pairing: Pairing, found: Found, config: EvaluationConfig, store: FeatureStore, derived: Derived, crew: Crew
) -> _Pair:
    """Summarise the reference, and start to measure the others, some of them together in each run."""
    reference = found[pairing.reference]
    try:
        real = _rows(pairing.reference, reference, config, store)
    except SimetCacheError as error:
        return _Pair(replace(reference, error=str(error)), {}, [])
    intervals = config.intervals.asked() if config.intervals else None
    metrics = {name: given for _, wanted in pairing.datasets for name, given in wanted.items()}
    where = {"derived": derived, "device": pairing.reference.extractor.device}
    again, policy = _tried_again(config), DerivedCachePolicy(store.cache_dir)
    summarised = summarise.with_options(cache_policy=policy, **again)
    crew.submit(
        summarised, rows=real, side="real", metrics=metrics, name=real.name, **where
    ).wait()  # whatever becomes of it, those that need it say so
    measured = measure.with_options(cache_policy=policy, **again)
    sets: dict[PlannedSet, DatasetResult] = {}
    groups: list[_Group] = []
    for members in _in_groups(pairing.datasets, config.max_in_flight):
        group: dict[PlannedSet, Comparison] = {}
        for one, wanted in members:
            try:
                synth = _rows(one, found[one], config, store)
                group[one] = Comparison(real, synth, wanted, intervals, config.per_class)
            except SimetCacheError as error:
                sets[one] = replace(found[one], error=str(error))
        if group:
            names = [one.name for one in group]
            name = names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]} ({len(names)})"
            run = crew.submit(measured, group=[*group.values()], name=name, attempts=config.retries + 1, **where)
            groups.append(_Group(run, {one: comparison.keys for one, comparison in group.items()}))
    return _Pair(reference, sets, groups)


def _rows(one: PlannedSet, found: DatasetResult, config: EvaluationConfig, store: FeatureStore) -> Rows:
    """Features, and labels where they matter.

    Raises:
        SimetCacheError: There are none.
    """
    if found.features is None:
        raise SimetCacheError(found.error or "there are no features")
    labels = labels_for(found.features, one.one, one.extractor, config, store) if config.needs_labels else None
    return Rows(one.name, found.features, labels)


def _in_groups(members: Sequence[Any], places: int) -> Iterator[Sequence[Any]]:
    size = min(_LARGEST_GROUP, math.ceil(len(members) / (_GROUPS_EACH * places)))
    return (members[start : start + size] for start in range(0, len(members), size))


def _table(pairing: Pairing, pair: _Pair, found: Found, config: EvaluationConfig, derived: Derived) -> Table:
    results = {one: pair.sets.get(one, found[one]) for one, _ in pairing.datasets}
    if pair.reference.error:
        results = {one: replace(each, error="the reference has no features") for one, each in results.items()}
    keys: dict[str, Mapping[str, str]] = {}
    for group in pair.groups:
        group.run.wait()
        state = group.run.state
        outcomes = state.result() if state.is_completed() else {one.name: {"error": error_of(state)} for one in group.keys}
        for one, of_one in group.keys.items():
            keys[one.name] = of_one
            results[one] = _measured(results[one], of_one, outcomes.get(one.name, {}), derived)
    wanted = {name for _, metrics in pairing.datasets for name in metrics}
    metrics = tuple(name for name in config.metrics if name in wanted)
    datasets = tuple(
        replace(results[one], excluded=tuple(name for name in metrics if name not in given))
        for one, given in pairing.datasets
    )
    table = Table(pair.reference, datasets, metrics)
    return replace(table, differences=_differences(table, keys, config, derived))


def _measured(
    found: DatasetResult, keys: Mapping[str, str], outcome: Mapping[str, Any], derived: Derived
) -> DatasetResult:
    """With the values that are kept, and with those that could not be."""
    unkept = {name: from_json(value) for name, value in outcome.get("unkept", {}).items()}
    values = {name: unkept.get(name) or derived.value(key) for name, key in keys.items()}
    gone = {name: "the value was removed during this run; run again" for name, value in values.items() if value is None}
    failures = outcome.get("failures", {})
    return replace(
        found,
        values={name: value for name, value in values.items() if value is not None},
        failures=failures if outcome.get("error") else {**gone, **failures},
        error=outcome.get("error"),
        metrics_seconds=outcome.get("seconds"),
    )


def _differences(
    table: Table, keys: Mapping[str, Mapping[str, str]], config: EvaluationConfig, derived: Derived
) -> dict[str, dict[str, Difference]]:
    """Of each metric with intervals; what that takes is read from the cache, for two sets at a time."""
    if config.intervals is None:
        return {}

    def found(metric: str) -> dict[str, Difference]:
        def with_noise(name: str) -> MetricValue:
            value: MetricValue = derived.value(keys[name][metric], noise=True)
            return value

        return differences_of(table.values(metric), level=config.intervals.level, with_noise=with_noise)

    return {metric: found(metric) for metric in table.metrics}
