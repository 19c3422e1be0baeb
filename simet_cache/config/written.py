"""YAML as a tree of plain values that knows where each of them was written: in which line, or in which ``--set``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from simet_cache.config.evaluation import EvaluationConfig
from simet_cache.errors import ConfigError
from simet_cache.metrics.names import key_of_metric

Place = tuple[str | int, ...]
_Written = tuple[Place, int, str]  # where in the tree, in which line, and what is wrong with the key

_MOST_VALUES = 100_000
_MOST_BITS = 1024  # of a whole number, as of the largest float: thousands of digits cannot even be printed
_LONGEST = 200  # characters of a value in a message
_TEXT_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}
_METRICS = EvaluationConfig.model_fields["metrics"].default


@dataclass
class Source:
    """A tree of plain values, and where each of them was written."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Place, tuple[str, Path]] = field(default_factory=dict)  # what to call the place; base of its paths

    def origin(self, place: Place) -> tuple[str, Path]:
        """Of a value, or of the nearest one around it that was written somewhere."""
        while place not in self.origins:
            place = place[:-1]
        return self.origins[place]


def read_yaml(text: str, path: Path) -> Source:
    """The tree that a file holds.

    Raises:
        ConfigError: It is no YAML, no mapping, or has keys that are no text or stand twice.
    """
    try:
        tree, places, faults = _parsed(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError([f"{path}{line}: no valid YAML: {_reason(error)}"]) from error
    if faults:
        raise ConfigError([f"{path}:{line}: {dotted(place)}: {fault}" for place, line, fault in faults])
    if not isinstance(tree, dict):
        raise ConfigError(
            [f"{path}: expected a mapping with at least 'reference' and 'datasets', found {described(tree)}"]
        )
    base = path.resolve().parent
    origins: dict[Place, tuple[str, Path]] = {(): (str(path), base)}
    origins |= {place: (f"{path}:{line}", base) for place, line, _ in places}
    return Source(tree, origins)


def apply_override(source: Source, override: str) -> None:
    """Put the value of ``key=value`` into the tree, and remember that it came from there.

    Raises:
        ConfigError: It is no such pair, or there is no such place.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError([f"--set {override}: expected key=value, like restraints.fid.upper_bound=40"])
    try:
        value, _, faults = _parsed(text)
    except yaml.YAMLError as error:
        raise ConfigError([f"--set {override}: the value is no valid YAML: {_reason(error)}"]) from error
    if faults:
        raise ConfigError([f"--set {override}: {dotted(place)}: {fault}" for place, _, fault in faults])
    place: Place = ()
    tree: Any = source.tree
    new: Place = ()
    steps = key.strip().split(".")
    for part, following in pairwise(steps):
        step, place = _step(tree, part, place, override)
        if isinstance(tree, dict) and tree.get(step) is None:  # not there, or there without a value
            tree[step] = _unshared(_METRICS) if place == ("metrics",) else {}
            new = new or place
        if place == ("metrics",) and isinstance(tree[step], list) and not following.isdecimal():
            tree[step] = _metrics_as_mapping(tree[step])
        tree = tree[step]
    step, place = _step(tree, steps[-1], place, override)
    tree[step] = value
    new = new or place
    source.origins = {known: origin for known, origin in source.origins.items() if known[: len(new)] != new}
    source.origins[new] = (f"--set {key.strip()}", Path.cwd())


def _metrics_as_mapping(entries: list[Any]) -> Any:
    """``[fid, {precision: {k: 5}}]`` by name; as it is where it says something else, or a name twice."""
    named = [{entry: {}} if isinstance(entry, str) else entry for entry in entries]
    if not all(isinstance(entry, dict) for entry in named):
        return entries
    merged = {name: value for entry in named for name, value in entry.items()}
    return merged if len(merged) == sum(map(len, named)) else entries


def _step(tree: Any, part: str, place: Place, override: str) -> tuple[Any, Place]:
    if isinstance(tree, dict):
        if place in (("metrics",), ("restraints",)):  # FID replaces what stands there as fid
            part = key_of_metric(tree, part)
        return part, (*place, part)
    if isinstance(tree, list) and part.isdecimal() and int(part) < len(tree):
        return int(part), (*place, int(part))
    what = f"a list of {len(tree)}, whose items are called 0, 1 and so on" if isinstance(tree, list) else "a value"
    raise ConfigError([f"--set {override}: {dotted(place)} is {what}; it has no {part!r}"])


def _parsed(text: str) -> tuple[Any, list[_Written], list[_Written]]:
    """Plain values, where they were written, and what is wrong with their keys.

    Raises:
        YAMLError: This is no YAML, has tags that are not plain, or is endless by its aliases.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            faults = [written for written in _limited(_places(node)) if written[2]]
            tree = loader.construct_document(node) if node and not faults else None
        finally:
            loader.dispose()
        # once more, since merge keys (<<) have been resolved meanwhile
        return _unshared(tree), list(_places(node)), faults
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error


class _Loader(yaml.SafeLoader):
    """Which says where a value stands that cannot be made, like a date that does not exist, or ``!!bool zzz``."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node.

        Raises:
            ConstructorError: It has none.
        """
        kind = node.tag.rpartition(":")[2]
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            why = f": {error}" if type(error) is ValueError and "digits" not in str(error) else ""
            raise ConstructorError(None, None, f"{_short(node.value)} is no {kind}{why}", node.start_mark) from error
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            problem = f"{_short(node.value)} is too large a number"
            raise ConstructorError(None, None, problem, node.start_mark)
        return value


def _short(value: Any) -> str:
    """A value, or the beginning of a long one."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"


def _limited(places: Iterator[_Written]) -> Iterator[_Written]:
    for number, place in enumerate(places):
        if number == _MOST_VALUES:
            raise yaml.YAMLError(f"more than {_MOST_VALUES} values, aliases counted as what they stand for")
        yield place


def _places(node: yaml.Node | None, place: Place = (), around: tuple[yaml.Node, ...] = ()) -> Iterator[_Written]:
    """Every value below a node: its place in the tree, its line, and what is wrong with its key."""
    if any(node is outer for outer in around):
        raise ComposerError(None, None, "an alias stands inside of what it names", node.start_mark if node else None)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            text = key.value if isinstance(key, yaml.ScalarNode) else "?"
            fault = "this key stands twice" if text in seen else ""
            if key.tag not in _TEXT_TAGS:
                fault = "expected text as a key; put it in quotes"
            yield (*place, text), key.start_mark.line + 1, fault
            seen.add(text)
            yield from _places(value, (*place, text), (*around, node))
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield (*place, number), item.start_mark.line + 1, ""
            yield from _places(item, (*place, number), (*around, node))


def _unshared(tree: Any) -> Any:
    """A copy in which the values behind aliases are values of their own, so that each can be changed alone."""
    if isinstance(tree, dict):
        return {key: _unshared(value) for key, value in tree.items()}
    return [_unshared(value) for value in tree] if isinstance(tree, list) else tree


def _reason(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or str(error).splitlines()[0]


def dotted(place: Place) -> str:
    """A place as in ``--set``."""
    return ".".join(map(str, place))


def described(value: Any) -> str:
    """A value as a sentence says that it was found."""
    if value is None:
        return "nothing"
    if isinstance(value, (dict, list)):
        return f"{'a' if value else 'an empty'} {'mapping' if isinstance(value, dict) else 'list'}"
    return str(value) if isinstance(value, date) else str(value).lower() if isinstance(value, bool) else _short(value)
