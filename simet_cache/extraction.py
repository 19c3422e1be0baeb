"""Images -> features: the loop over a dataset, and the entry of the store that comes of it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from simet_cache.codec import FloatArray
from simet_cache.errors import DatasetError, ExtractorError, ImageReadError
from simet_cache.extractors import make_extractor
from simet_cache.featureset import FeatureSet
from simet_cache.key import feature_key, resolve_subset
from simet_cache.manifest import Source
from simet_cache.skipped import SkippedImage, forget_skipped, remember_skipped, without_skipped
from simet_cache.sources import part_of, source_of
from simet_cache.store import FeatureStore

if TYPE_CHECKING:
    from simet_cache.config import ExtractorConfig

# On a CPU, small batches stay in its caches: inception_v3 at 299 pixels is fastest at 8 images (see benchmarks).
_CPU_PIXELS = 8 * 299 * 299
_IMAGES_PER_WORKER = 512  # below this, starting a worker process takes longer than it saves

_BUILDING = threading.Lock()

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """One batch of a dataset, as far as it could be read.

    Attributes:
        images: One tensor (n, 3, H, W), or n tensors (3, H, W) where the sizes differ.
        bad: What could not be read: position in the dataset and the error.
    """

    images: torch.Tensor | list[torch.Tensor]
    bad: list[tuple[int, ImageReadError]]

    def pin_memory(self) -> Batch:
        """The same in page-locked memory: a loader asks the batches for it."""
        if isinstance(self.images, torch.Tensor):
            return Batch(self.images.pin_memory(), self.bad)
        return Batch([image.pin_memory() for image in self.images], self.bad)


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
) -> FeatureSet:
    """The features of a dataset, extracted and stored unless they are there.

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

    Raises:
        ImageReadError: An image cannot be read, and ``on_bad_image`` is ``stop``.
        DatasetError: No image at all can be read.
        ExtractorError: The model cannot be had.
        StaleEntryError: There is a stale entry, and the store's ``on_stale`` is ``error``.
        StoreError: An entry cannot be read. Where features cannot be written, the handle carries them.
    """
    batch_size, extractor = config.batch_size, make_extractor(config).identity
    # before the images are read: what changes meanwhile shall be seen
    source = source or source_of(dataset, suffix=suffix, batch_size=batch_size, name=name, extractor=extractor)
    key = feature_key(dataset, suffix=suffix, batch_size=batch_size)
    if not force and (found := store.find(key, rows=len(dataset), source=source)):
        return found
    with store.lock(key):
        if not force:  # another process may have extracted meanwhile, with or without all of the images
            wanted, wanted_source = dataset, source
            if on_bad_image == "skip":
                wanted, wanted_source, _ = without_skipped(store, key, dataset, source)
            wanted_key = feature_key(wanted, suffix=suffix, batch_size=batch_size)
            if found := store.find(wanted_key, rows=len(wanted), source=wanted_source):
                return found
        ordered = in_key_order(dataset)
        started = time.perf_counter()
        features, bad = extract(ordered, config=config, skip=on_bad_image == "skip", name=name)
        seconds = time.perf_counter() - started
        log.info("%s: %d images in %.1f s (%.1f images/s)", name, len(features), seconds, len(features) / seconds)
        details = {
            "extractor": {**source.extractor, "device": str(resolve_device(config.device)), "libraries": _libraries()},
            "seconds": round(seconds, 3),
            "images_per_second": round(len(features) / seconds, 2),
        }
        if not bad:
            forget_skipped(store, key)
            return store.keep(key, features, source=source, **details)
        log.warning("%s: skipped %d of %d images that cannot be read", name, len(bad), len(dataset))
        good = np.delete(np.arange(len(ordered)), [position for position, _ in bad])
        remaining, good_source = part_of(ordered, source, good.tolist())
        skipped = [SkippedImage(error.path, error.reason) for _, error in bad]
        remember_skipped(store, key, [position for position, _ in bad], skipped, source)
        good_key = feature_key(remaining, suffix=suffix, batch_size=batch_size)
        skipped_images = [asdict(image) for image in skipped]
        return store.keep(good_key, features, source=good_source, skipped=skipped_images, **details)


def _libraries() -> dict[str, str]:
    """What else decides the last bits of features."""
    return {name: version(name) for name in ("torch", "torchvision", "pillow", "numpy")}


def in_key_order(dataset: Any) -> Any:
    """The dataset with its rows in the order that the key implies: for a Subset, ascending indices."""
    base, indices = resolve_subset(dataset)
    return dataset if indices is None else Subset(base, sorted(indices))


def extract(
    dataset: Dataset[Any], *, config: ExtractorConfig, skip: bool = False, name: str = "dataset"
) -> tuple[FloatArray, list[tuple[int, ImageReadError]]]:
    """Run a model over a dataset, in its order.

    Returns:
        float32 features (N, D) of the images that can be read, and the others' positions with their errors.

    Raises:
        ImageReadError: An image cannot be read, and bad ones are not to be skipped.
        DatasetError: No image can be read.
        ExtractorError: The model cannot be had.
    """
    device = resolve_device(config.device)
    extractor = make_extractor(config)
    with _BUILDING:  # torch.fx traces in one thread at a time
        model = _model(config, device, extractor.suffix)
    total = len(dataset)  # type: ignore[arg-type]  # map-style datasets have a length
    features: FloatArray | None = None
    bad: list[tuple[int, ImageReadError]] = []
    filled = 0
    with _inference(device, config), tqdm(total=total, desc=name, unit="img", disable=None, leave=False) as bar:
        for batch in _loader(dataset, config, device):
            if batch.bad and not skip:
                raise batch.bad[0][1]
            bad += batch.bad
            for images in _micro_batches(batch.images, device):
                rows = model(images.to(device, non_blocking=True, memory_format=torch.channels_last)).float()
                if features is None:
                    features = np.empty((total, rows.shape[1]), dtype=np.float32)
                # a flat CPU view of our own rows: the copy out of the device lands where it stays
                torch.from_numpy(features[filled : filled + len(rows)]).copy_(rows)
                filled += len(rows)
            bar.update(len(batch.images) + len(batch.bad))
    if features is None:
        first = f"; the first: {bad[0][1]}" if bad else ""
        raise DatasetError(f"none of the {total} images of {name} can be read{first}")
    return features[:filled], bad


def resolve_device(name: str) -> torch.device:
    """``auto`` is the first CUDA device, or the CPU.

    Raises:
        ExtractorError: The device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ExtractorError(f"device {name!r} cannot be used here ({reason}); use 'device: auto' or 'cpu'") from error
    return device


