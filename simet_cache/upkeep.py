"""Looking after a cache: what is in it, whether it is well, what can go. Functions over a store that return data.

None of them counts as a use of an entry: what was used least recently goes first, and looking must not change that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simet_cache import bounded, changes, derived, folders, locks, manifest
from simet_cache.atomic import read_regular, reported, sweep
from simet_cache.errors import ConfigError, StoreError, UnsafePickleError
from simet_cache.look import Look
from simet_cache.store import FeatureStore

_KEY = re.compile("[0-9a-f]{32}")
_KINDS = ("json", "next.json", "files", "skipped.json")
_BESIDE = re.compile(rf"([0-9a-f]{{32}})\.({'|'.join(map(re.escape, _KINDS))})")
_PLACES = (
    "prefect",
    "prefect/records",
    "prefect/results",
    changes.VALUES,
    derived.RESULTS,
    *derived.KINDS,
    "locks",
    "quarantine",
    "pending",
    "surveys",
)
_NOTES = {"prefect/records": "", "prefect/results": "", "locks": ".holder"}  # about keys, and how their names end


# What is there


@dataclass(frozen=True)
class Stored:
    """An entry as its files tell, without reading them.

    Attributes:
        key: The documented md5.
        bytes: Of all of its files.
        last_used: Seconds since 1970: the time of its manifest, or of its features where it has none.
    """

    key: str
    bytes: int
    last_used: float


@dataclass(frozen=True)
class Entry(Stored):
    """An entry as a quick look tells.

    Attributes:
        status: ``ok``; ``adopted``, where nobody knows what it was made from; ``damaged``; ``unsafe``, which would run
            code; or ``unreadable``.
        reason: Why it is not ``ok``; empty where it is, or was adopted.
        shape: (N, D), where that is known.
        dtype: Like ``float32``; empty where it is unknown, as is each of the following.
        created_at: In ISO 8601.
        dataset: Its name, or else its identity in the key.
        extractor: The suffix in the key, or else the extractor's name.
    """

    status: str
    reason: str
    shape: tuple[int, int] | None
    dtype: str
    created_at: str
    dataset: str
    extractor: str


def stored(store: FeatureStore) -> list[Stored]:
    """Every entry, least recently used first."""
    keys = store.keys()
    found = filter(None, (_stored(store, key) for key in keys))
    return sorted(found, key=lambda one: (one.last_used, one.key))


def entries(store: FeatureStore) -> list[Entry]:
    """Every entry with what is known about it, by key."""
    keys = store.keys()
    return list(filter(None, (entry(store, key) for key in keys)))


def entry(store: FeatureStore, key: str, *, full: bool = False) -> Entry | None:
    """One entry with what is known about it; None where there is none.

    Args:
        store: The cache.
        key: The documented md5.
        full: Check every byte, and not only size, header, shape and manifest.
    """
    found = _looked_at(store, key, full=full)
    return found and found[0]


def _looked_at(store: FeatureStore, key: str, *, full: bool) -> tuple[Entry, Look | None] | None:
    seen: Look | None = None
    try:
        seen = store.look(key, full=full)
        said = seen.entry or known(store, key)
        status = "damaged" if seen.status == "damaged" else "adopted" if said.get("adopted") else "ok"
        reason = seen.reason
    except StoreError as error:
        status = "unsafe" if isinstance(error, UnsafePickleError) else "unreadable"
        reason, said = str(error), known(store, key)
    files = _stored(store, key)
    if files is None or (seen and seen.status == "miss"):
        return None
    features = seen.features if seen else None
    components = mapping(said, "components")
    found = Entry(
        key,
        files.bytes,
        files.last_used,
        status=status,
        reason=reason,
        shape=features.shape if features else None,
        dtype=features.dtype if features else "",
        created_at=_text(said, "created_at"),
        dataset=_text(mapping(said, "dataset"), "name") or _text(components, "dataset"),
        extractor=_text(components, "suffix") or _text(mapping(said, "extractor"), "name"),
    )
    return found, seen


def _stored(store: FeatureStore, key: str) -> Stored | None:
    path = store.path(key)
    with reported("cannot read", path):
        found = dict(changes.files_with_status(path))
    if path not in found:  # another process has removed it
        return None
    used = found.get(path.with_suffix(".json"), found[path])
    return Stored(key, sum(status.st_size for status in found.values()), used.st_mtime)


def known(store: FeatureStore, key: str) -> dict[str, Any]:
    """What an entry's manifest says, whatever that is; empty where it says nothing that can be read."""
    try:
        return store.manifest(key)
    except StoreError:
        return {}


