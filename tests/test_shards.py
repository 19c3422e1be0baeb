"""Shards: the whole that is put together is the one of a single extraction, whatever happens on the way."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import shutil
import tempfile
import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from simet_cache import codec, devices, extraction, locks, mirror, stopping
from simet_cache.config import ExtractorConfig
from simet_cache.datasets.folder import FolderDataset
from simet_cache.errors import DamagedShardError, DatasetError, ImageReadError, StaleEntryError, StoppedError
from simet_cache.extraction import extract_to_store
from simet_cache.extractors import Extractor
from simet_cache.featureset import FeatureSet
from simet_cache.key import feature_key
from simet_cache.plan import Planned
from simet_cache.retrying import can_pass
from simet_cache.shards import assemble, drop_leftovers, shards_of
from simet_cache.sources import source_of
from simet_cache.store import FeatureStore

SUFFIX = "tiny"
BATCH, SIZE = 2, 4


class Tiny(nn.Module):
    """The mean of each channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return images.float().mean((2, 3))


seen: list[int] = []  # how many images the model was shown, batch by batch


def images_seen() -> int:
    """Since the last time."""
    count = sum(seen)
    seen.clear()
    return count


@pytest.fixture(autouse=True)
def extractor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(devices, "_place", lambda: tmp_path / "devices")  # others on this machine have theirs locked
    monkeypatch.setattr(
        extraction, "make_extractor", lambda config: Extractor(SUFFIX, pil_to_tensor, lambda: Tiny().eval(), IDENTITY)
    )
    extraction._models.clear()
    seen.clear()
    yield
    extraction._models.clear()


IDENTITY = {"name": "tiny", "version": 1}


class Images(Dataset[Any]):
    """Images with numbers for contents and files that are only looked at; some of them cannot be read."""

    def __init__(self, root: Path, count: int, bad: Sequence[int] = ()) -> None:
        self.root, self.bad = root, set(bad)
        self.files = [f"{number:03d}.png" for number in range(count)]
        root.mkdir(exist_ok=True)
        for file in self.files:
            (root / file).touch()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        if index in self.bad:
            raise ImageReadError(self.root / self.files[index], "spoilt")
        return torch.full((3, 2, 2), float(index)) * torch.tensor([1.0, 0.1, 0.01])[:, None, None]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "cache")


@pytest.fixture
def big(tmp_path: Path) -> Planned:
    """Ten images, three shards."""
    return planned(Images(tmp_path / "images", 10))


def planned(dataset: Any, *, batch: int = BATCH) -> Planned:
    source = source_of(dataset, suffix=SUFFIX, batch_size=batch, name="big", extractor=IDENTITY)
    return Planned("big", dataset, SUFFIX, feature_key(dataset, suffix=SUFFIX, batch_size=batch), source)


def extracted(store: FeatureStore, one: Planned, *, batch: int = BATCH, **options: Any) -> FeatureSet:
    config = ExtractorConfig(device="cpu", batch_size=batch)
    return extract_to_store(
        store, one.dataset, config=config, suffix=one.suffix, source=one.source, name=one.name, **options
    )


def in_shards(store: FeatureStore, whole: Planned, *, size: int = SIZE, **options: Any) -> list[FeatureSet]:
    return [extracted(store, one, shard_of=whole.key, **options) for one in shards_of(whole, size=size)]


def together(store: FeatureStore, whole: Planned, parts: list[FeatureSet], **options: Any) -> FeatureSet:
    return assemble(store, whole, parts, size=SIZE, **options)


def files(store: FeatureStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.cache_dir.iterdir()) if path.is_file()}


OF_ITS_MAKING = ("created_at", "seconds", "images_per_second", "shards", "file")


def same(store: FeatureStore, other: FeatureStore, found: FeatureSet, expected: FeatureSet) -> None:
    """Both stores hold the same entry and nothing else, but for times, and for that one was made from shards."""
    assert (found.key, found.shape, found.dtype, found.digest) == (
        *(expected.key, expected.shape, expected.dtype, expected.digest),
    )
    assert found.row_order == expected.row_order
    one, two = files(store), files(other)
    manifests = [json.loads(content.pop(f"{found.key}.json")) for content in (one, two)]
    assert one == two
    for manifest in manifests:
        for name in OF_ITS_MAKING:
            manifest.pop(name, None)
    assert manifests[0] == manifests[1]


