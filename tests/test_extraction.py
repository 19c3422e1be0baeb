"""Images to features: in order, whatever the batches and workers; and what happens to images that cannot be read."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional as F

from simet_cache import devices, extraction, locks, stopping
from simet_cache.config import ExtractorConfig
from simet_cache.datasets.folder import FolderDataset
from simet_cache.devices import DeviceLocks
from simet_cache.errors import (
    DatasetError,
    ExtractorError,
    FeaturesError,
    ImageReadError,
    KeyInputError,
    SimetCacheError,
    StoppedError,
)
from simet_cache.extraction import extract, extract_to_store, in_key_order
from simet_cache.extractors import Extractor, make_extractor
from simet_cache.fingerprint import fingerprint
from simet_cache.key import feature_key
from simet_cache.loading import Chunk
from simet_cache.store import FeatureSet, FeatureStore

SUFFIX = "tiny"


class Tiny(nn.Module):
    """The mean of each channel, and what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("shift", torch.zeros(3))
        self.shown: list[tuple[int, ...]] = []
        self.circumstances: set[tuple[bool, ...]] = set()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown.append(tuple(images.shape))
        self.circumstances.add((torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), self.training))
        return images.float().mean((2, 3)) * self.scale + self.shift


class Reads:
    """A transform that counts; shade ``n`` becomes a tensor of ``n``."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, image: Image.Image) -> torch.Tensor:
        self.count += 1
        return F.pil_to_tensor(image).float()


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Tiny]]:
    """Every model built during a test, in place of real ones."""
    monkeypatch.setattr(devices, "_place", lambda: tmp_path / "devices")  # others on this machine have theirs locked
    models: list[Tiny] = []

    def build() -> Tiny:
        models.append(Tiny().eval())
        return models[-1]

    monkeypatch.setattr(extraction, "make_extractor", lambda config: Extractor(SUFFIX, Reads(), build))
    extraction._models.clear()
    yield models
    extraction._models.clear()


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "cache")


def folder(root: Path, *shades: int, size: tuple[int, int] = (4, 4)) -> FolderDataset:
    """Images ``00.png``, ``01.png`` and so on of one shade each."""
    root.mkdir(exist_ok=True)
    for number, shade in enumerate(shades):
        Image.new("RGB", size, (shade, 0, 255 - shade)).save(root / f"{number:02d}.png")
    return FolderDataset(root, transform=Reads())


def config(**options: Any) -> ExtractorConfig:
    return ExtractorConfig(**{"device": "cpu", "batch_size": 3, **options})


def run(store: FeatureStore, dataset: Any, **options: Any) -> FeatureSet:
    return extract_to_store(
        store, dataset, config=options.pop("config", config()), suffix=SUFFIX, name="set", **options
    )


def shades(features: FeatureSet) -> list[float]:
    return features.load()[:, 0].tolist()


def entries(store: FeatureStore) -> list[str]:
    return sorted(path.name for path in store.cache_dir.glob("*.*"))


# Order


def test_rows_come_in_the_order_of_the_dataset(store: FeatureStore, tmp_path: Path) -> None:
    drawn = [7, 3, 250, 0, 9, 3, 80]
    found = run(store, folder(tmp_path / "images", *drawn))
    assert shades(found) == drawn
    assert found.load()[:, 2].tolist() == [255 - shade for shade in drawn]
    assert (found.shape, found.dtype) == ((7, 3), "float32")


@pytest.mark.parametrize("indices", [[5, 0, 3], [3, 5, 0], torch.tensor([0, 3, 5]), np.array([5, 3, 0]), [-1, 0, -3]])
def test_a_subset_comes_in_ascending_order_under_one_key(store: FeatureStore, tmp_path: Path, indices: Any) -> None:
    dataset = folder(tmp_path / "images", 0, 10, 20, 30, 40, 50)
    found = run(store, Subset(dataset, indices))
    assert found.key == feature_key(Subset(dataset, [0, 3, 5]), suffix=SUFFIX, batch_size=3)
    assert shades(found) == [0, 30, 50]


def test_a_subset_of_a_subset(store: FeatureStore, tmp_path: Path) -> None:
    dataset = folder(tmp_path / "images", 0, 10, 20, 30, 40, 50)
    nested = Subset(Subset(dataset, [5, 4, 1]), [2, 0])
    assert shades(run(store, nested)) == [10, 50]


def test_an_index_that_stands_twice_is_two_rows(store: FeatureStore, tmp_path: Path) -> None:
    assert shades(run(store, Subset(folder(tmp_path / "images", 1, 2), [1, 0, 1]))) == [1, 2, 2]


def test_a_subset_is_put_in_the_order_of_its_key(tmp_path: Path) -> None:
    dataset = folder(tmp_path / "images", 0, 0, 0)
    assert in_key_order(dataset) is dataset
    assert list(in_key_order(Subset(dataset, [2, 0])).indices) == [0, 2]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 4, 128])
def test_features_do_not_depend_on_batches_and_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, workers: int
) -> None:
    """A real model, since convolutions round differently in other batches."""
    monkeypatch.setattr(extraction, "make_extractor", make_extractor)
    options: dict[str, Any] = {"name": "resnet18", "weights": "random", "image_size": 32}
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(9):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{number}.png")
    dataset = FolderDataset(tmp_path / "images", transform=make_extractor(ExtractorConfig(**options)).transform)
    model = make_extractor(ExtractorConfig(**options)).build()
    with torch.inference_mode():
        expected = torch.cat([model(dataset[number][None]) for number in range(9)]).numpy()
    found, bad = extract(dataset, config=config(**options, batch_size=batch_size, workers=workers))
    assert bad == []
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-5


# Datasets of other kinds


class Items(Dataset[Any]):
    """A user's own dataset, without ``root`` and ``files``."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> Any:
        item = self.items[position]
        if isinstance(item, Exception):
            raise item
        return item


