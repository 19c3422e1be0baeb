"""Shards: a big dataset is extracted in parts, each an entry of its own, and these are put together.

A shard is a contiguous Subset whose borders lie on whole batches, with the documented key of that Subset. When all
shards of a dataset are there, the entry of the whole is written from their files, block by block, and they are dropped.
A run that is killed loses the shard that it was at.

The manifest of a shard names the whole (``shard_of``), that of the whole its shards (``shards``): so nothing is dropped
that somebody had as a Subset of its own, and what a killed run left is found again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from simet_cache import codec
from simet_cache.errors import DamagedShardError, DatasetError, StoreError
from simet_cache.featureset import FeatureSet
from simet_cache.manifest import Source
from simet_cache.pieces import AGAIN, Piece, blocks, mapping, parts_in, piece_of
from simet_cache.skipped import without_bad, without_skipped
from simet_cache.sources import in_key_order, key_of, keys_of_parts, parts_of
from simet_cache.store import FeatureStore

if TYPE_CHECKING:
    from simet_cache.plan import Planned

log = logging.getLogger(__name__)


def shards_of(planned: Planned, *, size: int) -> list[Planned]:
    """A dataset in contiguous parts, in the order of its key.

    Args:
        planned: The whole.
        size: Images in each; rounded down to whole batches, but one batch at least. The last may have fewer.

    Returns:
        The shards, each planned like a dataset; none where the whole has no more images than one.
    """
    cuts = _cuts(planned, size)
    if not cuts:
        return []
    parts = parts_of(in_key_order(planned.dataset), planned.source, cuts)
    return [
        replace(
            planned,
            name=f"{planned.name} [{number}/{len(cuts)}]",
            dataset=dataset,
            key=key_of(source),
            source=source,
            skipped=(),
        )
        for number, (dataset, source) in enumerate(parts, start=1)
    ]


def _cuts(planned: Planned, size: int) -> list[range]:
    batch, total = planned.source.components["batch_size"] or 1, len(planned.dataset)
    step = max(size // batch, 1) * batch
    if total <= max(size, step):
        return []
    return [range(start, min(start + step, total)) for start in range(0, total, step)]


def assemble(
    store: FeatureStore,
    planned: Planned,
    parts: Sequence[FeatureSet],
    *,
    size: int,
    keep: bool = False,
    force: bool = False,
    spare: Collection[str] = (),
) -> FeatureSet:
    """Put the features of a whole dataset together from its shards, and drop these.

    The result is that of ``extract_to_store`` on the whole, to the byte, if the model's output for an image does not
    depend on the others of its batch. Little memory is used, unless the whole cannot be stored: then the handle has it.

    Args:
        store: Where they are kept.
        planned: The whole.
        parts: The features of ``shards_of(planned, size=size)``, one for each and in this order.
        size: As it was given to ``shards_of``.
        keep: Keep the shards.
        force: Write the whole even where it exists.
        spare: Keys of shards that others still need.

    Raises:
        DamagedShardError: A shard is gone, does not hold what it should, or was not made like the others; where there
            is such an entry it was put aside, and the shard has to be extracted again.
        DatasetError: No image of the whole can be read.
        StoreError: An entry cannot be read.
        StoppedError: The run was asked to stop.
    """
    shards = shards_of(planned, size=size)
    ordered = in_key_order(planned.dataset)
    skipping = any(part.key != shard.key for shard, part in zip(shards, parts, strict=True))
    with store.lock(planned.key):
        found = None if force else _whole(store, planned, ordered, skipping=skipping)
        if found is None:
            starts = [cut.start for cut in _cuts(planned, size)]
            pieces = [piece_of(store, *one) for one in zip(shards, parts, starts, strict=True)]
            found = _joined(store, planned, ordered, pieces)
        if found.unsaved is None and not keep:
            drop_leftovers(store, planned, found, size=size, spare=spare)
        return found


def drop_leftovers(
    store: FeatureStore, planned: Planned, whole: FeatureSet, *, size: int, spare: Collection[str] = ()
) -> int:
    """Drop the shards of a whole that is there: those that it was made from, or that a killed run has left.

    Only entries that were made as shards of it are dropped. It costs microseconds where there are none.

    Args:
        store: Where they are kept.
        planned: The whole.
        whole: Its features, stored.
        size: Images in a shard, for a whole that was not made from shards itself.
        spare: Keys of shards that others still need.

    Returns:
        How many bytes that freed.
    """
    made_from = mapping(store.manifest(whole.key).get("shards"))
    of, parts = str(made_from.get("of", planned.key)), parts_in(made_from)
    if not parts:
        keys = keys_of_parts(in_key_order(planned.dataset), planned.source, _cuts(planned, size))
        parts = [{"key": key} for key in keys]
    # several parts may have one key: equal images, once the bad ones are left out
    kept = {*spare, *(str(part.get("key")) for part in parts if part.get("asked") in spare)}
    shards = {key for part in parts if store.manifest(key := str(part.get("key"))).get("shard_of") == of}
    for part in parts:  # all notes before the first shard: who is killed in between finds by the shards what is left
        key, asked = str(part.get("key")), part.get("asked")
        known = key in shards or part.get("rows") == 0 or key == whole.key  # the whole knows its bad images by now
        if asked and known and key not in kept:
            try:
                store.forget_notes(asked)
            except StoreError as error:  # it takes room, and nothing else
                log.warning("%s", error)
                kept.add(key)
    freed = 0
    for key in sorted(shards - kept):
        try:
            freed += store.drop_shard(key, shard_of=of)
        except StoreError as error:
            log.warning("%s", error)
    return freed


# What is put together


def _whole(store: FeatureStore, planned: Planned, ordered: Any, *, skipping: bool) -> FeatureSet | None:
    """The features of the whole, which another run may have finished first."""
    dataset, source = ordered, planned.source
    if skipping:
        dataset, source, _ = without_skipped(store, planned.key, ordered, planned.source)
    return store.find(key_of(source), rows=len(dataset), source=source)


def _joined(store: FeatureStore, planned: Planned, ordered: Any, pieces: Sequence[Piece]) -> FeatureSet:
    bad = [one for piece in pieces for one in piece.bad]
    filled = [piece for piece in pieces if piece.features.shape[0]]
    if not filled:
        raise DatasetError(f"none of the {len(ordered)} images of {planned.name} can be read; the first: {bad[0][1]}")
    first = filled[0].features
    for piece in filled:
        if (piece.features.shape[1], piece.features.dtype) != (first.shape[1], first.dtype):
            raise DamagedShardError(_other_shape(store, piece, first), piece.features.key)
    _, source, skipped = without_bad(store, planned.key, ordered, planned.source, bad, name=planned.name)
    shape = (sum(piece.features.shape[0] for piece in filled), first.shape[1])
    key, details = key_of(source), _details(planned, pieces)
    if skipped:
        details["skipped"] = [asdict(image) for image in skipped]
    try:
        return store.put_blocks(key, blocks(store, filled), shape=shape, dtype=first.dtype, source=source, **details)
    except DamagedShardError:
        raise
    except StoreError as error:
        features = _in_memory(store, key, filled, shape, source)
        sentence = f"{error}. The features are used in this run, and the next one has to put them together again"
        log.error("%s", sentence)  # noqa: TRY400 - a sentence for a person
        return features


def _other_shape(store: FeatureStore, piece: Piece, first: FeatureSet) -> str:
    found = piece.features
    why = f"expected {first.shape[1]} columns of {first.dtype} in {found.path}, found {found.shape[1]} of {found.dtype}"
    if found.unsaved is None:
        store.quarantine(found.key, why)
    return f"{why}, so that {piece.shard.name} cannot be put together with the others. {AGAIN}"


def _in_memory(
    store: FeatureStore, key: str, pieces: Sequence[Piece], shape: tuple[int, int], source: Source
) -> FeatureSet:
    features = np.empty(shape, np.dtype(pieces[0].features.dtype))
    room, at = features.reshape(-1).view(np.uint8).data, 0
    for block in blocks(store, pieces):
        room[at : at + len(block)] = block
        at += len(block)
    digest = codec.digest(features)
    return FeatureSet(key, str(store.path(key)), shape, str(features.dtype), digest, source.row_order, unsaved=features)


# What manifests say


def _details(planned: Planned, pieces: Sequence[Piece]) -> dict[str, Any]:
    """What the manifest of a whole says of its making, as far as the shards say it."""
    known = [piece for piece in pieces if isinstance(piece.entry.get("seconds"), int | float)]
    seconds = sum(piece.entry["seconds"] for piece in known)
    rows = sum(piece.features.shape[0] for piece in known)
    details: dict[str, Any] = {"seconds": round(seconds, 3)} if known else {}
    if seconds > 0:
        details["images_per_second"] = round(rows / seconds, 2)
    return {
        "extractor": {
            **planned.source.extractor,
            **_merged([mapping(piece.entry.get("extractor")) for piece in pieces]),
        },
        **details,
        "shards": {
            "of": planned.key,
            "parts": [
                {
                    "key": piece.features.key,
                    **({} if piece.features.key == piece.shard.key else {"asked": piece.shard.key}),
                    "rows": piece.features.shape[0],
                    "digest": piece.features.digest,
                    "fingerprint": piece.source.fingerprint.to_json(),
                }
                for piece in pieces
            ],
        },
    }


def _merged(makers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """On which devices and with which libraries: one value where all agree, and else all of them in one line."""
    devices = {str(maker["device"]) for maker in makers if "device" in maker}
    libraries = [mapping(maker.get("libraries")) for maker in makers]
    versions = {
        name: ", ".join(sorted({str(one[name]) for one in libraries if name in one}))
        for name in dict.fromkeys(name for one in libraries for name in one)
    }
    return {
        **({"device": ", ".join(sorted(devices))} if devices else {}),
        **({"libraries": versions} if versions else {}),
    }
