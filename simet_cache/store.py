"""FeatureStore: ``<md5>.pkl`` and its manifest. The one authority on whether features exist.

On disk::

    cache_dir/<md5>.pkl          the features: a plain pickle of one array
    cache_dir/<md5>.json         the manifest: what they are, where they come from, how long they took
    cache_dir/locks/<md5>.lock   held by the kernel while one process computes; never needs removing
    cache_dir/quarantine/        damaged files, moved out of the way and kept

Neither torch nor Prefect is imported here.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout

from simet_cache import codec
from simet_cache.codec import FloatArray
from simet_cache.errors import DamagedEntryError, FeaturesError, StoreError

MANIFEST_FORMAT = 1
_KEY = re.compile(r"[0-9a-f]{32}")
_PATIENCE = 5.0  # seconds to wait for another process before saying so

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureSet:
    """A small handle on stored features: what tasks hand each other instead of the matrix.

    Attributes:
        key: The documented md5.
        path: The ``.pkl`` file.
        shape: (N, D).
        dtype: NumPy's name of the dtype, like ``float32``.
        digest: The xxh3-128 of the content: equal digests, equal features.
    """

    key: str
    path: str
    shape: tuple[int, int]
    dtype: str
    digest: str

    def load(self) -> FloatArray:
        """Read the features, shape (N, D), as an array of their own.

        Raises:
            DamagedEntryError: The file no longer holds what this handle describes.
            OSError: The file is gone.
        """
        features = codec.read(Path(self.path))
        if codec.digest(features) != self.digest:
            raise DamagedEntryError(f"{self.path} no longer holds the features it held (digest {self.digest})")
        return features

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FeatureSet:
        """The reverse of ``to_json``."""
        rows, width = data["shape"]
        return cls(**{**data, "shape": (int(rows), int(width))})


class FeatureStore:
    """Features under their keys, in one folder.

    Args:
        cache_dir: The folder; created when missing.

    Raises:
        StoreError: The folder cannot be created.
    """

    def __init__(self, cache_dir: str | Path) -> None:
        self.cache_dir = Path(cache_dir).expanduser().absolute()
        with reported(f"cannot create the cache folder {self.cache_dir}"):
            self.cache_dir.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """Where the features of a key are, or would be."""
        if not _KEY.fullmatch(key):
            raise StoreError(f"{key!r} is no feature key: expected 32 hexadecimal digits")
        return self.cache_dir / f"{key}.pkl"

    def manifest(self, key: str) -> dict[str, Any]:
        """What is known about an entry; empty where nothing is."""
        try:
            data = json.loads(self.path(key).with_suffix(".json").read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        known = isinstance(data, dict) and data.get("format") == MANIFEST_FORMAT and data.get("key") == key
        return data if known else {}

    def find(self, key: str, *, rows: int | None = None) -> FeatureSet | None:
        """The handle on the features of a key, or None where there are none to be used.

        An entry without a manifest, or one that was overwritten since by another program, is read and described anew.

        Args:
            key: The documented md5.
            rows: How many rows are expected; other entries do not count. None takes any number.

        Raises:
            UnsafePickleError: The file would run code. It is left where it is.
            StoreError: The file cannot be read.
        """
        path = self.path(key)
        with reported(f"cannot read {path}"):
            try:
                status = path.stat()
                found = self._described(key, path, status) or self._adopt(key, path, status)
            except FileNotFoundError:
                return None
            except DamagedEntryError as error:
                self.quarantine(key, str(error), seen=status)
                return None
        if rows is not None and found.shape[0] != rows:
            log.warning("%s has %d rows where %d are expected; it counts as missing", path, found.shape[0], rows)
            return None
        return found

    def put(self, key: str, features: FloatArray, **details: Any) -> FeatureSet:
        """Store features atomically: readers see the old entry or the new one, never half.

        Args:
            key: The documented md5.
            features: Shape (N, D), float16, float32 or float64, finite.
            details: What else the manifest shall say, as JSON values.

        Raises:
            FeaturesError: These are no such features; nothing is written.
            StoreError: The file cannot be written; an older entry is untouched.
        """
        check_features(features)
        features = np.asarray(features)
        path = self.path(key)
        with reported(f"cannot write {path}"):
            status = write_atomically(path, lambda file: codec.write(features, file))
        return self._record(key, path, status, features, details)

    def quarantine(self, key: str, reason: str, *, seen: os.stat_result | None = None) -> None:
        """Move a damaged entry out of the way, with a warning. It is kept: someone may want to know what happened.

        Args:
            key: The documented md5.
            reason: What is wrong with it.
            seen: What ``stat`` said before it was read: what others have put in its place since is left alone.

        Raises:
            StoreError: The file cannot be moved.
        """
        path = self.path(key)
        folder = self.cache_dir / "quarantine"
        target = folder / f"{path.stem}.{time.time_ns()}{path.suffix}"
        with reported(f"cannot move the damaged {path} to {folder}"):
            folder.mkdir(exist_ok=True)
            try:
                if seen is not None and _version(path.stat()) != _version(seen):
                    return
                path.replace(target)
            except FileNotFoundError:  # another process was first
                return
        log.warning("%s; moved to %s, and counts as missing", reason, target)

    def get_or_compute(
        self,
        key: str,
        compute: Callable[[], FloatArray],
        *,
        rows: int | None = None,
        force: bool = False,
        details: Callable[[], Mapping[str, Any]] = dict,
    ) -> FeatureSet:
        """The handle on the features of a key, computed and stored where they are missing.

        Of several threads and processes that want the same key, one computes; the others wait and then find it.

        Args:
            key: The documented md5.
            compute: Makes the features, shape (N, D).
            rows: How many rows they must have; None takes any number.
            force: Compute and overwrite even where features exist.
            details: Called after ``compute``: what else the manifest shall say, as JSON values.

        Raises:
            FeaturesError: ``compute`` returned something else; nothing is stored.
            StoreError: The features cannot be stored. An older entry is untouched.
        """
        found = None if force else self.find(key, rows=rows)
        if found is None:
            with self.lock(key):
                found = None if force else self.find(key, rows=rows)
                if found is None:
                    log.info("Cache miss: computing features for key %s", key)
                    return self._compute(key, compute, rows, details)
        log.info("Cache hit: features for key %s", key)
        return found

    def _compute(
        self,
        key: str,
        compute: Callable[[], FloatArray],
        rows: int | None,
        details: Callable[[], Mapping[str, Any]],
    ) -> FeatureSet:
        started = time.perf_counter()
        features = compute()
        seconds = time.perf_counter() - started
        check_features(features, rows=rows)
        return self.put(key, features, seconds=round(seconds, 3), **details())

    def _described(self, key: str, path: Path, status: os.stat_result) -> FeatureSet | None:
        """From the manifest alone, while the file is the one that it describes."""
        entry = self.manifest(key)
        if entry.get("file") != {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}:
            return None
        try:
            found = FeatureSet.from_json({**entry["features"], "key": key, "path": str(path)})
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        return found if isinstance(found.dtype, str) and isinstance(found.digest, str) else None

    def _adopt(self, key: str, path: Path, status: os.stat_result) -> FeatureSet:
        features = codec.read(path)
        try:
            check_features(features)
        except FeaturesError as error:
            raise DamagedEntryError(f"{path}: {error}") from error
        known = self.manifest(key)
        before = known.get("features")
        if isinstance(before, dict) and before.get("digest") == codec.digest(features):  # merely copied
            return self._record(key, path, status, features, known)
        if known:
            log.warning("%s holds other features than its manifest says; it is taken as it is now", path)
        log.info("Adopting %s, which has no manifest of its own", path)
        return self._record(key, path, status, features, {"adopted": True})

    def _record(
        self, key: str, path: Path, status: os.stat_result, features: FloatArray, details: Mapping[str, Any]
    ) -> FeatureSet:
        rows, width = features.shape
        found = FeatureSet(key, str(path), (rows, width), str(features.dtype), codec.digest(features))
        entry = {
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "written_by": _program(),
            **details,
            "format": MANIFEST_FORMAT,
            "key": key,
            "features": {name: value for name, value in found.to_json().items() if name not in {"key", "path"}},
            "file": {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns},
        }
        try:
            write_atomically(path.with_suffix(".json"), lambda file: file.write(json.dumps(entry, indent=1).encode()))
        except OSError as error:  # the features are there; without a manifest they are described anew next time
            log.warning("cannot write the manifest of %s: %s", path, error)
        return found

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Keep other threads and processes from computing the same key meanwhile.

        The lock is the kernel's, so that a killed holder frees it at once.
        """
        file = self.cache_dir / "locks" / f"{self.path(key).stem}.lock"
        with reported(f"cannot lock {file}"):
            file.parent.mkdir(exist_ok=True)
            lock = FileLock(file)
            try:
                lock.acquire(timeout=_PATIENCE)
            except Timeout:
                log.info("Waiting for another process that computes features for key %s", key)
                lock.acquire()
        try:
            yield
        finally:
            lock.release()