@pytest.mark.parametrize(
    "item",
    [
        lambda image: image,
        lambda image: (image, 3),
        lambda image: [image, "label", {"more": 1}],
        lambda image: (image.to(torch.uint8), 3),
    ],
    ids=["tensor", "tuple", "list", "uint8"],
)
def test_tensors_alone_and_first_of_a_tuple(store: FeatureStore, item: Any) -> None:
    dataset = Items([item(torch.full((3, 4, 4), float(shade))) for shade in range(5)])
    assert shades(run(store, dataset)) == [0, 1, 2, 3, 4]
    assert store.manifest(run(store, dataset).key)["dataset"] == {
        "name": "set",
        "class": "Items",
        "fingerprint": "unknown",
    }


def test_images_of_different_sizes(store: FeatureStore, built: list[Tiny]) -> None:
    sizes = [(4, 4), (4, 4), (4, 4), (8, 4), (2, 2), (4, 4), (5, 5)]
    dataset = Items([torch.full((3, *size), float(number)) for number, size in enumerate(sizes)])
    assert shades(run(store, dataset)) == [0, 1, 2, 3, 4, 5, 6]
    assert built[0].shown == [(3, 3, 4, 4), (1, 3, 8, 4), (1, 3, 2, 2), (1, 3, 4, 4), (1, 3, 5, 5)]


def test_a_dataset_without_a_length_has_no_key(store: FeatureStore) -> None:
    with pytest.raises(KeyInputError):
        run(store, iter(()))


# The model


def test_what_the_cpu_sees_at_once_is_small_and_keeps_its_order(store: FeatureStore, built: list[Tiny]) -> None:
    dataset = Items([torch.full((3, 299, 299), float(shade)) for shade in range(20)])
    assert shades(run(store, dataset, config=config(batch_size=20))) == list(range(20))
    assert [shape[0] for shape in built[0].shown] == [8, 8, 4]