def mapping(said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a manifest; empty where it is missing or something else."""
    value = said.get(name)
    return value if isinstance(value, dict) else {}


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name)
    return value if isinstance(value, str) else ""


def resolve(store: FeatureStore, prefix: str) -> str:
    """The key of the only entry whose key starts so.

    Raises:
        ConfigError: There is none, there are several, or this is no beginning of a key.
    """
    wanted = prefix.lower()
    if not re.fullmatch("[0-9a-f]{4,32}", wanted):
        raise ConfigError([f"expected a key or its first 4 or more hexadecimal digits, found {prefix!r}"])
    keys = store.keys()
    found = [key for key in keys if key.startswith(wanted)]
    if not found:
        raise ConfigError([f"no entry in {store.cache_dir} has a key that starts with {wanted}; see 'simet-cache ls'"])
    if len(found) > 1:
        raise ConfigError([f"{len(found)} keys start with {wanted}, like {found[0]} and {found[1]}; give more digits"])
    return found[0]


# Verify and repair


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        key: Whose it is.
        status: ``damaged``, ``unsafe``, ``unreadable``, ``undescribed``, ``leftover`` or ``linked``.
        reason: What is wrong.
        done: What was done about it; empty where nothing was.
    """

    key: str
    status: str
    reason: str
    done: str = ""

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}" + (f": {self.done}" if self.done else "")


@dataclass(frozen=True)
class Verified:
    """What a check has found.

    Attributes:
        checked: How many entries were looked at.
        bytes: How large they are.
        findings: What was not as it should be.
        derived: How many summaries and values were looked at.
    """

    checked: int
    bytes: int
    findings: tuple[Finding, ...]
    derived: int = 0

    @property
    def left(self) -> tuple[Finding, ...]:
        """What nothing was done about."""
        return tuple(finding for finding in self.findings if not finding.done)


def verify(store: FeatureStore, *, full: bool = False, repair: bool = False) -> Verified:
    """Look for damage, and for what nobody needs any more.

    Args:
        store: The cache.
        full: Check every byte, and not only size, header, shape and manifest.
        repair: Move what is damaged to quarantine, describe what has no manifest, and remove what dead writers and
            entries that are gone left behind. What would run code is never touched. Damaged summaries and values are
            removed: they are made again.

    Raises:
        StoreError: The folder cannot be read.
    """
    checked, findings = [], []
    keys = store.keys()
    for key in keys:
        if found := _looked_at(store, key, full=full):
            checked.append(found[0])
            if (finding := _finding(store, *found)) is not None:
                findings.append(_repaired(store, finding, found[1]) if repair else finding)
    kept = _derived(store)
    findings += filter(None, (_derived_finding(store, one, full=full, repair=repair) for one in kept))
    findings += _leftovers(store, repair=repair)
    findings += _links(store)
    return Verified(len(checked), sum(one.bytes for one in checked), tuple(findings), len(kept))


def _derived(store: FeatureStore) -> list[derived.Kept]:
    with reported("cannot list what is derived in", store.cache_dir):
        return derived.kept(store.cache_dir)


