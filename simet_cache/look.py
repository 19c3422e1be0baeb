"""What there is under a key: a hit, a miss, a stale entry or a damaged one. Looking changes nothing."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from simet_cache import codec, locks, manifest
from simet_cache.atomic import iso, open_regular, reported
from simet_cache.errors import DamagedEntryError, FeaturesError, StoreError
from simet_cache.featureset import FeatureSet, check_features
from simet_cache.manifest import UNKNOWN_ORDER, Source


@dataclass(frozen=True)
class Look:
    """What a look at an entry shows.

    Attributes:
        status: ``hit``, ``miss``, ``stale`` or ``damaged``.
        reason: Why it is no hit, as a sentence without its full stop.
        features: The entry's; None where it is missing or damaged.
        entry: Its manifest; where the one on disk is not about this file, what a new one has to say.
        described: Whether that is on disk.
        seen: What ``stat`` said of the file.
    """

    status: Literal["hit", "miss", "stale", "damaged"]
    reason: str = ""
    features: FeatureSet | None = None
    entry: Mapping[str, Any] = field(default_factory=dict)
    described: bool = True
    seen: os.stat_result | None = None


def look(path: Path, *, rows: int | None = None, source: Source | None = None, full: bool = False) -> Look:
    """What there is in a file of the cache.

    Args:
        path: ``cache_dir/<md5>.pkl``.
        rows: How many rows are expected; None takes any number.
        source: What the features would be made from now; None takes any.
        full: Check every byte of the content, and not only size, header and shape.

    Raises:
        UnsafePickleError: The file would run code.
        StoreError: The file cannot be read, or was written by a newer version of this program.
    """
    status: os.stat_result | None = None
    with reported("cannot read", path):
        try:
            status, entry = _on_disk(path)
            if isinstance(entry, DamagedEntryError):
                raise entry
            known = manifest.describes(entry, status)
            found = entry if known else _read(path, status, entry)
            features = FeatureSet.from_manifest(path, found)
            if known:
                _check(path, features, aligned=bool(entry["file"].get("aligned")), full=full)
        except FileNotFoundError:
            return Look("miss", "nothing is stored under this key")
        except DamagedEntryError as error:
            return Look("damaged", str(error), seen=status)
    reason = ""
    if rows is not None and features.shape[0] != rows:
        reason = f"{path} has {features.shape[0]} rows where {rows} are expected"
    elif source and (why := manifest.stale_because(found, source, path.with_suffix(".files"))):
        reason = f"the features in {path} are stale: {why}"
    return Look("stale" if reason else "hit", reason, features, found, known, status)


def facts(features: Any, digest: str, row_order: str, status: os.stat_result, *, aligned: bool) -> dict[str, Any]:
    """What a manifest says about the file, whoever made the features.

    Args:
        features: The array.
        digest: Of its content.
        row_order: What row i is.
        status: Of the file that it was written to, or read from.
        aligned: Whether that file can be mapped.
    """
    return {
        "features": {
            "shape": list(features.shape),
            "dtype": str(features.dtype.newbyteorder("=")),
            "digest": digest,
            "row_order": row_order,
        },
        "file": {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "aligned": aligned},
    }


def _on_disk(path: Path) -> tuple[os.stat_result, dict[str, Any] | DamagedEntryError]:
    """The file's status, and the manifest that describes it; else that of another file, nothing, or what is wrong."""
    said = path.with_suffix(".json")
    with suppress(DamagedEntryError):  # it is looked at again below
        status, entry = path.stat(), manifest.read(said, path.stem)
        if manifest.describes(entry, status):
            return status, entry
    with locks.unchanging(path.parent):  # features and manifest may just have been put in place, one after the other
        status = path.stat()
        pending = _pending(path)
        if manifest.describes(pending, status):
            return status, pending
        try:
            return status, manifest.read(said, path.stem)
        except DamagedEntryError as error:
            return status, error


def _pending(path: Path) -> dict[str, Any]:
    """The manifest of a writer that was killed just before it could put it in place."""
    try:
        return manifest.read(path.with_suffix(".next.json"), path.stem)
    except StoreError:
        return {}


def _check(path: Path, features: FeatureSet, *, aligned: bool, full: bool) -> None:
    """The header agrees with the manifest; on demand, so does the content.

    Raises:
        DamagedEntryError: It does not.
    """
    layout = codec.inspect(path)
    if layout is None:
        agrees = not aligned and _may_be_a_pickle(path)
    else:
        agrees = aligned and (layout.shape, str(layout.dtype)) == (features.shape, features.dtype)
    if not agrees:
        raise DamagedEntryError(f"the header of {path} is not the one that its manifest describes")
    if full and codec.verify(path) != features.digest:
        raise DamagedEntryError(f"{path} does not hold what its manifest says: bits have changed")


def _may_be_a_pickle(path: Path) -> bool:
    """Whether a file begins and ends like a pickle of an array: protocols 0 and 1 begin with the name of a function."""
    with open_regular(path) as file:
        first = file.read(1)
        file.seek(-1, os.SEEK_END)
        return first in (pickle.PROTO, pickle.GLOBAL) and file.read(1) == pickle.STOP


def _read(path: Path, status: os.stat_result, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a file that has none: of another program, or copied without its times."""
    features = codec.open_mapped(path)
    try:
        check_features(features)
    except FeaturesError as error:
        raise DamagedEntryError(f"{path}: {error}") from error
    aligned = codec.inspect(path) is not None
    found = facts(features, codec.digest(features), UNKNOWN_ORDER, status, aligned=aligned)
    for before in (entry, _pending(path)):
        features_before = before.get("features")
        if isinstance(features_before, dict) and features_before.get("digest") == found["features"]["digest"]:
            return {**before, "file": found["file"]}
    if entry and aligned:  # only this program writes such files, and it says what is in them
        raise DamagedEntryError(f"{path} does not hold what its manifest says")
    said = {"adopted": True, "dataset": {"fingerprint": "unknown"}, "created_at": iso(status.st_mtime)}
    return {"format": manifest.FORMAT, "key": path.stem, **said, **found}
