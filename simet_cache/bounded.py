"""Files that others may have written, read within bounds: on their bytes, and on what these become in memory.

A cache folder may be shared, and archives and remotes bring files of strangers. None of them may cost more memory than
a small multiple of its size, and none more than a known amount.
"""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path
from typing import Any

from simet_cache.errors import DamagedEntryError

JSON_BYTES = 1 << 25  # of a manifest: that is room for 200,000 images that could not be read
_JSON_VALUES = 1 << 20  # each takes a hundred bytes or two, and as few as two bytes of the file


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading: a pipe in the place of one would keep its reader waiting for ever.

    Raises:
        DamagedEntryError: It is something else.
        OSError: It cannot be opened.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115 - returned
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DamagedEntryError(f"{path} is no regular file")
    return file


def read(path: Path, *, most: int = JSON_BYTES) -> bytes:
    """A regular file whole.

    Args:
        path: The file.
        most: How many bytes it may have.

    Raises:
        DamagedEntryError: It has more, or is no regular file.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= most else b""
    if max(size, len(content)) > most:
        raise DamagedEntryError(f"{path} is damaged: expected at most {most} bytes, found {max(size, len(content))}")
    return content


def json_value(blob: bytes | str) -> Any:
    """The value of a JSON text that holds no more values than any file of this program.

    Raises:
        ValueError: It is no JSON, too long, or nested too deeply.
    """
    check_json(blob)
    try:
        return json.loads(blob)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def check_json(blob: bytes | str) -> None:
    """Make sure that a JSON text is not too long to be read, by its bytes and its values.

    Raises:
        ValueError: It is.
    """
    if isinstance(blob, bytes):
        values = blob.count(b",") + blob.count(b"[") + blob.count(b"{")
    else:
        values = blob.count(",") + blob.count("[") + blob.count("{")
    if values > _JSON_VALUES or len(blob) > JSON_BYTES:
        found = f"{values} values in {len(blob)} bytes"
        raise ValueError(f"expected at most {_JSON_VALUES} values in {JSON_BYTES} bytes of JSON, found {found}")
