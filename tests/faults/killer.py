"""Run by test_crash.py in a process of its own: kills at every step of everything that changes an entry."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from steps import in_child

from simet_cache.atomic import sweep
from simet_cache.listing import Fingerprint
from simet_cache.manifest import Source
from simet_cache.store import FeatureStore

KEY = "0" * 32
SOURCE = Source(fingerprint=Fingerprint.of([(1, 2, "-", "a.png")]))
RENAMES = range(4)  # of one put: manifest, features, list of files, manifest in its place

os.fsync = lambda handle: None  # the step is there, and no killed process can tell that it does nothing


def array(value: int) -> np.ndarray:
    """Of one of two shapes; every element says which one it is."""
    return np.full((8 + value % 2, 500), value, dtype=np.float32)


def put(store: FeatureStore, value: int) -> None:
    store.put(KEY, array(value), source=SOURCE, value=value)


def value_of(store: FeatureStore) -> int | None:
    """Which array is found. It is whole, and its manifest is the one that was put with it."""
    found = store.find(KEY)
    if found is None:
        return None
    loaded = found.load(copy=True)
    value = int(loaded[0, 0])
    assert np.array_equal(loaded, array(value)), "half an entry"
    assert store.manifest(KEY).get("value", value) == value, "the manifest of other features"
    assert store.manifest(KEY)["features"]["digest"] == found.digest
    assert np.array_equal(found.load(), loaded)
    return value


def kept(store: FeatureStore) -> list[bytes]:
    return [path.read_bytes() for path in (store.cache_dir / "quarantine").glob("*.pkl")]


def all_is_well(store: FeatureStore, *, quarantined: int = 0) -> None:
    """The next writer works, and nothing stays behind."""
    put(store, 98)
    assert value_of(store) == 98
    sweep(store.cache_dir, now=time.time() + 100)
    files = {path.name for path in store.cache_dir.iterdir() if path.is_file()}
    assert files == {f"{KEY}.pkl", f"{KEY}.json", f"{KEY}.files"}, files
    assert len(kept(store)) == quarantined, "an entry was put aside"


def every_step(
    folder: Path, work: Callable[[FeatureStore], object], ready: Callable[[FeatureStore], object]
) -> Iterator[FeatureStore]:
    """A store in which ``ready`` was done, and then ``work`` up to one of its steps, for each of them."""
    for at in itertools.count():
        stores = []
        for after in (False, True):
            store = FeatureStore(folder / f"{at}-{after}")
            ready(store)
            if in_child(lambda store=store: work(store), at=at, after=after):  # type: ignore[misc]
                stores.append(store)
        yield from stores
        for store in stores:
            shutil.rmtree(store.cache_dir)
        if not stores:
            print(2 * at)
            return


def puts(folder: Path) -> None:
    """Old or new, and new once it was seen."""
    for old, new in ((None, 1), (0, 2), (0, 1)):
        seen = set()

        def ready(store: FeatureStore, old: int | None = old) -> None:
            if old is not None:
                put(store, old)

        for store in every_step(folder / str(new), lambda store, new=new: put(store, new), ready):  # type: ignore[misc]
            seen.add(value_of(store))
            all_is_well(store)
        assert seen == {old, new}, seen


def forced(folder: Path) -> None:
    """As ``puts``, with the locks of a computation."""
    for store in every_step(
        folder,
        lambda store: store.get_or_compute(KEY, lambda: array(1), force=True, details=lambda: {"value": 1}),
        lambda store: put(store, 0),
    ):
        assert value_of(store) in (0, 1)
        found = store.get_or_compute(KEY, lambda: array(2), force=True, details=lambda: {"value": 2})
        assert (value_of(store), found.shape[0]) == (2, 8)
        all_is_well(store)


def chained(folder: Path) -> None:
    """One kill after the other, in one folder that nobody tidies up."""
    store = FeatureStore(folder)
    put(store, 0)
    before, seen = 0, 0
    for at in itertools.count():
        for after in (False, True):
            value = 1 + 2 * at + after
            killed = in_child(lambda value=value: put(store, value), at=at, after=after)  # type: ignore[misc]
            found = value_of(store)
            assert found in (before, value), (found, before, value)
            seen += found == value
            before = found
        if not killed:
            print(2 * at, seen)
            break
    all_is_well(store)


def twice(folder: Path, renames: Iterable[int] = RENAMES[1:2]) -> None:
    """A writer is killed between its renames, and so is the next one, which finds what the first left."""

    def first(store: FeatureStore) -> None:
        put(store, 0)
        renamed = 0

        def work() -> None:
            nonlocal renamed
            replace = os.replace

            def replaced(*arguments: str) -> None:
                nonlocal renamed
                replace(*arguments)
                renamed += 1
                if renamed > last:
                    os._exit(0)

            os.replace = replaced  # type: ignore[assignment]
            put(store, 2)

        in_child(work, at=-1, after=False)

    for last in renames:
        for store in every_step(folder / str(last), lambda store: put(store, 4), first):
            assert value_of(store) in (0 if last < 1 else 2, 4)
            all_is_well(store)


def twice_anywhere(folder: Path) -> None:
    """Between any two of them."""
    twice(folder, RENAMES)


def readers(folder: Path) -> None:
    """What a reader writes down: of another program's file, of a copy without its times, after a killed writer."""

    def foreign(store: FeatureStore) -> None:
        store.path(KEY).write_bytes(pickle.dumps(array(1)))

    def copied(store: FeatureStore) -> None:
        put(store, 1)
        os.utime(store.path(KEY), ns=(1, 1))

    def interrupted(store: FeatureStore) -> None:
        put(store, 1)
        said = store.path(KEY).with_suffix(".json")
        said.replace(said.with_suffix(".next.json"))
        put(FeatureStore(store.cache_dir / "other"), 0)
        (store.cache_dir / "other" / said.name).replace(said)
        shutil.rmtree(store.cache_dir / "other")

    for ready in (foreign, copied, interrupted):
        for store in every_step(folder / ready.__name__, lambda store: store.find(KEY), ready):
            assert value_of(store) == 1
            assert store.manifest(KEY).get("adopted", False) == (ready is foreign)
            all_is_well(store)


