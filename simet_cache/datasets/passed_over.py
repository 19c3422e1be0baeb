"""What lies where images or sets are looked for, and does not count: told in one line, and kept in the results."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

HIDDEN = "hidden"
OTHER = "not named like an image"
NO_FILE = "neither file nor folder"
LISTED = "a link to a folder that counts already"
NO_CLASS = "a folder for a class without an image"

_SETS = 10  # in the line
_NAMES = 5  # of one glob
_SUFFIXES = 5  # of one set
_KINDS = 1000  # of suffixes, that are counted one by one: names may be anything


@dataclass(frozen=True)
class PassedOver:
    """Entries of a folder that do not count as images, for one reason.

    Attributes:
        why: In a few words.
        count: How many; a hidden folder is one.
        first: The first of them in code point order, relative to the folder.
        suffixes: Of files that are not named like images: how many have each suffix, in lower case with its dot,
            the most frequent first.
    """

    why: str
    count: int
    first: str
    suffixes: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        first = f"{'first ' if self.count > 1 else ''}{self.first}"
        if len(self.suffixes) > 1:
            kinds = (f"{count} {suffix or 'without a suffix'}" for suffix, count in self.suffixes.items())
            first = f"{listed(kinds, _SUFFIXES)}; {first}"
        return f"{self.count} {self.why} ({first})"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {name: value for name, value in vars(self).items() if name != "suffixes" or value}


class Notes:
    """What a search passes over: numbers and first names, since there may be as many entries as images."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}
        self._suffixes: dict[str, Counter[str]] = {}

    def add(self, why: str, name: str, *, suffix: str | None = None) -> None:
        """One more entry; of a file, what it is named like where that is the reason."""
        count, first = self._found.get(why, (0, name))
        self._found[why] = count + 1, min(first, name)
        if suffix is not None:
            counted = self._suffixes.setdefault(why, Counter())
            if suffix in counted or len(counted) < _KINDS:
                counted[suffix] += 1

    def all(self) -> tuple[PassedOver, ...]:
        """By reason."""
        return tuple(PassedOver(why, *self._found[why], self._by_number(why)) for why in sorted(self._found))

    def _by_number(self, why: str) -> dict[str, int]:
        return dict(sorted(self._suffixes.get(why, {}).items(), key=lambda one: (-one[1], one[0])))


def in_one_line(sets: Iterable[tuple[str, Sequence[PassedOver]]], globs: Iterable[tuple[str, Sequence[str]]]) -> str:
    """What does not count, for a person.

    Args:
        sets: The name of each set, and what its folder holds besides images.
        globs: Each pattern, and the paths that its wildcards fit and it does not.

    Returns:
        One line; nothing where everything counts.
    """
    parts = [f"beside {pattern}: {listed(map(os.path.basename, paths), _NAMES)}" for pattern, paths in globs if paths]
    parts += [f"{name}: {', '.join(map(str, what))}" for name, what in sets if what]
    return f"passed over: {listed(dict.fromkeys(parts), _SETS, between='; ')}" if parts else ""


def listed(entries: Iterable[str], most: int, *, between: str = ", ") -> str:
    """The first entries, and how many more there are."""
    found = list(entries)
    more = f"{between}and {len(found) - most} more" if len(found) > most else ""
    return between.join(found[:most]) + more
