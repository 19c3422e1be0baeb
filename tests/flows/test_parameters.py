"""A configuration as a parameter of a deployment: a file's path, or what would be in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema

from flows.evaluate import EXAMPLE, evaluate
from simet_cache import EvaluationConfig, load_config
from simet_cache.errors import ConfigError

MAPPING: dict[str, Any] = {"reference": {"digits": "reference"}, "datasets": [{"digits": "held-out"}]}


def validated(config: Any) -> EvaluationConfig:
    found = evaluate.validate_parameters({"config": config})["config"]
    assert isinstance(found, EvaluationConfig)
    return found


def test_a_path_is_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert validated(str(EXAMPLE)) == load_config(EXAMPLE)
    monkeypatch.chdir(EXAMPLE.parent)
    assert validated(EXAMPLE.name) == load_config(EXAMPLE)


def test_a_mapping_is_what_would_be_in_it() -> None:
    assert validated(MAPPING) == EvaluationConfig.model_validate(MAPPING)


def test_a_configuration_is_itself() -> None:
    config = load_config(EXAMPLE)
    assert validated(config) is config


def test_mistakes_are_said_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("reference: {digits: reference}\ndatasets: [{digits: held-oud}]\n")
    with pytest.raises(ConfigError, match=r"x\.yaml:2: datasets\.0\.digits: .* Did you mean 'held-out'\?"):
        validated(str(tmp_path / "x.yaml"))
    with pytest.raises(ConfigError, match=r"nope\.yaml: cannot read the configuration"):
        validated("nope.yaml")


@pytest.mark.parametrize("wrong", [3, ["x.yaml"], None, {**MAPPING, "metrix": ["fid"]}])
def test_anything_else_is_refused(wrong: Any) -> None:
    with pytest.raises(ParameterTypeError):
        validated(wrong)


def test_the_form_offers_both() -> None:
    schema = parameter_schema(evaluate)
    file, mapping = schema.properties["config"]["anyOf"]
    assert (file["type"], file["title"]) == ("string", "File")
    assert mapping["$ref"].removeprefix("#/definitions/") in schema.definitions
