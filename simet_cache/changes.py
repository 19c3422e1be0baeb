"""Every change of an entry on the disk, each under the one lock that keeps others out for that moment."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from simet_cache import bounded, folders, locks, manifest
from simet_cache.atomic import Staged, open_regular, staged, sync_folder, version_of
from simet_cache.errors import DamagedEntryError, StoreError
from simet_cache.manifest import Source

VALUES = "prefect/values"
_VALUE = re.compile(r"[0-9a-f]{16}\.(record|result)")
_REST = re.compile(rb'\{\s*"rest": "([0-9a-f]{32})"')
_NOT_THERE = (FileNotFoundError, NotADirectoryError)
_NOT_OURS = (*_NOT_THERE, PermissionError, folders.LinkedFolderError)
_TOUCHED = 60.0  # seconds: how exactly it is known when an entry was last used

log = logging.getLogger(__name__)


def place(path: Path, write: Callable[[Staged], Mapping[str, Any]], listing: bytes) -> Mapping[str, Any]:
    """Put an entry in place: features, manifest, and the list of files that they were made from.

    At every moment one of two manifests, ``.json`` or ``.next.json``, describes the features that are there.

    Args:
        path: ``cache_dir/<md5>.pkl``.
        write: Writes the features into a new file, finishes it, and returns their manifest.
        listing: Of the data's fingerprint.

    Returns:
        The manifest.

    Raises:
        OSError: It cannot be written; an older entry is untouched.
    """
    with (
        staged(path) as new,
        staged(path.with_suffix(".next.json")) as said,
        staged(path.with_suffix(".files")) as files,
    ):
        entry = write(new)
        said.file.write(_dumped(entry))
        said.finish()
        files.file.write(listing)
        files.finish()
        with locks.changing(path.parent):
            _complete(path)
            said.replace()
            new.replace()
            try:
                files.replace()
                os.replace(path.with_suffix(".next.json"), path.with_suffix(".json"))
            except OSError as error:
                log.warning("cannot write the manifest of %s: %s", path, error)
        sync_folder(path.parent)
    return entry


def complete(path: Path) -> None:
    """Put a manifest in place whose writer was killed just before it did so."""
    with suppress(OSError):  # whoever looks for the entry finds it there as well
        if path.with_suffix(".next.json").exists():
            with locks.changing(path.parent):
                _complete(path)


def _complete(path: Path) -> None:
    pending = path.with_suffix(".next.json")
    with suppress(FileNotFoundError, StoreError):
        if manifest.describes(manifest.read(pending, path.stem), path.stat()):
            os.replace(pending, path.with_suffix(".json"))


def describe(path: Path, entry: Mapping[str, Any], seen: os.stat_result) -> bool:
    """Write a manifest for features that are there; that is no use of them.

    Args:
        path: ``cache_dir/<md5>.pkl``.
        entry: The manifest.
        seen: What ``stat`` said of the features: others that took their place since are left alone.

    Returns:
        Whether it was written.

    Raises:
        OSError: It cannot be.
    """
    target = path.with_suffix(".json")
    with staged(target) as said:
        said.file.write(_dumped(entry))
        said.finish()
        with locks.changing(path.parent):
            status = path.stat()
            if version_of(status) != version_of(seen):
                return False
            used = target.stat() if target.is_file() else status
            said.replace()
            os.utime(target, ns=(used.st_atime_ns, used.st_mtime_ns), follow_symlinks=False)
    return True


def say_source(path: Path, source: Source) -> None:
    """Say what features were made from, where their manifest says nothing yet."""
    with locks.changing(path.parent):
        entry = manifest.read(path.with_suffix(".json"), path.stem)
        unsaid = not entry.get("components") and not entry.get("adopted")
        if not unsaid or not entry.get("features") or not manifest.describes(entry, path.stat()):
            return
        features = {**entry["features"], "row_order": source.row_order}
        with staged(path.with_suffix(".json")) as said, staged(path.with_suffix(".files")) as files:
            said.file.write(_dumped({**entry, **source.to_manifest(), "features": features}))
            said.finish()
            files.file.write(source.fingerprint.listing)
            files.finish()
            files.replace()
            said.replace()


def set_aside(path: Path, folder: Path, seen: os.stat_result | None) -> Path | None:
    """Move features and manifest to another folder.

    Args:
        path: ``cache_dir/<md5>.pkl``.
        folder: Where to: a folder right below the cache folder.
        seen: What ``stat`` said: what others have put in its place since is left alone. None moves whatever is there.

    Returns:
        Where the features are now; None where they were gone, or others.

    Raises:
        OSError: They cannot be moved.
    """
    name = f"{path.stem}.{time.time_ns()}.pkl"
    with (
        locks.changing(path.parent),
        folders.opened(path.parent) as here,
        folders.opened(path.parent, folder.name, make=True) as there,
    ):
        try:
            if seen is not None and version_of(path.stat()) != version_of(seen):
                return None
            os.rename(path.name, name, src_dir_fd=here, dst_dir_fd=there)
        except FileNotFoundError:  # another process was first
            return None
        with suppress(FileNotFoundError):
            manifests = (path.with_suffix(".json").name, Path(name).with_suffix(".json").name)
            os.rename(*manifests, src_dir_fd=here, dst_dir_fd=there)
    return folder / name


def remove(path: Path, *, shard_of: str | None = None) -> int:
    """Remove an entry that nobody uses, or one that is known to be a shard.

    Args:
        path: ``cache_dir/<md5>.pkl``.
        shard_of: The key of the whole: then only what its manifest calls a shard of that is removed, used or not.

    Returns:
        How many bytes that freed; 0 where it is in use, or being computed, or not there.

    Raises:
        OSError: It cannot be removed.
    """
    with locks.changing(path.parent):
        if locks.is_computing(path.parent, path.stem):
            return 0
        if shard_of is not None:
            return _removed(path) if _said(path).get("shard_of") == shard_of else 0
        with locks.unused(path.parent, path.stem) as free:
            return _removed(path) if free else 0


def _removed(path: Path) -> int:
    for whole in noted_about(path) if _said(path).get("skipped") else ():
        _forget_notes(whole)
    # the manifest last: whoever finds it without features knows that they were to go
    ordered = sorted(files(path), key=lambda file: file == path.with_suffix(".json"))
    freed = sum(folders.remove(path.parent, file) for file in ordered)
    forget_values_folder(path.parent, path.stem)
    locks.forget(path.parent, path.stem)
    return freed


def _said(path: Path) -> Mapping[str, Any]:
    _complete(path)
    try:
        return manifest.read(path.with_suffix(".json"), path.stem)
    except StoreError:
        return {}


def forget_notes(path: Path) -> None:
    """Remove what is noted about a key under which there are no features: which images are bad, and Prefect's records.

    Raises:
        OSError: It cannot be removed.
    """
    with locks.changing(path.parent):
        _forget_notes(path)


def _forget_notes(path: Path) -> None:
    if not path.exists() and not locks.is_computing(path.parent, path.stem):
        for file in [path.with_suffix(".skipped.json"), *files(path)]:
            folders.remove(path.parent, file)
        forget_values_folder(path.parent, path.stem)
        locks.forget(path.parent, path.stem)


def noted_about(path: Path) -> list[Path]:
    """Where the features would be of each dataset whose good images those in ``path`` are of."""
    lists = path.parent.glob("*.skipped.json")
    return [one.with_suffix("").with_suffix(".pkl") for one in lists if rest_of(one) == path.stem]


def rest_of(noted: Path) -> str | None:
    """The key of the good images, which a list of bad ones begins with; None where it does not, as in old ones.

    Args:
        noted: ``cache_dir/<md5>.skipped.json``.
    """
    with suppress(OSError, DamagedEntryError), open_regular(noted) as file:
        if found := _REST.match(file.read(64)):
            return found[1].decode()
    return None


def files(path: Path) -> list[Path]:
    """Every file of an entry that is there, the features first; links count, and folders that are links do not."""
    return [file for file, _ in files_with_status(path)]


def files_with_status(path: Path) -> list[tuple[Path, os.stat_result]]:
    """The same with what ``stat`` says of each; of a link, the link's."""
    own = [path.with_suffix(suffix) for suffix in (".pkl", ".json", ".next.json", ".files")]
    found = _there(path.parent, "", own)
    for folder in ("prefect/records", "prefect/results", "pending"):
        found += _there(path.parent, folder, [path.parent / folder / path.stem])
    return found + values(path.parent, path.stem)


