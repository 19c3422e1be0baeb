"""Who computes is alone with it, who uses an entry keeps it, and the dead hold nothing."""

from __future__ import annotations

import gc
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from simet_cache import locks
from simet_cache.store import FeatureStore

ROOT = Path(__file__).resolve().parents[1]
KEY, OTHER, THIRD = "0" * 32, "1" * 32, "2" * 32
FEATURES = np.ones((4, 3), np.float32)


@contextmanager
def another(code: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has printed a line and waits."""
    script = f"import sys\nfrom pathlib import Path\nfrom simet_cache import locks\n{code}\nprint('ready', flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{script}\nsys.stdin.read()", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


COMPUTES = "lock = locks.computing(Path(sys.argv[1]), sys.argv[2])\nlock.__enter__()"
USES = "for key in sys.argv[2:]: locks.use(Path(sys.argv[1]), key)"
PUTS = """
import numpy
from simet_cache.store import FeatureStore
FeatureStore(sys.argv[1]).put(sys.argv[2], numpy.ones((4, 3)))
"""
CHANGES = "lock = locks.changing(Path(sys.argv[1]))\nlock.__enter__()"
LOOKS = "lock = locks.unchanging(Path(sys.argv[1]))\nlock.__enter__()"


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def in_use(folder: Path) -> set[str]:
    """Of the keys that these tests use."""
    return {key for key in (KEY, OTHER, THIRD) if locks.is_used(folder, key)}


def started(work: str, folder: Path) -> tuple[threading.Thread, threading.Event]:
    """Somebody who wants to change, or look, in a thread; and whether that was possible."""
    done = threading.Event()

    def want() -> None:
        with getattr(locks, work)(folder):
            done.set()

    thread = threading.Thread(target=want)
    thread.start()
    return thread, done


# Computing


def test_a_key_is_computed_by_one_at_a_time(tmp_path: Path) -> None:
    assert not locks.is_computing(tmp_path, KEY)
    with another(COMPUTES, tmp_path, KEY) as process:
        assert locks.is_computing(tmp_path, KEY)
        assert not locks.is_computing(tmp_path, OTHER)
        end(process)
        assert not locks.is_computing(tmp_path, KEY)
    with locks.computing(tmp_path, KEY):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(locks.is_computing, tmp_path, KEY).result()
        assert locks.is_computing(tmp_path, KEY)
    assert not locks.is_computing(tmp_path, KEY)


def test_a_computation_that_fails_frees_its_key(tmp_path: Path) -> None:
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error), locks.computing(tmp_path, KEY):
            raise error
        assert not locks.is_computing(tmp_path, KEY)


def test_many_threads_compute_each_key_once(tmp_path: Path) -> None:
    keys = [f"{number:032x}" for number in range(6)]
    computed: Counter[str] = Counter()

    def want(number: int) -> None:
        store = FeatureStore(tmp_path)
        for at in range(len(keys)):
            key = keys[(number + at) % len(keys)]
            found = store.get_or_compute(key, lambda key=key: computed.update([key]) or FEATURES * int(key, 16))
            assert np.array_equal(found.load(), FEATURES * int(key, 16))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(want, range(8)))
    assert computed == dict.fromkeys(keys, 1)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """By the locks: threads of other tests may log meanwhile."""
    return [record.getMessage() for record in caplog.records if record.name == locks.__name__]


def test_who_waits_is_told_for_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "_PATIENCE", 0.01)
    host = socket.gethostname()
    for _ in range(2):  # the note of the first, which is killed, says nothing of the second
        with another(COMPUTES, tmp_path, KEY) as process, ThreadPoolExecutor(1) as pool:
            caplog.clear()
            future = pool.submit(FeatureStore(tmp_path).get_or_compute, KEY, lambda: FEATURES, force=True)
            while not said(caplog):
                threading.Event().wait(0.01)
            end(process)
            assert np.array_equal(future.result().load(), FEATURES)
            assert said(caplog)[0].startswith(f"Waiting for process {process.pid} on {host} (")
            assert said(caplog)[0].endswith(f", which computes features for key {KEY}")


@pytest.mark.parametrize(
    "note",
    [b"", b"{", b"[]", b'{"process": 1}', b'{"process": "\\u001b[2J", "command": "", "since": ""}', b"\xff", None],
)
def test_a_note_that_says_nothing_is_another_process(
    tmp_path: Path, note: bytes | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "_PATIENCE", 0.01)
    with another(COMPUTES, tmp_path, KEY) as process, ThreadPoolExecutor(1) as pool:
        holder = tmp_path / "locks" / f"{KEY}.holder"
        holder.unlink()
        if note is not None:
            holder.write_bytes(note)
        future = pool.submit(FeatureStore(tmp_path).get_or_compute, KEY, lambda: FEATURES)
        while not said(caplog):
            threading.Event().wait(0.01)
        end(process)
        future.result()
    assert said(caplog)[0] == f"Waiting for another process, which computes features for key {KEY}"


def test_a_note_means_nothing_while_the_lock_is_free(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with another(COMPUTES, tmp_path, KEY) as process:
        end(process)
    assert json.loads((tmp_path / "locks" / f"{KEY}.holder").read_bytes())["process"].split()[1] == str(process.pid)
    FeatureStore(tmp_path).get_or_compute(KEY, lambda: FEATURES)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_where_there_can_be_no_lock_it_is_computed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "locks").write_text("a file in the place of the folder")
    found = FeatureStore(tmp_path).get_or_compute(KEY, lambda: FEATURES)
    assert np.array_equal(found.load(), FEATURES)
    assert any(
        line == f"cannot lock {tmp_path}/locks/{KEY}.lock: File exists. Other processes may compute the same features"
        " meanwhile"
        for line in caplog.messages
    )


# Changing


@pytest.mark.parametrize(("theirs", "ours"), [(CHANGES, "changing"), (CHANGES, "unchanging"), (LOOKS, "changing")])
def test_who_changes_entries_is_alone(tmp_path: Path, theirs: str, ours: str) -> None:
    with locks.changing(tmp_path):  # where nobody ever has, there is nothing to look out for
        pass
    with another(theirs, tmp_path) as process:
        thread, done = started(ours, tmp_path)
        assert not done.wait(0.1)
        end(process)
        thread.join()
    assert done.is_set()


def test_many_may_look_at_once(tmp_path: Path) -> None:
    with locks.changing(tmp_path):
        pass
    with another(LOOKS, tmp_path), locks.unchanging(tmp_path):
        thread, done = started("unchanging", tmp_path)
        thread.join()
    assert done.is_set()


def test_threads_change_entries_one_after_the_other(tmp_path: Path) -> None:
    with locks.changing(tmp_path):
        thread, done = started("changing", tmp_path)
        assert not done.wait(0.1)
    thread.join()
    assert done.is_set()


def test_nobody_starts_to_use_an_entry_while_it_is_removed(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        with locks.unused(tmp_path, KEY) as free:
            assert free
            future = pool.submit(locks.use, tmp_path, KEY)
            pool.submit(locks.use, tmp_path, OTHER).result()  # another one is used at once
            assert not future.done()
        future.result()
    assert in_use(tmp_path) == {KEY, OTHER}
    with locks.unused(tmp_path, KEY) as free:
        assert not free


def test_where_there_is_no_lock_one_may_look(tmp_path: Path) -> None:
    with locks.unchanging(tmp_path / "missing"):
        assert not (tmp_path / "missing").exists()
    (tmp_path / "locks").touch()
    with locks.unchanging(tmp_path):
        pass
    with pytest.raises(OSError), locks.changing(tmp_path):
        pass


# In use


def test_what_is_used_is_in_use_while_its_user_lives(tmp_path: Path) -> None:
    assert in_use(tmp_path) == set()
    with another(USES, tmp_path, KEY) as first, another(USES, tmp_path, KEY, OTHER) as second:
        assert in_use(tmp_path) == {KEY, OTHER}
        end(second)
        assert in_use(tmp_path) == {KEY}
        end(first)
        assert in_use(tmp_path) == set()


def test_this_process_is_one_of_them(tmp_path: Path) -> None:
    for _ in range(2):
        locks.use(tmp_path, KEY)
    locks.use(tmp_path, OTHER)
    assert in_use(tmp_path) == {KEY, OTHER}
    assert in_use(tmp_path / "locks") == set(), "another folder"


def test_a_forked_child_uses_for_itself(tmp_path: Path) -> None:
    locks.use(tmp_path, KEY)
    use = "locks.use(Path(sys.argv[1]), sys.argv[{}])"
    forks = f"import os\n{use.format(2)}\nif os.fork(): os._exit(0)\n{use.format(3)}"
    with another(forks, tmp_path, OTHER, THIRD) as parent:
        parent.wait()
        assert in_use(tmp_path) >= {KEY, THIRD}


def test_threads_use_many_entries_with_two_open_files(tmp_path: Path) -> None:
    keys = [f"{number:08x}" * 4 for number in range(2000)]
    gc.collect()  # what other tests left open is not closed meanwhile
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: locks.use(tmp_path, key), keys * 4))
    assert len(os.listdir("/proc/self/fd")) == before + 2
    assert all(locks.is_used(tmp_path, key) for key in keys)
    assert not locks.is_used(tmp_path, "f" * 32)


def test_what_a_thread_of_this_process_computes_is_not_removed(tmp_path: Path) -> None:
    with another(PUTS, tmp_path, KEY) as process:
        end(process)
    store = FeatureStore(tmp_path)
    with locks.computing(tmp_path, KEY), ThreadPoolExecutor(1) as pool:
        assert pool.submit(store.remove, KEY).result() == 0
        assert store.remove(KEY) == 0
    assert store.remove(KEY) > 0


def test_loading_is_using(tmp_path: Path) -> None:
    put = FeatureStore(tmp_path).put(KEY, FEATURES)
    assert in_use(tmp_path) == set()
    put.load()
    assert in_use(tmp_path) == {KEY}


def test_what_is_mapped_outlives_the_entry(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    mapped = store.put(KEY, FEATURES).load()
    store.put(KEY, FEATURES * 2)
    store.path(KEY).unlink()
    assert np.array_equal(mapped, FEATURES)
