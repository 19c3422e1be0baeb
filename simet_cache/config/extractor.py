"""Which model makes the features, and on what."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from simet_cache import extractors
from simet_cache.config.model import Model, Problem, Whole, did_you_mean, raise_problems
from simet_cache.errors import WeightsError
from simet_cache.extractors import fid_inception, torchvision_models


class ExtractorConfig(Model):
    """Which model makes the features, and on what."""

    name: str = fid_inception.NAME
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

    @property
    def suffix(self) -> str:
        """What it adds to keys, by which results call it.

        Raises:
            WeightsError: The weights file cannot be read.
        """
        return extractors.suffix_of(self)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in extractors.names():
            hint = did_you_mean(name, extractors.names()) or " Use fid_inception, inception_v3 or a torchvision model."
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

    @field_validator("layer", mode="before", json_schema_input_type=str | int | None)
    @classmethod
    def _layer_as_text(cls, layer: Any) -> Any:
        number = isinstance(layer, int) and not isinstance(layer, bool)
        return str(layer) if number else layer  # YAML reads 2048 as a number

    @model_validator(mode="after")
    def _options_fit(self) -> ExtractorConfig:
        raise_problems(self._misfits())
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


def alike(configs: Sequence[ExtractorConfig]) -> Iterator[Problem]:
    """Extractors whose features nothing tells from those of an earlier one in the list."""
    first: dict[str, int] = {}
    for number, config in enumerate(configs):
        try:
            earlier = first.setdefault(config.suffix, number)
        except WeightsError as error:
            yield (number, "weights"), str(error)
            continue
        if earlier != number:
            yield (number,), f"makes the same features as extractors.{earlier} ({config.suffix}); leave one of them out"
