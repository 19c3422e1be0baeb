"""Images that could not be read, remembered so that the next run finds the features of the others at once.

The features of the good images are stored under the key of their Subset. To know that Subset without reading every
image again, the positions of the bad ones are kept beside the entries, with the fingerprint of the files. The list is
void when a file has changed, when one of the bad images can be read after all, and when there are features of all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch.utils.data import Subset

from simet_cache.errors import ImageReadError
from simet_cache.fingerprint import fingerprint
from simet_cache.key import resolve_subset
from simet_cache.store import FeatureStore, reported, write_atomically

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SkippedImage:
    """An image that was left out, and why."""

    path: str
    reason: str


def remember_skipped(
    store: FeatureStore, key: str, positions: Sequence[int], skipped: Sequence[SkippedImage], print_: str
) -> None:
    """Keep which images of the dataset with this key cannot be read.

    Args:
        store: Where it is kept.
        key: The key of the dataset with all of its images.
        positions: Of the bad images, in the order of the key.
        skipped: What and why, one for each position.
        print_: The fingerprint of the dataset's files.

    Raises:
        StoreError: It cannot be written.
    """
    record = {
        "fingerprint": print_,
        "skipped": [{"position": p, **asdict(s)} for p, s in zip(positions, skipped, strict=True)],
    }
    path = store.path(key).with_suffix(".skipped.json")
    with reported(f"cannot write {path}"):
        write_atomically(path, lambda file: file.write(json.dumps(record, indent=1).encode()))


def without_skipped(store: FeatureStore, key: str, dataset: Any) -> tuple[Any, list[SkippedImage]]:
    """The dataset without the images that an earlier run could not read, and these.

    Args:
        store: Where they were remembered.
        key: The key of ``dataset``.
        dataset: A dataset, or a Subset of one; only where the innermost dataset has ``files`` is anything known of it.

    Returns:
        ``dataset`` itself and an empty list where nothing was remembered, or the files may have changed since.
    """
    try:
        record = json.loads(store.path(key).with_suffix(".skipped.json").read_bytes())
        bad = {int(entry["position"]) for entry in record["skipped"]}
        skipped = [SkippedImage(entry["path"], entry["reason"]) for entry in record["skipped"]]
    except FileNotFoundError:
        return dataset, []
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("cannot read the list of bad images of key %s (%s); all images are read again", key, error)
        return dataset, []
    base, indices = resolve_subset(dataset)
    if not hasattr(base, "files") or store.find(key, rows=len(dataset)) is not None:
        return dataset, []
    ascending = sorted(range(len(base)) if indices is None else indices)
    if record.get("fingerprint") != fingerprint(base.root, [base.files[index] for index in ascending]):
        return dataset, []
    if any(_readable(base, index) for position, index in enumerate(ascending) if position in bad):
        return dataset, []
    return Subset(base, [index for position, index in enumerate(ascending) if position not in bad]), skipped


def _readable(dataset: Any, index: int) -> bool:
    try:
        dataset[index]
    except ImageReadError:
        return False
    return True


def forget_skipped(store: FeatureStore, key: str) -> None:
    """All images of the dataset with this key can be read."""
    path = store.path(key).with_suffix(".skipped.json")
    with reported(f"cannot remove {path}"):
        path.unlink(missing_ok=True)
