"""Extraction as a Prefect task under the documented key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.utilities.annotations import NotSet

from simet_cache.config import EvaluationConfig, ExtractorConfig
from simet_cache.datasets import open_dataset
from simet_cache.errors import DatasetError, SimetCacheError
from simet_cache.extraction import extract_to_store
from simet_cache.extractors import make_extractor
from simet_cache.key import feature_key, resolve_subset
from simet_cache.policy import FeatureCachePolicy, refresh_requested
from simet_cache.report.results import DatasetResult
from simet_cache.skipped import SkippedImage, without_skipped
from simet_cache.store import FeatureSet, FeatureStore
from tasks.states import error_of


@task(task_run_name="extract {name}")
def extract_features(
    dataset: Any,
    batch_size: int,
    suffix: str,
    *,
    name: str,
    extractor: ExtractorConfig,
    cache_dir: Path,
    on_bad_image: str = "stop",
) -> FeatureSet:
    """Extract the features of a dataset into the store; see ``extract_to_store``.

    It has no cache policy of its own, since that depends on the folder; ``features_of`` gives it one.
    """
    return extract_to_store(
        FeatureStore(cache_dir),
        dataset,
        config=extractor.model_copy(update={"batch_size": batch_size}),  # the one that is in the key
        suffix=suffix,
        on_bad_image=on_bad_image,
        force=refresh_requested(),
        name=name,
    )


def features_of(one: Any, config: EvaluationConfig, done: dict[str, DatasetResult]) -> DatasetResult:
    """The features of one configured dataset: opened, its key taken, and extracted in a task unless they are there.

    Args:
        one: The dataset's configuration.
        config: The evaluation that it is part of.
        done: What became of this run's feature sets, by key, so that equal ones are extracted once; it grows.

    Returns:
        A result without values; with an error where there are no features.
    """
    store, extractor = FeatureStore(config.cache_dir), make_extractor(config.extractor)
    batch_size = config.extractor.batch_size
    try:
        opened = open_dataset(one, transform=extractor.transform, home=config.cache_dir.parent / "datasets")
        suffix = extractor.suffix + opened.suffix
        key = feature_key(opened.dataset, suffix=suffix, batch_size=batch_size)
        dataset = opened.dataset
        skipped: list[SkippedImage] = []
        if config.on_bad_image == "skip" and not config.force_recompute:
            dataset, skipped = without_skipped(store, key, dataset)
        if key in done or not config.force_recompute:
            _check_made_from(dataset, store.manifest(key))
    except SimetCacheError as error:
        get_run_logger().error("%s: %s", one.name, error)
        return DatasetResult(one.name, extractor.suffix, error=str(error))
    if key in done:
        return replace(done[key], name=one.name)
    state = extract_features.with_options(
        cache_policy=FeatureCachePolicy(config.cache_dir),
        refresh_cache=True if config.force_recompute else NotSet,
    )(
        dataset,
        batch_size,
        suffix,
        name=one.name,
        extractor=config.extractor,
        cache_dir=config.cache_dir,
        on_bad_image=config.on_bad_image,
        return_state=True,
    )
    if not state.is_completed():
        done[key] = DatasetResult(one.name, suffix, error=error_of(state))
        return done[key]
    features: FeatureSet = state.result()
    manifest = store.manifest(features.key)
    done[key] = DatasetResult(
        one.name,
        suffix,
        features=features,
        cached=state.name == "Cached",
        extraction_seconds=manifest.get("seconds"),
        images_per_second=manifest.get("images_per_second"),
        device=manifest.get("device"),
        skipped=tuple(manifest.get("skipped") or [asdict(image) for image in skipped]),
    )
    return done[key]


def _check_made_from(dataset: Any, manifest: Mapping[str, Any]) -> None:
    """The key knows a dataset's root and length, not its class: MNIST and FashionMNIST under one root share it.

    Raises:
        DatasetError: The features under this key were made from another dataset.
    """
    made_from = manifest.get("dataset") or {}
    kind = type(resolve_subset(dataset)[0]).__name__
    if made_from.get("class", kind) != kind:
        raise DatasetError(
            f"the features under its key were made from {made_from['class']}, and this is {kind}: datasets with the"
            f" same root ({made_from.get('root')}) and length share a key. Give each a root of its own, or overwrite"
            " them with force_recompute: true"
        )
