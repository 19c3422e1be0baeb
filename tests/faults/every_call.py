"""Run by test_every_call.py under faults.c: every call to the file system of an operation is the last one, or fails.

An operation is done in a forked process, in a copy of a folder that was made ready for it. What is left then is
looked at by others: every entry is the old or the new one, doing the same again ends well, and nothing stays behind.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import logging
import os
import pickle
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simet_cache import mirror, remote
from simet_cache.archive import export, import_archive
from simet_cache.atomic import sweep
from simet_cache.derived import Derived, Recipe
from simet_cache.errors import SimetCacheError
from simet_cache.featureset import FeatureSet
from simet_cache.listing import Fingerprint
from simet_cache.manifest import Source
from simet_cache.prune import Limits, prune
from simet_cache.store import FeatureStore
from simet_cache.upkeep import verify

assert mirror, remote  # what is imported late is imported before calls fail
KEYS = [f"{number:032x}" for number in range(4)]
KEY = KEYS[0]
BEFORE, NOW = (Source(fingerprint=Fingerprint.of([(1, moment, "-", "a.png")])) for moment in (1, 2))
KILL, SHORT = -1, -2
WAYS = {
    "kill": KILL,
    "short": SHORT,
    **{name: getattr(errno, name) for name in ("EIO", "ENOSPC", "EACCES", "EMFILE", "EINTR")},
}
NOT_REACHED, REFUSED, FAILED = 42, 43, 1

_shim = ctypes.CDLL(None)


def array(value: int) -> np.ndarray:
    """Of one of two shapes; every element says which one it is."""
    return np.full((8 + value % 2, 500), value, dtype=np.float32)


def put(store: FeatureStore, key: str, value: int, source: Source | None = None) -> None:
    store.put(key, array(value), source=source, value=value)


def value_of(store: FeatureStore, key: str) -> int | None:
    """Which array is found: whole, and under the manifest that was put with it."""
    found = store.find(key)
    if found is None:
        return None
    features = found.load(copy=True)
    value = int(features[0, 0])
    assert np.array_equal(features, array(value)), "half an entry"
    assert np.array_equal(found.load(), features)
    assert store.manifest(key).get("value", value) == value, "the manifest of other features"
    return value


def values(cache: Path) -> dict[str, int | None]:
    return {key: value_of(FeatureStore(cache), key) for key in KEYS}


@dataclass(frozen=True)
class Operation:
    """Something that is done to a folder.

    Attributes:
        ready: Fills the folder before.
        work: What is done.
        expected: What the entries under ``cache`` may be, key by key, whatever happens on the way; the last of each is
            what it is when all is done. A key that is left out is never there.
        check: What else holds, whatever happened on the way.
        stride: Of how many calls one fails: those of shards are many, and test_shards_crash.py has each of its own.
        quarantined: How many features are in quarantine at the end.
        below: The folder whose calls are meant, where the test itself uses files beside it.
    """

    ready: Callable[[Path], object]
    work: Callable[[Path], object]
    expected: dict[str, list[int | None]]
    check: Callable[[Path], object] = lambda folder: None
    quarantined: int = 0
    stride: int = 1
    below: str = ""


def cache(folder: Path, **options: Any) -> FeatureStore:
    return FeatureStore(folder / "cache", **options)


# Operations


def replaces(folder: Path) -> None:
    found = cache(folder).get_or_compute(KEY, lambda: array(2), rows=8, source=NOW, details=lambda: {"value": 2})
    assert np.array_equal(loaded(found), array(2))


def loaded(found: FeatureSet, *, copy: bool = False) -> np.ndarray:
    """``load`` raises what the file system does."""
    try:
        return found.load(copy=copy)
    except OSError as error:
        raise SimetCacheError(str(error)) from error


def hits(folder: Path) -> None:
    for options in ({}, {"verify": "full"}):
        found = cache(folder, **options).find(KEY)
        assert found is not None, "a hit became a miss"
        for copy in (False, True):
            assert np.array_equal(loaded(found, copy=copy), array(1))


def used_long_ago(store: FeatureStore) -> None:
    for number, key in enumerate(store.keys()):
        os.utime(store.path(key).with_suffix(".json"), (number, number))


def some(folder: Path) -> None:
    store = cache(folder)
    for number, key in enumerate(KEYS[:3]):
        put(store, key, number + 1, BEFORE)
    used_long_ago(store)


def with_trouble(folder: Path) -> None:
    """An entry that is damaged, one that is not described, one that is well, and what is left of one that is gone."""
    some(folder)
    store = cache(folder)
    os.truncate(store.path(KEYS[0]), 1000)
    os.utime(store.path(KEYS[1]), ns=(1, 1))
    store.path(KEYS[3]).with_suffix(".files").write_bytes(b"")


def kept_once(folder: Path) -> None:
    """A damaged file is where it was or in quarantine, and never gone."""
    store = cache(folder)
    kept = [*(folder / "cache" / "quarantine").glob("*.pkl"), store.path(KEYS[0])]
    assert [path.stat().st_size for path in kept if path.exists()] == [1000]


def with_archive(folder: Path) -> None:
    other = FeatureStore(folder / "other")
    put(other, KEYS[0], 2)
    put(other, KEYS[1], 3)
    export(other, KEYS[:2], folder / "archive.tar")
    put(cache(folder), KEYS[0], 1)


def exports(folder: Path) -> None:
    moved = export(cache(folder), KEYS[:2], folder / "archive.tar", force=True)
    if any(one.outcome != "exported" for one in moved):
        raise SimetCacheError("; ".join(map(str, moved)))


def archive_is_whole(folder: Path) -> None:
    """The old one or the new one, with all that it has."""
    shutil.rmtree(folder / "imported", ignore_errors=True)
    other = FeatureStore(folder / "imported")
    moved = import_archive(other, folder / "archive.tar").entries
    assert [one.outcome for one in moved] == ["imported"] * len(moved)
    assert len(moved) in (1, 2)
    assert all(value_of(other, one.key) == int(one.key, 16) + 1 for one in moved)


def with_old_archive(folder: Path) -> None:
    some(folder)
    export(cache(folder), KEYS[:1], folder / "archive.tar")


def imports(folder: Path) -> None:
    moved = import_archive(cache(folder), folder / "archive.tar", force=True)
    if any(one.outcome not in ("imported", "replaced") for one in moved.entries):
        raise SimetCacheError("; ".join(map(str, moved.entries)))


def at_remote(folder: Path) -> None:
    put(FeatureStore(folder / "remote"), KEY, 1)
    shutil.rmtree(folder / "remote" / "locks", ignore_errors=True)


def pulls(folder: Path) -> None:
    found = cache(folder, remote=f"file://{folder}/remote").find(KEY)
    assert found is None or np.array_equal(loaded(found), array(1))
    if found is None:
        raise SimetCacheError("it is not here")


def pushes(folder: Path) -> None:
    found = cache(folder, remote=f"file://{folder}/remote").keep(KEY, array(2), value=2)
    assert np.array_equal(loaded(found), array(2))
    FeatureStore(folder / "cache", remote=f"file://{folder}/remote").catch_up()


def remote_is_whole(folder: Path) -> None:
    """Who comes from elsewhere finds it there, or nothing; and what is here is there after the next run."""
    assert value_of(FeatureStore(folder / "elsewhere", remote=f"file://{folder}/remote"), KEY) in (None, 1, 2)


RECIPE = Recipe("summaries", {"features": "1", "metric": "2"})
SUMMARY = {"mapping": [1, 2.5, None], "rows": np.arange(3000.0)}


def derives(folder: Path) -> None:
    derived = Derived(folder / "cache")
    with derived.computing("digest"):
        derived.keep_summary(RECIPE, SUMMARY)


def derived_is_whole(folder: Path) -> None:
    found = Derived(folder / "cache").summary(RECIPE.key)
    assert found is None or (found["mapping"], found["rows"].tolist()) == ([1, 2.5, None], SUMMARY["rows"].tolist())


def records_of(folder: Path) -> Any:
    """Those of a task that returns the features of the key."""
    from simet_cache.records import Records
    from simet_cache.request import FeatureRequest

    return Records.of(FeatureRequest(cache(folder), KEY, 9, BEFORE))


def records(folder: Path) -> None:
    from prefect.results import ResultRecordMetadata

    from simet_cache.records import FeatureResultSerializer

    found = cache(folder).find(KEY)
    assert found is not None, "a hit became a miss"
    mine, serializer = records_of(folder), FeatureResultSerializer()
    place = mine.place(KEY)
    mine.keep_result(place, serializer.dumps(found))
    record = ResultRecordMetadata(storage_key=str(mine.results / place), expiration=None, serializer=serializer)
    mine.write_path(place, record.dump_bytes())


def records_agree(folder: Path) -> None:
    """The record says what the store says; where it was not kept, the entry is adopted."""
    from simet_cache.records import FeatureResultSerializer

    mine = records_of(folder)
    results = folder / "cache" / "prefect"
    if (results / "records" / KEY).exists() and not (results / "results" / KEY).exists():
        return  # a record whose result could not be kept: Prefect calls the task again, which finds the features
    assert KEY in json.loads(mine.read_path(KEY))["storage_key"]
    assert FeatureResultSerializer().loads(mine.result(mine.place(KEY))) == cache(folder).find(KEY)


def extracts(folder: Path) -> None:
    import sharder

    store, whole, _ = sharder.ready(folder)
    sharder.shards(store, whole)


def assembles(folder: Path) -> None:
    import sharder

    store, whole, _ = sharder.ready(folder)
    found = store.find(whole.key) or sharder.run(store, whole)
    assert np.array_equal(loaded(found)[:, 0], np.arange(sharder.IMAGES))


def assembled(folder: Path) -> None:
    import sharder

    store, whole, _ = sharder.ready(folder)
    sharder.all_is_well(store, whole)


def bare(folder: Path) -> None:
    cache(folder).path(KEY).write_bytes(pickle.dumps(array(1), protocol=2))


def prunes(folder: Path) -> None:
    if not prune(cache(folder), Limits(keep_latest=1)).enough:
        raise SimetCacheError("something had to stay")


def repairs(folder: Path) -> None:
    if left := verify(cache(folder), full=True, repair=True).left:
        raise SimetCacheError("; ".join(map(str, left)))


OPERATIONS = {
    "put": Operation(cache, lambda folder: put(cache(folder), KEY, 1), {KEY: [None, 1]}),
    "replace": Operation(lambda folder: put(cache(folder), KEY, 1, BEFORE), replaces, {KEY: [1, 2]}),
    "hit": Operation(
        lambda folder: (put(cache(folder), KEY, 1, BEFORE), used_long_ago(cache(folder))), hits, {KEY: [1]}
    ),
    "adopt": Operation(bare, hits, {KEY: [1]}),
    "prune": Operation(some, prunes, {KEYS[0]: [1, None], KEYS[1]: [2, None], KEYS[2]: [3]}),
    "repair": Operation(with_trouble, repairs, {KEYS[1]: [2], KEYS[2]: [3]}, kept_once, quarantined=1),
    "export": Operation(with_old_archive, exports, {KEYS[0]: [1], KEYS[1]: [2], KEYS[2]: [3]}, archive_is_whole),
    "import": Operation(with_archive, imports, {KEYS[0]: [1, 2], KEYS[1]: [None, 3]}),
    "pull": Operation(at_remote, pulls, {KEY: [None, 1]}, remote_is_whole),
    "push": Operation(cache, pushes, {KEY: [None, 2]}, remote_is_whole),
    "derive": Operation(cache, derives, {}, derived_is_whole),
    "record": Operation(lambda folder: put(cache(folder), KEY, 1, BEFORE), records, {KEY: [1]}, records_agree),
    "assemble": Operation(extracts, assembles, {}, assembled, stride=5, below="cache"),
}


# Each call of each


def forked(work: Callable[[], int | None]) -> int:
    """How a process ends that does this: its exit code, or the negative number of a signal."""
    child = os.fork()
    if child == 0:
        code = FAILED
        try:
            code = work() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def attempt(one: Operation, folder: Path, at: int, way: int) -> int:
    """Do it, with one call going wrong."""
    _shim.faults_begin(os.fsencode(folder / one.below), at, way)
    try:
        one.work(folder)
        code = 0
    except SimetCacheError:
        code = REFUSED
    taken = _shim.faults_end()
    return code if at < taken else NOT_REACHED


def look(one: Operation, folder: Path, *, done: bool) -> None:
    """What is there is sound; where all is done, it is what it should be."""
    found = values(folder / "cache")
    for key in KEYS:
        allowed = one.expected.get(key, [None])
        assert found[key] in (allowed[-1:] if done else allowed), f"{key}: {found[key]}, and not one of {allowed}"
    one.check(folder)


def tidy(one: Operation, folder: Path) -> None:
    """Nothing has stayed behind but what belongs there."""
    for place in [folder, *folder.rglob("*")]:
        if place.is_dir():
            sweep(place, now=time.time() + 100)
    left = [path for path in folder.rglob("*.tmp") if path.parent.name != "remote"]  # there, nobody tells the dead
    assert left == []
    verify(cache(folder), repair=True)
    assert verify(cache(folder), full=True).findings == ()
    assert len(list((folder / "cache").glob("quarantine/*.pkl"))) == one.quarantined


def look_after(one: Operation, folder: Path, *, done: bool) -> bool:
    """Whether what is left is sound, doing it again ends well, and nothing stays behind; each in its own process."""
    return not any(
        (
            forked(lambda: look(one, folder, done=done)),
            forked(lambda: one.work(folder) and None),
            forked(lambda: look(one, folder, done=True)),
            forked(lambda: tidy(one, folder)),
        )
    )


def every_call(name: str, home: Path, way: str, *, everything: bool = False) -> None:
    """Print how many calls there were, and what became of the operation. It goes on after what is wrong.

    A kill comes before each call. Of the other ways each call meets one, in turn; or all, with ``everything``.
    """
    one, became, wrong = OPERATIONS[name], Counter[str](), []
    template, folder = home / "template", home / "folder"  # always the same name: keys and records hold it
    folder.mkdir()
    assert forked(lambda: one.ready(folder) and None) == 0
    folder.rename(template)
    first, step = 0, one.stride
    if WAYS[way] != KILL and not everything:  # in all of the six ways it takes ten minutes more
        first, step = list(WAYS).index(way) - 1, (len(WAYS) - 1) * one.stride
    for at in itertools.count(first, step):
        template.rename(folder)
        shutil.copytree(folder, template)
        code = forked(lambda at=at: attempt(one, folder, at, WAYS[way]))  # type: ignore[misc]
        done, killed = code == NOT_REACHED, code == -9
        if code not in (0, REFUSED, NOT_REACHED) and not (killed and WAYS[way] == KILL):
            wrong.append(f"call {at}: it ended with {code}")
        if not look_after(one, folder, done=done):
            wrong.append(f"call {at}: something wrong was left")
        shutil.rmtree(folder)
        if done:
            break
        became["killed" if killed else "refused" if code else "done"] += 1
    print(json.dumps({"calls": at, "tried": (at - first) // step, **became}))
    assert not wrong, f"{name}, {way}: {len(wrong)} times, like {wrong[:5]}"


# The storm


def storm(home: Path, seconds: float, seed: int) -> None:
    """Processes do everything at once to a few keys, while they are killed and stopped; no value is ever wrong."""
    rng, crowd, counts = random.Random(seed), dict[int, bool](), Counter[str]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        while len(crowd) < 8:
            crowd[_started(home, rng.random())] = False
        time.sleep(rng.uniform(0, 0.15))
        child = rng.choice(list(crowd))
        if rng.random() < 0.6:
            os.kill(child, 9)
            status = os.waitpid(child, 0)[1]
            assert os.WIFSIGNALED(status), "a process failed; its traceback is above"
            del crowd[child]
            counts["kills"] += 1
        else:
            os.kill(child, 18 if crowd[child] else 19)
            crowd[child] = not crowd[child]
            counts["stops"] += crowd[child]
        if sum(crowd.values()) > 3:  # who is stopped may hold what all others wait for
            for each in crowd:
                os.kill(each, 18)
                crowd[each] = False
    for child in crowd:
        os.kill(child, 9)
        os.waitpid(child, 0)
    for key in KEYS:
        value = value_of(FeatureStore(home), key)
        assert value is None or value % 10 == int(key, 16)
    verify(FeatureStore(home), repair=True)
    for place in [home, *home.rglob("*")]:
        if place.is_dir():
            sweep(place, now=time.time() + 100)
    assert verify(FeatureStore(home), full=True).findings == ()
    assert list(home.glob("quarantine/*")) == []
    counts["values"] = len((home.parent / "seen").read_bytes()) if (home.parent / "seen").exists() else 0
    print(json.dumps(counts))


def _started(home: Path, seed: float) -> int:
    child = os.fork()
    if child == 0:
        try:
            _everything(home, random.Random(seed))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(FAILED)
    return child


def _everything(home: Path, rng: random.Random) -> None:
    log = os.open(home.parent / "seen", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        store, number = FeatureStore(home), rng.randrange(len(KEYS))
        key, value = KEYS[number], 10 * rng.randrange(1000) + number
        what = rng.random()
        if what < 0.35:
            put(store, key, value)
        elif what < 0.8:
            force = what < 0.5
            found = store.get_or_compute(key, lambda value=value: array(value), force=force)  # type: ignore[misc]
            try:
                features = found.load(copy=True)
            except (SimetCacheError, FileNotFoundError):  # it was replaced or pruned since
                continue
            assert np.array_equal(features, array(int(features[0, 0])))
            assert int(features[0, 0]) % 10 == number, "features of another key"
            os.write(log, b".")
        elif what < 0.9:
            store.remove(key)
        elif what < 0.95:
            prune(store, Limits(keep_latest=2))
        else:
            verify(store, full=True, repair=True)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    command, where, *rest = sys.argv[1:]
    if command == "storm":
        storm(Path(where), float(rest[0]), int(rest[1]))
    else:
        if command in ("record", "assemble", "derive"):  # their imports
            assert forked(lambda: None) == 0
            from simet_cache.metrics import packing  # noqa: F401

            if command != "derive":
                import sharder  # noqa: F401

                from simet_cache import records as _  # noqa: F401
        every_call(command, Path(where), rest[0], everything="all" in rest[1:])
