"""The configuration of an evaluation: what the YAML may say, with every default.

Every name is resolved and every folder looked for here, before the first image is read.
"""

from __future__ import annotations

import glob
import inspect
import re
from collections.abc import Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import torchvision.datasets
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from simet_cache import extractors
from simet_cache.datasets.digits import PARTS
from simet_cache.datasets.folder import has_images
from simet_cache.extractors import fid_inception, torchvision_models
from simet_cache.errors import DatasetError, MetricError
from simet_cache.metrics import resolve

Problem = tuple[tuple[str | int, ...], str]


def did_you_mean(word: object, known: Iterator[str] | tuple[str, ...] | list[str]) -> str:
    """`` Did you mean 'x'?``, or nothing where no known name is near."""
    near = get_close_matches(str(word), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)


class SubsetConfig(_Model):
    """So many images, drawn by a seed: always the same ones."""

    size: int = Field(ge=1)
    seed: int = 0


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
        if not path.exists():
            siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            raise ValueError(f"no such folder: {path}.{did_you_mean(path.name, siblings)}")
        if not path.is_dir():
            raise ValueError(f"expected a folder of images, found a file: {path}")
        return path

    def default_name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name


class GlobConfig(_DatasetConfig):
    """Many folders at once, each a dataset named after the part of its path that the pattern left open."""

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
        fixed = Path(*(part for part in _fixed_parts(self.glob)))
        return [
            FolderConfig(name=str(path.relative_to(fixed)).replace("/", "_"), path=path, **self._shared())
            for path in _folders(self.glob)
        ]

    def _shared(self) -> dict[str, Any]:
        return {"subset": self.subset, "classes": self.classes}


class TorchvisionConfig(_DatasetConfig):
    """One of torchvision's own datasets, downloaded when it is not under ``root`` yet."""

    torchvision: str
    root: Path
    split: str | None = None

    @field_validator("torchvision")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in torchvision.datasets.__all__:
            known = did_you_mean(name, torchvision.datasets.__all__)
            raise ValueError(f"torchvision has no dataset {name!r}.{known}")
        return name

    @model_validator(mode="after")
    def _takes_split(self) -> TorchvisionConfig:
        taken = inspect.signature(getattr(torchvision.datasets, self.torchvision)).parameters
        if self.split is not None and not {"split", "train"} & taken.keys():
            raise ValueError(f"torchvision's {self.torchvision} has no splits; leave out 'split'")
        if "train" in taken and self.split not in (None, "train", "test"):
            raise ValueError(f"split: torchvision's {self.torchvision} has 'train' and 'test', found {self.split!r}")
        return self

    def default_name(self) -> str:
        """Like ``CIFAR10-test``."""
        return f"{self.torchvision}-{self.split}" if self.split else self.torchvision


class DigitsConfig(_DatasetConfig):
    """A part of scikit-learn's handwritten digits, written once as a folder of PNG images."""

    digits: str
    seed: int = Field(default=0, ge=0)

    @field_validator("digits")
    @classmethod
    def _known(cls, part: str) -> str:
        if part not in PARTS:
            raise ValueError(f"digits has no part {part!r}; it has {', '.join(PARTS)}.{did_you_mean(part, PARTS)}")
        return part

    def default_name(self) -> str:
        """The part's own name."""
        return self.digits


_KINDS: dict[str, type[_DatasetConfig]] = {
    "path": FolderConfig,
    "glob": GlobConfig,
    "torchvision": TorchvisionConfig,
    "digits": DigitsConfig,
}


def _kind(value: Any) -> str | None:
    for kind, model in _KINDS.items():
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
    seed: int = 0
    image_size: int | None = Field(default=None, ge=8)
    layer: str | None = None
    precision: Literal["float32", "amp"] = "float32"
    batch_size: int = Field(default=128, ge=1)
    device: str = "auto"
    workers: int | None = Field(default=None, ge=0)

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
        if weights not in ("default", "random") and not Path(weights).is_file():
            hint = did_you_mean(Path(weights).name, ("default", "random"))
            raise ValueError(f"expected 'default', 'random' or a file of weights; no such file: {weights}.{hint}")
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
        return str(layer) if isinstance(layer, int) else layer  # YAML reads 2048 as a number

    @model_validator(mode="after")
    def _options_fit(self) -> ExtractorConfig:
        if self.image_size is not None and self.name in (fid_inception.NAME, torchvision_models.INCEPTION):
            raise ValueError(f"image_size: {self.name} always sees 299 pixels; leave it out")
        if self.layer is not None and self.name != fid_inception.NAME:
            raise ValueError(f"layer: only {fid_inception.NAME} has layers to choose from")
        if self.layer is not None and self.layer not in fid_inception.LAYERS:
            raise ValueError(f"layer: {fid_inception.NAME} has {', '.join(fid_inception.LAYERS)}; found {self.layer!r}")
        if self.seed and self.weights != "random":
            raise ValueError("seed: only 'weights: random' has a seed")
        return self


