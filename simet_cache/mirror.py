"""The remote tier: what is missing here is looked for there, and what is new here is put there too.

A remote that is down or refuses is a warning, and never more: everything goes on here. What could not be put there is
noted under ``cache_dir/pending/``, before it is tried, and put there by the next run that can.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simet_cache import codec, folders, locks, manifest
from simet_cache.atomic import Staged, read_regular, reported
from simet_cache.atomic import size as as_text
from simet_cache.errors import DamagedEntryError, FeaturesError, RemoteError, StoreError, UnsafePickleError
from simet_cache.featureset import FeatureSet, check_features
from simet_cache.listing import LARGEST
from simet_cache.look import facts
from simet_cache.manifest import Source
from simet_cache.remote import Remote

if TYPE_CHECKING:
    from simet_cache.store import FeatureStore

_PENDING = "pending"
_KEY = re.compile("[0-9a-f]{32}")
_LONGEST_NAME = 1 << 14  # bytes of a URL

log = logging.getLogger(__name__)


@cache  # one for all stores of a process: when it is down, they all leave it alone
def remote_at(url: str) -> Remote:
    """The remote behind a URL.

    Raises:
        ConfigError: It is no such URL, or a package is missing.
    """
    return Remote(url)


def fetch(store: FeatureStore, key: str, *, url: str, rows: int | None, source: Source | None) -> bool:
    """Bring an entry here, if the remote has one that fits.

    Nothing there is trusted: the pickle is read without running anything, and its digest must be that of the manifest.

    Returns:
        Whether it is here now.
    """
    remote = remote_at(url)
    with _warned(remote, key):
        entry = _entry(remote, key)
        if entry is None:
            return False
        handle = FeatureSet.from_manifest(store.path(key), entry)
        why = manifest.stale_because(entry, source, store.path(key).with_suffix(".files")) if source else ""
        if why or rows not in (None, handle.shape[0]):
            log.info("%s has features for key %s that do not count: %s", remote.name, key, why or "other rows")
            return False

        size = _size(entry, handle, store.cache_dir)

        def write(new: Staged) -> Mapping[str, Any]:
            remote.download(f"{key}.pkl", new.file, limit=size)
            status = new.finish()
            features = _checked(new.path, handle, remote)
            aligned = codec.inspect(new.path) is not None
            return {**entry, **facts(features, handle.digest, handle.row_order, status, aligned=aligned)}

        listing = remote.read(f"{key}.files", limit=LARGEST) or b""
        store.place(key, write, listing=listing, needed=size)
        log.info("Fetched features for key %s from %s", key, remote.name)
        return True
    return False


def note(store: FeatureStore, key: str, *, url: str) -> None:
    """An entry is about to be stored here that is to be put there."""
    with suppress(OSError), folders.opened(store.cache_dir, _PENDING, make=True) as pending:
        folders.overwrite(pending, key, remote_at(url).name.encode())


def push(store: FeatureStore, key: str, *, url: str) -> bool:
    """Put an entry there: features, list of files, and last the manifest, without which nobody looks at the others.

    Returns:
        Whether it is there now.
    """
    remote = remote_at(url)
    with _warned(remote, key):
        if store.look(key).status == "hit":
            for suffix in (".pkl", ".files", ".json"):
                path = store.path(key).with_suffix(suffix)
                if path.exists():
                    remote.upload(path, path.name)
        folders.remove(store.cache_dir, store.cache_dir / _PENDING / key)
        return True
    return False


def forget(key: str, *, url: str) -> None:
    """Remove an entry there: first the manifest, without which nobody looks at the others."""
    remote = remote_at(url)
    with _warned(remote, key):
        for suffix in (".json", ".files", ".pkl"):
            remote.remove(f"{key}{suffix}")


def catch_up(store: FeatureStore, *, url: str) -> None:
    """Put there what earlier runs could not; what is being made at this moment is left to who makes it."""
    name = remote_at(url).name.encode()
    with reported("cannot list what is still to be put to the remote, in", store.cache_dir / _PENDING):
        pending = folders.files_in(store.cache_dir, _PENDING, named=_KEY.fullmatch)
    for key, _ in pending:
        with suppress(OSError, StoreError):
            if _noted(store, key) != name or locks.is_computing(store.cache_dir, key):
                continue
            if not push(store, key, url=url):
                return


def _noted(store: FeatureStore, key: str) -> bytes:
    with folders.opened(store.cache_dir, _PENDING) as pending:
        return read_regular(key, folder=pending, most=_LONGEST_NAME)


def _entry(remote: Remote, key: str) -> dict[str, Any] | None:
    blob = remote.read(f"{key}.json")
    return None if blob is None else manifest.parse(blob, key, f"{key}.json at {remote.name}")


def _size(entry: Mapping[str, Any], handle: FeatureSet, folder: Path) -> int:
    """How many bytes of features are to come, as a manifest says it.

    Raises:
        DamagedEntryError: No such features take so many.
        StoreError: There is no room for them.
    """
    size = manifest.mapping(entry.get("file")).get("bytes")
    most = codec.most_bytes(handle.shape, handle.dtype)
    if type(size) is not int or not 0 < size <= most:
        raise DamagedEntryError(f"{handle.key}.json: expected at most {most} bytes of features, found {str(size)[:40]}")
    with suppress(OSError):
        free = shutil.disk_usage(folder).free
        if size > free:
            raise StoreError(f"cannot fetch {handle.key}.pkl: {as_text(size)} are needed, {as_text(free)} are free")
    return size


def _checked(path: Path, handle: FeatureSet, remote: Remote) -> codec.FloatArray:
    """The features that were fetched.

    Raises:
        DamagedEntryError: They are not those of the manifest.
        UnsafePickleError: The file would run code.
    """
    features = codec.open_mapped(path)
    check_features(features)
    if (features.shape, codec.digest(features)) != (handle.shape, handle.digest):
        raise DamagedEntryError(f"{handle.key}.pkl at {remote.name} does not hold what its manifest says")
    return features


@contextmanager
def _warned(remote: Remote, key: str) -> Iterator[None]:
    try:
        yield
    except UnsafePickleError as error:
        log.warning("%s.pkl at %s is not used, and was removed here: %s", key, remote.name, error)
    except (StoreError, FeaturesError, OSError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        if not (isinstance(error, RemoteError) and error.repeated):
            log.warning("%s. It goes on without the remote", error)
