"""Images of more than 8 bits for each pixel: read by the range of their set, which is decided and never guessed."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from simet_cache.datasets.bit_depth import BitDepth, decided, in_one_line, to_8_bit
from simet_cache.datasets.folder import FolderDataset
from simet_cache.datasets.images import decode_image
from simet_cache.datasets.survey import MOST_READ, Survey, survey
from simet_cache.errors import BitDepthError, DatasetError, ImageReadError

SHADES = np.arange(256).reshape(16, 16)
Write = Callable[[NDArray[Any]], bytes]


def deep_png(values: NDArray[Any]) -> bytes:
    """A PNG of 16 bits, of shape (H, W) or (H, W, 2 to 4), which Pillow does not write."""
    height, width = values.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2] if values.ndim == 3 else 1]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def deep_tiff(
    values: NDArray[Any],
    *,
    order: str = "<",
    bits: int = 16,
    signed: bool = False,
    zero: str = "black",
    planes: int = 1,
) -> bytes:
    """An uncompressed TIFF of shape (H, W) or (H, W, 3), which is in 3 ``planes`` or in one; zero is black or white."""
    height, width = values.shape[:2]
    samples = values.shape[2] if values.ndim == 3 else 1
    if planes > 1:
        values = np.moveaxis(values, -1, 0)
    dtype = f"{order}{'i' if signed else 'u'}{bits // 8}"
    data = packed_12(values) if bits == 12 else values.astype(dtype).tobytes()
    length, photometric = len(data) // planes, 2 if samples > 1 else int(zero == "black")
    numbers = [
        (256, "I", [width]),
        (257, "I", [height]),
        (258, "H", [bits] * samples),
        (259, "H", [1]),
        (262, "H", [photometric]),
        (273, "I", [400 + plane * length for plane in range(planes)]),
        (277, "H", [samples]),
        (278, "I", [height]),
        (279, "I", [length] * planes),
        (284, "H", [1 if planes == 1 else 2]),
        (339, "H", [2 if signed else 1] * samples),
    ]
    entries, more = b"", b""
    for tag, kind, found in numbers:
        packed = struct.pack(f"{order}{len(found)}{kind}", *found)
        place = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(f"{order}I", 200 + len(more))
        more += packed if len(packed) > 4 else b""
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(found)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(numbers)) + entries
    return (head.ljust(200, b"\0") + more).ljust(400, b"\0") + data


def packed_12(values: NDArray[Any]) -> bytes:
    first, second = values.reshape(-1, 2).T.astype(np.uint32)
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8).tobytes()


def saved(values: NDArray[Any], kind: str, **options: Any) -> bytes:
    written = io.BytesIO()
    Image.fromarray(values).save(written, kind, **options)
    return written.getvalue()


GRAY: dict[str, Write] = {
    "png": deep_png,
    "tif": deep_tiff,
    "big-endian.tif": lambda values: deep_tiff(values, order=">"),
    "int32.tif": lambda values: deep_tiff(values, bits=32, signed=True),
    "int16.tif": lambda values: deep_tiff(values, signed=True),
    "lzw.tif": lambda values: saved(values.astype(np.uint16), "TIFF", compression="tiff_lzw"),
    "pgm": lambda values: b"P5 16 16 65535\n" + values.astype(">u2").tobytes(),
    "text.pgm": lambda values: b"P2 16 16 65535\n" + b" ".join(b"%d" % value for value in values.ravel()),
    "jp2": lambda values: saved(values.astype(np.uint16), "JPEG2000"),
}
COLOURS: dict[str, Write] = {
    "png": deep_png,
    "tif": deep_tiff,
    "big-endian.tif": lambda values: deep_tiff(values, order=">"),
}


def folder(root: Path, **files: bytes) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    return root


def gray_of(image: Image.Image) -> NDArray[np.uint8]:
    pixels = np.asarray(image)
    assert pixels.shape[2] == 3
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


# What is decided


@pytest.mark.parametrize(
    ("largest", "bits"),
    [(0, 8), (1, 8), (255, 8), (2048, 12), (4095, 12), (32768, 16), (65535, 16), (70_000, 16)],
)
def test_the_largest_value_decides(largest: int, bits: int) -> None:
    assert decided(name="a", largest=largest, deep=9, stated=0, exact=True) == bits


@pytest.mark.parametrize("largest", [256, 1023, 2047, 4096, 16383, 32767])
def test_a_largest_value_that_leaves_it_open_stops(largest: int) -> None:
    with pytest.raises(
        DatasetError,
        match=rf"^a: 9 images have more than 8 bits for each pixel, with values up to {largest}, which leaves open what"
        r" is white \(.*\); say bit_depth: 8, 12 or 16 for this set, or convert",
    ):
        decided(name="a", largest=largest, deep=9, stated=0, exact=True)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_scaling_is_exact_at_both_ends_and_rounds_to_the_nearest(bits: int) -> None:
    white = 2**bits - 1
    values = np.arange(2**bits)
    found = to_8_bit(values, bits)
    assert (found[0], found[-1]) == (0, 255)
    assert np.abs(found - values * 255 / white).max() <= 0.5
    with pytest.raises(BitDepthError, match=rf"expected values up to {white}, .* found {white + 1}; another bit_depth"):
        to_8_bit(np.array([white + 1]), bits)


# Sets


@pytest.mark.parametrize("kind", GRAY)
@pytest.mark.parametrize(("bits", "factor"), [(8, 1), (12, 16), (16, 257)])
def test_gray_is_read_by_the_range_of_its_set(tmp_path: Path, kind: str, bits: int, factor: int) -> None:
    if kind == "int16.tif" and bits == 16:
        pytest.skip("signed values have 15 bits")
    dark = np.full((16, 16), 3 * factor)
    dataset = FolderDataset(
        folder(tmp_path, **{f"a.{kind}": GRAY[kind](dark), f"b.{kind}": GRAY[kind](SHADES * factor)})
    )
    assert np.abs(gray_of(dataset[0]).astype(int) - 3).max() <= (bits == 12)  # 4080 is not quite white
    assert np.abs(gray_of(dataset[1]).astype(int) - SHADES).max() <= (bits == 12)
    assert dataset.bit_depth == bits


@pytest.mark.parametrize("kind", COLOURS)
@pytest.mark.parametrize(("bits", "factor"), [(8, 1), (12, 16), (16, 257)])
def test_colours_are_read_by_the_range_of_their_set(tmp_path: Path, kind: str, bits: int, factor: int) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    colours[0, 0] = 255
    dataset = FolderDataset(folder(tmp_path, **{f"a.{kind}": COLOURS[kind](colours * factor)}))
    assert np.abs(np.asarray(dataset[0]).astype(int) - colours).max() <= (bits == 12)
    assert dataset.bit_depth == bits


@pytest.mark.parametrize("turned", [False, True])
def test_colours_of_a_set_lie_as_their_files_say(tmp_path: Path, turned: bool) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4, 6, 3))
    plain = deep_png(colours)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = exif.tobytes()[6:]
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    dataset = FolderDataset(folder(tmp_path, **{"a.png": plain[:33] + chunk + plain[33:] if turned else plain}))
    assert np.array_equal(np.asarray(dataset[0]), np.rot90(colours, -1) if turned else colours)


def test_sixteen_bit_colours_stay_as_they_were_read_before(tmp_path: Path) -> None:
    data = deep_png(np.random.default_rng(0).integers(0, 65536, (16, 16, 3)))
    dataset = FolderDataset(folder(tmp_path, **{"a.png": data}))
    with Image.open(io.BytesIO(data)) as pillow:
        assert np.array_equal(np.asarray(dataset[0]), np.asarray(pillow))


def test_a_file_that_says_it_has_12_bits_is_believed(tmp_path: Path) -> None:
    dataset = FolderDataset(folder(tmp_path, **{"a.tif": deep_tiff(SHADES * 2, bits=12)}))
    assert np.abs(gray_of(dataset[0]) - SHADES * 2 * 255 / 4095).max() <= 0.5
    assert dataset.bit_depth == 12


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            deep_tiff(np.stack([SHADES * 257] * 3, axis=-1), planes=3),
            "separate planes of 16 bits, which .*; convert it",
        ),
        (deep_tiff(SHADES * 257, zero="white"), "its zero is white, which .*; convert it"),
    ],
)
def test_what_pillow_reads_wrongly_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    root = folder(tmp_path, **{"a.tif": data})
    with pytest.raises(ImageReadError, match=said):
        FolderDataset(root)[0]
    assert len(FolderDataset(root).bad_headers([0])) == 1


def test_a_file_whose_header_scales_its_values_needs_no_decision(tmp_path: Path) -> None:
    data = b"P5 16 16 1023\n" + (SHADES * 4).astype(">u2").tobytes()
    dataset = FolderDataset(folder(tmp_path, **{"a.pgm": data}), bit_depth=8)
    assert np.abs(gray_of(dataset[0]) - SHADES * 4 * 255 / 1023).max() <= 1
    assert survey([str(tmp_path / "a.pgm")]).deep == 0


@pytest.mark.parametrize("channels", [2, 4])
def test_transparent_images_are_read_at_16_bits_or_not_at_all(tmp_path: Path, channels: int) -> None:
    values = np.full((4, 4, channels), 200)
    values[..., -1] = 65535  # opaque
    root = folder(tmp_path, **{"a.png": deep_png(values)})
    with pytest.raises(
        DatasetError, match=r"Pillow reads no more than the high byte .* convert these images to 8 bits"
    ):
        FolderDataset(root)[0]
    with pytest.raises(BitDepthError, match=r"a\.png: .*bit_depth is 8; convert"):
        FolderDataset(root, bit_depth=8)[0]
    assert np.asarray(FolderDataset(root, bit_depth=16)[0]).max() == 0
    values[..., :-1] = 65535
    folder(tmp_path, **{"b.png": deep_png(values)})
    assert np.asarray(FolderDataset(root)[1]).min() == 255


def test_an_image_beyond_the_range_of_its_set_stops_and_is_not_skipped(tmp_path: Path) -> None:
    root = folder(tmp_path, **{"a.png": deep_png(SHADES), "b.png": deep_png(SHADES * 10)})
    dataset = FolderDataset(root, bit_depth=8)
    assert np.array_equal(gray_of(dataset[0]), SHADES)
    with pytest.raises(BitDepthError, match=r"b\.png: expected values up to 255, .*, found 2550; another bit_depth"):
        dataset[1]


def test_plain_images_have_8_bits_whatever_is_said(tmp_path: Path) -> None:
    root = folder(tmp_path, **{"a.png": saved(SHADES.astype(np.uint8), "PNG"), "b.png": deep_png(SHADES)})
    for bits in (8, 12, 16):
        assert np.array_equal(gray_of(FolderDataset(root, bit_depth=bits)[0]), SHADES)
    assert [gray_of(FolderDataset(root)[number]).max() for number in (0, 1)] == [255, 255]


def test_without_a_set_values_have_16_bits() -> None:
    data = io.BytesIO(deep_png(SHADES * 257))
    assert np.array_equal(gray_of(decode_image(data, "a.png")), SHADES)
    with pytest.raises(ImageReadError, match="more than 8 bits for each pixel"):
        decode_image(data, "a.png", bit_depth=None)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_decide_alike(tmp_path: Path, workers: int) -> None:
    root = folder(tmp_path, **{f"{number}.png": deep_png(SHADES * (number + 1)) for number in range(8)})

    dataset = FolderDataset(root, transform=_brightest)
    with pytest.raises(DatasetError):
        dataset[0]  # up to 2040
    folder(root, **{"8.png": deep_png(SHADES * 16)})
    dataset = pickle.loads(pickle.dumps(FolderDataset(root, transform=_brightest)))
    found = [int(value) for batch in DataLoader(dataset, batch_size=2, num_workers=workers) for value in batch]
    assert found == [round((number + 1) * 255 * 255 / 4095) for number in range(8)] + [254]


def _brightest(image: Image.Image) -> int:
    return int(np.asarray(image).max())


# Surveys


def test_a_survey_reads_few_of_many_deep_images_and_stops_when_it_is_sure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = MOST_READ + 100
    root = folder(tmp_path, **{f"{n:04d}.png": deep_png(np.full((1, 1), n % 200)) for n in range(number)})
    read: list[str] = []
    original = survey.__globals__["read_largest_value"]

    def watched(path: str, **options: Any) -> int:
        read.append(path)
        return int(original(path, **options))

    monkeypatch.setattr("simet_cache.datasets.survey.read_largest_value", watched)
    paths = [str(root / name) for name in FolderDataset(root).files]
    assert survey(paths).largest == 199
    assert len(read) == len(set(read)) == MOST_READ
    assert {paths[0], paths[-1]} <= set(read)


def test_a_survey_tells_formats_sizes_and_quality(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    root = folder(
        tmp_path,
        **{
            "a.jpg": saved(noise, "JPEG", quality=75),
            "b.jpg": saved(noise, "JPEG", quality=60),
            "c.jpg": saved(noise[..., 0], "JPEG", quality=75),
            "d.png": saved(noise, "PNG"),
            "e.png": b"no image",
            "f.webp": saved(noise, "WEBP"),
        },
    )
    paths = [str(root / name) for name in FolderDataset(root).files]
    found = survey(paths)
    assert found == Survey(
        images=5, formats={"JPEG": 3, "PNG": 1, "WEBP": 1}, size=(30, 20), side=24, quality=75, whole=True
    )
    (root / "d.png").write_bytes(saved(noise[:10], "PNG"))
    assert survey(paths).size is None
    assert survey([]) == Survey()


@pytest.mark.parametrize("quality", [1, 10, 50, 75, 90, 95, 100])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_quality_of_a_jpeg_is_that_which_it_was_saved_with(tmp_path: Path, quality: int, mode: str) -> None:
    path = tmp_path / "a.jpg"
    Image.new(mode, (8, 8)).save(path, quality=quality)
    assert abs((survey([str(path)]).quality or 0) - quality) <= 1


def test_a_survey_survives_json_and_nothing_else_is_one() -> None:
    plain = Survey(images=2, formats={"PNG": 2}, size=(3, 4), side=3, deep=1, largest=200)
    assert Survey.from_json(plain.to_json()) == plain
    assert Survey.from_json(Survey().to_json()) == Survey()
    for name, value in [
        ("version", 0),
        ("images", "2"),
        ("formats", ["PNG"]),
        ("formats", {"PNG": -1}),
        ("size", [3]),
        ("size", [3, None]),
        ("deep", True),
        ("largest", 1.5),
        ("whole", False),
        ("more", 1),
    ]:
        assert Survey.from_json({**plain.to_json(), name: value}) is None, name
    for other in (None, [], "x", {}, {"version": 1}):
        assert Survey.from_json(other) is None


def test_one_line_says_how_deep_images_are_read() -> None:
    sets = [
        ("real", BitDepth(12, auto=True)),
        ("a", BitDepth(8, auto=True)),
        ("b", BitDepth(8, auto=True)),
        ("said", BitDepth(16, auto=False)),
        ("plain", None),
    ]
    assert in_one_line(sets) == (
        "images of more than 8 bits are read by the largest value in their set (up to 255 is 8 bits, 2048 to 4095 is"
        " 12, 32768 to 65535 is 16): as 8 bits in a, b; as 12 bits in real; bit_depth sets it"
    )
    assert in_one_line(sets[3:]) == ""
