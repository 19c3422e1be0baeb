"""Extractors: image -> feature vector. One file per family; preprocessing and suffix live beside the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from simet_cache.extractors import fid_inception, torchvision_models
from simet_cache.extractors.weights import Weights

if TYPE_CHECKING:
    from simet_cache.config import ExtractorConfig

# Every other name is a torchvision classification model. Each family has a version of its own: raising one leaves the
# entries of the others fresh.
_FAMILIES: dict[str, Any] = {fid_inception.NAME: fid_inception}


@dataclass(frozen=True)
class Extractor:
    """What there is to know about an extractor before its weights are loaded.

    Attributes:
        suffix: Identifies its output in the key.
        transform: RGB image -> tensor (3, H, W).
        build: Makes the model, tensor (N, 3, H, W) -> tensor (N, D), in eval mode on the CPU.
        identity: What else makes its output what it is, for manifests: ``name``, ``weights``, ``precision``,
            ``version`` of its family's code, and ``preprocessing``.
        resizes_to: Pixels of an image as the model's layers see it, where the model itself resizes; else None.
    """

    suffix: str
    transform: Callable[[Any], Any]
    build: Callable[[], nn.Module]
    identity: Mapping[str, Any] = field(default_factory=dict)
    resizes_to: int | None = None


def names() -> tuple[str, ...]:
    """Every extractor that a configuration can name."""
    return (*_FAMILIES, *torchvision_models.names())


def make_extractor(config: ExtractorConfig) -> Extractor:
    """The extractor of a configuration; nothing is downloaded or built yet.

    A file of weights is read for its digest. Who builds the model later gets the weights with that digest, or an error.

    Raises:
        WeightsError: The weights file cannot be read.
    """
    family = _FAMILIES.get(config.name, torchvision_models)
    weights = family.weights(config)
    transform = family.transform(config, weights)
    identity = {
        "name": config.name,
        "weights": weights.identity,
        "precision": config.precision,
        "version": family.VERSION,
        "preprocessing": getattr(transform, "__qualname__", None) or " ".join(repr(transform).split()),
    }
    build = partial(family.build, config, weights)
    return Extractor(_suffix(config, weights), transform, build, identity, family.RESIZES_TO)


def suffix_of(config: ExtractorConfig) -> str:
    """The suffix of a configuration's extractor alone.

    Raises:
        WeightsError: The weights file cannot be read.
    """
    return _suffix(config, _FAMILIES.get(config.name, torchvision_models).weights(config))


def _suffix(config: ExtractorConfig, weights: Weights) -> str:
    suffix: str = _FAMILIES.get(config.name, torchvision_models).suffix(config, weights)
    return suffix + ("+amp" if config.precision == "amp" else "")


def check_weights(config: ExtractorConfig) -> None:
    """See that a configuration's file of weights fits its model, if there is one; the model itself is not built.

    A file that torch's hub folder has under the name of the published weights, and that is another, counts as one.

    Raises:
        WeightsError: It is no state dict, or does not fit.
        ExtractorError: The model cannot be built.
    """
    family = _FAMILIES.get(config.name, torchvision_models)
    found = family.weights(config)
    if found.path is not None and not (found.in_hub and found.url):
        family.check_weights(config, found)


def named_in(suffix: str) -> str:
    """The name of the extractor whose suffix this is; the suffix itself where it is of none that is known."""
    known = (name for name in names() if re.match(rf"{re.escape(name)}(?![a-z0-9])", suffix))
    return max(known, key=len, default=suffix)


def frechet_label(suffix: str) -> str:
    """``FID`` on the features that papers compute it from, ``FD (<suffix>)`` on all others.

    Those are the 2048 features of ``fid_inception`` with its published weights in float32: its plain suffix. Half
    precision (``+amp``) does not give the published numbers to the digit.
    """
    extractor = suffix.partition("@")[0]  # what follows is about the dataset
    return "FID" if extractor == fid_inception.NAME else f"FD ({extractor})"
