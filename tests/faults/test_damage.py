"""Whatever becomes of the bytes of an entry: the old features bit by bit, or a miss, a warning, and the file kept."""

from __future__ import annotations

import itertools
import json
import logging
import os
import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from simet_cache import codec
from simet_cache.errors import DamagedEntryError, StoreError, UnsafePickleError
from simet_cache.store import FeatureStore

KEY = "0" * 32
FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)
MARK, HEAD, PAYLOAD = 19, 64, FEATURES.nbytes

Damage = Callable[[bytes], bytes]


class Entry:
    """An entry that is made anew again and again, and damaged."""

    def __init__(self, folder: Path) -> None:
        self.store = FeatureStore(folder)
        self.put = self.store.put(KEY, FEATURES, value=1)
        self.pkl, self.json = self.store.path(KEY), self.store.path(KEY).with_suffix(".json")
        self.content, self.said, self.status = self.pkl.read_bytes(), self.json.read_bytes(), self.pkl.stat()

    def renew(self, *, pkl: bytes | None = None, said: bytes | None = None, kept_time: bool = True) -> None:
        self.pkl.write_bytes(self.content if pkl is None else pkl)
        self.json.write_bytes(self.said if said is None else said)
        os.utime(self.pkl, ns=(1, self.status.st_mtime_ns + (0 if kept_time else 10**9)))

    def quarantined(self) -> list[tuple[bytes, bytes]]:
        """What was put aside, which is removed."""
        found = []
        for path in (self.store.cache_dir / "quarantine").glob("*.pkl"):
            found.append((path.read_bytes(), path.with_suffix(".json").read_bytes()))
            path.unlink()
            path.with_suffix(".json").unlink()
        return found


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return Entry(tmp_path)


def same(array: np.ndarray) -> bool:
    return (array.dtype, array.shape, array.tobytes()) == (FEATURES.dtype, FEATURES.shape, FEATURES.tobytes())


def outcome(entry: Entry, caplog: pytest.LogCaptureFixture) -> str:
    """What is found: ``same``, ``miss`` or ``other``; and that a miss was put aside as it was."""
    pkl, said = entry.pkl.read_bytes(), entry.json.read_bytes()
    full = entry.store.look(KEY, full=True)
    assert full.status in ("hit", "damaged")
    caplog.clear()
    found = entry.store.find(KEY, rows=4)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    if found is None:
        (warning,) = warnings
        assert warning.endswith(", and counts as missing")
        assert entry.quarantined() == [(pkl, said)]
        assert full.status == "damaged"
        return "miss"
    assert entry.quarantined() == []
    copied = True
    try:
        assert same(found.load(copy=True))
    except DamagedEntryError:
        copied = False
    assert copied == (full.status == "hit"), "load(copy=True) sees what a full look sees"
    return "same" if same(found.load()) else "other"


def flips(length: int, *, bits: int, seed: int) -> Iterator[tuple[int, int]]:
    rng = random.Random(seed)
    return ((at, 1 << bit) for at in range(length) for bit in rng.sample(range(8), bits))


def flipped(content: bytes, at: int, mask: int) -> bytes:
    return content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :]


BITS = pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.slow)])


@BITS
@pytest.mark.parametrize("kept_time", [True, False])
def test_a_flipped_bit_of_the_features(
    entry: Entry, bits: int, kept_time: bool, caplog: pytest.LogCaptureFixture
) -> None:
    seen: Counter[str] = Counter()
    for at, mask in flips(len(entry.content), bits=bits, seed=1):
        entry.renew(pkl=flipped(entry.content, at, mask), kept_time=kept_time)
        try:
            became = outcome(entry, caplog)
        except UnsafePickleError:  # what this program marks its files with has become an opcode that no array needs
            assert at < MARK
            assert not kept_time
            assert entry.pkl.exists()
            continue
        in_payload = HEAD <= at < HEAD + PAYLOAD
        if kept_time and in_payload:
            assert became == "other", "quick looks see no payload"
        else:
            assert became in ("miss", "same"), f"byte {at} changed by {mask}"
        assert not in_payload or entry.store.look(KEY, full=True).status != "hit"
        seen[became] += 1
    assert seen["miss"] > 100


@BITS
def test_a_flipped_bit_of_the_manifest(entry: Entry, bits: int, caplog: pytest.LogCaptureFixture) -> None:
    newer = entry.said.index(b'"format": 1') + len(b'"format": ')
    for at, mask in flips(len(entry.said), bits=bits, seed=2):
        entry.renew(said=flipped(entry.said, at, mask))
        if at == newer and entry.json.read_bytes()[at] in b"23456789":
            with pytest.raises(StoreError, match="was written by a newer simet-cache"):
                entry.store.find(KEY)
            continue
        assert outcome(entry, caplog) in ("miss", "same"), f"byte {at} changed by {mask}"


