"""Any torchvision classification model: the features that its last linear layer sees.

``inception_v3`` is the model of the reference system ``simet``, with its preprocessing, and keeps its exact suffix.
The other models come with the preprocessing of their own weights.
"""

from __future__ import annotations

import re
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
import torchvision.models
from torch import nn
from torch.fx.experimental.optimization import fuse
from torchvision import transforms as T
from torchvision.models import get_model, get_model_weights, list_models

from simet_cache.errors import ExtractorError
from simet_cache.extractors import weights as w

if TYPE_CHECKING:
    from simet_cache.config import ExtractorConfig

INCEPTION = "inception_v3"
RESIZES_TO = None  # the transform has done so
VERSION = 1  # of what we do between image and feature: raised when features change under the same suffix


@cache
def names() -> tuple[str, ...]:
    """The classification models that this torchvision has."""
    return tuple(list_models(module=torchvision.models))


def weights(config: ExtractorConfig) -> w.Weights:
    """Which weights are meant, as they are now.

    Raises:
        WeightsError: The file cannot be read.
    """
    published = get_model_weights(config.name)
    return w.find(config, [one.url for one in published], default=published.DEFAULT.url)


def suffix(config: ExtractorConfig, found: w.Weights) -> str:
    """What identifies the output in the key."""
    part = found.suffix
    if not part and config.name != INCEPTION:
        # torchvision's DEFAULT moves to better weights with time, so the suffix names them; simet's model has one set
        part = f"_{_published(config, found).name.lower()}"
    return config.name + part + (f"_{config.image_size}px" if config.image_size else "")


def transform(config: ExtractorConfig, found: w.Weights) -> T.Compose | nn.Module:
    """RGB image -> float32 tensor (3, H, W), as the model expects it."""
    if config.name == INCEPTION:  # simet's, not that of torchvision's weights
        return T.Compose([T.Resize(299), T.CenterCrop(299), T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)])
    preset: nn.Module = _published(config, found).transforms()
    if config.image_size is None:
        return preset
    size = config.image_size
    return T.Compose([T.Resize(size), T.CenterCrop(size), T.ToTensor(), T.Normalize(preset.mean, preset.std)])


def build(config: ExtractorConfig, found: w.Weights) -> nn.Module:
    """The model in eval mode on the CPU, (N, 3, H, W) -> (N, D), convolutions and batch norms fused.

    Raises:
        WeightsError: The weights cannot be had, do not fit, or are not those that were found.
        ExtractorError: The model has no linear head.
    """
    if config.weights == "random":
        model = w.seeded(config.seed, partial(_headless, config, found))
    else:
        model = _headless(config, found)
        w.load_into(model, w.renamed(w.load(found), _modern), str(found.path or config.name))
    model.eval()
    if config.image_size:
        _try_out(model, config)
    fused: nn.Module = fuse(model).eval().requires_grad_(requires_grad=False)
    return fused


def check_weights(config: ExtractorConfig, found: w.Weights) -> None:
    """See that a file of weights fits.

    Raises:
        WeightsError: It does not.
        ExtractorError: The model has no linear head, or cannot be built.
    """
    try:
        with torch.device("meta"):
            model = _headless(config, found)
    except NotImplementedError:  # RegNets compute their widths with tensors, which takes memory
        model = _headless(config, found)
    w.load_into(model, w.renamed(w.load(found), _modern), str(found.path), assign=True)


def _modern(name: str) -> str:
    """DenseNet's published weights have dots where module names must not have them any more."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", name)


def _try_out(model: nn.Module, config: ExtractorConfig) -> None:
    """Some models need a certain size, and say so only when they see another one."""
    size = config.image_size
    try:
        with torch.inference_mode():
            model(torch.zeros(1, 3, size, size))  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:
        raise ExtractorError(f"{config.name} cannot work on images of {size} pixels; use another image_size") from error


def _headless(config: ExtractorConfig, found: w.Weights) -> nn.Module:
    name = config.name
    # Both of the Inception models change their input by themselves when weights are given by name. simet's
    # preprocessing is for the plain model; GoogLeNet's weights need the change.
    options: dict[str, Any] = {
        "inception_v3": {"transform_input": False, "init_weights": config.weights == "random"},
        "googlenet": {"transform_input": True, "init_weights": config.weights == "random"},
    }.get(name, {})
    if name.startswith("vit_"):  # one embedding for each patch, so that the size is part of the model
        options["image_size"] = config.image_size or _published(config, found).transforms().crop_size[0]
    try:
        model: nn.Module = get_model(name, weights=None, **options)
    except (AssertionError, ValueError) as error:
        raise ExtractorError(f"{name} cannot be built for images of {config.image_size} pixels: {error}") from error
    for auxiliary in ("AuxLogits", "aux1", "aux2"):  # heads of training only
        if hasattr(model, auxiliary):
            setattr(model, auxiliary, None)
    linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ExtractorError(f"{name} has no linear head whose input could serve as features; choose another model")
    model.set_submodule(linear[-1], nn.Identity())
    return model


def _published(config: ExtractorConfig, found: w.Weights) -> Any:
    """The published weights that these are, or whose preprocessing serves: else the oldest, which never change."""
    published = get_model_weights(config.name)
    return next((one for one in published if one.url == found.url), next(iter(published)))