def check_features(value: object, *, rows: int | None = None) -> None:
    """Make sure that a value is a feature matrix.

    Args:
        value: What somebody's function returned.
        rows: How many rows are expected; None takes any number above zero.

    Raises:
        FeaturesError: It is no 2-D float array, has other rows, no columns, or values that are not finite.
    """
    if isinstance(value, np.memmap):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        hint = "; call .cpu().numpy() on a tensor" if hasattr(value, "numpy") else ""
        raise FeaturesError(f"expected a 2-D NumPy float array of features, found {codec.describe(value)}{hint}")
    if not codec.is_feature_array(value):
        raise FeaturesError(f"expected a 2-D array of dtype float16, float32 or float64, found {codec.describe(value)}")
    if rows is not None and value.shape[0] != rows:
        raise FeaturesError(f"expected {rows} rows, one for each item of the loader, found {value.shape[0]}")
    if 0 in value.shape:
        raise FeaturesError(f"expected at least one row and one column of features, found shape {value.shape}")
    finite = np.isfinite(value).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise FeaturesError(
            f"expected finite features, found NaN or infinity in {bad.size} of {value.shape[0]} rows,"
            f" first in row {bad[0]}"
        )


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> os.stat_result:
    """Temporary file in the same folder, fsync, rename, fsync of the folder.

    Returns:
        The status of what was written, whoever may have replaced it since.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            status = os.fstat(file.fileno())
        Path(name).chmod(0o666 & ~_UMASK)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return status


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read_umask() -> int:
    """The umask can only be read by setting it: once, at import, before there are threads."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_UMASK = _read_umask()


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Trouble with the file system as one sentence."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{what}: {error.strerror or error}") from error


def _program() -> str:
    try:
        return f"simet-cache {version('simet-cache')}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "simet-cache"
