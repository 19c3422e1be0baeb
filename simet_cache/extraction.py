"""Images -> features: the loop over a dataset, and the entry of the store that comes of it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from simet_cache import codec, devices, pieces, stopping
from simet_cache.codec import FloatArray
from simet_cache.errors import BitDepthError, DatasetError, ImageReadError, WeightsError
from simet_cache.extractors import Extractor, make_extractor
from simet_cache.featureset import FeatureSet
from simet_cache.key import feature_key
from simet_cache.loading import Chunk, chunks
from simet_cache.manifest import IDENTITY, Source
from simet_cache.retrying import errno_can_pass
from simet_cache.skipped import without_bad, without_skipped
from simet_cache.sources import in_key_order, key_of, read_unchanged, source_of
from simet_cache.store import FeatureStore

if TYPE_CHECKING:
    from simet_cache.config import ExtractorConfig

# On a CPU, small batches stay in its caches: inception_v3 at 299 pixels is fastest at 8 images (see benchmarks).
_CPU_PIXELS = 8 * 299 * 299
# Bytes of images that are read at once; each worker may hold twice as much. 128 floats of 299 pixels are 137 MB.
_ROOM, _CPU_ROOM = 160 << 20, 64 << 20
_IMAGES_PER_WORKER = 512  # below this, starting a worker process takes longer than it saves

log = logging.getLogger(__name__)


def extract_to_store(
    store: FeatureStore,
    dataset: Any,
    *,
    config: ExtractorConfig,
    suffix: str,
    source: Source | None = None,
    on_bad_image: str = "stop",
    force: bool = False,
    name: str = "dataset",
    shard_of: str | None = None,
    turn: Callable[[], AbstractContextManager[Any]] = nullcontext,
    locks: devices.DeviceLocks = devices.DeviceLocks(),  # noqa: B008 - it is frozen
) -> FeatureSet:
    """The features of a dataset, extracted and stored unless they are there.

    It waits for the key, then looks once more, then waits for its turn, and then for a device. What is
    stored goes to the remote after that.

    Args:
        store: Where they are kept.
        dataset: Images by position: float32 or uint8 tensors (3, H, W), alone or first of a tuple.
        config: Which model, on which device; its batch size is part of the key.
        suffix: Identifies the output in the key.
        source: What the features are made from, where somebody has taken it already.
        on_bad_image: ``stop``, or ``skip``: then the features of the good images are stored under the key of the
            Subset of these, and the bad ones are remembered.
        force: Extract and overwrite even where features exist.
        name: For messages.
        shard_of: The key of the whole that this is a shard of: it may be dropped when the whole is there, and if none
            of its images can be read, the features are an empty matrix that is stored nowhere.
        turn: Entered while images are read: whatever else limits how many extractions run at once.
        locks: Which devices other processes do not use meanwhile.

    Raises:
        ImageReadError: An image cannot be read, and ``on_bad_image`` is ``stop``; or the file system fails.
        DatasetError: No image at all can be read, or images changed while they were read.
        StoppedError: The run was asked to stop.
        WorkersError: A process that reads images has died.
        ExtractorError: The model cannot be had.
        WeightsError: Its weights are not those that ``source`` names: their file was replaced.
        StaleEntryError: There is a stale entry, and the store's ``on_stale`` is ``error``.
        StoreError: An entry cannot be read. Where features cannot be written, the handle carries them.
    """
    batch_size = config.batch_size
    if source is None:
        made_by = make_extractor(config).identity
        source = source_of(dataset, suffix=suffix, batch_size=batch_size, name=name, extractor=made_by)
    key = feature_key(dataset, suffix=suffix, batch_size=batch_size)
    if not force and (found := store.find(key, rows=len(dataset), source=source)):
        return found
    names, skip = devices.available(config.device), on_bad_image == "skip"
    with store.lock(key):
        if not force and (found := _extracted_meanwhile(store, dataset, key, source, skip=skip, shard_of=shard_of)):
            return found
        with (
            turn(),
            devices.taken(names, locks) as device,
        ):  # until all is stored: a kill shall cost one dataset, not two
            made = _extracted(
                store,
                key,
                in_key_order(dataset),
                source,
                config=config,
                device=device,
                skip=skip,
                name=name,
                shard_of=shard_of,
            )
        if made.unsaved is None:
            store.send(made.key)  # while another one has the device
        return made


def _extracted(
    store: FeatureStore,
    key: str,
    ordered: Any,
    source: Source,
    *,
    config: ExtractorConfig,
    device: str,
    skip: bool,
    name: str,
    shard_of: str | None,
) -> FeatureSet:
    extractor = make_extractor(config)  # anew: the file of weights may have been replaced since the key was made
    _require_same(extractor, source, name)
    started = time.perf_counter()
    work = partial(extract, ordered, config=config, extractor=extractor, device=device, skip=skip, name=name)
    features, bad = read_unchanged(ordered, source, work, name=name)
    seconds = time.perf_counter() - started
    if not len(features) and (shard_of is None or not bad):
        first = f"; the first: {bad[0][1]}" if bad else ""
        raise DatasetError(f"none of the {len(ordered)} images of {name} can be read{first}")
    log.info("%s: %d images in %.1f s (%.1f images/s)", name, len(features), seconds, len(features) / seconds)
    details: dict[str, Any] = {
        "extractor": {**source.extractor, "device": device, "libraries": _libraries()},
        "seconds": round(seconds, 3),
        "images_per_second": round(len(features) / seconds, 2),
    }
    _, good_source, skipped = without_bad(store, key, ordered, source, bad, name=name)
    good_key = key_of(good_source) if skipped else key
    if not len(features):
        return _nothing(store, good_key)
    if skipped:
        details["skipped"] = [asdict(image) for image in skipped]
    details |= pieces.said_of_shard(store, good_key, shard_of)
    return store.keep(good_key, features, source=good_source, send=False, **details)


def _require_same(extractor: Extractor, source: Source, name: str) -> None:
    """See that an extractor, here and now, is the one that the key was made with."""
    for what in IDENTITY:
        expected, found = source.extractor.get(what), extractor.identity.get(what)
        if None not in (expected, found) and expected != found:
            raise WeightsError(
                f"the extractor of {name} is not the one that its key was made with: expected {what} {expected!r},"
                f" found {found!r}, which its file of weights or this machine has by now; nothing is stored. Run again,"
                " and give each checkpoint a file of its own"
            )


def _extracted_meanwhile(
    store: FeatureStore, dataset: Any, key: str, source: Source, *, skip: bool, shard_of: str | None
) -> FeatureSet | None:
    """What another process has extracted while this one waited: all of the images, the good ones, or the whole."""
    if skip:
        dataset, source, skipped = without_skipped(store, key, dataset, source)
        key = key_of(source) if skipped else key
        if not len(dataset):
            return _nothing(store, key) if shard_of else None
    found = store.find(key, rows=len(dataset), source=source)
    return found or (pieces.cut_out(store, key, shard_of, source) if shard_of else None)


def _nothing(store: FeatureStore, key: str) -> FeatureSet:
    """The features of no image at all, which are stored nowhere."""
    nothing = np.empty((0, 0), np.float32)
    return FeatureSet(key, str(store.path(key)), (0, 0), "float32", codec.digest(nothing), unsaved=nothing)


def _libraries() -> dict[str, str]:
    """What else decides the last bits of features."""
    return {name: version(name) for name in ("torch", "torchvision", "pillow", "numpy")}


def extract(
    dataset: Dataset[Any],
    *,
    config: ExtractorConfig,
    extractor: Extractor | None = None,
    device: str | None = None,
    skip: bool = False,
    name: str = "dataset",
) -> tuple[FloatArray, list[tuple[int, ImageReadError]]]:
    """Run a model over a dataset, in its order.

    Args:
        dataset: Images by position.
        config: Which model.
        extractor: The same with its weights as they were found before; by default they are looked for now.
        device: Where it runs; by default on the first that the configuration allows.
        skip: Leave out images that cannot be read.
        name: For the progress bar.

    Returns:
        float32 features (N, D) of the images that can be read, (0, 0) where none can; and the others' positions with
        their errors.

    Raises:
        ImageReadError: An image cannot be read, and bad ones are not to be skipped; or the file system fails, which
            says nothing about the image.
        ExtractorError: The model cannot be had.
        WorkersError: A process that reads images has died.
        StoppedError: The run was asked to stop.
    """
    device = device or devices.available(config.device)[0]
    extractor = extractor or make_extractor(config)
    model = _model(config, extractor, device)
    total = len(dataset)  # type: ignore[arg-type]  # map-style datasets have a length
    rows = _Rows(total)
    bad: list[tuple[int, ImageReadError]] = []
    with _inference(device, config), tqdm(total=total, desc=name, unit="img", disable=None, leave=False) as bar:
        for chunk in _chunks(dataset, config, device, name):
            for _, error in chunk.bad:
                if not skip or errno_can_pass(error.errno) or isinstance(error, BitDepthError):
                    raise error
            bad += chunk.bad
            _apply(model, chunk.images, rows, extractor, device)
            bar.update(len(chunk.images) + len(chunk.bad))
            del chunk  # its memory, before the next one comes
        return rows.all(), bad


def _apply(
    model: nn.Module, images: torch.Tensor | list[torch.Tensor], rows: _Rows, extractor: Extractor, device: str
) -> None:
    for some in _micro_batches(images, extractor, device):
        stopping.check()
        rows.add(model(some.to(device, non_blocking=True, memory_format=torch.channels_last)).float())


class _Rows:
    """Features on their way from a device into one array.

    The last ones are left on the device until the next ones have been asked for: a GPU works on these while images are
    read, and to fetch rows is to wait for it.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._features: FloatArray | None = None
        self._filled = 0
        self._last: torch.Tensor | None = None

    def add(self, rows: torch.Tensor) -> None:
        """Take the rows that follow, shape (n, D)."""
        last, self._last = self._last, rows
        if last is not None:
            self._fetch(last)

    def _fetch(self, rows: torch.Tensor) -> None:
        if self._features is None:
            self._features = np.empty((self._total, rows.shape[1]), dtype=np.float32)
        # a flat CPU view of our own rows: the copy out of the device lands where it stays
        torch.from_numpy(self._features[self._filled : self._filled + len(rows)]).copy_(rows)
        self._filled += len(rows)

    def all(self) -> FloatArray:
        """All rows so far, shape (N, D); (0, 0) where there are none."""
        if self._last is not None:
            self._fetch(self._last)
            self._last = None
        return np.empty((0, 0), np.float32) if self._features is None else self._features[: self._filled]