# Cutting


@pytest.mark.parametrize(
    ("count", "batch", "size", "expected"),
    [
        (10, 2, 4, [4, 4, 2]),
        (10, 2, 5, [4, 4, 2]),
        (10, 4, 3, [4, 4, 2]),  # one batch at least
        (12, 4, 4, [4, 4, 4]),
        (9, 2, 8, [8, 1]),
        (8, 2, 8, []),
        (9, 2, 9, []),  # no more than asked for, although a shard would have one less
        (3, 4, 1, []),
        (5, 1, 1, [1] * 5),
    ],
)
def test_borders_lie_on_whole_batches(tmp_path: Path, count: int, batch: int, size: int, expected: list[int]) -> None:
    whole = planned(Images(tmp_path / "images", count), batch=batch)
    shards = shards_of(whole, size=size)
    assert [len(one.dataset) for one in shards] == expected
    assert [one.name for one in shards] == [f"big [{n}/{len(expected)}]" for n in range(1, len(expected) + 1)]
    assert [index for one in shards for index in one.dataset.indices] == list(range(count if expected else 0))


@pytest.mark.parametrize(
    "choose",
    [
        lambda dataset: dataset,
        lambda dataset: Subset(dataset, [9, 0, 3, 3, 7, 1]),
        lambda dataset: Subset(Subset(dataset, [9, -8, 3, 5, 7, 1]), np.array([5, 0, 1, 2, 4])),
        lambda dataset: Subset(dataset, torch.arange(9, 0, -1)),
    ],
    ids=["whole", "subset", "nested", "tensor"],
)
def test_a_shard_is_a_subset_like_any_other(tmp_path: Path, choose: Any) -> None:
    whole = planned(choose(Images(tmp_path / "images", 10)))
    shards = shards_of(whole, size=2)
    for one in shards:
        assert one.key == feature_key(one.dataset, suffix=SUFFIX, batch_size=BATCH)
        assert one.source == source_of(one.dataset, suffix=SUFFIX, batch_size=BATCH, name="big", extractor=IDENTITY)
        assert one.suffix == SUFFIX
    base = Images(tmp_path / "images", 10)
    indices = [index for one in shards for index in one.dataset.indices]
    assert feature_key(Subset(base, indices), suffix=SUFFIX, batch_size=BATCH) == (
        whole.key
        if isinstance(whole.dataset, Subset)
        else feature_key(Subset(base, range(10)), suffix=SUFFIX, batch_size=BATCH)
    )
    assert indices == sorted(indices)


# The same as at once


@settings(max_examples=40)
@given(data=st.data())
def test_the_whole_is_that_of_one_extraction(data: st.DataObject) -> None:
    count, batch, size = (data.draw(st.integers(1, most)) for most in (30, 7, 30))
    indices = data.draw(st.none() | st.lists(st.integers(0, count - 1), min_size=1, max_size=30))
    bad = data.draw(st.lists(st.integers(0, count - 1), max_size=count - 1))
    with tempfile.TemporaryDirectory() as folder:
        once, sharded = (FeatureStore(Path(folder, name)) for name in ("once", "sharded"))
        dataset: Any = Images(Path(folder, "images"), count, bad)
        whole = planned(dataset if indices is None else Subset(dataset, indices), batch=batch)
        options = {"batch": batch, "on_bad_image": "skip"}
        parts = [extracted(sharded, one, shard_of=whole.key, **options) for one in shards_of(whole, size=size)]
        if not parts:
            assert len(whole.dataset) <= max(size, batch)
            return
        if not any(part.shape[0] for part in parts):
            for work in (lambda: extracted(once, whole, **options), lambda: assemble(sharded, whole, parts, size=size)):
                with pytest.raises(
                    DatasetError, match=rf"^none of the {len(whole.dataset)} images of big can be read;"
                ):
                    work()
            return
        expected = extracted(once, whole, **options)
        found = assemble(sharded, whole, parts, size=size)
        same(sharded, once, found, expected)
        assert np.array_equal(found.load(copy=True), expected.load())
        locks.end_uses()


