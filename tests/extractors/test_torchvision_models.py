"""torchvision's models: the reference's Inception to the letter, and every other by name."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms as T
from torchvision.models import get_model, inception_v3

from simet_cache.config import ExtractorConfig
from simet_cache.errors import ExtractorError, WeightsError
from simet_cache.extractors import frechet_label, make_extractor, names, torchvision_models
from simet_cache.extractors import weights as w

Images = list[Image.Image]


@pytest.fixture(scope="module")
def images() -> Images:
    """Of several shapes, one smaller than the model's input and one very wide."""
    rng = np.random.default_rng(0)
    shapes = [(32, 32), (299, 299), (350, 310), (40, 200)]
    return [Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]


@pytest.fixture(scope="module")
def inception() -> nn.Module:
    """torchvision's own, with weights that let the differences between images through, unlike its own first ones."""
    torch.manual_seed(0)
    model = inception_v3(weights=None, init_weights=False).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.1)
    return model


@pytest.fixture(scope="module")
def weights_file(inception: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(inception.state_dict(), path)
    return path


def features(config: ExtractorConfig, images: Images) -> torch.Tensor:
    extractor = make_extractor(config)
    batch = torch.stack([extractor.transform(image) for image in images]).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return extractor.build().to(memory_format=torch.channels_last)(batch)


def headless(config: ExtractorConfig) -> nn.Module:
    return torchvision_models._headless(config, torchvision_models.weights(config))


def published(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Make a file the official one: its digest stands in the URL."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    class Published(list[Any]):
        """As torchvision's enumerations."""

        DEFAULT = SimpleNamespace(
            url=f"https://weights.invalid/inception_v3_google-{digest[:8]}.pth", name="IMAGENET1K_V1"
        )

    monkeypatch.setattr(torchvision_models, "get_model_weights", lambda name: Published([Published.DEFAULT]))


# inception_v3


def test_inception_is_torchvisions_without_its_head_on_the_references_preprocessing(
    inception: nn.Module, weights_file: Path, images: Images
) -> None:
    preprocessing = T.Compose([T.Resize(299), T.CenterCrop(299), T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)])
    plain = inception_v3(weights=None, transform_input=False, init_weights=False).eval()
    plain.load_state_dict(inception.state_dict())
    plain.fc = nn.Identity()
    with torch.inference_mode():
        expected = plain(torch.stack([preprocessing(image) for image in images]))
    found = features(ExtractorConfig(name="inception_v3", weights=str(weights_file)), images)
    assert found.shape == (4, 2048)
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    assert float((expected[0] - expected[1]).abs().max() / expected.abs().max()) > 0.1  # the images are told apart


def test_inceptions_input_is_not_transformed_on_any_route(
    weights_file: Path, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision turns ``transform_input`` on by itself when weights are given by name."""
    built: list[nn.Module] = []

    def spy(name: str, **options: Any) -> nn.Module:
        built.append(get_model(name, **{**options, "init_weights": False}))
        return built[-1]

    asked: list[str] = []

    def download(url: str, target: str, head: str, **options: Any) -> None:
        asked.append(url)
        assert url.endswith(f"-{head}.pth")
        shutil.copy(weights_file, target)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torchvision_models, "get_model", spy)
    monkeypatch.setattr(w, "download_url_to_file", download)
    with pytest.raises(WeightsError, match="expected the published weights"):  # since these are random
        make_extractor(ExtractorConfig(name="inception_v3")).build()
    assert asked == ["https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth"]
    published(monkeypatch, weights_file)
    shutil.rmtree(tmp_path / "hub")
    built.clear()
    by_default = features(ExtractorConfig(name="inception_v3"), images[:1])
    by_file = features(ExtractorConfig(name="inception_v3", weights=str(weights_file)), images[:1])
    make_extractor(ExtractorConfig(name="inception_v3", weights="random")).build()
    assert [model.transform_input for model in built] == [False] * 3
    assert torch.equal(by_default, by_file)
    assert len(asked) == 2


def test_inceptions_suffix_is_the_references(weights_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_extractor(ExtractorConfig(name="inception_v3")).suffix == "inception_v3"
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    mine = ExtractorConfig(name="inception_v3", weights=str(weights_file))
    assert make_extractor(mine).suffix == f"inception_v3_w{digest[:8]}"
    published(monkeypatch, weights_file)
    assert make_extractor(mine).suffix == "inception_v3"


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    config = ExtractorConfig(name="resnet18", weights=str(path))
    with pytest.raises(
        WeightsError, match=r"w.pth do not fit: 'conv1.weight' has shape \(1,\), expected \(64, 3, 7, 7\)"
    ):
        make_extractor(config).build()
    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"w.pth lack \d+ of \d+ tensors, first 'conv1.weight'"):
        make_extractor(config).build()


# Suffixes


def test_whatever_changes_the_output_changes_the_suffix(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    configs = [
        {"name": "inception_v3"},
        {"name": "inception_v3", "precision": "amp"},
        {"name": "inception_v3", "weights": "random"},
        {"name": "inception_v3", "weights": "random", "seed": 1},
        {"name": "inception_v3", "weights": "random", "precision": "amp"},
        {"name": "inception_v3", "weights": a},
        {"name": "inception_v3", "weights": b},
        {"name": "inception_v3", "weights": a, "precision": "amp"},
        {"name": "resnet18"},
        {"name": "resnet50"},
        {"name": "resnet18", "image_size": 64},
        {"name": "resnet18", "image_size": 96},
        {"name": "resnet18", "weights": "random"},
        {"name": "resnet18", "weights": "random", "image_size": 64},
        {"name": "resnet18", "weights": "random", "seed": 64},
        {"name": "resnet18", "weights": a, "image_size": 64},
        {"name": "fid_inception"},
        {"name": "fid_inception", "layer": "64"},
        {"name": "fid_inception", "layer": "logits"},
        {"name": "fid_inception", "layer": "logits_unbiased"},
        {"name": "fid_inception", "weights": "random"},
        {"name": "fid_inception", "weights": "random", "layer": "64"},
        {"name": "fid_inception", "weights": "random", "seed": 64},
        {"name": "fid_inception", "weights": a},
        {"name": "fid_inception", "precision": "amp"},
    ]
    suffixes = [make_extractor(ExtractorConfig(**config)).suffix for config in configs]
    assert len(set(suffixes)) == len(suffixes)


def test_suffixes_stay_what_they_are() -> None:
    """They are part of the keys of caches that people have."""

    def suffix(**config: Any) -> str:
        return make_extractor(ExtractorConfig(**config)).suffix

    assert suffix(name="inception_v3", precision="amp") == "inception_v3+amp"
    assert suffix(name="inception_v3", weights="random", seed=7) == "inception_v3_random7"
    assert suffix(name="resnet18", weights="random", image_size=64) == "resnet18_random0_64px"
    assert suffix(name="resnet50") == "resnet50_imagenet1k_v2"
    assert suffix(name="fid_inception") == suffix(name="fid_inception", layer="2048") == "fid_inception"
    assert suffix(name="fid_inception", layer="768", weights="random", seed=2) == "fid_inception_768_random2"


@pytest.mark.parametrize("config", [{"batch_size": 3}, {"workers": 2}, {"device": "cpu"}])
def test_what_does_not_change_the_output_leaves_the_suffix_alone(config: dict[str, Any]) -> None:
    assert make_extractor(ExtractorConfig(**config)).suffix == "fid_inception"
    assert make_extractor(ExtractorConfig(name="inception_v3", **config)).suffix == "inception_v3"


def test_a_weights_file_that_changes_changes_the_suffix_at_once(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_text("one")
    config = ExtractorConfig(name="resnet18", weights=str(path))
    before = make_extractor(config).suffix
    path.write_text("other")
    assert make_extractor(config).suffix != before


@pytest.mark.parametrize(
    ("suffix", "label"),
    [
        ("fid_inception", "FID"),
        ("fid_inception@CIFAR10-test", "FID"),
        ("fid_inception+amp", "FD (fid_inception+amp)"),
        ("fid_inception+amp@CIFAR10", "FD (fid_inception+amp)"),
        ("fid_inception_64", "FD (fid_inception_64)"),
        ("fid_inception_logits", "FD (fid_inception_logits)"),
        ("fid_inception_random0", "FD (fid_inception_random0)"),
        ("fid_inception_w01234567", "FD (fid_inception_w01234567)"),
        ("inception_v3", "FD (inception_v3)"),
        ("inception_v3+amp", "FD (inception_v3+amp)"),
        ("inception_v3@CIFAR10-test", "FD (inception_v3)"),
        ("inception_v3_random0", "FD (inception_v3_random0)"),
        ("inception_v3_w01234567", "FD (inception_v3_w01234567)"),
        ("resnet18_random0_64px@CIFAR10", "FD (resnet18_random0_64px)"),
    ],
)
def test_only_the_features_of_published_fids_make_a_fid(suffix: str, label: str) -> None:
    assert frechet_label(suffix) == label


# Other models


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("mobilenet_v2", 1280),
        ("densenet121", 1024),
        ("googlenet", 1024),
        ("mnasnet0_5", 1280),
        ("shufflenet_v2_x0_5", 1024),
        ("resnet18", 512),
        pytest.param("vit_b_32", 768, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", 768, marks=pytest.mark.slow),
        pytest.param("swin_t", 768, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 1280, marks=pytest.mark.slow),
        pytest.param("regnet_y_400mf", 440, marks=pytest.mark.slow),
        pytest.param("vgg11_bn", 4096, marks=pytest.mark.slow),
    ],
)
def test_families_at_a_small_size_fused_and_plain(name: str, width: int, images: Images) -> None:
    config = ExtractorConfig(name=name, weights="random", image_size=64)
    found = features(config, images)
    assert found.shape == (4, width)
    plain = w.seeded(0, lambda: headless(config)).eval()
    with torch.inference_mode():
        expected = plain(torch.stack([make_extractor(config).transform(image) for image in images]))
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    assert len({tuple(row) for row in found.tolist()}) == 4  # the images are told apart


def test_a_built_model_is_ready_for_inference() -> None:
    model = make_extractor(ExtractorConfig(name="resnet18", weights="random", image_size=64)).build()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_googlenets_weights_need_the_transformed_input() -> None:
    assert headless(ExtractorConfig(name="googlenet", weights="random")).transform_input is True


def test_a_model_without_a_linear_head() -> None:
    with pytest.raises(ExtractorError) as caught:
        make_extractor(ExtractorConfig(name="squeezenet1_0", weights="random")).build()
    assert str(caught.value) == (
        "squeezenet1_0 has no linear head whose input could serve as features; choose another model"
    )


@pytest.mark.parametrize(
    ("name", "size", "sentence"),
    [
        ("alexnet", 16, "alexnet cannot work on images of 16 pixels; use another image_size"),
        ("maxvit_t", 64, "maxvit_t cannot work on images of 64 pixels; use another image_size"),
        (
            "vit_b_32",
            48,
            "vit_b_32 cannot be built for images of 48 pixels: Input shape indivisible by patch size!",
        ),
    ],
)
def test_a_size_that_a_model_cannot_work_on(
    name: str, size: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExtractorError) as caught:
        make_extractor(ExtractorConfig(name=name, weights="random", image_size=size)).build()
    assert str(caught.value) == sentence
    assert capsys.readouterr().err == ""  # torch.fx prints a traceback of its own


def test_vision_transformers_are_built_for_what_they_will_see(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def spy(name: str, **options: Any) -> nn.Module:
        asked.update(options)
        return nn.Sequential(nn.Linear(1, 1))

    monkeypatch.setattr(torchvision_models, "get_model", spy)
    for name, size, expected in [("vit_b_16", None, 224), ("vit_b_16", 64, 64), ("vit_h_14", None, 518)]:
        headless(ExtractorConfig(name=name, image_size=size))
        assert asked["image_size"] == expected


def test_every_model_that_can_be_named_has_weights_and_preprocessing(images: Images) -> None:
    assert {"resnet18", "inception_v3", "fid_inception", "vit_b_16"} <= set(names())
    assert len(set(names())) == len(names())
    for name in names():
        extractor = make_extractor(ExtractorConfig(name=name))
        assert extractor.suffix.startswith(name)
        assert extractor.transform(images[0]).shape[0] == 3


def test_preprocessing_at_a_size_of_ones_own(images: Images) -> None:
    preset = make_extractor(ExtractorConfig(name="resnet18")).transform
    own = make_extractor(ExtractorConfig(name="resnet18", image_size=64)).transform
    gray = Image.new("RGB", (100, 80), (128, 128, 128))
    assert preset(gray).shape == (3, 224, 224)
    assert own(images[3]).shape == (3, 64, 64)
    torch.testing.assert_close(own(gray)[:, 0, 0], preset(gray)[:, 0, 0])  # the same mean and deviation
