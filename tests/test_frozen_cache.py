"""Whatever an earlier version has kept is found by this one: no name on the disk follows from the layout of code."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from simet_cache import comparisons
from simet_cache.derived import Derived
from simet_cache.store import FeatureStore
from tests import frozen_cache as frozen

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    """A copy of it, whose features are as old as their manifests say; a checkout makes all files anew."""
    copy = shutil.copytree(frozen.FOLDER, tmp_path / "cache")
    for file in copy.glob("*.json"):
        changed = json.loads(file.read_text())["file"]["mtime_ns"]
        os.utime(file.with_suffix(".pkl"), ns=(changed, changed))
    return copy


def test_features_and_records_of_tasks_are_hits(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "first_channel", lambda _: pytest.fail("extracted again"))
    for name in frozen.SETS:
        state = frozen.extracted(cache_dir, name)
        assert state.name == "Cached"
        assert state.result().shape == (12, 4)


def test_manifests_are_about_their_features(cache_dir: Path) -> None:
    store = FeatureStore(cache_dir)
    for key in sorted(store.keys()):
        look = store.look(key)
        assert (look.status, look.entry["dataset"]["class"]) == ("hit", "Drawn")
        assert look.entry["components"]["suffix"] == "first_channel"


def test_summaries_and_values_are_hits(cache_dir: Path) -> None:
    asked, derived = frozen.comparison(cache_dir), Derived(cache_dir)
    assert set(comparisons.known(derived, asked)) == set(frozen.KEPT)
    for side in ("real", "synth"):
        features = getattr(asked, side).features
        recipes = comparisons.summary_recipes(features, side, asked.requests)
        assert {name for name, recipe in recipes.items() if not derived.path("summaries", recipe.key).exists()} == set()
