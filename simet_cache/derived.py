"""Derived: what was computed from features is kept beside them, under keys made of the features' digests.

On disk::

    cache_dir/summaries/<2 digits>/<md5>.safetensors   what a metric needs to know of one set
    cache_dir/values/<2 digits>/<md5>.safetensors      one metric of one pair of sets, with all that belongs to it
    cache_dir/summaries/locks/                         who computes a summary at this moment

All of it can be made again, so nothing here is ever an error: what is damaged, unreadable, of a newer program or of
another key counts as missing, and what cannot be written is used without being kept. The layout is that of ``sealed``.

Neither torch nor Prefect is imported to look after these files; torch is imported with the first one that is read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from simet_cache import folders, locks, sealed
from simet_cache.atomic import open_regular, size, write_atomically
from simet_cache.bounded import json_value
from simet_cache.errors import DamagedEntryError
from simet_cache.sealed import Head

FORMAT = 1  # of what is kept; part of every key
_TOUCHED = 60.0  # seconds: how exactly it is known when something was last used

Kind: TypeAlias = Literal["summaries", "values"]
KINDS: tuple[Kind, ...] = ("summaries", "values")
RESULTS = "prefect/derived"
_DIGITS, _KEY = re.compile("[0-9a-f]{2}"), re.compile("[0-9a-f]{32}")
_DERIVED = re.compile(r"[0-9a-f]{32}\.safetensors")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What something is made from, and so the key that it is kept under.

    Attributes:
        kind: Whether it is a summary or a value.
        parts: What it depends on, as JSON values.
    """

    kind: Kind
    parts: Mapping[str, Any]

    @property
    def text(self) -> str:
        """As JSON, the same for equal parts in any order."""
        return json.dumps({"kind": self.kind, "format": FORMAT, **self.parts}, sort_keys=True)

    @property
    def key(self) -> str:
        """32 hexadecimal digits."""
        return hashlib.md5(self.text.encode(), usedforsecurity=False).hexdigest()


class Derived:
    """Summaries and values on the disk.

    Threads and processes may share a folder: files are seen whole or not at all.

    Args:
        cache_dir: That of the features. It is made when something is kept.
    """

    def __init__(self, cache_dir: str | Path) -> None:
        self.cache_dir = Path(cache_dir).expanduser().absolute()
        self._complaints: set[str] = set()

    def path(self, kind: Kind, key: str) -> Path:
        """Where something is, or would be."""
        return self.cache_dir / kind / key[:2] / f"{key}.safetensors"

    def has(self, kind: Kind, key: str) -> bool:
        """Whether something is there, without a look at it."""
        return os.path.exists(self.path(kind, key))

    def is_sound(self, kind: Kind, key: str) -> bool:
        """Whether something is there that can be used, by its head and size; arrays are not read."""
        return self._read(kind, key, lambda *_: True) is not None

    def summary(self, key: str) -> Any:
        """A summary; None where there is none that can be used, or where it was not worth keeping."""
        return self._read("summaries", key, lambda tree, array_of: _packing().unpack(tree, array_of))

    def keep_summary(self, recipe: Recipe, summary: Any) -> None:
        """Keep a summary, of a class that ``packing`` knows; or None for the note that it is not worth keeping.

        One of another class is not kept, and a line in the log says so.
        """
        self._keep(recipe, summary)

    def value(self, key: str, *, noise: bool = False) -> Any:
        """A ``MetricValue``; None where there is none that can be used.

        Args:
            key: Of its recipe.
            noise: Whether its noise is read, with arrays as long as the reference; None is in its place otherwise.
        """
        return self._read("values", key, lambda tree, array_of: _packing().unpack(tree, array_of, noise=noise))

    def noise(self, key: str) -> Any:
        """The noise of a value alone, or why it has none; None where no intervals were asked for, or no value is."""
        return self._read("values", key, lambda tree, array_of: _packing().unpack(tree["fields"]["noise"], array_of))

    def keep_value(self, recipe: Recipe, value: Any) -> None:
        """Keep a ``MetricValue`` with its noise; or not, as with ``keep_summary``."""
        self._keep(recipe, value)

    @contextmanager
    def computing(self, digest: str) -> Iterator[None]:
        """Keep other threads and processes from making summaries of the same features meanwhile."""
        key = hashlib.md5(digest.encode(), usedforsecurity=False).hexdigest()
        with suppress(OSError):
            self.cache_dir.mkdir(parents=True, exist_ok=True)
        with locks.computing(self.cache_dir, key, what="summaries", place="summaries/locks"):
            try:
                yield
            finally:
                for suffix in (".holder", ".lock"):  # there is one for each set: who waits for it sees that it is gone
                    with suppress(OSError):
                        folders.remove(self.cache_dir, self.cache_dir / "summaries" / "locks" / f"{key}{suffix}")

    def _read(self, kind: Kind, key: str, take: Callable[[Any, Callable[[int], Any]], Any]) -> Any:
        path = self.path(kind, key)
        try:
            with open_regular(path) as file:
                head = _checked_head(file, path, kind, key)
                made = take(
                    json_value(head.texts["tree"]),
                    lambda number: sealed.read_array(file, head.places[number], path),
                )
                _touch(file)
        except FileNotFoundError:
            return None
        except DamagedEntryError as error:
            log.warning("%s; it counts as missing, and is made again", error)
            return None
        except OSError as error:
            log.warning("cannot read %s: %s; it counts as missing", path, error.strerror or error)
            return None
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            log.warning("%s holds something else than it should: %r; it counts as missing", path, error)
            return None
        return made

    def _keep(self, recipe: Recipe, made: Any) -> None:
        try:
            self._write(recipe, *_packing().pack(made))
        except (TypeError, ValueError, RecursionError) as error:
            log.warning(
                "cannot keep %s (%s): %s. It is used all the same, and made again next time",
                self.path(recipe.kind, recipe.key),
                type(made).__qualname__,
                error,
            )

    def _write(self, recipe: Recipe, tree: Any, arrays: list[Any]) -> None:
        path = self.path(recipe.kind, recipe.key)
        texts = {
            "format": str(FORMAT),
            "kind": recipe.kind,
            "key": recipe.key,
            "recipe": recipe.text,
            "tree": json.dumps(tree),
        }
        try:
            self.cache_dir.mkdir(parents=True, exist_ok=True)
            with folders.opened(self.cache_dir, f"{recipe.kind}/{recipe.key[:2]}", make=True) as folder:
                write_atomically(path, lambda file: sealed.write(file, texts, arrays), durable=False, folder=folder)
        except OSError as error:
            reason = error.strerror or str(error)
            needed = size(sum(array.nbytes for array in arrays))
            level = logging.DEBUG if reason in self._complaints else logging.WARNING
            self._complaints.add(reason)
            log.log(
                level, "cannot keep %s of %s: %s. It is used all the same, and made again then", path, needed, reason
            )


