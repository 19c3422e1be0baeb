"""Have the data behind a key changed since its features were made?

The key knows the path and the number of images, not the images. A fingerprint does, as far as can be told cheaply: of
files their names, sizes and times of change (on request their contents), of data in memory every byte. Labels do not
count (but for those in a TensorDataset, where all tensors do), nor what transforms do. Where nothing can be told, the
fingerprint is unknown, never guessed.

A file that changes and keeps its size and time of change is only seen by its content.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from os.path import join
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
import xxhash
from torch.utils.data import ConcatDataset, Subset

from simet_cache.key import resolve_subset
from simet_cache.listing import UNREAD, Entry, Fingerprint

# Where datasets keep the paths of their images, one for each item; of a tuple, like (path, class), the first counts.
_LISTS = (
    *("files", "samples", "imgs", "images", "paths", "image_paths", "data"),
    *("_samples", "_images", "_image_files", "_image_list"),
)

# Where that takes more words: a folder, and the paths below it. If they are not one for each item, all items count.
_FILES: dict[str, Callable[[Any], tuple[Any, Sequence[Any]]]] = {
    "FolderDataset": lambda d: (d.root, d.files),
    "Caltech101": lambda d: (
        join(d.root, "101_ObjectCategories"),
        [f"{d.categories[y]}/image_{i:04d}.jpg" for y, i in zip(d.y, d.index, strict=True)],
    ),
    "Caltech256": lambda d: (
        join(d.root, "256_ObjectCategories"),
        [f"{d.categories[y]}/{y + 1:03d}_{i:04d}.jpg" for y, i in zip(d.y, d.index, strict=True)],
    ),
    "CelebA": lambda d: (join(d.root, d.base_folder, "img_align_celeba"), d.filename),
    "CocoDetection": lambda d: (d.root, [d.coco.imgs[number]["file_name"] for number in d.ids]),
    "Flickr8k": lambda d: ("", d.ids),
    "Flickr30k": lambda d: (d.root, d.ids),
    "INaturalist": lambda d: (d.root, [f"{d.all_categories[category]}/{name}" for category, name in d.index]),
    "LSUN": lambda d: ("", [join(db.root, "data.mdb") for db in d.dbs]),
    "LSUNClass": lambda d: (d.root, ["data.mdb"]),
    "Omniglot": lambda d: (
        d.target_folder,
        [f"{d._characters[character]}/{name}" for name, character in d._flat_character_images],  # noqa: SLF001 - no other way
    ),
    "PCAM": lambda d: (d._base_folder, [d._FILES[d._split]["images"][0]]),  # noqa: SLF001 - no other way
    "SBU": lambda d: (join(d.root, "dataset"), d.photos),
    "WIDERFace": lambda d: ("", [image["img_path"] for image in d.img_info]),
}
_IN_MEMORY = {
    **dict.fromkeys(("CIFAR10", "MNIST", "MovingMNIST", "PhotoTour", "SEMEION", "STL10", "SVHN", "USPS"), "data"),
    "FER2013": "_samples",
    "TensorDataset": "tensors",
}
_HOMES = ("simet_cache.datasets.", "torch.utils.data.", "torchvision.datasets.")  # of the classes above

_MEMORY_LIMIT = 4 << 30  # bytes: STL10's 100,000 unlabeled images are 2.8 GB, digested in seconds
_CHUNK = 1 << 18  # bytes
_THREADS = 8  # three times as fast as one for small files that are not in memory; no slower for others

_MISSING = ("-", "-")


def fingerprint(dataset: Any, *, content: bool = False) -> Fingerprint:
    """Look at the data of a dataset; no item is read, no transform runs.

    Args:
        dataset: Map-style; a Subset of one, whose selected files count in ascending order of index; or a ConcatDataset.
        content: Read the files too, so that one that was only touched is the same.

    Returns:
        The unknown fingerprint for datasets whose data cannot be found. It raises no error.
    """
    try:
        base, indices = resolve_subset(dataset)
        entries = _entries(base, None if indices is None else sorted(indices), content=content)
    except Exception:  # noqa: BLE001 - attributes of foreign classes may do anything; not to know is no failure
        entries = None
    if entries is None:
        return Fingerprint()
    return Fingerprint.of(entries)


def _entries(base: Any, indices: list[int] | None, *, content: bool) -> list[Entry] | None:
    """What is known of the items, or of those at ``indices``, in this order."""
    if isinstance(base, ConcatDataset):
        return _entries_of_parts(base, indices, content=content)
    kinds = [kind.__name__ for kind in type(base).__mro__ if f"{kind.__module__}.".startswith(_HOMES)]
    for kind in kinds:
        if kind in _IN_MEMORY:
            return _entries_of_data(getattr(base, _IN_MEMORY[kind]))
    for kind in kinds:
        if kind in _FILES:
            folder, names = _FILES[kind](base)
            names = names if indices is None or len(names) != len(base) else [names[index] for index in indices]
            folder = os.fspath(folder)  # once, not for each name
            paths = [join(folder, name) for name in names]
            break
    else:
        listed = _listed_paths(base, indices)
        if listed is None:
            return None
        paths = listed
    return _entries_of_files(paths, getattr(base, "root", None), content=content)


def _entries_of_parts(base: ConcatDataset[Any], indices: list[int] | None, *, content: bool) -> list[Entry] | None:
    entries: list[Entry] = []
    start = 0
    for number, part in enumerate(base.datasets):
        end = start + len(part)  # type: ignore[arg-type]  # parts have a length
        if indices is not None:
            part = Subset(part, [index - start for index in indices if start <= index < end])  # noqa: PLW2901 - the part of it
        start = end
        found = _entries(*resolve_subset(part), content=content)
        if found is None:
            return None
        entries += [(size, time, digest, f"{number}:{name}") for size, time, digest, name in found]
    return entries


def _listed_paths(base: Any, indices: list[int] | None) -> list[str] | None:
    """The lists that name files which exist, as they are or below the root, one after the other."""
    found: list[list[str]] = []
    root = getattr(base, "root", None)
    for attribute in _LISTS:
        names = _strings(getattr(base, attribute, None), len(base), indices)
        if not names:
            continue
        for folder in ("",) if _prefix(names[0], root) else (root, ""):
            paths = [join(folder, name) for name in names] if folder else names
            if any(map(os.path.isfile, paths)):
                found += [paths] if paths not in found else []
                break
    return list(chain.from_iterable(found)) or None


def _strings(values: Any, length: int, indices: list[int] | None) -> list[str] | None:
    """The paths that an attribute lists, if it is a list of as many paths as there are items."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "OU":
        values = values.tolist()
    if not isinstance(values, (list, tuple)) or len(values) != length:
        return None
    chosen = values if indices is None else [values[index] for index in indices]
    firsts = [value[0] if isinstance(value, (list, tuple)) else value for value in chosen]
    return [os.fspath(f) for f in firsts] if all(isinstance(f, (str, os.PathLike)) for f in firsts) else None


