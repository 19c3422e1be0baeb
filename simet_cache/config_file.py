"""From a YAML file, ``--set`` and the command line to an ``EvaluationConfig``; every problem with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from simet_cache.config import EvaluationConfig, did_you_mean
from simet_cache.errors import ConfigError

Place = tuple[str | int, ...]

_DATASET_KINDS = {"path", "glob", "torchvision", "digits"}
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
    path = Path(path).expanduser()
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
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        tree = loader.construct_document(node) if node else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError([f"{path}{line}: no valid YAML: {getattr(error, 'problem', None) or error}"]) from error
    except (ValueError, RecursionError) as error:  # like a date that does not exist, or an alias to itself
        raise ConfigError([f"{path}: no valid YAML: {error}"]) from error
    finally:
        loader.dispose()
    if not isinstance(tree, dict):
        raise ConfigError([f"{path}: expected a mapping with at least 'reference' and 'datasets', found {_kind(tree)}"])
    base = path.resolve().parent
    origins: dict[Place, tuple[str, Path]] = {(): (str(path), base)}
    twice = []
    for place, line, repeated in _places(node, ()):
        origins[place] = (f"{path}:{line}", base)
        if repeated:
            twice.append(f"{path}:{line}: {_dotted(place)}: this key stands twice")
    if twice:
        raise ConfigError(twice)
    return _Source(tree, origins)


def _places(node: yaml.Node, place: Place) -> Iterator[tuple[Place, int, bool]]:
    """Every value below a node: its place in the tree, its line, and whether its key stood before."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            inner = (*place, str(key.value))
            yield inner, key.start_mark.line + 1, key.value in seen
            seen.add(key.value)
            yield from _places(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            inner = (*place, number)
            yield inner, item.start_mark.line + 1, False
            yield from _places(item, inner)


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
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError([f"--set {override}: the value is no valid YAML"]) from error
    place: Place = ()
    tree: Any = source.tree
    *parents, last = key.strip().split(".")
    for part in parents:
        step, place = _step(tree, part, place, override)
        if isinstance(tree, dict):
            tree.setdefault(step, {})
            if isinstance(tree[step], list) and step == "metrics":
                tree[step] = _metrics_as_mapping(tree[step])
        tree = tree[step]
    step, place = _step(tree, last, place, override)
    tree[step] = value
    source.origins = {known: origin for known, origin in source.origins.items() if known[: len(place)] != place}
    source.origins[place] = (f"--set {key.strip()}", Path.cwd())


def _metrics_as_mapping(entries: list[Any]) -> dict[str, Any]:
    return {name: value for entry in entries for name, value in ({entry: {}} if isinstance(entry, str) else entry).items()}


def _step(tree: Any, part: str, place: Place, override: str) -> tuple[Any, Place]:
    if isinstance(tree, dict):
        return part, (*place, part)
    if isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
        return int(part), (*place, int(part))
    what = f"a list of {len(tree)}, whose items are called 0 to {len(tree) - 1}" if isinstance(tree, list) else "a value"
    raise ConfigError([f"--set {override}: {_dotted(place)} is {what}; it has no {part!r}"])


def _absolute(source: _Source, tree: Any, place: Place) -> None:
    """Make every path absolute, relative to whoever wrote it."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        inner = (*place, key)
        if isinstance(value, (dict, list)):
            _absolute(source, value, inner)
        elif isinstance(value, str) and (key in _PATHS or _is_weights_file(inner, value)):
            tree[key] = str(source.origin(inner)[1] / Path(value).expanduser())


def _is_weights_file(place: Place, value: str) -> bool:
    return place == ("extractor", "weights") and value not in {"default", "random"}


def _lines(error: ValidationError, source: _Source) -> Iterator[str]:
    for problem in error.errors():
        named = problem.get("ctx", {}).get("problems")
        if named:
            for place, message in named:
                yield _line(source, _written(source, tuple(place)), message)
            continue
        place = _without_tags(problem["loc"], source.tree)
        yield _line(source, place, _MESSAGES.get(problem["type"], _plain_message)(problem, place))


def _line(source: _Source, place: Place, message: str) -> str:
    name = _dotted(place)
    return f"{source.origin(place)[0]}: {name}: {message}" if name else f"{source.origin(place)[0]}: {message}"


def _written(source: _Source, place: Place) -> Place:
    """The place of a metric's name in the list form, ``[fid, kid]``, which has been made a mapping."""
    entries = source.tree.get("metrics")
    if place[:1] == ("metrics",) and len(place) > 1 and isinstance(entries, list):
        for number, entry in enumerate(entries):
            if entry == place[1] or (isinstance(entry, dict) and place[1] in entry):
                return ("metrics", number, *(place[1:] if isinstance(entry, dict) else ()))
    return place


def _without_tags(loc: Place, tree: Any) -> Place:
    """Pydantic names the member of a union, too; leave that out."""
    place: Place = ()
    for number, part in enumerate(loc):
        tag = isinstance(part, str) and part in _DATASET_KINDS and number == (1 if loc[0] == "reference" else 2)
        if not tag:
            place = (*place, part)
    return place


def _dotted(place: Place) -> str:
    return ".".join(map(str, place))


def _plain_message(problem: Mapping[str, Any], _: Place) -> str:
    if problem["type"] == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    expected = str(problem["msg"]).removeprefix("Input should be ").split(",")[0]
    return f"expected {_EXPECTED.get(problem['type'], expected)}, found {_kind(problem['input'])}"


def _no_kind(problem: Mapping[str, Any], _: Place) -> str:
    found = problem["input"]
    if not isinstance(found, dict):
        return f"{problem['msg']}, found {_kind(found)}"
    hints = (did_you_mean(key, sorted(_DATASET_KINDS)) for key in found)
    return f"{problem['msg']}, found {', '.join(map(str, found)) or 'none'}.{next(filter(None, hints), '')}"


def _unknown_key(problem: Mapping[str, Any], place: Place) -> str:
    del problem
    known = list(_known_keys(place))
    return f"unknown key.{did_you_mean(place[-1], known) or ' Known here: ' + ', '.join(known)}"


def _known_keys(place: Place) -> Iterator[str]:
    from simet_cache import config

    models: dict[Any, list[Any]] = {
        (): [EvaluationConfig],
        "extractor": [config.ExtractorConfig],
        "restraints": [config.RestraintConfig],
        "subset": [config.SubsetConfig],
    }
    dataset = list(config._KINDS.values())
    around: Any = () if len(place) == 1 else "subset" if place[-2] == "subset" else place[0]
    for model in models.get(around, dataset):
        yield from model.model_fields


def _missing(problem: Mapping[str, Any], _: Place) -> str:
    del problem
    return "this key is required"


_MESSAGES: dict[str, Callable[[Mapping[str, Any], Place], str]] = {
    "extra_forbidden": _unknown_key,
    "missing": _missing,
    "dataset_kind": _no_kind,
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
    "too_short": "at least one entry",
}


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (dict, list)):
        return f"a {'mapping' if isinstance(value, dict) else 'list'}"
    return repr(value)
