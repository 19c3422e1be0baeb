"""Whatever is done to a cache, in whatever order: it hands out what was put, bit by bit, or nothing."""

from __future__ import annotations

import itertools
import os
import pickle
import runpy
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from simet_cache import codec, locks, manifest
from simet_cache import store as store_module
from simet_cache.atomic import sweep
from simet_cache.errors import DamagedEntryError, MissingEntryError, StaleEntryError
from simet_cache.featureset import FeatureSet
from simet_cache.listing import Fingerprint
from simet_cache.manifest import Source
from simet_cache.store import FeatureStore

Steps: Any = runpy.run_path(str(Path(__file__).parent / "faults" / "steps.py"))["Steps"]

KEYS = ["0" * 32, "1" * 32]
HEAD = 64
keys = st.sampled_from([*KEYS[:1] * 3, *KEYS[1:]])  # more happens to the first
shapes = st.sampled_from([(2, 3), (4, 3), (40, 30)])
dtypes = st.sampled_from([np.float16, np.float32, np.float64])
sources = st.sampled_from([1, 2, None])


class Crash(BaseException):
    """The end, at one of the steps of a put."""


def source(number: int | None) -> Source | None:
    """The images as they are at some time; None where nobody asks."""
    return None if number is None else Source(fingerprint=Fingerprint.of([(number, number, "-", "a.png")]))


@dataclass
class Known:
    """What the model knows of an entry.

    Attributes:
        array: What was put there.
        value: What its manifest says of it; None where another program wrote it, or nobody knows any more.
        source: What it was made from.
        ours: Whether this program wrote it.
        damaged: Whether it has to be found missing, and put aside.
    """

    array: np.ndarray
    value: int | None = None
    source: int | None = None
    ours: bool = True
    damaged: bool = False


@dataclass
class Counted:
    """Computes an array, and counts how often."""

    array: np.ndarray
    times: list[int] = field(default_factory=list)

    def __call__(self) -> np.ndarray:
        self.times.append(threading.get_ident())
        return self.array


