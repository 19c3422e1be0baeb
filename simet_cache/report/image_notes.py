"""What differs between the images of sets and moves numbers, whatever the images show: a line for each kind of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from simet_cache.datasets import bit_depth
from simet_cache.datasets.passed_over import listed
from simet_cache.datasets.survey import Survey
from simet_cache.metrics import METRICS
from simet_cache.report.results import DatasetResult, Table

_NAMES = 10  # of sets that are alike
_KINDS = 6  # of sets, in one line

# What is less is no difference that is worth a line.
_SHARE = 0.05  # of the files in a format
_SIDE = 0.05  # of the side
_ROWS = 1.1  # times as many images as another set has
_ROWS_OF_REFERENCE = 2  # times as many as the reference has, or it has
_QUALITY = 2  # steps of JPEG quality


def image_notes(tables: Sequence[Table]) -> Iterator[str]:
    """Formats, sizes and numbers of images that differ, and how images of more than 8 bits for each pixel are read.

    Sets are compared with the reference of their table. Nothing is said of the files of sets that are no folders.
    """
    groups = [[one for one in (table.reference, *table.datasets) if one.looks is not None] for table in tables]
    looks = {one.name: one.looks for group in groups for one in group if one.looks is not None}
    if any(_any_differs(group, _other_format) for group in groups):
        yield f"file formats differ, and compression alone moves every metric: {_by_kind(looks, _format)}"
    if any(_any_differs(group, _other_size) for group in groups):
        yield f"image sizes differ, and resizing alone moves every metric: {_by_kind(looks, _size)}"
    yield from _other_rows(tables)
    if line := bit_depth.in_one_line((one.name, one.bit_depth) for group in groups for one in group):
        yield line


def _any_differs(group: Sequence[DatasetResult], differs: Callable[[Survey, Survey], bool]) -> bool:
    looks = [one.looks for one in group if one.looks is not None and one.looks.images]
    return any(differs(looks[0], other) for other in looks[1:])


def _other_format(first: Survey, second: Survey) -> bool:
    shares = (
        abs(first.formats.get(name, 0) / first.images - second.formats.get(name, 0) / second.images)
        for name in {*first.formats, *second.formats}
    )
    if first.quality is not None and second.quality is not None and abs(first.quality - second.quality) > _QUALITY:
        return True
    return max(shares) > _SHARE


def _other_size(first: Survey, second: Survey) -> bool:
    if first.size is not None and second.size is not None:
        return first.size != second.size
    return (first.size is None) != (second.size is None) or abs(first.side - second.side) > _SIDE * first.side


def _format(looks: Survey) -> str:
    quality = f" of quality {looks.quality}" if looks.quality is not None else ""
    names = [f"{name}{quality if name == 'JPEG' else ''}" for name in looks.formats]
    if len(names) == 1:
        return names[0]
    counts = looks.formats.values()
    shares = [f"{100 * count / looks.images:.3g}% {name}" for name, count in zip(names, counts, strict=True)]
    return " and ".join(shares[:3])


def _size(looks: Survey) -> str:
    return f"{looks.size[0]} x {looks.size[1]}" if looks.size else f"several of about {looks.side} x {looks.side}"


def _by_kind(looks: Mapping[str, Survey], kind: Callable[[Survey], str]) -> str:
    by_kind: dict[str, list[str]] = {}
    for name, one in looks.items():
        if one.images:
            by_kind.setdefault(kind(one), []).append(name)
    return _grouped(by_kind)


def _grouped(by_kind: Mapping[str, Iterable[str]]) -> str:
    return listed((f"{kind}: {listed(names, _NAMES)}" for kind, names in by_kind.items()), _KINDS, between="; ")


def _other_rows(tables: Sequence[Table]) -> Iterator[str]:
    """Numbers of images, where they matter to what was measured."""
    rows: dict[str, int] = {}
    metrics: dict[str, None] = {}
    for table in tables:
        counts = {one.name: one.features.shape[0] for one in table.datasets if one.features is not None}
        matter = [table.label(metric) for metric in table.metrics if METRICS[metric].counts_matter]
        if table.reference.features is None or not counts or not matter:
            continue
        real, fewest, most = table.reference.features.shape[0], min(counts.values()), max(counts.values())
        if most > _ROWS * fewest or most > _ROWS_OF_REFERENCE * real or real > _ROWS_OF_REFERENCE * fewest:
            rows |= {table.reference.name: real, **counts}
            metrics |= dict.fromkeys(matter)
    if rows:
        by_rows: dict[str, list[str]] = {}
        for name, number in rows.items():
            by_rows.setdefault(f"{number:,}", []).append(name)
        yield (
            f"numbers of images differ, which moves {listed(metrics, _NAMES)}, also where rows are more than features;"
            f" draw equal subsets to compare: {_grouped(by_rows)}"
        )
