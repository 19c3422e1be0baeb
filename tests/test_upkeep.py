"""What is in a cache, whether it is well, and what can go: looking changes nothing, and nothing in use is removed."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simet_cache import locks, manifest, upkeep
from simet_cache.errors import ConfigError
from simet_cache.explain import nearest
from simet_cache.listing import Fingerprint
from simet_cache.manifest import Source
from simet_cache.prune import Limits, parsed_age, parsed_size, prune
from simet_cache.skipped import SkippedImage, remember_skipped
from simet_cache.store import FeatureStore
from simet_cache.upkeep import Finding, entries, entry, resolve, stored, verify

ROOT = Path(__file__).resolve().parents[1]
KEYS = [f"{number:032x}" for number in range(0xABC0, 0xABC9)]
KEY, OTHER = KEYS[:2]
FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)
COMPONENTS = {"dataset": "/data/real", "subset": None, "suffix": "resnet18", "length": 4, "batch_size": 128}
FINGERPRINT = Fingerprint.of([(1, 2, "-", "a.png")])
ATTACK = b"cos\nsystem\n(S'true'\ntR."


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "cache")


def put(store: FeatureStore, key: str = KEY, *, used: float | None = None, rows: int = 4, **details: Any) -> None:
    store.put(key, np.ones((rows, 3), np.float32), **details)
    if used is not None:
        os.utime(store.path(key).with_suffix(".json"), (used, used))


def flip_a_bit(path: Path) -> None:
    """As a disk does: in the values, and nobody notes the time."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[70] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Each file with its content and time, but for the locks."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and "locks" not in file.parts]
    return {str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def fill(store: FeatureStore) -> None:
    """One of each kind: good, adopted, not described yet, damaged, unsafe, of a newer program."""
    put(store, KEYS[0], components=COMPONENTS, dataset={"name": "real"})
    store.path(KEYS[1]).write_bytes(pickle.dumps(FEATURES))
    store.find(KEYS[1])
    store.path(KEYS[2]).write_bytes(pickle.dumps(FEATURES))
    put(store, KEYS[3])
    os.truncate(store.path(KEYS[3]), 100)
    store.path(KEYS[4]).write_bytes(ATTACK)
    put(store, KEYS[5])
    said = store.path(KEYS[5]).with_suffix(".json")
    said.write_text(json.dumps({**json.loads(said.read_bytes()), "format": 99}))


STATUSES = ["ok", "adopted", "adopted", "damaged", "unsafe", "unreadable"]


# Entries


def test_every_kind_of_entry_is_told(store: FeatureStore) -> None:
    fill(store)
    before = everything(store.cache_dir)
    found = entries(store)
    assert [(one.key, one.status) for one in found] == list(zip(KEYS, STATUSES, strict=False))
    assert [bool(one.reason) for one in found] == [status not in ("ok", "adopted") for status in STATUSES]
    first = found[0]
    assert (first.shape, first.dtype, first.dataset, first.extractor) == ((4, 3), "float32", "real", "resnet18")
    assert first.bytes == sum(file.stat().st_size for file in store.files(KEY))
    assert everything(store.cache_dir) == before


def test_what_is_removed_meanwhile_is_no_entry(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store)
    monkeypatch.setattr(FeatureStore, "keys", lambda self: [KEY, OTHER])
    assert [one.key for one in entries(store)] == [KEY]
    assert [one.key for one in stored(store)] == [KEY]
    assert entry(store, OTHER) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"components": "x", "dataset": 5, "extractor": ["y"], "created_at": 7, "adopted": False},
        {"components": {"suffix": 1, "dataset": None}, "dataset": {"name": ["x"]}, "extractor": {"name": {}}},
        {"components": None, "dataset": None, "extractor": None, "created_at": None},
    ],
)
def test_a_manifest_may_say_anything(store: FeatureStore, changes: dict[str, Any]) -> None:
    put(store, **changes)
    (found,) = entries(store)
    assert (found.status, found.dataset, found.extractor) == ("ok", "", "")
    assert verify(store).findings == ()
    assert nearest(COMPONENTS, {KEY: store.manifest(KEY)}) is None


