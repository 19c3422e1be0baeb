"""One extraction on a device at a time, over threads and processes; and the dead hold nothing."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from simet_cache import devices, stopping
from simet_cache.atomic import is_held
from simet_cache.devices import DeviceLocks
from simet_cache.errors import ExtractorError, StoppedError

ROOT = Path(__file__).resolve().parents[1]
TWO = ("cuda:0", "cuda:1")
ALL = DeviceLocks("all")
NONE = DeviceLocks("none")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Locks of these tests alone, for this process and those that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    devices._warned.clear()
    yield tmp_path / f"simet-cache-{os.getuid()}"
    tempfile.tempdir = None


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices with an identity."""
    identities = {"cuda:0": "GPU-a", "cuda:1": "GPU-b"}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda name: SimpleNamespace(uuid=identities[str(name)]))


@contextmanager
def another(*names: str, locks: DeviceLocks = ALL, then: str = "sys.stdin.read()") -> Iterator[subprocess.Popen[str]]:
    """Another process, which has taken a device and keeps it."""
    script = f"""
import sys
from types import SimpleNamespace
import torch
from simet_cache import devices
from simet_cache.devices import DeviceLocks
torch.cuda.get_device_properties = lambda name: SimpleNamespace(uuid={{"cuda:0": "GPU-b", "cuda:1": "GPU-a"}}[name])
with devices.taken(sys.argv[1:], {locks!r}) as name:
    print(name, flush=True)
    {then}
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *names],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        process.name = process.stdout.readline().strip()  # type: ignore[attr-defined]
        yield process
        process.kill()


def can_be_taken(*names: str, locks: DeviceLocks = ALL) -> bool:
    """At this moment, by another thread: it looks once."""
    looked = False

    def check() -> None:
        nonlocal looked
        if looked:
            raise StoppedError("taken")
        looked = True

    def want() -> bool:
        try:
            with devices.taken(names, locks):
                return True
        except StoppedError:
            return False

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(stopping, "check", check)
        return pool.submit(want).result()


# Which ones


def test_auto_is_every_cuda_device_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for there, names in [(True, TWO), (False, ("cpu",))]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert devices.available("auto") == names
    assert devices.available("cpu") == ("cpu",)


def test_cuda_by_itself_is_the_device_that_torch_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert devices.available("cuda") == ("cuda:1",)
    assert devices.available("cuda:0") == ("cuda:0",)


@pytest.mark.parametrize("name", ["cuda:99", "mps", "nonsense"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(ExtractorError) as caught:
        devices.available(name)
    assert str(caught.value).startswith(f"device {name!r} cannot be used here (")
    assert str(caught.value).endswith("); use 'device: auto' or 'cpu'")


# One at a time


def test_a_device_has_one_holder() -> None:
    assert can_be_taken("cpu")
    with devices.taken(["cpu"], ALL) as name:
        assert name == "cpu"
        assert not can_be_taken("cpu")
    assert can_be_taken("cpu")


def test_it_is_free_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), devices.taken(["cpu"], ALL):
        raise ZeroDivisionError
    assert can_be_taken("cpu")


def test_it_is_free_when_its_holder_is_killed() -> None:
    with another("cpu") as process:
        assert not can_be_taken("cpu")
        process.kill()
        process.wait()
        assert can_be_taken("cpu")


def test_who_waits_gets_it_from_a_holder_that_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    def want() -> str:
        with devices.taken(["cpu"], ALL) as name:
            return name

    with another("cpu") as process, ThreadPoolExecutor(1) as pool:
        future = pool.submit(want)
        time.sleep(0.2)
        assert not future.done()
        process.kill()
        assert future.result(timeout=30) == "cpu"


def test_a_loaders_process_does_not_keep_it() -> None:
    """It is forked with the handle, and may outlive the extraction by a moment."""
    with devices.taken(["cpu"], ALL):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        assert can_be_taken("cpu")
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_forked_child_waits_for_no_thread_of_its_parent() -> None:
    def want() -> None:
        with devices.taken(["cpu"], ALL):
            pass

    with ThreadPoolExecutor(1) as pool:
        with devices.taken(["cpu"], ALL):
            future = pool.submit(want)
            while not devices._lines[("cpu",)]:
                time.sleep(0.01)
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                with devices.taken(["cpu"], ALL):
                    os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        future.result()


@pytest.mark.usefixtures("cuda")
def test_several_are_used_side_by_side() -> None:
    with devices.taken(TWO) as first, devices.taken(TWO) as second:
        assert (first, second) == TWO
        assert not can_be_taken(*TWO)
    assert can_be_taken(*TWO)
    with devices.taken(["cpu"], ALL), devices.taken(TWO):
        pass


@pytest.mark.usefixtures("cuda")
def test_a_device_is_known_by_its_identity() -> None:
    """The other process sees the two in the other order, as with CUDA_VISIBLE_DEVICES."""
    with another("cuda:0") as process:
        assert process.name == "cuda:0"  # type: ignore[attr-defined]
        assert not can_be_taken("cuda:1")
        assert can_be_taken("cuda:0")
        with devices.taken(TWO) as name:
            assert name == "cuda:0"


@pytest.mark.parametrize("kind", ["auto", "all", "none"])
def test_many_threads_take_turns(kind: str) -> None:
    inside, seen = [], []

    def want(_: int) -> None:
        with devices.taken(["cpu"], DeviceLocks(kind)):
            inside.append(1)
            seen.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(want, range(12)))
    assert seen == [1] * 12


def test_who_has_just_had_it_does_not_overtake_who_waits(folder: Path) -> None:
    order = []

    def want() -> None:
        with devices.taken(["cpu"], ALL):
            order.append("other")

    with ThreadPoolExecutor(1) as pool:
        with devices.taken(["cpu"], ALL):
            future = pool.submit(want)
            while not is_held(folder / "cpu.next"):
                time.sleep(0.01)
        for _ in range(3):
            with devices.taken(["cpu"], ALL):
                order.append("again")
        future.result()
    assert order[0] == "other"


def test_waiting_is_said_once_and_ends_on_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "_PATIENCE", 0.05)

    def want() -> None:
        with devices.taken(["cpu"], ALL):
            raise AssertionError("taken")

    with (
        stopping.listening(),
        another("cpu") as process,
        ThreadPoolExecutor(1) as pool,
        caplog.at_level(logging.INFO),
    ):
        future = pool.submit(want)
        time.sleep(0.5)
        stopping.request()
        with pytest.raises(StoppedError):
            future.result(timeout=30)
    (said,) = [line for line in caplog.messages if "Waiting" in line]
    assert said.startswith(f"Waiting for cpu, which process {process.pid} on {socket.gethostname()} (-c cpu, since ")
    assert said.endswith(") uses")
    assert can_be_taken("cpu"), "nothing is left of who gave up"


def test_waiting_for_another_thread_is_nothing_to_say(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "_PATIENCE", 0.05)
    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.INFO):
        with devices.taken(["cpu"], ALL):
            future = pool.submit(can_be_taken_at_last)
            time.sleep(0.3)
        assert future.result(timeout=30)
    assert not caplog.messages


def test_turns_of_many_threads_are_nothing_to_say(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is the moment in which one has given the device back and the next one does not have it yet."""
    monkeypatch.setattr(devices, "_PATIENCE", 0.01)

    def want(_: int) -> None:
        with devices.taken(["cpu"], ALL):
            time.sleep(0.003)

    with ThreadPoolExecutor(8) as pool, caplog.at_level(logging.INFO):
        list(pool.map(want, range(100)))
    assert not caplog.messages


