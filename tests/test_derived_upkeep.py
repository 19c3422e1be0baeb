"""What is derived is listed, checked and pruned like everything else, and never in the way of features."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simet_cache import cli, locks
from simet_cache.comparisons import Comparison, Rows, compare
from simet_cache.derived import Derived, Kept, kept, results, results_folder
from simet_cache.prune import Limits, prune
from simet_cache.store import FeatureStore
from simet_cache.upkeep import derived_sizes, verify

KEYS = ["1" * 32, "2" * 32]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Two entries, two summaries and one value, used in this order: 1000, 2000; 3000, 3001; 3002."""
    store = FeatureStore(tmp_path)
    rows = [
        Rows(key, store.put(key, np.random.default_rng(number).normal(size=(20, 3)).astype(np.float32)))
        for number, key in enumerate(KEYS)
    ]
    compare(Derived(tmp_path), Comparison(rows[0], rows[1], {"fid": {}}), device="cpu")
    for key, used in zip(KEYS, (1000, 2000), strict=True):
        os.utime(store.path(key).with_suffix(".json"), (used, used))
    for number, one in enumerate(kept(tmp_path)):
        os.utime(one.path, (3000 + number, 3000 + number))
    return store


@pytest.fixture
def call(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> tuple[int, str]:
        code = cli.main([*arguments, "--cache-dir", str(store.cache_dir)])
        return code, capsys.readouterr().out

    return run


def names(store: FeatureStore) -> list[str]:
    return [one.kind for one in kept(store.cache_dir)]


# ls


def test_ls_says_how_much_there_is(store: FeatureStore, call: Any) -> None:
    code, out = call("ls")
    assert code == 0
    assert out.splitlines()[-1].startswith("2 entries, ")
    assert "; 2 summaries, 1 value derived from them, " in out.splitlines()[-1]
    found = json.loads(call("ls", "--json")[1])["derived"]
    there = kept(store.cache_dir)
    assert found["values"] == {"count": 1, "bytes": there[-1].bytes}
    assert found["summaries"] == {"count": 2, "bytes": there[0].bytes + there[1].bytes}
    assert derived_sizes(store)["values"] == (1, there[-1].bytes)


# verify


def flip(one: Kept, place: int) -> None:
    content = bytearray(one.path.read_bytes())
    content[place] ^= 1
    one.path.write_bytes(content)


def test_only_a_full_check_reads_every_byte(store: FeatureStore, call: Any) -> None:
    assert call("verify", "--full")[1] == "2 entries and 3 derived files checked (every byte): 0 findings\n"
    flip(kept(store.cache_dir)[0], -1)
    assert verify(store).findings == ()
    (finding,) = verify(store, full=True).findings
    assert (finding.status, finding.done) == ("damaged", "")
    assert finding.key == kept(store.cache_dir)[0].path.stem
    assert "an array is not what was written" in finding.reason


def test_a_quick_check_sees_heads_and_sizes_and_repair_removes(store: FeatureStore, call: Any) -> None:
    first, second, value = kept(store.cache_dir)
    flip(value, 100)
    os.truncate(first.path, first.bytes - 1)
    second.path.write_bytes(b"")
    found = verify(store)
    assert [one.key for one in found.findings] == [one.path.stem for one in (first, second, value)]
    assert len(kept(store.cache_dir)) == 3
    code, out = call("verify", "--repair")
    assert (code, out.count("removed")) == (1, 3)
    assert kept(store.cache_dir) == []
    assert store.keys() == KEYS
    assert call("verify")[1] == "2 entries checked (size, header, shape and manifest): 0 findings\n"


def test_what_dead_writers_left_is_swept(store: FeatureStore) -> None:
    old = [
        kept(store.cache_dir)[0].path.parent / ".a.abcd1234.tmp",
        results_folder(store.cache_dir) / ".b.abcd1234.tmp",
    ]
    for file in old:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"half")
        os.utime(file, (1000, 1000))
    assert {one.done for one in verify(store, repair=True).findings} == {"removed"}
    assert not any(file.exists() for file in old)
    assert len(kept(store.cache_dir)) == 3


# prune


def test_by_age(store: FeatureStore) -> None:
    locks.end_uses()  # as in another process: here the features are in use
    done = prune(store, Limits(older_than=99.5), now=3101)
    assert ([one.key for one in done.entries], done.derived) == (KEYS, 2)
    assert names(store) == ["values"]
    assert done.left == kept(store.cache_dir)[0].bytes


def test_by_size_least_recently_used_first(store: FeatureStore) -> None:
    locks.end_uses()  # as in another process: here the features are in use
    there = kept(store.cache_dir)
    total = prune(store, Limits(max_size=1 << 40)).left
    taken = sum(file.stat().st_size for key in KEYS for file in store.files(key))
    assert total == taken + sum(one.bytes for one in there)
    first = sum(file.stat().st_size for file in store.files(KEYS[0]))
    done = prune(store, Limits(max_size=total - first))
    assert ([one.key for one in done.entries], done.derived) == (KEYS[:1], 0)
    done = prune(store, Limits(max_size=there[2].bytes))
    assert ([one.key for one in done.entries], done.derived) == (KEYS[1:], 2)
    assert done.freed == total - first - there[2].bytes
    assert names(store) == ["values"]


def test_what_is_derived_goes_first_where_it_was_used_first(store: FeatureStore) -> None:
    for one in kept(store.cache_dir):
        os.utime(one.path, (10, 10))
    done = prune(store, Limits(max_size=prune(store, Limits(max_size=1 << 40)).left - 1))
    assert (done.entries, done.derived) == ((), 1)
    assert names(store) == ["summaries", "values"]


def test_the_latest_entries_are_counted_without_what_is_derived(store: FeatureStore) -> None:
    locks.end_uses()  # as in another process: here the features are in use
    done = prune(store, Limits(keep_latest=1))
    assert ([one.key for one in done.entries], done.derived) == (KEYS[:1], 0)
    assert len(kept(store.cache_dir)) == 3


def test_a_dry_run_removes_nothing_and_says_the_same(store: FeatureStore, call: Any) -> None:
    code, out = call("prune", "--older-than", "1d", "--dry-run")
    assert code == 0
    assert "3 summaries and values would be removed, to be made again when needed; " in out
    assert len(kept(store.cache_dir)) == 3
    code, out = call("prune", "--older-than", "1d")
    assert "3 summaries and values removed, to be made again when needed; " in out
    assert kept(store.cache_dir) == []
    assert store.keys() == KEYS, "they are in use here"


def test_prefects_results_go_by_age_and_are_not_counted(store: FeatureStore) -> None:
    folder = results_folder(store.cache_dir)
    folder.mkdir(parents=True)
    for name, used in (("a" * 32, 1000), ("b" * 32, 5000)):
        (folder / name).write_text("{}")
        os.utime(folder / name, (used, used))
    assert verify(store).findings == ()
    assert verify(store, repair=True).findings == ()
    assert prune(store, Limits(older_than=2000.0), now=5000).derived == 0
    assert [one.path.name for one in results(store.cache_dir)] == ["b" * 32]


def test_what_cannot_be_removed_is_told(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: str, **_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "unlink", refuse)
    done = prune(store, Limits(older_than=1.0), now=9999)
    assert done.derived == 0
    assert "cannot remove" in caplog.text
    flip(kept(store.cache_dir)[0], 100)
    (finding,) = verify(store, repair=True).left
    assert "cannot remove it: Permission denied" in finding.reason
