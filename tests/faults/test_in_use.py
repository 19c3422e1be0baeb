"""What a living process has looked up is not pruned, whatever keeps it from writing that down."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simet_cache import locks
from simet_cache.errors import StoreError
from simet_cache.prune import Limits, prune
from simet_cache.store import FeatureStore

ROOT = Path(__file__).resolve().parents[2]
KEY, OTHER = "a" * 32, "b" * 32
FEATURES = np.ones((4, 3), np.float32)
EVERYTHING = Limits(max_size=0)

# A process that does what it is told, line by line, as the user that it is told first
TOLD = """
import errno, json, os, sys, tempfile
os.umask(0o022)
import numpy as np
from simet_cache import locks
from simet_cache.prune import Limits, prune
from simet_cache.store import FeatureStore
from simet_cache.upkeep import verify
user, group, folder, key = json.loads(sys.argv[1])
with tempfile.TemporaryDirectory() as scratch:  # what is imported late is imported before another user rules
    FeatureStore(scratch).get_or_compute(key, lambda: np.ones((4, 3)))
    prune(FeatureStore(scratch), Limits(max_size=0))
locks.end_uses()
if user:
    os.setgroups([group]); os.setgid(user); os.setuid(user)
for line in sys.stdin:
    try:
        result = eval(line) if not line.startswith("exec:") else exec(line[5:])
    except Exception as error:
        result = repr(error)
    print(json.dumps(result, default=str), flush=True)
"""
FIND = "FeatureStore(folder).find(key) is not None"
LOAD = "FeatureStore(folder).find(key).load().sum()"
PUT = "str(FeatureStore(folder).put(key, np.ones((4, 3), np.float32)))"
PRUNE = "[one.outcome for one in prune(FeatureStore(folder), Limits(max_size=0)).entries]"


class Process:
    """Another process, of this user or of another one."""

    def __init__(self, folder: Path, *, user: int = 0, group: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", TOLD, json.dumps([user, group, str(folder), KEY])],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, line: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@contextmanager
def living(folder: Path, **user: int) -> Iterator[Process]:
    process = Process(folder, **user)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.communicate()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach: pytest's own let nobody else in."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def outcomes(folder: Path, limits: Limits = EVERYTHING) -> list[str]:
    """Of removing everything, by this process, which uses nothing; a dry run says the same."""
    locks.end_uses()
    would = [one.outcome.replace("would be ", "") for one in prune(FeatureStore(folder), limits, dry_run=True).entries]
    done = [one.outcome for one in prune(FeatureStore(folder), limits).entries]
    assert would == done
    return done


FULL = """exec:
real = os.open
def full(path, flags, *rest, **named):
    if flags & os.O_CREAT:
        raise OSError(errno.ENOSPC, "No space left on device")
    return real(path, flags, *rest, **named)
