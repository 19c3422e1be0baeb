"""Which files of a folder are images: those named so, by a list that does not depend on what is installed.

The number of images is part of a dataset's key, so the list is ours. It is what Pillow 11.3 to 13.0 decode by
themselves. A file of a format that the installed Pillow does not decode counts, and cannot be read: it does not vanish.
"""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image, features

# Of IMAGE_SUFFIXES. Another list makes other keys for folders that hold what was added or removed: raise it, say so
# in docs/decisions, and expect these folders to be extracted anew.
VERSION = 1

IMAGE_SUFFIXES = frozenset(
    (
        *(".apng", ".avif", ".avifs", ".blp", ".bmp", ".bw", ".cur", ".dcx", ".dds", ".dib", ".fit", ".fits", ".flc"),
        *(".fli", ".ftc", ".ftu", ".gbr", ".gif", ".icb", ".icns", ".ico", ".iim", ".im", ".j2c", ".j2k", ".jfif"),
        *(".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".msp", ".pbm", ".pcd", ".pcx", ".pfm"),
        *(".pgm", ".png", ".pnm", ".ppm", ".psd", ".pxr", ".qoi", ".ras", ".rgb", ".rgba", ".sgi", ".tga", ".tif"),
        *(".tiff", ".vda", ".vst", ".webp", ".xbm", ".xpm"),
    )
)


class _Format(NamedTuple):
    """A format that an installed Pillow may lack.

    Attributes:
        name: What people call it.
        at: Where its signature stands in a file.
        signatures: Any of these.
        pillow: What Pillow calls the format, and the feature that decodes it; None where no Pillow does.
        remedy: What reads such files.
    """

    name: str
    at: int
    signatures: tuple[bytes, ...]
    pillow: tuple[str, str] | None
    remedy: str


_CONVERT = "convert it, for example to PNG"
FROM_PYPI = "pip install --force-reinstall pillow has it"
_FORMATS = (
    _Format("AVIF", 4, (b"ftypavif", b"ftypavis"), ("AVIF", "avif"), "pip install 'pillow>=11.3' has it"),
    _Format("WebP", 8, (b"WEBP",), ("WEBP", "webp"), FROM_PYPI),
    _Format("JPEG 2000", 0, (b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51"), ("JPEG2000", "jpg_2000"), FROM_PYPI),
    _Format("JPEG", 0, (b"\xff\xd8\xff",), ("JPEG", "jpg"), FROM_PYPI),
    _Format("PNG", 0, (b"\x89PNG\r\n",), ("PNG", "zlib"), FROM_PYPI),
    _Format("HEIF", 4, (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1"), None, _CONVERT),
    _Format("JPEG XL", 0, (b"\xff\x0a", b"\0\0\0\x0cJXL "), None, _CONVERT),
)
SIGNATURE = 32  # bytes of a file that tell its format


def missing_decoder(start: bytes) -> str | None:
    """Say which decoder a file needs that this Pillow does not have; None where it has it, or nobody knows.

    Args:
        start: The first `SIGNATURE` bytes of the file.
    """
    for known in _FORMATS:
        if start[known.at :].startswith(known.signatures):
            if known.pillow is not None and _decodes(*known.pillow):
                return None
            pillow = f"Pillow {features.version('pil')} as it is installed"
            return f"an image in {known.name} format, which {pillow} does not decode; {known.remedy}"
    return None


def _decodes(name: str, feature: str) -> bool:
    """Whether Pillow does, by itself or by a plugin of another package."""
    factory, _ = Image.OPEN.get(name, (None, None))
    if factory is None:
        return False
    return not factory.__module__.startswith("PIL.") or feature in features.get_supported()