class RestraintConfig(_Model):
    """What a metric must hold, for all datasets or for those whose names match."""

    lower_bound: float | None = Field(default=None, allow_inf_nan=False)
    upper_bound: float | None = Field(default=None, allow_inf_nan=False)
    datasets: list[str] | None = None

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


class EvaluationConfig(_Model):
    """One evaluation: sets of images against a reference, by metrics on features, with bounds."""

    reference: Dataset
    datasets: list[Datasets] = Field(min_length=1)
    cache_dir: Path = Path("cache/features")
    output: Path = Path("results")
    extractor: ExtractorConfig = ExtractorConfig()
    metrics: dict[str, dict[str, Any]] = Field(default={"fid": {}, "kid": {}, "precision": {}, "recall": {}}, min_length=1)
    restraints: dict[str, RestraintConfig] = {}
    on_bad_image: Literal["stop", "skip"] = "stop"
    force_recompute: bool = False

    @field_validator("metrics", mode="before")
    @classmethod
    def _as_mapping(cls, value: Any) -> Any:
        """``[fid, {precision: {k: 5}}]`` and ``{fid: {}, precision: {k: 5}}`` say the same."""
        if not isinstance(value, list):
            return value
        merged: dict[str, Any] = {}
        for entry in value:
            named = {entry: {}} if isinstance(entry, str) else entry
            if not isinstance(named, dict):
                raise ValueError(f"expected names of metrics, or mappings of a name to parameters; found {entry!r}")
            for name, parameters in named.items():
                if name in merged:
                    raise ValueError(f"the metric {name!r} stands twice")
                merged[name] = {} if parameters is None else parameters
        return merged

    @model_validator(mode="after")
    def _names_resolve(self) -> EvaluationConfig:
        datasets = [one for entry in self.datasets for one in (entry.expand() if isinstance(entry, GlobConfig) else [entry])]
        named = [one if one.name else one.model_copy(update={"name": one.default_name()}) for one in datasets]
        problems = [*_metric_problems(self.metrics), *_name_problems(self, [one.name for one in named])]
        problems += _empty_reference(self.reference)
        if problems:
            text = "; ".join(f"{'.'.join(map(str, place))}: {message}" for place, message in problems)
            raise PydanticCustomError("names", "{text}", {"text": text, "problems": problems})
        reference = self.reference.model_copy(update={"name": self.reference.name or self.reference.default_name()})
        for field, value in {"datasets": named, "reference": reference}.items():
            object.__setattr__(self, field, value)  # frozen for everyone else
        return self


def _empty_reference(reference: Any) -> Iterator[Problem]:
    """Without images in the reference nothing can be measured; an empty dataset fails alone, later."""
    if isinstance(reference, FolderConfig):
        try:
            if not has_images(reference.path):
                yield ("reference", "path"), f"no image in {reference.path}"
        except DatasetError as error:
            yield ("reference", "path"), str(error)


def _metric_problems(metrics: dict[str, dict[str, Any]]) -> Iterator[Problem]:
    for name, parameters in metrics.items():
        try:
            resolve({name: parameters})
        except MetricError as error:
            yield ("metrics", name), str(error)


def _name_problems(config: EvaluationConfig, names: list[str]) -> Iterator[Problem]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield ("datasets",), f"two datasets are called {name!r}; give them a 'name' each"
    for metric, restraint in config.restraints.items():
        place = ("restraints", metric)
        if metric not in config.metrics:
            yield place, f"{metric!r} is not among the metrics.{did_you_mean(metric, [*config.metrics])}"
        for pattern in restraint.datasets or []:
            if not any(fnmatchcase(name, pattern) for name in names):
                yield (*place, "datasets"), f"no dataset is called {pattern!r}.{did_you_mean(pattern, names)}"


def _folders(pattern: Path) -> list[Path]:
    found = (Path(match) for match in sorted(glob.glob(str(pattern), recursive=True)))
    return [path for path in found if path.is_dir() and not path.name.startswith(".")]


def _fixed_parts(pattern: Path) -> Iterator[str]:
    for part in pattern.parts:
        if glob.has_magic(part):
            return
        yield part
