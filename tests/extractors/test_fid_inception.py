"""The Inception of published FIDs: torch-fidelity's own features, from the same file."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from simet_cache.config import ExtractorConfig
from simet_cache.errors import ExtractorError, WeightsError
from simet_cache.extractors import fid_inception, make_extractor
from simet_cache.extractors import weights as w


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random tensors of a sensible size, under the names of the published file."""
    generator = torch.Generator().manual_seed(0)

    def drawn(name: str, like: torch.Tensor) -> torch.Tensor:
        if not like.is_floating_point():
            return like
        if name.endswith(("running_var", "bn.weight")):
            return torch.rand(like.shape, generator=generator) + 0.5
        scale = math.sqrt(2 / like[0].numel()) if like.dim() > 1 else 0.1
        return torch.randn(like.shape, generator=generator) * scale

    shapes = fid_inception._unloaded("2048").state_dict()
    path = tmp_path_factory.mktemp("weights") / "pt_inception.pth"
    torch.save({name: drawn(name, like) for name, like in shapes.items()}, path)
    return path


@pytest.fixture(scope="module")
def expected(weights_file: Path) -> FeatureExtractorInceptionV3:
    return FeatureExtractorInceptionV3(
        "inception-v3-compat", list(fid_inception.LAYERS), feature_extractor_weights_path=str(weights_file)
    )


@pytest.mark.parametrize("layer", [None, *fid_inception.LAYERS])
def test_features_are_torch_fidelitys(
    weights_file: Path, expected: FeatureExtractorInceptionV3, layer: str | None
) -> None:
    extractor = make_extractor(ExtractorConfig(name="fid_inception", weights=str(weights_file), layer=layer))
    model = extractor.build().to(memory_format=torch.channels_last)
    rng = np.random.default_rng(1)
    for height, width in [(299, 299), (32, 32), (310, 400)] if layer in (None, "64") else [(64, 48)]:
        pixels = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        batch = torch.stack([extractor.transform(Image.fromarray(one)) for one in pixels])
        assert batch.dtype == torch.uint8
        assert torch.equal(batch, torch.from_numpy(pixels).permute(0, 3, 1, 2))  # nothing is resized before
        with torch.inference_mode():
            wanted = expected(batch)[fid_inception.LAYERS.index(layer or "2048")]
            found = model(batch.to(memory_format=torch.channels_last))
        assert found.shape == wanted.shape
        assert found.dtype == torch.float32
        assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5


def test_the_model_is_fused_and_ready_for_inference(weights_file: Path) -> None:
    model = make_extractor(ExtractorConfig(name="fid_inception", weights=str(weights_file))).build()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_the_default_is_the_published_file(weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(url: str, target: str, head: str, **options: Any) -> None:
        asked.append(url)
        shutil.copy(weights_file, target)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(w, "download_url_to_file", download)
    with pytest.raises(WeightsError, match="expected the published weights"):  # since these are random
        make_extractor(ExtractorConfig(name="fid_inception")).build()
    assert asked == [URL_INCEPTION_V3]


def test_a_copy_of_the_published_file_has_its_suffix(weights_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ExtractorConfig(name="fid_inception", weights=str(weights_file), layer="64")
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    assert make_extractor(config).suffix == f"fid_inception_64_w{digest[:8]}"
    monkeypatch.setattr(fid_inception, "URL", f"https://x/weights-inception-2015-12-05-{digest[:8]}.pth")
    assert make_extractor(config).suffix == "fid_inception_64"


def test_random_weights_are_seeded() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    states = [
        make_extractor(ExtractorConfig(name="fid_inception", weights="random", seed=seed)).build().state_dict()
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (torch.cat([value.flatten() for value in state.values()]) for state in states)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_a_malicious_file_does_not_run(tmp_path: Path) -> None:
    """torch-fidelity's own constructor would run it."""
    path = tmp_path / "w.pth"
    attack = Touch(tmp_path / "ran")
    for write in (lambda: torch.save(attack, path), lambda: path.write_bytes(pickle.dumps(attack))):
        write()
        with pytest.raises(WeightsError, match="no file of weights that can be loaded safely"):
            make_extractor(ExtractorConfig(name="fid_inception", weights=str(path))).build()
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"x": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"w.pth lack \d+ of \d+ tensors, first 'Conv2d_1a_3x3.conv.weight'"):
        make_extractor(ExtractorConfig(name="fid_inception", weights=str(path))).build()


def test_without_torch_fidelity_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ExtractorError) as caught:
        make_extractor(ExtractorConfig(name="fid_inception", weights="random")).build()
    assert str(caught.value).endswith("fid_inception needs the package torch-fidelity: pip install torch-fidelity")
