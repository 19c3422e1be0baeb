"""What can go from a cache: what was used least recently first, and never what is in use."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from simet_cache import folders, locks
from simet_cache.atomic import reported, size
from simet_cache.derived import Kept, kept, remove, results
from simet_cache.errors import ConfigError, StoreError
from simet_cache.store import FeatureStore
from simet_cache.upkeep import Stored, computing, failures, stored

_QUARANTINED = re.compile(r"([0-9a-f]{32})\.([0-9]{1,19})\.(pkl|json)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_IN_USE = "in use, kept"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What may stay. An entry goes if any of the limits asks for it, and so does what is derived from entries.

    Attributes:
        max_size: Bytes of all entries, and of all that is derived, together.
        older_than: Seconds since something was last used.
        keep_latest: How many entries, those that were used last. What is derived does not count.
        quarantine: Whether ``older_than`` also holds for what was put aside as damaged.
    """

    max_size: int | None = None
    older_than: float | None = None
    keep_latest: int | None = None
    quarantine: bool = False

    @classmethod
    def of(
        cls,
        *,
        max_size: str | None = None,
        older_than: str | None = None,
        keep_latest: int | None = None,
        quarantine: bool = False,
    ) -> Limits:
        """From what a person writes, like ``50GB`` and ``30d``.

        Raises:
            ConfigError: It is no size, no age or no number; or there is no limit at all.
        """
        if (max_size, older_than, keep_latest) == (None, None, None):
            raise ConfigError(["nothing to go by: give a max-size, an older-than or a keep-latest"])
        if quarantine and older_than is None:
            raise ConfigError(["the quarantine is emptied by age: give an older-than with it"])
        if keep_latest is not None and keep_latest < 0:
            raise ConfigError([f"keep-latest: expected 0 or more, found {keep_latest}"])
        return cls(
            None if max_size is None else parsed_size(max_size),
            None if older_than is None else parsed_age(older_than),
            keep_latest,
            quarantine,
        )

    def against(self, one: Stored | Kept, *, newer: int, total: int, now: float) -> str:
        """Why something has to go; empty where it may stay.

        Args:
            one: An entry, or a file that is derived.
            newer: How many entries were used more recently.
            total: The bytes of all that is left, this one among them.
            now: Seconds since 1970.
        """
        if self.older_than is not None and now - one.last_used > self.older_than:
            return f"not used for {duration(now - one.last_used)}"
        if self.keep_latest is not None and newer >= self.keep_latest and isinstance(one, Stored):
            return f"not among the {self.keep_latest} that were used last"
        if self.max_size is not None and total > self.max_size:
            return f"{size(total)} are more than {size(self.max_size)}"
        return ""


@dataclass(frozen=True)
class Pruned:
    """What has become of one entry, or of one damaged file in quarantine.

    Attributes:
        key: The documented md5.
        bytes: What that has freed, or would; 0 where it was kept.
        last_used: Seconds since 1970.
        outcome: ``removed``, ``would be removed``, ``in use, kept``, ``gone`` already, or ``failed``.
        reason: Why it has to go, or why it failed.
    """

    key: str
    bytes: int
    last_used: float
    outcome: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key} {self.outcome}: {self.reason}" + (f", {size(self.bytes)}" if self.bytes else "")


@dataclass(frozen=True)
class Pruning:
    """What a pruning has done, or would do.

    Attributes:
        entries: One for each entry that the limits ask for, least recently used first.
        freed: Bytes.
        left: Bytes of the entries, and of what is derived, that are left.
        derived: How many summaries and values the limits ask for.
        files: What else goes, or would: summaries, values, and Prefect's results of the tasks that made them.
    """

    entries: tuple[Pruned, ...]
    freed: int
    left: int
    derived: int = 0
    files: tuple[Path, ...] = ()

    @property
    def enough(self) -> bool:
        """Whether everything that had to go went."""
        return not any(one.outcome in (_IN_USE, "failed") for one in self.entries)


