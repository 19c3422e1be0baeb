"""Whether the parts of a configuration fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simet_cache.config import patterns
from simet_cache.config.datasets import FolderConfig
from simet_cache.config.extractor import ExtractorConfig
from simet_cache.config.model import Problem, did_you_mean, unmatched
from simet_cache.config.parts import MAX_COPIES, RestraintConfig
from simet_cache.errors import MetricError, WeightsError
from simet_cache.metrics import METRICS, resolve
from simet_cache.metrics.names import metric_name

if TYPE_CHECKING:
    from simet_cache.config.evaluation import EvaluationConfig

Names = Sequence[str] | None  # None where they have problems of their own


def metrics_as_mapping(value: Any) -> dict[str, Any]:
    """Metrics in any of their forms as a mapping of names to parameters.

    Raises:
        ValueError: They are in none of them.
    """
    if not isinstance(value, (list, dict)):
        found = "nothing" if value is None else repr(value)
        raise ValueError(f"expected names of metrics, like [fid, kid]; found {found}")
    merged: dict[str, Any] = {}
    for entry in value if isinstance(value, list) else [value]:
        named = {entry: {}} if isinstance(entry, str) else entry
        if not isinstance(named, dict):
            raise ValueError(f"expected names of metrics, or mappings of a name to parameters; found {entry!r}")
        for written, parameters in named.items():
            name = metric_name(written)
            if name in merged:
                raise ValueError(f"the metric {name!r} stands twice")
            merged[name] = {} if parameters is None else parameters
    return merged


def restraints_by_name(value: Any) -> Any:
    """Restraints by the names that the table of metrics has; what is no mapping stays as it is.

    Raises:
        ValueError: A metric stands twice.
    """
    if not isinstance(value, dict):
        return value
    merged: dict[str, Any] = {}
    for written, restraint in value.items():
        name = metric_name(written)
        if name in merged:
            raise ValueError(f"the metric {name!r} stands twice")
        merged[name] = restraint
    return merged


def metric_problems(metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """Metrics that there are not, and parameters that they cannot work with."""
    for name, parameters in metrics.items():
        try:
            resolve({name: parameters})
        except MetricError as error:
            yield (name,), str(error)


def names_among(data: Mapping[str, Any]) -> dict[str, Names]:
    """All names that patterns can be about, by what they are names of; of an extractor its suffix and its name."""
    references = data.get("references") or ([data["reference"]] if data.get("reference") else None)
    extractors = data.get("extractors") or ([data["extractor"]] if data.get("extractor") else None)
    return {
        "reference": _names(references),
        "dataset": _names(data.get("datasets")),
        "extractor": None if extractors is None else _suffixes(extractors),
        "metric": list(data["metrics"]) if "metrics" in data else None,
    }


def _names(sets: Sequence[Any] | None) -> Names:
    return None if sets is None else [one.name for one in sets]


def _suffixes(extractors: Sequence[ExtractorConfig]) -> Names:
    try:
        return [name for one in extractors for name in (one.suffix, one.name)]
    except WeightsError:
        return None


def restraints_as_mappings(value: Any) -> Any:
    """``max_copies: 0`` says the same as ``max_copies: {upper_bound: 0}``; a name that is unknown may be meant so."""
    if not isinstance(value, dict):
        return value
    return {name: _as_upper_bound(bound) if name not in METRICS else bound for name, bound in value.items()}


def _as_upper_bound(bound: Any) -> Any:
    plain = isinstance(bound, int | float | str) and not isinstance(bound, bool)
    return {"upper_bound": bound} if plain else bound


def restraint_problems(restraints: Mapping[str, RestraintConfig], names: Mapping[str, Names]) -> Iterator[Problem]:
    """Restraints without a sense, on metrics that are not asked for, or on sets that there are not."""
    metrics = names["metric"]
    for metric, restraint in restraints.items():
        if metric == MAX_COPIES:
            if restraint.lower_bound is not None:
                yield (metric, "lower_bound"), "a number of copies has an upper_bound alone"
            elif restraint.upper_bound is not None and restraint.upper_bound < 0:
                yield (metric, "upper_bound"), f"expected 0 or more, found {restraint.upper_bound:g}"
        elif metrics is not None and metric not in metrics:
            hint = did_you_mean(metric, [*metrics, MAX_COPIES]) or f" These are {', '.join(metrics)}."
            yield (metric,), f"{metric!r} is not among the metrics.{hint}"
        for what in ("dataset", "reference", "extractor"):
            said = unmatched(getattr(restraint, f"{what}s"), what, names[what])
            yield from (((metric, f"{what}s"), sentence) for sentence in said)


def misfits(config: EvaluationConfig, written: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with a configuration whose parts are right by themselves.

    Args:
        config: The configuration.
        written: What it was made from, for the places of its datasets: a glob is one entry there.
    """
    try:
        if config.exclude and next(config.comparisons(), None) is None:
            yield ("exclude",), "nothing is left to compare"
            return
        yield from _without_labels(config, written)
        yield from _without_logits(config)
        yield from _about_nothing(config)
    except WeightsError as error:  # of the suffix, which patterns are compared with
        yield ("extractor", "weights"), str(error)


