"""The Inception that published FIDs are computed with, through the package ``torch-fidelity``.

Its weights, its resize and its layers differ from torchvision's ``inception_v3``: only its numbers compare with papers.
Source: TensorFlow's ``inception-2015-12-05``, as converted by torch-fidelity (``inception-v3-compat``).
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.transforms import functional as F

from simet_cache.errors import ExtractorError
from simet_cache.extractors import weights as w

if TYPE_CHECKING:
    from PIL import Image

    from simet_cache.config import ExtractorConfig

NAME = "fid_inception"
RESIZES_TO = 299 * 299  # pixels: images come in their own size
VERSION = 1  # of what we do between image and feature: raised when features change under the same suffix
LAYERS = ("64", "192", "768", "2048", "logits_unbiased", "logits")
URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"


def weights(config: ExtractorConfig) -> w.Weights:
    """Which weights are meant, as they are now.

    Raises:
        WeightsError: The file cannot be read.
    """
    return w.find(config, [URL], default=URL)


def suffix(config: ExtractorConfig, found: w.Weights) -> str:
    """What identifies the output in the key."""
    return NAME + ("" if config.layer in (None, "2048") else f"_{config.layer}") + found.suffix


def transform(_: ExtractorConfig, __: w.Weights) -> Any:
    """RGB image -> uint8 tensor (3, H, W) of its own size: the model resizes by itself, in its own way."""
    return to_uint8


def to_uint8(image: Image.Image) -> torch.Tensor:
    """RGB image -> uint8 tensor (3, H, W)."""
    pixels: torch.Tensor = F.pil_to_tensor(image)
    return pixels


def build(config: ExtractorConfig, found: w.Weights) -> nn.Module:
    """The model in eval mode on the CPU, uint8 (N, 3, H, W) -> float32 (N, D).

    Raises:
        ExtractorError: torch-fidelity is not installed.
        WeightsError: The weights cannot be had, do not fit, or are not those that were found.
    """
    layer = config.layer or "2048"
    if config.weights == "random":
        model = w.seeded(config.seed, lambda: _unloaded(layer))
    else:
        state = w.load(found)
        model = _unloaded(layer)
        w.load_into(model, state, str(found.path or NAME))
    for block in model.modules():
        conv, norm = getattr(block, "conv", None), getattr(block, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            block.conv, block.bn = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return _FirstOutput(model).eval().requires_grad_(requires_grad=False)


def check_weights(config: ExtractorConfig, found: w.Weights) -> None:
    """See that a file of weights fits.

    Raises:
        ExtractorError: torch-fidelity is not installed.
        WeightsError: It does not fit.
    """
    with torch.device("meta"):
        model = _unloaded(config.layer or "2048")
    w.load_into(model, w.load(found), str(found.path), assign=True)


def _unloaded(layer: str) -> nn.Module:
    """torch-fidelity's network before any weights.

    Its constructor unpickles a weights file without restriction; so it is given an empty one, which it ignores.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # noqa: PLC0415 - only this extractor needs it
            FeatureExtractorInceptionV3,
        )
    except ImportError as error:
        raise ExtractorError(
            f"the extractor {NAME} needs the package torch-fidelity: pip install torch-fidelity"
        ) from error

    class Unloaded(FeatureExtractorInceptionV3):  # type: ignore[misc]  # the package has no types
        def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            return super().load_state_dict(state_dict, *args, **kwargs) if state_dict else None

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    model: nn.Module = Unloaded("inception-v3-compat", [layer], feature_extractor_weights_path=empty)
    return model


class _FirstOutput(nn.Module):
    """torch-fidelity's models return a tuple with one tensor for each layer asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model(images)[0]
        return features
