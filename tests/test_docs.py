"""What the README and the pages list is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from simet_cache.config import EvaluationConfig
from simet_cache.metrics import METRICS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", METRICS)
def test_the_readme_lists_every_metric_as_the_table_has_it(name: str) -> None:
    section = README.partition("## Metrics")[2].partition("\n## ")[0]
    (row,) = re.findall(rf"^\| `{name}` \|(.+)\|$", section, flags=re.MULTILINE)
    direction, parameters, meaning, blind_to = (cell.strip() for cell in row.split("|"))
    metric = METRICS[name]
    assert direction == metric.direction
    assert parameters == ", ".join(f"`{key}: {value}`" for key, value in metric.parameters.items())
    assert (meaning, blind_to) == (metric.meaning, metric.blind_to)


@pytest.mark.parametrize("name", METRICS)
def test_the_page_of_metrics_knows_every_metric(name: str) -> None:
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("key", EvaluationConfig.model_fields)
def test_the_readme_lists_every_key_of_a_configuration(key: str) -> None:
    assert f"| `{key}` |" in README


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