def test_a_model_that_resizes_sees_few_small_images_at_once(
    store: FeatureStore, built: list[Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To it they are as large as any."""
    build = extraction.make_extractor(config()).build
    large = Extractor(SUFFIX, Reads(), build, resizes_to=299 * 299)
    monkeypatch.setattr(extraction, "make_extractor", lambda config: large)
    run(store, Items([torch.zeros(3, 8, 8)] * 20), config=config(batch_size=16))
    assert [shape[0] for shape in built[0].shown] == [8, 8, 4]
    assert make_extractor(ExtractorConfig()).resizes_to == 299 * 299
    assert make_extractor(ExtractorConfig(name="resnet18")).resizes_to is None


def test_small_images_go_in_batches_as_large_as_the_loaders(store: FeatureStore, built: list[Tiny]) -> None:
    run(store, Items([torch.zeros(3, 8, 8)] * 20), config=config(batch_size=16))
    assert [shape[0] for shape in built[0].shown] == [16, 4]


@pytest.mark.parametrize(("precision", "autocast"), [("float32", False), ("amp", True)])
def test_inference_leaves_no_trace(store: FeatureStore, built: list[Tiny], precision: str, autocast: bool) -> None:
    allowed = torch.backends.cudnn.allow_tf32
    found = run(store, Items([torch.zeros(3, 4, 4)] * 4), config=config(precision=precision))
    assert built[0].circumstances == {(True, autocast, False)}
    assert found.dtype == "float32"
    assert not torch.is_inference_mode_enabled()
    assert torch.backends.cudnn.allow_tf32 == allowed
    assert built[0].scale.grad is None


def test_float32_is_not_tf32(store: FeatureStore, built: list[Tiny], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    forward = Tiny.forward

    def spy(self: Tiny, images: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return forward(self, images)

    monkeypatch.setattr(Tiny, "forward", spy)
    run(store, Items([torch.zeros(3, 4, 4)]))
    assert seen == [False]


def test_one_model_serves_all_datasets_of_a_run(store: FeatureStore, tmp_path: Path, built: list[Tiny]) -> None:
    for name in ("a", "b"):
        run(store, folder(tmp_path / name, 1, 2))
    assert len(built) == 1


def test_another_file_of_weights_is_another_model(
    tmp_path: Path, built: list[Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process, under one path."""
    path = tmp_path / "w.pth"
    path.write_text("one")
    weights = config(weights=str(path))
    monkeypatch.setattr(
        extraction, "make_extractor", lambda config: Extractor(make_extractor(config).suffix, Reads(), new)
    )

    def new() -> Tiny:
        built.append(Tiny().eval())
        return built[-1]

    dataset = Items([torch.zeros(3, 4, 4)])
    for content in ("one", "one", "other"):
        path.write_text(content)
        extract(dataset, config=weights)
    assert len(built) == 2


# Devices


@pytest.mark.parametrize("name", ["cuda:99", "mps"])
def test_a_device_that_is_not_there(store: FeatureStore, name: str) -> None:
    with pytest.raises(ExtractorError) as caught:
        run(store, Items([torch.zeros(3, 4, 4)]), config=config(device=name))
    message = str(caught.value)
    assert message.startswith(f"device {name!r} cannot be used here (")
    assert message.endswith("); use 'device: auto' or 'cpu'")
    assert len(message.splitlines()) == 1


def test_chunks_can_be_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Size] = []

    def pin_memory(self: torch.Tensor) -> torch.Tensor:
        pinned.append(self.shape)
        return self

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    error = ImageReadError("x", "y")
    assert Chunk(torch.zeros(2, 3, 4, 4), [(1, error)]).pin_memory().bad == [(1, error)]
    assert len(Chunk([torch.zeros(3, 4, 4), torch.zeros(3, 5, 5)], []).pin_memory().images) == 2
    assert pinned == [(2, 3, 4, 4), (3, 4, 4), (3, 5, 5)]


def test_workers_are_for_what_the_model_leaves_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    def workers(images: int, device: str, **options: Any) -> int:
        return extraction._workers(config(**options), images, device)

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))  # of a machine that may have more
    assert workers(100_000, "cpu") == 0
    assert workers(100_000, "cuda") == 8
    assert workers(100, "cuda") == 0
    assert workers(100, "cpu", workers=2) == 2
    assert workers(100_000, "cuda", workers=0) == 0


