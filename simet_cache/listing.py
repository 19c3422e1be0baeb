"""What the data of a dataset were at one moment: digests to compare, and a list of files to name what differs."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import xxhash

VERSION = 1  # of what is digested, and how: fingerprints of another version are unknown

# size, time of change and digest of the content, UNREAD where nobody has read it, and the name
Entry = tuple[int | str, int | str, str, str]
UNREAD = "-"

# A listing from another machine may be a bomb. An honest one takes two bytes and more for each name, and no fewer than
# one for 133 when the same name comes again and again.
LARGEST = 1 << 28  # bytes of a listing as it is kept
_LONGEST = 1 << 28  # bytes unpacked
_RATIO = 256  # and so many for each byte that is kept
_MOST_LINES = 1 << 24
_MORE_LINES = 1000
_LONGEST_LINE = 1 << 16
_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Fingerprint:
    """What the data of a dataset were at one moment.

    Attributes:
        stat: 32 hexadecimal digits: names, sizes and times of change of the files, in the order of the rows. Data in
            memory count by what they are.
        content: 32 hexadecimal digits: names and contents. None where the files were not read.
        listing: What the digests are of, for `differences`; no part of a comparison.
    """

    stat: str | None = None
    content: str | None = None
    listing: bytes = field(default=b"", repr=False, compare=False)

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Fingerprint:
        """Of files, or of data that are described like files, in the order of the rows."""
        by_stat = "".join([f"{size} {time}\t{name}\0" for size, time, _, name in entries])
        by_content, listing = None, by_stat
        if all(digest != UNREAD for _, _, digest, _ in entries):
            by_content = _hex("".join([f"{digest}\t{name}\0" for _, _, digest, name in entries]))
            listing = "".join([f"{size} {time} {digest}\t{name}\0" for size, time, digest, name in entries])
        return cls(_hex(by_stat), by_content, zlib.compress(_bytes(listing), 1))

    @property
    def known(self) -> bool:
        """Whether anything can be said of the data."""
        return self.stat is not None or self.content is not None

    def same_as(self, other: Fingerprint) -> bool | None:
        """Whether the data are the same: by content where both have it, else by stat; None where nobody knows."""
        for mine, theirs in ((self.content, other.content), (self.stat, other.stat)):
            if mine is not None and theirs is not None:
                return mine == theirs
        return None

    def is_of_rows(self, total: int) -> bool:
        """Whether it is of files, one for each of so many rows."""
        return bool(self.listing) and len(entries_of(self.listing)) == total

    def of_rows(self, rows: Sequence[int], *, total: int) -> Fingerprint:
        """The fingerprint of some of the rows, as it was at that moment; data that are no files, one each, stay whole.

        Args:
            rows: Their positions.
            total: How many rows this fingerprint is of.
        """
        return self.of_parts([rows], total=total)[0]

    def of_parts(self, parts: Sequence[Sequence[int]], *, total: int) -> list[Fingerprint]:
        """The same for several parts, for which the list of files is unpacked once."""
        entries = entries_of(self.listing) if self.listing else []
        if len(entries) != total:
            return [self] * len(parts)
        return [Fingerprint.of([entries[row] for row in rows]) for rows in parts]

    def to_json(self) -> dict[str, int | str] | str:
        """The digests, without the listing."""
        if not self.known:
            return "unknown"
        digests = {"stat": self.stat, "content": self.content}
        return {"version": VERSION, **{name: digest for name, digest in digests.items() if digest is not None}}

    @classmethod
    def from_json(cls, data: object) -> Fingerprint:
        """The reverse of ``to_json``; of anything else, or of another version, the unknown fingerprint."""
        if not isinstance(data, dict) or data.get("version") != VERSION:
            return cls()
        digests = {name: data[name] for name in ("stat", "content") if name in data}
        well = all(isinstance(digest, str) and re.fullmatch("[0-9a-f]{32}", digest) for digest in digests.values())
        return cls(**digests) if well else cls()


def differences(before: bytes, now: bytes, *, limit: int = 3) -> list[str]:
    """What happened between two listings, file by file in the order of their names.

    Args:
        before: The ``listing`` of a fingerprint.
        now: The ``listing`` of a later one.
        limit: So many files are named.

    Returns:
        Like ``cat/3.png changed``, ``cat/4.png touched``, ``cat/5.png is new``, ``and 12 more``. Empty where nothing
        differs or a listing is unknown, damaged or longer than any that names are taken from. Touched is a file of the
        same size with another time and unknown content.
    """
    try:
        news, new_order, lines = _known(now, most=_MOST_LINES)
        olds, old_order, _ = _known(before, most=2 * lines + _MORE_LINES)  # of one key, and so of equally many rows
    except zlib.error:
        return []
    names = sorted(name for name in olds.keys() | news.keys() if olds.get(name) != news.get(name))
    happened = [(name, _what_happened(olds.get(name), news.get(name))) for name in names]
    found = [(name, what) for name, what in happened if what]
    if not found and old_order != new_order:
        return ["the same files in another order or number"]
    named = [f"{_printable(name)} {what}" for name, what in found[:limit]]
    return named + ([f"and {len(found) - limit} more"] if len(found) > limit else [])


def _known(listing: bytes, *, most: int) -> tuple[dict[bytes, bytes], str, int]:
    """What is known of each file, a digest of the names in their order, and the number of lines.

    Args:
        listing: Of a fingerprint.
        most: How many lines it may have.

    Raises:
        zlib.error: It is no listing, or longer than any that names are taken from.
    """
    known: dict[bytes, bytes] = {}
    order, number = xxhash.xxh3_128(), 0
    for number, line in enumerate(_lines(listing), start=1):
        about, tab, name = line.partition(b"\t")
        known[name] = about
        order.update(name + b"\0")
        if not tab or number > most:
            raise zlib.error("no listing, or too long")
    return known, order.hexdigest(), number


def _lines(listing: bytes) -> Iterator[bytes]:
    """The lines of a listing, unpacked a few at a time."""
    unpacking = zlib.decompressobj()
    left, rest = min(_LONGEST, _RATIO * len(listing)), b""
    for start in range(0, len(listing), _AT_ONCE):
        packed = listing[start : start + _AT_ONCE]
        while packed and not unpacking.eof:
            plain = unpacking.decompress(packed, _AT_ONCE)
            packed = unpacking.unconsumed_tail
            left -= len(plain)
            *lines, rest = (rest + plain).split(b"\0")
            if left < 0 or len(rest) > _LONGEST_LINE:
                raise zlib.error("too long")
            yield from lines
    if not unpacking.eof:
        raise zlib.error("cut short")


def entries_of(listing: bytes) -> list[Entry]:
    """What a listing of our own was made from, however long it is."""
    lines = [line.partition(b"\t") for line in zlib.decompress(listing).split(b"\0")[:-1]]
    return [(*_parts(about), name.decode(errors="surrogateescape")) for about, _, name in lines]


def _parts(about: bytes) -> tuple[str, str, str]:
    size, time, digest = [*about.decode(errors="replace").split(" "), UNREAD][:3]
    return size, time, digest


def _what_happened(before: bytes | None, now: bytes | None) -> str | None:
    if before is None or now is None:
        return "is gone" if now is None else "is new"
    old, new = (about.decode(errors="replace").split(" ") for about in (before, now))
    read = len(old) == len(new) == 3  # both with a digest of the content
    if old[2] == new[2] if read else old[:2] == new[:2]:
        return None
    if UNREAD in old[:2] or UNREAD in new[:2]:
        return "is missing" if UNREAD in new[:2] else "is no longer missing"
    return "touched" if old[0] == new[0] and not read else "changed"


def _printable(name: bytes) -> str:
    text = name.decode(errors="backslashreplace")
    return text if text.isprintable() else ascii(text)[1:-1]


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")  # names may be no text


def _hex(text: str) -> str:
    return xxhash.xxh3_128(_bytes(text)).hexdigest()
