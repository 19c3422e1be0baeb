"""What once went wrong: each of these was a fault of the store, found by trying to break it."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simet_cache import locks
from simet_cache.holders import Holder
from simet_cache.store import FeatureStore

ROOT = Path(__file__).resolve().parents[2]
KEY = "0" * 32
OLD, NEW = np.zeros((4, 3), np.float32), np.ones((4, 3), np.float32)


def test_locks_on_nfs(tmp_path, monkeypatch):
    """NFS and CIFS make byte-range locks of it: LOCK_EX on what is open for reading only is EBADF (flock(2))."""
    flock = fcntl.flock

    def nfs(handle, how):
        if how & fcntl.LOCK_EX and fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", nfs)
    store = FeatureStore(tmp_path)
    put = store.put(KEY, NEW)
    assert store.find(KEY) == put


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks(tmp_path, monkeypatch, code):
    """There is a warning, and the last one's entry stays (docs/cache.md)."""

    def none(handle, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", none)
    store = FeatureStore(tmp_path)
    made = store.get_or_compute(KEY, lambda: NEW)
    assert made.unsaved is None
    assert store.find(KEY) == made
    os.utime(store.path(KEY), ns=(1, 1))
    assert store.find(KEY) == made


def test_a_fork_while_entries_change_keeps_them_locked(tmp_path):
    """os.close does not let go of a flock that a forked child shares, like a DataLoader's worker."""
    code = """
import os, sys, threading
from dataclasses import replace
from pathlib import Path
from simet_cache import locks
from simet_cache.holders import Holder
folder = Path(sys.argv[1])
with locks.changing(folder):
    child = os.fork()
    if child == 0:
        sys.stdin.read()
        os._exit(0)
done = threading.Event()
def want():
    with locks.changing(folder):
        done.set()
threading.Thread(target=want, daemon=True).start()
print(done.wait(3), flush=True)
os._exit(0)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "True\n"
    process.communicate()


def test_two_puts_within_one_tick_of_the_clock(tmp_path, monkeypatch):
    """Before Linux 6.13 files get the time of the last tick, so that the manifest of one put fitted the next file."""
    fchmod = os.fchmod

    def ticking(handle, mode):  # as all that was written has the time of the tick
        os.utime(handle, ns=(10**18, 10**18))
        fchmod(handle, mode)

    monkeypatch.setattr(os, "fchmod", ticking)
    store = FeatureStore(tmp_path)
    store.put(KEY, OLD, value=0)
    replace, count = os.replace, [0]

    class Killed(BaseException):
        pass

    def killed(*names):
        replace(*names)
        count[0] += 1
        if count[0] == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            store.put(KEY, NEW, value=1)
    found = store.find(KEY)
    value = int(found.load()[0, 0])
    assert store.manifest(KEY)["value"] == value
    assert np.array_equal(found.load(copy=True), [OLD, NEW][value])


def test_find_while_it_is_replaced(tmp_path):
    """There is an entry at every moment, though one of another shape may come between its manifest and its header."""
    store = FeatureStore(tmp_path)
    store.put(KEY, OLD)
    stop = threading.Event()

    def write():
        n = 0
        while not stop.is_set():
            n += 1
            store.put(KEY, np.ones((4 + n % 2, 3), np.float32))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        found = [FeatureStore(tmp_path).find(KEY) for _ in range(1500)]
    finally:
        stop.set()
        thread.join()
    assert found.count(None) == 0


def test_find_while_it_is_replaced_once(tmp_path, monkeypatch):
    """The same, without chance."""
    from simet_cache import codec

    store = FeatureStore(tmp_path)
    store.put(KEY, OLD)
    inspect = codec.inspect

    def replaced(path):
        monkeypatch.undo()
        store.put(KEY, np.ones((5, 3), np.float32))
        return inspect(path)

    monkeypatch.setattr(codec, "inspect", replaced)
    assert FeatureStore(tmp_path).find(KEY) is not None


def test_damage_that_cannot_be_moved_is_a_miss(tmp_path, monkeypatch):
    """As in a folder that may only be read, or on a full disk: the quarantine cannot be made."""
    store = FeatureStore(tmp_path)
    store.put(KEY, OLD)
    os.truncate(store.path(KEY), 100)
    mkdir = os.mkdir

    def full(path, *rest, **named):
        if str(path).endswith("quarantine"):
            raise OSError(errno.ENOSPC, "No space left on device")
        mkdir(path, *rest, **named)

    monkeypatch.setattr(os, "mkdir", full)
    made = store.get_or_compute(KEY, lambda: NEW, rows=4)
    assert np.array_equal(made.load(), NEW)


def test_a_lock_that_cannot_be_let_go_loses_no_features(tmp_path, monkeypatch):
    """flock(LOCK_UN) may fail on a network file system whose server is gone (EIO, ESTALE, ENOLCK)."""
    flock = fcntl.flock

    def stale(handle, how):
        if how == fcntl.LOCK_UN:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", stale)
    made = FeatureStore(tmp_path).get_or_compute(KEY, lambda: NEW)
    assert np.array_equal(made.load(), NEW)


def test_a_dead_holders_note_is_no_fact(tmp_path, monkeypatch, caplog):
    """The second holder cannot write its note (full disk): those who wait are told of the first, which is dead."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / "locks").mkdir()
    note = tmp_path / "locks" / f"{KEY}.holder"
    note.write_bytes(replace(Holder.myself(), pid=dead.pid).note())
    monkeypatch.setattr(locks, "_PATIENCE", 0.05)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with locks.computing(tmp_path, KEY):
        thread = threading.Thread(target=lambda: locks.computing(tmp_path, KEY).__enter__(), daemon=True)
        thread.start()
        while not caplog.messages:
            threading.Event().wait(0.01)
    thread.join()
    assert f"process {dead.pid} " not in caplog.messages[0], caplog.messages[0]


USES = """
import importlib.metadata, os, sys
import numpy as np
from simet_cache.store import FeatureStore
"""
STAYS = """
store = FeatureStore(sys.argv[1])
store.put(sys.argv[2], np.ones((4, 3)))
store.find(sys.argv[2])
print(1, flush=True)
input()
"""
REMOVES = "os.setgroups([]); os.setgid(65534); os.setuid(65534); print(FeatureStore(sys.argv[1]).remove(sys.argv[2]))"


@pytest.mark.skipif(os.getuid() != 0, reason="needs two users")
def test_what_another_user_uses_is_in_use():
    """In a folder that users share: their notes may not be opened for writing."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        command = [sys.executable, "-c", USES + STAYS, folder, KEY]
        user = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert user.stdout.readline() == "1\n"
        Path(folder, "locks").chmod(0o777)
        command = [sys.executable, "-c", USES + REMOVES, folder, KEY]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.stdout == "0\n", done.stderr
        user.communicate("\n")
        assert FeatureStore(folder).remove(KEY) > 0


def test_a_killed_writer_and_then_a_copy_without_times(tmp_path):
    """The manifest of the features is there, as .next.json, and its digest fits."""
    store = FeatureStore(tmp_path)
    store.put(KEY, OLD, value=0)
    old = store.path(KEY).with_suffix(".json").read_bytes()
    store.put(KEY, NEW, value=1)
    said = store.path(KEY).with_suffix(".json")
    said.rename(said.with_suffix(".next.json"))
    said.write_bytes(old)  # as a kill before the last rename leaves it
    os.utime(store.path(KEY), ns=(1, 1))
    found = store.find(KEY)
    assert found is not None
    assert np.array_equal(found.load(), NEW)


def test_a_damaged_manifest_that_was_mended_meanwhile(tmp_path, monkeypatch):
    """What is moved is what was seen, and not what another process has computed since."""
    store = FeatureStore(tmp_path)
    store.put(KEY, OLD)
    store.path(KEY).with_suffix(".json").write_bytes(b"")
    quarantine = FeatureStore.quarantine

    def late(self, key, reason, *, seen=None):
        monkeypatch.undo()
        store.put(KEY, NEW)
        return quarantine(self, key, reason, seen=seen)

    monkeypatch.setattr(FeatureStore, "quarantine", late)
    store.find(KEY)
    assert store.look(KEY).status == "hit"


def test_a_handle_on_features_that_were_replaced_moves_nothing(tmp_path):
    """A measurement that comes late: what is there now is another run's, and good."""
    from simet_cache.comparisons import Rows, opened
    from simet_cache.errors import DamagedEntryError

    store = FeatureStore(tmp_path)
    old = store.put(KEY, OLD)
    new = store.put(KEY, NEW)
    with pytest.raises(DamagedEntryError, match="was replaced during this run, by another one; run again"):
        opened(Rows("late", old), "real", device="cpu")
    assert np.array_equal(new.load(), NEW)
    store.remove(KEY)
    store.path(KEY).unlink()
    with pytest.raises(DamagedEntryError, match="was removed during this run; the next one extracts it again"):
        opened(Rows("late", new), "real", device="cpu")


def test_a_service_whose_entry_is_replaced_returns_what_it_computed(tmp_path, monkeypatch):
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from simet_cache.featureset import FeatureSet
    from simet_cache.service import FeatureCacheService

    store, load = FeatureStore(tmp_path), FeatureSet.load

    def late(self, **options):
        store.put(self.key, OLD)
        return load(self, **options)

    monkeypatch.setattr(FeatureSet, "load", late)
    loader = DataLoader(TensorDataset(torch.ones(4, 3)), batch_size=2)
    assert np.array_equal(FeatureCacheService(tmp_path).get_or_compute(loader, lambda _: NEW), NEW)
    assert not (tmp_path / "quarantine").exists()


def test_a_child_that_is_forked_while_a_thread_notes_a_use_does_not_hang(tmp_path):
    code = """
import os, sys, threading
import numpy as np
from simet_cache import locks
from simet_cache.holders import Holder
from simet_cache.store import FeatureStore
store = FeatureStore(sys.argv[1])
store.put("0" * 32, np.ones((2, 2)))
with locks._usages_lock:
    child = os.fork()
    if child == 0:
        store.find("0" * 32)
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "7\n", done.stderr


def test_a_manifest_vouches_for_the_file_that_was_opened(tmp_path, monkeypatch):
    from simet_cache import codec

    store = FeatureStore(tmp_path)
    handle = store.put(KEY, OLD)
    store.put(KEY, NEW)
    mapped = codec.open_mapped

    def then_again(path):
        found = mapped(path)
        monkeypatch.undo()
        store.put(KEY, OLD)
        return found

    monkeypatch.setattr(codec, "open_mapped", then_again)
    from simet_cache.errors import DamagedEntryError

    with pytest.raises(DamagedEntryError, match="no longer holds the features it held"):
        handle.load()


def test_whoever_wants_the_key_that_it_computes_is_told(tmp_path):
    from simet_cache.errors import StoreError

    store = FeatureStore(tmp_path)
    with pytest.raises(StoreError, match="are wanted by the very function that computes them"):
        store.get_or_compute(KEY, lambda: store.get_or_compute(KEY, lambda: NEW).load())
    assert np.array_equal(store.get_or_compute(KEY, lambda: NEW).load(), NEW)