_models: dict[str, tuple[tuple[Any, ...], nn.Module]] = {}  # the one that was used last on each device
_building = threading.Lock()  # torch.fx traces in one thread at a time


def _model(config: ExtractorConfig, extractor: Extractor, device: str) -> nn.Module:
    """A model on a device, where every dataset of a run uses the same; the one before it goes first."""
    # another file of weights is another model, whatever its name
    wanted = config, extractor.suffix, extractor.identity.get("weights")
    with _building:
        if device not in _models or _models[device][0] != wanted:
            _models.pop(device, None)
            model = extractor.build().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            _models[device] = wanted, model
        return _models[device][1]


@contextmanager
def _inference(device: str, config: ExtractorConfig) -> Iterator[None]:
    """float32 means float32 on every device: cuDNN would use TF32 by itself."""
    with (
        torch.inference_mode(),
        _exact_cudnn(),
        # one dtype on every device, since there is one suffix; left to itself, torch takes bfloat16 on the CPU
        torch.autocast(torch.device(device).type, dtype=torch.float16, enabled=config.precision == "amp"),
    ):
        yield


_exact = ExitStack()
_exact_for = 0
_counting = threading.Lock()


@contextmanager
def _exact_cudnn() -> Iterator[None]:
    """Set cuDNN's switches, which belong to the process: the first thread in sets them, the last one sets them back."""
    global _exact_for  # noqa: PLW0603
    with _counting:
        if not _exact_for:
            _exact.enter_context(
                torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
            )
        _exact_for += 1
    try:
        yield
    finally:
        with _counting:
            _exact_for -= 1
            if not _exact_for:
                _exact.close()


