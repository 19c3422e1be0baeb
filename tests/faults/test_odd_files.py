"""What does not belong into a cache, in the place of what does: it hangs nobody, and is an error with a sentence."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from simet_cache import archive, cli, locks, sealed
from simet_cache.derived import Derived, Recipe, damage, kept
from simet_cache.errors import ConfigError, DamagedEntryError, MissingEntryError, SimetCacheError, StoreError
from simet_cache.featureset import FeatureSet
from simet_cache.listing import Fingerprint
from simet_cache.manifest import Source
from simet_cache.prune import Limits, prune
from simet_cache.store import FeatureStore
from simet_cache.upkeep import entries, verify

KEY, OTHER = "a" * 32, "b" * 32
FEATURES = np.ones((4, 3), np.float32)
SOURCE = Source(dataset={"class": "Folder"}, fingerprint=Fingerprint.of([(1, 2, "-", "a.png")]))
CHANGED = Source(dataset={"class": "Folder"}, fingerprint=Fingerprint.of([(1, 3, "-", "a.png")]))
RECIPE = Recipe("values", {"of": 1})


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "cache", remote=f"file://{tmp_path}/remote")


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Who hangs is told so, in place of a test suite that stands still."""

    def hung(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def everything(store: FeatureStore, tmp_path: Path) -> None:
    """All that reads files of a cache. Errors are sentences of ours."""
    acts: list[Callable[[], object]] = [
        lambda: store.find(KEY),
        lambda: store.find(KEY, source=CHANGED),
        lambda: store.look(KEY, full=True),
        lambda: FeatureSet(KEY, str(store.path(KEY)), (4, 3), "float32", "0" * 32).load(),
        lambda: FeatureSet(KEY, str(store.path(KEY)), (4, 3), "float32", "0" * 32).load(copy=True),
        lambda: Derived(store.cache_dir).value(RECIPE.key),
        lambda: Derived(store.cache_dir).is_sound("values", RECIPE.key),
        lambda: store.manifest(KEY),
        lambda: entries(store),
        lambda: archive.export(store, [KEY, OTHER], tmp_path / "a.tar", force=True),
        lambda: archive.import_folder(FeatureStore(tmp_path / "second"), store.cache_dir),
        store.catch_up,
        lambda: verify(store, full=True),
        lambda: cli.main(["ls", "--cache-dir", str(store.cache_dir)]),
        lambda: cli.main(["info", "--cache-dir", str(store.cache_dir), KEY]),
        lambda: _remembered(store),
        lambda: verify(store, full=True, repair=True),
        lambda: store.get_or_compute(KEY, lambda: FEATURES, source=SOURCE),
        lambda: prune(store, Limits(older_than=1e20), dry_run=True),
        locks.end_uses,
        lambda: prune(store, Limits(max_size=0)),
    ]
    for act in acts:
        with contextlib.suppress(SimetCacheError):
            act()


def _remembered(store: FeatureStore) -> object:
    from simet_cache.skipped import remembered

    return remembered(store, KEY, SOURCE)


def fill(store: FeatureStore) -> None:
    store.put(KEY, FEATURES, source=SOURCE)
    store.put(OTHER, FEATURES)
    Derived(store.cache_dir).keep_summary(RECIPE, None)


PLACES = [
    *(f"{KEY}.{kind}" for kind in ("pkl", "json", "next.json", "files", "skipped.json")),
    f"locks/{KEY}.lock",
    f"locks/{KEY}.holder",
    "locks/entries.lock",
    "locks/entries.holder",
    "locks/used.lock",
    f"pending/{KEY}",
    f"prefect/records/{KEY}",
    f"prefect/results/{KEY}",
    f"values/{RECIPE.key[:2]}/{RECIPE.key}.safetensors",
    f".{KEY}.pkl.abcdefgh.tmp",
]


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.usefixtures("no_hang")
def test_a_pipe_in_the_place_of_a_file_hangs_nobody(store: FeatureStore, tmp_path: Path, name: str) -> None:
    fill(store)
    place = store.cache_dir / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    everything(store, tmp_path)


@pytest.mark.parametrize("folder", ["records", "results"])
@pytest.mark.usefixtures("no_hang")
def test_a_pipe_in_the_place_of_a_record_is_none(store: FeatureStore, folder: str) -> None:
    from simet_cache.records import Records
    from simet_cache.request import FeatureRequest

    fill(store)
    request = FeatureRequest(store, KEY, 4, SOURCE)
    Records.of(request).read_path(KEY)
    place = store.cache_dir / "prefect" / folder / KEY
    place.unlink()
    os.mkfifo(place)
    with contextlib.suppress(FileNotFoundError):  # which Prefect takes for a miss
        Records.of(request).read_path(KEY)


@pytest.mark.usefixtures("no_hang")
def test_a_pipe_in_the_place_of_the_last_results(tmp_path: Path) -> None:
    from simet_cache.report import runs

    os.mkfifo(tmp_path / "results.json")
    assert runs._last_good(tmp_path) == {}


# What manifests and lists may say

ODD = [1e999, -1e999, math.nan, 10**400, -1, 0, "x", "9" * 5000, [], {}, [[]], {"a": 1e999}, None, True]


def places(value: Any, around: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield (*around, name)
        yield from places(one, (*around, name))


def changed(value: Any, place: tuple[Any, ...], odd: Any) -> Any:
    copy = json.loads(json.dumps(value))
    at = copy
    for name in place[:-1]:
        at = at[name]
    at[place[-1]] = odd
    return copy


@pytest.mark.parametrize("odd", [pytest.param(ODD[0]), *(pytest.param(odd, marks=pytest.mark.slow) for odd in ODD[1:])])
def test_whatever_a_manifest_says_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], odd: object
) -> None:
    """Here, and at a remote."""
    home, away = FeatureStore(tmp_path / "cache"), FeatureStore(tmp_path / "remote")
    guest = FeatureStore(tmp_path / "guest", remote=f"file://{tmp_path}/remote")
    home.put(KEY, FEATURES, source=SOURCE, shards={"of": OTHER, "parts": [{"key": OTHER, "rows": 4}]})
    good = json.loads(home.path(KEY).with_suffix(".json").read_bytes())
    acts: list[Callable[[], object]] = [
        lambda: entries(home),
        lambda: cli.main(["ls", "--cache-dir", str(home.cache_dir)]),
        lambda: cli.main(["info", "--json", "--cache-dir", str(home.cache_dir), KEY]),
        lambda: verify(home),
        lambda: home.find(KEY, source=CHANGED),
        lambda: guest.find(KEY),
    ]
    for place in places(good):
        for store in (home, away):
            store.put(KEY, FEATURES, source=SOURCE)
            path = store.path(KEY)
            about_it = {**good, "file": {**good["file"], "mtime_ns": path.stat().st_mtime_ns}}
            path.with_suffix(".json").write_text(json.dumps(changed(about_it, place, odd)))
        for act in acts:
            with contextlib.suppress(StoreError):
                act()
        locks.end_uses()
        guest.remove(KEY)
    capsys.readouterr()


