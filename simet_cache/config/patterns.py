"""Folders by a pattern: which there are, what each is called, its step and its other parts, and what else is there."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path

STEP = "{step}"
_WILDCARD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ESCAPED = re.compile(r"\[[*?[{]\]")

# Named parts become columns of results.csv and of tables, which have these already.
RESERVED = frozenset(
    (
        *("reference", "extractor", "dataset", "metric", "label", "class", "value", "low", "high", "direction", "best"),
        *("passed", "n_real", "n_synth", "width", "version", "parameters", "level", "method", "details", "suffix"),
        *("key", "reference_key", "cached", "warnings", "error", "images", "restraints", "features", "name"),
        *("copies", "copies_exact", "copies_near"),
    )
)


@dataclass(frozen=True)
class Found:
    """A folder that a pattern has found.

    Attributes:
        path: Where it is.
        start: The first component of ``path`` that the pattern left open.
        end: The first one after the last of those.
        step: The number in place of ``{step}``; None where the pattern has no such place.
        parts: What stands in place of each other ``{name}``.
    """

    path: Path
    start: int
    end: int
    step: int | None = None
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The components of its path from the first to the last that the pattern left open, joined by ``_``."""
        return self.longer_name(0)

    def longer_name(self, more: int) -> str:
        """The name with so many of the components before it."""
        first = max(self.start - more, len(self.path.anchor))
        return "_".join(self.path.parts[first : self.end]) or self.path.resolve().name


@dataclass(frozen=True)
class Beside:
    """What lies where a pattern looks, and is not taken.

    Attributes:
        glob: The pattern.
        paths: Folders and files that its wildcards fit, but not all of it; sorted.
    """

    glob: str
    paths: tuple[str, ...]


def escape(path: str) -> str:
    """A path as a pattern that finds it alone, whatever signs are in it."""
    return _WILDCARD.sub(r"[{]\1}", glob.escape(path))


def is_pattern(part: str) -> bool:
    """Whether a part of a path leaves anything open; what is escaped does not."""
    return bool(_WILDCARD.search(part)) or glob.has_magic(_ESCAPED.sub("", part))


def wildcards(pattern: Path) -> list[str]:
    """The names in braces, ``step`` among them, as often as each occurs."""
    return _WILDCARD.findall(str(pattern))


def other_braces(pattern: Path) -> str:
    """The first braces in a pattern that are text to it, like ``{}``, ``{my run}`` and ``{step:d}``; empty without."""
    found = re.search(r"\{[^/{}]*\}?", _ESCAPED.sub("", _WILDCARD.sub("", str(pattern))))
    return found[0] if found else ""


def find(pattern: Path) -> list[Found]:
    """The folders that match, sorted by path; those that differ in their step by its number.

    Args:
        pattern: As for ``glob``, with ``**``; with ``{step}``, which stands for digits, and with other names in braces,
            which stand for any text within one component, as short as possible, each name at most once. A folder that
            is called so is ``[{]step}``.
    """
    components = pattern.parts
    before = len(list(_fixed(components)))
    after = len(list(_fixed(components[before:][::-1])))
    expressions = [None if component == "**" else re.compile(_expression(component)) for component in components]
    found: list[tuple[tuple[object, ...], Found]] = []
    for match in sorted(set(glob.glob(_as_glob(str(pattern)), recursive=True))):
        path = Path(match)
        if not path.is_dir() or path.name.startswith("."):
            continue
        texts = _texts(expressions, path.parts)
        if texts is None:
            continue
        parts = {name: text for name, (_, text) in texts.items() if f"{{{name}}}" != STEP}
        place, digits = texts.get("step", (0, ""))
        step = int(digits) if digits else None
        order = () if step is None else (path.parts[:place], step)
        found.append((order, Found(path, before, len(path.parts) - after, step, parts)))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def beside(pattern: Path) -> Beside:
    """What the wildcards of a pattern fit and all of it does not: ``checkpoint-last``, files, folders without samples.

    Each wildcard counts as a star, and what a star passes over, being hidden, counts, too. Below a folder that is
    passed over, and below ``**``, nothing is looked for.
    """
    components = pattern.parts
    taken = {one.path.parts for one in find(pattern)}
    passed_over: set[tuple[str, ...]] = set()
    for number, component in enumerate(components):
        if component == "**":
            break
        if not is_pattern(component):
            continue
        begun = os.path.join(*(_as_glob(part, digits="*") for part in components[: number + 1]))
        prefixes = {path[: number + 1] for path in taken}
        for match in glob.glob(begun, include_hidden=True):
            parts = Path(match).parts
            if parts not in prefixes and not any(parts[: len(one)] == one for one in passed_over):
                passed_over.add(parts)
    return Beside(str(pattern), tuple(sorted(os.path.join(*parts) for parts in passed_over)))


def _as_glob(text: str, *, digits: str = "[0-9]*") -> str:
    """A name stands for one sign at least; ``*`` alone beside another one would be ``**``."""
    return _WILDCARD.sub(lambda match: digits if match[0] == STEP else "?*", text)


def _fixed(components: Iterable[str]) -> Iterator[str]:
    """Up to the first that leaves something open."""
    for component in components:
        if is_pattern(component):
            return
        yield component


def _texts(expressions: Sequence[re.Pattern[str] | None], path: tuple[str, ...]) -> dict[str, tuple[int, str]] | None:
    """For each name in braces the component in which it was found, and its text; None where the path does not fit.

    Args:
        expressions: Of each component of the pattern; None for ``**``, which takes as few components as possible.
        path: The components of a path.
    """

    def fit(number: int, place: int) -> dict[str, tuple[int, str]] | None:
        if number == len(expressions):
            return {} if place == len(path) else None
        expression = expressions[number]
        if expression is None:
            fits = (fit(number + 1, further) for further in range(place, len(path) + 1))
            return next((found for found in fits if found is not None), None)
        match = expression.fullmatch(path[place]) if place < len(path) else None
        rest = None if match is None else fit(number + 1, place + 1)
        if match is None or rest is None:
            return None
        return {**{name: (place, text) for name, text in match.groupdict().items()}, **rest}

    return fit(0, 0)


def _expression(component: str) -> str:
    """A component as a regular expression; digits beside what is open are all that stand there."""
    texts = _WILDCARD.split(component)  # text, name, text, name, text
    expression = _translated(texts[0])
    for number in range(1, len(texts), 2):
        name, head, tail = texts[number], texts[number - 1], texts[number + 1]
        if name != "step":
            expression += f"(?P<{name}>.+?)"
        else:
            open_before = head.endswith("*") or (not head and number > 1)
            open_after = tail.startswith("*") or (not tail and number + 2 < len(texts))
            expression += f"{'(?<![0-9])' if open_before else ''}(?P<step>[0-9]+){'(?![0-9])' if open_after else ''}"
        expression += _translated(tail)
    return expression


def _translated(text: str) -> str:
    r"""As ``fnmatch`` has it, ``(?s:...)\Z``, without the end."""
    return translate(text)[:-2]