def described(folder: Path) -> None:
    """``say_source`` of an entry that says nothing yet of what it was made from."""
    source = Source(components={"suffix": "x"}, fingerprint=SOURCE.fingerprint)
    for store in every_step(
        folder, lambda store: store.say_source(KEY, source), lambda store: store.put(KEY, array(1), value=1)
    ):
        assert value_of(store) == 1
        assert store.manifest(KEY)["components"] in ({}, {"suffix": "x"})
        store.say_source(KEY, source)
        assert store.manifest(KEY)["components"] == {"suffix": "x"}
        all_is_well(store)


def quarantines(folder: Path) -> None:
    """A damaged file is where it was or in quarantine, and never gone."""

    def damaged(store: FeatureStore) -> None:
        put(store, 1)
        os.truncate(store.path(KEY), 1000)

    for store in every_step(folder, lambda store: store.find(KEY), damaged):
        assert value_of(store) is None
        assert [len(content) for content in kept(store)] == [1000]
        all_is_well(store, quarantined=1)


def removals(folder: Path) -> None:
    """An entry is there or gone; what is left of it goes with the next one."""
    for store in every_step(folder, lambda store: store.remove(KEY), lambda store: put(store, 1)):
        seen = store.look(KEY)
        assert seen.status in ("hit", "miss"), seen
        assert seen.status == "miss" or seen.entry["value"] == 1
        assert json.dumps(seen.entry)
        all_is_well(store)


if __name__ == "__main__":
    name, folder = sys.argv[1:]
    globals()[name](Path(folder))
