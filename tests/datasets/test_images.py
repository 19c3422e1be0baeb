"""Reading an image: the pixels a person sees, or an error that names the file."""

from __future__ import annotations

import io
import os
import runpy
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from simet_cache.datasets import images
from simet_cache.datasets.images import check_header, decode_image, read_image, to_rgb
from simet_cache.errors import ImageReadError

WHITE, RED, BLUE = (255, 255, 255), (255, 0, 0), (0, 0, 255)
STORED = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)  # 6 rows of 4 pixels, all different

# How a stored image lies for each EXIF orientation: the definition in the standard, written with NumPy.
UPRIGHT = {
    1: STORED,
    2: STORED[:, ::-1],
    3: STORED[::-1, ::-1],
    4: STORED[::-1],
    5: STORED.transpose(1, 0, 2),
    6: np.rot90(STORED, -1),
    7: np.rot90(STORED, 2).transpose(1, 0, 2),
    8: np.rot90(STORED, 1),
}


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    assert image.mode == "RGB"
    return np.asarray(image)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def noise(*shape: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


# Plain images


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "ppm"])
def test_opaque_rgb_comes_out_as_pillow_reads_it(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}", noise(40, 56, 3))
    with Image.open(path) as expected:
        assert np.array_equal(pixels(read_image(path)), np.asarray(expected.convert("RGB")))


def test_rgb_is_not_copied() -> None:
    image = noise(8, 8, 3)
    assert to_rgb(image) is image


def test_gray_is_replicated(tmp_path: Path) -> None:
    gray = noise(8, 8)
    expected = np.repeat(np.asarray(gray)[..., None], 3, axis=2)
    assert np.array_equal(pixels(read_image(saved(tmp_path / "a.png", gray))), expected)


def test_bilevel_is_black_and_white(tmp_path: Path) -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 255)
    assert pixels(read_image(saved(tmp_path / "a.png", image))).tolist() == [[[0, 0, 0], list(WHITE)]]


def test_palette_is_resolved(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    assert pixels(read_image(saved(tmp_path / "a.png", image))).tolist() == [[list(RED), list(BLUE)]]


@pytest.mark.parametrize(("mode", "suffix"), [("CMYK", "jpg"), ("CMYK", "tif"), ("LAB", "tif"), ("YCbCr", "tif")])
def test_other_colour_spaces_are_converted(tmp_path: Path, mode: str, suffix: str) -> None:
    source = Image.new("RGB", (16, 16), (200, 40, 90))
    path = saved(tmp_path / f"a.{suffix}", source.convert(mode))
    assert np.abs(pixels(read_image(path)).astype(int) - (200, 40, 90)).max() <= 4


def test_hsv_is_converted() -> None:
    assert np.abs(pixels(to_rgb(Image.new("RGB", (1, 1), RED).convert("HSV"))).astype(int) - RED).max() <= 2


# Orientation


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(STORED), exif=oriented(orientation), **options)
    assert np.array_equal(pixels(read_image(path)), UPRIGHT[orientation])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_exif_orientation_of_a_photograph(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / "a.jpg", noise(24, 40, 3).convert(mode), exif=oriented(6))
    with Image.open(path) as stored:
        expected = np.rot90(np.asarray(stored.convert("RGB")), -1)
    assert np.array_equal(pixels(read_image(path)), expected)


def test_orientation_is_applied_once(tmp_path: Path) -> None:
    image = read_image(saved(tmp_path / "a.jpg", noise(8, 16, 3), exif=oriented(6)))
    assert np.array_equal(pixels(to_rgb(image)), pixels(image))


def test_orientation_leaves_the_given_image_alone(tmp_path: Path) -> None:
    with Image.open(saved(tmp_path / "a.jpg", noise(8, 16, 3), exif=oriented(6))) as given:
        before = np.array(given)
        to_rgb(given)
        assert np.array_equal(np.asarray(given), before)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0", oriented(77).tobytes()]
)
def test_damaged_orientation_leaves_the_image_as_stored(tmp_path: Path, exif: bytes) -> None:
    path = saved(tmp_path / "a.jpg", noise(8, 16, 3), exif=exif)
    assert read_image(path).size == (16, 8)