def _micro_batches(
    images: torch.Tensor | list[torch.Tensor], extractor: Extractor, device: str
) -> Iterator[torch.Tensor]:
    """What the model sees at once. Order is kept; images of different sizes go one by one."""
    if isinstance(images, list):
        yield from (image[None] for image in images)
        return
    size = len(images)
    if device == "cpu":
        size = max(8, _CPU_PIXELS // (extractor.resizes_to or images.shape[-1] * images.shape[-2]))
    yield from torch.split(images, size) if len(images) else ()


def _chunks(dataset: Dataset[Any], config: ExtractorConfig, device: str, name: str) -> Iterator[Chunk]:
    workers = _workers(config, len(dataset), device)  # type: ignore[arg-type]
    room = _CPU_ROOM if device == "cpu" else _ROOM
    found = chunks(dataset, batch_size=config.batch_size, room=room, workers=workers, name=name)
    with closing(found):  # its workers end at once, whatever happens
        yield from map(Chunk.pin_memory, found) if device.startswith("cuda") else found


def _workers(config: ExtractorConfig, images: int, device: str) -> int:
    if config.workers is not None:
        return config.workers
    # the CPU's cores belong to the model; next to an accelerator they have nothing else to do
    spare = 0 if device == "cpu" else _cpus()
    return min(spare, 16, images // _IMAGES_PER_WORKER)


def _cpus() -> int:
    """That this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