def test_the_device_is_the_one_that_was_taken(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: list[Tiny]
) -> None:
    """Also in the manifest; and a hit waits for none."""
    asked: list[Sequence[str]] = []

    @contextmanager
    def taken(names: Sequence[str], _: DeviceLocks) -> Iterator[str]:
        asked.append(names)
        yield names[1]

    monkeypatch.setattr(extraction.devices, "available", lambda name: ("cpu", "cpu:0"))
    monkeypatch.setattr(extraction.devices, "taken", taken)
    dataset = folder(tmp_path / "images", 1, 2)
    found = run(store, dataset)
    assert store.manifest(found.key)["extractor"]["device"] == "cpu:0"
    assert run(store, dataset) == found
    assert asked == [("cpu", "cpu:0")]


def test_key_turn_device(store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order, so that a hit waits for nothing, and nobody holds a device while waiting for something else."""
    events: list[str] = []
    dataset = folder(tmp_path / "images", 1, 2)
    key = feature_key(dataset, suffix=SUFFIX, batch_size=3)

    def said(key: str) -> str:
        return f"key {'held' if locks.is_computing(store.cache_dir, key) else 'free'}"

    @contextmanager
    def turn() -> Iterator[None]:
        events.append(f"turn, {said(key)}")
        yield
        events.append("turn over")

    @contextmanager
    def taken(names: Sequence[str], _: DeviceLocks) -> Iterator[str]:
        events.append("device")
        yield names[0]
        events.append("device free")

    monkeypatch.setattr(extraction.devices, "taken", taken)
    keep = store.keep
    monkeypatch.setattr(store, "keep", lambda *a, **b: (events.append("stored"), keep(*a, **b))[1])
    monkeypatch.setattr(store, "send", lambda key: events.append(f"sent {key}, {said(key)}"))
    found = run(store, dataset, turn=turn)
    expected = ["turn, key held", "device", "stored", "device free", "turn over", f"sent {key}, key held"]
    assert events == expected
    assert run(store, dataset, turn=turn) == found
    assert events == expected


def test_a_model_goes_before_the_next_one_comes_to_its_device(
    built: list[Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Items([torch.zeros(3, 4, 4)])
    kept: list[int] = []

    def build() -> Tiny:
        kept.append(len(extraction._models))
        built.append(Tiny().eval())
        return built[-1]

    monkeypatch.setattr(extraction, "make_extractor", lambda config: Extractor(config.name, Reads(), build))
    monkeypatch.setattr(Tiny, "to", lambda self, *_, **__: self)
    first, other = config(name="resnet18", weights="random"), config(name="resnet34", weights="random")
    for one, device in [
        (first, "cpu"),
        (first, "cpu"),
        (first, "cpu:0"),
        (other, "cpu"),
        (first, "cpu:0"),
        (first, "cpu"),
    ]:
        extract(dataset, config=one, device=device)
    assert kept == [0, 1, 1, 1], "two models of one device at once, or one model built twice"
    assert len(extraction._models) == 2


def test_extractions_side_by_side_are_float32_until_the_last_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's switches belong to the process: who ends first must not set them back for the others."""
    allowed = torch.backends.cudnn.allow_tf32
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    entered, first_is_over = threading.Barrier(2), threading.Event()

    def first() -> None:
        with extraction._inference("cpu", config()):
            entered.wait()
        first_is_over.set()

    def second() -> bool:
        with extraction._inference("cpu", config()):
            entered.wait()
            first_is_over.wait()
            return torch.backends.cudnn.allow_tf32

    with ThreadPoolExecutor(2) as pool:
        pool.submit(first)
        assert pool.submit(second).result() is False
    assert torch.backends.cudnn.allow_tf32 is True
    monkeypatch.undo()
    assert torch.backends.cudnn.allow_tf32 == allowed


@pytest.mark.parametrize("when", ["image", "batch"])
def test_a_request_stops_within_the_batch(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: list[Tiny], when: str
) -> None:
    dataset = folder(tmp_path / "images", *range(9))
    forward = Tiny.forward

    def asked(self: Tiny, images: torch.Tensor) -> torch.Tensor:
        stopping.request()
        return forward(self, images)

    class Asks(Reads):
        def __call__(self, image: Image.Image) -> torch.Tensor:
            if self.count == 1:
                stopping.request()
            return super().__call__(image)

    if when == "image":
        dataset.transform = Asks()
    else:
        monkeypatch.setattr(Tiny, "forward", asked)
    with stopping.listening(), pytest.raises(StoppedError):
        run(store, dataset)
    assert dataset.transform.count == (2 if when == "image" else 3)
    assert entries(store) == []


# Images that cannot be read


def spoil(root: Path, *names: str) -> None:
    for name in names:
        (root / name).write_bytes(b"no image")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_stops_its_dataset(store: FeatureStore, tmp_path: Path, workers: int) -> None:
    dataset = folder(tmp_path / "images", 1, 2, 3, 4)
    spoil(tmp_path / "images", "02.png")
    with pytest.raises(ImageReadError) as caught:
        run(store, dataset, config=config(workers=workers))
    assert str(caught.value) == f"cannot read image {tmp_path}/images/02.png: not an image that Pillow can decode"
    assert entries(store) == []


def test_it_stops_at_once(store: FeatureStore, tmp_path: Path) -> None:
    dataset = folder(tmp_path / "images", *range(30))
    spoil(tmp_path / "images", "01.png")
    with pytest.raises(ImageReadError):
        run(store, dataset)
    assert dataset.transform.count < 10


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_skipped_and_the_others_stored_under_their_subset(
    store: FeatureStore, tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = folder(tmp_path / "images", *range(10))
    spoil(tmp_path / "images", "00.png", "04.png", "05.png", "09.png")
    with caplog.at_level(logging.INFO):
        found = run(store, dataset, config=config(workers=workers), on_bad_image="skip")
    assert shades(found) == [1, 2, 3, 6, 7, 8]
    assert found.key == feature_key(Subset(dataset, [1, 2, 3, 6, 7, 8]), suffix=SUFFIX, batch_size=3)
    assert store.find(feature_key(dataset, suffix=SUFFIX, batch_size=3)) is None
    skipped = store.manifest(found.key)["skipped"]
    assert [Path(image["path"]).name for image in skipped] == ["00.png", "04.png", "05.png", "09.png"]
    assert {image["reason"] for image in skipped} == {"not an image that Pillow can decode"}
    assert "set: skipped 4 of 10 images that cannot be read" in caplog.text


def test_bad_images_of_a_subset_in_any_order(store: FeatureStore, tmp_path: Path) -> None:
    dataset = folder(tmp_path / "images", *range(8))
    spoil(tmp_path / "images", "03.png", "06.png")
    found = run(store, Subset(dataset, [7, 3, 0, 6, 5]), on_bad_image="skip")
    assert shades(found) == [0, 5, 7]
    assert found.key == feature_key(Subset(dataset, [0, 5, 7]), suffix=SUFFIX, batch_size=3)


@pytest.mark.parametrize("on_bad_image", ["stop", "skip"])
def test_without_bad_images_both_ways_are_one(store: FeatureStore, tmp_path: Path, on_bad_image: str) -> None:
    dataset = folder(tmp_path / "images", 1, 2)
    found = run(store, dataset, on_bad_image=on_bad_image)
    assert found.key == feature_key(dataset, suffix=SUFFIX, batch_size=3)
    assert "skipped" not in store.manifest(found.key)


def test_a_dataset_of_bad_images_alone(store: FeatureStore, tmp_path: Path) -> None:
    dataset = folder(tmp_path / "images", 1, 2)
    spoil(tmp_path / "images", "00.png", "01.png")
    with pytest.raises(DatasetError) as caught:
        run(store, dataset, on_bad_image="skip")
    assert str(caught.value) == (
        "none of the 2 images of set can be read;"
        f" the first: cannot read image {tmp_path}/images/00.png: not an image that Pillow can decode"
    )
    assert entries(store) == []


def test_an_empty_dataset(store: FeatureStore) -> None:
    with pytest.raises(DatasetError, match=r"none of the 0 images of set can be read$"):
        run(store, Items([]))


@pytest.mark.parametrize("on_bad_image", ["stop", "skip"])
def test_a_link_that_leads_nowhere_is_a_bad_image(store: FeatureStore, tmp_path: Path, on_bad_image: str) -> None:
    folder(tmp_path / "images", 1, 2)
    (tmp_path / "images" / "01a.png").symlink_to("nowhere.png")
    dataset = FolderDataset(tmp_path / "images", transform=Reads())
    if on_bad_image == "stop":
        with pytest.raises(ImageReadError, match=r"01a.png: no such file or directory"):
            run(store, dataset)
    else:
        assert shades(run(store, dataset, on_bad_image="skip")) == [1, 2]


def test_torchvisions_own_datasets_raise_other_errors(store: FeatureStore, tmp_path: Path) -> None:
    folder(tmp_path / "images", 1)
    folder(tmp_path / "images" / "class", 1, 2, 3)
    spoil(tmp_path / "images" / "class", "01.png")
    dataset = ImageFolder(str(tmp_path / "images"), transform=Reads())
    with pytest.raises(ImageReadError, match=r"cannot read image number 1: .*class/01.png"):
        run(store, dataset)
    assert shades(run(store, dataset, on_bad_image="skip")) == [1, 3]


def test_other_errors_are_no_bad_images(store: FeatureStore) -> None:
    with pytest.raises(ZeroDivisionError):
        run(store, Items([torch.zeros(3, 4, 4), ZeroDivisionError()]), on_bad_image="skip")
    assert entries(store) == []


# The store


def test_what_is_there_is_not_extracted_again(store: FeatureStore, tmp_path: Path, built: list[Tiny]) -> None:
    dataset = folder(tmp_path / "images", 1, 2)
    first = run(store, dataset)
    assert run(store, dataset) == first
    assert dataset.transform.count == 2
    assert len(built) == 1


def test_force_extracts_and_overwrites(store: FeatureStore, tmp_path: Path) -> None:
    dataset = folder(tmp_path / "images", 1, 2)
    first = run(store, dataset)
    reuse = FeatureStore(store.cache_dir, on_stale="reuse")
    folder(tmp_path / "images", 3, 4)
    assert shades(run(reuse, dataset)) == [1, 2]
    forced = run(reuse, dataset, force=True)
    assert forced.key == first.key
    assert shades(forced) == [3, 4]
    assert shades(run(store, dataset)) == [3, 4]


def test_an_entry_with_other_rows_does_not_count(store: FeatureStore, tmp_path: Path) -> None:
    dataset = folder(tmp_path / "images", 1, 2)
    store.put(feature_key(dataset, suffix=SUFFIX, batch_size=3), np.ones((5, 3), np.float32))
    assert shades(run(store, dataset)) == [1, 2]


@pytest.mark.parametrize(
    ("shift", "error"), [(float("nan"), FeaturesError), (RuntimeError("out of memory"), RuntimeError)]
)
def test_nothing_is_cached_when_the_model_fails(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: Any, error: type[Exception]
) -> None:
    def forward(self: Tiny, images: torch.Tensor) -> torch.Tensor:
        if isinstance(shift, Exception):
            raise shift
        return images.mean((2, 3)) + shift

    dataset = folder(tmp_path / "images", 1, 2)
    kept = run(store, dataset)
    before = {name: (store.cache_dir / name).read_bytes() for name in entries(store)}
    monkeypatch.setattr(Tiny, "forward", forward)
    with pytest.raises(error):
        run(store, dataset, force=True)
    with pytest.raises(error):
        run(store, Subset(dataset, [0]))
    assert {name: (store.cache_dir / name).read_bytes() for name in entries(store)} == before
    assert run(store, dataset) == kept


def test_who_waits_for_another_finds_its_features(store: FeatureStore, tmp_path: Path) -> None:
    dataset = folder(tmp_path / "images", 1, 2)
    key = feature_key(dataset, suffix=SUFFIX, batch_size=3)
    found: list[FeatureSet] = []
    waiting = threading.Thread(target=lambda: found.append(run(store, dataset)))
    with store.lock(key):
        waiting.start()
        time.sleep(0.2)
        assert found == []
        other = store.put(key, np.full((2, 3), 9, np.float32))
    waiting.join(timeout=30)
    assert found == [other]
    assert dataset.transform.count == 0


def test_the_manifest_says_where_features_come_from(store: FeatureStore, tmp_path: Path) -> None:
    dataset = folder(tmp_path / "images", 1, 2)
    manifest = store.manifest(run(store, Subset(dataset, [1])).key)
    assert manifest["dataset"]["name"] == "set"
    assert manifest["dataset"]["root"] == str(tmp_path / "images")
    assert manifest["dataset"]["class"] == "FolderDataset"
    assert manifest["dataset"]["fingerprint"] == fingerprint(Subset(dataset, [1])).to_json()
    assert manifest["components"] == {
        "dataset": str(tmp_path / "images"),
        "subset": hash((1,)),
        "suffix": SUFFIX,
        "length": 1,
        "batch_size": 3,
    }
    assert manifest["features"]["row_order"] == "dataset"
    assert manifest["extractor"]["device"] == "cpu"
    assert manifest["extractor"]["libraries"]["torch"] == version("torch")
    assert manifest["seconds"] >= 0
    assert manifest["images_per_second"] > 0


def test_the_list_of_bad_images_cannot_be_written(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    dataset = folder(tmp_path / "images", 1, 2)
    spoil(tmp_path / "images", "00.png")
    monkeypatch.setattr("simet_cache.skipped.write_atomically", full)
    assert shades(run(store, dataset, on_bad_image="skip")) == [2]
    assert "skipped.json: No space left on device" in caplog.text


def test_no_progress_bar_in_a_pipe(store: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(store, folder(tmp_path / "images", 1, 2))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_errors_of_ours_are_of_one_tree() -> None:
    assert issubclass(ImageReadError, DatasetError)
    assert issubclass(DatasetError, SimetCacheError)


def test_threads_build_one_model_and_extract_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.fx traces in one thread at a time."""
    monkeypatch.setattr(extraction, "make_extractor", make_extractor)
    real = config(name="resnet18", weights="random", image_size=32)
    dataset = folder(tmp_path, 0, 40, 80, 120, size=(32, 32))
    dataset.transform = make_extractor(real).transform
    with ThreadPoolExecutor(4) as pool:
        found = [future.result()[0] for future in [pool.submit(extract, dataset, config=real) for _ in range(4)]]
    extraction._models.clear()
    expected, _ = extract(dataset, config=real)
    for features in found:
        np.testing.assert_array_equal(features, expected)


def test_threads_extract_around_bad_images_once(store: FeatureStore, tmp_path: Path, built: list[Tiny]) -> None:
    dataset = folder(tmp_path / "images", 1, 2, 3)
    (tmp_path / "images" / "01.png").write_bytes(b"no image")
    first = run(store, dataset, on_bad_image="skip")
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(run, store, dataset, on_bad_image="skip") for _ in range(3)]
        assert {future.result() for future in futures} == {first}
    assert len(built[0].shown) == 1


def test_features_of_all_images_end_the_list_of_bad_ones(store: FeatureStore, tmp_path: Path) -> None:
    dataset = folder(tmp_path / "images", 1, 2, 3)
    (tmp_path / "images" / "01.png").write_bytes(b"no image")
    assert run(store, dataset, on_bad_image="skip").shape == (2, 3)
    dataset = folder(tmp_path / "images", 1, 2, 3)
    assert run(store, dataset, on_bad_image="skip").shape == (3, 3)
    assert not [name for name in entries(store) if "skipped" in name]
