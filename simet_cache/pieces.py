"""Pieces: the features of shards on their way into a whole, and out of one again.

What goes into a whole must be what extracting that shard gives: made by the same extractor, in the order of the images,
and not one bit else than when it was stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simet_cache import codec, manifest, stopping
from simet_cache.atomic import reported
from simet_cache.errors import DamagedEntryError, DamagedShardError, ImageReadError, StoreError
from simet_cache.featureset import FeatureSet
from simet_cache.listing import Fingerprint
from simet_cache.manifest import DATASET_ORDER, Source
from simet_cache.skipped import remembered, why_unreadable
from simet_cache.sources import key_of, part_of
from simet_cache.store import FeatureStore

if TYPE_CHECKING:
    from simet_cache.plan import Planned

AGAIN = "It is extracted again when this is tried again"


@dataclass(frozen=True)
class Piece:
    """The features of one shard, about to be a part of the whole.

    Attributes:
        shard: All of its images.
        source: Those that could be read.
        features: Theirs.
        bad: The others, by their position in the whole.
        entry: The manifest; empty where the features could not be stored.
    """

    shard: Planned
    source: Source
    features: FeatureSet
    bad: list[tuple[int, ImageReadError]]
    entry: Mapping[str, Any]


def piece_of(store: FeatureStore, shard: Planned, part: FeatureSet, start: int) -> Piece:
    """The features of a shard, if they are fit to be a part of something else.

    Raises:
        DamagedShardError: They are not.
    """
    source, bad = shard.source, dict[int, ImageReadError]()
    if part.key != shard.key:
        source, bad = _without_bad(store, shard, part)
    moved = [(start + position, _renumbered(error, position, start)) for position, error in sorted(bad.items())]
    if part.unsaved is not None:
        return Piece(shard, source, part, moved, {})
    found = store.find(part.key, rows=len(shard.dataset) - len(bad), source=source)
    if found is None:
        raise DamagedShardError(f"the features of {shard.name} are gone from {store.path(part.key)}. {AGAIN}", part.key)
    entry = store.manifest(found.key)
    if why := _unlike(store, found, source):
        store.quarantine(found.key, f"{found.path} cannot be a shard: {why}")
        raise DamagedShardError(f"the features of {shard.name} cannot be used: {why}. {AGAIN}", found.key)
    return Piece(shard, source, found, moved, entry)


def _unlike(store: FeatureStore, found: FeatureSet, source: Source) -> str:
    """Why features under the key of a shard are not what extracting it gives: somebody else may have put them there."""
    seen = store.look(found.key, source=source)
    if seen.status != "hit":  # with ``on_stale: reuse`` it is found all the same, but the whole would call itself fresh
        return seen.reason
    entry = seen.entry
    if found.row_order != DATASET_ORDER:
        return f"its rows are in {found.row_order} order"
    made_by, wanted = mapping(entry.get("extractor")).get("name"), source.extractor.get("name")
    return f"it was not made by {wanted}" if wanted and made_by != wanted else ""


def _without_bad(store: FeatureStore, shard: Planned, part: FeatureSet) -> tuple[Source, dict[int, ImageReadError]]:
    """A shard without the images that its features leave out: those that are remembered, or else by reading them all.

    Raises:
        DamagedShardError: Others can be read by now.
    """
    known = remembered(store, shard.key, shard.source)
    bad = {position: ImageReadError(image.path, image.reason) for position, image in known.items()}
    for found in (bad, None):
        found = _unreadable(shard) if found is None else found  # noqa: PLW2901 - read only when it has to be
        good = [position for position in range(len(shard.dataset)) if position not in found]
        _, source = part_of(shard.dataset, shard.source, good)
        if key_of(source) == part.key:
            return source, found
    raise DamagedShardError(f"other images of {shard.name} can be read than when it was extracted. {AGAIN}", part.key)


def _unreadable(shard: Planned) -> dict[int, ImageReadError]:
    errors = ((position, why_unreadable(shard.dataset, position)) for position in range(len(shard.dataset)))
    return {position: error for position, error in errors if error is not None}


def _renumbered(error: ImageReadError, position: int, start: int) -> ImageReadError:
    """Images without a name are called by their number, which in the whole is another one."""
    if error.path != f"number {position}":
        return error
    return ImageReadError(f"number {start + position}", error.reason, errno=error.errno)


def blocks(store: FeatureStore, pieces: Sequence[Piece]) -> Iterator[memoryview]:
    """The values of all pieces, each checked against its digest when it has gone by.

    Raises:
        DamagedShardError: A file does not hold what its manifest says; it was put aside.
        StoreError: A file cannot be read.
    """
    start = 0
    for piece in pieces:
        features = piece.features
        if features.unsaved is not None:
            yield from codec.blocks_of(features.unsaved, start=start)
            start += features.unsaved.nbytes
            continue
        path = Path(features.path)
        with reported("cannot read", path):
            seen = path.stat()
            try:
                for block in _checked(features, path, start):
                    stopping.check()
                    start += len(block)
                    yield block
            except DamagedEntryError as error:
                store.quarantine(features.key, str(error), seen=seen)
                why = f"{error}, so that {piece.shard.name} is lost. {AGAIN}"
                raise DamagedShardError(why, features.key) from error


def _checked(features: FeatureSet, path: Path, start: int) -> Iterator[memoryview]:
    state = codec.hasher(np.dtype(features.dtype), features.shape)
    for block in codec.blocks_of(path, start=start):
        state.update(block)
        yield block
    if state.hexdigest() != features.digest:
        raise DamagedEntryError(f"{path} does not hold what its manifest says: bits have changed")


# Out of a whole


def said_of_shard(store: FeatureStore, key: str, whole: str | None) -> dict[str, Any]:
    """What the manifest of a shard that is about to be stored says of the whole, so that it may be dropped.

    Nothing where there are features under its key that were not made as a shard: somebody has that Subset.
    """
    somebodys = store.path(key).exists() and "shard_of" not in store.manifest(key)
    return {} if whole is None or somebodys else {"shard_of": whole}


def cut_out(store: FeatureStore, key: str, whole: str, source: Source) -> FeatureSet | None:
    """A shard as the rows of the whole that was made from it, stored like any other; None where there is no such whole.

    So two runs that extract the same dataset at once do it once, also when one has dropped the shards before the other
    came to them. And where some images of a whole have changed, the shards of the others are not extracted again. A
    whole without its bad images has another key, and is not found.

    Args:
        store: Where they are kept.
        key: Of the shard.
        whole: The key of the whole that the shard is wanted for.
        source: What the shard would be made from now.
    """
    entry, start = store.manifest(whole), 0
    for one in parts_in(mapping(entry.get("shards"))):
        if one.get("key") == key:
            fresh = _is_fresh(entry, one, source) and store.look(whole).status == "hit"
            features = _rows_of(store.path(whole), entry, one, start) if fresh else None
            if features is None:
                return None
            maker = dict(mapping(entry.get("extractor")))
            return store.keep(key, features, source=source, extractor=maker, **said_of_shard(store, key, whole))
        start += one["rows"] if isinstance(one.get("rows"), int) else 0
    return None


def _is_fresh(entry: Mapping[str, Any], part: Mapping[str, Any], source: Source) -> bool:
    """Whether a part of a whole is what the shard would be now, whatever has become of the others."""
    fingerprint = part.get("fingerprint")
    as_it_was = {**entry, "dataset": {**mapping(entry.get("dataset")), "fingerprint": fingerprint}}
    same = Fingerprint.from_json(fingerprint).same_as(source.fingerprint)
    return same is True and not manifest.stale_because(as_it_was, source, Path())


def _rows_of(path: Path, entry: Mapping[str, Any], part: Mapping[str, Any], start: int) -> codec.FloatArray | None:
    """A part of a whole, mapped; None where it is not what it was."""
    try:
        features = FeatureSet.from_manifest(path, entry).load()[start : start + part["rows"]]
        return features if codec.digest(features) == part["digest"] else None
    except (StoreError, OSError, KeyError, TypeError):
        return None


def parts_in(shards: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the manifest of a whole says of each shard that it was made from."""
    parts = shards.get("parts")
    return [one for one in parts if isinstance(one, dict)] if isinstance(parts, list) else []


def mapping(value: Any) -> Mapping[str, Any]:
    """A value of a manifest that should be an object; an empty one where it is not."""
    return value if isinstance(value, dict) else {}