def prune(store: FeatureStore, limits: Limits, *, dry_run: bool = False, now: float | None = None) -> Pruning:
    """Remove what was used least recently until the limits hold; never features that are in use.

    What is derived from them goes in the same order. It can be made again, so nobody who uses it is asked.

    Args:
        store: The cache.
        limits: What may stay.
        dry_run: Only say what would be removed.
        now: Seconds since 1970.

    Raises:
        StoreError: The folder cannot be read.
    """
    now = time.time() if now is None else now
    entries = stored(store)
    there: list[Stored | Kept] = [*entries, *_derived(store)]
    there.sort(key=lambda one: one.last_used)
    left, newer = sum(one.bytes for one in there), len(entries)
    pruned, files, freed, derived = [], [], 0, 0
    for one in there:
        newer -= isinstance(one, Stored)
        reason = limits.against(one, newer=newer, total=left, now=now)
        if not reason:
            continue
        if isinstance(one, Stored):
            done = _would_go(store, one, reason) if dry_run else _gone(store, one, reason)
            pruned.append(done)
            left -= 0 if done.outcome in (_IN_USE, "failed") else one.bytes
        elif dry_run or _removed(store, one):
            files.append(one.path)
            derived += one.kind != "results"
            freed, left = freed + one.bytes, left - one.bytes
    if limits.quarantine and limits.older_than is not None:
        pruned += _emptied(store, now - limits.older_than, dry_run=dry_run)
    return Pruning(tuple(pruned), freed + sum(one.bytes for one in pruned), left, derived, tuple(files))


def _derived(store: FeatureStore) -> list[Kept]:
    with reported("cannot list what is derived in", store.cache_dir):
        return [*kept(store.cache_dir), *results(store.cache_dir), *failures(store)]


def _removed(store: FeatureStore, one: Kept) -> bool:
    try:
        remove(store.cache_dir, one)
    except OSError as error:
        log.warning("cannot remove %s: %s", one.path, error.strerror or error)
        return False
    return True


def _would_go(store: FeatureStore, one: Stored, reason: str) -> Pruned:
    try:
        kept = computing(store, one.key) or locks.is_used(store.cache_dir, one.key)
    except OSError as error:
        why = f"nobody can tell whether it is in use: {error.strerror or error}"
        return Pruned(one.key, 0, one.last_used, "failed", why)
    if kept:
        return Pruned(one.key, 0, one.last_used, _IN_USE, reason)
    return Pruned(one.key, one.bytes, one.last_used, "would be removed", reason)


def _gone(store: FeatureStore, one: Stored, reason: str) -> Pruned:
    try:
        freed = store.remove(one.key)
    except StoreError as error:
        return Pruned(one.key, 0, one.last_used, "failed", str(error))
    outcome = "removed" if freed else _IN_USE if store.path(one.key).exists() else "gone"
    return Pruned(one.key, freed, one.last_used, outcome, reason)


def _emptied(store: FeatureStore, before: float, *, dry_run: bool) -> Iterator[Pruned]:
    """What was put aside before some time, which the names of the files tell."""
    folder = store.cache_dir / "quarantine"
    with reported("cannot list", folder):
        found = folders.files_in(store.cache_dir, "quarantine", named=_QUARANTINED.fullmatch)
    for name, status in found:
        match = _QUARANTINED.fullmatch(name)
        if match and (since := int(match[2]) / 1e9) < before:
            if not dry_run:
                with reported("cannot remove", folder / name):
                    folders.remove(store.cache_dir, folder / name)
            outcome = "would be removed" if dry_run else "removed"
            yield Pruned(match[1], status.st_size, since, outcome, f"{folder / name} was put aside as damaged")


# Sizes and times as people write them


def parsed_size(text: str) -> int:
    """``50GB``, ``500 MB``, ``1.5GiB`` or a number of bytes.

    Raises:
        ConfigError: It is no size.
    """
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?:([kmgt])(i?))?b?", text.strip().lower())
    if not match:
        raise ConfigError([f"expected a size like 50GB, 500MB or 1.5GiB, found {text!r}"])
    unit: int = (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " ")
    return round(float(match[1]) * unit)


def parsed_age(text: str) -> float:
    """``30d``, ``12h``, ``2w``, ``90m`` or ``45s``, in seconds.

    Raises:
        ConfigError: It is no age.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([smhdw])", text.strip().lower())
    if not match:
        raise ConfigError([f"expected an age like 30d, 12h or 2w, found {text!r}"])
    return float(match[1]) * _SECONDS[match[2]]


def duration(seconds: float) -> str:
    """Seconds as a person reads them: ``3 d``."""
    for unit in ("d", "h", "m"):
        if seconds >= _SECONDS[unit]:
            return f"{seconds // _SECONDS[unit]:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
