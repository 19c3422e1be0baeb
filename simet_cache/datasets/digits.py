"""scikit-learn's handwritten digits as PNG folders: a data set for trying things out that needs no download.

The 1,797 digits of 8 x 8 pixels are split at random into a reference half and a held-out half. The other parts are
the held-out half spoiled in one known way each, so that a metric can be seen to notice: noise and blur leave few
realistic images (low precision), three classes leave most of the variety out (low recall).
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from simet_cache.errors import DatasetError

PARTS = ("reference", "held-out", "noise", "blur", "three-classes")

SIDE = 32  # pixels

# Strong enough for the features of a ResNet-18 with random weights: against the reference half, precision (k = 3) is
# about 0.9 for held-out and three-classes but at most 0.2 for noise and blur; recall is 0.3 for three-classes.
NOISE = 90  # standard deviation, of 255
BLUR = 2.0  # standard deviation, in pixels
CLASSES = (0, 1, 2)


def digits_folder(home: Path, part: str, seed: int = 0) -> Path:
    """Find, or write once, one part of the digits.

    The bytes follow from the part and the seed (and the versions of Pillow and scikit-learn). Any number of
    processes may ask at the same time; the folder appears all at once.

    Args:
        home: Where the parts are kept; made if missing.
        part: One of `PARTS`.
        seed: Chooses the halves and the noise; 0 or more.

    Returns:
        ``home/seed-<seed>/<part>``, holding ``<index>_<digit>.png``: 32 x 32 pixels, 8-bit gray.

    Raises:
        DatasetError: The part or the seed does not exist, scikit-learn is missing, or ``home`` cannot be written.
    """
    if part not in PARTS:
        raise DatasetError(f"unknown part {part!r} of the digits; expected one of {', '.join(PARTS)}.")
    if seed < 0:
        raise DatasetError(f"expected a seed of 0 or more for the digits, found {seed}.")
    folder = home / f"seed-{seed}" / part
    if not folder.is_dir():
        try:
            _write_at_once(folder, _images(part, seed))
        except OSError as error:
            raise DatasetError(f"cannot write the digits: {error}. Choose another home than {home}.") from error
    return folder


def classes_of(files: list[str]) -> tuple[list[str], list[int]]:
    """The names of the ten classes, and the class of each file."""
    return [str(digit) for digit in range(10)], [int(Path(file).stem.rpartition("_")[2]) for file in files]


def _images(part: str, seed: int) -> dict[str, Image.Image]:
    """All images of a part, by file name."""
    pixels, digits = _load()
    order = np.random.default_rng(seed).permutation(len(digits))
    middle = len(digits) // 2
    chosen = np.sort(order[:middle] if part == "reference" else order[middle:])
    if part == "three-classes":
        chosen = chosen[np.isin(digits[chosen], CLASSES)]
    rng = np.random.default_rng([seed, 1])
    return {f"{i:04d}_{digits[i]}.png": _spoil(_draw(pixels[i]), part, rng) for i in chosen}


def _load() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Pixels ``(N, 8, 8)`` of 0 to 16, and digits ``(N,)``."""
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - takes a second, and only the first run needs it
    except ImportError as error:
        raise DatasetError("the digits come with scikit-learn, which is missing: pip install scikit-learn.") from error
    bunch = load_digits()
    return bunch.images, bunch.target


def _draw(pixels: NDArray[np.float64]) -> Image.Image:
    small = Image.fromarray((pixels * 255 / 16).round().astype(np.uint8))
    return small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _spoil(image: Image.Image, part: str, rng: np.random.Generator) -> Image.Image:
    if part == "noise":
        noisy = np.asarray(image) + rng.normal(0, NOISE, (SIDE, SIDE))
        return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))
    if part == "blur":
        return image.filter(ImageFilter.GaussianBlur(BLUR))
    return image


def _write_at_once(folder: Path, images: dict[str, Image.Image]) -> None:
    """Write beside ``folder`` and rename, so that it is never seen half full; who comes second keeps the first's."""
    scratch = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    scratch.mkdir(parents=True)
    try:
        for name, image in images.items():
            image.save(scratch / name)
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
