"""Entries on their way from one cache to another: exported into an archive, imported from one or from a folder.

An archive is an uncompressed tar, since features do not compress, of ``<md5>.pkl``, ``<md5>.json`` and ``<md5>.files``
for each entry. Nothing that arrives is trusted: an archive is read header by header, pickles without running anything,
and what they hold must be what their manifests say.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from simet_cache import codec, manifest
from simet_cache.atomic import Staged, iso, open_regular, read_regular, reported, size, staged, sync_folder, version_of
from simet_cache.bounded import JSON_BYTES
from simet_cache.errors import ConfigError, DamagedEntryError, FeaturesError, StoreError
from simet_cache.featureset import FeatureSet, check_features
from simet_cache.listing import LARGEST
from simet_cache.look import Look, facts
from simet_cache.manifest import DATASET_ORDER, LOADER_ORDER, UNKNOWN_ORDER
from simet_cache.store import FeatureStore

_MEMBER = re.compile(r"([0-9a-f]{32})\.(pkl|json|files)")
_LARGEST = {"pkl": 1 << 50, "json": JSON_BYTES, "files": LARGEST}  # bytes; the last two are read into memory
_BLOCK = 512  # of a tar
_MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Moved:
    """What has become of one entry.

    Attributes:
        key: The documented md5.
        outcome: ``exported``; ``imported``, ``replaced``, ``already there`` or ``kept`` for the one in the cache, which
            is another; or ``refused``.
        reason: Why it was kept or refused.
    """

    key: str
    outcome: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.key} {self.outcome}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class Imported:
    """What has arrived.

    Attributes:
        entries: One for each entry of the source.
        ignored: How many other files there are in the folder.
        problems: What is wrong with the archive as a whole; then nothing of it was imported.
    """

    entries: tuple[Moved, ...]
    ignored: int = 0
    problems: tuple[str, ...] = ()


# Export


def export(store: FeatureStore, keys: Sequence[str], archive: Path, *, force: bool = False) -> list[Moved]:
    """Write entries into an archive, each checked to the last byte. Without a good one, there is no archive.

    Args:
        store: The cache.
        keys: The documented md5s.
        archive: The file; seen whole or not at all.
        force: Replace the file where there is one.

    Raises:
        ConfigError: The file is there already.
        StoreError: It cannot be written.
    """
    with reported("cannot write", archive):
        if archive.exists() and not force:
            raise ConfigError([f"{archive} is there already; choose another name, or replace it with --force"])
        return _export(store, keys, archive)


def _export(store: FeatureStore, keys: Sequence[str], archive: Path) -> list[Moved]:
    with staged(archive) as new:
        with tarfile.open(fileobj=new.file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            moved = [_exported(store, key, tar) for key in dict.fromkeys(keys)]
        if any(one.outcome == "exported" for one in moved):
            new.finish()
            new.replace()
            sync_folder(archive.parent)
    return moved


def _exported(store: FeatureStore, key: str, tar: tarfile.TarFile) -> Moved:
    path = store.path(key)
    try:
        seen = store.look(key, full=True)
    except StoreError as error:
        return Moved(key, "refused", str(error))
    if seen.features is None or seen.seen is None:
        return Moved(key, "refused", seen.reason)
    try:
        features = open_regular(path)
    except (OSError, StoreError) as error:
        return Moved(key, "refused", f"cannot read {path}, which may just be replaced: {error}; export it again")
    with features:
        status = os.fstat(features.fileno())
        if version_of(status) != version_of(seen.seen):
            return Moved(key, "refused", f"{path} was replaced while it was read; export it again")
        listing = _bytes_of(path.with_suffix(".files"))
        _add(tar, f"{key}.pkl", features, status.st_size, status)
        for suffix, content in ((".json", json.dumps(dict(seen.entry), indent=1).encode()), (".files", listing)):
            _add(tar, f"{key}{suffix}", io.BytesIO(content), len(content), status)
    return Moved(key, "exported")


def _add(tar: tarfile.TarFile, name: str, file: IO[bytes], length: int, status: os.stat_result) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = length, int(status.st_mtime)
    tar.addfile(member, file)


def _bytes_of(path: Path) -> bytes:
    try:
        return read_regular(path, most=LARGEST)
    except (OSError, DamagedEntryError):
        return b""


# Import


@dataclass(frozen=True)
class _Arriving:
    """An entry that wants in.

    Attributes:
        key: The documented md5.
        name: What messages call its features.
        entry: Its manifest, or what is said of one that has none.
        digest: What its features have to be.
        row_order: Of the features.
        copy: Writes them into an open file.
        listing: The files that they were made from.
        size: Of the features, in bytes.
    """

    key: str
    name: str
    entry: Mapping[str, Any]
    digest: str
    row_order: str
    copy: Callable[[IO[bytes]], None]
    listing: bytes
    size: int


def import_folder(store: FeatureStore, folder: Path, *, force: bool = False) -> Imported:
    """Adopt the entries of another cache folder, like one of ``simet``, which stays as it is.

    Args:
        store: The cache.
        folder: With ``<md5>.pkl`` files; what their manifests know is kept, where they have any.
        force: Replace entries that are there with other features.

    Raises:
        StoreError: The folder cannot be read.
    """
    with reported("cannot list", folder):
        names = sorted(name for name in os.listdir(folder) if (folder / name).is_file())
    keys = [name[:32] for name in names if (match := _MEMBER.fullmatch(name)) and match[2] == "pkl"]
    ours = sum(bool(_MEMBER.fullmatch(name)) and name[:32] in keys for name in names)
    moved = [_moved(store, key, partial(_from_folder, folder, key), force=force) for key in keys]
    return Imported(tuple(moved), len(names) - ours)


def import_archive(store: FeatureStore, archive: Path, *, force: bool = False) -> Imported:
    """Take in the entries of an archive that ``export`` has written, or none if it has anything else in it.

    Args:
        store: The cache.
        archive: The file.
        force: Replace entries that are there with other features.

    Raises:
        ConfigError: It is no such archive.
        StoreError: It cannot be read.
    """
    with reported("cannot read", archive), archive.open("rb") as file:
        parts, problems = _index(file, archive)
        if problems:
            return Imported((), 0, tuple(problems))
        keys = dict.fromkeys(name[:32] for name in parts)
        moved = [_moved(store, key, partial(_from_archive, file, archive, parts, key), force=force) for key in keys]
        return Imported(tuple(moved))


def _moved(store: FeatureStore, key: str, open_it: Callable[[], _Arriving], *, force: bool) -> Moved:
    try:
        arriving = open_it()
        with store.lock(key), reported("cannot write", store.path(key)):
            there = None if force else _there(store, arriving)
            if there is not None:
                return there
            outcome = "replaced" if store.path(key).exists() else "imported"
            store.place(key, partial(_write, arriving), listing=arriving.listing, needed=arriving.size)
            return Moved(key, outcome)
    except StoreError as error:
        return Moved(key, "refused", str(error))


def _there(store: FeatureStore, arriving: _Arriving) -> Moved | None:
    """What stands in the way, if anything does."""
    try:
        seen = store.look(arriving.key)
    except StoreError as error:
        return Moved(arriving.key, "kept", f"{error}; --force replaces it")
    if seen.status == "miss":
        return None
    if seen.features and seen.features.digest == arriving.digest:
        return Moved(arriving.key, "already there")
    return Moved(arriving.key, "kept", f"{_about(seen)} in the cache is another one; --force replaces it")


def _about(seen: Look) -> str:
    return "a damaged entry" if seen.features is None else "the entry"


def _write(arriving: _Arriving, new: Staged) -> Mapping[str, Any]:
    """Copy the features, and see that they are what they have to be."""
    try:
        arriving.copy(new.file)
        new.file.flush()
        features = codec.open_mapped(new.path)
        check_features(features)
    except StoreError as error:
        raise type(error)(str(error).replace(str(new.path), arriving.name)) from error
    except FeaturesError as error:
        raise DamagedEntryError(f"{arriving.name}: {error}") from error
    if codec.digest(features) != arriving.digest:
        raise DamagedEntryError(f"{arriving.name} does not hold what its manifest says")
    if codec.inspect(new.path) is None:  # another program's pickle, which was read whole; ours can be mapped
        new.file.seek(0)
        new.file.truncate()
        codec.write(features, new.file)
    said = facts(features, arriving.digest, arriving.row_order, new.finish(), aligned=True)
    return {**arriving.entry, "format": manifest.FORMAT, "key": arriving.key, **said}


def _from_folder(folder: Path, key: str) -> _Arriving:
    path = folder / f"{key}.pkl"
    with reported("cannot read", path):
        digest, status = codec.verify(path), path.stat()
        entry, said = _manifest_of(path)
        if said and said.digest != digest and codec.inspect(path):  # only this program writes such files
            raise DamagedEntryError(f"{path} does not hold what its manifest says")
    if said is None or said.digest != digest:
        entry = {"adopted": True, "created_at": iso(status.st_mtime)}
        return _Arriving(key, str(path), entry, digest, UNKNOWN_ORDER, partial(_copy_file, path), b"", status.st_size)
    listing = _bytes_of(path.with_suffix(".files"))
    return _Arriving(key, str(path), entry, digest, _order(said), partial(_copy_file, path), listing, status.st_size)


def _manifest_of(path: Path) -> tuple[dict[str, Any], FeatureSet | None]:
    with suppress(DamagedEntryError):
        entry = manifest.read(path.with_suffix(".json"), path.stem)
        return entry, FeatureSet.from_manifest(path, entry)
    return {}, None


def _order(said: FeatureSet) -> str:
    return said.row_order if said.row_order in (DATASET_ORDER, LOADER_ORDER) else UNKNOWN_ORDER


def _copy_file(path: Path, target: IO[bytes]) -> None:
    with reported("cannot read", path), open_regular(path) as file:
        shutil.copyfileobj(file, target, 1 << 20)


# Archives: a header of 512 bytes before each file. Of tar's many kinds of headers, only plain files of entries count,
# and nothing in a header makes anybody read or write more than there is.

_Part = tuple[int, int]  # where a file starts, and its length


def _index(file: IO[bytes], archive: Path) -> tuple[dict[str, _Part], list[str]]:
    """Where each file is, and what is wrong with the archive."""
    parts: dict[str, _Part] = {}
    problems: list[str] = []
    for name, start, length, problem in _headers(file, archive):
        if problem or name in parts:
            problems.append(problem or f"{archive} has two files called {name}")
        if len(problems) == _MOST_PROBLEMS:
            return {}, [*problems, f"{archive} is not read any further"]
        parts[name] = start, length
    return parts, problems or list(_incomplete(parts, archive))


def _incomplete(parts: Mapping[str, _Part], archive: Path) -> Iterator[str]:
    for key in dict.fromkeys(name[:32] for name in parts):
        missing = [name for kind in ("pkl", "json") if (name := f"{key}.{kind}") not in parts]
        if missing:
            yield f"{archive} has no {' and no '.join(missing)}, though it has other files of the entry"


def _headers(file: IO[bytes], archive: Path) -> Iterator[tuple[str, int, int, str]]:
    """Name, start and length of each file, and what is wrong with it."""
    end = file.seek(0, os.SEEK_END)
    position = 0
    while True:
        file.seek(position)
        head = file.read(_BLOCK)
        if position and head == bytes(_BLOCK):
            return
        try:
            member = tarfile.TarInfo.frombuf(head, "utf-8", "backslashreplace")
        except tarfile.HeaderError as error:
            if not position:
                raise ConfigError([f"expected an archive of 'simet-cache export', found {archive}: {error}"]) from error
            yield "", 0, 0, f"{archive} is cut short or damaged at byte {position}; copy it again"
            return
        position += _BLOCK
        if not 0 <= member.size <= end - position:
            problem = f"{member.name} declares {member.size} bytes, and {end - position} are left: it is cut short"
            yield "", 0, 0, f"{archive}: {problem}"
            return
        yield member.name, position, member.size, _problem(member, archive)
        position += -(-member.size // _BLOCK) * _BLOCK


def _problem(member: tarfile.TarInfo, archive: Path) -> str:
    match = _MEMBER.fullmatch(member.name)
    if not match:
        return f"{archive} has {member.name!r}, which is no file of an entry"
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        return f"{archive} has {member.name}, which is no regular file"
    if member.size > _LARGEST[match[2]]:
        return f"{archive} has {member.name} with {size(member.size)}, which is too large"
    return ""


def _from_archive(file: IO[bytes], archive: Path, parts: Mapping[str, _Part], key: str) -> _Arriving:
    name = f"{key}.pkl in {archive}"
    entry = manifest.parse(_part(file, parts[f"{key}.json"]), key, f"{key}.json in {archive}")
    try:
        said = FeatureSet.from_manifest(Path(f"{key}.pkl"), entry)
    except DamagedEntryError as error:
        raise DamagedEntryError(f"{error}, in {archive}") from error
    start, length = parts[f"{key}.pkl"]
    if length > (most := codec.most_bytes(said.shape, said.dtype)):
        raise DamagedEntryError(f"{name} has {length} bytes, where its manifest describes features of at most {most}")
    listing = _part(file, parts[f"{key}.files"]) if f"{key}.files" in parts else b""
    return _Arriving(key, name, entry, said.digest, _order(said), partial(_copy, file, start, length), listing, length)


def _part(file: IO[bytes], part: _Part) -> bytes:
    file.seek(part[0])
    return file.read(part[1])


def _copy(file: IO[bytes], start: int, length: int, target: IO[bytes]) -> None:
    file.seek(start)
    while length and (block := file.read(min(length, 1 << 20))):
        target.write(block)
        length -= len(block)
