"""What a deployment may hand to a flow where a command hands a file: plain values, as JSON and a form can say them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from simet_cache.config import EvaluationConfig
from simet_cache.config_file import load_config

File = Annotated[str, Field(title="File", description="A YAML file, relative to the worker's checkout.")]


def _read(value: Any) -> Any:
    return load_config(value) if isinstance(value, str) else value


Configuration = Annotated[EvaluationConfig, BeforeValidator(_read, json_schema_input_type=File | EvaluationConfig)]
"""A configuration, or the path of the file that holds it, which is read in the run and where the run is."""
