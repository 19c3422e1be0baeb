"""Users' own tasks get the features that their policy has asked for: not stale ones, nor others', nor none of it."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prefect import flow, task
from prefect.settings import PREFECT_TASKS_DISABLE_CACHING, temporary_settings
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.functional import to_tensor

from simet_cache import (
    FeatureCachePolicy,
    FeatureCacheService,
    FeatureSet,
    FeatureStore,
    current_request,
    feature_key,
    feature_task,
)
from simet_cache.datasets import FolderDataset
from simet_cache.errors import DatasetError, FeaturesError, KeyInputError

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def folder(images: Any) -> Path:
    return images("images", 10, side=8)


def batches(folder: Path, **options: Any) -> DataLoader:
    return DataLoader(FolderDataset(folder, transform=to_tensor), batch_size=4, **options)


def means(loader: DataLoader) -> np.ndarray:
    return torch.cat([batch.flatten(1) for batch in loader]).numpy()


def repaint(folder: Path, images: Any) -> None:
    """Replace the images, and neither their number nor their names."""
    fresh = images("fresh", 10, seed=1, side=8)
    for file in fresh.iterdir():
        os.replace(file, folder / file.name)


def by_request(store: FeatureStore, loader: DataLoader, suffix: str) -> FeatureSet:
    return current_request().get_or_compute(lambda: means(loader))


def by_bare_call(store: FeatureStore, loader: DataLoader, suffix: str) -> FeatureSet:
    key = feature_key(loader.dataset, suffix=suffix, batch_size=loader.batch_size)
    return store.get_or_compute(key, lambda: means(loader))


def by_find_and_put(store: FeatureStore, loader: DataLoader, suffix: str) -> FeatureSet:
    key = feature_key(loader.dataset, suffix=suffix, batch_size=loader.batch_size)
    return store.find(key) or store.put(key, means(loader))


def by_service(store: FeatureStore, loader: DataLoader, suffix: str) -> FeatureSet:
    FeatureCacheService(store.cache_dir).get_or_compute(loader, means, suffix)
    found = store.find(feature_key(loader.dataset, suffix=suffix, batch_size=loader.batch_size))
    assert found is not None
    return found


WAYS = [by_request, by_bare_call, by_find_and_put, by_service]


def task_of(way: Any, cache_dir: Path) -> Any:
    store = FeatureStore(cache_dir)

    @task(cache_policy=FeatureCachePolicy(store))
    def own(loader: DataLoader, suffix: str) -> FeatureSet:
        return way(store, loader, suffix)

    return own


@pytest.mark.parametrize("way", WAYS)
def test_images_that_changed_are_extracted_again(tmp_path: Path, folder: Path, images: Any, way: Any) -> None:
    own = task_of(way, tmp_path / "cache")
    old = own(batches(folder), "s")
    repaint(folder, images)
    state = own(batches(folder), "s", return_state=True)
    assert state.name == "Completed"
    np.testing.assert_array_equal(state.result().load(), means(batches(folder)))
    assert state.result().digest != old.digest
    assert own(batches(folder), "s", return_state=True).name == "Cached"


@pytest.mark.parametrize("decorated", [False, True])
def test_images_that_change_while_they_are_read_are_not_stored(
    tmp_path: Path, folder: Path, images: Any, decorated: bool
) -> None:
    def read(loader: DataLoader) -> np.ndarray:
        found = means(loader)
        repaint(folder, images)
        return found

    def asking(loader: DataLoader, suffix: str) -> FeatureSet:
        return current_request().get_or_compute(lambda: read(loader))

    if decorated:
        state = feature_task(cache_dir=tmp_path / "cache", suffix="s")(read)(batches(folder), return_state=True)
    else:
        own = task(asking, cache_policy=FeatureCachePolicy(tmp_path / "cache"))
        state = own(batches(folder), "s", return_state=True)
    with pytest.raises(DatasetError, match="changed while they were read"):
        state.result()
    assert not list((tmp_path / "cache").glob("*.pkl"))


@pytest.mark.parametrize("way", WAYS)
def test_a_loader_that_gives_other_rows_gets_other_features(tmp_path: Path, folder: Path, way: Any) -> None:
    own = task_of(way, tmp_path / "cache")
    assert own(batches(folder, drop_last=True), "s").shape[0] == 8
    assert own(batches(folder), "s").shape[0] == 10


@pytest.mark.parametrize("way", WAYS)
def test_refresh_extracts_again(tmp_path: Path, folder: Path, way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = task_of(way, tmp_path / "cache")
    old = own(batches(folder), "s")
    monkeypatch.setitem(globals(), "means", lambda loader: -np.ones((len(loader.dataset), 2), np.float32))
    assert own(batches(folder), "s").digest == old.digest
    state = own.with_options(refresh_cache=True)(batches(folder), "s", return_state=True)
    assert (state.name, state.result().shape) == ("Completed", (10, 2))
    again = own(batches(folder), "s", return_state=True)
    assert (again.name, again.result().shape) == ("Cached", (10, 2))


def test_features_with_other_rows_than_the_loader_gives_are_refused(tmp_path: Path, folder: Path) -> None:
    store = FeatureStore(tmp_path / "cache")

    @task(cache_policy=FeatureCachePolicy(store))
    def own(loader: DataLoader, suffix: str) -> FeatureSet:
        key = feature_key(loader.dataset, suffix=suffix, batch_size=4)
        return store.get_or_compute(key, lambda: np.ones((3, 2), np.float32))

    with pytest.raises(FeaturesError, match="10 rows"):
        own(batches(folder), "s")


def test_a_request_says_what_the_task_is_about(tmp_path: Path, folder: Path) -> None:
    from simet_cache import current_request

    requests = []

    @task(cache_policy=FeatureCachePolicy(tmp_path / "cache", loader="images"))
    def own(images: DataLoader, suffix: str = "s") -> int:
        requests.append(current_request())
        return 1

    own.with_options(refresh_cache=True)(batches(folder, drop_last=True))
    (request,) = requests
    assert request.key == feature_key(batches(folder).dataset, suffix="s", batch_size=4)
    assert (request.rows, request.force, request.provenance.fingerprint.known) == (8, True, True)
    assert request.store.cache_dir == tmp_path / "cache"


def test_there_is_a_request_without_caching_too(tmp_path: Path, folder: Path) -> None:
    own = task_of(by_request, tmp_path / "cache")
    with temporary_settings({PREFECT_TASKS_DISABLE_CACHING: True}):
        other = task_of(by_request, tmp_path / "cache")
    for state in [one(batches(folder), "s", return_state=True) for one in (other, own)]:
        np.testing.assert_array_equal(state.result().load(), means(batches(folder)))


def test_outside_of_such_a_task_there_is_none(tmp_path: Path, folder: Path) -> None:
    from simet_cache import current_request

    with pytest.raises(KeyInputError, match="no task under FeatureCachePolicy is running here"):
        current_request()
    raised = []

    @task(cache_policy=FeatureCachePolicy(tmp_path / "cache"))
    def own(loader: DataLoader, suffix: str) -> int:
        def ask() -> None:
            try:
                current_request()
            except KeyInputError as error:
                raised.append(str(error))

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        return 1

    own(batches(folder), "s")
    assert "not in a thread" in raised[0]


def test_where_there_is_no_key_the_body_hears_why(tmp_path: Path) -> None:
    own = task_of(by_request, tmp_path / "cache")
    state = own(None, "s", return_state=True)
    assert state.is_failed()
    assert "expected a torch DataLoader, found NoneType" in state.message


def test_another_key_needs_its_source(tmp_path: Path, folder: Path) -> None:
    """A batch size that the body got wrong would never be noticed as stale."""
    store = FeatureStore(tmp_path / "cache")
    elsewhere = FeatureStore(tmp_path / "elsewhere")

    @task(cache_policy=FeatureCachePolicy(store))
    def own(loader: DataLoader, suffix: str, where: str) -> FeatureSet:
        key = feature_key(loader.dataset, suffix=suffix, batch_size=99)
        return {"here": store, "elsewhere": elsewhere}[where].get_or_compute(key, lambda: means(loader))

    state = own(batches(folder), "s", "here", return_state=True)
    assert state.is_failed()
    assert "without saying what those features are made from" in state.message
    assert own(batches(folder), "s", "elsewhere").path.startswith(str(tmp_path / "elsewhere"))


def test_a_relative_folder_is_one_folder(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")

    @task(cache_policy=FeatureCachePolicy("cache"))
    def bare(loader: DataLoader, suffix: str) -> FeatureSet:
        return by_bare_call(FeatureStore("cache"), loader, suffix)

    @task(cache_policy=FeatureCachePolicy("cache"))
    def asking(loader: DataLoader, suffix: str) -> FeatureSet:
        return by_request(FeatureStore(tmp_path / "c"), loader, suffix)

    monkeypatch.chdir(tmp_path / "b")
    state = bare(batches(folder), "s", return_state=True)
    assert state.is_failed()
    assert f"{tmp_path / 'a' / 'cache'}, and its body asks for them in {tmp_path / 'b' / 'cache'}" in state.message
    assert [asking(batches(folder), "s", return_state=True).name for _ in range(2)] == ["Completed", "Cached"]
    assert list((tmp_path / "a" / "cache").glob("*.pkl"))


def test_a_request_ends_with_its_task(tmp_path: Path, folder: Path) -> None:
    store, seen = FeatureStore(tmp_path / "cache"), []
    own = task_of(by_request, tmp_path / "cache")

    @flow
    def run() -> None:
        own(batches(folder), "s")
        key = feature_key(batches(folder).dataset, suffix="other", batch_size=4)
        seen.append(store.get_or_compute(key, lambda: np.ones((3, 2), np.float32)).shape)

    run()
    assert seen == [(3, 2)]


def test_datasets_without_a_loader_have_requests_too(tmp_path: Path) -> None:
    from simet_cache import current_request

    data = TensorDataset(torch.arange(20.0).reshape(5, 4))

    @task(cache_policy=FeatureCachePolicy(tmp_path))
    def own(dataset: TensorDataset, batch_size: int, suffix: str) -> FeatureSet:
        return current_request().get_or_compute(dataset.tensors[0].numpy)

    assert [own(data, 4, "s", return_state=True).name for _ in range(2)] == ["Completed", "Cached"]
    changed = own(TensorDataset(data.tensors[0] + 1), 4, "s", return_state=True)
    assert (changed.name, changed.result().load()[0, 0]) == ("Completed", 1.0)


def test_the_readmes_own_example_notices_changed_images(tmp_path: Path, folder: Path, images: Any) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (block,) = [text for text in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "FeatureCachePolicy(" in text]
    scope: dict[str, Any] = {"my_features": means}
    exec(block.replace('"cache/features"', repr(str(tmp_path / "cache"))), scope)
    extract = scope["extract"]
    for name in ("Completed", "Cached"):
        assert extract(batches(folder), "net", return_state=True).name == name
    repaint(folder, images)
    np.testing.assert_array_equal(extract(batches(folder), "net").load(), means(batches(folder)))
    assert extract(batches(folder, drop_last=True), "net").shape[0] == 8