def can_be_taken_at_last() -> bool:
    with devices.taken(["cpu"], ALL):
        return True


# Which locks


def test_the_cpu_is_not_locked_unless_asked_for(folder: Path) -> None:
    with another("cpu"):
        assert can_be_taken("cpu", locks=DeviceLocks())
        assert can_be_taken("cpu", locks=NONE)
        assert not can_be_taken("cpu", locks=ALL)
    with another("cpu", locks=DeviceLocks()):
        assert can_be_taken("cpu", locks=ALL)


def test_turns_of_one_process_on_the_cpu_leave_no_files(folder: Path) -> None:
    with devices.taken(["cpu"]):
        assert not can_be_taken("cpu", locks=DeviceLocks())
        assert not folder.exists()
        assert not can_be_taken("cpu", locks=ALL)
    assert can_be_taken("cpu", locks=DeviceLocks())


@pytest.mark.usefixtures("cuda")
def test_accelerators_are_locked_unless_told_otherwise() -> None:
    with another("cuda:0", locks=DeviceLocks()):
        assert not can_be_taken("cuda:1", locks=DeviceLocks())
        assert not can_be_taken("cuda:1", locks=ALL)
        assert can_be_taken("cuda:1", locks=NONE)


@pytest.mark.parametrize("kind", ["auto", "none"])
def test_the_processes_of_one_run_take_turns(kind: str, folder: Path) -> None:
    """As on Dask and Ray: each is given all threads for its arithmetic."""
    mine, other = (DeviceLocks(kind, run=name, in_one_process=False) for name in ("mine", "other"))
    with another("cpu", locks=mine) as process:
        assert not can_be_taken("cpu", locks=mine)
        assert can_be_taken("cpu", locks=other)
        process.kill()
        process.wait()
        assert can_be_taken("cpu", locks=mine)