@pytest.mark.parametrize("odd", ODD)
def test_whatever_a_list_of_bad_images_says(store: FeatureStore, odd: object) -> None:
    for record in (
        odd,
        {"skipped": odd},
        {"skipped": [odd]},
        {"skipped": [{"position": odd, "path": "", "reason": ""}]},
    ):
        store.path(KEY).with_suffix(".skipped.json").write_text(json.dumps(record))
        _remembered(store)
        verify(store)


@pytest.mark.parametrize("seconds", [3e11, 9e12, -1e11])
def test_times_that_no_calendar_has(seconds: float) -> None:
    """Some file systems keep them, like that of /dev/shm."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        store = FeatureStore(folder)
        path = store.path(KEY)
        path.write_bytes(pickle.dumps(FEATURES))
        try:
            os.utime(path, (seconds, seconds))
        except OverflowError:
            pytest.skip("the system has no such times")
        assert [one.status for one in entries(store)] == ["adopted"]
        assert cli.main(["ls", "--cache-dir", folder]) == 0
        second = FeatureStore(f"{folder}/second")
        assert [one.outcome for one in archive.import_folder(second, Path(folder)).entries] == ["imported"]
        found = store.find(KEY)
        assert found is not None
        assert np.array_equal(found.load(), FEATURES)
        locks.end_uses()
        assert [one.outcome for one in prune(store, Limits(max_size=0)).entries] == ["removed"]


# Shapes of summaries and values


def sealed_with(path: Path, shape: list[Any], **texts: str) -> None:
    """A file as ``sealed`` writes it, with right digests, but of this shape; there are no values in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        sealed.write(file, texts, [np.zeros((0,))])
    content = path.read_bytes()
    head = json.loads(content[8:])
    head["0"]["shape"] = shape
    blob = json.dumps(head).encode()
    start = blob.index(b'"check": "') + 10
    blob = blob[:start] + b"0" * 32 + blob[start + 32 :]
    blob = blob[:start] + xxhash.xxh3_128_hexdigest(blob).encode() + blob[start + 32 :]
    path.write_bytes(len(blob).to_bytes(8, "little") + blob)


