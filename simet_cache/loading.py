"""Images in chunks, read here or by worker processes.

A worker hands over one chunk at a time: one block of memory and the shapes of the images in it. That takes one file
descriptor for a chunk, whatever its images, and nothing of ``/dev/shm``, which is small in containers: the block is
memory without a name (``memfd_create``), or goes through the worker's pipe where there is none to be had.

Each worker has a pipe of its own and no lock is shared, so that one that is killed, in the middle of a message or not,
is seen at once and cannot make anybody wait.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import threading
import time
import traceback
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing import connection, get_context, reduction
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch

from simet_cache import stopping
from simet_cache.errors import ImageReadError, WorkersError

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

Bad = list[tuple[int, ImageReadError]]

_DESCRIPTORS_EACH = 8  # that a worker takes in this process: its pipe, its sentinel, and a chunk on its way
_DESCRIPTORS_KEPT = 64  # for everybody else
_LOOK_INTERVAL = 1.0  # seconds
_PATIENCE = 60.0  # seconds without a chunk, until that is said

log = logging.getLogger(__name__)
_starting = threading.Lock()  # a process that is forked meanwhile would keep the ends of pipes open


@dataclass(frozen=True)
class Chunk:
    """Some consecutive images of a dataset, as far as they could be read.

    Attributes:
        images: One tensor (n, 3, H, W), or n tensors (3, H, W) where the sizes differ.
        bad: What could not be read: position in the dataset and the error.
    """

    images: torch.Tensor | list[torch.Tensor]
    bad: Bad

    def pin_memory(self) -> Chunk:
        """The same in page-locked memory, from which an accelerator copies by itself."""
        if isinstance(self.images, torch.Tensor):
            return Chunk(self.images.pin_memory(), self.bad)
        return Chunk([image.pin_memory() for image in self.images], self.bad)


def chunks(dataset: Any, *, batch_size: int, room: int, workers: int = 0, name: str = "dataset") -> Generator[Chunk]:
    """Read a dataset in its order. A chunk never crosses the end of a batch, so that shards have the chunks of a whole.

    Args:
        dataset: Images by position: tensors (3, H, W), alone or first of a tuple.
        batch_size: At most so many images in a chunk.
        room: Bytes of a chunk, above which a batch is read in several; one image may be larger. Each worker holds two.
        workers: Processes that read; 0 reads in this one. Fewer are started where file descriptors are scarce.
        name: For messages.

    Raises:
        WorkersError: A worker has died, or what it has read cannot be received.
        StoppedError: The run was asked to stop.
    """
    total = len(dataset)
    batches = [range(start, min(start + batch_size, total)) for start in range(0, total, batch_size)]
    workers = _affordable(min(workers, len(batches)), name)
    if workers:
        yield from _read_by_workers(dataset, batches, room, workers, name)
        return
    for batch in batches:
        for images, bad, _ in _read(dataset, batch, room):
            yield _in_one(images, bad)


def _in_one(images: list[torch.Tensor], bad: Bad) -> Chunk:
    """A chunk of images, whose list is emptied: they need not be in memory twice."""
    alike = len({(image.shape, image.dtype) for image in images}) == 1
    chunk = Chunk(torch.stack(images) if alike else list(images), bad)
    images.clear()
    return chunk


def _read(dataset: Any, positions: Sequence[int], room: int) -> Generator[tuple[list[torch.Tensor], Bad, bool]]:
    """The images of a batch, with those that are bad, in parts that fit; and of each whether it is the last."""
    images: list[torch.Tensor] = []
    bad: Bad = []
    taken = 0
    for number, position in enumerate(positions, start=1):
        stopping.check()
        item = _item(dataset, position)
        size = 0
        if isinstance(item, ImageReadError):
            bad.append((position, item))
        else:
            images.append(item)
            size = item.nbytes
        taken += size
        if number == len(positions) or (size and taken + size > room):  # the next one is probably as large
            yield images, bad, number == len(positions)
            images, bad, taken = [], [], 0


def _item(dataset: Any, position: int) -> Any:
    """The image at a position, or why it cannot be read."""
    try:
        item = dataset[position]
    except ImageReadError as error:
        return error
    except OSError as error:  # as torchvision's own datasets raise it
        return ImageReadError(f"number {position}", str(error), errno=error.errno)
    return item[0] if isinstance(item, (tuple, list)) else item


def _affordable(workers: int, name: str) -> int:
    """How many workers there can be with the file descriptors that this process may still open."""
    if not workers or resource is None:
        return workers
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        spare = limit - len(os.listdir("/dev/fd"))
    except OSError:
        spare = limit
    possible = max(0, (spare - _DESCRIPTORS_KEPT) // _DESCRIPTORS_EACH)
    if limit == resource.RLIM_INFINITY or possible >= workers:
        return workers
    log.warning(
        "%s: %d of %d workers read images, since this process may open only %d files (`ulimit -n`) and has %d open;"
        " raise the limit, or set fewer extractor.workers",
        name,
        possible,
        workers,
        limit,
        limit - spare,
    )
    return possible


# What workers send


@dataclass(frozen=True)
class _Parcel:
    """What a worker says of a chunk before it sends the images: one after the other, in one block of bytes."""

    shapes: list[tuple[int, ...]]
    dtypes: list[torch.dtype]
    bad: Bad
    last: bool  # of its batch
    in_memory: bool  # else in the pipe

    @property
    def places(self) -> list[tuple[int, int]]:
        """Where each image begins and ends; each lies as its dtype needs it."""
        places: list[tuple[int, int]] = []
        end = 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            start = end + -end % dtype.itemsize
            end = start + int(np.prod(shape)) * dtype.itemsize
            places.append((start, end))
        return places

    @property
    def size(self) -> int:
        """Of the block."""
        return self.places[-1][1] if self.places else 0


def _send(pipe: connection.Connection, parent: int, images: list[torch.Tensor], bad: Bad, *, last: bool) -> None:
    shapes, dtypes = [tuple(image.shape) for image in images], [image.dtype for image in images]
    parcel = _Parcel(shapes, dtypes, bad, last, in_memory=True)
    try:
        memory = _unnamed_memory(parcel.size) if parcel.size else None
    except OSError:
        memory = None
    if memory is None:
        plain = bytearray(parcel.size)
        _fill(plain, images, parcel)
        pipe.send(_Parcel(shapes, dtypes, bad, last, in_memory=False))
        if plain:
            pipe.send_bytes(plain)
        return
    try:
        with mmap.mmap(memory, parcel.size) as block:
            _fill(block, images, parcel)
        pipe.send(parcel)
        reduction.send_handle(pipe, memory, parent)
    finally:
        os.close(memory)


def _unnamed_memory(size: int) -> int | None:
    """A descriptor of so many bytes that other processes can map; None where the system has no such thing.

    Raises:
        OSError: There is not so much memory, or no descriptor; without ``posix_fallocate`` the first would be a SIGBUS.
    """
    if not hasattr(os, "memfd_create"):
        return None
    memory = os.memfd_create("simet-cache-images")
    try:
        os.posix_fallocate(memory, 0, size)
    except OSError:
        os.close(memory)
        raise
    return memory


def _fill(block: bytearray | mmap.mmap, images: list[torch.Tensor], parcel: _Parcel) -> None:
    target = np.frombuffer(block, np.uint8)
    for image, (start, end) in zip(images, parcel.places, strict=True):
        target[start:end] = image.contiguous().flatten().view(torch.uint8).numpy()
    del target  # else the block cannot be closed


def _receive(pipe: connection.Connection, parcel: _Parcel) -> Chunk:
    size = parcel.size
    if not size:
        return Chunk([], parcel.bad)
    if parcel.in_memory:
        memory = reduction.recv_handle(pipe)
        try:
            block: Any = mmap.mmap(memory, size)  # it keeps a descriptor of its own, as long as the images are used
        finally:
            os.close(memory)
    else:
        block = bytearray(pipe.recv_bytes())
    plain = torch.frombuffer(block, dtype=torch.uint8)
    if len({*zip(parcel.shapes, parcel.dtypes, strict=True)}) == 1:
        return Chunk(plain.view(parcel.dtypes[0]).view(len(parcel.shapes), *parcel.shapes[0]), parcel.bad)
    parts = zip(parcel.places, parcel.dtypes, parcel.shapes, strict=True)
    return Chunk([plain[start:end].view(dtype).view(shape) for (start, end), dtype, shape in parts], parcel.bad)


# Workers


@dataclass(frozen=True)
class _Worker:
    number: int
    process: BaseProcess
    pipe: connection.Connection

    def take(self, name: str) -> tuple[Chunk, bool]:
        """The next chunk that it has read, and whether it is the last of its batch."""
        self._wait(name)
        try:
            parcel = self.pipe.recv()
            if isinstance(parcel, _Parcel):
                chunk = _receive(self.pipe, parcel)
        except (EOFError, OSError, RuntimeError) as error:  # the last: a descriptor did not arrive
            self.process.join(_LOOK_INTERVAL)
            if isinstance(error, EOFError) or self.process.exitcode not in (None, 0):
                raise self._died(name) from error
            raise WorkersError(
                f"cannot receive images of {name} from worker {self.number} ({error}): this process may open no more"
                " files (`ulimit -n`), or has no memory left. Nothing is stored; raise the limit, or set fewer"
                " extractor.workers"
            ) from error
        if not isinstance(parcel, _Parcel):
            raise self._error(parcel)
        with suppress(OSError):  # one that has read all is gone
            self.pipe.send_bytes(b"more")
        return chunk, parcel.last

    def _error(self, text: str) -> BaseException:
        """What the dataset has raised in the worker, which follows its text; or the text, where it cannot be sent."""
        try:
            error: BaseException = self.pipe.recv()
        except Exception:  # noqa: BLE001 - classes of users may do anything when they are copied
            return RuntimeError(text)
        error.add_note(f"in a worker that reads images:\n{text}")
        return error

    def _wait(self, name: str) -> None:
        began, said = time.monotonic(), 0
        while not connection.wait([self.pipe, self.process.sentinel], _LOOK_INTERVAL):
            stopping.check()
            if not self.process.is_alive() and not self.pipe.poll():
                raise self._died(name)
            waited = time.monotonic() - began
            if waited > _PATIENCE * (said + 1):
                said += 1
                log.warning("%s: worker %d has handed over nothing for %.0f s", name, self.number, waited)
        if not self.pipe.poll():
            raise self._died(name)

    def _died(self, name: str) -> WorkersError:
        self.process.join(_LOOK_INTERVAL)
        code = self.process.exitcode
        if code == -signal.SIGTERM:
            time.sleep(_LOOK_INTERVAL)  # who ends a whole group of processes asks this one to stop, too
        stopping.check()
        how = "it closed its pipe" if code is None else f"exit code {code}"
        if code is not None and code < 0:
            with suppress(ValueError):
                how = f"by {signal.Signals(-code).name}"
        return WorkersError(
            f"worker {self.number}, which read images of {name}, has died ({how}): memory or /dev/shm ran out, or"
            " somebody ended it. Nothing is stored; run again with fewer extractor.workers, or with workers: 0, which"
            " needs none"
        )

    def end(self) -> None:
        """It holds nothing that would have to be put in order."""
        self.pipe.close()
        self.process.kill()
        self.process.join(_PATIENCE)


def _read_by_workers(dataset: Any, batches: Sequence[range], room: int, workers: int, name: str) -> Generator[Chunk]:
    crew: list[_Worker] = []
    try:
        try:
            with _starting:
                for number in range(workers):
                    crew.append(_started(number, dataset, batches[number::workers], room, crew))
        except OSError as error:
            raise WorkersError(
                f"cannot start worker {len(crew)} of {workers} to read images of {name} ({error.strerror or error});"
                " raise the limits of this process (`ulimit -n`, `ulimit -u`), or set fewer extractor.workers"
            ) from error
        for number in range(len(batches)):
            last = False
            while not last:
                chunk, last = crew[number % workers].take(name)
                yield chunk
                del chunk  # its memory, before the next one comes
    finally:
        for worker in crew:
            worker.end()


def _started(number: int, dataset: Any, batches: Sequence[range], room: int, others: Sequence[_Worker]) -> _Worker:
    context = get_context()
    ours, theirs = context.Pipe(duplex=True)
    inherited = [ours, *(other.pipe for other in others)] if context.get_start_method() == "fork" else []
    process = context.Process(
        target=_work,
        args=(theirs, inherited, os.getpid(), dataset, batches, room),
        name=f"images-{number}",
        daemon=True,
    )
    try:
        process.start()
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return _Worker(number, process, ours)


def _work(  # noqa: PLR0917 - as a process takes them
    pipe: connection.Connection,
    inherited: Sequence[connection.Connection],
    parent: int,
    dataset: Any,
    batches: Sequence[range],
    room: int,
) -> None:
    """What a worker does: it sends a chunk, reads the next one, and waits until the one before has been taken.

    A pipe that fails ends it: the parent is gone, or sees it by that.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    may_send = True
    found = chain.from_iterable(_read(dataset, batch, room) for batch in batches)
    while True:
        try:
            images, bad, last = next(found)
        except StopIteration:
            return
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent raises it
            pipe.send(traceback.format_exc())
            with suppress(Exception):  # what cannot be sent is known by its text
                pipe.send(error)
            return
        if not may_send:
            pipe.recv_bytes()
        _send(pipe, parent, images, bad, last=last)
        may_send = False
        images.clear()  # before the next ones are read


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(_LOOK_INTERVAL)
    os._exit(1)
