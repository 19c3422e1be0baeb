"""What a DataLoader promises: its key, what it reads, and how many rows it will give, in which order."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from simet_cache.errors import KeyInputError
from simet_cache.key import feature_key, resolve_subset
from simet_cache.manifest import DATASET_ORDER, LOADER_ORDER, Source
from simet_cache.sources import source_of


def loader_key(loader: DataLoader[Any], *, suffix: str) -> str:
    """The documented key of what a loader reads.

    Raises:
        KeyInputError: This is no DataLoader, or its dataset has no key.
    """
    if not isinstance(loader, DataLoader):
        raise KeyInputError(f"expected a torch DataLoader, found {type(loader).__name__}")
    return feature_key(loader.dataset, suffix=suffix, batch_size=loader.batch_size)


def loader_source(loader: DataLoader[Any], *, suffix: str) -> Source:
    """What the features of a loader would be made from now.

    Raises:
        KeyInputError: The loader has no key.
    """
    order = DATASET_ORDER if _in_key_order(loader) else LOADER_ORDER
    return source_of(loader.dataset, suffix=suffix, batch_size=loader.batch_size, row_order=order)


def _in_key_order(loader: DataLoader[Any]) -> bool:
    """Whether the rows come in the dataset's own order, which for a Subset is that of ascending indices."""
    batches = loader.batch_sampler
    sampler = loader.sampler if batches is None else getattr(batches, "sampler", None)
    ours = batches is None or type(batches) is BatchSampler
    _, indices = resolve_subset(loader.dataset)
    return ours and type(sampler) is SequentialSampler and (indices is None or indices == sorted(indices))


def expected_rows(loader: DataLoader[Any]) -> int | None:
    """How many items a loader gives in one pass, ``drop_last`` considered.

    Returns:
        None where it cannot be known without iterating: without automatic batching, where an item may be a batch or a
        single row, and with a batch sampler of the user's own or a sampler without a length.
    """
    batches = loader.batch_sampler
    if type(batches) is not BatchSampler:
        return None
    rows = len(batches.sampler) if isinstance(batches.sampler, Sized) else None
    if rows is None or not batches.drop_last:
        return rows
    return rows - rows % batches.batch_size
