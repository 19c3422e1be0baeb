"""Run by test_no_room.py in processes of their own: caches that cannot be written, and what is got out of them."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from simet_cache.store import FeatureStore

KEYS = [f"{number:032x}" for number in range(10)]
OURS, FOREIGN, MISSING, *MORE = KEYS
NOBODY = 65534

said: list[logging.LogRecord] = []


class _Log(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        assert record.exc_info is None, "a traceback in the log"
        said.append(record)


def heard(level: int) -> list[str]:
    """What was said at this level since the last time."""
    found = [record.getMessage() for record in said if record.levelno == level]
    said[:] = [record for record in said if record.levelno != level]
    return found


def array(value: int, rows: int = 8) -> np.ndarray:
    return np.full((rows, 500), value, dtype=np.float32)


def never() -> np.ndarray:
    raise AssertionError("computed although it is there")


def tree(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything that is in a folder."""
    return {
        str(path.relative_to(folder)): (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns)
        for path in [folder, *folder.rglob("*")]
        if (status := path.lstat())
    }


def filled(folder: Path) -> FeatureStore:
    store = FeatureStore(folder)
    store.put(OURS, array(1), value=1)
    store.path(FOREIGN).write_bytes(pickle.dumps(array(2)))
    return store


def filled_by_another(folder: Path) -> None:
    """Also used, so that there are locks."""
    child = os.fork()
    if child == 0:
        try:
            filled(folder).get_or_compute(OURS, never)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def checked_read_only(folder: Path) -> None:
    """Hits, files of other programs, and misses, in a folder in which nothing can be changed."""
    before = tree(folder)
    store = FeatureStore(folder)
    for verify in ("quick", "full"):
        found = FeatureStore(folder, verify=verify).get_or_compute(OURS, never, rows=8)
        assert np.array_equal(found.load(), array(1))
        assert np.array_equal(found.load(copy=True), array(1))
    assert store.manifest(OURS)["value"] == 1
    assert heard(logging.WARNING) == heard(logging.ERROR) == []
    for _ in range(2):
        found = store.get_or_compute(FOREIGN, never, rows=8)
        assert np.array_equal(found.load(), array(2))
        assert np.array_equal(found.load(copy=True), array(2))
    assert all("Adopting" in line or "cannot write the manifest" in line for line in heard(logging.WARNING))
    for force, key in ((False, MISSING), (True, OURS)):
        made = store.get_or_compute(key, lambda: array(3, rows=9), rows=9, force=force, details=lambda: {"value": 3})
        assert made.unsaved is not None
        assert np.array_equal(made.load(), array(3, rows=9))
        assert np.array_equal(made.load(copy=True), array(3, rows=9))
        (error,) = heard(logging.ERROR)
        assert error.startswith(f"cannot write {store.path(key)}: "), error
        assert error.endswith(". The features are used in this run, and the next one has to make them again"), error
        assert all(line.startswith("cannot lock") for line in heard(logging.WARNING))
    changed = tree(folder).items() ^ before.items()
    assert not changed, changed
    assert store.keys() == [OURS, FOREIGN]


def read_only_folder(folder: Path) -> None:
    """As somebody who may only read it; once where others lock and use entries, and once where nobody ever did."""
    with tempfile.TemporaryDirectory() as scratch:  # whatever is imported late is imported before others rule
        warm = filled(Path(scratch))
        warm.find(FOREIGN)
        warm.get_or_compute(MISSING, lambda: array(3))
        subprocess.run(["true"], check=True)
    filled_by_another(folder / "locked")
    filled(folder / "plain")
    for file in (folder / "plain" / "locks").iterdir():
        file.unlink()
    (folder / "plain" / "locks").rmdir()
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    heard(logging.WARNING)
    for name in ("locked", "plain"):
        checked_read_only(folder / name)


def mounted(folder: Path, options: str) -> None:
    """To be called in a process with mounts of its own."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


def read_only_disk(folder: Path) -> None:
    """Even root cannot write there."""
    mounted(folder, "size=1m")
    filled_by_another(folder / "cache")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    checked_read_only(folder / "cache")


def fill(folder: Path, one: Callable[[int], object]) -> None:
    for number in range(1000):
        try:
            one(number)
        except OSError:
            return
    raise AssertionError(f"{folder} takes anything")


def full_disk(folder: Path) -> None:
    """Room for two entries, then for none."""
    mounted(folder, "size=128k")
    store = FeatureStore(folder / "cache")
    store.put(OURS, array(1), value=1)
    still_computed(store, rows=100, sentence="; 195 KiB are needed, ")
    fill(folder, lambda number: (folder / f"filler {number}").write_bytes(bytes(4096)))
    still_computed(store, rows=8, sentence="; 16 KiB are needed, 0 bytes are free. Make room there, for example with")


def no_inodes(folder: Path) -> None:
    """Room, but for no file more."""
    mounted(folder, "size=1m,nr_inodes=20")
    store = FeatureStore(folder / "cache")
    store.put(OURS, array(1), value=1)
    fill(folder, lambda number: (folder / f"filler {number}").touch())
    still_computed(store, rows=8, sentence="; 16 KiB are needed, ")
    (folder / "filler 0").unlink()  # for the lock, but not for the features
    still_computed(store, rows=8, sentence="; 16 KiB are needed, ")


def still_computed(store: FeatureStore, *, rows: int, sentence: str) -> None:
    for key, force in ((MISSING, False), (OURS, True)):
        made = store.get_or_compute(key, lambda: array(7, rows), rows=rows, force=force)
        assert made.unsaved is not None, "it was stored after all"
        assert np.array_equal(made.load(), array(7, rows))
        (error,) = heard(logging.ERROR)
        assert error.startswith(f"cannot write {store.path(key)}: No space left on device{sentence}"), error
        assert "simet-cache prune" in error
    heard(logging.WARNING)
    found = store.get_or_compute(OURS, never, rows=8)
    assert np.array_equal(found.load(copy=True), array(1))
    assert store.manifest(OURS)["value"] == 1
    assert heard(logging.WARNING) == []
    assert [path.name for path in store.cache_dir.iterdir() if path.name.endswith(".tmp")] == []


if __name__ == "__main__":
    logging.getLogger("simet_cache").addHandler(_Log())
    name, where = sys.argv[1:]
    globals()[name](Path(where))
    print("well")
