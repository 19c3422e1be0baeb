"""What is known about an entry, beside it: ``<md5>.json``; and whether that still fits what it was made from.

A manifest is a JSON object::

    format, key
    components   of the key, in clear: dataset, subset, suffix, length, batch_size
    features     shape, dtype, digest (xxh3-128 of dtype, shape and values), row_order
    file         bytes, mtime_ns, aligned: of the .pkl that all this is about, and whether it can be mapped
    dataset      name, class, root, fingerprint; chosen, where a sampler takes only some of the items
    extractor    name, weights, precision, preprocessing, device, libraries, version
    skipped      images that could not be read
    seconds, images_per_second, created_at, written_by
    shard_of     the key of the whole, of what was extracted as a shard and may be dropped
    shards       of a whole: the key that its shards name, and for each its key, rows, digest and fingerprint

What is not known is left out; an entry of another program has ``adopted: true``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simet_cache import bounded
from simet_cache.atomic import read_regular
from simet_cache.errors import DamagedEntryError, StoreError
from simet_cache.listing import LARGEST, Fingerprint, differences

FORMAT = 1

# In the order of the dataset (of a Subset: of its ascending indices), as a loader gave them, or nobody knows.
DATASET_ORDER, LOADER_ORDER, UNKNOWN_ORDER = "dataset", "loader", "unknown"

IDENTITY = ("name", "weights", "precision", "version")  # of an extractor: other values, other features


@dataclass(frozen=True)
class Source:
    """What features are, or would be, made from: for their manifest, and to notice that an entry is stale.

    Attributes:
        components: Of the key, in clear.
        dataset: ``name``, ``class`` and ``root``, as far as they are known.
        fingerprint: Of the dataset's data.
        extractor: Who makes the features; empty where only its suffix is known.
        row_order: ``dataset``, ``loader`` or ``unknown``.
    """

    components: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    extractor: Mapping[str, Any] = field(default_factory=dict)
    row_order: str = UNKNOWN_ORDER

    def to_manifest(self) -> dict[str, Any]:
        """Its part of a manifest."""
        return {
            "components": dict(self.components),
            "dataset": {**self.dataset, "fingerprint": self.fingerprint.to_json()},
            "extractor": dict(self.extractor),
        }


def read(path: Path, key: str) -> dict[str, Any]:
    """The manifest in a file; empty where there is no file.

    Raises:
        DamagedEntryError: It is no manifest, or that of another key.
        StoreError: It was written by a newer version of this program, or cannot be read.
    """
    try:
        return parse(read_regular(path), key, str(path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error


def parse(blob: bytes, key: str, where: str) -> dict[str, Any]:
    """The manifest in some bytes.

    Raises:
        DamagedEntryError: It is no manifest, or that of another key.
        StoreError: It was written by a newer version of this program.
    """
    try:
        data = bounded.json_value(blob)
    except ValueError as error:
        raise DamagedEntryError(f"{where} is no manifest: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("format"), int):
        raise DamagedEntryError(f"{where} is no manifest: expected a JSON object with a format")
    if data["format"] > FORMAT:
        raise StoreError(
            f"{where} was written by a newer simet-cache ({data.get('written_by')}); update this one, or use another"
            " cache_dir"
        )
    if data.get("key") != key:
        raise DamagedEntryError(f"{where} is the manifest of another key, {data.get('key')!r}")
    return data


def describes(entry: Mapping[str, Any], status: os.stat_result) -> bool:
    """Whether a manifest is about a file as it is."""
    file = entry.get("file")
    return isinstance(file, dict) and (file.get("bytes"), file.get("mtime_ns")) == (status.st_size, status.st_mtime_ns)


def stale_because(entry: Mapping[str, Any], source: Source, listing: Path) -> str:
    """Why features with this manifest are not those of a source; an empty string where nothing speaks against them.

    Args:
        entry: The manifest.
        source: What the features would be made from now.
        listing: The file with the list of files that they were made from; it is read only to name what differs.
    """
    return "; ".join(filter(None, (_other_data(entry, source, listing), _other_extractor(entry, source))))


def _other_data(entry: Mapping[str, Any], source: Source, listing: Path) -> str:
    before = mapping(entry.get("dataset"))
    same = Fingerprint.from_json(before.get("fingerprint")).same_as(source.fingerprint)
    was, now = before.get("class"), source.dataset.get("class")
    if same is None and was and now and was != now:
        return f"they were made from {was}, and this is {now}"
    if before and not entry.get("adopted") and before.get("chosen") != source.dataset.get("chosen"):
        return "they are of other items of the dataset: the loaders' samplers choose differently"
    if same is not False:
        return ""
    try:
        found = differences(read_regular(listing, most=LARGEST), source.fingerprint.listing)
    except (OSError, DamagedEntryError):
        found = []
    return f"the images have changed since ({', '.join(found)})" if found else "they were made from other images"


def _other_extractor(entry: Mapping[str, Any], source: Source) -> str:
    before = mapping(entry.get("extractor"))
    for name in IDENTITY:
        if name in before and name in source.extractor and before[name] != source.extractor[name]:
            return (
                f"they were made with an extractor of {name} {before[name]!r}, and this is {source.extractor[name]!r}"
            )
    return ""


def mapping(value: Any) -> Mapping[str, Any]:
    """A value of a manifest that should be an object; an empty one where it is not."""
    return value if isinstance(value, dict) else {}