@lru_cache(maxsize=1)  # one model in memory; every dataset of a run uses the same
def _model(config: ExtractorConfig, device: torch.device, suffix: str) -> nn.Module:  # noqa: ARG001 - another file of weights is another model
    return make_extractor(config).build().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


@contextmanager
def _inference(device: torch.device, config: ExtractorConfig) -> Iterator[None]:
    """float32 means float32 on every device: cuDNN would use TF32 by itself."""
    with (
        torch.inference_mode(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        # one dtype on every device, since there is one suffix; left to itself, torch takes bfloat16 on the CPU
        torch.autocast(device.type, dtype=torch.float16, enabled=config.precision == "amp"),
    ):
        yield


def _micro_batches(images: torch.Tensor | list[torch.Tensor], device: torch.device) -> Iterator[torch.Tensor]:
    """What the model sees at once. Order is kept; images of different sizes go one by one."""
    if isinstance(images, list):
        yield from (image[None] for image in images)
        return
    size = len(images)
    if device.type == "cpu":
        size = max(8, _CPU_PIXELS // (images.shape[-1] * images.shape[-2]))
    yield from torch.split(images, size) if len(images) else ()


def _loader(dataset: Dataset[Any], config: ExtractorConfig, device: torch.device) -> DataLoader[Any]:
    workers = config.workers
    if workers is None:
        # the CPU's cores belong to the model; next to an accelerator they have nothing else to do
        spare = 0 if device.type == "cpu" else _cpus()
        workers = min(spare, 16, len(dataset) // _IMAGES_PER_WORKER)  # type: ignore[arg-type]
    return DataLoader(
        _Readable(dataset),
        batch_size=config.batch_size,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        collate_fn=_collate,
    )


def _cpus() -> int:
    """That this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Readable(Dataset[Any]):
    """Errors of single images become items, so that a worker process can hand them over whole."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, position: int) -> Any:
        try:
            item = self._dataset[position]
        except ImageReadError as error:
            return position, error
        except OSError as error:  # as torchvision's own datasets raise it
            return position, ImageReadError(f"number {position}", str(error))
        return position, item[0] if isinstance(item, (tuple, list)) else item


def _collate(items: list[tuple[int, Any]]) -> Batch:
    bad = [(position, item) for position, item in items if isinstance(item, ImageReadError)]
    images = [item for _, item in items if not isinstance(item, ImageReadError)]
    if len({image.shape for image in images}) == 1:
        return Batch(torch.stack(images), bad)
    return Batch(images, bad)
