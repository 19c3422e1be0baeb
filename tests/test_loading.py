"""Images that worker processes read: all of them arrive in order, or somebody says what went wrong. Nobody waits."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from simet_cache import stopping
from simet_cache.errors import ImageReadError, StoppedError, WorkersError
from simet_cache.loading import chunks

ROOT = Path(__file__).resolve().parents[1]
ROOM = 1 << 20


class Items(Dataset[Any]):
    """Images by position, each of which something may happen to before it is read."""

    def __init__(self, images: list[Any], happens: Callable[[int], None] = lambda position: None) -> None:
        self.images = images
        self.happens = happens

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> Any:
        self.happens(position)
        item = self.images[position]
        if isinstance(item, Exception):
            raise item
        return item


def noise(*sizes: int, dtype: torch.dtype = torch.uint8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, size, size), generator=generator).to(dtype) for size in sizes]


def images_of(found: Iterator[Any]) -> list[torch.Tensor]:
    return [image for chunk in found for image in chunk.images]


def equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    same = (a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    return all(same)


@pytest.fixture(params=["memory", "pipe"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How images travel: a system without memory that has no name uses pipes."""
    if request.param == "pipe":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    return str(request.param)


@pytest.fixture(autouse=True)
def _no_workers_are_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


# What arrives


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_images_arrive_in_order_whatever_reads_them(workers: int, batch_size: int) -> None:
    given = noise(*[8] * 4, 9, 1, 300, *[5] * 5)
    assert equal(images_of(chunks(Items(given), batch_size=batch_size, room=ROOM, workers=workers)), given)


@pytest.mark.usefixtures("way")
def test_images_of_several_kinds_in_one_chunk() -> None:
    given = [
        *noise(5, 3),
        *noise(5, dtype=torch.float32),
        *noise(1),
        *noise(3, dtype=torch.float64),
        *noise(7, dtype=torch.float16),
        noise(6)[0].transpose(1, 2),
    ]
    (chunk,) = chunks(Items(given), batch_size=10, room=ROOM, workers=1)
    assert equal(list(chunk.images), given)


@pytest.mark.usefixtures("way")
def test_images_that_cannot_be_read_are_said_with_their_positions() -> None:
    error = ImageReadError("x.png", "no image")
    given: list[Any] = [*noise(4, 4), error, OSError(5, "Input/output error"), error]
    for workers in (0, 2):
        found = list(chunks(Items(given), batch_size=2, room=ROOM, workers=workers))
        assert [[position for position, _ in chunk.bad] for chunk in found] == [[], [2, 3], [4]]
        assert [str(error) for chunk in found for _, error in chunk.bad][1].endswith("Input/output error")
        assert [len(chunk.images) for chunk in found] == [2, 0, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_chunk_has_room_for_so_many_bytes_and_ends_with_its_batch(workers: int) -> None:
    given = noise(*[100] * 10)  # 30,000 bytes each
    found = list(chunks(Items(given), batch_size=4, room=100_000, workers=workers))
    assert [len(chunk.images) for chunk in found] == [3, 1, 3, 1, 2]
    one_by_one = list(chunks(Items(given), batch_size=4, room=1, workers=workers))
    assert [len(chunk.images) for chunk in one_by_one] == [1] * 10


def test_workers_hold_two_chunks_each(tmp_path: Path) -> None:
    """However slowly they are taken."""
    read = tmp_path / "read"

    def note(position: int) -> None:
        with read.open("ab") as file:
            file.write(b".")

    found = chunks(Items(noise(*[10] * 100), note), batch_size=100, room=1, workers=1)
    next(found)
    time.sleep(0.5)
    found.close()
    assert read.stat().st_size <= 4  # one that was taken, one on its way, one in its hands


def test_more_workers_than_batches_are_not_started() -> None:
    found = chunks(Items(noise(4, 4)), batch_size=1, room=ROOM, workers=50)
    next(found)
    assert len(multiprocessing.active_children()) <= 2
    found.close()


def test_without_memory_to_share_images_go_through_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    given = noise(*[300] * 8)
    assert equal(images_of(chunks(Items(given), batch_size=4, room=ROOM, workers=2)), given)


# What goes wrong


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS, signal.SIGTERM])
def test_a_worker_that_dies_is_an_error_that_says_what_to_do(number: signal.Signals) -> None:
    """SIGBUS: how a full file system for shared memory ends whoever writes to it."""

    def die(position: int) -> None:
        if position == 5:
            os.kill(os.getpid(), number)

    with pytest.raises(WorkersError) as caught:
        list(chunks(Items(noise(*[4] * 8), die), batch_size=2, room=ROOM, workers=2, name="set"))
    assert str(caught.value) == (
        f"worker 0, which read images of set, has died (by {number.name}): memory or /dev/shm ran out, or somebody"
        " ended it. Nothing is stored; run again with fewer extractor.workers, or with workers: 0, which needs none"
    )


def test_a_worker_that_is_killed_in_the_middle_of_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fills its pipe, which nobody reads meanwhile; the others hold the same pipe open, if anybody does."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    found = chunks(Items(noise(*[1000] * 6)), batch_size=1, room=1, workers=3)
    next(found)
    time.sleep(0.5)
    for process in multiprocessing.active_children():
        os.kill(process.pid or 0, signal.SIGKILL)
    with pytest.raises(WorkersError, match=r"has died \(by SIGKILL\)"):
        list(found)


def test_a_worker_that_ends_by_itself() -> None:
    with pytest.raises(WorkersError, match=r"has died \(exit code 3\)"):
        list(chunks(Items(noise(4), lambda _: os._exit(3)), batch_size=1, room=ROOM, workers=1))