def _prefix(path: str, root: Any) -> str:
    """How a path below the root begins, the root being written as it is, by pathlib or by ``abspath``; or nothing."""
    written = (os.fspath(root), str(PurePath(root)), os.path.abspath(root)) if root is not None else ()
    return next((prefix for one in written if path.startswith(prefix := join(one, ""))), "")


def _entries_of_files(paths: list[str], root: Any, *, content: bool) -> list[Entry]:
    """Named below the root, so that it does not matter how the root is written."""
    prefix = _prefix(paths[0], root) if paths else ""
    seen = [_seen(path) for path in paths]
    digests = _digests(paths, seen) if content else [UNREAD] * len(paths)
    entries = zip(paths, seen, digests, strict=True)
    return [(size, time, digest, path.removeprefix(prefix)) for path, (size, time), digest in entries]


def _seen(path: str) -> tuple[int | str, int | str]:
    try:
        status = os.stat(path)
    except OSError:  # like a link that leads nowhere
        return _MISSING
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else _MISSING


def _digests(paths: list[str], seen: list[tuple[int | str, int | str]]) -> list[str]:
    batches = [(paths[at : at + 64], seen[at : at + 64]) for at in range(0, len(paths), 64)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(chain.from_iterable(pool.map(lambda batch: [*map(_digest, *batch)], batches)))


def _digest(path: str, seen: tuple[int | str, int | str]) -> str:
    """Of a file's content; what cannot be read counts by its size and time."""
    if seen == _MISSING:
        return "missing"
    state = xxhash.xxh3_64()
    try:
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                state.update(chunk)
    except OSError:
        return xxhash.xxh3_64_hexdigest(f"unreadable {seen}".encode())
    return state.hexdigest()


def _entries_of_data(data: Any) -> list[Entry] | None:
    """One entry for all the data: whether a change concerns the chosen items is not asked."""
    items = data if isinstance(data, (list, tuple)) else [data]
    arrays = [item[0] if isinstance(item, (list, tuple)) else item for item in items]
    if sum(array.nbytes for array in arrays) > _MEMORY_LIMIT:
        return None
    state = xxhash.xxh3_128()
    for array in arrays:
        if isinstance(array, np.ndarray) and array.dtype.kind not in "biufc":
            return None  # what objects are made of does not lie in the array
        state.update(f"{array.dtype} {tuple(array.shape)}".encode())
        rows = max(1, _CHUNK * len(array) // max(1, array.nbytes))
        for start in range(0, len(array), rows):  # in pieces, because many a set is transposed and must be copied
            state.update(_plain_bytes(array[start : start + rows]))
    digest = state.hexdigest()
    return [(digest, digest, digest, "the data in memory")]


def _plain_bytes(array: Any) -> Any:
    if isinstance(array, torch.Tensor):
        array = array.contiguous().flatten().view(torch.uint8).numpy()  # raises for those on other devices
    return np.ascontiguousarray(array)
