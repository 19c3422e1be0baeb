"""What users import."""

from __future__ import annotations

import inspect
import pickle

import pytest

import simet_cache
from simet_cache import errors

PUBLIC = {
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
}
ERRORS = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, errors.SimetCacheError)
}


def test_all_is_exact_and_sorted() -> None:
    assert set(simet_cache.__all__) == PUBLIC
    assert simet_cache.__all__ == sorted(simet_cache.__all__, key=lambda name: (name[0].islower(), name))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_name_can_be_imported(name: str) -> None:
    assert getattr(simet_cache, name).__name__ == name


def test_a_star_import_brings_them_all() -> None:
    names: dict[str, object] = {}
    exec("from simet_cache import *", names)
    assert names.keys() - {"__builtins__"} == PUBLIC


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'simet_cache' has no attribute 'nothing'"):
        simet_cache.nothing  # noqa: B018
    assert not hasattr(simet_cache, "fingerprint_of")


def test_every_error_is_public() -> None:
    assert ERRORS.keys() <= PUBLIC


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    parents: list[str] = []
    drawn = {}
    for line in errors.__doc__.split("::")[1].splitlines():
        name = line.lstrip(" │├└─").split(" ")[0]
        if name in ERRORS:
            depth = (line.index(name) - 4) // 4
            parents[depth:] = [name]
            drawn[name] = parents[depth - 1] if depth else "Exception"
    assert drawn == {name: error.__base__.__name__ for name, error in ERRORS.items()}


@pytest.mark.parametrize(
    "error",
    [errors.ConfigError(["one", "two"]), errors.ImageReadError("a/b.png", "cut short"), errors.StoreError("full")],
    ids=lambda error: type(error).__name__,
)
def test_errors_go_through_pickle(error: Exception) -> None:
    """Between the processes of a pool, and through Prefect."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
