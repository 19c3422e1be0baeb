"""Extractors: image -> feature vector. One file per family; preprocessing and suffix live beside the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from simet_cache.extractors import fid_inception, torchvision_models

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
    """

    suffix: str
    transform: Callable[[Any], Any]
    build: Callable[[], nn.Module]
    identity: Mapping[str, Any] = field(default_factory=dict)


def names() -> tuple[str, ...]:
    """Every extractor that a configuration can name."""
    return (*_FAMILIES, *torchvision_models.names())


def make_extractor(config: ExtractorConfig) -> Extractor:
    """The extractor of a configuration; nothing is downloaded or built yet.

    Raises:
        WeightsError: The weights file cannot be read.
    """
    family = _FAMILIES.get(config.name, torchvision_models)
    suffix = family.suffix(config) + ("+amp" if config.precision == "amp" else "")
    transform = family.transform(config)
    identity = {
        "name": config.name,
        "weights": family.weights_identity(config),
        "precision": config.precision,
        "version": family.VERSION,
        "preprocessing": getattr(transform, "__qualname__", None) or " ".join(repr(transform).split()),
    }
    return Extractor(suffix, transform, partial(family.build, config), identity)


def check_weights(config: ExtractorConfig) -> None:
    """See that a configuration's file of weights fits its model, if it names one; the model itself is not built.

    Raises:
        WeightsError: It is no state dict, or does not fit.
        ExtractorError: The model cannot be built.
    """
    if config.weights_file is not None:
        _FAMILIES.get(config.name, torchvision_models).check_weights(config, config.weights_file)


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
