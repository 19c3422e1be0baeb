"""Metadata of an image never touch its pixels: whatever a PNG carries along, it is read, and in little memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from simet_cache.datasets.images import check_header, decode_image, read_image
from simet_cache.datasets.png_pixels import without_metadata
from simet_cache.errors import ImageReadError

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
LONG = "x" * 3_000_000
XMP = "XML:com.adobe.xmp"
ON_ITS_SIDE = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def png(info: PngInfo | None = None, image: Image.Image | None = None, **options: Any) -> bytes:
    written = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(written, "PNG", pnginfo=info, **options)
    return written.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(kind: bytes, data: bytes, *, at_the_end: bool = False) -> bytes:
    """A PNG with one more chunk, before its pixels or behind them."""
    plain = png()
    place = len(plain) - 12 if at_the_end else 33
    return plain[:place] + chunk(kind, data) + plain[place:]


def read(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(decode_image(io.BytesIO(data), "a.png"))


def text(key: str, value: str, **options: Any) -> PngInfo:
    info = PngInfo()
    info.add_text(key, value, **options)
    return info


def international(key: str, value: str, **options: Any) -> PngInfo:
    info = PngInfo()
    info.add_itxt(key, value, **options)
    return info


def seventy_texts() -> PngInfo:
    info = PngInfo()
    for number in range(70):
        info.add_text(f"part {number}", LONG[:1_000_000])
    return info


@pytest.mark.parametrize(
    "data",
    [
        png(text("workflow", LONG, zip=True)),
        png(international("workflow", LONG, zip=True)),
        png(seventy_texts()),
        png(icc_profile=np.random.default_rng(1).bytes(3_000_000)),
        png(icc_profile=bytes(3_000_000)),
        with_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(LONG.encode()), at_the_end=True),
        with_chunk(b"zTXt", b"workflow\0\7of a kind that nobody knows"),
        with_chunk(b"iCCP", b"profile\0\7of a kind that nobody knows"),
        with_chunk(b"tEXt", b"\xff" * 90),
        with_chunk(b"gAMA", b""),
        with_chunk(b"pHYs", b""),
        with_chunk(b"sRGB", b""),
        with_chunk(b"cHRM", b""),
    ],
    ids=lambda data: None if len(data) > 1 << 16 else str(data[33:60]),
)
def test_metadata_that_are_long_or_damaged_are_passed_over(data: bytes, tmp_path: Path) -> None:
    assert np.array_equal(read(data), PIXELS)
    (tmp_path / "a.png").write_bytes(data)
    check_header(tmp_path / "a.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png")), PIXELS)


@pytest.mark.parametrize("key", ["transparency", "interlace", "bbox", "default_image", "icc_profile", "xmp", "loop"])
def test_a_text_is_no_setting_whatever_it_is_called(key: str) -> None:
    assert np.array_equal(read(png(text(key, "1"))), PIXELS)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
@pytest.mark.parametrize("key", [b"workflow", XMP.encode()])
def test_a_bomb_among_the_metadata_costs_no_memory(kind: bytes, key: bytes) -> None:
    packing = zlib.compressobj(9)
    bomb = b"".join([packing.compress(bytes(1 << 20)) for _ in range(500)]) + packing.flush()
    before = {b"zTXt": key + b"\0\0", b"iTXt": key + b"\0\1\0\0\0", b"iCCP": key + b"\0\0"}[kind]
    data = with_chunk(kind, before + bomb)
    tracemalloc.start()
    assert np.array_equal(read(data), PIXELS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20  # of 500 MB


def raw_profile(exif: bytes) -> str:
    return f"\nexif\n{len(exif):8d}\n{exif.hex()}\n"


@pytest.mark.parametrize("padding", [0, 3_000_000], ids=["short", "long"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["exif", "xmp", "xmp as text", "raw profile"])
def test_what_says_how_an_image_lies_still_counts(kind: str, packed: bool, padding: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    filler = " " * padding
    if kind == "exif":
        data = png(text("comment", filler, zip=packed), exif=exif)
    elif kind == "xmp":
        data = png(international(XMP, filler + ON_ITS_SIDE, zip=packed))
    elif kind == "xmp as text":
        data = png(text(XMP, filler + ON_ITS_SIDE, zip=packed))
    else:
        data = png(text("Raw profile type exif", raw_profile(exif.tobytes()) + filler.replace(" ", "\n"), zip=packed))
    assert np.array_equal(read(data), np.rot90(PIXELS, -1))


def transparent(mode: str) -> dict[str, Any]:
    return {"transparency": {"L": 7, "RGB": (1, 2, 3), "P": 3, "I;16": 4660}[mode]} if mode in ("L", "RGB", "P") else {}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pixels_are_those_that_pillow_reads_by_itself(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 251)
    info = text("comment", "short")
    info.add(b"prIv", b"of somebody's own")
    info.add(b"prIv", b"of somebody's own", after_idat=True)
    data = png(info, image, dpi=(72, 72), **transparent(mode))
    with Image.open(io.BytesIO(data)) as plain, Image.open(without_metadata(io.BytesIO(data))) as view:
        assert (view.mode, view.size, view.tobytes()) == (plain.mode, plain.size, plain.tobytes())
        assert view.info.get("transparency") == plain.info.get("transparency")
        assert "comment" not in view.info


def test_an_animation_with_texts_between_its_frames_keeps_its_first() -> None:
    frames = [Image.fromarray(np.roll(PIXELS, number, axis=0)) for number in range(3)]
    data = png(text("workflow", LONG, zip=True), frames[0], save_all=True, append_images=frames[1:])
    assert np.array_equal(read(data), PIXELS)


@pytest.mark.parametrize("removed", [100, 400, 2000])
def test_a_file_that_is_cut_short_is_refused_all_the_same(removed: int) -> None:
    with pytest.raises(ImageReadError):
        read(png(text("workflow", LONG, zip=True))[:-removed])


def test_a_header_is_looked_at_without_the_pixels(tmp_path: Path) -> None:
    class Watched(io.BytesIO):
        farthest = 0

        def read(self, size: int | None = -1, /) -> bytes:
            found = super().read(size)
            self.farthest = max(self.farthest, self.tell())
            return found

        def readinto(self, buffer: Any, /) -> int:
            size = super().readinto(buffer)
            self.farthest = max(self.farthest, self.tell())
            return size

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8))
    file = Watched(png(text("workflow", LONG), noise))
    with Image.open(without_metadata(file)) as image:
        assert image.size == (600, 600)
    assert 3_000_000 < file.farthest < 3_200_000  # the text is stepped over, and the first pixels fill a buffer


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_never_makes_other_pixels(data: st.DataObject) -> None:
    written = bytearray(png(text("workflow", "short", zip=True), exif=Image.Exif().tobytes()))
    for _ in range(data.draw(st.integers(1, 3))):
        written[data.draw(st.integers(8, len(written) - 1))] = data.draw(st.integers(0, 255))
    with_texts = bytes(written)
    try:
        with Image.open(io.BytesIO(with_texts)) as plain:
            plain.load()
            expected = plain.tobytes()
    except Exception:
        return  # what Pillow refuses may be read or not
    with Image.open(without_metadata(io.BytesIO(with_texts))) as view:
        assert view.tobytes() == expected


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 400))
@settings(deadline=None)
def test_a_view_is_a_file_like_any_other(rest: bytes, at: int, size: int) -> None:
    data = png(text("workflow", "left out")) + rest
    kept = png()
    view = without_metadata(io.BytesIO(data))
    assert view.seek(at) == at == view.tell()
    assert view.read(size) == kept[at : at + size]
    assert view.seek(0, io.SEEK_END) == len(kept)
    assert (view.read(1), view.seek(-12, io.SEEK_CUR), view.read()) == (b"", len(kept) - 12, kept[-12:])


def test_what_is_no_png_is_left_alone() -> None:
    for data in (b"", b"\x89PNG", b"GIF89a", b"BM" + bytes(60)):
        file = io.BytesIO(data)
        assert without_metadata(file) is file
        assert file.tell() == 0