class StoreMachine(RuleBasedStateMachine):
    """A folder with two stores on it, and a dict."""

    def __init__(self) -> None:
        super().__init__()
        self._home = tempfile.TemporaryDirectory()
        self.model: dict[str, Known] = {}
        self.unreadable: set[str] = set()  # manifests
        self.used: set[str] = set()
        self.handles: list[tuple[FeatureSet, np.ndarray]] = []
        self.count = 0
        self.changes = itertools.count(1000)
        self.put_aside = 0
        self._fsync = mock.patch.object(os, "fsync")  # nothing here loses its power
        self._fsync.start()
        self.folder = Path(self._home.name) / "cache 0"
        self.open_stores()

    def open_stores(self) -> None:
        self.stores = [FeatureStore(self.folder) for _ in range(2)]

    def teardown(self) -> None:
        self._end_process()
        self._fsync.stop()
        self._home.cleanup()

    # What the rules are made of

    def array(self, shape: tuple[int, int], dtype: Any) -> np.ndarray:
        """One that never was before."""
        self.count += 1
        return (np.arange(shape[0] * shape[1]).reshape(shape) % 7 + self.count).astype(dtype)

    def know(self, key: str, known: Known) -> None:
        self.model[key] = known
        self.unreadable.discard(key)

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.pkl"

    def missing(self, key: str) -> bool:
        return key not in self.model or self.model[key].damaged

    def quarantined(self) -> int:
        return len(list((self.folder / "quarantine").glob("*.pkl")))

    def check(self, key: str, found: FeatureSet) -> None:
        """It is what the model says, however it is read."""
        known = self.model[key]
        self.used.add(key)
        for loaded in (found.load(), found.load(copy=True)):
            assert loaded.dtype == known.array.dtype
            assert np.array_equal(loaded, known.array)
        assert found.digest == codec.digest(known.array)
        self.handles.append((found, known.array))
        said = self.stores[0].manifest(key)
        assert said["features"]["digest"] == found.digest
        assert said.get("value") == known.value
        assert said.get("adopted", False) == (known.value is None)

    def found(self, key: str, found: FeatureSet | None, *, expected: bool = True) -> None:
        """A damaged entry is missing from now on, and put aside."""
        self.used.add(key)
        if key in self.model and self.model[key].damaged:
            del self.model[key]
            self.unreadable.discard(key)
            self.put_aside += 1
            expected = False
        if key in self.model and expected:
            assert found is not None, "it was put and is not found"
            self.check(key, found)
        else:
            assert found is None
        assert self.quarantined() == self.put_aside

    def is_stale(self, key: str, now: int | None) -> bool:
        return key in self.model and None not in (now, self.model[key].source) and now != self.model[key].source

    # To put

    @rule(key=keys, shape=shapes, dtype=dtypes, made_from=sources, which=st.integers(0, 1), keep=st.booleans())
    def put(
        self, *, key: str, shape: tuple[int, int], dtype: Any, made_from: int | None, which: int, keep: bool
    ) -> None:
        array = self.array(shape, dtype)
        store = self.stores[which]
        put = (store.keep if keep else store.put)(key, array, source=source(made_from), value=self.count)
        assert put.unsaved is None
        self.know(key, Known(array, self.count, made_from))
        self.check(key, put)

    @rule(key=keys, shape=shapes, at=st.integers(0, 45), after=st.booleans())
    def crash(self, key: str, shape: tuple[int, int], at: int, after: bool) -> None:
        """Old or new; which of them, the folder tells."""
        array = self.array(shape, np.float32)
        try:
            with Steps(self._crash, at=at, after=after, through=("close", "unlock")):
                self.stores[0].put(key, array, value=self.count)
            crashed = False
        except Crash:
            crashed = True
        sweep(self.folder, now=time.time() + 100)
        seen = self.stores[0].look(key)
        if not crashed or (seen.features and seen.features.digest == codec.digest(array)):
            self.know(key, Known(array, self.count))

    @staticmethod
    def _crash() -> None:
        raise Crash

    # To find

    @rule(key=keys, which=st.integers(0, 1), right=st.booleans())
    def find(self, key: str, which: int, right: bool) -> None:
        rows = self.model[key].array.shape[0] if key in self.model and right else None
        self.found(key, self.stores[which].find(key, rows=rows))

    @rule(key=keys)
    def find_other_rows(self, key: str) -> None:
        self.found(key, self.stores[0].find(key, rows=3), expected=False)

    @rule(key=keys, now=sources, on_stale=st.sampled_from(["recompute", "reuse", "error"]))
    def find_what_may_be_stale(self, key: str, now: int | None, on_stale: Any) -> None:
        store = FeatureStore(self.folder, on_stale=on_stale)
        stale = self.is_stale(key, now) and not self.missing(key)
        if stale and on_stale == "error":
            with pytest.raises(StaleEntryError):
                store.find(key, source=source(now))
            self.used.add(key)
        else:
            self.found(key, store.find(key, source=source(now)), expected=not stale or on_stale == "reuse")

    @rule(which=st.integers(0, 1 << 16), copy=st.booleans())
    def load_an_old_handle(self, which: int, copy: bool) -> None:
        """It gives what it was a handle on, or an error, whatever stands there now."""
        if not self.handles:
            return
        handle, array = self.handles[which % len(self.handles)]
        if Path(handle.path).parent == self.folder:
            self.used.add(handle.key)
        try:
            loaded = handle.load(copy=copy)
        except (DamagedEntryError, MissingEntryError):
            known = self.model.get(handle.key)
            assert known is None or known.damaged or known.array is not array or not Path(handle.path).exists()
        else:
            assert np.array_equal(loaded, array)

    @rule(key=keys, shape=shapes, now=sources, force=st.booleans(), rows=st.booleans())
    def get(self, key: str, shape: tuple[int, int], now: int | None, force: bool, rows: bool) -> None:
        compute = Counted(self.array(shape, np.float32))
        known = self.model.get(key)
        damaged = known is not None and known.damaged
        misfit = rows and known is not None and known.array.shape[0] != shape[0]
        miss = force or self.missing(key) or misfit or self.is_stale(key, now)
        value = self.count
        made = self.stores[0].get_or_compute(
            key,
            compute,
            rows=shape[0] if rows else None,
            force=force,
            source=source(now),
            details=lambda: {"value": value},
        )
        assert len(compute.times) == miss
        if miss:
            self.know(key, Known(compute.array, value, now))
            self.put_aside += damaged and not force
        self.check(key, made)
        assert self.quarantined() == self.put_aside

    @rule(key=keys, shape=shapes)
    def get_at_once(self, key: str, shape: tuple[int, int]) -> None:
        """Two threads; where it is missing, one of them computes."""
        compute = Counted(self.array(shape, np.float32))
        value = self.count
        barrier = threading.Barrier(2)

        def get(store: FeatureStore) -> FeatureSet:
            barrier.wait()
            return store.get_or_compute(key, compute, details=lambda: {"value": value})

        miss = self.missing(key)
        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(get, self.stores)
        assert one == other
        assert len(compute.times) == miss
        if miss:
            self.put_aside += key in self.model
            self.know(key, Known(compute.array, value))
        self.check(key, one)
        assert self.quarantined() == self.put_aside

    # What others do

    @rule(key=keys, shape=shapes, dtype=dtypes, in_place=st.booleans())
    def another_program_writes(self, key: str, shape: tuple[int, int], dtype: Any, in_place: bool) -> None:
        array = self.array(shape, dtype)
        path = self.path(key)
        if not in_place:
            path.unlink(missing_ok=True)
        path.write_bytes(pickle.dumps(array))
        self.changed(path)
        self.model[key] = Known(array, ours=False, damaged=key in self.unreadable)

    def changed(self, path: Path) -> None:
        """At a time that no file of this test had before: clocks may tick more slowly than it runs."""
        os.utime(path, ns=(1, next(self.changes) * 10**9))

    @rule(key=keys, how=st.sampled_from(["empty", "half", "byte", "more"]), at=st.integers(0, 1 << 16))
    def damage_features(self, key: str, how: str, at: int) -> None:
        if self.missing(key) or (how == "byte" and not self.model[key].ours):
            return
        path = self.path(key)
        content = path.read_bytes()
        if how == "byte":
            at = HEAD + at % (len(content) - HEAD)
            content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "more": content + b"."}.get(how, content))
        self.changed(path)
        described = path.with_suffix(".json").exists()
        self.model[key].damaged = how != "byte" or described
        if not self.model[key].damaged:
            del self.model[key]
            path.unlink()

    @rule(key=keys, how=st.sampled_from([b"", b"{}", b'{"format": 1}', b"[[", b"\xff"]))
    def damage_manifest(self, key: str, how: bytes) -> None:
        said, another = (self.path(key).with_suffix(suffix) for suffix in (".json", ".next.json"))
        if key in self.model and said.exists() and not another.exists():  # which a killed writer has left
            said.write_bytes(how)
            self.unreadable.add(key)
            self.model[key].damaged = True

    @rule(key=keys, at=st.integers(0, 1 << 16))
    def rot(self, key: str, at: int) -> None:
        """As a disk does, with nobody noting the time: the check of every byte sees it."""
        if self.missing(key) or not self.model[key].ours:
            return
        self.found(key, self.stores[0].find(key))
        path, put = self.path(key), self.stores[0].find(key)
        status, content = path.stat(), bytearray(path.read_bytes())
        content[HEAD + at % self.model[key].array.nbytes] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(1, status.st_mtime_ns))
        assert put is not None
        with pytest.raises(DamagedEntryError):
            put.load(copy=True)
        store_module._VERIFIED.clear()
        self.model[key].damaged = True
        self.found(key, FeatureStore(self.folder, verify="full").find(key))

    @rule(key=keys)
    def lose_manifest(self, key: str) -> None:
        """What it was made from is forgotten, unless a killed writer has left another note."""
        if self.missing(key):
            return
        self.path(key).with_suffix(".json").unlink(missing_ok=True)
        assert self.stores[0].find(key) is not None
        said = self.stores[0].manifest(key)
        assert said.get("value") in (None, self.model[key].value)
        if said.get("adopted"):
            self.model[key].value = self.model[key].source = None
        self.check(key, self.stores[0].find(key))  # type: ignore[arg-type]

    @rule(key=keys)
    def touch(self, key: str) -> None:
        if key in self.model:
            self.changed(self.path(key))

    @rule()
    def move(self) -> None:
        """To another folder, by a program that keeps no times."""
        self._end_process()
        for key, known in self.model.items():
            another = self.path(key).with_suffix(".next.json")
            if another.exists() and not self._readable(another.with_suffix("").with_suffix(".json")):
                known.damaged = True  # it is the other one's time that says that it is about this file
                self.unreadable.add(key)
        copy = Path(self._home.name) / f"cache {self.folder.name.split()[1]}0"
        shutil.copytree(self.folder, copy, copy_function=shutil.copyfile)
        shutil.rmtree(self.folder)
        self.folder = copy
        self.open_stores()

    @staticmethod
    def _readable(said: Path) -> bool:
        try:
            manifest.read(said, said.stem)
        except DamagedEntryError:
            return False
        return True

    # To remove

    @rule(key=keys)
    def remove(self, key: str) -> None:
        freed = self.stores[1].remove(key)
        if key in self.used:
            assert freed == 0
        else:
            assert freed > 0 or self.missing(key)
            self.model.pop(key, None)
            self.unreadable.discard(key)
            assert list(self.folder.glob(f"{key}.*")) == []

    @rule()
    def restart(self) -> None:
        """The next run is another process."""
        self._end_process()
        self.open_stores()

    def _end_process(self) -> None:
        locks.end_uses()
        store_module._VERIFIED.clear()
        store_module._SWEPT.clear()
        self.used.clear()

    # What always holds

    @invariant()
    def looking_agrees(self) -> None:
        for key in KEYS:
            seen = self.stores[0].look(key, full=True)
            if key not in self.model:
                assert seen.status == "miss"
            elif self.model[key].damaged:
                assert seen.status == "damaged"
            else:
                assert seen.status == "hit", seen.reason
                assert seen.features is not None
                assert seen.features.digest == codec.digest(self.model[key].array)
                assert seen.entry.get("value") == self.model[key].value

    @invariant()
    def nothing_is_left_over(self) -> None:
        assert [path.name for path in self.folder.iterdir() if path.name.endswith(".tmp")] == []
        assert self.stores[1].keys() == sorted(self.model)


@pytest.mark.hypothesis
@pytest.mark.parametrize(
    ("examples", "steps"), [(60, 25), pytest.param(600, 40, marks=pytest.mark.slow)], ids=["quick", "long"]
)
def test_the_store_is_a_dict(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            suppress_health_check=list(HealthCheck),
        ),
    )