def test_last_used_is_the_time_of_the_manifest_and_else_of_the_features(store: FeatureStore) -> None:
    put(store, KEYS[0], used=2000)
    store.path(KEYS[1]).write_bytes(pickle.dumps(FEATURES))
    os.utime(store.path(KEYS[1]), (1000, 1000))
    put(store, KEYS[2], used=500)
    assert [(one.key, one.last_used) for one in stored(store)] == [(KEYS[2], 500), (KEYS[1], 1000), (KEYS[0], 2000)]


def test_a_key_is_resolved_from_its_first_digits(store: FeatureStore) -> None:
    for key in ("abcd" + "0" * 28, "abce" + "0" * 28, "abcf1" + "0" * 27, "abcf2" + "0" * 27):
        put(store, key)
    assert resolve(store, "abcd") == resolve(store, "ABCD0") == "abcd" + "0" * 28
    with pytest.raises(ConfigError, match=r"2 keys start with abcf, like abcf10.* and abcf20.*; give more digits"):
        resolve(store, "abcf")
    with pytest.raises(ConfigError, match="has a key that starts with 1234"):
        resolve(store, "1234")
    for wrong in ("", "abc", "wxyz", "abcd" * 9, "../../abcd", "abcd\n"):
        with pytest.raises(ConfigError, match="expected a key or its first 4 or more hexadecimal digits"):
            resolve(store, wrong)


# Verify and repair


def test_verify_tells_what_is_wrong_and_changes_nothing(store: FeatureStore) -> None:
    fill(store)
    before = everything(store.cache_dir)
    done = verify(store)
    assert [(one.key, one.status) for one in done.findings] == [
        (KEYS[2], "undescribed"),
        (KEYS[3], "damaged"),
        (KEYS[4], "unsafe"),
        (KEYS[5], "unreadable"),
    ]
    assert done.checked == 6
    assert done.left == done.findings
    assert everything(store.cache_dir) == before


def test_repair_does_what_can_be_done_once(store: FeatureStore) -> None:
    fill(store)
    os.utime(store.path(KEYS[2]), (1000, 1000))
    done = verify(store, repair=True)
    assert [(one.key, one.done) for one in done.findings if one.status != "leftover"] == [
        (KEYS[2], "adopted"),
        (KEYS[3], "moved to quarantine"),
        (KEYS[4], ""),
        (KEYS[5], ""),
    ]
    assert store.path(KEYS[4]).read_bytes() == ATTACK
    assert not store.path(KEYS[3]).exists()
    assert store.manifest(KEYS[2])["adopted"] is True
    assert store.path(KEYS[2]).with_suffix(".json").stat().st_mtime == 1000, "adoption is no use"
    again = verify(store, repair=True)
    assert [one.key for one in again.findings] == KEYS[4:6]
    assert again.left == again.findings


def test_repair_does_not_count_as_use(store: FeatureStore) -> None:
    """A run that verifies and then prunes must be able to remove what it has adopted."""
    store.path(KEY).write_bytes(pickle.dumps(FEATURES))
    verify(store, full=True, repair=True)
    assert not locks.is_used(store.cache_dir, KEY)


def test_only_a_full_check_sees_a_flipped_bit(store: FeatureStore) -> None:
    put(store)
    flip_a_bit(store.path(KEY))
    assert verify(store).findings == ()
    (finding,) = verify(store, full=True).findings
    assert (finding.status, "bits have changed" in finding.reason) == ("damaged", True)
    verify(store, full=True, repair=True)
    assert not store.path(KEY).exists()
    assert len(list((store.cache_dir / "quarantine").glob("*.pkl"))) == 1


def test_a_copy_without_its_times_is_mended_and_keeps_what_is_known(store: FeatureStore) -> None:
    put(store, components=COMPONENTS, used=1000)
    os.utime(store.path(KEY), (5, 5))
    (finding,) = verify(store, repair=True).findings
    assert (finding.status, finding.done) == ("undescribed", "mended")
    assert store.manifest(KEY)["components"] == COMPONENTS
    assert manifest.describes(store.manifest(KEY), store.path(KEY).stat())
    assert store.path(KEY).with_suffix(".json").stat().st_mtime == 1000
    assert verify(store).findings == ()


