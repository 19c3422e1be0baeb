"""The steps of a sweep, in task runs: what is missing is extracted, then what is new is compared.

They keep handles and numbers of every set, and data only of those that are in flight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import Any

from prefect import Task, get_run_logger
from prefect.futures import PrefectFuture
from prefect.tasks import exponential_backoff
from prefect.utilities.annotations import NotSet

from flows.runners import Crew
from simet_cache.comparisons import Comparison, Rows
from simet_cache.config import EvaluationConfig, ExtractorConfig
from simet_cache.derived import Derived
from simet_cache.derived_policy import DerivedCachePolicy
from simet_cache.errors import SimetCacheError
from simet_cache.featureset import FeatureSet
from simet_cache.manifest import Source
from simet_cache.metrics import Difference, MetricValue
from simet_cache.metrics.packing import from_json
from simet_cache.plan import Planned, labels_for, plan
from simet_cache.policy import FeatureCachePolicy
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
Members = Sequence[tuple[PlannedSet, Mapping[str, Mapping[str, Any]]]]


@dataclass(frozen=True)
class Work:
    """What every step needs.

    Attributes:
        config: The evaluation.
        store: Its cache.
        crew: Takes task runs.
    """

    config: EvaluationConfig
    store: FeatureStore
    crew: Crew

    @property
    def tried_again(self) -> dict[str, Any]:
        """Of a task: for trouble that can pass, as with a file server, and never for a corrupt image."""
        return {
            "retries": self.config.retries,
            "retry_delay_seconds": exponential_backoff(backoff_factor=2),
            "retry_condition_fn": is_temporary,
        }

    def how(self, extractor: ExtractorConfig) -> dict[str, Any]:
        """What tasks that extract are told besides what they extract."""
        return {
            "extractor": extractor,
            "store": self.store,
            "on_bad_image": self.config.on_bad_image,
            "limit": self.config.extraction_limit,
        }

    def on_what(self, extractor: ExtractorConfig) -> str:
        """In the names of task runs: the extractor, where there are several."""
        return f" on {extractor.suffix}" if len(self.config.all_extractors) > 1 else ""


# Extraction


@dataclass
class _UnderWay:
    """A feature set that is being extracted.

    Attributes:
        one: What was found of it before.
        planned: What it is made from; its lists of files only while there are shards to be put together, since of those
            there may be too many in a sweep.
        shards: The runs that extract its shards, where it has any.
        run: The one that will have its features.
        error: Why there will be none.
    """

    one: PlannedSet
    planned: Planned | None = None
    shards: Sequence[PrefectFuture[FeatureSet]] = ()
    run: PrefectFuture[FeatureSet] | None = None
    error: str = ""


def extract_all(sweep: Sweep, work: Work) -> Found:
    """The features of every set: a run for each; for a large one that is missing, one for each shard and one for all.

    Returns:
        A result without values for each set; with an error where there are no features.
    """
    extract = extract_features.with_options(
        cache_policy=FeatureCachePolicy(work.store),
        refresh_cache=True if work.config.force_recompute else NotSet,
        **work.tried_again,
    )
    spare = frozenset(one.key for one in sweep.sets)  # a shard of one may be a set of its own
    under_way: dict[str, _UnderWay] = {}
    extracted: SimpleQueue[_UnderWay] = SimpleQueue()  # shard by shard, and to be put together
    unassembled = 0
    for one in sweep.sets:
        if one.key and one.key not in under_way:  # equal ones are extracted once
            begun = under_way[one.key] = _begun(one, extract, spare, work)
            if begun.shards:
                unassembled += 1
                _when_done(begun.shards, partial(extracted.put, begun))
        while not extracted.empty():
            _assemble(extracted.get(), spare, work)
            unassembled -= 1
    for _ in range(unassembled):
        _assemble(extracted.get(), spare, work)
    ended = {key: _ended(one, work.store) for key, one in under_way.items()}
    return {
        one: replace(
            ended[one.key] if one.key else DatasetResult("", one.suffix, error=one.reason),
            name=one.name,
            step=one.one.step,
        )
        for one in sweep.sets
    }


def _begun(one: PlannedSet, extract: Task[..., FeatureSet], spare: frozenset[str], work: Work) -> _UnderWay:
    config, store = work.config, work.store
    try:
        planned = plan(one.one, one.extractor, config, store)  # once more: file lists are not kept meanwhile
        shards = _missing_shards(planned, spare, work)
    except SimetCacheError as error:
        get_run_logger().error("%s: %s", one.name, error)
        return _UnderWay(one, error=str(error))
    runs = [
        work.crew.submit(
            extract,
            dataset=part.dataset,
            batch_size=one.extractor.batch_size,
            suffix=part.suffix,
            source=part.source,
            name=part.name + work.on_what(one.extractor),
            shard_of=planned.key if shards else None,
            **work.how(one.extractor),
        )
        for part in shards or [planned]
    ]
    return _UnderWay(one, planned, runs) if shards else _UnderWay(one, _light(planned), run=runs[0])


def _assemble(one: _UnderWay, spare: frozenset[str], work: Work) -> None:
    """Start to put the shards of a set together, if all of them are there."""
    planned = one.planned
    for run in one.shards:
        run.wait()  # they have ended; a run on a cluster learns its state by that
    if planned is None or not all(run.state.is_completed() for run in one.shards):
        return
    one.planned = _light(planned)
    one.run = work.crew.submit(
        assemble_shards.with_options(**work.tried_again),
        planned=planned,
        shards=[run.result() for run in one.shards],
        name=one.one.name + work.on_what(one.one.extractor),
        size=work.config.shard_size,
        keep=work.config.keep_shards,
        force=work.config.force_recompute,
        spare=spare,
        **work.how(one.one.extractor),
    )


def _when_done(runs: Sequence[PrefectFuture[Any]], then: Callable[[], None]) -> None:
    """Call something when the last of some runs has ended, in whatever thread hears of that."""
    left = count(len(runs) - 1, -1)  # `next` is one step: two threads never get the same number

    def ended(_: PrefectFuture[Any]) -> None:
        if next(left) == 0:
            then()

    for run in runs:
        run.add_done_callback(ended)


def _light(planned: Planned) -> Planned:
    return replace(planned, dataset=None, source=Source())


def _missing_shards(planned: Planned, spare: frozenset[str], work: Work) -> list[Planned]:
    """The parts of a large set that is missing; none of one that is there, by now or at the remote, or is small."""
    rows, size = len(planned.dataset), work.config.shard_size
    if rows <= size:
        return []
    whole = None if work.config.force_recompute else work.store.find(planned.key, rows=rows, source=planned.source)
    if whole is None:
        return shards_of(planned, size=size)
    if not work.config.keep_shards:
        drop_leftovers(work.store, planned, whole, size=size, spare=spare)
    return []


def _ended(one: _UnderWay, store: FeatureStore) -> DatasetResult:
    if one.planned is None:
        return DatasetResult("", one.one.suffix, error=one.error)
    runs = [*one.shards, *([one.run] if one.run else [])]
    for run in runs:
        run.wait()
    failed = [run.state for run in runs if not run.state.is_completed()]
    if failed or one.run is None:
        return DatasetResult("", one.planned.suffix, error=error_of(failed[0]))
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


# Comparison


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
        real = _rows(pairing.reference, reference, work)
    except SimetCacheError as error:
        return _Compared(replace(reference, error=str(error)), {}, [])
    options = {"cache_policy": DerivedCachePolicy(work.store.cache_dir), **work.tried_again}
    where = {"derived": derived, "device": pairing.reference.extractor.device}
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
            synth = _rows(one, found[one], work)
        except SimetCacheError as error:
            failed[one] = replace(found[one], error=str(error))
            continue
        intervals = config.intervals.asked() if config.intervals else None
        group[one] = Comparison(real, synth, wanted, intervals, config.per_class)
    return group, failed


def _rows(one: PlannedSet, found: DatasetResult, work: Work) -> Rows:
    """Features, and labels where they matter.

    Raises:
        SimetCacheError: There are none.
    """
    if found.features is None:
        raise SimetCacheError(found.error or "there are no features")
    labels = None
    if work.config.needs_labels:
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
    if config.intervals is None:
        return table
    return replace(table, differences=dict(_differences(table, keys, derived, level=config.intervals.level)))


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


def _differences(
    table: Table, keys: Mapping[str, Mapping[str, str]], derived: Derived, *, level: float
) -> Iterator[tuple[str, dict[str, Difference]]]:
    """By metric; what that takes is as large as the reference, and is read from the cache for two sets at a time."""
    for metric in table.metrics:
        values = table.values(metric)

        def with_noise(name: str, metric: str = metric, values: Mapping[str, MetricValue] = values) -> MetricValue:
            return derived.value(keys[name][metric], noise=True) or values[name]

        yield metric, differences_of(values, level=level, with_noise=with_noise)
