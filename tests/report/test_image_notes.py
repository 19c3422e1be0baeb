"""What differs between the images of sets is said in a line for each kind of it, and nothing where little differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from simet_cache.datasets.bit_depth import BitDepth
from simet_cache.datasets.survey import Survey
from simet_cache.metrics import METRICS
from simet_cache.report.image_notes import image_notes
from simet_cache.report.notes import notes
from simet_cache.report.results import EvaluationResults, Table
from tests.report.conftest import handle

Results = Callable[..., EvaluationResults]
Tables = Callable[..., Table]

PNG = Survey(images=1000, formats={"PNG": 1000}, size=(256, 256), side=256)
JPEG = replace(PNG, formats={"JPEG": 1000}, quality=75)
MIXED = replace(PNG, size=None, side=300)


def looked_at(table: Table, looks: Mapping[str, Survey | None], **rows: int) -> Table:
    """The table with what its files look like, and with so many rows."""

    def more(one: Any) -> Any:
        features = handle("b", rows[one.name]) if one.name in rows else one.features
        return replace(one, looks=looks.get(one.name), features=features)

    return replace(table, reference=more(table.reference), datasets=tuple(map(more, table.datasets)))


def said(table: Table) -> list[str]:
    return list(image_notes([table]))


def test_formats_that_differ_are_one_line(table: Tables) -> None:
    sets = {"a": {"fid": 1.0}, "b": {"fid": 2.0}, "c": {"fid": 3.0}}
    both = replace(PNG, formats={"PNG": 800, "JPEG": 200}, quality=90)
    assert said(looked_at(table(sets), {"real": PNG, "a": PNG, "b": JPEG, "c": both})) == [
        "file formats differ, and compression alone moves every metric: PNG: real, a; JPEG of quality 75: b;"
        " 80% PNG and 20% JPEG of quality 90: c"
    ]


@pytest.mark.parametrize(("quality", "lines"), [(75, 0), (77, 0), (78, 1), (95, 1)])
def test_qualities_that_differ_are_formats_that_differ(table: Tables, quality: int, lines: int) -> None:
    found = said(looked_at(table({"a": {"fid": 1.0}}), {"real": JPEG, "a": replace(JPEG, quality=quality)}))
    assert len(found) == lines
    assert all(f"JPEG of quality 75: real; JPEG of quality {quality}: a" in line for line in found)


@pytest.mark.parametrize(
    ("other", "size"),
    [
        (replace(PNG, size=(256, 257)), "256 x 257"),
        (replace(PNG, size=(512, 512), side=512), "512 x 512"),
        (MIXED, "several of about 300 x 300"),
    ],
)
def test_sizes_that_differ_are_one_line(table: Tables, other: Survey, size: str) -> None:
    assert said(looked_at(table({"a": {"fid": 1.0}}), {"real": PNG, "a": other})) == [
        f"image sizes differ, and resizing alone moves every metric: 256 x 256: real; {size}: a"
    ]


def test_small_differences_are_none(table: Tables) -> None:
    some = replace(PNG, formats={"PNG": 960, "JPEG": 40}, quality=75)
    sets = {"a": {"fid": 1.0}, "b": {"fid": 1.0}}
    assert said(looked_at(table(sets), {"real": PNG, "a": some, "b": None})) == []
    near = replace(MIXED, side=310)
    assert said(looked_at(table({"a": {"fid": 1.0}}), {"real": MIXED, "a": near})) == []


def test_sets_that_are_no_folders_are_not_compared(table: Tables) -> None:
    sets = {"a": {"fid": 1.0}, "b": {"fid": 2.0}}
    assert said(looked_at(table(sets), {"a": PNG})) == []
    assert len(said(looked_at(table(sets), {"a": PNG, "b": JPEG}))) == 1
    assert said(looked_at(table(sets), {"a": PNG, "b": Survey()})) == []


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        ({"real": 180, "a": 180, "b": 66}, 1),
        ({"real": 180, "a": 180, "b": 165}, 0),
        ({"real": 180, "a": 90, "b": 90}, 0),
        ({"real": 181, "a": 90, "b": 90}, 1),
        ({"real": 90, "a": 181, "b": 181}, 1),
    ],
)
def test_numbers_of_images_that_differ_are_one_line(table: Tables, rows: dict[str, int], lines: int) -> None:
    found = said(looked_at(table({"a": {"fid": 1.0}, "b": {"fid": 2.0}}), {}, **rows))
    assert len(found) == lines


def test_which_metrics_depend_on_numbers_of_images(table: Tables) -> None:
    made = looked_at(table({"a": {"fid": 1.0}, "b": {"fid": 2.0}}), {}, real=1800, a=1800, b=66)
    assert said(made) == [
        "numbers of images differ, which moves FID, also where rows are more than features; draw equal subsets to"
        " compare: 1,800: real, a; 66: b"
    ]
    assert not METRICS["kid"].counts_matter
    only = table({"a": {"kid": 1.0}, "b": {"kid": 2.0}}, metrics=("kid",))
    assert said(looked_at(only, {}, real=1800, a=1800, b=66)) == []


def test_how_deep_images_are_read_is_said_once_for_all_tables(table: Tables) -> None:
    one = looked_at(table({"a": {"fid": 1.0}}), {"real": PNG, "a": PNG})
    deep = replace(one, datasets=tuple(replace(each, bit_depth=BitDepth(8, auto=True)) for each in one.datasets))
    (line,) = image_notes([deep, deep])
    assert line.startswith("images of more than 8 bits are read by the largest value in their set (")
    assert line.endswith("): as 8 bits in a; bit_depth sets it")


def test_hundreds_of_sets_are_still_one_line_of_each_kind(results: Results, table: Tables) -> None:
    sets = {f"s{number}": {"fid": 1.0} for number in range(200)}
    looks = {
        name: replace(JPEG, quality=number % 90 + 1, size=(number + 1, 9), side=number)
        for number, name in enumerate(sets)
    }
    found = notes(results(tables=(looked_at(table(sets), {"real": PNG, **looks}),)))
    differ = [line for line in found if "differ" in line]
    assert len(differ) == 2
    assert all(len(line) < 1000 and "more" in line for line in differ)


def test_results_hold_what_files_look_like(results: Results, table: Tables) -> None:
    made = looked_at(table({"a": {"fid": 1.0}}), {"real": PNG, "a": JPEG})
    deep = replace(made, reference=replace(made.reference, bit_depth=BitDepth(12, auto=False)))
    (data,) = results(tables=(deep,)).to_json()["tables"]
    assert data["datasets"][0]["looks"]["quality"] == 75
    assert data["datasets"][0]["bit_depth"] is None
    assert data["reference"]["bit_depth"] == {"bits": 12, "auto": False}
