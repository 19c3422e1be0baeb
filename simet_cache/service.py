"""FeatureCacheService: the API of the public package ``simet``, over our store."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from simet_cache.codec import FloatArray
from simet_cache.errors import DamagedEntryError, MissingEntryError
from simet_cache.loaders import expected_rows, loader_key, loader_source
from simet_cache.sources import read_unchanged
from simet_cache.store import FeatureStore

log = logging.getLogger(__name__)


class FeatureCacheService:
    """Features of a loader, from the cache where they are there.

    Args:
        cache_dir: The folder of ``<md5>.pkl`` files; created when missing. Caches of ``simet`` serve as they are.

    Raises:
        StoreError: The folder cannot be created.
    """

    def __init__(self, cache_dir: str | Path = Path("cache/features")) -> None:
        self._store = FeatureStore(cache_dir)

    @property
    def cache_dir(self) -> Path:
        """The folder, absolute."""
        return self._store.cache_dir

    def get_or_compute(
        self,
        loader: DataLoader[Any],
        compute_fn: Callable[[DataLoader[Any]], FloatArray],
        cache_key_suffix: str = "",
        force_recompute: bool = False,
    ) -> FloatArray:
        """The features of what a loader reads: from the cache, or from ``compute_fn`` and then cached.

        Args:
            loader: Its dataset and batch size make the key.
            compute_fn: Given the loader, returns its features, shape (N, D), float16, float32 or float64.
            cache_key_suffix: Names the extractor.
            force_recompute: Compute and overwrite.

        Returns:
            Shape (N, D). An ordinary array: writing to it does not touch the cache.

        Raises:
            KeyInputError: The loader has no key.
            DatasetError: Images changed while they were read. Nothing is cached.
            FeaturesError: ``compute_fn`` returned something else, or other rows than the loader gives. Nothing is
                cached, and an older entry is untouched; so it is where ``compute_fn`` fails.
            UnsafePickleError: The file of this key would run code.
            StoreError: The file of this key cannot be read. Where the features cannot be written, they are returned
                all the same, and an error in the log says why.
        """
        key = loader_key(loader, suffix=cache_key_suffix)
        source = loader_source(loader, suffix=cache_key_suffix)
        log.debug("Cache file: %s", self._store.path(key).resolve())
        computed: list[FloatArray] = []

        def compute() -> FloatArray:
            computed[:] = [read_unchanged(loader.dataset, source, lambda: compute_fn(loader))]
            return computed[0]

        for force in (force_recompute, False):
            found = self._store.get_or_compute(
                key,
                compute,
                rows=expected_rows(loader),
                force=force,
                source=source,
            )
            if computed:  # as it would be read: in C order and the machine's own byte order
                return np.array(computed[0], dtype=computed[0].dtype.newbyteorder("="), order="C")
            try:
                return found.load(copy=True)
            except DamagedEntryError:  # only reading the payload shows a flipped bit
                self._store.quarantine_if_damaged(key)
            except MissingEntryError:  # another process has just moved or removed it
                continue
        raise DamagedEntryError(f"{self._store.path(key)} was damaged or gone twice in a row; check the disk")
