"""torchvision's own datasets, from files made here: no test needs a network."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from simet_cache.config import TorchvisionConfig
from simet_cache.datasets import open_dataset
from simet_cache.datasets.torchvision_sets import names, open_torchvision, split_problem
from simet_cache.errors import DatasetError
from simet_cache.key import feature_key


def as_array(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No network; what would have been downloaded."""
    urls: list[str] = []

    def urlopen(request: Any, *args: Any, **kwargs: Any) -> None:
        urls.append(getattr(request, "full_url", request))
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return urls


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten images to learn from and four to test with; the first pixel counts them."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def batch(first: int, images: int) -> dict[str, Any]:
        data = np.zeros((images, 3072), np.uint8)
        data[:, 0] = range(first, first + images)
        return {"data": data, "labels": [1] * images}

    for number in range(5):
        (folder / f"data_batch_{number + 1}").write_bytes(pickle.dumps(batch(2 * number, 2)))
    (folder / "test_batch").write_bytes(pickle.dumps(batch(100, 4)))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    return tmp_path


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, images in [("train", 3), ("t10k", 2)]:
        pixels = np.arange(images * 28 * 28, dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, images, 28, 28) + pixels.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, images) + bytes(images))
    return tmp_path


@pytest.mark.parametrize(
    ("split", "shades", "suffix"),
    [(None, range(10), "@CIFAR10"), ("train", range(10), "@CIFAR10"), ("test", range(100, 104), "@CIFAR10-test")],
)
def test_a_dataset_that_has_train_and_test(cifar: Path, split: str | None, shades: range, suffix: str) -> None:
    dataset, found = open_torchvision("CIFAR10", cifar, split, as_array)
    assert found == suffix
    assert [int(dataset[number][0][0, 0, 0]) for number in range(len(dataset))] == list(shades)
    assert dataset[0][0].shape == (32, 32, 3)


def test_gray_images_become_rgb(mnist: Path) -> None:
    dataset, suffix = open_torchvision("MNIST", mnist, "test", as_array)
    image, _ = dataset[0]
    assert (len(dataset), suffix, image.shape) == (2, "@MNIST-test", (28, 28, 3))
    assert (image[0, 5] == 5).all()


@pytest.mark.parametrize(
    ("split", "images", "suffix"),
    [(None, 3, "@SVHN"), ("train", 3, "@SVHN"), ("test", 2, "@SVHN-test"), ("extra", 4, "@SVHN-extra")],
)
def test_a_dataset_that_has_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str | None, images: int, suffix: str
) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    for name, count in [("train", 3), ("test", 2), ("extra", 4)]:
        arrays = {"X": np.zeros((32, 32, 3, count), np.uint8), "y": np.ones((count, 1), np.uint8)}
        scipy_io.savemat(tmp_path / f"{name}_32x32.mat", arrays)
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *_: True)
    dataset, found = open_torchvision("SVHN", tmp_path, split, as_array)
    assert (len(dataset), found) == (images, suffix)
    assert dataset[0][0].shape == (32, 32, 3)


def test_splits_of_equal_length_have_keys_of_their_own(cifar: Path) -> None:
    folder = cifar / "cifar-10-batches-py"
    (folder / "test_batch").write_bytes(pickle.dumps({"data": np.zeros((10, 3072), np.uint8), "labels": [1] * 10}))
    keys = set()
    for split in ("train", "test"):
        opened = open_dataset(
            TorchvisionConfig(torchvision="CIFAR10", root=cifar, split=split), transform=as_array, home=cifar
        )
        keys.add(feature_key(opened.dataset, suffix="inception_v3" + opened.suffix, batch_size=128))
    assert len(keys) == 2


def test_one_without_a_folder_and_without_splits(tmp_path: Path) -> None:
    dataset, suffix = open_torchvision("FakeData", tmp_path, None, as_array)
    assert (len(dataset), suffix) == (1000, "@FakeData")
    assert dataset[3][0].shape == (224, 224, 3)


def test_a_folder_of_classes(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("L", (5, 4), 7).save(tmp_path / name / "a.png")
    dataset, suffix = open_torchvision("ImageFolder", tmp_path, None, as_array)
    assert [(image.shape, label) for image, label in dataset] == [((4, 5, 3), 0), ((4, 5, 3), 1)]
    assert suffix == "@ImageFolder"
    with pytest.raises(DatasetError) as caught:
        open_torchvision("ImageFolder", tmp_path / "cat", None, as_array)
    sentence = f"torchvision's ImageFolder cannot be opened under {tmp_path}/cat: Couldn't find any class folder in "
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("name", "split"), [("CIFAR10", "test"), ("SVHN", None), ("EMNIST", "digits"), ("QMNIST", None)]
)
def test_what_is_not_there_would_be_downloaded(tmp_path: Path, asked: list[str], name: str, split: str | None) -> None:
    with pytest.raises(DatasetError) as caught:
        open_torchvision(name, tmp_path, split, as_array)
    assert asked
    message = str(caught.value)
    assert message.startswith(f"torchvision's {name} cannot be opened under {tmp_path}: ")
    assert "no network" in message or "Error downloading" in message
    assert len(message.splitlines()) == 1


def test_what_is_there_is_not_downloaded(cifar: Path, asked: list[str]) -> None:
    open_torchvision("CIFAR10", cifar, None, as_array)
    assert asked == []


def test_an_error_without_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise EOFError

    monkeypatch.setattr(torchvision.datasets.FakeData, "__init__", fail)
    with pytest.raises(DatasetError, match=r"torchvision's FakeData cannot be opened under .*: EOFError$"):
        open_torchvision("FakeData", tmp_path, None, as_array)


def test_one_that_needs_more_than_can_be_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"CocoDetection cannot be opened under .* argument: 'annFile'$"):
        open_torchvision("CocoDetection", tmp_path, None, as_array)


def test_only_datasets_have_names() -> None:
    assert {"CIFAR10", "FakeData", "ImageFolder", "SVHN"} <= set(names())
    assert "VisionDataset" not in names()
    assert all(isinstance(getattr(torchvision.datasets, name), type) for name in names())


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("CIFAR10", None),
        ("CIFAR10", "test"),
        ("SVHN", "extra"),
        ("STL10", "unlabeled"),
        ("EMNIST", "byclass"),
        ("FakeData", None),
        ("CelebA", "valid"),
        ("QMNIST", "test"),
    ],
)
def test_splits_that_there_are(
    name: str, split: str | None, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert split_problem(name, split) is None
    assert asked == []  # asking costs nothing
    assert capsys.readouterr().out == ""
