"""PNG files without the metadata that they carry: texts, colour profiles and whatever else pixels do not need.

Pillow reads all of a PNG's metadata before the pixels, and refuses the file where they are long (image generators
save whole workflows as text) or where a text is called like something of its own, as ``transparency``. No pixel
depends on any of it, so Pillow is given a view of the file in which these chunks do not occur: they are neither read
nor unpacked, and a bomb among them costs nothing. What may say how the image lies stays, within `LONGEST` bytes.

Source: PNG specification, third edition, https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import bisect
import io
import struct
import zlib
from typing import Any, BinaryIO, cast

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LONGEST = 1 << 24  # bytes of metadata that are looked at in one file, unpacked

_PIXELS = frozenset({b"tRNS", b"acTL", b"fcTL", b"fdAT"})  # chunks that are not critical and change pixels
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_ORIENTED = frozenset({b"XML:com.adobe.xmp", b"Raw profile type exif"})  # texts in which Pillow looks for EXIF data
_KEYWORD = 80  # bytes: the longest keyword, and the zero behind it
_CRITICAL = 0x20  # the bit of a chunk's first letter that says that it may be left out


def without_metadata(file: BinaryIO) -> BinaryIO:
    """A view of an open, seekable image file that decodes to the same pixels; the file itself if it is no PNG.

    Chunks are looked at as far as the view is read: who wants the header alone reads no more than that.

    Args:
        file: Positioned anywhere. Nobody else may read it while the view is in use.
    """
    file.seek(0)
    start = file.read(len(SIGNATURE))
    file.seek(0)
    return cast(BinaryIO, io.BufferedReader(_Pixels(file))) if start == SIGNATURE else file


class _Pixels(io.RawIOBase):
    """The view: stretches of the file, and chunks that were written anew, one after the other."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stretches: list[int | bytes] = [0]  # where each lies in the file, or what it is
        self._ends = [len(SIGNATURE)]  # of each, in the view
        self._next = len(SIGNATURE)  # where the next chunk begins in the file
        self._complete = False
        self._budget = LONGEST
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            while not self._complete:
                self._look_at_chunk()
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._ends[-1]}[whence])
        return self._at

    def readinto(self, into: Any) -> int:
        buffer = memoryview(into)  # a part of it is no copy
        while self._ends[-1] <= self._at and not self._complete:
            self._look_at_chunk()
        number = bisect.bisect_right(self._ends, self._at)
        if number == len(self._ends):
            return 0
        inside = self._at - (self._ends[number - 1] if number else 0)
        size = min(len(buffer), self._ends[number] - self._at)
        stretch = self._stretches[number]
        if isinstance(stretch, bytes):
            buffer[:size] = stretch[inside : inside + size]
        else:
            self._file.seek(stretch + inside)
            size = self._file.readinto(buffer[:size])  # type: ignore[attr-defined]  # every file of bytes has it
        self._at += size
        return size

    def _look_at_chunk(self) -> None:
        """Add the next chunk, or leave it out."""
        self._file.seek(self._next)
        head = self._file.read(8)
        if len(head) < 8:  # cut short: whoever reads the view shall notice
            self._complete = True
            self._add(self._next, len(head))
            return
        (length,), kind, start = struct.unpack(">I", head[:4]), head[4:], self._next
        self._next = start + 12 + length  # its length, name and checksum are around it
        self._complete = kind == b"IEND"
        if kind in _TEXTS:
            text = self._said_of_orientation(kind, length)
            if text:
                self._add(text, len(text))
        elif kind == b"eXIf":
            if length <= self._budget:
                self._budget -= length
                self._add(start, 12 + length)
        elif kind in _PIXELS or not kind[0] & _CRITICAL or not kind.isalpha():
            self._add(start, 12 + length)

    def _add(self, stretch: int | bytes, size: int) -> None:
        last = self._stretches[-1]
        before = self._ends[-2] if len(self._ends) > 1 else 0
        if isinstance(stretch, int) and isinstance(last, int) and last + self._ends[-1] - before == stretch:
            self._ends[-1] += size  # what lies together is read together: an image may have thousands of chunks
        else:
            self._stretches.append(stretch)
            self._ends.append(self._ends[-1] + size)

    def _said_of_orientation(self, kind: bytes, length: int) -> bytes:
        """The text of a chunk that may say how the image lies, as a chunk that is not compressed; else nothing."""
        keyword, zero, rest = self._file.read(min(length, _KEYWORD)).partition(b"\0")
        known = keyword in _ORIENTED or (keyword == b"exif" and kind == b"tEXt")
        if not (known and zero) or length > self._budget:
            return b""
        data = rest + self._file.read(max(0, length - _KEYWORD))
        text = _unpacked(kind, data, self._budget)
        if text is None:
            return b""
        self._budget -= len(text)
        if kind == b"iTXt":
            return _chunk(b"iTXt", keyword + b"\0\0\0\0\0" + text)  # neither compressed nor in any language
        return _chunk(b"tEXt", keyword + b"\0" + text)


def _unpacked(kind: bytes, data: bytes, longest: int) -> bytes | None:
    """The text behind a keyword; None where it is damaged, or too long."""
    if kind == b"tEXt":
        return data
    if kind == b"iTXt":
        flags, parts = data[:2], data[2:].split(b"\0", 2)  # language, translated keyword, text
        if len(parts) < 3:
            return None
        if not flags[0]:
            return parts[2]
        packed = parts[2]
    else:
        flags, packed = b"\1" + data[:1], data[1:]
    if flags[1:] != b"\0":
        return None
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(packed, longest)
    except zlib.error:
        return None
    return None if unpacking.unconsumed_tail else text


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
