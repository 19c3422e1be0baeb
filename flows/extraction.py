"""The first step of a sweep: what is missing is extracted, a task run for each set, or for each shard of a large one.

It keeps handles and numbers of every set, and lists of files only of those that are in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import Any

from prefect import Task, get_run_logger
from prefect.futures import PrefectFuture
from prefect.utilities.annotations import NotSet

from flows.work import Found, Work
from simet_cache.errors import StoppedError, StoreError
from simet_cache.featureset import FeatureSet
from simet_cache.manifest import Source
from simet_cache.plan import Planned, plan
from simet_cache.policy import FeatureCachePolicy
from simet_cache.report.results import DatasetResult
from simet_cache.shards import drop_leftovers, shards_of
from simet_cache.store import FeatureStore
from simet_cache.sweep import PlannedSet, Sweep, require_as_before
from tasks.features import assemble_shards, extract_features
from tasks.states import error_of, sentence_of


@dataclass(eq=False)
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
    under_way: dict[PlannedSet, _UnderWay] = {}
    shared: dict[str, _UnderWay] = {}
    extracted: SimpleQueue[_UnderWay] = SimpleQueue()  # shard by shard, and to be put together
    unassembled = 0
    for one in sweep.sets:
        if one.key in shared:  # equal ones are extracted once
            under_way[one] = shared[one.key]
        elif one.key:
            begun = under_way[one] = _begun(one, extract, spare, work)
            if begun.planned is not None and begun.planned.key == one.key:  # and a link has not moved since the plan
                shared[one.key] = begun
            if begun.shards:
                unassembled += 1
                _when_done(begun.shards, partial(extracted.put, begun))
        while not extracted.empty():
            _assemble(extracted.get(), spare, work)
            unassembled -= 1
    for _ in range(unassembled):
        _assemble(extracted.get(), spare, work)
    ended = {one: _ended(one, work.store) for one in dict.fromkeys(under_way.values())}
    return {
        one: replace(
            ended[under_way[one]] if one in under_way else DatasetResult("", one.suffix, error=one.reason),
            name=one.name,
            step=one.one.step,
            parts=one.one.parts,
            passed_over=one.passed_over,
            looks=one.looks,
            bit_depth=one.bit_depth,
            bad_images=tuple(asdict(image) for image in one.bad_images),
        )
        for one in sweep.sets
    }


def _begun(one: PlannedSet, extract: Task[..., FeatureSet], spare: frozenset[str], work: Work) -> _UnderWay:
    config, store = work.config, work.store
    try:
        planned = plan(one.one, one.extractor, config, store)  # once more: file lists are not kept meanwhile
        require_as_before(one, planned)
        if one.bad_images and not _found(planned, work):
            get_run_logger().error("%s: %s", one.name, one.reason)
            return _UnderWay(one, error=one.reason)
        shards = _missing_shards(planned, spare, work)
    except StoppedError:
        raise
    except Exception as error:  # noqa: BLE001 - one that cannot be opened leaves the others alone
        get_run_logger().error("%s: %s", one.name, sentence_of(error))
        return _UnderWay(one, error=sentence_of(error))
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
    if planned is None:
        return
    one.planned = _light(planned)
    if not all(run.state.is_completed() for run in one.shards):
        return
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
    whole = _found(planned, work)
    if whole is None:
        return shards_of(planned, size=size)
    if not work.config.keep_shards:
        drop_leftovers(work.store, planned, whole, size=size, spare=spare)
    return []


def _found(planned: Planned, work: Work) -> FeatureSet | None:
    """The features of a set that are there by now, or at the remote, and will be used."""
    if work.config.force_recompute:
        return None
    return work.store.find(planned.key, rows=len(planned.dataset), source=planned.source)


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
    manifest = _said(features, store)
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


def _said(features: FeatureSet, store: FeatureStore) -> Mapping[str, Any]:
    """What their manifest says, where it is about them and can be read: it is for people, and no reason to fail."""
    if features.unsaved is not None:
        return {}
    try:
        return store.manifest(features.key)
    except StoreError:
        return {}
