"""The configuration of an evaluation: what the YAML may say, with every default.

Every name is resolved and every folder looked for here, before the first image is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, ModelWrapValidatorHandler, PrivateAttr, ValidationInfo, field_validator, model_validator

from simet_cache.config import checks
from simet_cache.config.datasets import Dataset, Datasets, expanded, named, without_images
from simet_cache.config.exclude import ExcludeConfig, left_over
from simet_cache.config.extractor import ExtractorConfig, alike
from simet_cache.config.model import Model, Whole, raise_problems
from simet_cache.config.parts import IntervalsConfig, RestraintConfig, Runner, TaskRunnerConfig
from simet_cache.config.patterns import Beside
from simet_cache.datasets.images import MAX_PIXELS
from simet_cache.errors import ConfigError
from simet_cache.metrics import METRICS
from simet_cache.mirror import remote_at
from simet_cache.urls import not_a_folder, refused_in

Metrics = dict[str, dict[str, Any]]
Restraints = dict[str, RestraintConfig]
_Named = str | dict[str, dict[str, Any] | None]


class Comparison(NamedTuple):
    """A dataset against a reference on the features of one extractor, by the metrics that nothing leaves out."""

    reference: Any
    dataset: Any
    extractor: ExtractorConfig
    metrics: Metrics


@dataclass(frozen=True)
class _Globs:
    """What a configuration knows of its globs besides the datasets that they have found; no part of a comparison."""

    beside: tuple[Beside, ...] = field(default=(), compare=False)


class EvaluationConfig(Model):
    """One evaluation: sets of images against references, by metrics on features, with bounds.

    Lists make a sweep: every dataset against every reference on the features of every extractor, by every metric, but
    for what ``exclude`` leaves out.
    """

    # the lists come first: whether the single one is missing depends on them
    references: list[Datasets] | None = Field(default=None, min_length=1)
    reference: Dataset | None = Field(default=None, validate_default=True)
    datasets: list[Datasets] = Field(min_length=1)
    cache_dir: Path = Path("cache/features")
    output: Path = Path("results")
    keep_runs: Whole = Field(default=50, ge=1)
    extractors: list[ExtractorConfig] | None = Field(default=None, min_length=1)
    extractor: ExtractorConfig | None = None
    metrics: Metrics = Field(default={"fid": {}, "kid": {}, "precision": {}, "recall": {}}, min_length=1)
    exclude: list[ExcludeConfig] = Field(default=[])
    intervals: IntervalsConfig | None = None
    per_class: bool = False
    restraints: Restraints = Field(default={})
    on_bad_image: Literal["stop", "skip"] = "stop"
    max_pixels: Whole = Field(default=MAX_PIXELS, ge=1)
    on_stale: Literal["recompute", "error", "reuse"] = "recompute"
    verify: Literal["quick", "full"] = "quick"
    fingerprint: Literal["stat", "content"] = "stat"
    remote: str | None = None
    force_recompute: bool = False
    shard_size: Whole = Field(default=10_000, ge=1)
    keep_shards: bool = False
    max_in_flight: Whole = Field(default=8, ge=1)
    retries: Whole = Field(default=2, ge=0)
    extraction_limit: str | None = Field(default=None, min_length=1)
    device_locks: Literal["auto", "all", "none"] = "auto"
    task_runner: TaskRunnerConfig = TaskRunnerConfig()

    _globs: _Globs = PrivateAttr(default=_Globs())

    @property
    def beside_globs(self) -> tuple[Beside, ...]:
        """What globs passed over; nothing is known of it where folders are listed, as in a configuration's own JSON."""
        return self._globs.beside

    @property
    def all_references(self) -> tuple[Any, ...]:
        """The references, globs found: one, where there is no list of them."""
        return tuple(self.references or (self.reference,))

    @property
    def all_extractors(self) -> tuple[ExtractorConfig, ...]:
        """The extractors: one, where there is no list of them."""
        return tuple(self.extractors or (self.extractor or ExtractorConfig(),))

    def metrics_for(self, *, reference: str, dataset: str, extractor: ExtractorConfig) -> Metrics:
        """The metrics of one comparison, by the names of its sets; none where it is left out altogether."""
        return left_over(self.exclude, self.metrics, reference=reference, dataset=dataset, extractor=extractor)

    def comparisons(self) -> Iterator[Comparison]:
        """Everything that is to be compared: extractor by extractor, reference by reference, in the order given.

        A set that occurs in none of them need not be opened.
        """
        for extractor in self.all_extractors:
            for reference in self.all_references:
                for dataset in self.datasets:
                    metrics = self.metrics_for(reference=reference.name, dataset=dataset.name, extractor=extractor)
                    if metrics:
                        yield Comparison(reference, dataset, extractor, metrics)

    def wants_labels(self, metrics: Mapping[str, Any]) -> bool:
        """Whether the class of each image matters to a comparison by these metrics."""
        return bool(metrics) and (self.per_class or any(METRICS[name].needs_labels for name in metrics))

    @field_validator("references", "datasets")
    @classmethod
    def _expanded(cls, entries: list[Any] | None, info: ValidationInfo) -> list[Any] | None:
        if entries is None:
            return None
        found = expanded(entries, str(info.field_name))
        if info.field_name == "references":
            raise_problems(
                ((number, *place), sentence) for number, one in found for place, sentence in without_images(one)
            )
        return [one for _, one in found]

    @field_validator("reference")
    @classmethod
    def _one_or_several_references(cls, reference: Any, info: ValidationInfo) -> Any:
        if reference is not None:
            _raise_if_both("reference", info)
            raise_problems(without_images(reference))
            return named(reference)
        if info.data.get("references", ()) is None:  # and is not missing for its own problems
            raise ValueError("expected one dataset here, or several under references; found neither")
        return None

    @field_validator("extractors")
    @classmethod
    def _all_different(cls, extractors: list[ExtractorConfig] | None) -> list[ExtractorConfig] | None:
        raise_problems(alike(extractors or []))
        return extractors

    @field_validator("cache_dir", "output", mode="before", json_schema_input_type=Path)
    @classmethod
    def _is_no_url(cls, folder: Any) -> Any:
        if isinstance(folder, str) and (refusal := not_a_folder(folder)):
            raise ValueError(refusal)
        return folder

    @field_validator("extractor")
    @classmethod
    def _one_or_several_extractors(
        cls, extractor: ExtractorConfig | None, info: ValidationInfo
    ) -> ExtractorConfig | None:
        if extractor is not None:
            _raise_if_both("extractor", info)
        return extractor

    @field_validator("metrics", mode="before", json_schema_input_type=list[_Named] | dict[str, dict[str, Any] | None])
    @classmethod
    def _as_mapping(cls, value: Any) -> Any:
        """``[fid, {precision: {k: 5}}]`` and ``{fid: {}, precision: {k: 5}}`` say the same."""
        return checks.metrics_as_mapping(value)

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: Metrics) -> Metrics:
        raise_problems(checks.metric_problems(metrics))
        return metrics

    @field_validator("exclude")
    @classmethod
    def _excludes_something(cls, exclude: list[ExcludeConfig], info: ValidationInfo) -> list[ExcludeConfig]:
        names = checks.names_among(info.data)
        raise_problems(
            ((number, *place), sentence)
            for number, one in enumerate(exclude)
            for place, sentence in one.without_effect(names)
        )
        return exclude

    @field_validator("intervals", mode="before", json_schema_input_type=bool | IntervalsConfig | None)
    @classmethod
    def _switched(cls, value: Any) -> Any:
        """``true`` asks for what ``{}`` does, and ``false`` for nothing."""
        if isinstance(value, bool):
            return {} if value else None
        return value

    @field_validator("restraints", mode="before", json_schema_input_type=dict[str, RestraintConfig | float])
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """``FID`` and ``fid`` are one metric, and ``max_copies: 0`` says the same as ``{upper_bound: 0}`` there."""
        return checks.restraints_as_mappings(checks.restraints_by_name(value))

    @field_validator("restraints")
    @classmethod
    def _about_something(cls, restraints: Restraints, info: ValidationInfo) -> Restraints:
        raise_problems(checks.restraint_problems(restraints, checks.names_among(info.data)))
        return restraints

    @field_validator("remote")
    @classmethod
    def _opens(cls, remote: str | None) -> str | None:
        if remote is not None:
            try:
                remote_at(remote)
            except ConfigError as error:
                raise ValueError(str(error).removeprefix("remote: ")) from error
        return remote

    @field_validator("task_runner", mode="before", json_schema_input_type=Runner | TaskRunnerConfig)
    @classmethod
    def _by_its_kind(cls, value: Any) -> Any:
        """``dask`` says the same as ``{kind: dask}``."""
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="wrap")
    @classmethod
    def _fits_together(cls, data: Any, handler: ModelWrapValidatorHandler[EvaluationConfig]) -> EvaluationConfig:
        if not isinstance(data, dict):
            return handler(data)
        raise_problems(refused_in(data))
        if data.get("extractor") is None and data.get("extractors") is None:
            data = {**data, "extractor": {}}
        config = handler(data)
        raise_problems(checks.misfits(config, data))
        config._globs = _Globs(checks.beside_globs(data))  # noqa: SLF001 - what is written is known here alone
        return config


def _raise_if_both(one: str, info: ValidationInfo) -> None:
    if info.data.get(f"{one}s") is not None:
        raise ValueError(f"expected {one} or {one}s, found both; leave one of them out")
