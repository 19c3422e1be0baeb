"""JSON that others may have written, read within bounds: on its bytes, and on what these become in memory.

A cache folder may be shared, and archives and remotes bring files of strangers. None of them may cost more memory than
a small multiple of its size, and none more than a known amount.
"""

from __future__ import annotations

import json
from typing import Any

JSON_BYTES = 1 << 25  # of a manifest: that is room for 200,000 images that could not be read
_JSON_VALUES = 1 << 20  # each takes a hundred bytes or two, and as few as two bytes of the file


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