def _without_labels(config: EvaluationConfig, written: Mapping[str, Any]) -> Iterator[Problem]:
    """Folders say by ``classes`` whether they have labels; torchvision's sets are asked when they are open."""
    if not config.wants_labels(config.metrics):
        return
    wanted = "per_class" if config.per_class else ", ".join(n for n in config.metrics if METRICS[n].needs_labels)
    asked = [one for one in config.comparisons() if config.wants_labels(one.metrics)]
    for key, sets, names in (
        ("reference", config.all_references, {one.reference.name for one in asked}),
        ("dataset", config.datasets, {one.dataset.name for one in asked}),
    ):
        lacking: dict[tuple[str | int, ...], list[Path]] = {}
        for place, one in zip(_places(key, written), sets, strict=False):
            if isinstance(one, FolderConfig) and not one.classes and one.name in names:
                lacking.setdefault(place, []).append(one.path)
        for place, (first, *others) in lacking.items():
            folders = f"{first} and {len(others)} more" if others else str(first)
            sentence = f"{wanted} needs labels: one folder for each class in {folders}, and classes: true"
            yield (*place, "classes"), sentence


def _places(key: str, written: Mapping[str, Any]) -> Iterator[tuple[str | int, ...]]:
    """Where each set was written, a glob's as often as it finds one."""
    if key == "reference" and written.get(f"{key}s") is None:
        yield (key,)
        return
    for number, entry in enumerate(written[f"{key}s"]):
        pattern = entry.get("glob") if isinstance(entry, dict) else getattr(entry, "glob", None)
        times = 1 if pattern is None else len(patterns.find(Path(pattern)))
        yield from repeat((f"{key}s", number), times)


def _without_logits(config: EvaluationConfig) -> Iterator[Problem]:
    place = ("metrics", "inception_score")
    if place[1] not in config.metrics:
        return
    wanting = {one.extractor for one in config.comparisons() if place[1] in one.metrics}
    blind = [one for one in config.all_extractors if "logits" not in str(one.layer) and one in wanting]
    if not blind:
        return
    if config.extractors is None:
        sentence = "extractor {name: fid_inception, layer: logits_unbiased}, which the other metrics then share"
        yield place, f"needs logits: {sentence}"
    else:
        for one in blind:
            left_out = f"exclude: [{{extractor: {one.suffix}, metric: inception_score}}]"
            yield place, f"needs logits, and {one.suffix} has none: leave it out there, with {left_out}"


def _about_nothing(config: EvaluationConfig) -> Iterator[Problem]:
    """Restraints on what is left out."""
    if not config.exclude:
        return
    for metric, restraint in config.restraints.items():
        if not any(
            (metric in one.metrics or metric == MAX_COPIES)
            and restraint.applies_to(
                one.dataset.name, reference=one.reference.name, extractor=(one.extractor.suffix, one.extractor.name)
            )
            for one in config.comparisons()
        ):
            yield ("restraints", metric), "all that it is about is left out by 'exclude'"