def pictures(root: Path, count: int = 10) -> Path:
    root.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (4, 4), (number, 3 * number, 255 - number)).save(root / f"{number:02d}.png")
    return root


@pytest.mark.parametrize("skip", [False, True], ids=["stop", "skip"])
@pytest.mark.parametrize(
    "opened",
    [
        lambda root: FolderDataset(root, transform=pil_to_tensor),
        lambda root: ImageFolder(str(root), transform=pil_to_tensor),
        lambda root: Subset(FolderDataset(root, transform=pil_to_tensor), [9, 8, 2, 3, 5, 4, 1]),
        lambda root: Subset(ImageFolder(str(root), transform=pil_to_tensor), [9, 8, 2, 3, 5, 4, 1]),
    ],
    ids=["folder", "torchvision", "subset of a folder", "subset of torchvision's"],
)
def test_real_datasets(store: FeatureStore, tmp_path: Path, opened: Any, skip: bool) -> None:
    """Also where bad images have no name but their number."""
    pictures(tmp_path / "images" / "class")
    for name in ("02.png", "08.png", "09.png") if skip else ():
        (tmp_path / "images" / "class" / name).write_bytes(b"no image")
    once, whole = FeatureStore(tmp_path / "once"), planned(opened(tmp_path / "images"))
    mode = "skip" if skip else "stop"
    expected = extracted(once, whole, on_bad_image=mode)
    found = together(store, whole, in_shards(store, whole, on_bad_image=mode))
    same(store, once, found, expected)
    assert bool(store.manifest(found.key).get("skipped")) is skip
    images_seen()
    again = planned(opened(tmp_path / "images"))
    assert extracted(store, again, on_bad_image=mode) == found
    assert images_seen() == 0


def test_data_without_files(store: FeatureStore, tmp_path: Path) -> None:
    class Noise(Dataset[Any]):
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(index))

    once, whole = FeatureStore(tmp_path / "once"), planned(Noise())
    expected = extracted(once, whole)
    same(store, once, together(store, whole, in_shards(store, whole)), expected)
    images_seen()
    in_shards(store, whole)
    assert images_seen() == 10, "rows were taken from a whole that may be of other data"


def test_what_the_manifest_says(store: FeatureStore, big: Planned) -> None:
    parts = in_shards(store, big)
    shards = [store.manifest(part.key) for part in parts]
    assert {shard["shard_of"] for shard in shards} == {big.key}
    store.path(parts[1].key).with_suffix(".json").write_text(
        json.dumps({**shards[1], "extractor": {**shards[1]["extractor"], "device": "cuda:1"}})
    )
    said = store.manifest(together(store, big, parts).key)
    assert said["seconds"] == round(sum(shard["seconds"] for shard in shards), 3)
    assert said["images_per_second"] == round(10 / sum(shard["seconds"] for shard in shards), 2)
    assert said["extractor"] == {**shards[0]["extractor"], "device": "cpu, cuda:1"}
    assert said["shards"]["of"] == big.key
    assert [(one["key"], one["rows"], one["digest"]) for one in said["shards"]["parts"]] == [
        (part.key, part.shape[0], part.digest) for part in parts
    ]
    assert "shard_of" not in said


