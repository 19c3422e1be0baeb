"""What a DataLoader promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from simet_cache.errors import KeyInputError
from simet_cache.key import feature_key
from simet_cache.loaders import expected_rows, loader_key

TEN = TensorDataset(torch.arange(10.0))


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[float]:
        return iter([1.0, 2.0, 3.0])


class SizedStream(Stream):
    def __len__(self) -> int:
        return 3


class Pairs(Sampler):  # type: ignore[type-arg]
    """A batch sampler of the user's own: how many items it gives is not said anywhere."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0, 1], [2, 3], [4]])


class Some(Sampler):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[int]:
        return iter([4, 2])


class ThreeBatches(BatchSampler):
    """Gives other items than its sampler does."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0], [1], [2]])


def rows_given(loader: DataLoader[Any]) -> int:
    return sum(len(batch[0]) for batch in loader)


@pytest.mark.parametrize(
    ("loader", "rows"),
    [
        (DataLoader(TEN), 10),
        (DataLoader(TEN, batch_size=4), 10),
        (DataLoader(TEN, batch_size=4, drop_last=True), 8),
        (DataLoader(TEN, batch_size=5, drop_last=True), 10),
        (DataLoader(TEN, batch_size=16, drop_last=True), 0),
        (DataLoader(TEN, batch_size=4, shuffle=True), 10),
        (DataLoader(Subset(TEN, [1, 2, 3]), batch_size=2), 3),
        (DataLoader(Subset(TEN, [1, 2, 3]), batch_size=2, drop_last=True), 2),
        (DataLoader(TEN, batch_size=4, sampler=SubsetRandomSampler([1, 2, 3, 4, 5, 6])), 6),
        (DataLoader(TEN, batch_size=4, sampler=SubsetRandomSampler([1, 2, 3, 4, 5, 6]), drop_last=True), 4),
        (DataLoader(TEN, batch_size=4, sampler=[3, 1]), 2),
        (DataLoader(TEN, batch_size=4, sampler=RandomSampler(TEN, replacement=True, num_samples=25)), 25),
        (DataLoader(TEN, batch_size=4, sampler=WeightedRandomSampler([1.0] * 10, 7)), 7),
        (DataLoader(TEN, batch_sampler=BatchSampler(SequentialSampler(TEN), 4, drop_last=True)), 8),
        (DataLoader(TEN, batch_sampler=BatchSampler(SequentialSampler(TEN), 4, drop_last=False)), 10),
    ],
)
def test_expected_rows_are_the_rows_that_come(loader: DataLoader[Any], rows: int) -> None:
    assert expected_rows(loader) == rows == rows_given(loader)


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(TEN, batch_sampler=Pairs()),
        DataLoader(TEN, batch_sampler=[[0, 1], [2]]),
        DataLoader(TEN, batch_sampler=ThreeBatches(SequentialSampler(TEN), 4, drop_last=False)),
        DataLoader(TEN, batch_size=2, sampler=Some()),
        DataLoader(Stream(), batch_size=2),
        DataLoader(SizedStream(), batch_size=2),
        DataLoader(SizedStream(), batch_size=None),
    ],
)
def test_what_only_iterating_would_tell_is_not_guessed(loader: DataLoader[Any]) -> None:
    assert expected_rows(loader) is None


def test_without_batching_an_item_may_be_a_row_or_a_batch() -> None:
    assert expected_rows(DataLoader(TEN, batch_size=None)) is None
    assert expected_rows(DataLoader(TEN, batch_size=None, sampler=BatchSampler(range(10), 4, drop_last=False))) is None


def test_the_key_is_that_of_the_dataset_and_the_batch_size() -> None:
    subset = Subset(TEN, [3, 1])
    assert loader_key(DataLoader(subset, batch_size=4), suffix="x") == feature_key(subset, suffix="x", batch_size=4)
    batches = BatchSampler(SequentialSampler(TEN), 4, drop_last=False)
    for loader in (DataLoader(TEN, batch_sampler=batches), DataLoader(TEN, batch_size=None)):
        assert loader_key(loader, suffix="x") == feature_key(TEN, suffix="x", batch_size=None)


def test_how_a_loader_reads_is_not_in_the_key() -> None:
    loaders = [
        DataLoader(TEN, batch_size=4),
        DataLoader(TEN, batch_size=4, shuffle=True),
        DataLoader(TEN, batch_size=4, drop_last=True),
        DataLoader(TEN, batch_size=4, num_workers=2),
    ]
    assert len({loader_key(loader, suffix="x") for loader in loaders}) == 1


@pytest.mark.parametrize("value", [TEN, [1, 2], None, iter(DataLoader(TEN))])
def test_what_is_no_loader_says_so(value: Any) -> None:
    with pytest.raises(KeyInputError, match=f"expected a torch DataLoader, found {type(value).__name__}"):
        loader_key(value, suffix="x")


def test_a_stream_has_no_key() -> None:
    with pytest.raises(KeyInputError, match="Stream has no length"):
        loader_key(DataLoader(Stream()), suffix="x")
