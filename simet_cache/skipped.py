"""Images that could not be read, remembered so that the next run finds the features of the others at once.

The features of the good images are stored under the key of their Subset. To know that Subset without reading every
image again, the positions of the bad ones are kept beside the entries, with the fingerprint of the files. The list is
void when a file has changed, when one of the bad images can be read after all, and when there are features of all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from torch.utils.data import Subset

from simet_cache import bounded
from simet_cache.atomic import read_regular, write_atomically
from simet_cache.errors import ImageReadError, StoreError
from simet_cache.key import resolve_subset
from simet_cache.listing import Fingerprint
from simet_cache.manifest import Source
from simet_cache.sources import key_of, part_of
from simet_cache.store import FeatureStore

# what a file that anybody may have written can raise
_NO_LIST = (OSError, StoreError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SkippedImage:
    """An image that was left out, and why."""

    path: str
    reason: str


def remember_skipped(
    store: FeatureStore,
    key: str,
    positions: Sequence[int],
    skipped: Sequence[SkippedImage],
    source: Source,
    *,
    rest: str | None = None,
) -> None:
    """Keep which images of the dataset with this key cannot be read.

    Args:
        store: Where it is kept.
        key: The key of the dataset with all of its images.
        positions: Of the bad images, in the order of the key.
        skipped: What and why, one for each position.
        source: The dataset with all of its images.
        rest: The key of the dataset without them: the list goes when the features under that key do.
    """
    record = {
        **({"rest": rest} if rest else {}),  # first: see ``changes.rest_of``
        "fingerprint": source.fingerprint.to_json(),
        "skipped": [{"position": p, **asdict(s)} for p, s in zip(positions, skipped, strict=True)],
    }
    path, blob = store.path(key).with_suffix(".skipped.json"), json.dumps(record, indent=1).encode()
    try:
        bounded.check_json(blob)
        write_atomically(path, lambda file: file.write(blob))
    except (OSError, ValueError) as error:  # the next run finds them bad again
        log.warning("cannot write %s: %s", path, getattr(error, "strerror", None) or error)


def without_bad(
    store: FeatureStore,
    key: str,
    dataset: Any,
    source: Source,
    bad: Sequence[tuple[int, ImageReadError]],
    *,
    name: str,
) -> tuple[Any, Source, list[SkippedImage]]:
    """The dataset without the images that have turned out to be bad, which are remembered from now on.

    Args:
        store: Where they are remembered.
        key: The key of ``dataset``.
        dataset: In the order of its key.
        source: What it was when its images were read.
        bad: Positions in it, ascending, and why.
        name: For the message.

    Returns:
        The rest, as a dataset and as a source, and what is left out; where nothing is, ``dataset`` and ``source``.
    """
    if not bad:
        forget_skipped(store, key)
        return dataset, source, []
    log.warning("%s: skipped %d of %d images that cannot be read", name, len(bad), len(dataset))
    skipped = [SkippedImage(error.path, error.reason) for _, error in bad]
    positions = {position for position, _ in bad}
    good = [position for position in range(len(dataset)) if position not in positions]
    rest, rests = part_of(dataset, source, good)
    remember_skipped(store, key, [position for position, _ in bad], skipped, source, rest=key_of(rests))
    return rest, rests, skipped


def remembered(store: FeatureStore, key: str, source: Source) -> dict[int, SkippedImage]:
    """The images of a dataset that an earlier run could not read, by their position in the order of the key.

    Args:
        store: Where they were remembered.
        key: The key of the dataset with all of its images.
        source: What it is at this moment; without a fingerprint nothing is known of its images.
    """
    try:
        record = bounded.json_value(read_regular(store.path(key).with_suffix(".skipped.json")))
        skipped = {int(one["position"]): SkippedImage(one["path"], one["reason"]) for one in record["skipped"]}
    except FileNotFoundError:
        return {}
    except _NO_LIST as error:
        log.warning("cannot read the list of bad images of key %s (%s); all images are read again", key, error)
        return {}
    same = Fingerprint.from_json(record.get("fingerprint")).same_as(source.fingerprint)
    return skipped if same is True else {}


def without_skipped(
    store: FeatureStore, key: str, dataset: Any, source: Source
) -> tuple[Any, Source, list[SkippedImage]]:
    """The dataset without the images that an earlier run could not read, and these.

    Args:
        store: Where they were remembered.
        key: The key of ``dataset``.
        dataset: A dataset, or a Subset of one.
        source: What it is at this moment; without a fingerprint nothing is known of its images.

    Returns:
        The rest, as a dataset and as a source, and what is left out; ``dataset`` and ``source`` themselves and an empty
        list where nothing was remembered, or the files may have changed since.
    """
    skipped = remembered(store, key, source)
    if not skipped:
        return dataset, source, []
    base, indices = resolve_subset(dataset)
    if store.look(key, rows=len(dataset), source=source).status == "hit":
        return dataset, source, []
    ascending = sorted(range(len(base)) if indices is None else indices)
    if any(why_unreadable(base, index) is None for position, index in enumerate(ascending) if position in skipped):
        return dataset, source, []
    good = [position for position in range(len(ascending)) if position not in skipped]
    return *part_of(Subset(base, ascending), source, good), list(skipped.values())


def why_unreadable(dataset: Any, index: int) -> ImageReadError | None:
    """Why an image cannot be read; None where it can."""
    try:
        dataset[index]
    except ImageReadError as error:
        return error
    except OSError as error:  # as torchvision's own datasets raise it
        return ImageReadError(f"number {index}", str(error), errno=error.errno)
    return None


def forget_skipped(store: FeatureStore, key: str) -> None:
    """All images of the dataset with this key can be read."""
    path = store.path(key).with_suffix(".skipped.json")
    with suppress(OSError):  # it is void anyway, as long as there are features of all
        path.unlink(missing_ok=True)
