"""Versions of what happens between image and feature belong to one family of extractors each."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from simet_cache.config import ExtractorConfig
from simet_cache.extractors import fid_inception, make_extractor, torchvision_models
from simet_cache.manifest import Source, stale_because

CONFIGS = [
    ExtractorConfig(name="fid_inception", weights="random"),
    ExtractorConfig(name="resnet18", weights="random"),
    ExtractorConfig(name="inception_v3", weights="random"),
]


def sources() -> list[Source]:
    return [Source(extractor=make_extractor(config).identity) for config in CONFIGS]


@pytest.mark.parametrize(
    ("family", "stale"),
    [(fid_inception, [True, False, False]), (torchvision_models, [False, True, True])],
    ids=["fid_inception", "torchvision_models"],
)
def test_raising_one_leaves_the_entries_of_others_fresh(
    family: ModuleType, stale: list[bool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = [source.to_manifest() for source in sources()]
    monkeypatch.setattr(family, "VERSION", 99)
    reasons = [stale_because(entry, source, tmp_path / "none") for entry, source in zip(before, sources(), strict=True)]
    assert [bool(reason) for reason in reasons] == stale


def test_entries_of_today_stay_fresh() -> None:
    assert [make_extractor(config).identity["version"] for config in CONFIGS] == [1, 1, 1]
