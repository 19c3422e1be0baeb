"""What is left of an error when a task run has ended with it."""

from __future__ import annotations

import weakref

import pytest

from simet_cache.errors import DatasetError
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
