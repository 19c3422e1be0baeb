"""simet-cache: features of image sets, extracted once, for evaluating generative models.

The names below are the public interface. They are imported on first use, so that the store can be had without torch
and the key without Prefect.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simet_cache.config import EvaluationConfig
    from simet_cache.config_file import load_config
    from simet_cache.errors import (
        BitDepthError,
        ConfigError,
        DamagedEntryError,
        DamagedShardError,
        DatasetError,
        ExtractorError,
        FeaturesError,
        ImageReadError,
        InfrastructureError,
        KeyInputError,
        MetricError,
        MissingEntryError,
        RemoteError,
        SimetCacheError,
        StaleEntryError,
        StoppedError,
        StoreError,
        UnsafePickleError,
        WeightsError,
        WorkersError,
    )
    from simet_cache.feature_tasks import feature_task
    from simet_cache.featureset import FeatureSet
    from simet_cache.key import feature_key
    from simet_cache.policy import FeatureCachePolicy, current_request, refresh_requested
    from simet_cache.request import FeatureRequest
    from simet_cache.service import FeatureCacheService
    from simet_cache.store import FeatureStore

__all__ = [
    "BitDepthError",
    "ConfigError",
    "DamagedEntryError",
    "DamagedShardError",
    "DatasetError",
    "EvaluationConfig",
    "ExtractorError",
    "FeatureCachePolicy",
    "FeatureCacheService",
    "FeatureRequest",
    "FeatureSet",
    "FeatureStore",
    "FeaturesError",
    "ImageReadError",
    "InfrastructureError",
    "KeyInputError",
    "MetricError",
    "MissingEntryError",
    "RemoteError",
    "SimetCacheError",
    "StaleEntryError",
    "StoppedError",
    "StoreError",
    "UnsafePickleError",
    "WeightsError",
    "WorkersError",
    "current_request",
    "feature_key",
    "feature_task",
    "load_config",
    "refresh_requested",
]

_MODULES = {
    "EvaluationConfig": "config",
    "FeatureCachePolicy": "policy",
    "FeatureCacheService": "service",
    "FeatureRequest": "request",
    "FeatureSet": "featureset",
    "FeatureStore": "store",
    "current_request": "policy",
    "feature_key": "key",
    "feature_task": "feature_tasks",
    "load_config": "config_file",
    "refresh_requested": "policy",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
