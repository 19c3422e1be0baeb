"""From a YAML file, ``--set`` and the command line to an ``EvaluationConfig``; every problem with its place."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from yaml.composer import ComposerError

from simet_cache.config import (
    KINDS,
    EvaluationConfig,
    ExtractorConfig,
    IntervalsConfig,
    RestraintConfig,
    SubsetConfig,
    did_you_mean,
)
from simet_cache.errors import ConfigError

Place = tuple[str | int, ...]
_Written = tuple[Place, int, str]  # where in the tree, in which line, and what is wrong with the key

_TAG_AT = {"reference": 1, "datasets": 2}  # where pydantic's places name the kind of a dataset
_MOST_VALUES = 100_000
_TEXT_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}
_METRICS = EvaluationConfig.model_fields["metrics"].default
_PATHS = {"path", "glob", "root", "cache_dir", "output"}


@dataclass
class _Source:
    """A tree of plain values, and where each of them was written."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Place, tuple[str, Path]] = field(default_factory=dict)  # what to call the place; base of its paths

    def origin(self, place: Place) -> tuple[str, Path]:
        """Of a value, or of the nearest one around it that was written somewhere."""
        while place not in self.origins:
            place = place[:-1]
        return self.origins[place]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> EvaluationConfig:
    """Read and validate a configuration file.

    Args:
        path: The YAML file. Paths in it are relative to its folder, defaults too.
        overrides: ``key=value`` each, with dots in the key and YAML for the value: ``restraints.fid.upper_bound=40``.
            Paths in them are relative to the working directory.

    Raises:
        ConfigError: With one line for each problem.
    """
    path = Path(os.path.expanduser(path))
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot read the configuration: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: expected a YAML file in UTF-8: {error}"]) from error
    return _validated(_read_yaml(text, path), overrides)


def config_from_folders(real: str, synth: Sequence[str], overrides: Sequence[str] = ()) -> EvaluationConfig:
    """The configuration that ``--real DIR --synth DIR [DIR ...]`` stands for, relative to the working directory.

    Raises:
        ConfigError: With one line for each problem.
    """
    tree = {"reference": {"path": real}, "datasets": [{"path": folder} for folder in synth]}
    origins: dict[Place, tuple[str, Path]] = {(): ("command line", Path.cwd()), ("reference",): ("--real", Path.cwd())}
    origins |= {("datasets", number): ("--synth", Path.cwd()) for number in range(len(synth))}
    return _validated(_Source(tree, origins), overrides)


