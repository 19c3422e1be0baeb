"""What a DataLoader promises: its key, what it reads, and how many rows it will give, in which order."""

from __future__ import annotations

import hashlib
from collections.abc import Sized
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

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


def loader_source(loader: DataLoader[Any], *, suffix: str, content: bool = False) -> Source:
    """What the features of a loader would be made from now.

    Args:
        loader: Its dataset, and which of its items it takes in which order.
        suffix: As in the key.
        content: Read the images for the fingerprint, and not only their sizes and times.

    Raises:
        KeyInputError: The loader has no key.
    """
    order = DATASET_ORDER if _in_key_order(loader) else LOADER_ORDER
    source = source_of(loader.dataset, suffix=suffix, batch_size=loader.batch_size, row_order=order, content=content)
    chosen = _chosen(loader)
    return replace(source, dataset={**source.dataset, "chosen": chosen}) if chosen else source


def _chosen(loader: DataLoader[Any]) -> str:
    """Which items a sampler takes, that the key does not say; empty where it takes each of them once."""
    batches = loader.batch_sampler
    sampler = loader.sampler if batches is None else getattr(batches, "sampler", batches)
    if type(sampler) is SequentialSampler or isinstance(sampler, RandomSampler):
        return "at random, with repetitions" if getattr(sampler, "replacement", False) else ""
    indices = getattr(sampler, "indices", sampler)
    if isinstance(indices, (list, tuple, range, np.ndarray, torch.Tensor)):
        items = sorted(str(int(item)) if np.ndim(item) == 0 else str(item) for item in indices)
        if items == sorted(map(str, range(len(loader.dataset)))):  # type: ignore[arg-type]  # it has a length: it has a key
            return ""
        return f"items {hashlib.sha256(repr(items).encode()).hexdigest()[:16]}"
    if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
        return f"part {sampler.rank} of {sampler.num_replicas}"
    return "" if isinstance(sampler, DistributedSampler) else f"by {type(sampler).__name__}"


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