# Transparency


def test_invisible_colours_do_not_count(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1))
    for x, colour in enumerate([(*RED, 0), (*RED, 255), (0, 0, 0, 51)]):
        image.putpixel((x, 0), colour)
    assert pixels(read_image(saved(tmp_path / "a.png", image))).tolist() == [[list(WHITE), list(RED), [204] * 3]]


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBA", "RGBa"])
def test_every_alpha_channel_is_put_on_white(mode: str) -> None:
    image = Image.new("RGBA", (1, 1), (10, 20, 30, 0)).convert(mode)
    assert pixels(to_rgb(image)).tolist() == [[list(WHITE)]]


@pytest.mark.parametrize(
    ("image", "transparency"),
    [
        (Image.new("RGB", (2, 1), BLUE), BLUE),
        (Image.new("L", (2, 1), 7), 7),
        (Image.new("1", (2, 1), 0), 0),
        (Image.new("P", (2, 1), 0), 0),
        (Image.new("P", (2, 1), 0), b"\0\xff"),
        (Image.new("I;16", (2, 1), 4660), 4660),
    ],
    ids=["RGB", "L", "1", "P", "P with alphas", "I;16"],
)
def test_a_transparent_colour_is_put_on_white(tmp_path: Path, image: Image.Image, transparency: object) -> None:
    image = image.copy()
    if image.mode == "P":
        image.putpalette([0, 0, 0, *BLUE])
    image.putpixel((1, 0), RED if image.mode == "RGB" else 1)
    first, second = pixels(read_image(saved(tmp_path / "a.png", image, transparency=transparency)))[0].tolist()
    assert first == list(WHITE)
    assert second == {"RGB": list(RED), "P": list(BLUE), "L": [1] * 3, "I;16": [0] * 3, "1": list(WHITE)}[image.mode]


def test_transparent_gif(tmp_path: Path) -> None:
    image = Image.new("P", (1, 1), 0)
    image.putpalette([*RED, *BLUE])
    assert pixels(read_image(saved(tmp_path / "a.gif", image, transparency=0))).tolist() == [[list(WHITE)]]


# Deep pixels


@pytest.mark.parametrize("file_and_mode", ["a.png I;16", "a.tif I;16", "a.tif I;16B", "a.pgm I"])
def test_sixteen_bit_gray_is_scaled(tmp_path: Path, file_and_mode: str) -> None:
    name, mode = file_and_mode.split()
    gray = np.arange(256) * 257
    if mode == "I":
        (tmp_path / name).write_bytes(b"P5 16 16 65535\n" + gray.astype(">u2").tobytes())
    else:
        raw = gray.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
        Image.frombytes(mode, (16, 16), raw).save(tmp_path / name)
    with Image.open(tmp_path / name) as opened:
        assert opened.mode == mode
    assert pixels(read_image(tmp_path / name))[..., 1].ravel().tolist() == list(range(256))


def test_scaling_rounds_to_the_nearest() -> None:
    image = Image.fromarray(np.array([[0, 128, 129, 385, 386, 65535]], dtype=np.uint16))
    assert pixels(to_rgb(image))[0, :, 0].tolist() == [0, 0, 1, 1, 2, 255]


@pytest.mark.parametrize("value", [-1, 65536])
def test_deeper_integers_are_refused(tmp_path: Path, value: int) -> None:
    path = saved(tmp_path / "a.tif", Image.new("I", (2, 2), value))
    with pytest.raises(ImageReadError, match=rf"expected gray from 0 to 65535, found {value}"):
        read_image(path)


def test_floats_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.new("F", (2, 2), 0.5))
    with pytest.raises(ImageReadError, match="float pixels have no known range") as caught:
        read_image(path)
    assert caught.value.path == str(path)
    with pytest.raises(ImageReadError, match=r"\(in memory\)"):
        to_rgb(Image.new("F", (2, 2)))