def _packing() -> Any:
    from simet_cache.metrics import packing  # noqa: PLC0415 - it imports torch, and looking after files does without

    return packing


def _checked_head(file: IO[bytes], path: Path, kind: str, key: str) -> Head:
    head = sealed.read_head(file, path)
    if head.texts.get("format") != str(FORMAT):
        raise DamagedEntryError(f"{path} was written by another version of simet-cache")
    if (head.texts.get("kind"), head.texts.get("key")) != (kind, key):
        raise DamagedEntryError(f"{path} is about something else: {head.texts.get('kind')} {head.texts.get('key')}")
    return head


def _touch(file: IO[bytes]) -> None:
    """The time of a file says when it was last used."""
    with suppress(OSError):
        if time.time() - os.fstat(file.fileno()).st_mtime > _TOUCHED:
            os.utime(file.fileno())


# Looking after the files


@dataclass(frozen=True)
class Kept:
    """One file of what is derived.

    Attributes:
        kind: ``summaries``, ``values``, or ``results`` of Prefect's tasks about them.
        path: Where it is.
        bytes: How large it is.
        last_used: Seconds since 1970.
    """

    kind: str
    path: Path
    bytes: int
    last_used: float


def kept(cache_dir: Path) -> list[Kept]:
    """All that is derived, by kind and key.

    Raises:
        OSError: A folder cannot be read.
    """
    return [
        one
        for kind, folder in folders_of(cache_dir)
        for one in _files(kind, cache_dir, f"{kind}/{folder.name}", _DERIVED)
    ]


def _files(kind: str, cache_dir: Path, folder: str, named: re.Pattern[str]) -> list[Kept]:
    found = folders.files_in(cache_dir, folder, named=named.fullmatch)
    return [Kept(kind, cache_dir / folder / name, status.st_size, status.st_mtime) for name, status in found]


def results_folder(cache_dir: Path) -> Path:
    """Where earlier versions kept Prefect's results of tasks that derive something; needed by nobody."""
    return cache_dir / RESULTS


def results(cache_dir: Path) -> list[Kept]:
    """Those that are there.

    Raises:
        OSError: The folder cannot be read.
    """
    return _files("results", cache_dir, RESULTS, _KEY)


def folders_of(cache_dir: Path) -> Iterator[tuple[Kind, Path]]:
    """Each folder that has summaries or values.

    Raises:
        OSError: A folder cannot be read.
    """
    for kind in KINDS:
        with suppress(FileNotFoundError, folders.LinkedFolderError), folders.opened(cache_dir, kind) as folder:
            names = sorted(name for name in os.listdir(folder) if _DIGITS.fullmatch(name))
            yield from ((kind, cache_dir / kind / name) for name in names)


def remove(cache_dir: Path, one: Kept) -> None:
    """Remove a file of what is derived, which may be gone already.

    Raises:
        OSError: It cannot be removed.
    """
    folders.remove(cache_dir, one.path)


def damage(one: Kept, *, full: bool) -> str:
    """What is wrong with a file; empty where nothing is, or where it is gone by now.

    Args:
        one: The file.
        full: Check every byte, and not only head and size.
    """
    try:
        with open_regular(one.path) as file:
            head = _checked_head(file, one.path, one.kind, one.path.stem)
            for place in head.places if full else ():
                sealed.read_array(file, place, one.path)
    except FileNotFoundError:
        return ""
    except DamagedEntryError as error:
        return str(error)
    except OSError as error:
        return f"cannot read {one.path}: {error.strerror or error}"
    return ""