@pytest.mark.parametrize(
    "shape", [[10**30, 0], [2**62, 0], [2**40, 2**40, 0], [0] * 100, [0, 2**63], [0, -1], [0, 1e999], ["0"], [[0]]]
)
def test_absurd_shapes_are_damage(tmp_path: Path, shape: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    derived = Derived(tmp_path)
    path = derived.path("values", RECIPE.key)
    tree = json.dumps({"array": 0})
    sealed_with(path, shape, format="1", kind="values", key=RECIPE.key, recipe="", tree=tree)
    assert derived.value(RECIPE.key) is None
    assert not derived.is_sound("values", RECIPE.key)
    (one,) = kept(tmp_path)
    assert damage(one, full=True)
    assert [finding.done for finding in verify(FeatureStore(tmp_path), full=True, repair=True).findings] == ["removed"]
    assert "Traceback" not in caplog.text


# Trouble with the file system is a StoreError

NAMES = ["open", "stat", "lstat", "fstat", "listdir", "scandir", "unlink", "rename", "replace", "mkdir", "pread"]


@pytest.mark.parametrize(
    "name", ["find", "load", "load_copy", "catch_up", "export", "keys", "verify", "prune", "entries"]
)
def test_trouble_with_the_file_system_is_a_store_error(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """At each step that is taken towards it."""
    fill(store)
    (store.cache_dir / "pending").mkdir(exist_ok=True)
    (store.cache_dir / "pending" / KEY).write_text(f"file://{tmp_path}/remote")
    handle = store.find(KEY)
    assert handle is not None
    acts: dict[str, Callable[[], object]] = {
        "find": lambda: FeatureStore(store.cache_dir).find(KEY, source=CHANGED),
        "load": handle.load,
        "load_copy": lambda: handle.load(copy=True),
        "catch_up": store.catch_up,
        "export": lambda: archive.export(store, [KEY], tmp_path / "a.tar", force=True),
        "keys": store.keys,
        "verify": lambda: verify(store, full=True),
        "prune": lambda: prune(store, Limits(older_than=1e20)),
        "entries": lambda: entries(store),
    }
    for code in (5, 13, 116):
        at = 0
        while at >= 0:
            at = _failing(acts[name], at, code, monkeypatch)


def _failing(act: Callable[[], object], at: int, code: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """The next step to fail at; -1 where there are no more."""
    steps = [0]
    locks.end_uses()

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            steps[0] += 1
            if steps[0] == at + 1:
                raise OSError(code, os.strerror(code))
            return function(*arguments, **named)

        return step

    with monkeypatch.context() as patch:
        for name in NAMES:
            patch.setattr(os, name, failing(getattr(os, name)))
        with contextlib.suppress(StoreError):
            act()
    return at + 1 if steps[0] > at else -1


def test_a_handle_on_what_is_gone(store: FeatureStore) -> None:
    handle = store.put(KEY, FEATURES)
    store.path(KEY).unlink()
    for copy in (False, True):
        with pytest.raises(MissingEntryError, match="is gone: it was removed since it was found"):
            handle.load(copy=copy)


def test_an_archive_that_nobody_may_look_for(store: FeatureStore, tmp_path: Path) -> None:
    fill(store)
    for name in ("x" * 300, f"{KEY}/a"):
        (tmp_path / KEY).touch()
        with pytest.raises((StoreError, ConfigError)):
            archive.export(store, [KEY], tmp_path / name)


def test_a_folder_that_nobody_can_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for name in ("cache", "~nobody-has-this-name/cache"):
        with pytest.raises(StoreError, match=f"cannot tell which folder '{name}' is"):
            FeatureStore(name)
    monkeypatch.chdir(tmp_path)


def test_a_url_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        StoreError, match="expected a folder of this machine, found a URL; name a bucket as remote"
    ) as info:
        FeatureStore("s3://somebody:hidden@bucket/features")
    assert "hidden" not in str(info.value)
    assert not list(tmp_path.iterdir())


def test_a_pipe_is_damage(store: FeatureStore) -> None:
    os.mkfifo(store.path(KEY))
    with pytest.raises(DamagedEntryError):
        FeatureSet(KEY, str(store.path(KEY)), (4, 3), "float32", "0" * 32).load()


def test_no_lock_stays_of_what_was_pruned(store: FeatureStore) -> None:
    for key in (KEY, OTHER):
        store.get_or_compute(key, lambda: FEATURES)
    locks.end_uses()
    assert {one.outcome for one in prune(store, Limits(max_size=0)).entries} == {"removed"}
    left = [file.name for file in (store.cache_dir / "locks").iterdir()]
    assert sorted(left) == ["entries.holder", "entries.lock", "used.lock"]