def damages() -> dict[str, Damage]:
    return {
        "empty": lambda content: b"",
        "one byte": lambda content: content[:1],
        "half": lambda content: content[: len(content) // 2],
        "all but one": lambda content: content[:-1],
        "all but the first": lambda content: content[1:],
        "one more": lambda content: content + b".",
        "twice": lambda content: content * 2,
        "zeros": lambda content: bytes(len(content)),
        "noise": lambda content: random.Random(0).randbytes(len(content)),
        "a hole": lambda content: content[:60] + bytes(60) + content[120:],
        "upside down": lambda content: content[::-1],
        "text": lambda content: b"\r\n".join(content.split(b"\n")) + b"\n",
    }


@pytest.mark.parametrize("kept_time", [True, False])
@pytest.mark.parametrize("which", ["pkl", "said"])
@pytest.mark.parametrize("how", damages())
def test_what_else_happens_to_files(
    entry: Entry, which: str, how: str, kept_time: bool, caplog: pytest.LogCaptureFixture
) -> None:
    before = entry.content if which == "pkl" else entry.said
    after = damages()[how](before)
    entry.renew(**{which: after}, kept_time=kept_time)  # type: ignore[arg-type]
    became = outcome(entry, caplog)
    assert became == "miss" or (became == "same" and which == "said")


@BITS
def test_every_length_that_a_file_can_be_cut_to(entry: Entry, bits: int, caplog: pytest.LogCaptureFixture) -> None:
    for kept_time, length in itertools.product((True, False), range(0, len(entry.content), 8 // bits)):
        entry.renew(pkl=entry.content[:length], kept_time=kept_time)
        assert outcome(entry, caplog) == "miss", length
    for length in range(0, len(entry.said), 8 // bits):
        entry.renew(said=entry.said[:length])
        assert outcome(entry, caplog) == "miss", length


@pytest.mark.parametrize("features", [FEATURES + 1, FEATURES[:3], FEATURES.astype(np.float64)])
def test_features_of_another_key_are_not_believed(
    entry: Entry, tmp_path: Path, features: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    other = FeatureStore(tmp_path / "other")
    other.put("1" * 32, features)
    content = other.path("1" * 32).read_bytes()
    for kept_time in (True, False):
        entry.renew(pkl=content, kept_time=kept_time)
        became = outcome(entry, caplog)
        assert became == ("other" if kept_time and len(content) == len(entry.content) else "miss")
    entry.renew(said=other.path("1" * 32).with_suffix(".json").read_bytes())
    assert outcome(entry, caplog) == "miss"
    entry.renew(said=entry.said.replace(KEY.encode(), b"1" * 32))
    assert outcome(entry, caplog) == "miss"


@pytest.mark.parametrize("kept_time", [True, False])
def test_a_pickle_of_another_program_is_taken_as_it_is(entry: Entry, kept_time: bool) -> None:
    entry.renew(pkl=pickle.dumps(FEATURES + 1), kept_time=kept_time)
    found = entry.store.find(KEY)
    assert found is not None
    assert np.array_equal(found.load(copy=True), FEATURES + 1)
    assert "value" not in entry.store.manifest(KEY)


def test_a_manifest_that_says_other_bytes_is_mended_and_keeps_its_details(entry: Entry) -> None:
    said = json.loads(entry.said)
    entry.renew(said=json.dumps({**said, "file": {**said["file"], "bytes": 1}}).encode())
    assert entry.store.find(KEY) == entry.put
    assert json.loads(entry.json.read_bytes()) == said


def test_a_full_check_is_made_once_for_each_version_of_a_file(entry: Entry) -> None:
    careful = FeatureStore(entry.store.cache_dir, verify="full")
    entry.renew(pkl=flipped(entry.content, HEAD, 1))
    assert careful.find(KEY) is None
    assert len(entry.quarantined()) == 1
    assert entry.store.put(KEY, FEATURES) == careful.find(KEY)


@pytest.mark.parametrize("copy", [False, True])
def test_a_handle_is_one_on_certain_features(entry: Entry, copy: bool) -> None:
    entry.store.put(KEY, FEATURES + 1)
    with pytest.raises(DamagedEntryError, match="no longer holds the features it held"):
        entry.put.load(copy=copy)


def test_what_replaces_a_damaged_file_while_it_is_looked_at_is_left_alone(
    entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(self: FeatureStore, key: str, reason: str, *, seen: os.stat_result | None = None) -> bool:
        monkeypatch.undo()
        self.put(key, FEATURES + 1)
        return self.quarantine(key, reason, seen=seen)

    entry.renew(pkl=entry.content[:-1])
    monkeypatch.setattr(FeatureStore, "quarantine", late)
    entry.store.find(KEY)
    assert entry.store.look(KEY, full=True).status == "hit"
    assert entry.quarantined() == []


def test_what_replaces_a_foreign_file_while_it_is_adopted_keeps_its_manifest(
    entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_mapped = codec.open_mapped

    def late(path: Path) -> np.ndarray:
        monkeypatch.undo()
        found = open_mapped(path)
        entry.store.put(KEY, FEATURES + 1, value=2)
        return found

    entry.renew(pkl=pickle.dumps(FEATURES))
    monkeypatch.setattr(codec, "open_mapped", late)
    entry.store.find(KEY)
    seen = entry.store.look(KEY, full=True)
    assert (seen.status, seen.entry["value"]) == ("hit", 2)


def test_what_would_run_code_stays_where_it_is(entry: Entry) -> None:
    entry.renew(pkl=b"cos\nsystem\n(S'true'\ntR.")
    for call in (entry.store.find, entry.store.look):
        with pytest.raises(UnsafePickleError):
            call(KEY)
    assert entry.pkl.exists()
    assert entry.quarantined() == []
