"""What the task ``measure`` returns of metrics whose values nothing can hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simet_cache.comparisons import Comparison, Rows
from simet_cache.derived import Derived
from simet_cache.metrics import METRICS
from simet_cache.metrics.metric import Outcome
from simet_cache.store import FeatureStore
from tasks.metrics import measure

pytestmark = pytest.mark.usefixtures("prefect_server")


def odd_value(**_: Any) -> Outcome:
    return Outcome(1.0, details={"odd": object()})  # type: ignore[dict-item]


def test_a_value_that_nothing_can_hold_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = dataclasses.replace(METRICS["vendi"], summarise=None, sides=(), noise=None, compare=odd_value)
    monkeypatch.setitem(METRICS, "odd", odd)
    store = FeatureStore(tmp_path)
    rng = np.random.default_rng(0)
    sets = [Rows(name, store.put(name[0] * 32, rng.normal(size=(30, 4)))) for name in ("a real", "b synth")]
    asked = Comparison(*sets, {"odd": {}, "fid": {}})
    outcomes = measure([asked], name="b synth", derived=Derived(tmp_path), device="cpu")
    found = outcomes["b synth"]
    assert "error" not in found
    assert list(found["failures"]) == ["odd"]
    assert "can neither be kept nor sent" in found["failures"]["odd"]
    assert Derived(tmp_path).has("values", asked.keys["fid"])