def nothing(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")
os.open, os.write, os.pwrite, os.mkdir = full, nothing, nothing, nothing
"""


@pytest.mark.parametrize("locked", [False, True], ids=["without locks before", "with locks before"])
def test_on_a_full_disk(tmp_path: Path, locked: bool) -> None:
    FeatureStore(tmp_path).put(KEY, FEATURES)
    if locked:
        assert FeatureStore(tmp_path).find(KEY)
    else:
        shutil.rmtree(tmp_path / "locks")
    with living(tmp_path) as notebook:
        notebook("exec:" + "; ".join(f"exec({line!r})" for line in [FULL.removeprefix("exec:")]))
        assert notebook(FIND) is True
        assert outcomes(tmp_path) == ["in use, kept"]
    assert outcomes(tmp_path) == ["removed"]


@pytest.mark.skipif(os.getuid() != 0, reason="needs two users")
@pytest.mark.parametrize("locked", [False, True], ids=["without locks before", "with locks before"])
def test_of_a_reader_who_may_not_write(open_folder: Path, locked: bool) -> None:
    FeatureStore(open_folder).put(KEY, FEATURES)
    if locked:
        assert FeatureStore(open_folder).find(KEY)
    else:
        shutil.rmtree(open_folder / "locks")
    with living(open_folder, user=1002) as reader:
        assert reader(LOAD) == "12.0"
        assert outcomes(open_folder) == ["in use, kept"]
    assert outcomes(open_folder) == ["removed"]


@pytest.mark.parametrize("gone", ["", "locks", "locks/used.lock"])
def test_where_somebody_removed_the_folder_meanwhile(tmp_path: Path, gone: str) -> None:
    folder = tmp_path / "cache"
    FeatureStore(folder).put(KEY, FEATURES)
    with living(folder) as notebook:
        notebook("exec:found = FeatureStore(folder).find(key)")
        path = folder / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        FeatureStore(folder).put(KEY, FEATURES)
        if gone == "":  # these are others; from its next look on they are used
            assert notebook("float(found.load().sum())") == 12.0
        assert outcomes(folder) == ["in use, kept"]
        assert notebook("float(found.load().sum())") == 12.0
        assert notebook(FIND) is True
        assert outcomes(folder) == ["in use, kept"]
    assert outcomes(folder) == ["removed"]


# A folder of a group: each has the usual umask, and a group of their own


GROUP, ANNA, BERT = 2000, 1001, 1002


@pytest.fixture
def shared(open_folder: Path) -> Path:
    """As ``mkdir cache; chgrp lab cache; chmod g+ws cache`` makes it."""
    folder = open_folder / "cache"
    folder.mkdir()
    os.chown(folder, ANNA, GROUP)
    folder.chmod(0o2775)
    return folder


@pytest.mark.skipif(os.getuid() != 0, reason="needs two users")
@pytest.mark.parametrize("below", ["", "new/cache"])
def test_in_a_folder_of_a_group(shared: Path, below: str) -> None:
    folder = shared / below
    with living(folder, user=ANNA, group=GROUP) as anna, living(folder, user=BERT, group=GROUP) as bert:
        assert KEY in anna(PUT)
        assert anna("exec:locks.end_uses()") is None
        assert bert(FIND) is True
        assert anna(PRUNE) == ["in use, kept"]
        assert bert("exec:locks.end_uses()") is None
        assert anna(FIND) is True
        assert bert(PRUNE) == ["in use, kept"]
        assert anna("exec:locks.end_uses()") is None
        assert bert(PRUNE) == ["removed"]
    assert list(folder.glob("*.pkl")) == []


@pytest.mark.skipif(os.getuid() != 0, reason="needs two users")
def test_each_of_a_group_does_what_the_others_do(shared: Path) -> None:
    with living(shared, user=ANNA, group=GROUP) as anna, living(shared, user=BERT, group=GROUP) as bert:
        for one, other in ((anna, bert), (bert, anna)):
            assert KEY in one(PUT)
            manifest = shared / f"{KEY}.json"
            os.utime(manifest, (1000, 1000))
            assert other(FIND) is True
            assert time.time() - manifest.stat().st_mtime < 100, "whoever uses it says so"
            assert one("str(FeatureStore(folder).get_or_compute(key, lambda: np.zeros((4, 3)), force=True))")
            assert other("str(FeatureStore(folder).get_or_compute(key, lambda: np.ones((4, 3)), force=True))")
            (shared / f"{KEY}.pkl").write_bytes(b"damaged")
            assert other(FIND) is False, "it is put aside"
            assert KEY in one(PUT)
            assert one("exec:locks.end_uses()") is None
            assert other("exec:locks.end_uses()") is None
            assert other("len(verify(FeatureStore(folder), repair=True).left)") == 0
            assert other(PRUNE) == ["removed"]
    for path in [shared, *shared.rglob("*")]:
        status = path.stat()
        assert status.st_gid == GROUP, path
        assert status.st_mode & 0o060 == 0o060, path


def test_files_are_shared_with_a_group_only_where_their_folder_is(tmp_path: Path) -> None:
    for mode, shared in ((0o755, 0), (0o775, 0), (0o2755, 0), (0o2775, 0o060), (0o777, 0o006), (0o1777, 0), (0o700, 0)):
        folder = tmp_path / f"{mode:o}"
        folder.mkdir()
        folder.chmod(mode)
        FeatureStore(folder).put(KEY, FEATURES)
        FeatureStore(folder).find(KEY)
        for path in folder.rglob("*"):
            given = path.stat().st_mode & 0o022
            assert given == shared & 0o022, (f"{mode:o}", path)


# Where nobody can tell


def test_where_there_are_no_locks_everything_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore(tmp_path)
    store.put(KEY, FEATURES)

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(fcntl, "fcntl", none)
    assert store.find(KEY) is not None
    done = prune(store, EVERYTHING)
    assert [one.outcome for one in done.entries] == ["failed"]
    assert done.entries[0].reason == (
        f"cannot remove {store.path(KEY)}: nobody can tell whether it is in use, as {tmp_path}/locks/used.lock cannot"
        " be locked: No locks available"
    )
    assert [one.outcome for one in prune(store, EVERYTHING, dry_run=True).entries] == ["failed"]
    with pytest.raises(StoreError, match="nobody can tell"):
        store.remove(KEY)
    assert store.keys() == [KEY]


@pytest.mark.skipif(os.getuid() != 0, reason="needs two users")
def test_what_only_another_user_may_lock_is_kept(open_folder: Path) -> None:
    """As where somebody has made the folder of all, and not all that is in it, everybody's."""
    FeatureStore(open_folder).put(KEY, FEATURES)
    assert FeatureStore(open_folder).find(KEY)
    locks.end_uses()
    open_folder.chmod(0o777)
    with living(open_folder, user=BERT) as bert:
        assert bert(PRUNE) == ["failed"]
    assert outcomes(open_folder) == ["removed"]
