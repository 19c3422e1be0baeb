"""What the features of a dataset would be made from, taken now: once for each dataset and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch.utils.data import Subset

from simet_cache.fingerprint import fingerprint
from simet_cache.key import KeyComponents, resolve_subset
from simet_cache.manifest import DATASET_ORDER, Source


def source_of(
    dataset: Any,
    *,
    suffix: str,
    batch_size: int | None,
    row_order: str = DATASET_ORDER,
    name: str | None = None,
    extractor: Mapping[str, Any] | None = None,
    content: bool = False,
) -> Source:
    """A dataset as it is at this moment.

    Args:
        dataset: A map-style dataset, or a Subset of one.
        suffix: As in the key.
        batch_size: As in the key.
        row_order: Of the features.
        name: What a person calls the dataset.
        extractor: Who makes the features, where more is known than a suffix.
        content: Read the images for the fingerprint, and not only their sizes and times.

    Raises:
        KeyInputError: The dataset has no key.
    """
    components = KeyComponents.of(dataset, suffix=suffix, batch_size=batch_size)
    base, _ = resolve_subset(dataset)
    root = getattr(base, "root", None)
    about = {"name": name, "class": type(base).__name__, "root": None if root is None else str(root)}
    return Source(
        components=asdict(components),
        dataset={key: value for key, value in about.items() if value is not None},
        fingerprint=fingerprint(dataset, content=content),
        extractor=extractor or {},
        row_order=row_order,
    )


def part_of(dataset: Any, source: Source, positions: Sequence[int]) -> tuple[Any, Source]:
    """Some rows of a dataset, and what they would be made from, as it was when ``source`` was taken.

    Args:
        dataset: In the order of its key.
        source: Of all of it.
        positions: Which rows, ascending.
    """
    base, indices = resolve_subset(dataset)
    part = Subset(base, [position if indices is None else indices[position] for position in positions])
    suffix, batch_size = source.components["suffix"], source.components["batch_size"]
    components = asdict(KeyComponents.of(part, suffix=suffix, batch_size=batch_size))
    fingerprint_of_part = source.fingerprint.of_rows(positions, total=len(dataset))
    return part, replace(source, components=components, fingerprint=fingerprint_of_part)
