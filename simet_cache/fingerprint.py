"""Has the data behind a key changed since its features were made?

The key knows the path and the number of images, not the images. A fingerprint does: the relative name, size and
modification time of every file, by ``stat`` alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import xxhash


def fingerprint(root: Path, files: Iterable[str]) -> str:
    """The xxh3-128 of names, sizes and modification times.

    Args:
        root: The folder.
        files: Paths relative to it, in the order of the dataset.

    Returns:
        ``stat:`` and 32 hexadecimal digits.
    """
    state = xxhash.xxh3_128()
    for name in files:
        status = (root / name).stat()
        state.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return f"stat:{state.hexdigest()}"
