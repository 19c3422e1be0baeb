"""Run by test_shards_crash.py in processes of its own: a dataset in three shards, extracted and put together."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from steps import in_child
from torch import nn
from torch.utils.data import Dataset

from simet_cache import extraction
from simet_cache.atomic import sweep
from simet_cache.config import ExtractorConfig
from simet_cache.extraction import extract_to_store
from simet_cache.extractors import Extractor
from simet_cache.featureset import FeatureSet
from simet_cache.key import feature_key
from simet_cache.plan import Planned
from simet_cache.shards import assemble, drop_leftovers, shards_of
from simet_cache.sources import source_of
from simet_cache.store import FeatureStore

IMAGES, SIZE = 10, 4
IDENTITY = {"name": "tiny"}
CONFIG = ExtractorConfig(device="cpu", batch_size=2)

torch.set_num_threads(1)  # a forked process has none of its parent's
os.fsync = lambda handle: None  # the step is there, and no killed process can tell that it does nothing


class Images(Dataset[Any]):
    """Ten images with numbers for contents."""

    def __init__(self, root: Path) -> None:
        self.root, self.files = root, [f"{number}.png" for number in range(IMAGES)]
        root.mkdir(exist_ok=True)
        for file in self.files:
            if not (root / file).exists():
                (root / file).touch()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((3, 2, 2), float(index))


class Tiny(nn.Module):
    """Writes down how many images it was shown."""

    seconds = 0.0

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.log = log

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with self.log.open("ab", buffering=0) as file:
            file.write(b"." * len(images))
        time.sleep(self.seconds)
        return images.mean((2, 3))


def ready(folder: Path) -> tuple[FeatureStore, Planned, Path]:
    """A store, what to extract, and the file in which images are counted."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "seen"
    log.touch()
    extraction.make_extractor = lambda config: Extractor("x", lambda image: image, lambda: Tiny(log).eval(), IDENTITY)
    extraction._models.clear()
    dataset = Images(folder / "images")
    source = source_of(dataset, suffix="x", batch_size=2, extractor=IDENTITY)
    whole = Planned("big", dataset, "x", feature_key(dataset, suffix="x", batch_size=2), source)
    return FeatureStore(folder / "cache"), whole, log


def shards(store: FeatureStore, whole: Planned) -> list[FeatureSet]:
    return [
        extract_to_store(
            store, one.dataset, config=CONFIG, suffix="x", source=one.source, name=one.name, shard_of=whole.key
        )
        for one in shards_of(whole, size=SIZE)
    ]


def run(store: FeatureStore, whole: Planned) -> FeatureSet:
    """What a run does for a dataset."""
    if found := store.find(whole.key, rows=IMAGES, source=whole.source):
        drop_leftovers(store, whole, found, size=SIZE)
        return found
    return assemble(store, whole, shards(store, whole), size=SIZE)


def all_is_well(store: FeatureStore, whole: Planned) -> None:
    """What is there is right; and after the next run, the whole is, and nothing else."""
    for key in list(store.keys()):
        found = store.find(key)
        assert found is not None
        first = 0 if key == whole.key else [one.key for one in shards_of(whole, size=SIZE)].index(key) * SIZE
        assert np.array_equal(found.load(copy=True)[:, 0], np.arange(first, first + len(found.load()))), "wrong entry"
    run(store, whole)
    found = store.find(whole.key, rows=IMAGES, source=whole.source)
    assert found is not None
    assert np.array_equal(found.load(copy=True)[:, 0], np.arange(IMAGES))
    sweep(store.cache_dir, now=time.time() + 100)
    left = {path.name for path in store.cache_dir.iterdir() if path.is_file()}
    names = {f"{whole.key}.{end}" for end in ("pkl", "json", "files")}
    assert left in (names, names - {f"{whole.key}.files"}), left  # the list is for messages, and put in place last
    assert not (store.cache_dir / "quarantine").exists()


def every_step(folder: Path, before: Callable[..., object], work: Callable[..., object], stride: int) -> None:
    """Kill ``work`` at its steps, and run again."""
    worst = 0
    for at in itertools.count(0, stride):
        killed = False
        for after in (False, True):
            here = folder / f"{at}-{after}"
            store, whole, log = ready(here)
            before(store, whole)
            if in_child(lambda store=store, whole=whole: work(store, whole), at=at, after=after):  # type: ignore[misc]
                killed = True
                all_is_well(store, whole)
                worst = max(worst, log.stat().st_size - IMAGES)
            shutil.rmtree(here)
        if not killed:
            print(at, worst)
            return


def putting_together(folder: Path, stride: int) -> None:
    every_step(folder, shards, lambda store, whole: assemble(store, whole, shards(store, whole), size=SIZE), stride)


def a_run(folder: Path, stride: int) -> None:
    every_step(folder, lambda *_: None, run, stride)


def at_once(folder: Path, _: int) -> None:
    """One of several processes."""
    Tiny.seconds = 0.02
    store, whole, _log = ready(folder)
    print("ready", flush=True)
    sys.stdin.readline()
    print(run(store, whole).digest)


def until_killed(folder: Path, _: int) -> None:
    """Extract the second shard for ever."""
    store, whole, _log = ready(folder)
    one = shards_of(whole, size=SIZE)
    extraction.make_extractor = lambda config: Extractor("x", lambda image: image, Forever, IDENTITY)
    extract_to_store(store, one[1].dataset, config=CONFIG, suffix="x", source=one[1].source, shard_of=whole.key)


class Forever(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        print("extracting", flush=True)
        signal.pause()
        return images


if __name__ == "__main__":
    name, where, stride = sys.argv[1:]
    globals()[name](Path(where), int(stride))