def _there(root: Path, folder: str, wanted: list[Path]) -> list[tuple[Path, os.stat_result]]:
    found = []
    # any other trouble is no sign that a file is gone: an entry without its manifest would seem to be of another age
    with suppress(*(_NOT_OURS if folder else _NOT_THERE)), folders.opened(root, folder) as handle:
        for file in wanted:
            with suppress(FileNotFoundError):
                status = os.stat(file.name, dir_fd=handle, follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    found.append((file, status))
    return found


def values(cache_dir: Path, key: str) -> list[tuple[Path, os.stat_result]]:
    """Records and results about one key of tasks that return something else than its FeatureSet, sorted by name.

    What is no file of ours, or behind a link, is left out.
    """
    with suppress(*_NOT_OURS):  # mostly there are none
        found = folders.files_in(cache_dir, f"{VALUES}/{key}", named=_VALUE.fullmatch)
        return [(cache_dir / VALUES / key / name, status) for name, status in found]
    return []


def forget_values_folder(cache_dir: Path, key: str) -> None:
    """Remove the folder of values about a key, if it is empty."""
    with suppress(OSError), folders.opened(cache_dir, VALUES) as folder:
        os.rmdir(key, dir_fd=folder)


def touch(path: Path) -> None:
    """The time of a manifest says when its entry was last used."""
    said = path.with_suffix(".json")
    with suppress(OSError):
        if time.time() - said.lstat().st_mtime > _TOUCHED:
            os.utime(said, follow_symlinks=False)


def _dumped(entry: Mapping[str, Any]) -> bytes:
    """As JSON that can be read again.

    Raises:
        StoreError: It is longer than any manifest that is read.
    """
    blob = json.dumps(entry, indent=1).encode()
    try:
        bounded.check_json(blob)
    except ValueError as error:
        raise StoreError(f"the manifest of key {entry.get('key')} cannot be written: {error}") from error
    return blob
