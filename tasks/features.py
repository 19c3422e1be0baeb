"""Extraction as a Prefect task under the documented key."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from prefect import get_run_logger, task
from prefect.utilities.annotations import NotSet

from simet_cache.config import EvaluationConfig, ExtractorConfig
from simet_cache.errors import SimetCacheError
from simet_cache.extraction import extract_to_store
from simet_cache.extractors import make_extractor
from simet_cache.featureset import FeatureSet
from simet_cache.manifest import Source
from simet_cache.plan import Planned, labels_for, plan
from simet_cache.policy import FeatureCachePolicy, refresh_requested
from simet_cache.report.results import DatasetResult
from simet_cache.store import FeatureStore
from tasks.states import error_of


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
) -> FeatureSet:
    """Extract the features of a dataset into the store; see ``extract_to_store``.

    It has no cache policy of its own, since that depends on the store; ``features_of`` gives it one.
    """
    return extract_to_store(
        store,
        dataset,
        config=extractor.model_copy(update={"batch_size": batch_size}),  # the one that is in the key
        suffix=suffix,
        source=source,
        on_bad_image=on_bad_image,
        force=refresh_requested(),
        name=name,
    )


def features_of(
    one: Any, config: EvaluationConfig, store: FeatureStore, done: dict[str, DatasetResult]
) -> DatasetResult:
    """The features of one configured dataset: opened, its key taken, and extracted in a task unless they are there.

    Args:
        one: The dataset's configuration.
        config: The evaluation that it is part of.
        store: The cache.
        done: What became of this run's feature sets, by key, so that equal ones are extracted once; it grows.

    Returns:
        A result without values; with an error where there are no features.
    """
    try:
        planned = plan(one, config, store)
    except SimetCacheError as error:
        get_run_logger().error("%s: %s", one.name, error)
        return DatasetResult(one.name, make_extractor(config.extractor).suffix, error=str(error))
    if planned.key not in done:
        done[planned.key] = _extracted(one, planned, config, store)
    found = replace(done[planned.key], name=one.name)
    if found.features is None or not config.needs_labels:
        return found
    try:
        return replace(found, labels=labels_for(found.features, one, config, store))
    except SimetCacheError as error:
        get_run_logger().error("%s: %s", one.name, error)
        return replace(found, error=str(error))


def _extracted(one: Any, planned: Planned, config: EvaluationConfig, store: FeatureStore) -> DatasetResult:
    state = extract_features.with_options(
        cache_policy=FeatureCachePolicy(store),
        refresh_cache=True if config.force_recompute else NotSet,
    )(
        planned.dataset,
        config.extractor.batch_size,
        planned.suffix,
        source=planned.source,
        name=one.name,
        extractor=config.extractor,
        store=store,
        on_bad_image=config.on_bad_image,
        return_state=True,
    )
    if not state.is_completed():
        return DatasetResult(one.name, planned.suffix, error=error_of(state))
    features: FeatureSet = state.result()
    manifest = {} if features.unsaved is not None else store.manifest(features.key)  # else it is about older ones
    return DatasetResult(
        one.name,
        planned.suffix,
        features=features,
        cached=state.name == "Cached",
        extraction_seconds=manifest.get("seconds"),
        images_per_second=manifest.get("images_per_second"),
        device=(manifest.get("extractor") or {}).get("device"),
        skipped=tuple(manifest.get("skipped") or [asdict(image) for image in planned.skipped]),
    )
