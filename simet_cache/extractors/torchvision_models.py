"""Any torchvision classification model: the features that its last linear layer sees.

``inception_v3`` is the model of the reference system ``simet``, with its preprocessing, and keeps its exact suffix.
The other models come with the preprocessing of their own weights.
"""

from __future__ import annotations

import warnings
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
    official = _weights(config.name)
    if config.weights_file and (part := w.suffix_part(config.weights_file, official.url)):
        return part
    # torchvision's DEFAULT moves to better weights with time, so the suffix names them; simet's model has one set
    return "" if config.name == INCEPTION else f"_{official.name.lower()}"


def transform(config: ExtractorConfig) -> T.Compose | nn.Module:
    """RGB image -> float32 tensor (3, H, W), as the model expects it."""
    if config.name == INCEPTION:  # simet's, not that of torchvision's weights
        return T.Compose([T.Resize(299), T.CenterCrop(299), T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)])
    preset: nn.Module = _weights(config.name).transforms()
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
        model = w.seeded(config.seed, partial(_headless, config.name))
    else:
        model = _headless(config.name)
        path = config.weights_file
        state = w.read_file(path) if path else w.download(_weights(config.name).url)
        w.load_into(model, state, str(path or config.name))
    fused: nn.Module = fuse(model.eval())
    return fused.requires_grad_(False)


def _headless(name: str) -> nn.Module:
    # Both of the Inception models change their input by themselves when weights are given by name. simet's
    # preprocessing is for the plain model; GoogLeNet's weights need the change.
    options: dict[str, Any] = {
        "inception_v3": {"transform_input": False, "init_weights": True},
        "googlenet": {"transform_input": True, "init_weights": True},
    }.get(name, {})
    model: nn.Module = get_model(name, weights=None, **options)
    for auxiliary in ("AuxLogits", "aux1", "aux2"):  # heads of training only
        if hasattr(model, auxiliary):
            setattr(model, auxiliary, None)
    linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ExtractorError(f"{name} has no linear head whose input could serve as features; choose another model")
    model.set_submodule(linear[-1], nn.Identity())
    return model


def _weights(name: str) -> Any:
    found = get_model_weights(name)
    return found.DEFAULT if name != INCEPTION else found.IMAGENET1K_V1
