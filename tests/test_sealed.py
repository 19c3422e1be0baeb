"""Files of JSON and arrays: nothing in them runs, and no byte of them changes unseen."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xxhash import xxh3_128_hexdigest

from simet_cache import sealed
from simet_cache.errors import DamagedEntryError

ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.array(2.5, np.float32),
    np.empty((0, 4)),
    np.array([True, False]),
    np.arange(5),
]


def written(texts: dict[str, str] | None = None, arrays: list[Any] | None = None) -> bytes:
    file = io.BytesIO()
    sealed.write(file, texts or {"about": "ä test"}, ARRAYS if arrays is None else arrays)
    return file.getvalue()


def read(content: bytes, folder: Path) -> tuple[dict[str, str], list[Any]]:
    path = folder / "file"
    path.write_bytes(content)
    with path.open("rb") as file:
        head = sealed.read_head(file, path)
        return dict(head.texts), [sealed.read_array(file, place, path) for place in head.places]


def forged(head: Any, payload: bytes = b"") -> bytes:
    """As somebody writes it who knows how a head is checked."""
    head["__metadata__"] = {"check": "0" * 32, **head.get("__metadata__", {})}
    blob = json.dumps({"__metadata__": head.pop("__metadata__"), **head})
    blob = blob.replace("0" * 32, xxh3_128_hexdigest(blob.encode()), 1)
    return len(blob).to_bytes(8, "little") + blob.encode() + payload


def test_what_is_written_is_read(tmp_path: Path) -> None:
    texts, arrays = read(written(), tmp_path)
    assert texts["about"] == "ä test"
    for array, there in zip(ARRAYS, arrays, strict=True):
        assert (array.dtype, array.shape, array.tobytes()) == (there.dtype, there.shape, there.tobytes())
        assert there.flags.writeable
        assert there.flags.owndata or there.base is None


def test_no_arrays_and_a_long_head(tmp_path: Path) -> None:
    texts = {"long": "x" * 100_000}
    assert read(written(texts, []), tmp_path)[0]["long"] == texts["long"]
    assert read(written(texts), tmp_path)[1][4].tolist() == [0, 1, 2, 3, 4]


def test_the_layout_is_that_of_safetensors() -> None:
    content = written()
    length = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    assert head["0"] == {"dtype": "F64", "shape": [2, 3], "data_offsets": [0, 48]}
    assert head["1"] == {"dtype": "F32", "shape": [], "data_offsets": [48, 52]}
    np.testing.assert_array_equal(np.frombuffer(content[8 + length :][:48]), np.arange(6.0))
    assert all(isinstance(text, str) for text in head["__metadata__"].values())


def test_every_flipped_byte_is_seen(tmp_path: Path) -> None:
    content = written()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        with pytest.raises(DamagedEntryError):
            read(bytes(changed), tmp_path)


def test_every_cut_is_seen_without_the_arrays(tmp_path: Path) -> None:
    content, path = written(), tmp_path / "file"
    for length in [*range(0, len(content), 7), len(content) - 1, len(content) + 1]:
        path.write_bytes(content[:length] if length < len(content) else content + b"x")
        with path.open("rb") as file, pytest.raises(DamagedEntryError):
            sealed.read_head(file, path)


def test_a_head_is_sound_whatever_has_become_of_the_arrays(tmp_path: Path) -> None:
    content = bytearray(written())
    content[-1] ^= 1
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("rb") as file:
        head = sealed.read_head(file, path)
        assert sealed.read_array(file, head.places[0], path).tolist() == ARRAYS[0].tolist()
        with pytest.raises(DamagedEntryError, match="an array is not what was written"):
            sealed.read_array(file, head.places[4], path)


HUGE = {"dtype": "F64", "shape": [10**6, 10**6], "data_offsets": [0, 8 * 10**12]}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(forged({"__metadata__": {"digests": "x"}, "0": HUGE}), id="huge"),
        pytest.param(
            forged({"__metadata__": {"digests": "x"}, "0": {**HUGE, "data_offsets": [0, 8]}}, b"8" * 8), id="lying"
        ),
        pytest.param(
            forged({"__metadata__": {"digests": "x"}, "0": {**HUGE, "shape": [-1], "data_offsets": [0, -8]}}),
            id="negative",
        ),
        pytest.param(
            forged({"__metadata__": {"digests": "x"}, "0": {**HUGE, "dtype": "|O8", "shape": [1]}}, b"8" * 8),
            id="objects",
        ),
        pytest.param(
            forged(
                {"__metadata__": {"digests": "x"}, "0": {**HUGE, "shape": [True], "data_offsets": [0, 8]}}, b"8" * 8
            ),
            id="no number",
        ),
        pytest.param(forged({"__metadata__": {"digests": "x y"}, "0": HUGE}), id="digests"),
        pytest.param(forged({"__metadata__": {"digests": 5}}), id="no text"),
        pytest.param(forged({"__metadata__": {}}), id="nothing"),
        pytest.param(pickle.dumps(ARRAYS), id="pickle"),
        pytest.param((2**63).to_bytes(8, "little") + written()[8:], id="long head"),
        pytest.param(b"", id="empty"),
    ],
)
def test_what_is_none_of_our_files_is_damaged(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DamagedEntryError):
        read(content, tmp_path)


def test_deep_json_is_damaged(tmp_path: Path) -> None:
    deep = '{"__metadata__": {"check": "' + "0" * 32 + '"}, "0": ' + "[" * 200_000 + "]" * 200_000 + "}"
    blob = deep.replace("0" * 32, xxh3_128_hexdigest(deep.encode()), 1).encode()
    with pytest.raises(DamagedEntryError):
        read(len(blob).to_bytes(8, "little") + blob, tmp_path)


def test_arrays_that_could_hold_anything_are_not_written() -> None:
    with pytest.raises(TypeError, match="object"):
        written(arrays=[np.array([{}])])
