"""The store decides whether features exist, and is never wrong about it."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simet_cache import changes, codec, locks
from simet_cache.atomic import write_atomically
from simet_cache.errors import DamagedEntryError, FeaturesError, StoreError, UnsafePickleError
from simet_cache.featureset import FeatureSet, check_features
from simet_cache.store import FeatureStore

KEY = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32
FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def features(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "cache")


def stored(features: FeatureStore) -> bytes:
    return features.path(KEY).read_bytes()


def manifest(features: FeatureStore, key: str = KEY) -> Path:
    return features.path(key).with_suffix(".json")


def quarantined(features: FeatureStore) -> list[Path]:
    return sorted((features.cache_dir / "quarantine").glob("*.pkl"))


def leftovers(features: FeatureStore) -> list[str]:
    return [path.name for path in features.cache_dir.rglob("*") if path.name.endswith(".tmp")]


def never() -> np.ndarray:
    raise AssertionError("computed although it need not be")


# Put, find, load


def test_what_is_put_is_found_and_loaded(features: FeatureStore) -> None:
    put = features.put(KEY, FEATURES)
    assert put == FeatureSet(KEY, str(features.path(KEY)), (4, 3), "float32", codec.digest(FEATURES))
    assert features.find(KEY) == put
    assert FeatureStore(features.cache_dir).find(KEY, rows=4) == put
    assert np.array_equal(put.load(), FEATURES)
    assert pickle.loads(stored(features)).tobytes() == FEATURES.tobytes()
    assert features.find(OTHER) is None


def test_the_manifest_says_what_the_features_are(features: FeatureStore) -> None:
    put = features.put(KEY, FEATURES, suffix="inception_v3", seconds=1.5)
    said = features.manifest(KEY)
    assert (said["format"], said["key"], said["suffix"], said["seconds"]) == (1, KEY, "inception_v3", 1.5)
    assert said["features"] == {"shape": [4, 3], "dtype": "float32", "digest": put.digest, "row_order": "unknown"}
    assert said["file"]["bytes"] == len(stored(features))
    assert said["written_by"].startswith("simet-cache")
    assert features.manifest(OTHER) == {}


def test_a_described_entry_is_found_without_reading_it(features: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put = features.put(KEY, FEATURES)
    for name in ("read", "open_mapped", "verify"):
        monkeypatch.setattr(codec, name, lambda path: never())
    assert features.find(KEY) == put


def test_a_new_entry_replaces_the_old(features: FeatureStore) -> None:
    features.put(KEY, FEATURES, suffix="old")
    put = features.put(KEY, FEATURES[:2] + 1)
    assert features.find(KEY) == put
    assert np.array_equal(put.load(), FEATURES[:2] + 1)
    assert "suffix" not in features.manifest(KEY)
    assert leftovers(features) == []


def test_a_handle_is_small_and_goes_through_json(features: FeatureStore) -> None:
    put = features.put(KEY, FEATURES)
    assert FeatureSet.from_json(json.loads(json.dumps(put.to_json()))) == put


def test_a_handle_refuses_other_features_than_its_own(features: FeatureStore) -> None:
    old = features.put(KEY, FEATURES)
    features.put(KEY, FEATURES + 1)
    with pytest.raises(DamagedEntryError, match=f"no longer holds the features it held \\(digest {old.digest}\\)"):
        old.load()


def test_the_files_have_ordinary_permissions(features: FeatureStore) -> None:
    features.put(KEY, FEATURES)
    (features.cache_dir / "plain").touch()
    plain = (features.cache_dir / "plain").stat().st_mode
    assert {features.path(KEY).stat().st_mode, manifest(features).stat().st_mode} == {plain}


def test_the_folder_is_made_and_its_name_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = FeatureStore("a/b")
    monkeypatch.chdir("/")
    assert made.cache_dir == tmp_path / "a" / "b"
    assert made.put(KEY, FEATURES).path == str(tmp_path / "a" / "b" / f"{KEY}.pkl")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert FeatureStore("~/c").cache_dir == tmp_path / "c"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=re.escape(f"cannot create the cache folder {tmp_path / 'file' / 'cache'}")):
        FeatureStore(tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    "key", ["", "x", KEY[:-1], KEY + "0", KEY.upper(), "../" + KEY, f"../../{'a' * 26}", "/" + KEY[1:], KEY + "\n"]
)
def test_only_keys_are_keys(features: FeatureStore, tmp_path: Path, key: str) -> None:
    def locked() -> None:
        with features.lock(key):
            pass

    for call in (
        lambda: features.path(key),
        lambda: features.find(key),
        lambda: features.put(key, FEATURES),
        lambda: features.manifest(key),
        lambda: features.quarantine(key, "bad"),
        locked,
        lambda: features.get_or_compute(key, never),
        lambda: features.get_or_compute(key, never, force=True),
    ):
        with pytest.raises(StoreError, match="is no feature key: expected 32 hexadecimal digits"):
            call()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# Entries of other programs


@pytest.mark.parametrize("protocol", [pickle.DEFAULT_PROTOCOL, pickle.HIGHEST_PROTOCOL])
def test_an_entry_without_a_manifest_is_adopted(features: FeatureStore, protocol: int) -> None:
    with features.path(KEY).open("wb") as file:
        pickle.dump(FEATURES, file, protocol=protocol)
    before = features.path(KEY).stat()
    found = features.find(KEY, rows=4)
    assert found is not None
    assert (found.shape, found.dtype, found.digest) == ((4, 3), "float32", codec.digest(FEATURES))
    assert np.array_equal(found.load(), FEATURES)
    assert features.manifest(KEY)["adopted"] is True
    after = features.path(KEY).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_entry_is_adopted_once(features: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    features.path(KEY).write_bytes(pickle.dumps(FEATURES))
    found = features.find(KEY)
    for name in ("read", "open_mapped", "verify"):
        monkeypatch.setattr(codec, name, lambda path: never())
    assert features.find(KEY) == found


def test_an_entry_that_another_program_has_overwritten_is_described_anew(features: FeatureStore) -> None:
    features.put(KEY, FEATURES, suffix="old")
    features.path(KEY).write_bytes(pickle.dumps(FEATURES[:3] * 2))
    found = features.find(KEY)
    assert found is not None
    assert (found.shape, found.digest) == ((3, 3), codec.digest(FEATURES[:3] * 2))
    assert "suffix" not in features.manifest(KEY)


def test_the_same_size_at_another_time_is_described_anew(features: FeatureStore) -> None:
    features.path(KEY).write_bytes(pickle.dumps(FEATURES))
    features.find(KEY)
    size = len(stored(features))
    features.path(KEY).write_bytes(pickle.dumps(FEATURES + 1))
    os.utime(features.path(KEY), ns=(1, 1))
    found = features.find(KEY)
    assert found is not None
    assert (len(stored(features)), found.digest) == (size, codec.digest(FEATURES + 1))


def test_what_another_program_puts_there_while_we_describe_ours_is_described_anew(
    features: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def foreign_writer(folder: Path) -> None:
        monkeypatch.undo()
        features.path(KEY).write_bytes(pickle.dumps(FEATURES[:1]))

    monkeypatch.setattr(changes, "sync_folder", foreign_writer)
    features.put(KEY, FEATURES)
    found = features.find(KEY)
    assert found is not None
    assert (found.shape, found.digest) == ((1, 3), codec.digest(FEATURES[:1]))


def test_what_another_program_puts_there_while_we_adopt_is_described_anew(
    features: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    features.path(KEY).write_bytes(pickle.dumps(FEATURES))

    def foreign_writer(path: Path) -> np.ndarray:
        monkeypatch.undo()
        found = codec.read(path)
        path.write_bytes(pickle.dumps(FEATURES[:1]))
        return found

    monkeypatch.setattr(codec, "open_mapped", foreign_writer)
    features.find(KEY)
    found = features.find(KEY)
    assert found is not None
    assert (found.shape, found.digest) == ((1, 3), codec.digest(FEATURES[:1]))


def test_other_rows_than_expected_count_as_missing(features: FeatureStore, caplog: pytest.LogCaptureFixture) -> None:
    put = features.put(KEY, FEATURES)
    assert features.find(KEY, rows=5) is None
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"{features.path(KEY)} has 4 rows where 5 are expected; it counts as missing"
    ]
    assert features.find(KEY, rows=4) == put
    assert quarantined(features) == []


# Damage


def damaged_entries() -> dict[str, bytes]:
    good = pickle.dumps(FEATURES, protocol=5)
    return {
        "empty": b"",
        "half": good[: len(good) // 2],
        "no pickle": b"\x89PNG\r\n\x1a\n" * 20,
        "a list": pickle.dumps([1, 2, 3]),
        "a row": pickle.dumps(FEATURES[0]),
        "integers": pickle.dumps(np.arange(12).reshape(4, 3)),
        "no rows": pickle.dumps(FEATURES[:0]),
        "no columns": pickle.dumps(FEATURES[:, :0]),
        "NaN": pickle.dumps(FEATURES * np.nan),
        "two pickles": good + good,
    }


@pytest.mark.parametrize("content", damaged_entries().values(), ids=damaged_entries())
def test_damage_is_a_miss_and_is_kept_in_quarantine(
    features: FeatureStore, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    features.path(KEY).write_bytes(content)
    assert features.find(KEY) is None
    (kept,) = quarantined(features)
    assert kept.read_bytes() == content
    assert kept.name.startswith(KEY)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert str(features.path(KEY)) in warning
    assert warning.endswith(f"; moved to {kept}, and counts as missing")
    assert not features.path(KEY).exists()
    assert features.find(KEY) is None
    assert features.get_or_compute(KEY, lambda: FEATURES, rows=4).digest == codec.digest(FEATURES)


def test_truncation_under_a_manifest_is_noticed(features: FeatureStore) -> None:
    features.put(KEY, FEATURES)
    os.truncate(features.path(KEY), 200)
    assert features.find(KEY) is None
    assert len(quarantined(features)) == 1


def test_every_damaged_file_is_kept(features: FeatureStore) -> None:
    for number in range(3):
        features.path(KEY).write_bytes(b"damage %d" % number)
        assert features.find(KEY) is None
    assert [path.read_bytes() for path in quarantined(features)] == [b"damage 0", b"damage 1", b"damage 2"]


def test_what_was_mended_meanwhile_is_not_moved(
    features: FeatureStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    features.path(KEY).write_bytes(b"damage")

    def mended(path: Path) -> np.ndarray:
        monkeypatch.undo()
        features.put(KEY, FEATURES)
        raise DamagedEntryError("damaged when it was read")

    monkeypatch.setattr(codec, "open_mapped", mended)
    found = features.find(KEY)
    assert quarantined(features) == []
    assert found is not None
    assert np.array_equal(found.load(), FEATURES)


def test_many_can_find_the_same_damage(features: FeatureStore) -> None:
    damage = b"damage"

    def find(_: int) -> FeatureSet | None:
        barrier.wait()
        return features.find(KEY)

    for _ in range(20):
        barrier = threading.Barrier(4)
        features.path(KEY).write_bytes(damage)
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(find, range(4))) == [None] * 4
    assert len(quarantined(features)) == 20


def test_an_attack_is_an_error_and_stays(features: FeatureStore) -> None:
    attack = b"cos\nsystem\n(S'true'\ntR."
    features.path(KEY).write_bytes(attack)
    for call in (lambda: features.find(KEY), lambda: features.get_or_compute(KEY, never)):
        with pytest.raises(UnsafePickleError, match=re.escape(f"{features.path(KEY)} asks for os.system")):
            call()
    assert stored(features) == attack
    assert quarantined(features) == []


def test_a_folder_in_the_place_of_an_entry_is_a_store_error(features: FeatureStore) -> None:
    features.path(KEY).mkdir()
    with pytest.raises(StoreError, match=re.escape(f"cannot read {features.path(KEY)}: Is a directory")):
        features.find(KEY)
    with pytest.raises(StoreError, match=re.escape(f"cannot write {features.path(KEY)}: Is a directory")):
        features.put(KEY, FEATURES)
    assert leftovers(features) == []


def bad_manifests() -> dict[str, Callable[[dict[str, Any]], object]]:
    def but(**changes: object) -> Callable[[dict[str, Any]], object]:
        return lambda good: {**good, **changes}

    def with_features(**changes: object) -> Callable[[dict[str, Any]], object]:
        return lambda good: {**good, "features": {**good["features"], **changes}}

    return {
        "empty": lambda good: b"",
        "half": lambda good: json.dumps(good).encode()[:50],
        "not JSON": lambda good: b"{'format': 1}",
        "not UTF-8": lambda good: b"\xff\xfe{",
        "binary": lambda good: bytes(range(256)),
        "a list": lambda good: [good],
        "a number": lambda good: 1,
        "null": lambda good: None,
        "deep": lambda good: b"[" * 100_000,
        "huge number": lambda good: b'{"format": ' + b"9" * 10_000 + b"}",
        "no format": but(format=None),
        "other key": but(key=OTHER),
        "no features": but(features=None),
        "features a list": but(features=[1, 2]),
        "features empty": but(features={}),
        "shape text": with_features(shape="4x3"),
        "shape of three": with_features(shape=[4, 3, 1]),
        "shape of words": with_features(shape=["a", "b"]),
        "shape infinite": with_features(shape=[float("inf"), 3]),
        "shape NaN": with_features(shape=[float("nan"), 3]),
        "shape null": with_features(shape=None),
        "dtype number": with_features(dtype=5),
        "digest null": with_features(digest=None),
        "digest list": with_features(digest=[]),
        "other shape": with_features(shape=[3, 4]),
        "other dtype": with_features(dtype="float64"),
        "other layout": lambda good: {**good, "file": {**good["file"], "aligned": False}},
    }


@pytest.mark.parametrize("kind", bad_manifests())
def test_a_wrong_manifest_is_damage(features: FeatureStore, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    features.put(KEY, FEATURES)
    before = stored(features)
    content = bad_manifests()[kind](features.manifest(KEY))
    blob = content if isinstance(content, bytes) else json.dumps(content).encode()
    manifest(features).write_bytes(blob)
    assert features.look(KEY, rows=4).status == "damaged"
    assert features.find(KEY, rows=4) is None
    assert [path.read_bytes() for path in quarantined(features)] == [before]
    assert [path.with_suffix(".json").read_bytes() for path in quarantined(features)] == [blob]
    assert "and counts as missing" in caplog.text
    found = features.get_or_compute(KEY, lambda: FEATURES, rows=4)
    assert np.array_equal(found.load(), FEATURES)


OTHER_FILE: dict[str, dict[str, int]] = {"size": {"bytes": 1}, "time": {"mtime_ns": 1}}


@pytest.mark.parametrize("changes", [*OTHER_FILE.values(), None], ids=[*OTHER_FILE, "nothing said"])
def test_a_manifest_of_another_file_is_mended_where_the_content_is_the_same(
    features: FeatureStore, changes: dict[str, int] | None
) -> None:
    put = features.put(KEY, FEATURES, suffix="x")
    said = features.manifest(KEY)
    good = said["file"]
    said["file"] = {**good, **changes} if changes else None
    manifest(features).write_text(json.dumps(said))
    assert features.find(KEY, rows=4) == put
    assert quarantined(features) == []
    assert (features.manifest(KEY)["file"], features.manifest(KEY)["suffix"]) == (good, "x")


def test_a_file_of_ours_that_is_not_what_its_manifest_says_is_damage(features: FeatureStore) -> None:
    features.put(KEY, FEATURES)
    content = bytearray(stored(features))
    content[70] ^= 1
    features.path(KEY).write_bytes(content)
    assert features.find(KEY) is None
    assert [path.read_bytes() for path in quarantined(features)] == [content]


@pytest.mark.parametrize("at", [0, 1, 40, -1, -30])
def test_a_header_that_changed_under_an_unchanged_time_is_damage(features: FeatureStore, at: int) -> None:
    features.put(KEY, FEATURES)
    status = features.path(KEY).stat()
    content = bytearray(stored(features))
    content[at] ^= 1
    features.path(KEY).write_bytes(content)
    os.utime(features.path(KEY), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert features.find(KEY) is None
    assert len(quarantined(features)) == 1


def flip_a_bit(features: FeatureStore) -> None:
    """As a disk does: in the values, and nobody notes the time."""
    status = features.path(KEY).stat()
    content = bytearray(stored(features))
    content[70] ^= 1
    features.path(KEY).write_bytes(content)
    os.utime(features.path(KEY), ns=(status.st_atime_ns, status.st_mtime_ns))


def test_only_a_full_look_sees_a_flipped_bit(features: FeatureStore) -> None:
    put = features.put(KEY, FEATURES)
    flip_a_bit(features)
    assert features.look(KEY).status == "hit"
    assert features.look(KEY, full=True).status == "damaged"
    assert features.find(KEY) == put
    with pytest.raises(DamagedEntryError, match="no longer holds the features it held"):
        put.load(copy=True)
    assert FeatureStore(features.cache_dir, verify="full").find(KEY) is None
    assert len(quarantined(features)) == 1


def test_a_full_check_reads_an_entry_once_in_a_process(features: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put = features.put(KEY, FEATURES)
    careful = FeatureStore(features.cache_dir, verify="full")
    assert careful.find(KEY) == put
    monkeypatch.setattr(codec, "verify", lambda path: never())
    assert careful.find(KEY) == put
    monkeypatch.undo()
    features.put(KEY, FEATURES + 1)
    flip_a_bit(features)
    assert careful.find(KEY) is None


def test_a_manifest_of_a_newer_program_is_not_touched(features: FeatureStore) -> None:
    features.put(KEY, FEATURES)
    said = {**features.manifest(KEY), "format": 99, "written_by": "simet-cache 7.0"}
    manifest(features).write_text(json.dumps(said))
    with pytest.raises(StoreError, match=r"was written by a newer simet-cache \(simet-cache 7.0\); update this one"):
        features.find(KEY)
    assert json.loads(manifest(features).read_text()) == said
    assert quarantined(features) == []


@pytest.mark.parametrize("name", ["key", "path"])
def test_a_manifest_cannot_point_elsewhere(features: FeatureStore, name: str) -> None:
    put = features.put(KEY, FEATURES)
    said = features.manifest(KEY)
    said["features"][name] = "elsewhere"
    manifest(features).write_text(json.dumps(said))
    assert features.find(KEY) == put


def test_an_entry_under_the_name_of_another_is_damage(features: FeatureStore) -> None:
    features.put(KEY, FEATURES, suffix="x")
    shutil.copy2(features.path(KEY), features.path(OTHER))
    shutil.copy2(manifest(features), manifest(features, OTHER))
    assert features.find(OTHER) is None
    assert [path.name.split(".")[0] for path in quarantined(features)] == [OTHER]
    assert features.find(KEY) is not None


def test_a_manifest_that_cannot_be_written_is_a_warning(
    features: FeatureStore, caplog: pytest.LogCaptureFixture
) -> None:
    manifest(features).mkdir()
    put = features.put(KEY, FEATURES)
    assert np.array_equal(put.load(), FEATURES)
    assert "cannot write the manifest of" in caplog.text
    manifest(features).rmdir()
    assert features.find(KEY) == put
    assert leftovers(features) == []


def test_a_folder_can_be_moved(features: FeatureStore, tmp_path: Path) -> None:
    features.put(KEY, FEATURES)
    features.cache_dir.rename(tmp_path / "moved")
    found = FeatureStore(tmp_path / "moved").find(KEY)
    assert found is not None
    assert np.array_equal(found.load(), FEATURES)


# Failing


BAD = {
    "None": (None, "expected a 2-D NumPy float array of features, found NoneType"),
    "a list": ([[1.0, 2.0]], "found list"),
    "1-D": (np.zeros(4), "found ndarray of shape (4,) and dtype float64"),
    "3-D": (np.zeros((4, 3, 1)), "found ndarray of shape (4, 3, 1)"),
    "integers": (np.zeros((4, 3), np.int64), "dtype float16, float32 or float64, found ndarray of shape (4, 3)"),
    "booleans": (np.zeros((4, 3), bool), "and dtype bool"),
    "complex": (np.zeros((4, 3), complex), "and dtype complex128"),
    "long double": (np.zeros((4, 3), np.longdouble), "dtype float16, float32 or float64, found"),
    "objects": (np.full((4, 3), None), "and dtype object"),
    "masked": (np.ma.zeros((4, 3)), "found MaskedArray of shape (4, 3)"),
    "too few rows": (FEATURES[:3], "expected 4 rows, one for each item of the loader, found 3"),
    "no columns": (FEATURES[:, :0], "expected at least one row and one column of features, found shape (4, 0)"),
    "NaN": (np.where(FEATURES == 7, np.nan, FEATURES), "NaN or infinity in 1 of 4 rows, first in row 2"),
    "infinity": (np.where(FEATURES > 4, -np.inf, FEATURES), "NaN or infinity in 3 of 4 rows, first in row 1"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_feature_matrix_is_refused(features: FeatureStore, kind: str) -> None:
    old = features.put(KEY, FEATURES)
    before, described = stored(features), manifest(features).read_bytes()
    value, sentence = BAD[kind]
    with pytest.raises(FeaturesError) as caught:
        features.get_or_compute(KEY, lambda: value, rows=4, force=True)
    assert sentence in str(caught.value)
    assert (stored(features), manifest(features).read_bytes()) == (before, described)
    assert features.find(KEY) == old
    assert leftovers(features) == []


def test_put_checks_too(features: FeatureStore) -> None:
    for value in (FEATURES * np.nan, FEATURES[0], FEATURES[:0], None):
        with pytest.raises(FeaturesError):
            features.put(KEY, value)  # type: ignore[arg-type]
    assert list(features.cache_dir.iterdir()) == []


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_features_of_every_float_type(features: FeatureStore, dtype: Any) -> None:
    array = FEATURES.astype(dtype)
    check_features(array, rows=4)
    found = features.put(KEY, array)
    assert found.dtype == array.dtype.newbyteorder("=").name
    assert found.load().dtype == found.dtype
    assert np.array_equal(found.load(), array)


def test_a_failing_computation_leaves_the_older_entry(features: FeatureStore) -> None:
    old = features.put(KEY, FEATURES)
    before = stored(features), manifest(features).read_bytes(), features.path(KEY).stat()

    def fails() -> np.ndarray:
        raise ZeroDivisionError("of the user's own")

    with pytest.raises(ZeroDivisionError, match="of the user's own"):
        features.get_or_compute(KEY, fails, force=True)
    assert (stored(features), manifest(features).read_bytes(), features.path(KEY).stat()) == before
    assert features.find(KEY) == old
    assert features.get_or_compute(KEY, lambda: FEATURES + 1, force=True) != old, "the lock is free again"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk, writing fails after some bytes."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("size", [0, 50, 4096, 100_000])
def test_a_full_disk_loses_neither_old_nor_new_features(
    features: FeatureStore, size: int, force: bool, caplog: pytest.LogCaptureFixture
) -> None:
    old = features.put(KEY, FEATURES)
    before = stored(features), manifest(features).read_bytes()
    with files_of_at_most(size), pytest.raises(StoreError, match=re.escape(f"{features.path(KEY)}: File too large")):
        features.put(KEY, np.zeros((1000, 30)))
    with files_of_at_most(size):
        found = features.get_or_compute(KEY, lambda: np.zeros((1000, 30)), rows=1000, force=force)
    assert np.array_equal(found.load(), np.zeros((1000, 30)))
    assert np.array_equal(found.load(copy=True), np.zeros((1000, 30)))
    assert f"cannot write {features.path(KEY)}: File too large. The features are used in this run" in caplog.text
    assert (stored(features), manifest(features).read_bytes()) == before
    assert features.find(KEY) == old
    assert leftovers(features) == []


@pytest.mark.parametrize("step", ["fsync", "replace", "fchmod"])
def test_a_write_that_fails_at_any_step_leaves_the_older_entry(
    features: FeatureStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    old = features.put(KEY, FEATURES)
    before = stored(features)

    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fails)
        with pytest.raises(StoreError, match=f"cannot write {features.path(KEY)}: No space left on device; 48 bytes"):
            features.put(KEY, FEATURES + 1)
    assert stored(features) == before
    assert features.find(KEY) == old
    assert leftovers(features) == []


def test_an_interrupted_write_leaves_nothing(features: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(array: np.ndarray, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(codec, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        features.put(KEY, FEATURES)
    assert list(features.cache_dir.iterdir()) == []


def test_a_write_is_on_the_disk_before_it_is_visible(features: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    def replaced(source: str, target: str) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_atomically(features.path(KEY), lambda file: codec.write(FEATURES, file))
    assert steps == ["file", "rename", "folder"]
    steps.clear()
    features.put(KEY, FEATURES)
    assert steps == ["file"] * 3 + ["rename"] * 4 + ["folder"]


# get_or_compute


def test_a_miss_computes_and_a_hit_does_not(features: FeatureStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made = features.get_or_compute(KEY, lambda: FEATURES, rows=4, details=lambda: {"suffix": "x"})
    assert caplog.messages == [f"Cache miss: computing features for key {KEY}"]
    caplog.clear()
    assert features.get_or_compute(KEY, never, rows=4, details=never) == made
    assert caplog.messages == [f"Cache hit: features for key {KEY}"]
    assert features.manifest(KEY)["suffix"] == "x"
    assert features.manifest(KEY)["seconds"] >= 0


def test_force_computes_and_overwrites(features: FeatureStore) -> None:
    features.put(KEY, FEATURES)
    made = features.get_or_compute(KEY, lambda: FEATURES + 1, force=True)
    assert features.find(KEY) == made
    assert np.array_equal(made.load(), FEATURES + 1)


def test_one_computation_for_many_threads(features: FeatureStore) -> None:
    computed: list[int] = []
    barrier = threading.Barrier(8)

    def compute() -> np.ndarray:
        computed.append(threading.get_ident())
        threading.Event().wait(0.2)
        return FEATURES

    def want(_: int) -> FeatureSet:
        barrier.wait()
        return FeatureStore(features.cache_dir).get_or_compute(KEY, compute, rows=4)

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(want, range(8)))
    assert len(computed) == 1
    assert len(found) == 1


def test_other_keys_do_not_wait(features: FeatureStore) -> None:
    with features.lock(KEY):
        assert features.get_or_compute(OTHER, lambda: FEATURES).shape == (4, 3)


def test_waiting_for_another_thread_is_nothing_to_say_and_ends_with_a_hit(
    features: FeatureStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(locks, "_PATIENCE", 0.05)
    with ThreadPoolExecutor(1) as pool:
        with features.lock(KEY):
            future = pool.submit(features.get_or_compute, KEY, never)
            threading.Event().wait(0.3)
            assert not future.done()
            put = features.put(KEY, FEATURES)
        assert future.result() == put
    assert not [line for line in caplog.messages if "Waiting" in line]


def test_neither_torch_nor_prefect_is_imported(tmp_path: Path) -> None:
    script = "import sys, simet_cache.store, simet_cache.codec; print({'torch', 'prefect'} & sys.modules.keys())"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_a_copied_entry_keeps_its_manifest(tmp_path: Path) -> None:
    cache = FeatureStore(tmp_path / "cache")
    cache.put(KEY, FEATURES, dataset={"name": "real"}, seconds=2.5)
    shutil.copytree(cache.cache_dir, tmp_path / "copy", copy_function=shutil.copyfile)
    copy = FeatureStore(tmp_path / "copy")
    assert copy.find(KEY) is not None
    assert copy.manifest(KEY)["dataset"] == {"name": "real"}
    assert "adopted" not in copy.manifest(KEY)


def test_a_replaced_entry_is_taken_as_it_is_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = FeatureStore(tmp_path)
    before = cache.put(KEY, FEATURES)
    with Path(before.path).open("wb") as file:
        pickle.dump(FEATURES + 1, file)
    with caplog.at_level(logging.WARNING):
        after = cache.find(KEY)
    assert after is not None
    assert after.digest != before.digest
    assert f"Adopting {before.path}, which was not written by simet-cache" in caplog.text


def test_details_cannot_say_what_the_file_is(tmp_path: Path) -> None:
    cache = FeatureStore(tmp_path)
    found = cache.put(KEY, FEATURES, file={}, format=9)
    assert cache.find(KEY) == found


def test_mapped_features_are_features(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "rows", dtype=np.float32, mode="w+", shape=(4, 3))
    mapped[:] = 1
    assert FeatureStore(tmp_path / "cache").put(KEY, mapped).load().tolist() == [[1.0] * 3] * 4
