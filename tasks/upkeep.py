"""Looking after the cache as Prefect tasks."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from simet_cache import prune, upkeep
from simet_cache.store import FeatureStore


@task(task_run_name="verify", cache_policy=NO_CACHE, persist_result=False)
def verify_cache(cache_dir: Path, *, full: bool) -> upkeep.Verified:
    """Check every entry, and repair what can be repaired."""
    return upkeep.verify(FeatureStore(cache_dir), full=full, repair=True)


@task(task_run_name="prune", cache_policy=NO_CACHE, persist_result=False)
def prune_cache(cache_dir: Path, limits: prune.Limits) -> prune.Pruning:
    """Remove what was used least recently until the limits hold."""
    return prune.prune(FeatureStore(cache_dir), limits)
