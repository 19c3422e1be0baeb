"""Looking after a cache: what is in it, whether it is well, what can go. Functions over a store that return data.

None of them counts as a use of an entry: what was used least recently goes first, and looking must not change that.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from simet_cache import changes, derived, locks, manifest
from simet_cache.atomic import reported, sweep
from simet_cache.errors import ConfigError, StoreError, UnsafePickleError
from simet_cache.look import Look
from simet_cache.store import FeatureStore

_KEY = re.compile("[0-9a-f]{32}")
_BESIDE = re.compile(r"([0-9a-f]{32})\.(json|next\.json|files|skipped\.json)")


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
    try:
        status = path.stat()
        with suppress(FileNotFoundError):
            status = path.with_suffix(".json").stat()
        return Stored(key, sum(file.stat().st_size for file in store.files(key)), status.st_mtime)
    except FileNotFoundError:  # another process has removed it
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error


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


def iso(seconds: float) -> str | None:
    """Seconds since 1970 in ISO 8601; None where no calendar has that."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return None


# Verify and repair


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        key: Whose it is.
        status: ``damaged``, ``unsafe``, ``unreadable``, ``undescribed`` or ``leftover``.
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
    findings += filter(None, (_derived_finding(one, full=full, repair=repair) for one in kept))
    findings += _leftovers(store, repair=repair)
    return Verified(len(checked), sum(one.bytes for one in checked), tuple(findings), len(kept))


def _derived(store: FeatureStore) -> list[derived.Kept]:
    with reported("cannot list what is derived in", store.cache_dir):
        return derived.kept(store.cache_dir)


def derived_sizes(store: FeatureStore) -> dict[str, tuple[int, int]]:
    """How many summaries and values there are, and how many bytes they take, by kind."""
    found = _derived(store)
    sizes = {kind: [one.bytes for one in found if one.kind == kind] for kind in derived.KINDS}
    return {kind: (len(taken), sum(taken)) for kind, taken in sizes.items()}


def _derived_finding(one: derived.Kept, *, full: bool, repair: bool) -> Finding | None:
    reason = derived.damage(one, full=full)
    if not reason:
        return None
    try:
        if repair:
            one.path.unlink(missing_ok=True)
    except OSError as error:
        return Finding(one.path.stem, "damaged", f"{reason}; cannot remove it: {error.strerror or error}")
    return Finding(one.path.stem, "damaged", reason, "removed" if repair else "")


def _finding(store: FeatureStore, found: Entry, seen: Look | None) -> Finding | None:
    if found.status in ("damaged", "unsafe", "unreadable"):
        return Finding(found.key, found.status, found.reason)
    if not seen or not seen.features or not seen.seen or manifest.describes(known(store, found.key), seen.seen):
        return None
    return Finding(found.key, "undescribed", f"{seen.features.path} has no manifest that is about it")


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
    """What is left of entries that are gone, key by key; with ``repair`` also of writers that are dead."""
    folder = store.cache_dir
    with reported("cannot clean up", folder), locks.changing(folder) if repair else locks.unchanging(folder):
        for key, files in sorted(_orphans(store).items()):
            names = ", ".join(str(file.relative_to(folder)) for file in files)
            for file in files if repair else ():
                file.unlink(missing_ok=True)
            yield Finding(key, "leftover", f"{names} without use in {folder}", "removed" if repair else "")
        places = [folder, folder / "prefect" / "records", folder / "prefect" / "results"]
        places += [derived.results_folder(folder), *(place for _, place in derived.folders(folder))]
        for place in places:
            for file in sweep(place) if repair and place.is_dir() else ():
                yield Finding("", "leftover", f"{file}, of a writer that was killed", "removed")


def _orphans(store: FeatureStore) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for name in files_in(store.cache_dir):
        if (match := _BESIDE.fullmatch(name)) and _is_orphan(store, match[1], match[2]):
            found[match[1]].append(store.cache_dir / name)
    for place in (store.cache_dir / "prefect" / "records", store.cache_dir / "prefect" / "results"):
        for name in files_in(place):
            if _KEY.fullmatch(name) and not _known(store, name):
                found[name].append(place / name)
    for name in files_in(store.cache_dir / "locks"):
        key = name.removesuffix(".holder")
        if name != key and _KEY.fullmatch(key) and not _known(store, key) and not computing(store, key):
            found[key].append(store.cache_dir / "locks" / name)
    return found


def _known(store: FeatureStore, key: str) -> bool:
    """Whether there are features of a key, or of its good images."""
    path = store.path(key)
    return path.exists() or path.with_suffix(".skipped.json").exists()


def files_in(folder: Path) -> list[str]:
    """The names of the regular files in a folder, sorted; none where there is no folder."""
    try:
        return sorted(one.name for one in os.scandir(folder) if one.is_file(follow_symlinks=False))
    except FileNotFoundError:
        return []


def _is_orphan(store: FeatureStore, key: str, kind: str) -> bool:
    path = store.path(key)
    if kind == "skipped.json":  # it is about images, and of use without features; unless nobody can read it
        try:
            return not isinstance(json.loads(path.with_suffix(".skipped.json").read_bytes())["skipped"], list)
        except OSError:
            return False
        except (ValueError, KeyError, TypeError, RecursionError):
            return True
    if not path.exists():
        return True
    return kind == "next.json" and manifest.describes(known(store, key), path.stat())


def computing(store: FeatureStore, key: str) -> bool:
    """Whether somebody computes the features of a key at this moment."""
    return locks.is_computing(store.cache_dir, key)
