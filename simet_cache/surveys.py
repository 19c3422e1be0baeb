"""Surveys that were made, kept in the cache folder: heads of files that have not changed are not read again.

On disk: ``cache_dir/surveys/<md5>.json``, the md5 being that of the folder, of the fingerprint of its files and of what
can be read here. All of it can be made again, so nothing here is ever an error, and it may be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from PIL import features

from simet_cache import folders
from simet_cache.atomic import open_regular, sweep, write_atomically
from simet_cache.datasets.survey import VERSION, Survey
from simet_cache.errors import StoreError
from simet_cache.manifest import Source

FOLDER = "surveys"
MOST_KEPT = 10_000  # on the disk: the oldest half goes when there are more
_MOST_HELD = 1000  # in this process
_LONGEST = 1 << 16  # bytes of a file

_NAME = re.compile(r"[0-9a-f]{32}\.json")

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
    name = f"{key}.json"
    found = _of_this_process(key) or _read(cache_dir, name)
    if found is None:
        found = make()
        if not found.whole or not same():
            return found
        if keep:
            _write(cache_dir, name, found)
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


def _read(cache_dir: Path, name: str) -> Survey | None:
    with (
        suppress(OSError, StoreError, ValueError, RecursionError),
        folders.opened(cache_dir, FOLDER) as folder,
        open_regular(name, folder=folder) as file,
    ):
        return Survey.from_json(json.loads(file.read(_LONGEST)))
    return None


def _write(cache_dir: Path, name: str, survey: Survey) -> None:
    path = cache_dir / FOLDER / name
    try:
        with folders.opened(cache_dir, FOLDER, make=True) as folder:
            if len(os.listdir(folder)) >= MOST_KEPT:
                _make_room(cache_dir)
            write_atomically(
                path, lambda file: file.write(json.dumps(survey.to_json()).encode()), durable=False, folder=folder
            )
    except OSError as error:
        log.debug("cannot keep %s: %s", path, error.strerror or error)


def _make_room(cache_dir: Path) -> None:
    """Remove what killed writers left, and the oldest half of the surveys."""
    sweep(cache_dir, FOLDER)
    ours = folders.files_in(cache_dir, FOLDER, named=_NAME.fullmatch)
    for name, _ in sorted(ours, key=lambda one: one[1].st_mtime)[: len(ours) // 2]:
        folders.remove(cache_dir, cache_dir / FOLDER / name)
