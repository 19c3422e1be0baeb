"""Full disks, folders that may only be read, names that are too long: what was computed is returned all the same."""

from __future__ import annotations

import errno
import logging
import os
import re
import resource
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from simet_cache import locks
from simet_cache.atomic import sweep
from simet_cache.errors import StoreError
from simet_cache.featureset import FeatureSet
from simet_cache.service import FeatureCacheService
from simet_cache.store import FeatureStore

Steps = runpy.run_path(str(Path(__file__).with_name("steps.py")))["Steps"]

ROOT = Path(__file__).resolve().parents[2]
KEY = "0" * 32
OLD = np.zeros((8, 500), np.float32)
NEW = np.ones((8, 500), np.float32)


def leftovers(store: FeatureStore) -> list[Path]:
    return [path for path in store.cache_dir.rglob("*") if path.name.endswith(".tmp")]


# At every step


def forced(store: FeatureStore) -> FeatureSet:
    return store.get_or_compute(KEY, lambda: NEW, rows=8, force=True, details=lambda: {"value": 1})


def every_step(folder: Path) -> Iterator[tuple[int, str, FeatureStore]]:
    """The steps of ``forced``, each with a store of its own that has an older entry."""
    store = FeatureStore(folder / "all")
    store.put(KEY, OLD, value=0)
    with Steps() as steps:
        forced(store)
    for at, name in enumerate(steps.taken):
        if name == "unlock":  # the kernel does that by itself
            continue
        store = FeatureStore(folder / str(at))
        store.put(KEY, OLD, value=0)
        yield at, name, store
        assert store.put(KEY, NEW + 1) == store.find(KEY)
        sweep(store.cache_dir, now=time.time() + 100)
        assert leftovers(store) == []
        assert not (store.cache_dir / "quarantine").exists()
        shutil.rmtree(store.cache_dir)


def value_of(store: FeatureStore) -> int:
    """Which of the two is found, whole and with its own manifest."""
    found = store.find(KEY)
    assert found is not None
    value: int = store.manifest(KEY)["value"]
    assert np.array_equal(found.load(copy=True), [OLD, NEW][value])
    return value


@pytest.mark.parametrize(
    "code", [errno.ENOSPC, pytest.param(errno.EIO, marks=pytest.mark.slow)], ids=["full", "broken"]
)
def test_whatever_step_fails_the_features_are_returned(
    tmp_path: Path, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise OSError(code, os.strerror(code))

    unsaved = 0
    for at, name, store in every_step(tmp_path):
        caplog.clear()
        with Steps(fails, at=at, through=("close",)):  # what cannot be closed well is closed all the same
            made = forced(store)
        assert np.array_equal(made.load(), NEW)
        assert np.array_equal(made.load(copy=True), NEW)
        if made.unsaved is None:
            assert value_of(store) == 1
        else:
            unsaved += 1
            (error,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
            assert error.startswith(f"cannot write {store.path(KEY)}: {os.strerror(code)}")
            assert ("simet-cache prune" in error) == (code == errno.ENOSPC)
            assert value_of(store) in (0, 1)
        assert leftovers(store) == [] or name == "unlink"
    assert unsaved > 20


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_interruption_at_any_step_leaves_a_whole_entry_and_no_lock(tmp_path: Path, after: bool) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt() -> None:
        raise Interrupted

    for at, name, store in every_step(tmp_path):
        # what interrupts the very call that lets go of a lock leaves it to the end of the process
        with suppress(Interrupted), Steps(interrupt, at=at, after=after, through=("close",)):
            forced(store)
        assert value_of(store) in (0, 1)
        # between the kernel's making a file and Python's knowing of it nobody can tidy up
        assert leftovers(store) == [] or name in ("open", "lock", "unlink")
        assert not locks.is_computing(store.cache_dir, KEY)


# By name


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("force", [False, True])
def test_the_service_returns_what_it_cannot_store(
    tmp_path: Path, force: bool, caplog: pytest.LogCaptureFixture
) -> None:
    loader = DataLoader(TensorDataset(torch.zeros(1000, 3)), batch_size=100)
    features = np.ones((1000, 30))
    service = FeatureCacheService(tmp_path)
    older = service.get_or_compute(loader, lambda _: features * 2) if force else None
    with files_of_at_most(100_000):
        made = service.get_or_compute(loader, lambda _: features, force_recompute=force)
    assert np.array_equal(made, features)
    made += 1
    (error,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert error.startswith(f"cannot write {tmp_path}")
    assert "File too large" in error
    assert [path.suffix for path in tmp_path.iterdir() if path.is_file() and path.suffix == ".tmp"] == []
    again = service.get_or_compute(loader, lambda _: features * 3)
    assert np.array_equal(again, features * 3 if older is None else older)


@pytest.mark.parametrize("long", ["a" * 300, "/".join(["b" * 250] * 20)], ids=["name", "path"])
def test_a_folder_with_too_long_a_name_is_one_sentence(tmp_path: Path, long: str) -> None:
    with pytest.raises(StoreError) as caught:
        FeatureStore(tmp_path / long)
    folder = re.escape(str(tmp_path / long))
    assert re.fullmatch(f"cannot create the cache folder {folder}: File name too long", str(caught.value))


def test_a_folder_in_which_every_name_is_too_long(tmp_path: Path) -> None:
    longest = os.pathconf(tmp_path, "PC_PATH_MAX") - 1
    folder = str(tmp_path)
    while (left := longest - 10 - len(folder)) > 1:
        folder += "/" + "c" * min(left - 1, 200)
    store = FeatureStore(folder)
    assert store.keys() == []
    made = store.keep(KEY, NEW)
    assert np.array_equal(made.load(), NEW)
    for call in (lambda: store.find(KEY), lambda: store.get_or_compute(KEY, lambda: NEW)):
        with pytest.raises(StoreError, match=f"^cannot read {store.path(KEY)}: File name too long$"):
            call()


def run(*command: str | Path) -> None:
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.stdout == "well\n", done.stderr


TROUBLE = (sys.executable, Path(__file__).with_name("trouble.py"))


def test_a_folder_that_may_only_be_read() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to others
        os.chmod(folder, 0o755)
        try:
            run(*TROUBLE, "read_only_folder", folder)
        finally:
            for path in Path(folder).rglob("*"):
                if path.is_dir():
                    path.chmod(0o755)


@pytest.fixture
def own_mounts() -> list[str]:
    """The beginning of a command that may mount what it likes, and leaves nothing mounted."""
    command = ["unshare", "--mount"]
    try:
        subprocess.run([*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    return command


@pytest.mark.parametrize("what", ["full_disk", "no_inodes", "read_only_disk"])
def test_a_disk_that_takes_nothing(tmp_path: Path, own_mounts: list[str], what: str) -> None:
    run(*own_mounts, *TROUBLE, what, tmp_path / "disk")
    assert not os.path.ismount(tmp_path / "disk")
