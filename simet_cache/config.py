"""The configuration of an evaluation: what the YAML may say, with every default.

Every name is resolved and every folder looked for here, before the first image is read.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from simet_cache import extractors
from simet_cache.datasets import torchvision_sets
from simet_cache.datasets.digits import PARTS
from simet_cache.datasets.folder import has_images
from simet_cache.errors import ConfigError, DatasetError, MetricError
from simet_cache.extractors import fid_inception, torchvision_models
from simet_cache.metrics import METRICS, Intervals, resolve
from simet_cache.mirror import remote_at

Problem = tuple[tuple[str | int, ...], str]


def did_you_mean(word: object, known: Iterator[str] | tuple[str, ...] | list[str]) -> str:
    """`` Did you mean 'x'?``, or nothing where no known name is near."""
    near = get_close_matches(str(word), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _raise(problems: Iterable[Problem]) -> None:
    """One error for all problems below the value that is being validated; nothing where there are none."""
    found = list(problems)
    if found:
        text = "; ".join(f"{'.'.join(map(str, place))}: {message}" for place, message in found)
        raise PydanticCustomError("problems", "{text}", {"text": text, "problems": found})


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, found {str(value).lower()}")
    return value


Whole = Annotated[int, BeforeValidator(_no_truth)]  # or else true and false count as 1 and 0
Number = Annotated[float, BeforeValidator(_no_truth)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)


class SubsetConfig(_Model):
    """So many images, drawn by a seed: always the same ones."""

    size: Whole = Field(ge=1)
    seed: Whole = 0


class _DatasetConfig(_Model):
    name: str = ""
    subset: SubsetConfig | None = None


class FolderConfig(_DatasetConfig):
    """A folder of images, searched recursively; with ``classes`` its first level of folders are labels."""

    path: Path
    classes: bool = False

    @field_validator("path")
    @classmethod
    def _exists(cls, path: Path) -> Path:
        if os.path.isdir(path):
            return path
        if os.path.exists(path):
            raise ValueError(f"expected a folder of images, found a file: {path}")
        siblings = os.listdir(path.parent) if os.access(path.parent, os.R_OK | os.X_OK) else []
        hint = did_you_mean(path.name, [name for name in siblings if os.path.isdir(path.parent / name)])
        raise ValueError(f"no such folder: {path}{hint and '.' + hint}")

    def default_name(self) -> str:
        """The folder's name; a link's own, as in ``latest``, and not that of what it leads to."""
        return self.path.resolve().name if self.path.name in ("", "..") else self.path.name


class GlobConfig(_DatasetConfig):
    """Many folders at once, each a dataset named after the part of its path that the pattern left open.

    ``runs/*/samples`` finds ``runs/a/samples`` and calls it ``a``.
    """

    glob: Path
    classes: bool = False

    @field_validator("glob")
    @classmethod
    def _matches(cls, pattern: Path) -> Path:
        if not _folders(pattern):
            raise ValueError(f"no folder matches {pattern}")
        return pattern

    @model_validator(mode="after")
    def _unnamed(self) -> GlobConfig:
        if self.name:
            raise ValueError("a glob names its datasets itself; leave out 'name'")
        return self

    def expand(self) -> list[FolderConfig]:
        """One dataset for each folder that matches, sorted by path."""
        before = len(list(_fixed_parts(self.glob.parts)))
        after = len(list(_fixed_parts(self.glob.parts[before:][::-1])))
        return [
            FolderConfig(
                name="_".join(path.parts[before : len(path.parts) - after]) or path.resolve().name,
                path=path,
                subset=self.subset,
                classes=self.classes,
            )
            for path in _folders(self.glob)
        ]


class TorchvisionConfig(_DatasetConfig):
    """One of torchvision's own datasets, downloaded when it is not under ``root`` yet."""

    torchvision: str
    root: Path
    split: str | None = None

    @field_validator("torchvision")
    @classmethod
    def _known(cls, name: str) -> str:
        known = torchvision_sets.names()
        if name not in known:
            raise ValueError(f"torchvision has no dataset {name!r}.{did_you_mean(name, known)}")
        return name

    @model_validator(mode="after")
    def _takes_split(self) -> TorchvisionConfig:
        problem = torchvision_sets.split_problem(self.torchvision, self.split)
        _raise([(("split",), problem)] if problem else [])
        return self

    def default_name(self) -> str:
        """Like ``CIFAR10-test``."""
        return f"{self.torchvision}-{self.split}" if self.split else self.torchvision


class DigitsConfig(_DatasetConfig):
    """A part of scikit-learn's handwritten digits, written once as a folder of PNG images."""

    digits: str
    seed: Whole = Field(default=0, ge=0)

    @field_validator("digits")
    @classmethod
    def _known(cls, part: str) -> str:
        if part not in PARTS:
            raise ValueError(f"digits has no part {part!r}; it has {', '.join(PARTS)}.{did_you_mean(part, PARTS)}")
        return part

    def default_name(self) -> str:
        """The part's own name."""
        return self.digits


KINDS: dict[str, type[_DatasetConfig]] = {
    "path": FolderConfig,
    "glob": GlobConfig,
    "torchvision": TorchvisionConfig,
    "digits": DigitsConfig,
}


def _kind(value: Any) -> str | None:
    for kind, model in KINDS.items():
        if isinstance(value, model) or (isinstance(value, dict) and kind in value):
            return kind
    return None


def _one_of(*kinds: str) -> Discriminator:
    return Discriminator(
        _kind,
        custom_error_type="dataset_kind",
        custom_error_message=f"expected a mapping with one of the keys {', '.join(kinds)}",
    )


Dataset = Annotated[
    Annotated[FolderConfig, Tag("path")]
    | Annotated[TorchvisionConfig, Tag("torchvision")]
    | Annotated[DigitsConfig, Tag("digits")],
    _one_of("path", "torchvision", "digits"),
]
Datasets = Annotated[
    Annotated[FolderConfig, Tag("path")]
    | Annotated[GlobConfig, Tag("glob")]
    | Annotated[TorchvisionConfig, Tag("torchvision")]
    | Annotated[DigitsConfig, Tag("digits")],
    _one_of("path", "glob", "torchvision", "digits"),
]


class ExtractorConfig(_Model):
    """Which model makes the features, and on what."""

    name: str = "inception_v3"
    weights: str = "default"
    seed: Whole = 0
    image_size: Whole | None = Field(default=None, ge=8)
    layer: str | None = None
    precision: Literal["float32", "amp"] = "float32"
    batch_size: Whole = Field(default=128, ge=1)
    device: str = "auto"
    workers: Whole | None = Field(default=None, ge=0)

    @property
    def weights_file(self) -> Path | None:
        """The local file of weights, where that is what ``weights`` names."""
        return None if self.weights in ("default", "random") else Path(self.weights)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in extractors.names():
            hint = did_you_mean(name, extractors.names()) or " Use inception_v3, fid_inception or a torchvision model."
            raise ValueError(f"no extractor {name!r}.{hint}")
        return name

    @field_validator("weights")
    @classmethod
    def _there(cls, weights: str) -> str:
        if weights not in ("default", "random") and not os.path.isfile(weights):
            hint = did_you_mean(Path(weights).name, ("default", "random"))
            found = f"no such file: {weights}{hint and '.' + hint}"
            raise ValueError(f"expected 'default', 'random' or a file of weights; {found}")
        return weights

    @field_validator("device")
    @classmethod
    def _device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
            raise ValueError(f"expected auto, cpu, mps, cuda or cuda:1 and so on, found {device!r}")
        return device

    @field_validator("layer", mode="before")
    @classmethod
    def _layer_as_text(cls, layer: Any) -> Any:
        number = isinstance(layer, int) and not isinstance(layer, bool)
        return str(layer) if number else layer  # YAML reads 2048 as a number

    @model_validator(mode="after")
    def _options_fit(self) -> ExtractorConfig:
        _raise(self._misfits())
        return self

    def _misfits(self) -> Iterator[Problem]:
        if self.image_size is not None and self.name in (fid_inception.NAME, torchvision_models.INCEPTION):
            yield ("image_size",), f"{self.name} always sees 299 pixels; leave it out"
        if self.layer is not None and self.name != fid_inception.NAME:
            yield ("layer",), f"only {fid_inception.NAME} has layers to choose from"
        elif self.layer is not None and self.layer not in fid_inception.LAYERS:
            yield ("layer",), f"{fid_inception.NAME} has {', '.join(fid_inception.LAYERS)}; found {self.layer!r}"
        if self.seed and self.weights != "random":
            yield ("seed",), "only 'weights: random' has a seed"


class RestraintConfig(_Model):
    """What a metric must hold, for all datasets or for those whose names match."""

    lower_bound: Number | None = Field(default=None, allow_inf_nan=False)
    upper_bound: Number | None = Field(default=None, allow_inf_nan=False)
    datasets: list[str] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _bounds(self) -> RestraintConfig:
        if self.lower_bound is None and self.upper_bound is None:
            raise ValueError("expected lower_bound, upper_bound or both")
        if None not in (self.lower_bound, self.upper_bound) and self.lower_bound > self.upper_bound:  # type: ignore[operator]
            raise ValueError(f"lower_bound {self.lower_bound} is above upper_bound {self.upper_bound}")
        return self

    def applies_to(self, name: str) -> bool:
        """Whether a dataset of this name is meant."""
        return self.datasets is None or any(fnmatchcase(name, pattern) for pattern in self.datasets)


class IntervalsConfig(_Model):
    """Confidence intervals: how often they are to hold the truth, and the seed of what is drawn to make them."""

    level: Number = Field(default=0.95, gt=0, lt=1)
    seed: Whole = Field(default=0, ge=0)

    def asked(self) -> Intervals:
        """As the metrics know them."""
        return Intervals(self.level, self.seed)


Metrics = dict[str, dict[str, Any]]
Restraints = dict[str, RestraintConfig]


class EvaluationConfig(_Model):
    """One evaluation: sets of images against a reference, by metrics on features, with bounds."""

    reference: Dataset
    datasets: list[Datasets] = Field(min_length=1)
    cache_dir: Path = Path("cache/features")
    output: Path = Path("results")
    extractor: ExtractorConfig = ExtractorConfig()
    metrics: Metrics = Field(default={"fid": {}, "kid": {}, "precision": {}, "recall": {}}, min_length=1)
    intervals: IntervalsConfig | None = None
    per_class: bool = False
    restraints: Restraints = {}
    on_bad_image: Literal["stop", "skip"] = "stop"
    on_stale: Literal["recompute", "error", "reuse"] = "recompute"
    verify: Literal["quick", "full"] = "quick"
    fingerprint: Literal["stat", "content"] = "stat"
    remote: str | None = None
    force_recompute: bool = False

    @field_validator("remote")
    @classmethod
    def _opens(cls, remote: str | None) -> str | None:
        if remote is not None:
            try:
                remote_at(remote)
            except ConfigError as error:
                raise ValueError(str(error).removeprefix("remote: ")) from error
        return remote

    @field_validator("intervals", mode="before")
    @classmethod
    def _switched(cls, value: Any) -> Any:
        """``true`` asks for what ``{}`` does, and ``false`` for nothing."""
        if isinstance(value, bool):
            return {} if value else None
        return value

    @field_validator("metrics", mode="before")
    @classmethod
    def _as_mapping(cls, value: Any) -> Any:
        """``[fid, {precision: {k: 5}}]`` and ``{fid: {}, precision: {k: 5}}`` say the same."""
        if not isinstance(value, (list, dict)):
            found = "nothing" if value is None else repr(value)
            raise ValueError(f"expected names of metrics, like [fid, kid]; found {found}")
        merged: dict[str, Any] = {}
        for entry in value if isinstance(value, list) else [value]:
            named = {entry: {}} if isinstance(entry, str) else entry
            if not isinstance(named, dict):
                raise ValueError(f"expected names of metrics, or mappings of a name to parameters; found {entry!r}")
            for name, parameters in named.items():
                if name in merged:
                    raise ValueError(f"the metric {name!r} stands twice")
                merged[name] = {} if parameters is None else parameters
        return merged

    @field_validator("reference")
    @classmethod
    def _has_images(cls, reference: Any) -> Any:
        _raise(_empty_reference(reference))
        return _named(reference)

    @field_validator("datasets")
    @classmethod
    def _expanded(cls, entries: list[Any]) -> list[Any]:
        datasets: dict[str, Any] = {}
        problems: list[Problem] = []
        for number, entry in enumerate(entries):
            for one in map(_named, entry.expand() if isinstance(entry, GlobConfig) else [entry]):
                if one.name in datasets:
                    problems.append(((number,), f"two datasets are called {one.name!r}; give them a 'name' each"))
                datasets[one.name] = one
        _raise(problems)
        return list(datasets.values())

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: Metrics) -> Metrics:
        _raise(_metric_problems(metrics))
        return metrics

    @model_validator(mode="after")
    def _metrics_fit(self) -> EvaluationConfig:
        _raise([*_without_labels(self), *_without_logits(self)])
        return self

    @property
    def needs_labels(self) -> bool:
        """Whether the class of each image matters."""
        return self.per_class or any(METRICS[name].needs_labels for name in self.metrics)

    @field_validator("restraints")
    @classmethod
    def _about_something(cls, restraints: Restraints, info: ValidationInfo) -> Restraints:
        _raise(_restraint_problems(restraints, info.data.get("metrics"), info.data.get("datasets")))
        return restraints


def _named(dataset: Any) -> Any:
    return dataset if dataset.name else dataset.model_copy(update={"name": dataset.default_name()})


def _empty_reference(reference: Any) -> Iterator[Problem]:
    """Without images in the reference nothing can be measured; an empty dataset fails alone, later."""
    if isinstance(reference, FolderConfig):
        try:
            if not has_images(reference.path):
                yield ("path",), f"no image in {reference.path}"
        except DatasetError as error:
            yield ("path",), str(error)


def _metric_problems(metrics: Metrics) -> Iterator[Problem]:
    for name, parameters in metrics.items():
        try:
            resolve({name: parameters})
        except MetricError as error:
            yield (name,), str(error)


def _without_labels(config: EvaluationConfig) -> Iterator[Problem]:
    """Folders say by ``classes`` whether they have labels; torchvision's sets are asked when they are open."""
    if not config.needs_labels:
        return
    wanted = "per_class" if config.per_class else ", ".join(n for n in config.metrics if METRICS[n].needs_labels)
    for place, one in (
        (("reference",), config.reference),
        *((("datasets", i), d) for i, d in enumerate(config.datasets)),
    ):
        if isinstance(one, FolderConfig) and not one.classes:
            yield (
                (*place, "classes"),
                f"{wanted} needs labels: one folder for each class in {one.path}, and classes: true",
            )


def _without_logits(config: EvaluationConfig) -> Iterator[Problem]:
    if "inception_score" in config.metrics and "logits" not in str(config.extractor.layer):
        yield (
            ("metrics", "inception_score"),
            "needs logits: extractor {name: fid_inception, layer: logits_unbiased}, which the other metrics then share",
        )


def _restraint_problems(
    restraints: Restraints, metrics: Metrics | None, datasets: list[Any] | None
) -> Iterator[Problem]:
    """None stands for metrics and datasets that have problems of their own."""
    for metric, restraint in restraints.items():
        if metrics is not None and metric not in metrics:
            yield (metric,), f"{metric!r} is not among the metrics.{did_you_mean(metric, [*metrics])}"
        if datasets is not None:
            names = [one.name for one in datasets]
            for pattern in restraint.datasets or []:
                if not any(fnmatchcase(name, pattern) for name in names):
                    yield (metric, "datasets"), f"no dataset is called {pattern!r}.{did_you_mean(pattern, names)}"


def _folders(pattern: Path) -> list[Path]:
    found = (Path(match) for match in sorted(glob.glob(str(pattern), recursive=True)))
    return [path for path in found if path.is_dir() and not path.name.startswith(".")]


def _fixed_parts(parts: Iterable[str]) -> Iterator[str]:
    """Up to the first that leaves something open; what is escaped does not."""
    for part in parts:
        if glob.has_magic(re.sub(r"\[[*?[]\]", "", part)):
            return
        yield part
