"""Has the data behind a key changed since its features were made?

The key knows the path and the number of images, not the images. A fingerprint does: the relative name, size and
modification time of every file, by ``stat`` alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import xxhash


def fingerprint(root: str | os.PathLike[str], files: Iterable[str]) -> str:
    """The xxh3-128 of names, sizes and modification times; of a file that is not there, that it is not.

    Args:
        root: The folder.
        files: Paths relative to it, in the order of the dataset.

    Returns:
        ``stat:`` and 32 hexadecimal digits.
    """
    state = xxhash.xxh3_128()
    for name in files:
        try:
            status = os.stat(os.path.join(root, name))
            about = f"{status.st_size}\0{status.st_mtime_ns}"
        except OSError:  # like a link that leads nowhere
            about = "missing"
        state.update(f"{name}\0{about}\n".encode(errors="surrogateescape"))
    return f"stat:{state.hexdigest()}"