def test_the_files_of_runs_that_are_long_over_are_removed(folder: Path) -> None:
    long_ago = time.time() - 1e6
    with another("cpu", locks=DeviceLocks(run="going on", in_one_process=False)):
        for file in folder.iterdir():
            os.utime(file, (long_ago, long_ago))
        going_on = {file.name for file in folder.iterdir() if file.suffix == ".lock"}
        for name in ("run-0-cpu.lock", "run-1-cpu.lock", "cpu.lock"):
            (folder / name).touch()
        for name in ("run-0-cpu.lock", "cpu.lock"):
            os.utime(folder / name, (long_ago, long_ago))
        with devices.taken(["cpu"], DeviceLocks(run="new", in_one_process=False)):
            left = {file.name for file in folder.glob("*.lock")}
        assert left >= going_on | {"run-1-cpu.lock", "cpu.lock"}
        assert "run-0-cpu.lock" not in left


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(("run", "said"), [("mine", False), ("theirs", True)])
def test_waiting_for_another_process_of_the_same_run_is_nothing_to_say(
    run: str, said: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "_PATIENCE", 0.05)

    def want() -> None:
        with devices.taken(["cuda:1"], DeviceLocks(run="mine", in_one_process=False)):
            pass

    locks = DeviceLocks(run=run, in_one_process=False)
    with another("cuda:0", locks=locks) as process, ThreadPoolExecutor(1) as pool, caplog.at_level(logging.INFO):
        future = pool.submit(want)
        time.sleep(0.5)
        process.kill()
        future.result(timeout=30)
    assert [f"(run {run}: " in line for line in caplog.messages] == [True] * said


def test_a_note_of_a_holder_that_is_gone_names_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its child holds on to the lock: it was forked with the handle."""
    monkeypatch.setattr(devices, "_PATIENCE", 0.05)
    forks = "import os, time; child = os.fork(); print(child, flush=True) if child else None; time.sleep(60)"
    with another("cpu", then=forks) as process, ThreadPoolExecutor(1) as pool, caplog.at_level(logging.INFO):
        child = int(process.stdout.readline())  # type: ignore[union-attr]
        process.kill()
        process.wait()
        future = pool.submit(can_be_taken_at_last)
        try:
            while not caplog.messages:
                time.sleep(0.01)
        finally:
            os.kill(child, signal.SIGKILL)
        assert future.result(timeout=30)
    assert caplog.messages == ["Waiting for cpu, which another process uses"]


# The folder


def test_the_folder_is_this_users_alone(folder: Path) -> None:
    before = os.umask(0)
    try:
        with devices.taken(["cpu"], ALL):
            assert folder.stat().st_mode & 0o777 == 0o700
            assert sorted(file.name for file in folder.iterdir()) == ["cpu.lock", "cpu.next"]
    finally:
        os.umask(before)


def plant_a_link(folder: Path) -> None:
    folder.with_name("theirs").mkdir(mode=0o700)
    folder.symlink_to("theirs")


def plant_a_file(folder: Path) -> None:
    folder.touch()


def open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def link_a_lock(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "cpu.next").symlink_to(folder.with_name("theirs"))


@pytest.mark.parametrize("plant", [plant_a_link, plant_a_file, open_to_all, link_a_lock])
def test_what_others_have_planted_is_not_touched(folder: Path, plant: object, caplog: pytest.LogCaptureFixture) -> None:
    """It is used all the same, and said once."""
    plant(folder)  # type: ignore[operator]
    for _ in range(2):
        with devices.taken(["cpu"], ALL) as first, devices.taken(["cpu"], ALL) as second:
            assert (first, second) == ("cpu", "cpu")
    (warning,) = caplog.messages
    assert warning.startswith("cannot lock a device: ")
    assert warning.endswith(". Other extractions may use cpu meanwhile")
    assert not (folder.with_name("theirs").is_file())
    assert list(folder.with_name("theirs").glob("*")) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_another_users_folder(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    with devices.taken(["cpu"], ALL):
        assert caplog.messages[0].startswith(f"cannot lock a device: {folder} is not a folder of this user alone. ")
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library keeps memory its own way")
def test_who_leaves_a_device_leaves_no_memory_behind() -> None:
    """A thread of glibc keeps what it has freed, and many threads compute by turns."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def compute() -> None:
        with devices.taken(("cpu",), ALL):
            kept = [ctypes.create_string_buffer(100_000) for _ in range(1000)]
            del kept[:-1]
            used.append(resident())
        used.append(resident())

    used: list[int] = []
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert used[1] < used[0] - 80e6
