"""What several metrics read off the products of rows with rows is read in one pass over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from simet_cache.metrics.metric import Parameters, Summarised, named
from simet_cache.metrics.rows import Features


def summaries_of(
    features: Features, wanted: Sequence[tuple[Callable[..., Any], Parameters]], *, device: str
) -> list[Any]:
    """What each function makes of one set, in the order asked for."""
    return [make(features, **named(make, {**parameters, "device": device})) for make, parameters in wanted]


def joints_of(wanted: Sequence[tuple[Callable[..., Any], Summarised[Any], Summarised[Any], Parameters]]) -> list[Any]:
    """What each function makes of a pair of sets, in the order asked for."""
    return [join(real=real, synth=synth, **named(join, parameters)) for join, real, synth, parameters in wanted]