def test_little_memory_is_used(store: FeatureStore, tmp_path: Path) -> None:
    whole = planned(Images(tmp_path / "images", 10))
    rng = np.random.default_rng(0)
    parts = []
    for one in shards_of(whole, size=SIZE):
        features = rng.normal(size=(len(one.dataset), 700_000)).astype(np.float32)  # 11 MB
        parts.append(store.put(one.key, features, source=one.source, extractor=IDENTITY, shard_of=whole.key))
    tracemalloc.start()
    found = together(store, whole, parts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20
    assert found.shape == (10, 700_000)
    assert codec.verify(store.path(whole.key)) == found.digest


# What becomes of the shards


def keys(store: FeatureStore) -> set[str]:
    return set(store.keys())


def test_shards_go_with_all_that_belongs_to_them(store: FeatureStore, tmp_path: Path) -> None:
    whole = planned(Images(tmp_path / "images", 10, bad=[5]))
    parts = in_shards(store, whole, on_bad_image="skip")
    shards = shards_of(whole, size=SIZE)
    for key in {part.key for part in parts} | {one.key for one in shards}:
        for kind in ("records", "results"):
            (store.cache_dir / "prefect" / kind).mkdir(parents=True, exist_ok=True)
            (store.cache_dir / "prefect" / kind / key).write_text("{}")
    found = together(store, whole, parts)
    assert keys(store) == {found.key}
    left = {path.name for path in store.cache_dir.rglob("*") if path.is_file() and "locks" not in path.parts}
    assert left == {f"{found.key}.pkl", f"{found.key}.json", f"{found.key}.files", f"{whole.key}.skipped.json"}


def alike(tmp_path: Path) -> Planned:
    """Two shards that are equal once their bad images are left out: one entry, and a note for each."""
    dataset = Images(tmp_path / "images", 3, bad=[0, 2])
    return planned(Subset(dataset, [0, 0, 0, 0, 1, 1, 2]), batch=1)


def notes(store: FeatureStore) -> set[str]:
    """The keys about which anything is noted: bad images, and who computed them."""
    found = [*store.cache_dir.glob("*.skipped.json"), *store.cache_dir.glob(f"locks/{'?' * 32}.holder")]
    return {path.name[:32] for path in found}


def test_shards_that_are_equal_without_their_bad_images_go_with_their_notes(
    store: FeatureStore, tmp_path: Path
) -> None:
    whole = alike(tmp_path)
    options = {"batch": 1, "on_bad_image": "skip"}
    parts = in_shards(store, whole, size=5, **options)
    assert parts[0] == parts[1]
    found = assemble(store, whole, parts, size=5)
    same(store, once := FeatureStore(tmp_path / "once"), found, extracted(once, whole, **options))
    assert notes(store) == {whole.key}


def test_a_shard_stays_with_its_notes_while_one_that_is_equal_to_it_is_needed(
    store: FeatureStore, tmp_path: Path
) -> None:
    whole = alike(tmp_path)
    parts = in_shards(store, whole, size=5, batch=1, on_bad_image="skip")
    shards = [one.key for one in shards_of(whole, size=5)]
    found = assemble(store, whole, parts, size=5, spare={shards[1]})
    assert keys(store) == {found.key, parts[1].key}
    assert notes(store) >= {whole.key, *shards}
    assert drop_leftovers(store, whole, found, size=5) > 0
    assert keys(store) == {found.key}
    assert notes(store) == {whole.key}


def test_a_run_that_is_killed_while_it_drops_equal_shards_leaves_no_notes(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = alike(tmp_path)
    parts = in_shards(store, whole, size=5, batch=1, on_bad_image="skip")
    found = assemble(store, whole, parts, size=5, keep=True)
    for name in ("forget_notes", "drop_shard"):
        for done in (0, 1):
            with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
                interrupt(patch, name, after=done)
                drop_leftovers(store, whole, found, size=5)
    drop_leftovers(store, whole, found, size=5)
    assert keys(store) == {found.key}
    assert notes(store) == {whole.key}


def interrupt(patch: pytest.MonkeyPatch, name: str, *, after: int) -> None:
    """End the process, as it were, at a call of the store: when so many of them were done."""
    real, calls = getattr(FeatureStore, name), iter(range(100))

    def call(*arguments: Any, **options: Any) -> Any:
        if next(calls) == after:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    patch.setattr(FeatureStore, name, call)


def test_they_are_kept_on_request(store: FeatureStore, big: Planned) -> None:
    parts = in_shards(store, big)
    together(store, big, parts, keep=True)
    assert keys(store) == {big.key, *(part.key for part in parts)}
    together(store, big, parts, spare={parts[1].key})
    assert keys(store) == {big.key, parts[1].key}


def test_living_processes_have_used_them(store: FeatureStore, big: Planned) -> None:
    parts = in_shards(store, big)
    for part in parts:
        part.load()
        assert store.remove(part.key) == 0
    child = os.fork()
    if child == 0:
        locks.use(store.cache_dir, parts[0].key)
        os.kill(os.getpid(), 19)  # it is stopped until it is killed
    os.waitpid(child, os.WUNTRACED)
    try:
        together(store, big, parts)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert keys(store) == {big.key}


def test_one_that_is_being_computed_stays(store: FeatureStore, big: Planned) -> None:
    parts = in_shards(store, big)
    with ThreadPoolExecutor(1) as pool, store.lock(parts[1].key):
        pool.submit(together, store, big, parts).result()
    assert keys(store) == {big.key, parts[1].key}


@pytest.mark.parametrize("fresh", [True, False], ids=["used", "replaced"])
def test_what_somebody_had_as_a_subset_stays(store: FeatureStore, big: Planned, fresh: bool) -> None:
    """Also where it was stale, and made again by the way."""
    mine = extracted(store, shards_of(big, size=SIZE)[1])
    if not fresh:
        os.utime(Path(big.dataset.root, "005.png"), ns=(1, 1))
        big = planned(big.dataset)
    images_seen()
    parts = in_shards(store, big)
    assert images_seen() == (6 if fresh else 10)
    together(store, big, parts)
    assert keys(store) == {big.key, mine.key}
    assert "shard_of" not in store.manifest(mine.key)


def test_a_shard_of_another_whole_is_the_others_to_drop(store: FeatureStore, big: Planned) -> None:
    smaller = planned(Subset(big.dataset, range(8)))
    parts = in_shards(store, big)
    images_seen()
    assert in_shards(store, smaller) == parts[:2]
    assert images_seen() == 0
    together(store, smaller, parts[:2])
    assert keys(store) == {smaller.key, *(part.key for part in parts)}
    together(store, big, parts)
    assert keys(store) == {smaller.key, big.key}


@pytest.mark.parametrize("skip", [False, True])
def test_what_a_killed_run_left_is_dropped_by_the_next(store: FeatureStore, tmp_path: Path, skip: bool) -> None:
    dataset = Images(tmp_path / "images", 10, bad=[0, 1, 2, 3, 6] if skip else [])
    whole = planned(dataset)
    parts = in_shards(store, whole, on_bad_image="skip")
    found = together(store, whole, parts, keep=True)  # as if it were killed just then
    assert drop_leftovers(store, whole, found, size=SIZE, spare={part.key for part in parts}) == 0
    assert drop_leftovers(store, whole, found, size=99) > 0  # the manifest knows what the size was
    assert keys(store) == {found.key}
    assert drop_leftovers(store, whole, found, size=99) == 0
    assert len(list(store.cache_dir.glob("*.skipped.json"))) == skip


def test_left_over_shards_of_a_whole_that_was_extracted_at_once(store: FeatureStore, big: Planned) -> None:
    in_shards(store, big)
    found = extracted(store, big)
    assert drop_leftovers(store, big, found, size=99) == 0
    assert drop_leftovers(store, big, found, size=SIZE) > 0
    assert keys(store) == {found.key}


def test_shards_go_at_the_remote_too(tmp_path: Path, big: Planned) -> None:
    mirror.remote_at.cache_clear()
    store = FeatureStore(tmp_path / "cache", remote=f"file://{tmp_path}/remote")
    parts = in_shards(store, big)
    there = tmp_path / "remote"
    assert len(list(there.iterdir())) == 9
    elsewhere = FeatureStore(tmp_path / "elsewhere", remote=f"file://{tmp_path}/remote")
    found = together(elsewhere, big, parts)
    assert sorted(path.name for path in there.iterdir()) == [f"{big.key}.{end}" for end in ("files", "json", "pkl")]
    assert keys(elsewhere) == {big.key}
    assert drop_leftovers(store, big, store.find(big.key) or found, size=SIZE) > 0
    assert keys(store) == {big.key}
    mirror.remote_at.cache_clear()


def test_a_remote_that_is_down_keeps_its_copies(tmp_path: Path, big: Planned, caplog: pytest.LogCaptureFixture) -> None:
    mirror.remote_at.cache_clear()
    store = FeatureStore(tmp_path / "cache", remote=f"file://{tmp_path}/remote")
    parts = in_shards(store, big)
    shutil.rmtree(tmp_path / "remote")
    (tmp_path / "remote").touch()
    together(store, big, parts)
    assert keys(store) == {big.key}
    assert [line for line in caplog.messages if "remote" in line]
    mirror.remote_at.cache_clear()


# Shards that cannot be used


def spoil(store: FeatureStore, key: str) -> None:
    """Flip a bit, and keep the times."""
    path = store.path(key)
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[80] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_flipped_bit_is_found_put_aside_and_mended(store: FeatureStore, big: Planned, tmp_path: Path) -> None:
    parts = in_shards(store, big)
    spoil(store, parts[1].key)
    with pytest.raises(DamagedShardError) as caught:
        together(store, big, parts)
    assert str(caught.value) == (
        f"{parts[1].path} does not hold what its manifest says: bits have changed, so that big [2/3] is lost."
        " It is extracted again when this is tried again"
    )
    assert caught.value.key == parts[1].key
    assert can_pass(caught.value)
    assert keys(store) == {parts[0].key, parts[2].key}
    assert len(list((store.cache_dir / "quarantine").glob("*.pkl"))) == 1
    images_seen()
    found = together(store, big, in_shards(store, big))
    assert images_seen() == 4
    assert found.digest == extracted(FeatureStore(tmp_path / "once"), big).digest


@pytest.mark.parametrize("how", ["gone", "cut short"])
def test_a_shard_that_is_gone(store: FeatureStore, big: Planned, how: str) -> None:
    parts = in_shards(store, big)
    path = store.path(parts[2].key)
    if how == "gone":
        path.unlink()
    else:
        os.truncate(path, 100)
    with pytest.raises(DamagedShardError, match=r"^the features of big \[3/3\] are gone from ") as caught:
        together(store, big, parts)
    assert caught.value.key == parts[2].key
    assert together(store, big, in_shards(store, big)).shape == (10, 3)


def adopted(store: FeatureStore, one: Planned) -> None:
    store.path(one.key).write_bytes(pickle.dumps(np.ones((4, 3), np.float32)))


def of_another_extractor(store: FeatureStore, one: Planned) -> None:
    """As ``get_or_compute`` of somebody's own function under the same suffix stores it."""
    source = source_of(one.dataset, suffix=SUFFIX, batch_size=BATCH)
    store.put(one.key, np.ones((4, 3), np.float32), source=source)


def in_another_order(store: FeatureStore, one: Planned) -> None:
    source = source_of(one.dataset, suffix=SUFFIX, batch_size=BATCH, row_order="loader", extractor=IDENTITY)
    store.put(one.key, np.ones((4, 3), np.float32), source=source)


def of_another_width(store: FeatureStore, one: Planned) -> None:
    store.put(one.key, np.ones((4, 5), np.float32), source=one.source)


def stale(store: FeatureStore, one: Planned) -> None:
    """With ``on_stale: reuse`` it is found all the same."""
    before = os.stat(one.dataset.dataset.root / "004.png")
    os.utime(one.dataset.dataset.root / "004.png", ns=(1, 1))
    store.put(one.key, np.ones((4, 3), np.float32), source=planned(one.dataset).source)
    os.utime(one.dataset.dataset.root / "004.png", ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("plant", [adopted, of_another_extractor, in_another_order, of_another_width, stale])
def test_what_was_not_made_like_the_others_is_put_aside(
    tmp_path: Path, big: Planned, plant: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole says that all of it was made by this extractor from these images in this order."""
    store = FeatureStore(tmp_path / "cache", on_stale="reuse")
    plant(store, shards_of(big, size=SIZE)[1])
    parts = in_shards(store, big)
    with pytest.raises(DamagedShardError, match="It is extracted again"):
        together(store, big, parts)
    assert not store.path(big.key).exists()
    assert len(list((store.cache_dir / "quarantine").glob("*.pkl"))) == 1, "it is lost"
    found = together(store, big, in_shards(store, big))
    assert found.digest == extracted(FeatureStore(tmp_path / "once"), big).digest


def test_a_stale_shard_and_on_stale_error(tmp_path: Path, big: Planned) -> None:
    store = FeatureStore(tmp_path / "cache", on_stale="error")
    stale(store, shards_of(big, size=SIZE)[1])
    with pytest.raises(StaleEntryError):
        in_shards(store, big)


def test_a_read_error_can_pass(store: FeatureStore, big: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = in_shards(store, big)
    real = codec.blocks_of

    def fail(source: Any, *, start: int = 0) -> Iterator[memoryview]:
        if start:
            raise OSError(errno.EIO, "Input/output error")
        return real(source, start=start)

    monkeypatch.setattr(codec, "blocks_of", fail)
    with pytest.raises(Exception, match=r"^cannot read .*: Input/output error$") as caught:
        together(store, big, parts)
    assert can_pass(caught.value)
    assert keys(store) == {part.key for part in parts}, "something was put aside"


# Images that cannot be read


def test_a_shard_of_bad_images_alone(store: FeatureStore, tmp_path: Path) -> None:
    whole = planned(Images(tmp_path / "images", 10, bad=[4, 5, 6, 7]))
    for _ in range(2):  # the second time they are known
        parts = in_shards(store, whole, on_bad_image="skip")
        assert [part.shape for part in parts] == [(4, 3), (0, 0), (2, 3)]
    found = together(store, whole, parts)
    assert found.shape == (6, 3)
    assert [Path(one["path"]).stem for one in store.manifest(found.key)["skipped"]] == ["004", "005", "006", "007"]
    same(store, once := FeatureStore(tmp_path / "once"), found, extracted(once, whole, on_bad_image="skip"))


def test_bad_images_that_are_not_remembered_are_found_again(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk, or on another machine."""
    whole = planned(Images(tmp_path / "images", 10, bad=[0, 5]))
    parts = in_shards(store, whole, on_bad_image="skip")
    for path in store.cache_dir.glob("*.skipped.json"):
        path.unlink()
    found = together(store, whole, parts)
    same(store, once := FeatureStore(tmp_path / "once"), found, extracted(once, whole, on_bad_image="skip"))


def test_an_image_that_can_be_read_by_now(store: FeatureStore, tmp_path: Path) -> None:
    whole = planned(Images(tmp_path / "images", 10, bad=[0, 5]))
    parts = in_shards(store, whole, on_bad_image="skip")
    for path in store.cache_dir.glob("*.skipped.json"):
        path.unlink()
    whole.dataset.bad.clear()
    with pytest.raises(DamagedShardError, match=r"other images of big \[1/3\] can be read than when") as caught:
        together(store, whole, parts)
    assert caught.value.key == parts[0].key
    assert together(store, whole, in_shards(store, whole, on_bad_image="skip")).shape == (10, 3)


@pytest.mark.parametrize("on_bad_image", ["stop", "skip"])
def test_a_file_system_that_fails_is_no_bad_image(store: FeatureStore, tmp_path: Path, on_bad_image: str) -> None:
    """Nothing is left out for that, and nothing is remembered."""
    whole = planned(Images(tmp_path / "images", 10))

    def fail(index: int) -> torch.Tensor:
        raise ImageReadError(f"{index}.png", "stale file handle", errno=errno.ESTALE)

    whole.dataset.__class__ = type("Failing", (Images,), {"__getitem__": lambda self, index: fail(index)})
    with pytest.raises(ImageReadError, match="stale file handle") as caught:
        extracted(store, whole, on_bad_image=on_bad_image)
    assert can_pass(caught.value)
    assert files(store) == {}


# A full disk


@pytest.mark.parametrize("bad", [False, True], ids=["all good", "some bad"])
@pytest.mark.parametrize("room", [0, 1, 3], ids=["for nothing", "for a shard", "for all shards"])
def test_nothing_that_was_computed_is_lost_to_a_full_disk(  # noqa: PLR0917 - fixtures
    store: FeatureStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    room: int,
    bad: bool,
) -> None:
    w = planned(Images(tmp_path / "images", 10, [1, 6] if bad else []))
    expected = extracted(FeatureStore(tmp_path / "once"), w, on_bad_image="skip")
    real, left = codec.write_blocks, room

    def write(*arguments: Any, **options: Any) -> str:
        nonlocal left
        left -= 1
        if left < 0:
            list(arguments[0])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(codec, "write_blocks", write)
    parts = in_shards(store, w, on_bad_image="skip")
    assert [part.unsaved is None for part in parts] == [number < room for number in range(3)]
    if not room:
        for path in store.cache_dir.glob("*.skipped.json"):
            path.unlink()
    images_seen()
    found = together(store, w, parts)
    assert images_seen() == 0
    assert found.unsaved is not None
    assert (found.key, found.digest) == (expected.key, expected.digest)
    assert np.array_equal(found.load(), expected.load())
    assert "used in this run, and the next one has to put them together again" in caplog.messages[-1]
    assert len(keys(store)) == room, "shards were dropped although there is no whole"
    monkeypatch.undo()
    assert together(store, w, parts).unsaved is None


# Several at once


def test_a_whole_that_is_there_is_used(store: FeatureStore, big: Planned) -> None:
    parts = in_shards(store, big)
    first = together(store, big, parts)
    assert together(store, big, parts) == first
    again = in_shards(store, big)
    assert together(store, big, again) == first
    assert keys(store) == {big.key}


def test_force_writes_it_anew(store: FeatureStore, big: Planned) -> None:
    wrong = store.put(big.key, np.ones((10, 3), np.float32), source=big.source)
    parts = in_shards(store, big)
    assert together(store, big, parts, keep=True) == wrong
    assert together(store, big, parts, force=True).digest != wrong.digest
    assert keys(store) == {big.key}


def test_who_comes_late_takes_a_dropped_shard_from_the_whole(store: FeatureStore, big: Planned) -> None:
    """Two runs at once: one has put all together while the other waited for its second shard."""
    theirs = in_shards(store, big)
    whole = together(store, big, theirs)
    images_seen()
    mine = in_shards(store, big)
    assert images_seen() == 0
    assert mine == theirs
    assert together(store, big, mine) == whole
    assert keys(store) == {big.key}


def test_shards_whose_images_have_not_changed_are_taken_from_a_stale_whole(
    store: FeatureStore, big: Planned, tmp_path: Path
) -> None:
    old = together(store, big, in_shards(store, big))
    images_seen()
    os.utime(tmp_path / "images" / "005.png", ns=(1, 1))
    now = planned(big.dataset)
    parts = in_shards(store, now)
    assert images_seen() == 4
    found = together(store, now, parts)
    assert found.digest == old.digest
    assert store.look(now.key, source=now.source).status == "hit"
    assert keys(store) == {big.key}


@pytest.mark.parametrize("change", ["bits", "rows", "extractor", "digest", "shards"])
def test_a_whole_that_is_not_believed(store: FeatureStore, big: Planned, change: str) -> None:
    whole = together(store, big, in_shards(store, big))
    path = store.path(big.key).with_suffix(".json")
    said = json.loads(path.read_text())
    if change == "bits":
        content = bytearray(store.path(big.key).read_bytes())
        content[64:184] = bytes(byte ^ 1 for byte in content[64:184])  # every row
        status = store.path(big.key).stat()
        store.path(big.key).write_bytes(content)
        os.utime(store.path(big.key), ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "rows":
        for one in said["shards"]["parts"]:
            one["rows"] = "4"
    elif change == "extractor":
        said["extractor"]["version"] = 0
    elif change == "digest":
        for one in said["shards"]["parts"]:
            del one["digest"]
    else:
        said["shards"] = {"of": 3, "parts": [4, {}]}
    path.write_text(json.dumps(said))
    images_seen()
    parts = in_shards(store, big)
    assert images_seen() == 10
    assert together(store, big, parts, force=True).digest == whole.digest


def test_a_lock_keeps_others_from_the_whole(store: FeatureStore, big: Planned) -> None:
    parts = in_shards(store, big)
    with ThreadPoolExecutor(4) as pool:
        found = {future.result() for future in [pool.submit(together, store, big, parts) for _ in range(4)]}
    assert len(found) == 1
    assert keys(store) == {big.key}
    lock = FileLock(store.cache_dir / "locks" / f"{big.key}.lock")
    with lock.acquire(timeout=0):
        pass


def test_a_request_stops_it(store: FeatureStore, big: Planned) -> None:
    parts = in_shards(store, big)
    with stopping.listening():
        stopping.request()
        with pytest.raises(StoppedError):
            together(store, big, parts)
    assert keys(store) == {part.key for part in parts}
    assert together(store, big, parts).shape == (10, 3)


def test_the_log_says_little(store: FeatureStore, big: Planned, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        together(store, big, in_shards(store, big))
    assert caplog.messages == []
