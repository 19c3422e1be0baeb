"""FeatureStore: ``<md5>.pkl`` and its manifest. The one authority on whether features exist.

On disk::

    cache_dir/<md5>.pkl          the features: a plain pickle of one array
    cache_dir/<md5>.json         the manifest: what they are and what they were made from (see ``manifest``)
    cache_dir/<md5>.files        the images that they were made from, so that those which change can be named
    cache_dir/quarantine/        damaged files, moved out of the way and kept
    cache_dir/locks/             see ``locks``

Neither torch nor Prefect is imported here.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from simet_cache import changes, codec, locks, manifest
from simet_cache.atomic import Staged, reported, sweep, version_of
from simet_cache.codec import FloatArray, Layout
from simet_cache.errors import DamagedEntryError, StaleEntryError, StoreError
from simet_cache.featureset import FeatureSet, check_features
from simet_cache.folders import opened, share
from simet_cache.look import Look, facts, look
from simet_cache.manifest import Source
from simet_cache.request import Terms, asked_for, looked_up
from simet_cache.urls import not_a_folder

_KEY = re.compile(r"[0-9a-f]{32}")

log = logging.getLogger(__name__)


class FeatureStore:
    """Features under their keys, in one folder.

    Args:
        cache_dir: The folder; created when missing.
        on_stale: What to do where the data behind a key have changed: ``recompute``, ``error`` or ``reuse``.
        verify: ``quick`` checks size, header and shape of an entry that is found; ``full`` also every byte, once in a
            process: only that sees a flipped bit.
        fingerprint: How tasks tell whether images have changed: by names, sizes and times, or by ``content``.
        remote: A second home of the entries, behind any URL that fsspec knows, like ``s3://bucket/prefix``; see
            ``mirror``.

    Raises:
        StoreError: The folder cannot be created.
        ConfigError: The remote is none.
    """

    def __init__(
        self,
        cache_dir: str | Path,
        *,
        on_stale: Literal["recompute", "error", "reuse"] = "recompute",
        verify: Literal["quick", "full"] = "quick",
        fingerprint: Literal["stat", "content"] = "stat",
        remote: str | None = None,
    ) -> None:
        if isinstance(cache_dir, str) and (refusal := not_a_folder(cache_dir)):
            raise StoreError(f"cache_dir: {refusal}")
        try:
            self.cache_dir = Path(cache_dir).expanduser().absolute()
        except (OSError, RuntimeError) as error:  # the working directory is gone, or nobody's home is known
            raise StoreError(f"cannot tell which folder {str(cache_dir)!r} is: {error}") from error
        self.on_stale = on_stale
        self.verify = verify
        self.fingerprint = fingerprint
        self.remote = remote
        if remote:
            _mirror().remote_at(remote)
        with reported("cannot create the cache folder", self.cache_dir):
            _made(self.cache_dir)

    def path(self, key: str) -> Path:
        """Where the features of a key are, or would be."""
        if not _KEY.fullmatch(key):
            raise StoreError(f"{key!r} is no feature key: expected 32 hexadecimal digits")
        return self.cache_dir / f"{key}.pkl"

    def keys(self) -> list[str]:
        """Of all entries, sorted."""
        with reported("cannot list", self.cache_dir):
            names = os.listdir(self.cache_dir)
        return sorted(name[:-4] for name in names if name.endswith(".pkl") and _KEY.fullmatch(name[:-4]))

    def manifest(self, key: str) -> dict[str, Any]:
        """What is known about an entry; empty where nothing is."""
        try:
            return manifest.read(self.path(key).with_suffix(".json"), key)
        except DamagedEntryError:
            return {}

    def look(self, key: str, *, rows: int | None = None, source: Source | None = None, full: bool = False) -> Look:
        """What there is under a key, changing nothing; see ``look.look``."""
        return look(self.path(key), rows=rows, source=source, full=full)

    def find(self, key: str, *, rows: int | None = None, source: Source | None = None) -> FeatureSet | None:
        """The handle on the features of a key, or None where there are none to be used.

        A damaged entry is moved to quarantine, with a warning; one without a manifest is adopted: read, and described
        as far as possible. Inside a task under ``FeatureCachePolicy`` that asks for the same key, what the call leaves
        open is taken from the task; features that ``refresh_cache`` wants to be made again are not found.

        Args:
            key: The documented md5.
            rows: How many rows are expected; entries with others do not count. None takes any number.
            source: What the features would be made from now: an entry made from something else is stale, and what
                happens then is said by the store's ``on_stale``.

        Raises:
            StaleEntryError: The entry is stale, and ``on_stale`` is ``error``.
            UnsafePickleError: The file would run code. It is left where it is.
            StoreError: The file cannot be read.
        """
        path = self.path(key)
        terms = looked_up(self, key, Terms(rows, source))
        if terms.refuse(path):
            return None
        with reported("cannot read", path):
            return self._find(path, key, terms.rows, terms.source)

    def _find(self, path: Path, key: str, rows: int | None, source: Source | None) -> FeatureSet | None:
        locks.use(self.cache_dir, key)
        seen = self._look(path, rows, source)
        if seen.status == "damaged" and not self.quarantine(key, seen.reason, seen=seen.seen):
            with locks.unchanging(self.cache_dir):  # others have replaced it meanwhile, and might do so again
                seen = self._look(path, rows, source)
        if seen.features is None and self.remote and self._fetch(key, rows, source):
            seen = self._look(path, rows, source)
        if seen.features is None or seen.seen is None:
            return None
        if not seen.described:
            self._describe(path, seen.entry, seen.seen)
        changes.complete(path)
        if seen.status == "stale" and not self._use_stale(seen, rows, source):
            return None
        if source and not source.fingerprint.known and not source.dataset.get("root"):
            kind = source.dataset.get("class")
            _warn_once(
                f"nobody can tell whether {path} was made from this {kind} or from another one of equal length; give it"
                " a root, a list of files, or a suffix of its own",
                seen,
            )
        changes.touch(path)
        return seen.features

    def put(
        self, key: str, features: FloatArray, *, source: Source | None = None, send: bool = True, **details: Any
    ) -> FeatureSet:
        """Store features atomically: readers see the old entry or the new one, never half.

        Args:
            key: The documented md5.
            features: Shape (N, D), float16, float32 or float64, finite.
            source: What they were made from.
            send: Put them to the remote at once; else `send` has to follow.
            details: What else the manifest shall say, as JSON values.

        Raises:
            FeaturesError: These are no such features; nothing is written.
            StoreError: The file cannot be written; an older entry is untouched.
        """
        check_features(features)
        features = np.asarray(features)
        return self._put(key, lambda file: codec.write(features, file), features, source, details, send=send)

    def put_blocks(
        self,
        key: str,
        blocks: Iterable[memoryview],
        *,
        shape: tuple[int, int],
        dtype: str,
        source: Source | None = None,
        **details: Any,
    ) -> FeatureSet:
        """Store features that come in blocks, so that they need not be in memory; else as ``put``.

        Args:
            key: The documented md5.
            blocks: The values as ``codec.blocks_of`` gives them; they are known to be finite.
            shape: (N, D), neither of them zero.
            dtype: float16, float32 or float64.
            source: What they were made from.
            details: What else the manifest shall say, as JSON values.

        Raises:
            FeaturesError: The blocks are too short or too long; nothing is written.
            StoreError: The file cannot be written; an older entry is untouched. Whatever the blocks raise passes.
        """
        features = Layout(shape, np.dtype(dtype), 0)
        return self._put(
            key,
            lambda file: codec.write_blocks(blocks, file, shape=shape, dtype=features.dtype),
            features,
            source,
            details,
        )

    def _put(
        self,
        key: str,
        write_features: Callable[[IO[bytes]], str],
        features: FloatArray | Layout,
        source: Source | None,
        details: Mapping[str, Any],
        *,
        send: bool = True,
    ) -> FeatureSet:
        made_from = source or Source()

        def write(new: Staged) -> dict[str, Any]:
            digest = write_features(new.file)
            return {
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "written_by": program(),
                **made_from.to_manifest(),
                **details,
                "format": manifest.FORMAT,
                "key": key,
                **facts(features, digest, made_from.row_order, new.finish(), aligned=True),
            }

        if self.remote:
            _mirror().note(self, key, url=self.remote)
        found = self.place(key, write, listing=made_from.fingerprint.listing, needed=features.nbytes)
        if send:
            self.send(key)
        return found

    def send(self, key: str) -> None:
        """Put an entry to the remote, and what earlier runs could not."""
        if self.remote:
            _mirror().note(self, key, url=self.remote)  # once more: who came by while it was written took it for gone
            if _mirror().push(self, key, url=self.remote):
                self.catch_up()

    def catch_up(self) -> None:
        """Put to the remote what earlier runs could not."""
        if self.remote:
            _mirror().catch_up(self, url=self.remote)

    def place(
        self, key: str, write: Callable[[Staged], Mapping[str, Any]], *, listing: bytes = b"", needed: int = 0
    ) -> FeatureSet:
        """Put an entry in place that is brought from elsewhere; see ``changes.place``.

        Args:
            key: The documented md5.
            write: Writes the features into a new file, finishes it, and returns their manifest.
            listing: Of the data's fingerprint.
            needed: How many bytes the features take, for the message where there is no room for them.

        Raises:
            StoreError: The files cannot be written; an older entry is untouched.
        """
        path = self.path(key)
        _sweep_once(self.cache_dir)
        with reported("cannot write", path, needed=needed):
            return FeatureSet.from_manifest(path, changes.place(path, write, listing))

    def keep(
        self, key: str, features: FloatArray, *, source: Source | None = None, send: bool = True, **details: Any
    ) -> FeatureSet:
        """Store features as `put` does, or else hold them in memory: what was computed is not lost to a full disk.

        Returns:
            The handle. Where the features cannot be stored it carries them, and an error in the log says why.

        Raises:
            FeaturesError: These are no features.
        """
        try:
            return self.put(key, features, source=source, send=send, **details)
        except StoreError as error:
            sentence = f"{error}. The features are used in this run, and the next one has to make them again"
            log.error("%s", sentence)  # noqa: TRY400 - a sentence for a person
            return FeatureSet(
                key,
                str(self.path(key)),
                (features.shape[0], features.shape[1]),
                str(features.dtype),
                codec.digest(features),
                (source or Source()).row_order,
                unsaved=np.ascontiguousarray(features),
            )

    def get_or_compute(
        self,
        key: str,
        compute: Callable[[], FloatArray],
        *,
        rows: int | None = None,
        force: bool = False,
        source: Source | None = None,
        details: Callable[[], Mapping[str, Any]] = dict,
    ) -> FeatureSet:
        """The handle on the features of a key, computed and stored where they are missing.

        Of several threads and processes that want the same key, one computes; the others wait and then find it. Where
        the features cannot be stored, they are returned all the same: see ``keep``.

        Inside a task under ``FeatureCachePolicy``, what the call leaves open is taken from the task: which rows, what
        the features are made from, and whether they are to be made again (see ``request``).

        Args:
            key: The documented md5.
            compute: Makes the features, shape (N, D).
            rows: How many rows they must have; None takes any number.
            force: Compute and overwrite even where features exist.
            source: What they are made from.
            details: Called after ``compute``: what else the manifest shall say, as JSON values.

        Raises:
            FeaturesError: ``compute`` returned something else; nothing is stored.
            StaleEntryError: There is a stale entry, and ``on_stale`` is ``error``.
            StoreError: An entry cannot be read.
            KeyInputError: The running task keeps this key in another folder; or it is about another key, and the call
                does not say what the features of this one are made from.
        """
        terms = asked_for(self, key, Terms(rows, source, force))
        rows, source, force = terms.rows, terms.source, terms.force
        found = None if force else self.find(key, rows=rows, source=source)
        if found is None:
            with self.lock(key):
                found = None if force else self.find(key, rows=rows, source=source)
                if found is None:
                    log.info("Cache miss: computing features for key %s", key)
                    started = time.perf_counter()
                    features = compute()
                    seconds = round(time.perf_counter() - started, 3)
                    check_features(features, rows=rows)
                    return self.keep(key, features, source=source, **{"seconds": seconds, **details()})
        log.info("Cache hit: features for key %s", key)
        return found

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Keep other threads and processes from computing the same key meanwhile; see ``locks.computing``."""
        return locks.computing(self.cache_dir, self.path(key).stem)

    def say_source(self, key: str, source: Source) -> None:
        """Say what an entry was made from, where its manifest says nothing yet.

        Raises:
            StoreError: The manifest cannot be written.
        """
        path = self.path(key)
        with reported("cannot write the manifest of", path):
            changes.say_source(path, source)

    def quarantine(self, key: str, reason: str, *, seen: os.stat_result | None = None) -> bool:
        """Move a damaged entry out of the way, with a warning. It is kept: someone may want to know what happened.

        Args:
            key: The documented md5.
            reason: What is wrong with it.
            seen: What ``stat`` said before it was read: what others have put in its place since is left alone.

        Returns:
            Whether it was moved.
        """
        folder = self.cache_dir / "quarantine"
        try:
            target = changes.set_aside(self.path(key), folder, seen)
        except OSError as error:
            log.warning("%s; it counts as missing, and cannot be moved to %s: %s", reason, folder, error.strerror)
            return False
        if target is not None:
            log.warning("%s; moved to %s, and counts as missing", reason, target)
        return target is not None

    def quarantine_if_damaged(self, key: str) -> bool:
        """Read an entry to its last byte, and put it aside where it is damaged, and not merely another one by now."""
        seen = self.look(key, full=True)
        return seen.status == "damaged" and self.quarantine(key, seen.reason, seen=seen.seen)

    def remove(self, key: str) -> int:
        """Remove an entry that nobody uses.

        Returns:
            How many bytes that freed; 0 where it is in use, or being computed, or not there.

        Raises:
            StoreError: It cannot be removed.
        """
        path = self.path(key)
        with reported("cannot remove", path):
            return changes.remove(path)

    def drop_shard(self, key: str, *, shard_of: str) -> int:
        """Remove a shard whose features are in the whole by now, here and at the remote.

        Processes that live have used it: they made it. But an entry that was there before is no shard, and stays.

        Args:
            key: Of the shard.
            shard_of: The key of the whole that it was made for, as its manifest says.

        Returns:
            How many bytes that freed; 0 where it is no shard of that whole, or being computed, or not there.

        Raises:
            StoreError: It cannot be removed.
        """
        path = self.path(key)
        with reported("cannot remove", path):
            freed = changes.remove(path, shard_of=shard_of)
        if freed and self.remote:
            _mirror().forget(key, url=self.remote)
        return freed

    def forget_notes(self, key: str) -> None:
        """Remove what is noted about a key under which there are no features."""
        path = self.path(key)
        with reported("cannot remove what is noted about", path):
            changes.forget_notes(path)

    def files(self, key: str) -> list[Path]:
        """Every file of an entry that is there, the features first."""
        return changes.files(self.path(key))

    def _fetch(self, key: str, rows: int | None, source: Source | None) -> bool:
        return bool(_mirror().fetch(self, key, url=self.remote, rows=rows, source=source))

    def _look(self, path: Path, rows: int | None, source: Source | None) -> Look:
        """With ``verify: full``, every byte, but once in a process."""
        seen = look(path, rows=rows, source=source)
        if self.verify == "full" and seen.features and seen.seen:
            version = (path, version_of(seen.seen))
            if version not in _VERIFIED:
                seen = look(path, rows=rows, source=source, full=True)
            if seen.features:
                _VERIFIED.add(version)
        return seen

    def _describe(self, path: Path, entry: Mapping[str, Any], seen: os.stat_result) -> None:
        if entry.get("adopted"):
            log.warning(
                "Adopting %s, which was not written by simet-cache: nobody knows which images its features were made"
                " from, nor the order of their rows",
                path,
            )
        try:
            changes.describe(path, entry, seen)
        except OSError as error:  # it is described anew next time
            log.warning("cannot write the manifest of %s: %s", path, error)

    def _use_stale(self, seen: Look, rows: int | None, source: Source | None) -> bool:
        if seen.features and rows not in (None, seen.features.shape[0]):
            _warn_once(f"{seen.reason}; it counts as missing", seen)
            return False
        if self.on_stale == "error":
            raise StaleEntryError(f"{seen.reason}. Make them again with on_stale: recompute, or keep them with reuse")
        if self.on_stale == "reuse":
            _warn_once(f"{seen.reason}; they are used all the same, as on_stale: reuse says", seen)
            return True
        named = source and source.dataset.get("name")  # as in our flows, where suffixes tell datasets apart
        advice = ". If these are two datasets, give each a suffix of its own, or they replace each other every time"
        _warn_once(f"{seen.reason}; they are made again{'' if named else advice}", seen)
        return False


_VERIFIED: set[Any] = set()
_SAID: set[Any] = set()
_SWEPT: set[Path] = set()


def _mirror() -> Any:
    """Most caches have no remote, and fsspec takes time to import."""
    from simet_cache import mirror  # noqa: PLC0415

    return mirror


def _warn_once(sentence: str, seen: Look) -> None:
    """One run asks for an entry several times."""
    about = (sentence, seen.seen and version_of(seen.seen))
    if about not in _SAID:
        _SAID.add(about)
        log.warning("%s", sentence)


def _made(folder: Path) -> None:
    """Make a folder and those above it; what is made in a folder that users share is theirs too."""
    if folder.is_dir():
        return
    _made(folder.parent)
    folder.mkdir(exist_ok=True)
    with suppress(OSError), opened(folder.parent) as above, opened(folder) as made:
        share(made, above)


def _sweep_once(folder: Path) -> None:
    """What dead writers left behind."""
    if folder not in _SWEPT:
        _SWEPT.add(folder)
        with suppress(OSError):
            sweep(folder)


def program() -> str:
    """This program and its version, as manifests name it."""
    try:
        return f"simet-cache {version('simet-cache')}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "simet-cache"
