"""Extraction as Prefect tasks: of a dataset, or of one shard of it, under the documented key."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.concurrency.sync import concurrency

from simet_cache import stopping
from simet_cache.config import ExtractorConfig
from simet_cache.devices import DeviceLocks
from simet_cache.errors import DamagedShardError
from simet_cache.extraction import extract_to_store
from simet_cache.featureset import FeatureSet
from simet_cache.manifest import Source
from simet_cache.plan import Planned
from simet_cache.policy import refresh_requested
from simet_cache.shards import assemble, shards_of
from simet_cache.store import FeatureStore
from tasks.states import light_errors


@task(task_run_name="extract {name}")
def extract_features(
    dataset: Any,
    batch_size: int,
    suffix: str,
    *,
    source: Source,
    name: str,
    extractor: ExtractorConfig,
    store: FeatureStore,
    on_bad_image: str = "stop",
    shard_of: str | None = None,
    limit: str | None = None,
    locks: DeviceLocks = DeviceLocks(),  # noqa: B008 - it is frozen
) -> FeatureSet:
    """Extract the features of a dataset into the store; see ``extract_to_store``.

    It has no cache policy of its own, since that depends on the store; the flow gives it one.

    Args:
        dataset: Images by position.
        batch_size: In the key.
        suffix: In the key.
        source: What the features are made from.
        name: For people.
        extractor: Which model, on which device.
        store: Where the features are kept.
        on_bad_image: ``stop`` or ``skip``.
        shard_of: The key of the dataset that this is a part of.
        limit: The Prefect global concurrency limit under which images are read; a hit never waits for it.
        locks: Which devices other processes do not use meanwhile.
    """
    with light_errors():
        return extract_to_store(
            store,
            dataset,
            config=extractor.model_copy(update={"batch_size": batch_size}),  # the one that is in the key
            suffix=suffix,
            source=source,
            on_bad_image=on_bad_image,
            force=refresh_requested(),
            name=name,
            shard_of=shard_of,
            turn=partial(_turn, limit),
            locks=locks,
        )


@task(task_run_name="assemble {name}", cache_policy=NO_CACHE, persist_result=False)
def assemble_shards(
    planned: Planned,
    shards: Sequence[FeatureSet],
    *,
    name: str,
    extractor: ExtractorConfig,
    store: FeatureStore,
    size: int,
    keep: bool,
    force: bool,
    spare: Collection[str],
    on_bad_image: str = "stop",
    limit: str | None = None,
    locks: DeviceLocks = DeviceLocks(),  # noqa: B008 - it is frozen
) -> FeatureSet:
    """The features of a dataset from those of its shards; see ``assemble``. A damaged shard is extracted once more."""
    del name  # names the run
    with light_errors():
        parts = list(shards)
        for _ in parts:
            try:
                return assemble(store, planned, parts, size=size, keep=keep, force=force, spare=spare)
            except DamagedShardError as error:
                get_run_logger().warning("%s", error)
                number = next(place for place, part in enumerate(parts) if part.key == error.key)
            shard = shards_of(planned, size=size)[number]
            parts[number] = extract_to_store(
                store,
                shard.dataset,
                config=extractor,
                suffix=shard.suffix,
                source=shard.source,
                on_bad_image=on_bad_image,
                name=shard.name,
                shard_of=planned.key,
                turn=partial(_turn, limit),
                locks=locks,
            )
        return assemble(store, planned, parts, size=size, keep=keep, force=force, spare=spare)


@contextmanager
def _turn(limit: str | None) -> Iterator[None]:
    if limit is None:
        yield
        return
    # a server that was away for a while has forgotten who holds what: no reason to throw an extraction away
    with concurrency(limit, occupy=1, strict=True, raise_on_lease_renewal_failure=False):
        stopping.check()  # who waits there hears nothing
        yield
