"""docs/metrics.md says what the table of metrics says."""

from __future__ import annotations

from pathlib import Path

import pytest

from simet_cache.metrics.table import METRICS

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_defined_and_has_its_row(name: str) -> None:
    metric, text = METRICS[name], PAGE.read_text(encoding="utf-8")
    better = "nearer 0.5 is better" if metric.direction == "nearer 0.5" else f"{metric.direction} is better"
    assert f"**`{name}`**, {better}" in text
    parameters = ", ".join(f"`{key}={value}`" for key, value in metric.parameters.items())
    row = (f"`{name}`", metric.direction, str(metric.version), parameters, metric.method or "no interval is offered")
    assert f"| {' | '.join(row)} |" in text