class OddError(Exception):
    """One that cannot be pickled."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} {other}")


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ZeroDivisionError("division"), ZeroDivisionError), (EOFError("end"), EOFError), (OddError(1, 2), RuntimeError)],
)
def test_an_error_of_the_dataset_is_raised_here(error: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected) as caught:
        list(chunks(Items([*noise(4), error]), batch_size=1, room=ROOM, workers=2))
    assert "in __getitem__" in "".join([*getattr(caught.value, "__notes__", []), str(caught.value)])


def test_a_request_to_stop_is_heard_while_workers_read() -> None:
    found = chunks(Items(noise(4, 4), lambda _: time.sleep(600)), batch_size=1, room=ROOM, workers=2)
    with stopping.listening():
        threading.Timer(0.5, stopping.request).start()
        with pytest.raises(StoppedError):
            list(found)


def test_a_whole_group_of_processes_that_is_ended_was_asked_to_stop() -> None:
    """The worker hears of it first, and dies."""
    items = Items(noise(4), lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with stopping.listening():
        threading.Timer(0.5, stopping.request).start()
        with pytest.raises(StoppedError):
            list(chunks(items, batch_size=1, room=ROOM, workers=1))


def test_workers_end_when_nobody_wants_more() -> None:
    found = chunks(Items(noise(*[4] * 100)), batch_size=1, room=ROOM, workers=3)
    next(found)
    found.close()
    assert multiprocessing.active_children() == []


_ORPHANS = """
import multiprocessing, sys, time, torch
from simet_cache.loading import chunks

class Slow:
    def __len__(self): return 8
    def __getitem__(self, position):
        if position: time.sleep(600 if position % 2 else 0)
        return torch.zeros(3, 1000, 1000)

found = chunks(Slow(), batch_size=1, room=1, workers=4)
next(found)
print(*[process.pid for process in multiprocessing.active_children()], flush=True)
time.sleep(600)
"""


def test_workers_end_with_their_parent() -> None:
    """Whether they read, sleep or send."""
    with subprocess.Popen([sys.executable, "-c", _ORPHANS], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(number) for number in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 4
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{number}/cmdline").exists() and _runs(number) for number in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)


def _runs(number: int) -> bool:
    try:
        return bool(Path(f"/proc/{number}/cmdline").read_bytes())  # empty of one that has ended and was not waited for
    except OSError:
        return False


# Containers and limits: extraction as a whole, in a process of its own

_EXTRACTION = """
import logging, resource, sys, threading
import torch
from torch import nn

from simet_cache import extraction
from simet_cache.config import ExtractorConfig
from simet_cache.extractors import Extractor

images, side, batch_size, workers, limit = map(int, sys.argv[1:])
logging.basicConfig(level=logging.WARNING, format="%(message)s")


class Mean(nn.Module):
    def forward(self, images):
        return images.float().mean((2, 3))


class Made:
    def __len__(self):
        return images

    def __getitem__(self, position):
        width = side + (position % 7 if side < 100 else 0)
        return torch.full((3, side, width), float(position))


def run():
    config = ExtractorConfig(name="resnet18", weights="random", device="cpu", batch_size=batch_size, workers=workers)
    features, _ = extraction.extract(Made(), config=config)
    assert (features == torch.arange(images)[:, None].numpy()).all()
    print("all are there")


extraction.make_extractor = lambda config: Extractor("mean", None, lambda: Mean().eval())
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
thread = threading.Thread(target=run)  # as tasks run
thread.start()
thread.join()
"""


def extraction(*arguments: int, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-c", _EXTRACTION, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "workers"), [(512, 2), (128, 8)])
def test_images_of_different_sizes_need_few_descriptors(batch_size: int, workers: int) -> None:
    done = extraction(2048, 8, batch_size, workers, 1024)
    assert done.stdout == "all are there\n", done.stderr


@pytest.mark.slow
def test_where_descriptors_are_scarce_fewer_workers_read() -> None:
    done = extraction(64, 8, 4, 8, 100)
    assert done.stdout == "all are there\n", done.stderr
    assert "of 8 workers read images, since this process may open only 100 files (`ulimit -n`) and has" in done.stderr


_SMALL = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=8m tmpfs /dev/shm && exec "$@"', "sh")


@pytest.mark.slow
def test_a_container_with_little_shared_memory() -> None:
    """A batch is larger than all of it."""
    try:
        subprocess.run([*_SMALL, "true"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system does not let us mount a small /dev/shm")
    done = extraction(128, 299, 32, 2, 1024, before=_SMALL)
    assert done.stdout == "all are there\n", done.stderr


_MEMORY = """
import resource, sys
import torch
from simet_cache import extraction
from simet_cache.config import ExtractorConfig
from simet_cache.extractors import Extractor


class Mean(torch.nn.Module):
    def forward(self, images):
        return torch.stack([image[:, ::64, ::64].float().mean((1, 2)) for image in images])


class Photographs:
    def __init__(self, count): self.count = count
    def __len__(self): return self.count
    def __getitem__(self, position): return torch.zeros(3, 2048, 2048, dtype=torch.uint8) + position


extraction.make_extractor = lambda config: Extractor("mean", None, lambda: Mean().eval())
config = ExtractorConfig(name="resnet18", weights="random", device="cpu", batch_size=64, workers=0)
peaks = []
for count in (1, 128):
    extraction.extract(Photographs(count), config=config)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(peaks[1] - peaks[0])
"""


@pytest.mark.slow
def test_a_batch_of_photographs_is_not_held_whole() -> None:
    """64 of 2048 pixels are 800 MB; with the copy that the model gets, and the batch before, it was 2.4 GB."""
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY], cwd=ROOT, capture_output=True, text=True, timeout=240, check=True
    )
    assert int(done.stdout) < 400e6
