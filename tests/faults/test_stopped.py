"""A process that is stopped, as by Ctrl-Z, while it holds a lock: hits go on, and who waits is told for whom."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from simet_cache import locks, stopping
from simet_cache.errors import StoppedError
from simet_cache.prune import Limits, prune
from simet_cache.store import FeatureStore
from simet_cache.upkeep import verify

ROOT = Path(__file__).resolve().parents[2]
KEY, OTHER, MISSING = "a" * 32, "b" * 32, "c" * 32
FEATURES = np.ones((4, 3), np.float32)
HANG = 60  # seconds after which a test that hangs fails

CHANGES = "locks.changing(folder)"
REMOVES = f"locks.changing(folder), locks.unused(folder, '{KEY}')"


@contextmanager
def stopped(folder: Path, holding: str) -> Iterator[subprocess.Popen[str]]:
    """A process that was stopped in the middle of a change."""
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom simet_cache import locks\nfolder = Path(sys.argv[1])\n"
        f"with {holding}:\n    print('ready', flush=True)\n    os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, folder],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED)
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path)
    for key in (KEY, OTHER):
        store.put(key, FEATURES)
    return store


def never() -> np.ndarray:
    raise AssertionError("computed although it is there")


def test_hits_go_on(store: FeatureStore, pool: ThreadPoolExecutor) -> None:
    def hits() -> None:
        assert store.get_or_compute(KEY, never, rows=4).load().sum() == 12
        assert FeatureStore(store.cache_dir, verify="full").find(OTHER) is not None
        assert store.find(MISSING) is None

    with stopped(store.cache_dir, CHANGES):
        pool.submit(hits).result(timeout=HANG)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    while not (found := [record.getMessage() for record in caplog.records if record.name == locks.__name__]):
        threading.Event().wait(0.01)
    return found


@pytest.mark.parametrize("holding", [CHANGES, REMOVES], ids=["changes", "removes"])
def test_a_writer_is_told_for_whom_it_waits(
    store: FeatureStore,
    pool: ThreadPoolExecutor,
    holding: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(locks, "_PATIENCE", 0.01)
    with stopped(store.cache_dir, holding) as process:
        writer = pool.submit(store.put, KEY, FEATURES * 2)
        (line,) = said(caplog)
        assert line.startswith(f"Waiting for process {process.pid} on {socket.gethostname()} (")
        assert line.endswith(f", which has locked the entries of {store.cache_dir}; it may be stopped")
        assert not writer.done()
        os.kill(process.pid, signal.SIGCONT)
        assert np.array_equal(writer.result(timeout=HANG).load(), FEATURES * 2)


def test_who_looks_for_what_is_being_removed_waits_and_is_told(
    store: FeatureStore,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(locks, "_PATIENCE", 0.01)
    with stopped(store.cache_dir, REMOVES) as process:
        reader = pool.submit(store.find, KEY)
        (line,) = said(caplog)
        assert line.startswith(f"Waiting for process {process.pid} on ")
        assert line.endswith(f", which removes the entry {KEY} of {store.cache_dir}; it may be stopped")
        assert store.find(OTHER) is not None, "others do not wait"
        process.kill()
        assert reader.result(timeout=HANG) is not None


def test_a_run_that_waits_can_be_stopped(
    store: FeatureStore, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "_PATIENCE", 0.01)
    with stopped(store.cache_dir, CHANGES), stopping.listening():
        writer = pool.submit(store.put, KEY, FEATURES * 2)
        said(caplog)
        stopping.request()
        with pytest.raises(StoppedError):
            writer.result(timeout=HANG)


def test_who_holds_it_no_more_is_not_named(
    store: FeatureStore, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who looks names nobody: the last one who changed something, which is this process, has long let it go."""
    monkeypatch.setattr(locks, "_PATIENCE", 0.01)
    with stopped(store.cache_dir, "locks.unchanging(folder)"):
        pool.submit(store.put, KEY, FEATURES)
        assert said(caplog)[0].startswith("Waiting for another process, which has locked the entries of ")


# Scans


def test_scans_hold_the_lock_for_one_entry_at_a_time(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """And read no folder while they do."""
    keys = [f"{number:032x}" for number in range(20)]
    for key in keys:
        for name in (f"{key}.json", f"prefect/records/{key}", f"locks/{key}.holder"):
            file = store.cache_dir / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"{}")
    held: set[int] = set()
    removed: list[set[str]] = []
    flock, unlink, scandir, listdir = fcntl.flock, os.unlink, os.scandir, os.listdir

    def locked(handle: int, how: int) -> None:
        flock(handle, how)
        if how & fcntl.LOCK_EX and os.readlink(f"/proc/self/fd/{handle}").endswith("/entries.lock"):
            held.add(handle)
            removed.append(set())
        elif how & fcntl.LOCK_UN:
            held.discard(handle)

    def gone(path: str, **named: int) -> None:
        if held:
            removed[-1].add(os.path.basename(path)[:32])
        unlink(path, **named)

    def alone(function):  # type: ignore[no-untyped-def]
        def call(*arguments):  # type: ignore[no-untyped-def]
            assert not held
            return function(*arguments)

        return call

    monkeypatch.setattr(fcntl, "flock", locked)
    monkeypatch.setattr(os, "unlink", gone)
    monkeypatch.setattr(os, "scandir", alone(scandir))
    monkeypatch.setattr(os, "listdir", alone(listdir))
    assert {finding.key for finding in verify(store, full=True, repair=True).findings} == set(keys)
    locks.end_uses()
    assert [one.outcome for one in prune(store, Limits(max_size=0)).entries] == ["removed"] * 2
    assert len(removed) >= len(keys) + 2
    assert max(map(len, removed)) == 1
