"""What several metrics read off the products of rows with rows is read in one pass over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from simet_cache.metrics import clipped, kid, neighbours
from simet_cache.metrics.metric import Parameters, Summarised, named
from simet_cache.metrics.rows import Features
from simet_cache.metrics.tiles import Reader, Rows, opened, read_all

# Readers are made once for all that is asked of them: ``Reader(rows, parameters)`` for what concerns one set,
# ``Reader(left, right, (function, real, synth, parameters))`` for what concerns two, with a sequence of the last.
READERS: dict[Callable[..., Any], Callable[..., Reader]] = {
    neighbours.radii: neighbours.RadiiReader,
    clipped.summarise: clipped.ScoredReader,
    neighbours.balls: neighbours.BallsReader,
    neighbours.clipped_balls: neighbours.BallsReader,
    neighbours.nearest: neighbours.NearestReader,
    kid.summarise: kid.SelfReader,
    kid.cross: kid.CrossReader,
}


def summaries_of(
    features: Features, wanted: Sequence[tuple[Callable[..., Any], Parameters]], *, device: str
) -> list[Any]:
    """What each function makes of one set, in the order asked for."""

    def read(places: dict[Callable[..., Reader], list[int]]) -> list[list[Any]]:
        (rows,) = opened(features, device=device)
        readers = [make(rows, [wanted[place][1] for place in asked]) for make, asked in places.items()]
        return _read(rows, rows, readers)

    def alone(place: int) -> Any:
        make, parameters = wanted[place]
        return make(features, **named(make, {**parameters, "device": device}))

    return _made([make for make, _ in wanted], read, alone)


def joints_of(wanted: Sequence[tuple[Callable[..., Any], Summarised[Any], Summarised[Any], Parameters]]) -> list[Any]:
    """What each function makes of a pair of sets, in the order asked for; all of them of the same two sets."""

    def read(places: dict[Callable[..., Reader], list[int]]) -> list[list[Any]]:
        _, real, synth, _ = wanted[0]
        left, right = opened(real.features, synth.features, device=real.device)
        readers = [make(left, right, [wanted[place] for place in asked]) for make, asked in places.items()]
        return _read(left, right, readers)

    def alone(place: int) -> Any:
        join, real, synth, parameters = wanted[place]
        return join(real=real, synth=synth, **named(join, parameters))

    return _made([join for join, *_ in wanted], read, alone)


def _read(left: Rows, right: Rows, readers: list[Reader]) -> list[list[Any]]:
    read_all(left, right, readers)
    return [reader.results() for reader in readers]


def _made(
    functions: Sequence[Callable[..., Any]],
    read: Callable[[dict[Callable[..., Reader], list[int]]], list[list[Any]]],
    alone: Callable[[int], Any],
) -> list[Any]:
    """The results of one pass for all functions that have a reader, and of the others one by one, in order."""
    places: dict[Callable[..., Reader], list[int]] = {}
    for place, function in enumerate(functions):
        if function in READERS:
            places.setdefault(READERS[function], []).append(place)
    made: dict[int, Any] = {}
    if places:
        for asked, found in zip(places.values(), read(places), strict=True):
            made.update(zip(asked, found, strict=True))
    return [made[place] if place in made else alone(place) for place in range(len(functions))]
