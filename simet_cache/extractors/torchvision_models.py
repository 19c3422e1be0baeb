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
    from pathlib import Path

    from simet_cache.config import ExtractorConfig

INCEPTION = "inception_v3"
VERSION = 1  # of what we do between image and feature: raised when features change under the same suffix


@cache
def names() -> tuple[str, ...]:
    """The classification models that this torchvision has."""
    return tuple(list_models(module=torchvision.models))


def suffix(config: ExtractorConfig) -> str:
    """What identifies the output in the key."""
    return config.name + _weights_part(config) + (f"_{config.image_size}px" if config.image_size else "")


def _weights_part(config: ExtractorConfig) -> str:
    if config.weights == "random":
        return f"_random{config.seed}"
    official = _weights(config)
    if config.weights_file and (part := w.suffix_part(config.weights_file, official.url)):
        return part
    # torchvision's DEFAULT moves to better weights with time, so the suffix names them; simet's model has one set
    return "" if config.name == INCEPTION else f"_{official.name.lower()}"


def weights_identity(config: ExtractorConfig) -> str:
    """Which weights, for manifests."""
    if config.weights == "random":
        return f"random, seed {config.seed}"
    return w.identity(config.weights_file, _weights(config).url)


def transform(config: ExtractorConfig) -> T.Compose | nn.Module:
    """RGB image -> float32 tensor (3, H, W), as the model expects it."""
    if config.name == INCEPTION:  # simet's, not that of torchvision's weights
        return T.Compose([T.Resize(299), T.CenterCrop(299), T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)])
    preset: nn.Module = _weights(config).transforms()
    if config.image_size is None:
        return preset
    size = config.image_size
    return T.Compose([T.Resize(size), T.CenterCrop(size), T.ToTensor(), T.Normalize(preset.mean, preset.std)])


def build(config: ExtractorConfig) -> nn.Module:
    """The model in eval mode on the CPU, (N, 3, H, W) -> (N, D), convolutions and batch norms fused.

    Raises:
        WeightsError: The weights cannot be had, or do not fit.
        ExtractorError: The model has no linear head.
    """
    if config.weights == "random":
        model = w.seeded(config.seed, partial(_headless, config))
    else:
        model = _headless(config)
        path = config.weights_file
        state = w.read_file(path) if path else w.download(_weights(config).url)
        w.load_into(model, w.renamed(state, _modern), str(path or config.name))
    model.eval()
    if config.image_size:
        _try_out(model, config)
    fused: nn.Module = fuse(model).eval().requires_grad_(requires_grad=False)
    return fused


def check_weights(config: ExtractorConfig, path: Path) -> None:
    """See that a file of weights fits.

    Raises:
        WeightsError: It does not.
        ExtractorError: The model has no linear head, or cannot be built.
    """
    try:
        with torch.device("meta"):
            model = _headless(config)
    except NotImplementedError:  # RegNets compute their widths with tensors, which takes memory
        model = _headless(config)
    w.load_into(model, w.renamed(w.read_file(path), _modern), str(path), assign=True)


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


def _headless(config: ExtractorConfig) -> nn.Module:
    name = config.name
    # Both of the Inception models change their input by themselves when weights are given by name. simet's
    # preprocessing is for the plain model; GoogLeNet's weights need the change.
    options: dict[str, Any] = {
        "inception_v3": {"transform_input": False, "init_weights": config.weights == "random"},
        "googlenet": {"transform_input": True, "init_weights": config.weights == "random"},
    }.get(name, {})
    if name.startswith("vit_"):  # one embedding for each patch, so that the size is part of the model
        options["image_size"] = config.image_size or _weights(config).transforms().crop_size[0]
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


def _weights(config: ExtractorConfig) -> Any:
    """The published weights that are meant, or whose preprocessing serves: else the oldest, which never change."""
    published = get_model_weights(config.name)
    if config.weights == "default":
        return published.DEFAULT
    file = config.weights_file
    copies = (one for one in published if file and not w.suffix_part(file, one.url))
    return next(copies, next(iter(published)))
