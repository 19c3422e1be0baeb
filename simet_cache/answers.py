"""What each subcommand of ``simet-cache`` does and says. Torch is only imported to explain, and Prefect never."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from simet_cache import changes, upkeep
from simet_cache import prune as pruning
from simet_cache.atomic import iso, reported, size
from simet_cache.errors import ConfigError
from simet_cache.printing import Answer, Table
from simet_cache.prune import Limits, duration
from simet_cache.store import FeatureStore
from simet_cache.upkeep import Entry

WELL, FOUND, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
_ONE_OF = {"summaries": "summary", "values": "value"}


def ls(options: argparse.Namespace) -> Answer:
    """The entries, filtered and sorted."""
    store = _store(options)
    found = [
        one
        for one in upkeep.entries(store)
        if options.status in (None, one.status)
        and fnmatchcase(one.dataset, options.dataset)
        and fnmatchcase(one.extractor, options.extractor)
    ]
    found.sort(key=ORDERS[options.sort], reverse=options.reverse)
    total = sum(one.bytes for one in found)
    header = ["key", "status", "size", "used", "age", "shape", "dataset", "extractor"]
    table = Table(header, [_row(one) for one in found], right=["size", "used", "age", "shape"])
    reasons = [f"{one.key}: {one.reason}" for one in found if one.reason]
    derived = upkeep.derived_sizes(store)
    document = {
        "cache_dir": str(store.cache_dir),
        "bytes": total,
        "entries": [_plain(one) for one in found],
        "derived": {kind: {"count": number, "bytes": taken} for kind, (number, taken) in derived.items()},
    }
    summary = f"{_count(len(found), 'entry')}, {size(total)}"
    if any(number for number, _ in derived.values()):
        summary += f"; {', '.join(_count(number, _ONE_OF[kind]) for kind, (number, _) in derived.items())} derived from"
        summary += f" them, {size(sum(taken for _, taken in derived.values()))}"
    return Answer(document, [*([table] if found else []), *reasons, summary])


def info(options: argparse.Namespace) -> Answer:
    """Everything that is known about one entry."""
    store = _store(options)
    key = upkeep.resolve(store, options.key)
    found = upkeep.entry(store, key)
    if found is None:
        raise ConfigError([f"the entry {key} was removed a moment ago"])
    with reported("cannot read", store.path(key)):
        there = changes.files_with_status(store.path(key))
    files = {str(file.relative_to(store.cache_dir)): status.st_size for file, status in there}
    document = {**_plain(found), "path": str(store.path(key)), "files": files, "manifest": upkeep.known(store, key)}
    return Answer(document, [Table((), [*_flat(document)])])


def explain(options: argparse.Namespace) -> Answer:
    """Which feature sets of an evaluation are there, and why not the others."""
    from simet_cache import explain as explaining  # noqa: PLC0415 - torch takes seconds, and only this needs it
    from simet_cache.config_file import load_config  # noqa: PLC0415 - the same

    config = load_config(options.config, options.set)
    found = explaining.explain(config)
    lines: list[str | Table] = []
    for one in found:
        about = [("reason", one.reason), ("key", one.key), *((n, _shown(v)) for n, v in one.components.items())]
        about += [("nearest", str(one.nearest))] if one.nearest else []
        lines += [f"{one.name}: {one.status}", Table((), [("", name, value) for name, value in about if value])]
    hits = sum(one.status == "hit" for one in found)
    lines.append(f"{hits} of {_count(len(found), 'feature set')} in {config.cache_dir}")
    if config.remote:
        lines.append("the remote was not asked; what is missing here may be there")
    document = {"cache_dir": str(config.cache_dir), "datasets": [_plain_explained(one) for one in found]}
    return Answer(document, lines, code=FOUND if any(one.status == "error" for one in found) else WELL)


def verify(options: argparse.Namespace) -> Answer:
    """What is damaged or left over."""
    store = _store(options)
    done = upkeep.verify(store, full=options.full, repair=options.repair)
    how = "every byte" if options.full else "size, header, shape and manifest"
    checked = _count(done.checked, "entry") + (f" and {done.derived} derived files" if done.derived else "")
    summary = f"{checked} checked ({how}): {_count(len(done.findings), 'finding')}"
    if options.repair and done.findings:
        summary += f", {len(done.left)} left"
    elif done.left:
        summary += "; --repair takes care of what is not unsafe or unreadable"
    document = {
        "cache_dir": str(store.cache_dir),
        "checked": done.checked,
        "bytes": done.bytes,
        "derived": done.derived,
        "findings": [asdict(finding) for finding in done.findings],
    }
    return Answer(document, [*map(str, done.findings), summary], code=FOUND if done.findings else WELL)


def prune(options: argparse.Namespace) -> Answer:
    """What was removed, or would be."""
    limits = Limits.of(
        max_size=options.max_size,
        older_than=options.older_than,
        keep_latest=options.keep_latest,
        quarantine=options.quarantine,
    )
    store = _store(options)
    done = pruning.prune(store, limits, dry_run=options.dry_run)
    would = "would be " if options.dry_run else ""
    summary = f"{size(done.freed)} {would}freed, {size(done.left)} {would}left"
    if done.derived:
        summary = f"{done.derived} summaries and values {would}removed, to be made again when needed; {summary}"
    problems = [] if done.enough else ["not enough: what is in use, or cannot be removed, was kept"]
    document = {
        "cache_dir": str(store.cache_dir),
        "dry_run": options.dry_run,
        "freed": done.freed,
        "left": done.left,
        "derived": done.derived,
        "entries": [{**asdict(one), "last_used": iso(one.last_used)} for one in done.entries],
        "files": [str(file) for file in done.files],
    }
    failed = any(one.outcome == "failed" for one in done.entries)
    files = [f"{file.relative_to(store.cache_dir)} {would}removed" for file in done.files]
    return Answer(document, [*map(str, done.entries), *files, summary], problems, FOUND if failed else WELL)


def take_in(options: argparse.Namespace) -> Answer:
    """What was imported."""
    from simet_cache.archive import import_archive, import_folder  # noqa: PLC0415 - the others do without

    source = Path(options.source).expanduser()
    if not source.exists():
        raise ConfigError([f"nothing to import at {source}; expected a folder, or an archive of 'simet-cache export'"])
    store = FeatureStore(options.cache_dir)
    done = (import_folder if source.is_dir() else import_archive)(store, source, force=options.force)
    counts = Counter(one.outcome for one in done.entries)
    summary = ", ".join(f"{number} {outcome}" for outcome, number in counts.items()) or "no entry found"
    summary += f"; {_count(done.ignored, 'other file')} ignored" if done.ignored else ""
    document = {
        "cache_dir": str(store.cache_dir),
        "source": str(source),
        "entries": [asdict(one) for one in done.entries],
        "ignored": done.ignored,
        "problems": list(done.problems),
    }
    bad = bool(done.problems) or any(one.outcome == "refused" for one in done.entries)
    nothing = ["nothing was imported"] if done.problems else []
    return Answer(document, nothing or [*map(str, done.entries), summary], done.problems, FOUND if bad else WELL)


def give_out(options: argparse.Namespace) -> Answer:
    """What was exported."""
    from simet_cache.archive import export  # noqa: PLC0415 - the others do without

    *prefixes, archive = options.keys_and_archive or [""]
    if not archive or bool(prefixes) == options.all:
        raise ConfigError(["expected the keys of the entries and then the archive; or --all and the archive"])
    store = _store(options)
    keys = store.keys() if options.all else [upkeep.resolve(store, prefix) for prefix in prefixes]
    if not keys:
        raise ConfigError([f"there is no entry in {store.cache_dir} to export"])
    done = export(store, keys, Path(archive).expanduser(), force=options.force)
    good = sum(one.outcome == "exported" for one in done)
    summary = f"{_count(good, 'entry')} exported to {archive}" if good else "nothing to export, and no archive written"
    document = {
        "cache_dir": str(store.cache_dir),
        "archive": archive if good else None,
        "entries": [asdict(one) for one in done],
    }
    return Answer(document, [*map(str, done), summary], code=WELL if good == len(done) else FOUND)


def _store(options: argparse.Namespace) -> FeatureStore:
    folder = Path(options.cache_dir).expanduser()
    if not folder.is_dir():
        raise ConfigError([f"there is no cache folder {folder.absolute()}; name yours with --cache-dir"])
    return FeatureStore(folder)


# Data in words


def _row(one: Entry) -> list[str]:
    shape = f"{one.shape[0]} x {one.shape[1]}" if one.shape else "-"
    key = one.key[:12] if sys.stdout.isatty() else one.key
    ages = [duration(time.time() - one.last_used), _age(one.created_at)]
    return [key, one.status, size(one.bytes), *ages, shape, one.dataset or "-", one.extractor or "-"]


def _age(created_at: str) -> str:
    seconds = _seconds(created_at)
    return "-" if seconds is None else duration(time.time() - seconds)


def _seconds(created_at: str) -> float | None:
    try:
        parsed = datetime.fromisoformat(created_at)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _plain(one: Entry) -> dict[str, Any]:
    return {**asdict(one), "last_used": iso(one.last_used), "shape": list(one.shape) if one.shape else None}


def _plain_explained(one: Any) -> dict[str, Any]:
    differences = one.nearest.differences if one.nearest else ()
    near = [{"component": name, "there": there, "here": here} for name, there, here in differences]
    return {
        **{name: getattr(one, name) for name in ("name", "status", "reason", "key")},
        "components": dict(one.components),
        "nearest": {"key": one.nearest.key, "differences": near} if one.nearest else None,
    }


def _flat(tree: dict[str, Any], around: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Names with dots, and values; what is nested more deeply than manifests are, as JSON."""
    for name, value in tree.items():
        if isinstance(value, dict) and value and depth < 3:
            yield from _flat(value, f"{around}{name}.", depth + 1)
        elif value not in ("", None, [], {}):
            yield f"{around}{name}", size(value) if f"{around}{name}" == "bytes" else _shown(value)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _count(number: int, what: str) -> str:
    """``1 entry``, ``2 entries``."""
    many = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number} {what if number == 1 else many}"


def _by(name: str) -> Callable[[Entry], Any]:
    return lambda one: (getattr(one, name), one.key)


ORDERS: dict[str, Callable[[Entry], Any]] = {
    "used": lambda one: -one.last_used,
    "size": lambda one: -one.bytes,
    "age": lambda one: -(_seconds(one.created_at) or 0),
    **{name: _by(name) for name in ("key", "dataset", "extractor", "status")},
}
