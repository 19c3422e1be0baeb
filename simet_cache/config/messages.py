"""What pydantic says of a configuration, as lines that a person reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from simet_cache.config.datasets import KINDS, SubsetConfig
from simet_cache.config.evaluation import EvaluationConfig
from simet_cache.config.exclude import ExcludeConfig
from simet_cache.config.extractor import ExtractorConfig
from simet_cache.config.model import did_you_mean
from simet_cache.config.parts import MAX_COPIES, IntervalsConfig, RestraintConfig, TaskRunnerConfig
from simet_cache.config.written import Place, Source, described, dotted
from simet_cache.metrics.names import key_of_metric

_TAG_AT = {"reference": 1, "references": 2, "datasets": 2}  # where pydantic's places name the kind of a dataset


def lines(error: ValidationError, source: Source) -> Iterator[str]:
    """A line for each problem: where it was written, which key, and what is wrong."""
    for problem in error.errors():
        place = _without_tags(problem["loc"])
        if problem["type"] == "problems":
            for inner, message in problem["ctx"]["problems"]:
                yield _line(source, (*place, *inner), message)
        else:
            yield _line(source, place, _MESSAGES.get(problem["type"], _plain_message)(problem))


def _line(source: Source, place: Place, message: str) -> str:
    place = _written(source, place)
    name = dotted(place)
    return f"{source.origin(place)[0]}: {name}: {message}" if name else f"{source.origin(place)[0]}: {message}"


def _written(source: Source, place: Place) -> Place:
    """Where it stands: metrics in a list have been made a mapping since, in the table's spelling of their names."""
    if place[:1] not in (("metrics",), ("restraints",)) or len(place) == 1:
        return place
    around, metric, *below = place
    entries = source.tree.get(str(around))
    if isinstance(entries, dict):
        return (around, key_of_metric(entries, str(metric)), *below)
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        names = entry if isinstance(entry, dict) else [entry]
        written = key_of_metric(names, str(metric))
        if written in names:
            return (around, number, *((written, *below) if isinstance(entry, dict) else ()))
    return place


def _without_tags(loc: Place) -> Place:
    """Pydantic names the member of a union, too; leave that out."""
    number = _TAG_AT.get(str(loc[0]), len(loc)) if loc else 0
    return (*loc[:number], *loc[number + 1 :])


def _plain_message(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "greater_than_equal":
        return f"expected {problem['ctx']['ge']} or more, found {described(problem['input'])}"
    if problem["type"] == "literal_error":
        return f"expected {problem['ctx']['expected']}, found {described(problem['input'])}"
    expected = str(problem["msg"]).removeprefix("Input should be ").split(",")[0]
    return f"expected {_EXPECTED.get(problem['type'], expected)}, found {described(problem['input'])}"


def _too_short(_: Mapping[str, Any]) -> str:
    return "expected at least one entry, found none"


def _no_kind(problem: Mapping[str, Any]) -> str:
    found = problem["input"]
    if not isinstance(found, dict) or not found:
        return f"{problem['msg']}, found {described(found)}"
    if "glob" in found:  # it is one of the keys elsewhere
        return f"{problem['msg']}, found glob, which may name many; several references stand under references"
    hints = (did_you_mean(key, sorted(KINDS)) for key in found)
    return f"{problem['msg']}, found {', '.join(found)}.{next(filter(None, hints), '')}".removesuffix(".")


def _unknown_key(problem: Mapping[str, Any]) -> str:
    *around, key = problem["loc"]
    if key in KINDS and around[-1] in KINDS:
        return f"this dataset has {around[-1]!r} already; leave one of them out"
    if key == MAX_COPIES and not around:
        return f"unknown key; it is one of the restraints, as in restraints: {{{MAX_COPIES}: 0}}"
    known = list(_model_at(around).model_fields)
    return f"unknown key.{did_you_mean(key, known) or ' Known here: ' + ', '.join(known)}"


def _model_at(loc: Sequence[str | int]) -> type[BaseModel]:
    """The model of a mapping, by where pydantic found it."""
    if not loc:
        return EvaluationConfig
    models: dict[Any, type[BaseModel]] = {
        "exclude": ExcludeConfig,
        "extractor": ExtractorConfig,
        "extractors": ExtractorConfig,
        "intervals": IntervalsConfig,
        "restraints": RestraintConfig,
        "subset": SubsetConfig,
        "task_runner": TaskRunnerConfig,
        **KINDS,
    }
    return models[loc[-1] if loc[-1] in models and loc[0] != "restraints" else loc[0]]


def _missing(_: Mapping[str, Any]) -> str:
    return "this key is required"


_MESSAGES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "extra_forbidden": _unknown_key,
    "missing": _missing,
    "dataset_kind": _no_kind,
    "too_short": _too_short,
    "string_too_short": lambda _: "expected text, found ''",
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