def derived_sizes(store: FeatureStore) -> dict[str, tuple[int, int]]:
    """How many summaries and values there are, and how many bytes they take, by kind."""
    found = _derived(store)
    sizes = {kind: [one.bytes for one in found if one.kind == kind] for kind in derived.KINDS}
    return {kind: (len(taken), sum(taken)) for kind, taken in sizes.items()}


def _derived_finding(store: FeatureStore, one: derived.Kept, *, full: bool, repair: bool) -> Finding | None:
    reason = derived.damage(one, full=full)
    if not reason:
        return None
    try:
        if repair:
            derived.remove(store.cache_dir, one)
    except OSError as error:
        return Finding(one.path.stem, "damaged", f"{reason}; cannot remove it: {error.strerror or error}")
    return Finding(one.path.stem, "damaged", reason, "removed" if repair else "")


def _finding(store: FeatureStore, found: Entry, seen: Look | None) -> Finding | None:
    if found.status in ("damaged", "unsafe", "unreadable"):
        return Finding(found.key, found.status, found.reason)
    if not seen or not seen.features or not seen.seen or _is_described(store, found.key, seen.seen):
        return None
    return Finding(found.key, "undescribed", f"{seen.features.path} has no manifest that is about it")


def _is_described(store: FeatureStore, key: str, seen: os.stat_result) -> bool:
    """Whether an entry has a manifest that is about it, or about others that have taken its place since it was seen."""
    if manifest.describes(known(store, key), seen):
        return True
    try:
        with locks.unchanging(store.cache_dir):  # it may just be replaced, features and manifest one after the other
            return manifest.describes(known(store, key), store.path(key).stat())
    except OSError:  # it is gone, or will be found unreadable
        return True


def _repaired(store: FeatureStore, finding: Finding, seen: Look | None) -> Finding:
    key, status, reason = finding.key, finding.status, finding.reason
    try:
        if status == "damaged":
            moved = store.quarantine(key, reason, seen=seen.seen if seen else None)
            return Finding(key, status, reason, "moved to quarantine" if moved else "")
        if status == "undescribed" and seen and seen.seen:
            with reported("cannot write the manifest of", store.path(key)):
                if changes.describe(store.path(key), seen.entry, seen.seen):
                    return Finding(key, status, reason, "adopted" if seen.entry.get("adopted") else "mended")
    except StoreError as error:
        return Finding(key, status, f"{reason}; {error}")
    return finding


def _leftovers(store: FeatureStore, *, repair: bool) -> Iterator[Finding]:
    """What is left of entries that are gone, key by key; with ``repair`` also of writers that are dead.

    Whether something is left over is looked at again under the lock, key by key, so that nobody waits for the others.
    """
    folder = store.cache_dir
    with reported("cannot clean up", folder):
        for key in sorted(_orphans(store)):
            with locks.changing(folder) if repair else locks.unchanging(folder):
                files = _orphans_of(store, key)
                for file in files if repair else ():
                    folders.remove(folder, file)
                if repair:
                    changes.forget_values_folder(folder, key)
            if files:
                names = ", ".join(str(file.relative_to(folder)) for file in files)
                yield Finding(key, "leftover", f"{names} without use in {folder}", "removed" if repair else "")
        places = ["", "prefect/records", "prefect/results", derived.RESULTS]
        places += [f"{changes.VALUES}/{key}" for key in folders.folders_in(folder, changes.VALUES)]
        places += [str(place.relative_to(folder)) for _, place in derived.folders_of(folder)]
        for place in places if repair else ():
            for file in sweep(folder, place):
                yield Finding("", "leftover", f"{file}, of a writer that was killed", "removed")


def _links(store: FeatureStore) -> Iterator[Finding]:
    """Folders whose content is not looked at."""
    for place in _PLACES:
        try:
            with folders.opened(store.cache_dir, place):
                pass
        except folders.LinkedFolderError as error:
            yield Finding("", "linked", f"in {store.cache_dir}, {error.strerror}")
        except OSError:  # there is none, or it was said that it cannot be read
            continue


