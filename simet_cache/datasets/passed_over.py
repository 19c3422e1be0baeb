"""What lies where images or sets are looked for, and does not count: told in one line, and kept in the results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HIDDEN = "hidden"
OTHER = "not named like an image"
NO_FILE = "neither file nor folder"
LISTED = "a link to a folder that counts already"
NO_CLASS = "a folder for a class without an image"

_SETS = 10  # in the line
_NAMES = 5  # of one glob


@dataclass(frozen=True)
class PassedOver:
    """Entries of a folder that do not count as images, for one reason.

    Attributes:
        why: In a few words.
        count: How many; a hidden folder is one.
        first: The first of them in code point order, relative to the folder.
    """

    why: str
    count: int
    first: str

    def __str__(self) -> str:
        return f"{self.count} {self.why} ({'first ' if self.count > 1 else ''}{self.first})"


class Notes:
    """What a search passes over: numbers and first names, since there may be as many entries as images."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, why: str, name: str) -> None:
        """One more entry."""
        count, first = self._found.get(why, (0, name))
        self._found[why] = count + 1, min(first, name)

    def all(self) -> tuple[PassedOver, ...]:
        """By reason."""
        return tuple(PassedOver(why, *self._found[why]) for why in sorted(self._found))


def in_one_line(sets: Iterable[tuple[str, Sequence[PassedOver]]], globs: Iterable[tuple[str, Sequence[str]]]) -> str:
    """What does not count, for a person.

    Args:
        sets: The name of each set, and what its folder holds besides images.
        globs: Each pattern, and the paths that its wildcards fit and it does not.

    Returns:
        One line; nothing where everything counts.
    """
    parts = [f"beside {pattern}: {_listed(map(os.path.basename, paths), _NAMES)}" for pattern, paths in globs if paths]
    parts += [f"{name}: {', '.join(map(str, what))}" for name, what in sets if what]
    return f"passed over: {_listed(dict.fromkeys(parts), _SETS, between='; ')}" if parts else ""


def _listed(entries: Iterable[str], most: int, *, between: str = ", ") -> str:
    found = list(entries)
    more = f"{between}and {len(found) - most} more" if len(found) > most else ""
    return between.join(found[:most]) + more
