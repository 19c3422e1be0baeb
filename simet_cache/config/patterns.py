"""Folders by a pattern: which there are, what each is called, and which step of a training it is."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path

STEP = "{step}"
_MARK = "\0"  # stands for the step while the rest of a part is translated; no path has it
_ESCAPED = re.compile(r"\[[*?[{]\]")


@dataclass(frozen=True)
class Found:
    """A folder that a pattern has found.

    Attributes:
        path: Where it is.
        name: The parts of its path from the first to the last that the pattern left open, joined by ``_``.
        step: The number in place of ``{step}``; None where the pattern has no such place.
    """

    path: Path
    name: str
    step: int | None = None


def escape(path: str) -> str:
    """A path as a pattern that finds it alone, whatever signs are in it."""
    return glob.escape(path).replace(STEP, "[{]step}")


def find(pattern: Path) -> list[Found]:
    """The folders that match, sorted by path; those that differ in their step by its number.

    Args:
        pattern: As for ``glob``, with ``**``, and with ``{step}`` at most once, which stands for digits. A folder that
            is called so is ``[{]step}``.
    """
    parts = pattern.parts
    before = len(list(_fixed(parts)))
    after = len(list(_fixed(parts[before:][::-1])))
    found: list[tuple[tuple[object, ...], Found]] = []
    for match in sorted(set(glob.glob(str(pattern).replace(STEP, "[0-9]*"), recursive=True))):
        path = Path(match)
        if not path.is_dir() or path.name.startswith("."):
            continue
        name = "_".join(path.parts[before : len(path.parts) - after]) or path.resolve().name
        if STEP not in str(pattern):
            found.append(((), Found(path, name)))
        elif (step := _step(parts, path.parts)) is not None:
            place, number = step
            found.append(((path.parts[:place], number), Found(path, name, number)))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def _fixed(parts: Iterable[str]) -> Iterator[str]:
    """Up to the first that leaves something open; what is escaped does not."""
    for part in parts:
        if STEP in part or glob.has_magic(_ESCAPED.sub("", part)):
            return
        yield part


def _step(pattern: tuple[str, ...], parts: tuple[str, ...]) -> tuple[int, int] | None:
    """Which part of a path that matches holds the step, and the number; None where there is more than digits."""
    at = next(number for number, part in enumerate(pattern) if STEP in part)
    before, after = pattern[:at], pattern[at + 1 :]
    first = sum(part != "**" for part in before)
    last = len(parts) - 1 - sum(part != "**" for part in after)
    places = range(first, last + 1)  # more than one only where ** leaves it open
    if "**" not in before:
        places = places[:1]
    elif "**" not in after:
        places = places[-1:]
    fits = re.compile(_digits(pattern[at]))
    return next(((place, int(match[1])) for place in places if (match := fits.match(parts[place]))), None)


def _digits(part: str) -> str:
    """The expression for a part with ``{step}``, whose digits beside a star are all that stand there."""
    head, _, tail = part.partition(STEP)
    digits = f"{'(?<![0-9])' if head.endswith('*') else ''}([0-9]+){'(?![0-9])' if tail.startswith('*') else ''}"
    return translate(f"{head}{_MARK}{tail}").replace(_MARK, digits)