def _orphans(store: FeatureStore) -> set[str]:
    """The keys that something seems to be left over of."""
    found = {
        match[1] for name in _names(store) if (match := _BESIDE.fullmatch(name)) and _is_orphan(store, *match.groups())
    }
    for place, suffix in _NOTES.items():
        for name in _names(store, place):
            key = name.removesuffix(suffix)
            if name == key + suffix and _KEY.fullmatch(key) and _is_orphan_note(store, key, place):
                found.add(key)
    with_values = filter(_KEY.fullmatch, folders.folders_in(store.cache_dir, changes.VALUES))
    return found | {key for key in with_values if not _known(store, key) and changes.values(store.cache_dir, key)}


def _orphans_of(store: FeatureStore, key: str) -> list[Path]:
    beside = [store.cache_dir / f"{key}.{kind}" for kind in _KINDS if _is_orphan(store, key, kind)]
    notes = [
        store.cache_dir / place / f"{key}{suffix}"
        for place, suffix in _NOTES.items()
        if _is_orphan_note(store, key, place)
    ]
    values = [] if _known(store, key) else [file for file, _ in changes.values(store.cache_dir, key)]
    return [file for file in (*beside, *notes, *values) if folders.is_file(store.cache_dir, file)]


def _is_orphan_note(store: FeatureStore, key: str, place: str) -> bool:
    if _known(store, key):
        return False
    return not computing(store, key) if place == "locks" else not _is_failure(store, key)


def _is_failure(store: FeatureStore, key: str) -> bool:
    """Whether what Prefect keeps under a key is how a task run has failed: whoever reads its state looks for that."""
    with suppress(OSError, StoreError), folders.opened(store.cache_dir, "prefect/results") as results:
        return read_regular(key, folder=results).startswith(b'{"error":')
    return False


def failures(store: FeatureStore) -> list[derived.Kept]:
    """What Prefect keeps of task runs that have failed, or were stopped: needed by nobody for long.

    Raises:
        OSError: A folder cannot be read.
    """
    found = []
    for place in ("prefect/records", "prefect/results"):
        for key, status in folders.files_in(store.cache_dir, place, named=_KEY.fullmatch):
            if not _known(store, key) and _is_failure(store, key):
                file = store.cache_dir / place / key
                found.append(derived.Kept("results", file, status.st_size, status.st_mtime))
    return found


def _known(store: FeatureStore, key: str) -> bool:
    """Whether there are features of a key, or of its good images."""
    path = store.path(key)
    noted = path.with_suffix(".skipped.json")
    return path.exists() or (noted.exists() and not _is_void(store, noted))


def _names(store: FeatureStore, place: str = "") -> list[str]:
    return [name for name, _ in folders.files_in(store.cache_dir, place)]


def _is_orphan(store: FeatureStore, key: str, kind: str) -> bool:
    path = store.path(key)
    if kind == "skipped.json":
        return _is_void(store, path.with_suffix(".skipped.json"))
    if not path.exists():
        return True
    return kind == "next.json" and manifest.describes(known(store, key), path.stat())


def _is_void(store: FeatureStore, noted: Path) -> bool:
    """Whether a list of bad images cannot be read, or is about features that are gone."""
    try:
        if not isinstance(bounded.json_value(read_regular(noted))["skipped"], list):
            return True
    except OSError:
        return False
    except (StoreError, ValueError, LookupError, TypeError):
        return True
    rest, key = changes.rest_of(noted), noted.name[:32]
    if rest is None or store.path(rest).exists() or store.path(key).exists():
        return False
    return not computing(store, rest) and not computing(store, key)


def computing(store: FeatureStore, key: str) -> bool:
    """Whether somebody computes the features of a key at this moment."""
    return locks.is_computing(store.cache_dir, key)