def _read_yaml(text: str, path: Path) -> _Source:
    try:
        tree, places, faults = _parsed(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError([f"{path}{line}: no valid YAML: {_reason(error)}"]) from error
    if faults:
        raise ConfigError([f"{path}:{line}: {_dotted(place)}: {fault}" for place, line, fault in faults])
    if not isinstance(tree, dict):
        raise ConfigError([f"{path}: expected a mapping with at least 'reference' and 'datasets', found {_kind(tree)}"])
    base = path.resolve().parent
    origins: dict[Place, tuple[str, Path]] = {(): (str(path), base)}
    origins |= {place: (f"{path}:{line}", base) for place, line, _ in places}
    return _Source(tree, origins)


def _parsed(text: str) -> tuple[Any, list[_Written], list[_Written]]:
    """Plain values, where they were written, and what is wrong with their keys.

    Raises:
        YAMLError: This is no YAML, has tags that are not plain, or is endless by its aliases.
    """
    try:
        loader = yaml.SafeLoader(text)
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
    except ValueError as error:  # like a date that does not exist
        raise yaml.YAMLError(str(error)) from error


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


def _validated(source: _Source, overrides: Sequence[str]) -> EvaluationConfig:
    for override in overrides:
        _override(source, override)
    for name in ("cache_dir", "output"):  # their defaults follow the file, too
        source.tree.setdefault(name, str(EvaluationConfig.model_fields[name].default))
    _absolute(source, source.tree, ())
    try:
        return EvaluationConfig.model_validate(source.tree)
    except ValidationError as error:
        raise ConfigError(list(dict.fromkeys(_lines(error, source)))) from error


def _override(source: _Source, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError([f"--set {override}: expected key=value, like restraints.fid.upper_bound=40"])
    try:
        value, _, faults = _parsed(text)
    except yaml.YAMLError as error:
        raise ConfigError([f"--set {override}: the value is no valid YAML: {_reason(error)}"]) from error
    if faults:
        raise ConfigError([f"--set {override}: {_dotted(place)}: {fault}" for place, _, fault in faults])
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
        return part, (*place, part)
    if isinstance(tree, list) and part.isdecimal() and int(part) < len(tree):
        return int(part), (*place, int(part))
    what = f"a list of {len(tree)}, whose items are called 0, 1 and so on" if isinstance(tree, list) else "a value"
    raise ConfigError([f"--set {override}: {_dotted(place)} is {what}; it has no {part!r}"])


def _absolute(source: _Source, tree: Any, place: Place) -> None:
    """Make every path absolute, relative to whoever wrote it."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        inner = (*place, key)
        if isinstance(value, (dict, list)):
            _absolute(source, value, inner)
        elif isinstance(value, str) and (key in _PATHS or _is_weights_file(inner, value)):
            base = str(source.origin(inner)[1])
            tree[key] = os.path.join(glob.escape(base) if key == "glob" else base, os.path.expanduser(value))


def _is_weights_file(place: Place, value: str) -> bool:
    return place == ("extractor", "weights") and value not in {"default", "random"}


def _lines(error: ValidationError, source: _Source) -> Iterator[str]:
    for problem in error.errors():
        place = _without_tags(problem["loc"])
        if problem["type"] == "problems":
            for inner, message in problem["ctx"]["problems"]:
                yield _line(source, (*place, *inner), message)
        else:
            yield _line(source, place, _MESSAGES.get(problem["type"], _plain_message)(problem))


def _line(source: _Source, place: Place, message: str) -> str:
    place = _written(source, place)
    name = _dotted(place)
    return f"{source.origin(place)[0]}: {name}: {message}" if name else f"{source.origin(place)[0]}: {message}"


def _written(source: _Source, place: Place) -> Place:
    """Where it stands: a metric's name may be in the list form, ``[fid, kid]``, which has been made a mapping."""
    entries = source.tree.get("metrics")
    if place[:1] == ("metrics",) and len(place) > 1 and isinstance(entries, list):
        for number, entry in enumerate(entries):
            if entry == place[1] or (isinstance(entry, dict) and place[1] in entry):
                return ("metrics", number, *(place[1:] if isinstance(entry, dict) else ()))
    return place


def _without_tags(loc: Place) -> Place:
    """Pydantic names the member of a union, too; leave that out."""
    number = _TAG_AT.get(str(loc[0]), len(loc)) if loc else 0
    return (*loc[:number], *loc[number + 1 :])


def _dotted(place: Place) -> str:
    return ".".join(map(str, place))


def _plain_message(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "greater_than_equal":
        return f"expected {problem['ctx']['ge']} or more, found {_kind(problem['input'])}"
    if problem["type"] == "literal_error":
        return f"expected {problem['ctx']['expected']}, found {_kind(problem['input'])}"
    expected = str(problem["msg"]).removeprefix("Input should be ").split(",")[0]
    return f"expected {_EXPECTED.get(problem['type'], expected)}, found {_kind(problem['input'])}"


def _too_short(_: Mapping[str, Any]) -> str:
    return "expected at least one entry, found none"


def _no_kind(problem: Mapping[str, Any]) -> str:
    found = problem["input"]
    if not isinstance(found, dict) or not found:
        return f"{problem['msg']}, found {_kind(found)}"
    if "glob" in found:  # it is one of the keys elsewhere
        return f"{problem['msg']}, found glob, which may name many; a reference is one"
    hints = (did_you_mean(key, sorted(KINDS)) for key in found)
    return f"{problem['msg']}, found {', '.join(found)}.{next(filter(None, hints), '')}".removesuffix(".")


def _unknown_key(problem: Mapping[str, Any]) -> str:
    *around, key = problem["loc"]
    if key in KINDS and around[-1] in KINDS:
        return f"this dataset has {around[-1]!r} already; leave one of them out"
    known = list(_model_at(around).model_fields)
    return f"unknown key.{did_you_mean(key, known) or ' Known here: ' + ', '.join(known)}"


def _model_at(loc: Sequence[str | int]) -> type[BaseModel]:
    """The model of a mapping, by where pydantic found it."""
    if not loc:
        return EvaluationConfig
    models: dict[Any, type[BaseModel]] = {
        "extractor": ExtractorConfig,
        "intervals": IntervalsConfig,
        "subset": SubsetConfig,
        **KINDS,
    }
    return RestraintConfig if loc[0] == "restraints" else models[loc[-1]]


def _missing(_: Mapping[str, Any]) -> str:
    return "this key is required"


_MESSAGES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "extra_forbidden": _unknown_key,
    "missing": _missing,
    "dataset_kind": _no_kind,
    "too_short": _too_short,
}
_EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (dict, list)):
        return f"{'a' if value else 'an empty'} {'mapping' if isinstance(value, dict) else 'list'}"
    return str(value) if isinstance(value, date) else str(value).lower() if isinstance(value, bool) else repr(value)
