"""What is left of an error when a task run has ended with it."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from simet_cache.config import ExtractorConfig
from simet_cache.errors import DatasetError
from simet_cache.manifest import Source
from tasks.features import extract_features
from tasks.states import light_errors


class Features:
    """Stands for a large array."""


def test_an_error_holds_nothing_that_its_raiser_had() -> None:
    held: list[weakref.ref[Features]] = []

    def read() -> None:
        features = Features()
        held.append(weakref.ref(features))
        raise ValueError("no image")

    def extract() -> None:
        features = Features()
        held.append(weakref.ref(features))
        try:
            read()
        except ValueError as error:
            raise DatasetError("none can be read") from error

    with pytest.raises(DatasetError) as caught, light_errors():
        extract()
    assert [one() for one in held] == [None, None]
    assert str(caught.value) == "none can be read"


def test_an_extraction_that_fails_leaves_no_features_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[Features]] = []

    def extract(*_: Any, **__: Any) -> None:
        features = Features()
        held.append(weakref.ref(features))
        raise DatasetError("a bad image")

    monkeypatch.setattr("tasks.features.extract_to_store", extract)
    monkeypatch.setattr("tasks.features.refresh_requested", lambda: False)
    with pytest.raises(DatasetError) as caught:
        extract_features.fn(None, 8, "suffix", source=Source(), name="set", extractor=ExtractorConfig(), store=None)
    assert held[0]() is None
    assert str(caught.value) == "a bad image"