def test_what_was_replaced_since_the_look_is_not_described(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.path(KEY).write_bytes(pickle.dumps(FEATURES))
    original = FeatureStore.look

    def replaced(self: FeatureStore, key: str, **options: Any) -> Any:
        seen = original(self, key, **options)
        monkeypatch.undo()
        store.put(KEY, FEATURES[:2])
        return seen

    monkeypatch.setattr(FeatureStore, "look", replaced)
    verify(store, repair=True)
    assert store.manifest(KEY)["features"]["shape"] == [2, 3]
    assert "adopted" not in store.manifest(KEY)


def test_what_is_being_replaced_is_not_called_undescribed(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features that are looked at are gone by the time that their manifest is read."""
    put(store)
    original = FeatureStore.look

    def replaced(self: FeatureStore, key: str, **options: Any) -> Any:
        seen = original(self, key, **options)
        store.put(KEY, FEATURES[:2])
        return seen

    monkeypatch.setattr(FeatureStore, "look", replaced)
    assert verify(store).findings == ()
    assert verify(store, repair=True).findings == ()


def test_what_is_removed_while_it_is_verified_is_no_finding(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store)
    original = upkeep.known

    def removed(store: FeatureStore, key: str) -> Any:
        for file in store.files(key):
            file.unlink()
        return original(store, key)

    monkeypatch.setattr(upkeep, "known", removed)
    assert verify(store).findings == ()


def test_the_manifest_of_a_writer_that_was_killed_is_put_in_place(store: FeatureStore) -> None:
    put(store, components=COMPONENTS)
    said = store.path(KEY).with_suffix(".json")
    said.rename(store.path(KEY).with_suffix(".next.json"))
    assert [one.status for one in verify(store).findings] == ["undescribed"]
    verify(store, repair=True)
    assert json.loads(said.read_bytes())["components"] == COMPONENTS
    assert verify(store).findings == ()
    assert not store.path(KEY).with_suffix(".next.json").exists()


def leftovers(store: FeatureStore) -> list[Path]:
    """What is of no use: beside entries that are gone, or of a writer that was killed."""
    folder = store.cache_dir
    useless = [
        *(folder / f"{OTHER}.{kind}" for kind in ("json", "next.json", "files")),
        folder / f"{KEY}.next.json",
        folder / f"{KEYS[3]}.skipped.json",
        *(folder / "prefect" / kind / OTHER for kind in ("records", "results")),
        folder / "locks" / f"{OTHER}.holder",
    ]
    for file in useless:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"{}")
    return useless


def test_what_belongs_to_images_that_were_skipped_is_no_leftover(store: FeatureStore) -> None:
    """The features are under the key of the good images; under that of all of them there are a list and notes."""
    (store.cache_dir / f"{KEY}.skipped.json").write_text('{"skipped": []}')
    for name in (f"prefect/records/{KEY}", f"prefect/results/{KEY}", f"locks/{KEY}.holder"):
        (store.cache_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (store.cache_dir / name).touch()
    assert verify(store).findings == ()
    (store.cache_dir / f"{KEY}.skipped.json").unlink()
    assert [finding.status for finding in verify(store).findings] == ["leftover"]


def noted(store: FeatureStore, key: str, *, rest: str) -> list[Path]:
    """A list of bad images, and what else is kept under the key of all images."""
    image = SkippedImage("a.png", "empty")
    remember_skipped(store, key, [1], [image], Source(fingerprint=FINGERPRINT), rest=rest)
    files = [f"{key}.skipped.json", f"prefect/records/{key}", f"prefect/results/{key}", f"locks/{key}.holder"]
    paths = [store.cache_dir / name for name in files]
    for path in paths[1:]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_a_list_of_bad_images_goes_with_the_features_of_the_good_ones(store: FeatureStore) -> None:
    """Two datasets may be equal without their bad images: each has a list."""
    put(store, KEY, skipped=[{"path": "a.png", "reason": "empty"}])
    put(store, OTHER)
    paths = [*noted(store, KEYS[3], rest=KEY), *noted(store, KEYS[4], rest=KEY)]
    kept = noted(store, KEYS[5], rest=OTHER)
    assert verify(store).findings == ()
    assert store.remove(KEY) > 0
    assert [path for path in paths if path.exists()] == []
    assert [path for path in kept if not path.exists()] == []


def test_a_list_of_bad_images_whose_features_are_gone_is_a_leftover(store: FeatureStore) -> None:
    paths = noted(store, KEY, rest=OTHER)
    for key in (OTHER, KEY):  # unless these are being made
        with store.lock(key):
            assert [finding.key for finding in verify(store).findings if finding.key == KEY] == []
    assert KEY in [finding.key for finding in verify(store).findings]
    verify(store, repair=True)
    assert [path for path in paths if path.exists()] == []


def useful(store: FeatureStore) -> list[Path]:
    """What looks like it, and must stay."""
    folder = store.cache_dir
    kept = [
        folder / "notes.json",
        folder / f"{OTHER}.txt",
        folder / f"{OTHER}.json.bak",
        folder / "sub" / f"{OTHER}.json",
        folder / "prefect" / "records" / KEY,
        folder / "prefect" / "records" / "a key of somebody's own",
        folder / "locks" / f"{KEY}.holder",
        folder / "locks" / f"{OTHER}.lock",
        folder / f".{KEY}.pkl.abcd1234.tmp",  # young: its writer may live
    ]
    for file in kept:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"{}")
    skipped = folder / f"{KEYS[4]}.skipped.json"
    skipped.write_text(json.dumps({"fingerprint": {}, "skipped": [{"position": 1, "path": "a", "reason": "b"}]}))
    (folder / f"{KEYS[5]}.json").mkdir()
    return [*kept, skipped, folder / f"{KEYS[5]}.json"]


def test_leftovers_go_and_nothing_else_does(store: FeatureStore) -> None:
    put(store)
    kept, useless = useful(store), leftovers(store)
    found = verify(store)
    assert {one.key for one in found.findings} == {KEY, OTHER, KEYS[3]}
    assert all(one.status == "leftover" for one in found.findings)
    assert all(file.exists() for file in useless)
    done = verify(store, repair=True)
    assert done.left == ()
    assert [file for file in useless if file.exists()] == []
    assert [file for file in kept if not file.exists()] == []
    assert store.look(KEY).status == "hit"
    assert verify(store).findings == ()


def test_what_dead_writers_left_is_swept(store: FeatureStore) -> None:
    put(store)
    old = store.cache_dir / f".{KEY}.pkl.abcd1234.tmp"
    old.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    (finding,) = verify(store, repair=True).findings
    assert finding == Finding("", "leftover", f"{old}, of a writer that was killed", "removed")
    assert not old.exists()


def test_who_computes_keeps_its_holder(store: FeatureStore) -> None:
    holder = store.cache_dir / "locks" / f"{KEY}.holder"
    with store.lock(KEY):
        note = holder.read_bytes()
        assert verify(store, repair=True).findings == ()
        assert holder.exists()
    assert not holder.exists()
    holder.write_bytes(note)  # as one that is killed leaves it
    assert [one.status for one in verify(store, repair=True).findings] == ["leftover"]
    assert not holder.exists()


def test_how_a_task_has_failed_is_no_leftover_and_goes_by_age(store: FeatureStore) -> None:
    """Prefect kept it under a name of its own, also of one that SIGTERM has stopped, for whoever reads its state."""
    from simet_cache.records import FeatureResultSerializer

    folder = store.cache_dir / "prefect"
    for key, result in ((KEY, ValueError("stopped")), (OTHER, 5)):  # as earlier versions did
        for kind, content in (("results", FeatureResultSerializer().dumps(result)), ("records", b"{}")):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / kind / key).write_bytes(content)
    files = [folder / kind / KEY for kind in ("records", "results")]
    assert {one.key for one in verify(store, repair=True).findings} == {OTHER}
    assert [file.exists() for file in files] == [True, True]
    assert prune(store, Limits(older_than=100)).files == ()
    assert set(prune(store, Limits(older_than=100), now=time.time() + 1000).files) == set(files)
    assert [file.exists() for file in files] == [False, False]


def test_a_computation_that_is_stopped_leaves_nothing_to_complain_about(store: FeatureStore) -> None:
    with pytest.raises(KeyboardInterrupt), store.lock(KEY):
        raise KeyboardInterrupt
    assert verify(store).findings == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_what_cannot_be_repaired_is_left_with_the_reason(store: FeatureStore) -> None:
    fill(store)
    (store.cache_dir / "quarantine").mkdir(mode=0o500)
    (finding,) = [one for one in verify(store, repair=True).findings if one.status == "damaged"]
    assert not finding.done
    assert "Permission denied" in finding.reason


# Prune


def test_least_recently_used_go_first_until_the_rest_fits(store: FeatureStore) -> None:
    for number, key in enumerate(KEYS[:4]):
        put(store, key, used=1000 * (4 - number))
    each = stored(store)[0].bytes
    dry = prune(store, Limits(max_size=2 * each), dry_run=True)
    assert [(one.key, one.outcome, one.bytes) for one in dry.entries] == [
        (KEYS[3], "would be removed", each),
        (KEYS[2], "would be removed", each),
    ]
    assert store.keys() == KEYS[:4]
    done = prune(store, Limits(max_size=2 * each))
    assert [(one.key, one.bytes) for one in done.entries] == [(one.key, one.bytes) for one in dry.entries]
    assert (done.freed, done.left, done.enough) == (dry.freed, dry.left, True) == (2 * each, 2 * each, True)
    assert store.keys() == KEYS[:2]
    assert [path for path in store.cache_dir.iterdir() if path.stem in KEYS[2:4]] == []


def model(uses: list[int], sizes: list[int], busy: list[bool], limits: Limits, now: float) -> set[int]:
    """What has to go, by brute force: one at a time, least recently used first."""
    gone: set[int] = set()
    order = sorted(range(len(uses)), key=lambda number: (uses[number], number))
    for place, number in enumerate(order):
        total = sum(size for other, size in enumerate(sizes) if other not in gone)
        old = limits.older_than is not None and now - uses[number] > limits.older_than
        many = limits.keep_latest is not None and len(order) - place > limits.keep_latest
        large = limits.max_size is not None and total > limits.max_size
        if (old or many or large) and not busy[number]:
            gone.add(number)
    return gone


@settings(max_examples=60)
@given(
    there=st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 4), st.booleans()), max_size=6),
    max_size=st.none() | st.integers(0, 8000),
    older_than=st.none() | st.integers(0, 6000),
    keep_latest=st.none() | st.integers(0, 6),
)
def test_prune_does_what_a_model_says(
    there: list[tuple[int, int, bool]],
    max_size: int | None,
    older_than: int | None,
    keep_latest: int | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    store = FeatureStore(tmp_path_factory.mktemp("cache"))
    for key, (used, rows, _) in zip(KEYS, there, strict=False):
        put(store, key, used=used, rows=rows * 40)
    sizes = {one.key: one.bytes for one in stored(store)}
    limits = Limits(max_size, older_than, keep_latest)
    uses, _, busy = [list(column) for column in zip(*there, strict=True)] or ([], [], [])
    gone = {KEYS[n] for n in model(uses, [sizes[key] for key in KEYS[: len(there)]], busy, limits, 5000)}
    for key, used in zip(KEYS, busy, strict=False):
        if used:
            locks.use(store.cache_dir, key)
    try:
        for dry_run in (True, False):
            done = prune(store, limits, dry_run=dry_run, now=5000)
            assert {one.key for one in done.entries if one.bytes} == gone
            assert [one.last_used for one in done.entries] == sorted(one.last_used for one in done.entries)
            assert done.freed == sum(sizes[key] for key in gone)
            assert done.left == sum(sizes.values()) - done.freed
        assert set(store.keys()) == sizes.keys() - gone
    finally:
        locks.end_uses()


@pytest.fixture
def user(store: FeatureStore) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a process that has found an entry, or computes one, and lives on."""
    started = []

    def start(code: str) -> subprocess.Popen[str]:
        script = f"from simet_cache.store import FeatureStore; s = FeatureStore({str(store.cache_dir)!r}); {code}"
        process = subprocess.Popen(
            [sys.executable, "-c", f"{script}; print('now', flush=True); import time; time.sleep(600)"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "code", [f"s.find('{KEY}')", f"lock = s.lock('{KEY}'); lock.__enter__()"], ids=["used", "made"]
)
def test_what_is_in_use_stays_until_its_user_is_killed(
    store: FeatureStore, user: Callable[[str], subprocess.Popen[str]], code: str
) -> None:
    put(store, KEY)
    put(store, OTHER)
    process = user(code)
    os.utime(store.path(KEY).with_suffix(".json"), (1000, 1000))
    for dry_run in (True, False):
        done = prune(store, Limits(max_size=0), dry_run=dry_run)
        assert (done.entries[0].key, done.entries[0].outcome, done.freed) == (
            KEY,
            "in use, kept",
            done.entries[1].bytes,
        )
        assert done.freed > 0
        assert not done.enough
    assert store.keys() == [KEY]
    process.kill()
    process.wait()
    assert [one.outcome for one in prune(store, Limits(max_size=0)).entries] == ["removed"]
    assert store.keys() == []


def test_a_dry_run_makes_no_locks(store: FeatureStore) -> None:
    put(store)
    before = sorted(store.cache_dir.rglob("*"))
    prune(store, Limits(max_size=0), dry_run=True)
    assert sorted(store.cache_dir.rglob("*")) == before


def test_what_another_process_has_removed_is_gone(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store)
    monkeypatch.setattr(FeatureStore, "remove", lambda self, key: store.path(key).unlink() or 0)
    done = prune(store, Limits(keep_latest=0))
    assert [(one.outcome, one.bytes) for one in done.entries] == [("gone", 0)]
    assert done.left == 0


def test_the_quarantine_is_emptied_by_age_and_only_of_what_was_put_there(store: FeatureStore) -> None:
    folder = store.cache_dir / "quarantine"
    folder.mkdir()
    now = time.time()
    old, young = (folder / f"{KEY}.{int((now - age) * 1e9)}.pkl" for age in (5000, 10))
    mine = folder / "mine.pkl"
    for file in (old, young, mine, old.with_suffix(".json")):
        file.write_bytes(b"12345")
    assert prune(store, Limits(older_than=100)).entries == ()
    limits = Limits(older_than=100, quarantine=True)
    assert prune(store, limits, dry_run=True).freed == 10
    assert old.exists()
    assert prune(store, limits).freed == 10
    assert sorted(folder.iterdir()) == sorted([young, mine])


# Sizes and ages


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50GB", 50 * 10**9),
        ("500 mb", 5 * 10**8),
        ("1.5GiB", 3 << 29),
        ("2K", 2000),
        ("12", 12),
        ("0", 0),
        ("3TiB", 3 << 40),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parsed_size(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("30d", 2_592_000), ("12h", 43_200), ("2w", 1_209_600), ("1.5 m", 90)])
def test_ages(text: str, expected: float) -> None:
    assert parsed_age(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1", "50XB", "1e9", "nan", "50 G B", "1,5GB", "٣GB", "9" * 400])
def test_what_is_no_size_and_no_age(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a size like 50GB"):
        parsed_size(text)
    with pytest.raises(ConfigError, match="expected an age like 30d"):
        parsed_age(text)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "nothing to go by"),
        ({"keep_latest": -1}, "expected 0 or more, found -1"),
        ({"max_size": "much"}, "expected a size"),
        ({"older_than": "30"}, "expected an age"),
        ({"quarantine": True, "keep_latest": 1}, "the quarantine is emptied by age"),
    ],
)
def test_limits_that_are_none(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Limits.of(**limits)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (-5, "0 s"), (59, "59 s"), (60, "1 m"), (7300, "2 h"), (86_400 * 400, "400 d")]
)
def test_durations(seconds: float, text: str) -> None:
    from simet_cache.prune import duration

    assert duration(seconds) == text


# Nearest


def test_nearest_is_the_entry_that_shares_most() -> None:
    manifests = {
        "a": {"components": {**COMPONENTS, "batch_size": 64, "length": 9}},
        "b": {"components": {**COMPONENTS, "batch_size": 64}},
        "c": {"adopted": True},
        "d": {"components": {"dataset": "/data/real"}},
    }
    found = nearest(COMPONENTS, manifests)
    assert found is not None
    assert str(found) == "b differs in batch_size: 64 there, 128 here"
    assert nearest({**COMPONENTS, "dataset": "/x", "suffix": "y"}, manifests) is None, "a length alone means nothing"
