"""Surveys that were made, kept in the cache folder: heads of files that have not changed are not read again.

On disk: ``cache_dir/surveys/<md5>.json``, the md5 being that of the folder, of the fingerprint of its files and of what
can be read here. All of it can be made again, so nothing here is ever an error, and it may be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from PIL import features

from simet_cache.atomic import sweep, write_atomically
from simet_cache.datasets.survey import VERSION, Survey
from simet_cache.manifest import Source

MOST_KEPT = 10_000  # on the disk: the oldest half goes when there are more
_MOST_HELD = 1000  # in this process
_LONGEST = 1 << 16  # bytes of a file

log = logging.getLogger(__name__)
_held: OrderedDict[str, Survey] = OrderedDict()
_holding = threading.Lock()


def survey_of(
    source: Source,
    cache_dir: Path,
    make: Callable[[], Survey],
    *,
    max_pixels: int,
    same: Callable[[], bool],
    keep: bool,
) -> Survey:
    """What the files of a set look like, from an earlier look if they are as they were.

    Args:
        source: The set as it is at this moment.
        cache_dir: Where surveys are kept.
        make: Looks at the files.
        max_pixels: Images of more are not looked at.
        same: Whether they are still the same after that.
        keep: Whether the folder may be written to.
    """
    fingerprint = source.fingerprint
    if not fingerprint.known:
        return make()
    # another Pillow may read other files
    reads = [features.version("pil"), max_pixels]
    about = [VERSION, reads, source.components.get("dataset"), fingerprint.stat, fingerprint.content]
    key = hashlib.md5(json.dumps(about).encode(), usedforsecurity=False).hexdigest()
    path = cache_dir / "surveys" / f"{key}.json"
    found = _of_this_process(key) or _read(path)
    if found is None:
        found = make()
        if not found.whole or not same():
            return found
        if keep:
            _write(path, found)
    with _holding:
        _held[key] = found
        while len(_held) > _MOST_HELD:
            _held.popitem(last=False)
    return found


def forget() -> None:
    """Forget what this process holds, as a new one does."""
    with _holding:
        _held.clear()


def _of_this_process(key: str) -> Survey | None:
    with _holding:
        return _held.get(key)


def _read(path: Path) -> Survey | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(handle, "rb") as file, suppress(OSError, ValueError, RecursionError):
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return Survey.from_json(json.loads(file.read(_LONGEST)))
    return None


def _write(path: Path, survey: Survey) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        _make_room(path.parent)
        write_atomically(path, lambda file: file.write(json.dumps(survey.to_json()).encode()), durable=False)
    except OSError as error:
        log.debug("cannot keep %s: %s", path, error.strerror or error)


def _make_room(folder: Path) -> None:
    """Remove what killed writers left, and of too many surveys the oldest half."""
    sweep(folder)
    names = os.listdir(folder)
    if len(names) >= MOST_KEPT:
        ours = [folder / name for name in names if name.endswith(".json") and not name.startswith(".")]
        for path in sorted(ours, key=lambda one: one.lstat().st_mtime)[: len(ours) // 2]:
            path.unlink(missing_ok=True)
