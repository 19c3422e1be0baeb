"""What a DataLoader promises: its key, and how many rows it will give."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from torch.utils.data import BatchSampler, DataLoader

from simet_cache.errors import KeyInputError
from simet_cache.key import feature_key


def loader_key(loader: DataLoader[Any], *, suffix: str) -> str:
    """The documented key of what a loader reads.

    Raises:
        KeyInputError: This is no DataLoader, or its dataset has no key.
    """
    if not isinstance(loader, DataLoader):
        raise KeyInputError(f"expected a torch DataLoader, found {type(loader).__name__}")
    return feature_key(loader.dataset, suffix=suffix, batch_size=loader.batch_size)


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
