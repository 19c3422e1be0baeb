"""Images that changed behind an unchanged key are noticed, and two datasets with one key are told apart."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from prefect import task
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from simet_cache import FeatureCachePolicy, FeatureCacheService, FeatureStore, feature_key, feature_task
from simet_cache.datasets.folder import FolderDataset
from simet_cache.errors import StaleEntryError
from simet_cache.loaders import loader_source
from simet_cache.manifest import Source, stale_because
from simet_cache.sources import part_of, source_of

KEY = "0123456789abcdef0123456789abcdef"
FEATURES = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture
def folder(images: Callable[..., Path]) -> Path:
    return images("images", 3)


def change(folder: Path, name: str = "0001.png") -> None:
    Image.new("RGB", (40, 40), "red").save(folder / name)


def mean(loader: DataLoader[Any]) -> np.ndarray:
    """A feature for each image: its mean, twice."""
    rows = [torch.as_tensor(batch[0] if isinstance(batch, (list, tuple)) else batch).float() for batch in loader]
    return torch.cat([torch.atleast_2d(row).flatten(1).mean(1, keepdim=True).repeat(1, 2) for row in rows]).numpy()


def of_folder(folder: Path) -> DataLoader[Any]:
    return DataLoader(FolderDataset(folder, transform=pil_to_tensor), batch_size=2)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# The service


def test_images_that_changed_are_extracted_again(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = FeatureCacheService(tmp_path / "cache")
    before = service.get_or_compute(of_folder(folder), mean)
    change(folder)
    after = service.get_or_compute(of_folder(folder), mean)
    assert not np.array_equal(before, after)
    assert np.array_equal(after, mean(of_folder(folder)))
    (warning,) = warnings(caplog)
    assert "are stale: the images have changed since (0001.png changed); they are made again. If these are" in warning
    caplog.clear()
    assert np.array_equal(service.get_or_compute(of_folder(folder), lambda _: pytest.fail("a hit")), after)
    assert warnings(caplog) == []


def test_two_datasets_in_memory_with_one_key_are_told_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    service = FeatureCacheService(tmp_path)
    sets = [DataLoader(TensorDataset(torch.full((4, 3), float(value))), batch_size=2) for value in (1, 2)]
    for _ in range(2):
        for value, loader in zip((1, 2), sets, strict=True):
            assert (service.get_or_compute(loader, mean) == value).all()
    advice = "give each a suffix of its own, or they replace each other every time"
    assert len(warnings(caplog)) == 3
    assert all(advice in one for one in warnings(caplog))
    caplog.clear()
    for _ in range(2):
        for value, loader in zip((1, 2), sets, strict=True):
            assert (service.get_or_compute(loader, mean, f"set {value}") == value).all()
    assert warnings(caplog) == []
    assert len(FeatureStore(tmp_path).keys()) == 3


def test_one_folder_through_two_classes_is_one_dataset(tmp_path: Path, images: Callable[..., Path]) -> None:
    images("root/class", 3)
    service = FeatureCacheService(tmp_path / "cache")
    ours = service.get_or_compute(of_folder(tmp_path / "root"), mean)
    torchvisions = DataLoader(ImageFolder(str(tmp_path / "root"), transform=pil_to_tensor), batch_size=2)
    assert np.array_equal(service.get_or_compute(torchvisions, lambda _: pytest.fail("a hit")), ours)


def test_where_nothing_is_known_of_the_data_the_class_still_tells(tmp_path: Path) -> None:
    class One(TensorDataset):
        root = str(tmp_path)

        def __init__(self, value: float) -> None:
            self.items = [torch.full((2,), value)] * 3

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            return self.items[index]

    class Other(One):
        pass

    service = FeatureCacheService(tmp_path / "cache")
    assert (service.get_or_compute(DataLoader(One(1)), mean) == 1).all()
    assert (service.get_or_compute(DataLoader(Other(2)), mean) == 2).all()
    assert (service.get_or_compute(DataLoader(Other(3)), mean) == 2).all()  # unknown, as the documentation says


# The store


def fingerprinted(folder: Path, **options: Any) -> Source:
    return source_of(FolderDataset(folder), suffix="x", batch_size=2, **options)


@pytest.mark.parametrize("on_stale", ["recompute", "error", "reuse"])
def test_what_happens_is_for_the_store_to_say(
    tmp_path: Path, folder: Path, on_stale: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = FeatureStore(tmp_path / "cache", on_stale=on_stale)
    put = store.put(KEY, FEATURES, source=fingerprinted(folder))
    assert store.find(KEY, source=fingerprinted(folder)) == put
    change(folder)
    assert store.look(KEY, source=fingerprinted(folder)).status == "stale"
    if on_stale == "error":
        with pytest.raises(StaleEntryError, match=r"0001\.png changed"):
            store.find(KEY, source=fingerprinted(folder))
    else:
        assert store.find(KEY, source=fingerprinted(folder)) == (put if on_stale == "reuse" else None)
        assert store.find(KEY, source=fingerprinted(folder)) == (put if on_stale == "reuse" else None)
        assert len(warnings(caplog)) == 1  # once, however often one run asks
    assert store.find(KEY) == put  # nothing is removed before there is something better


def test_a_touched_file_is_a_change_by_time_and_none_by_content(tmp_path: Path, folder: Path) -> None:
    store = FeatureStore(tmp_path / "cache")
    store.put(KEY, FEATURES, source=fingerprinted(folder, content=True))
    os.utime(folder / "0000.png")
    assert store.look(KEY, source=fingerprinted(folder, content=True)).status == "hit"
    seen = store.look(KEY, source=fingerprinted(folder))
    assert (seen.status, "0000.png touched" in seen.reason) == ("stale", True)


def test_a_change_that_keeps_size_and_time_is_seen_by_content_alone(tmp_path: Path, folder: Path) -> None:
    store = FeatureStore(tmp_path / "cache")
    store.put(KEY, FEATURES, source=fingerprinted(folder, content=True))
    status, path = (folder / "0000.png").stat(), folder / "0000.png"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert store.look(KEY, source=fingerprinted(folder)).status == "hit"
    assert store.look(KEY, source=fingerprinted(folder, content=True)).status == "stale"


@pytest.mark.parametrize("name", ["name", "weights", "precision", "version"])
def test_another_extractor_under_one_suffix_is_stale(tmp_path: Path, folder: Path, name: str) -> None:
    extractor = {"name": "net", "weights": "sha256:1", "precision": "float32", "version": 1, "preprocessing": "a"}
    source = fingerprinted(folder, extractor=extractor)
    store = FeatureStore(tmp_path / "cache")
    store.put(KEY, FEATURES, source=source)
    assert store.look(KEY, source=replace(source, extractor={**extractor, "preprocessing": "b"})).status == "hit"
    assert store.look(KEY, source=replace(source, extractor={})).status == "hit"
    seen = store.look(KEY, source=replace(source, extractor={**extractor, name: "other"}))
    assert seen.status == "stale"
    assert f"were made with an extractor of {name} {extractor[name]!r}, and this is 'other'" in seen.reason


def test_an_adopted_entry_is_stale_to_nobody(tmp_path: Path, folder: Path) -> None:
    store = FeatureStore(tmp_path / "cache")
    store.path(KEY).write_bytes(pickle.dumps(FEATURES))
    found = store.find(KEY, source=fingerprinted(folder))
    assert found is not None
    assert found.row_order == "unknown"
    assert store.manifest(KEY)["adopted"] is True
    assert store.manifest(KEY)["dataset"] == {"fingerprint": "unknown"}


@pytest.mark.parametrize("dataset", [None, 3, [], {"fingerprint": 1, "class": 2}, {"fingerprint": {"version": 1}}])
@pytest.mark.parametrize("extractor", [None, 3, [], {"name": ["a"]}])
def test_a_manifest_that_knows_little_is_no_reason(folder: Path, dataset: Any, extractor: Any) -> None:
    entry = {"dataset": dataset, "extractor": extractor}
    source = replace(fingerprinted(folder), dataset={})
    assert stale_because(entry, source, folder / "none") == ""


def test_a_lost_list_of_files_costs_only_their_names(tmp_path: Path, folder: Path) -> None:
    store = FeatureStore(tmp_path / "cache")
    store.put(KEY, FEATURES, source=fingerprinted(folder))
    store.path(KEY).with_suffix(".files").unlink()
    change(folder)
    seen = store.look(KEY, source=fingerprinted(folder))
    assert (seen.status, seen.reason.endswith("they were made from other images")) == ("stale", True)


# Sources


def test_a_part_has_the_fingerprint_it_had_when_the_whole_was_seen(folder: Path) -> None:
    dataset = FolderDataset(folder)
    whole = source_of(dataset, suffix="x", batch_size=2, name="n", content=True)
    expected = source_of(Subset(dataset, [0, 2]), suffix="x", batch_size=2, name="n", content=True)
    part, source = part_of(dataset, whole, [0, 2])
    assert source == expected
    assert source.fingerprint.listing == expected.fingerprint.listing
    change(folder, "0002.png")
    assert part_of(dataset, whole, [0, 2])[1] == expected
    assert list(part.indices) == [0, 2]


def test_data_in_memory_stay_whole() -> None:
    dataset = TensorDataset(torch.ones(4, 2))
    whole = source_of(dataset, suffix="x", batch_size=2)
    assert part_of(dataset, whole, [0, 2])[1].fingerprint == whole.fingerprint
    assert whole.fingerprint.known


def test_a_source_says_what_there_is_to_say(folder: Path) -> None:
    said = fingerprinted(folder, name="real", extractor={"name": "net"}).to_manifest()
    assert said["components"] == {
        "dataset": str(folder),
        "subset": None,
        "suffix": "x",
        "length": 3,
        "batch_size": 2,
    }
    assert {name: said["dataset"][name] for name in ("name", "class", "root")} == {
        "name": "real",
        "class": "FolderDataset",
        "root": str(folder),
    }
    assert json.loads(json.dumps(said)) == said


# Row order


def orders() -> dict[str, tuple[Any, str]]:
    ten = TensorDataset(torch.arange(10.0).reshape(5, 2))
    own = [[1, 0], [2, 3, 4]]
    return {
        "plain": (DataLoader(ten, batch_size=2), "dataset"),
        "drop_last": (DataLoader(ten, batch_size=2, drop_last=True), "dataset"),
        "unbatched": (DataLoader(ten, batch_size=None), "dataset"),
        "shuffled": (DataLoader(ten, batch_size=2, shuffle=True), "loader"),
        "own sampler": (DataLoader(ten, batch_size=2, sampler=[3, 1, 0, 2, 4]), "loader"),
        "own batches": (DataLoader(ten, batch_sampler=own), "loader"),
        "ascending subset": (DataLoader(Subset(ten, [0, 2]), batch_size=2), "dataset"),
        "subset in another order": (DataLoader(Subset(ten, [2, 0]), batch_size=2), "loader"),
        "subset that ends up ascending": (DataLoader(Subset(Subset(ten, [3, 1]), [1, 0]), batch_size=2), "dataset"),
    }


@pytest.mark.parametrize("kind", orders())
def test_the_order_of_a_loader_is_recorded(tmp_path: Path, kind: str) -> None:
    loader, order = orders()[kind]
    assert loader_source(loader, suffix="").row_order == order
    FeatureCacheService(tmp_path).get_or_compute(loader, mean)
    store = FeatureStore(tmp_path)
    (key,) = store.keys()
    found = store.find(key)
    assert found is not None
    assert found.row_order == order
    if order == "dataset":
        found.require_dataset_order()
    else:
        sentence = "has its rows in loader order, and labels need that of the dataset. Extract the features again"
        with pytest.raises(Exception, match=sentence):
            found.require_dataset_order()


# Samplers


def choosing(dataset: Any) -> dict[str, DataLoader[Any]]:
    return {
        "the first": DataLoader(dataset, batch_size=2, sampler=SubsetRandomSampler(range(3))),
        "the last": DataLoader(dataset, batch_size=2, sampler=SubsetRandomSampler(range(3, 6))),
        "a list": DataLoader(dataset, batch_size=2, sampler=[0, 2, 4]),
        "batches": DataLoader(dataset, batch_sampler=[[0, 1], [5]]),
        "rank 0": DataLoader(dataset, batch_size=2, sampler=DistributedSampler(dataset, 2, 0, shuffle=False)),
        "rank 1": DataLoader(dataset, batch_size=2, sampler=DistributedSampler(dataset, 2, 1, shuffle=False)),
    }


def test_samplers_that_choose_other_items_are_told_apart(tmp_path: Path) -> None:
    dataset = TensorDataset(torch.arange(12.0).reshape(6, 2))
    loaders = choosing(dataset)
    chosen = {loader_source(loader, suffix="").dataset["chosen"] for loader in loaders.values()}
    assert len(chosen) == len(loaders)
    service = FeatureCacheService(tmp_path)
    for loader in loaders.values():
        found = service.get_or_compute(loader, mean)
        assert sorted(found[:, 0]) == sorted(mean(loader)[:, 0])


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"sampler": [3, 1, 0, 2, 4, 5]}, {"sampler": range(6)}])
def test_whoever_takes_each_item_once_is_the_same(options: Any) -> None:
    loader = DataLoader(TensorDataset(torch.arange(12.0).reshape(6, 2)), batch_size=2, **options)
    assert "chosen" not in loader_source(loader, suffix="").dataset


def test_repetitions_are_no_whole(tmp_path: Path) -> None:
    dataset = TensorDataset(torch.arange(12.0).reshape(6, 2))
    drawn = DataLoader(dataset, sampler=RandomSampler(dataset, replacement=True), batch_size=2)
    weighted = DataLoader(dataset, sampler=WeightedRandomSampler([1.0] * 6, 6), batch_size=2)
    assert [loader_source(one, suffix="").dataset["chosen"] for one in (drawn, weighted)] == [
        "at random, with repetitions",
        "by WeightedRandomSampler",
    ]


def test_where_nobody_can_tell_a_hit_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Table:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            return torch.ones(2) * range(3)[index]

    for _ in range(3):
        FeatureCacheService(tmp_path).get_or_compute(DataLoader(Table()), mean)  # type: ignore[arg-type]
    (warning,) = warnings(caplog)
    assert "was made from this Table or from another one of equal length; give it a root" in warning


# Tasks


@pytest.mark.usefixtures("prefect_server")
class TestTasks:
    def test_a_task_is_not_cached_when_its_images_changed(self, tmp_path: Path, folder: Path) -> None:
        extract = feature_task(cache_dir=tmp_path / "cache")(mean)
        states = [extract(of_folder(folder), return_state=True).name for _ in range(2)]
        change(folder)
        states += [extract(of_folder(folder), return_state=True).name for _ in range(2)]
        assert states == ["Completed", "Cached", "Completed", "Cached"]

    def test_a_store_that_reuses_says_so_to_the_task_too(self, tmp_path: Path, folder: Path) -> None:
        extract = feature_task(cache_dir=FeatureStore(tmp_path / "cache", on_stale="reuse"))(mean)
        extract(of_folder(folder))
        change(folder)
        assert extract(of_folder(folder), return_state=True).name == "Cached"

    def test_a_store_that_refuses_fails_the_task(self, tmp_path: Path, folder: Path) -> None:
        extract = feature_task(cache_dir=FeatureStore(tmp_path / "cache", on_stale="error"))(mean)
        extract(of_folder(folder))
        change(folder)
        state = extract(of_folder(folder), return_state=True)
        assert state.name == "Failed"
        assert isinstance(state.result(raise_on_failure=False), StaleEntryError)

    def test_a_task_of_ones_own_that_only_puts_is_described_by_the_policy(self, tmp_path: Path, folder: Path) -> None:
        store = FeatureStore(tmp_path / "cache")

        @task(cache_policy=FeatureCachePolicy(store), persist_result=True)
        def extract(loader: DataLoader[Any], suffix: str) -> Any:
            key = feature_key(loader.dataset, suffix=suffix, batch_size=loader.batch_size)
            return store.put(key, mean(loader), seconds=1)

        states = [extract(of_folder(folder), "x", return_state=True) for _ in range(2)]
        manifest = store.manifest(states[0].result().key)
        assert manifest["components"]["suffix"] == "x"
        assert (manifest["features"]["row_order"], manifest["seconds"]) == ("dataset", 1)
        change(folder)
        states.append(extract(of_folder(folder), "x", return_state=True))
        assert [state.name for state in states] == ["Completed", "Cached", "Completed"]

    def test_a_store_that_reads_the_images_takes_a_touch_for_no_change(self, tmp_path: Path, folder: Path) -> None:
        extract = feature_task(cache_dir=FeatureStore(tmp_path / "cache", fingerprint="content"))(mean)
        extract(of_folder(folder))
        os.utime(folder / "0000.png")
        assert extract(of_folder(folder), return_state=True).name == "Cached"
        change(folder)
        assert extract(of_folder(folder), return_state=True).name == "Completed"

    def test_what_another_run_has_put_meanwhile_is_not_described_by_this_one(
        self, tmp_path: Path, folder: Path
    ) -> None:
        store = FeatureStore(tmp_path / "cache")

        @task(cache_policy=FeatureCachePolicy(store), persist_result=True)
        def extract(loader: DataLoader[Any], suffix: str) -> Any:
            key = feature_key(loader.dataset, suffix=suffix, batch_size=loader.batch_size)
            mine = store.put(key, mean(loader))
            store.put(key, mean(loader) + 1)  # by another process, of older images
            return mine

        key = extract(of_folder(folder), "x").key
        assert not store.manifest(key)["components"]

    def test_a_function_called_inside_of_another_task_has_a_key_of_its_own(self, tmp_path: Path) -> None:
        ones, twos = (DataLoader(TensorDataset(torch.full((n, 2), float(n))), batch_size=2) for n in (1, 2))
        inner = feature_task(cache_dir=tmp_path, suffix="inner")(mean)

        @feature_task(cache_dir=tmp_path, suffix="outer")
        def outer(loader: DataLoader[Any]) -> np.ndarray:
            return inner.fn(twos).load()[:1]

        assert outer(ones).load().tolist() == [[2.0, 2.0]]
        assert inner(twos, return_state=True).result().load().tolist() == [[2.0, 2.0]] * 2
        assert inner(ones).load().tolist() == [[1.0, 1.0]]

    def test_a_suffix_with_an_objects_own_text_is_refused(self, tmp_path: Path) -> None:
        @feature_task(cache_dir=tmp_path, suffix="clip_{model}")
        def clip(loader: DataLoader[Any], model: Any) -> np.ndarray:
            return mean(loader)

        loader = DataLoader(TensorDataset(torch.ones(2, 2)))
        state = clip(loader, object(), return_state=True)
        assert "of type object, whose text says nothing about the features" in str(state.result(raise_on_failure=False))

    def test_a_fingerprint_is_taken_once_for_each_run_of_a_task(
        self, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from simet_cache import sources

        taken: list[Any] = []
        real = sources.fingerprint

        def counted(dataset: Any, **options: Any) -> Any:
            taken.append(dataset)
            return real(dataset, **options)

        monkeypatch.setattr(sources, "fingerprint", counted)
        extract = feature_task(cache_dir=tmp_path / "cache")(mean)
        extract(of_folder(folder))
        assert len(taken) == 2  # and after the images were read: they may have changed
        extract(of_folder(folder))
        assert len(taken) == 3