# Several frames


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif", "mpo"])
def test_first_of_several_frames(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    path = saved(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    with Image.open(path) as opened:
        assert getattr(opened, "n_frames", 1) == 2
    assert np.abs(pixels(read_image(path)).astype(int) - RED).max() <= 4


# What cannot be read


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp", "tif", "ppm", "jp2", "tga"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    path = saved(tmp_path / f"a.{suffix}", noise(64, 64, 3))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ImageReadError, match=r"cannot read image .*a\.\w+: \w") as caught:
        read_image(path)
    assert caught.value.path == str(path)


@pytest.mark.parametrize(
    "content", [b"hello", b"\xff" * 100, b"<svg></svg>", b"\0" * 4096, b"GIF89a", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageReadError, match=r"a\.png: not an image that Pillow can decode"):
        read_image(tmp_path / "a.png")


def test_a_flipped_byte_in_a_png_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", noise(64, 64, 3))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ImageReadError):
        read_image(path)


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ImageReadError, match=r"a\.jpg: the file is empty$"):
        read_image(tmp_path / "a.jpg")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match=r"a\.jpg: no such file"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(ImageReadError):
        read_image(tmp_path)
    with pytest.raises(ImageReadError, match="null"):
        read_image("a\0.jpg")


def test_a_forbidden_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", noise(4, 4, 3))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("nothing is forbidden to this user")
    with pytest.raises(ImageReadError, match=r"a\.png: permission denied"):
        read_image(path)


def test_postscript_is_not_run_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise(8, 8, 3).save(path, format="EPS")
    with pytest.raises(ImageReadError, match="not an image that Pillow can decode"):
        read_image(path)


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.bmp", noise(4, 4, 3))
    data = bytearray(path.read_bytes())
    data[18:26] = struct.pack("<ii", 30_000, 30_000)
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match="decompression bomb"):
        read_image(path)


def test_a_big_image_is_read_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", noise(10, 10, 3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fresh = runpy.run_path(str(images.__file__))  # sets its filter on import, which this block undoes
        assert fresh["read_image"](path).size == (10, 10)
    assert caught == []


def test_decode_image_names_what_it_was_told() -> None:
    buffer = io.BytesIO()
    noise(4, 4, 3).save(buffer, format="PNG")
    assert decode_image(buffer, "a.zip/b.png").size == (4, 4)
    with pytest.raises(ImageReadError, match=r"cannot read image a\.zip/b\.png: the file is empty"):
        decode_image(io.BytesIO(), "a.zip/b.png")
    floats = io.BytesIO()
    Image.new("F", (2, 2)).save(floats, format="TIFF")
    with pytest.raises(ImageReadError, match=r"a\.zip/c\.tif: float pixels"):
        decode_image(floats, "a.zip/c.tif")


# Headers, and the limit on pixels


def test_a_header_is_refused_as_reading_the_image_would_be(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_bytes(b"no image")
    Image.new("F", (2, 2)).save(tmp_path / "floats.tif")
    saved(tmp_path / "big.png", noise(20, 20, 3))
    for name in ("empty.png", "text.png", "floats.tif", "big.png", "missing.png"):
        errors = []
        for look in (check_header, read_image):
            with pytest.raises(ImageReadError) as caught:
                look(tmp_path / name, max_pixels=399)
            errors.append((caught.value.path, caught.value.reason, caught.value.errno))
        assert errors[0] == errors[1]
    truncated = saved(tmp_path / "truncated.png", noise(20, 20, 3))
    os.truncate(truncated, 200)
    check_header(truncated)  # only its pixels are damaged


def test_the_limit_on_pixels_is_the_callers_and_pixels_do_not_depend_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.png", noise(20, 20, 3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # as if the image were beyond what Pillow opens by itself
    with pytest.raises(ImageReadError, match=r"decompression bomb.*raise max_pixels"):
        read_image(path)
    raised = read_image(path, max_pixels=200_000_000)
    monkeypatch.undo()
    assert raised.tobytes() == read_image(path).tobytes() == read_image(path, max_pixels=400).tobytes()
    with pytest.raises(ImageReadError, match="20 x 20 pixels are more than the 399 of max_pixels"):
        read_image(path, max_pixels=399)
