"""What the features of a dataset would be made from, taken now: once for each dataset and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

from torch.utils.data import Subset

from simet_cache.errors import DatasetError
from simet_cache.fingerprint import fingerprint
from simet_cache.key import KeyComponents, resolve_subset
from simet_cache.listing import Fingerprint, differences
from simet_cache.manifest import DATASET_ORDER, Source

T = TypeVar("T")


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


def read_unchanged(dataset: Any, source: Source, read: Callable[[], T], *, name: str = "dataset") -> T:
    """Read a dataset, and see that its data are still what they were: rows of both states are of no set at all.

    Sizes and times of change are compared, and contents only where these differ and the contents are known.

    Args:
        dataset: The one that is read.
        source: What it was described as; where that does not describe each row, as of a part of data whose fingerprint
            is of the whole, the state right before counts.
        read: Reads it.
        name: What it is called in the message.

    Returns:
        What ``read`` returns.

    Raises:
        DatasetError: The data have changed.
    """
    described = source.fingerprint.is_of_rows(len(dataset))
    before = source.fingerprint if described else fingerprint(dataset)
    result = read()
    _require_unchanged(dataset, before, name)
    return result


def _require_unchanged(dataset: Any, before: Fingerprint, name: str) -> None:
    now = fingerprint(dataset)
    if before.stat != now.stat and before.content is not None:
        now = fingerprint(dataset, content=True)
    if before.same_as(now) is False:
        what = ", ".join(differences(before.listing, now.listing))
        raise DatasetError(
            f"the images of {name} changed while they were read{f' ({what})' if what else ''}; nothing is stored. Run"
            " again when nothing writes to them any more"
        )


def in_key_order(dataset: Any) -> Any:
    """The dataset with its rows in the order that the key implies: for a Subset, ascending indices."""
    base, indices = resolve_subset(dataset)
    return dataset if indices is None else Subset(base, sorted(indices))


def part_of(dataset: Any, source: Source, positions: Sequence[int]) -> tuple[Any, Source]:
    """Some rows of a dataset, and what they would be made from, as it was when ``source`` was taken.

    Args:
        dataset: In the order of its key.
        source: Of all of it.
        positions: Which rows, ascending.
    """
    return parts_of(dataset, source, [positions])[0]


def parts_of(dataset: Any, source: Source, parts: Sequence[Sequence[int]]) -> list[tuple[Any, Source]]:
    """The same for several parts; what all of them need is found out once."""
    base, indices = resolve_subset(dataset)
    chosen = [part if indices is None else [indices[position] for position in part] for part in parts]
    components = _components(base, source, chosen)
    fingerprints = source.fingerprint.of_parts(parts, total=len(dataset))
    return [
        (Subset(base, some), replace(source, components=asdict(one), fingerprint=fingerprint))
        for some, one, fingerprint in zip(chosen, components, fingerprints, strict=True)
    ]


def keys_of_parts(dataset: Any, source: Source, parts: Sequence[Sequence[int]]) -> list[str]:
    """The keys of some parts alone, in much less time."""
    base, indices = resolve_subset(dataset)
    chosen = [part if indices is None else [indices[position] for position in part] for part in parts]
    return [one.key() for one in _components(base, source, chosen)]


def key_of(source: Source) -> str:
    """The documented md5 of what a source has been taken of."""
    return KeyComponents(**source.components).key()


def _components(base: Any, source: Source, chosen: Sequence[Sequence[int]]) -> list[KeyComponents]:
    """As ``KeyComponents.of`` says it of each Subset, for indices that are known to be plain and ascending."""
    whole = KeyComponents.of(base, suffix=source.components["suffix"], batch_size=source.components["batch_size"])
    return [replace(whole, subset=hash(tuple(some)), length=len(some)) for some in chosen]
