"""What may succeed when it is tried again, and what may not."""

from __future__ import annotations

import builtins
import errno
import io
import os
import pickle
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from simet_cache import errors
from simet_cache.atomic import reported
from simet_cache.datasets.folder import FolderDataset
from simet_cache.datasets.images import decode_image, read_image
from simet_cache.errors import ImageReadError
from simet_cache.extractors import weights
from simet_cache.loading import chunks
from simet_cache.retrying import can_pass


def http(code: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("http://x", code, "no", {}, io.BytesIO())  # type: ignore[arg-type]


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


EIO, GONE = OSError(errno.EIO, "Input/output error"), FileNotFoundError(errno.ENOENT, "No such file or directory")


@pytest.mark.parametrize(
    "error",
    [
        EIO,
        *(OSError(getattr(errno, name), name) for name in ("ESTALE", "ETIMEDOUT", "EMFILE", "ECONNRESET", "EREMOTEIO")),
        ConnectionResetError(),
        TimeoutError(),
        TimeoutError("slow"),
        urllib.error.URLError(ConnectionRefusedError(errno.ECONNREFUSED, "refused")),
        http(503),
        http(429),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        errors.RemoteError("down"),
        errors.RemoteError("down", repeated=True),
        errors.DamagedShardError("bits have changed", "0" * 32),
        errors.ImageReadError("a.png", "input/output error", errno=errno.EIO),
        caused(errors.StoreError("cannot read"), EIO),
        caused(errors.DatasetError("cannot be opened"), caused(RuntimeError("no"), http(502))),
        caused(errors.WeightsError("cannot be downloaded"), urllib.error.URLError(ConnectionResetError())),
    ],
    ids=repr,
)
def test_what_can_pass(error: BaseException) -> None:
    assert can_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        GONE,
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("image file is truncated"),
        http(404),
        errors.ConfigError(["bad"]),
        errors.KeyInputError("no length"),
        errors.DatasetError("no image"),
        errors.ImageReadError("a.png", "not an image"),
        errors.ImageReadError("a.png", "no such file or directory", errno=errno.ENOENT),
        errors.ExtractorError("no such device"),
        errors.WeightsError("another model's"),
        errors.FeaturesError("NaN"),
        errors.StoreError("in use"),
        errors.DamagedEntryError("cut short"),
        errors.UnsafePickleError("runs code"),
        errors.StaleEntryError("changed"),
        errors.MetricError("too few rows"),
        errors.StoppedError("stopped"),
        ZeroDivisionError(),
        RuntimeError("CUDA error: device-side assert triggered"),
        KeyboardInterrupt(),
        SystemExit(),
        caused(errors.StoreError("cannot read"), GONE),
        caused(errors.StoppedError("stopped"), EIO),
        caused(errors.MetricError("no"), EIO),
        caused(RuntimeError("outer"), caused(errors.ConfigError(["bad"]), EIO)),
    ],
    ids=repr,
)
def test_what_cannot(error: BaseException) -> None:
    assert not can_pass(error)


def test_what_only_happened_before_is_no_cause() -> None:
    error = ValueError("something else")
    error.__context__ = EIO
    assert not can_pass(error)


def test_a_circle_of_causes_ends() -> None:
    one, other = ValueError(), ValueError()
    one.__cause__, other.__cause__ = other, one
    assert not can_pass(one)


def test_an_error_of_the_store_keeps_its_cause(tmp_path: Path) -> None:
    for cause, expected in ((EIO, True), (GONE, False)):
        with pytest.raises(errors.StoreError) as caught, reported("cannot read", tmp_path):
            raise cause
        assert can_pass(caught.value) is expected


# Images: a file server that stumbles says nothing about an image


class Stumbles(io.BytesIO):
    """A file whose bytes cannot be read from some point on."""

    def __init__(self, content: bytes, good: int) -> None:
        super().__init__(content)
        self._good = good

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() + (size if size and size > 0 else 10**9) > self._good:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    noise = torch.randint(0, 256, (100, 100, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (tmp_path / "a").mkdir()
    Image.fromarray(noise.numpy()).save(tmp_path / "a" / "a.png")
    return tmp_path / "a" / "a.png"


@pytest.mark.parametrize("good", [0, 10, 1000, 15_000])
def test_a_read_error_is_told_from_a_corrupt_image(image: Path, good: int) -> None:
    with pytest.raises(ImageReadError, match="input/output error") as caught:
        decode_image(Stumbles(image.read_bytes(), good), "a.png")
    assert caught.value.errno == errno.EIO
    assert can_pass(caught.value)
    with pytest.raises(ImageReadError) as caught:
        decode_image(io.BytesIO(image.read_bytes()[:good]), "a.png")
    assert not can_pass(caught.value)


def test_a_file_that_cannot_be_opened(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageReadError) as caught:
        read_image(image.with_name("missing.png"))
    assert not can_pass(caught.value)

    def stale(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(builtins, "open", stale)
    with pytest.raises(ImageReadError) as caught:
        read_image(image)
    assert can_pass(caught.value)


def test_it_is_told_also_in_another_process() -> None:
    """Where the cause does not follow."""
    error = caused(ImageReadError("a.png", "input/output error", errno=errno.EIO), EIO)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.errno, copy.__cause__, str(copy)) == (errno.EIO, None, str(error))
    assert can_pass(copy)


class Weightless(Dataset[Any]):
    """An image that the file system fails to read."""

    root = None

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return 1

    def __getitem__(self, position: int) -> Any:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("number", "expected"), [(errno.EIO, True), (errno.ENOENT, False)])
def test_datasets_of_others(workers: int, number: int, expected: bool) -> None:
    (chunk,) = chunks(Weightless(number), batch_size=1, room=1, workers=workers)
    assert [can_pass(error) for _, error in chunk.bad] == [expected]


@pytest.mark.parametrize("kind", [FolderDataset, lambda root: ImageFolder(str(root))], ids=["ours", "torchvision's"])
def test_folders_raise_what_their_files_raise(image: Path, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    dataset, real = kind(image.parent.parent), builtins.open
    dataset.transform = pil_to_tensor
    assert not next(chunks(dataset, batch_size=1, room=1)).bad

    def fail(name: Any, *rest: Any, **options: Any) -> Any:
        return Stumbles(image.read_bytes(), 5000) if str(name) == str(image) else real(name, *rest, **options)

    monkeypatch.setattr(builtins, "open", fail)
    ((_, error),) = next(chunks(dataset, batch_size=1, room=1)).bad
    assert can_pass(error)


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (urllib.error.URLError(ConnectionResetError(errno.ECONNRESET, "reset")), True),
        (http(404), False),
        (RuntimeError('invalid hash value (expected "0", got "1")'), False),
    ],
    ids=["network", "gone", "another file"],
)
def test_weights_that_cannot_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception, expected: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise cause

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "download_url_to_file", fail)
    with pytest.raises(errors.WeightsError) as caught:
        weights.fetch("https://example.org/weights.pth")
    assert can_pass(caught.value) is expected
