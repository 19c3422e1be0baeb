"""What the metrics show where the answer is known: sanity checks for measures of fidelity and diversity.

Source of most checks, of their settings and of the shapes' thresholds: Raisa, van Breugel & van der Schaar 2025,
"Position: All Current Generative Fidelity and Diversity Metrics are Flawed", https://arxiv.org/abs/2505.22450, with the
repository DPBayes/position-fidelity-diversity-metrics-flawed; fewer settings of each knob here, and one draw of each
instead of ten. "bad rows" and "outliers in both" follow Salvy et al. 2026, https://arxiv.org/abs/2507.01761; "copies"
and "modes shrunk" are our own. It measures no times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from simet_cache.metrics import Summaries, evaluate_each
from simet_cache.metrics.table import METRICS

ROWS = 1000
SEED = 0
DRAWS = 1
TOLERANCE = 0.1  # of values that are known, and of flat lines: twice the paper's, whose values are means of ten draws
KINDS = {
    "precision": "fidelity",
    "density": "fidelity",
    "clipped_density": "fidelity",
    "recall": "diversity",
    "coverage": "diversity",
    "clipped_coverage": "diversity",
    "vendi": "variety",
    "authenticity": "originality",
    "fid": "distance",
    "fd_infinity": "distance",
    "kid": "distance",
    "cmmd": "distance",
    "mind": "distance",
}
RELATIVE = ("variety", "distance")  # kinds without an upper bound: differences are shares of the largest value
FAR = 1e3

Floats: TypeAlias = NDArray[np.float64]
Random: TypeAlias = np.random.Generator
Pair: TypeAlias = tuple[Floats, Floats]
Shape: TypeAlias = Callable[[Floats], bool]


@dataclass(frozen=True)
class Wanted:
    """What a kind of metric is to show: the shape of its values along the knob, and values known at some settings."""

    shape: Shape
    values: Mapping[int, tuple[float, ...]] = field(default_factory=dict)

    def verdict(self, series: Floats) -> str:
        """``+`` for both, ``s`` for the shape alone, ``v`` for the values alone, or ``-``."""
        shape = self.shape(series)
        values = all(np.abs(series[at] - np.array(allowed)).min() <= TOLERANCE for at, allowed in self.values.items())
        if shape and values:
            return "+"
        return "s" if shape else "v" if values and self.values else "-"


@dataclass(frozen=True)
class Check:
    """A pair of sets for each setting of a knob, and what the kinds of metrics are to make of it."""

    name: str
    knob: str
    settings: tuple[float, ...]
    make: Callable[[Random, float], Pair]
    wanted: Mapping[str, Wanted]


# Shapes, with the thresholds of the paper


def falls(series: Floats, least: float = 0.2) -> bool:
    return bool(
        series[0] - series[-1] >= least and series.max() - series[0] <= 0.1 and series[-1] - series.min() <= 0.1
    )


def rises(series: Floats) -> bool:
    return falls(series[::-1])


def falls_by(at: int, series: Floats) -> bool:
    return falls(series) and bool(series[0] - series[at] >= 0.1)


def peaks(at: int, series: Floats) -> bool:
    lowest = min(series[0], series[-1])
    return bool(
        series[at] - max(series[0], series[-1]) >= 0.2
        and series.max() - series[at] <= 0.1
        and lowest - series.min() <= 0.1
    )


def climbs_to(at: int, series: Floats) -> bool:
    """For distances, which grow without bound and not as fast on either side; the least is half of the ends at most."""
    steady = (np.diff(series[: at + 1]) > 0).all() and (np.diff(series[at:]) < 0).all()
    nearest = -max(series[0], series[-1])
    return bool(steady and nearest > 0 and -series[at] <= nearest / 2)


def is_flat(series: Floats) -> bool:
    return bool(np.ptp(series) <= TOLERANCE)


def settles(series: Floats) -> bool:
    return is_flat(series[len(series) // 2 :])


def either(*shapes: Shape) -> Shape:
    return lambda series: any(shape(series) for shape in shapes)


# Sets


def gaussian(rng: Random, width: int, *, mean: float = 0.0, scale: float = 1.0) -> Floats:
    return np.asarray(mean + scale * rng.standard_normal((ROWS, width)))


def moved(rng: Random, shift: float, *, width: int, outlier: str = "", at: float = 0.0) -> Pair:
    sets = {"real": gaussian(rng, width), "synth": gaussian(rng, width, mean=shift)}
    if outlier:
        sets[outlier] = np.vstack([sets[outlier], np.full((1, width), at)])
    return sets["real"], sets["synth"]


def spread(rng: Random, scale: float, *, width: int) -> Pair:
    return gaussian(rng, width), gaussian(rng, width, scale=scale)


def modes(rng: Random, weights: Floats, *, width: int, shrunk: float = 1.0) -> Floats:
    """Ten modes along the diagonal."""
    scale = {8: 1 / 3, 64: 1.0}[width] * shrunk
    chosen = rng.choice(10, size=ROWS, p=weights / weights.sum())
    return np.asarray(np.linspace(0, 10, 10)[chosen, None] + scale * rng.standard_normal((ROWS, width)))


def modes_dropped(rng: Random, dropped: float, *, width: int) -> Pair:
    return modes(rng, np.ones(10), width=width), modes(rng, 1.0 * (np.arange(10) < 10 - dropped), width=width)


def modes_fading(rng: Random, gone: float, *, width: int) -> Pair:
    left = np.where(np.arange(10) == 0, 1.0, 1.0 - gone)
    return modes(rng, np.ones(10), width=width), modes(rng, left, width=width)


def modes_shrunk(rng: Random, scale: float, *, width: int) -> Pair:
    return modes(rng, np.ones(10), width=width), modes(rng, np.ones(10), width=width, shrunk=scale)


def modes_invented(rng: Random, count: float) -> Pair:
    """Of ten modes in the plane, five are real."""
    centres = 12 * np.random.default_rng(4).standard_normal((10, 2))
    real, synth = (centres[rng.integers(0, n, ROWS)] + 0.25 * rng.standard_normal((ROWS, 2)) for n in (5, int(count)))
    return real, synth


def two_modes_for_one(rng: Random, apart: float, *, width: int) -> Pair:
    """Two real modes, and one synthetic one as wide as both."""
    real = gaussian(rng, width) + apart * (rng.integers(0, 2, (ROWS, 1)) - 0.5)
    return real, gaussian(rng, width, scale=float(np.sqrt(1 + apart**2)))


def spheres(rng: Random, radius: float, *, width: int) -> Pair:
    """Surfaces of two spheres."""
    real, synth = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in moved(rng, 0.0, width=width))
    return real, radius * synth


def cubes(rng: Random, count: float, *, width: int, real_rows: int = 0) -> Pair:
    """Uniform in two cubes that share a fifth of their volume."""
    start = 1 - 0.2 ** (1 / width)
    return rng.random((real_rows or int(count), width)), start + rng.random((int(count), width))


def ball_and_ring(rng: Random, count: float, *, real: str) -> Pair:
    """A ball that fills the hole of a ring."""
    rows = {"ball": int(count), "ring": int(count), real: ROWS}
    inside = rng.standard_normal((rows["ball"], 3))
    inside *= 0.8 * rng.random((len(inside), 1)) ** (1 / 3) / np.linalg.norm(inside, axis=1, keepdims=True)
    turn, around = 2 * np.pi * rng.random((2, rows["ring"]))
    depth = 0.1 * np.sqrt(rng.random(rows["ring"]))
    reach = 1 + depth * np.cos(around)
    ring = np.column_stack([reach * np.cos(turn), reach * np.sin(turn), depth * np.sin(around)])
    return (inside, ring) if real == "ball" else (ring, inside)


def scaled(rng: Random, scale: float) -> Pair:
    """Apart in the first of two features; the second one is in other units."""
    units = np.array([1.0, scale])
    return gaussian(rng, 2) * units, (gaussian(rng, 2) + np.array([6.0, 0.0])) * units


def heavy_tailed(rng: Random, shift: float) -> Pair:
    """The second feature's tail is heavy in both sets."""
    real, synth = (np.column_stack([rng.standard_normal(ROWS), 1 + rng.pareto(1.01, ROWS)]) for _ in range(2))
    return real, synth + np.array([shift, 0.0])


def one_apart(rng: Random, others: float) -> Pair:
    """Apart in one feature, alike in the others."""
    real, synth = moved(rng, 0.0, width=1 + int(others))
    synth[:, 0] += 6
    return real, synth


def rounded(rng: Random, scale: float, *, side: str) -> Pair:
    """One side in whole numbers."""
    real, synth = (scale * rows for rows in moved(rng, 0.0, width=1))
    return (np.round(real), synth) if side == "real" else (real, np.round(synth))


def bad_rows(rng: Random, share: float, *, width: int) -> Pair:
    real, synth = moved(rng, 0.0, width=width)
    synth[: int(share * ROWS)] += FAR
    return real, synth


def outliers_in_both(rng: Random, share: float, *, width: int) -> Pair:
    real, synth = moved(rng, 0.0, width=width)
    for rows in (real, synth):
        rows[: int(share * ROWS)] *= 10
    return real, synth


def copies(rng: Random, share: float, *, width: int) -> Pair:
    """Real rows, hardly changed."""
    real, synth = moved(rng, 0.0, width=width)
    count = int(share * ROWS)
    synth[:count] = real[:count] + 1e-3 * rng.standard_normal((count, width))
    return real, synth


# What is asked

_SHIFTS = {1: (-6, -3, 0, 3, 6), 8: (-3, -1.5, 0, 1.5, 3), 64: (-1, -0.5, 0, 0.5, 1)}
_PEAK = Wanted(partial(peaks, 2), {0: (0,), 2: (1,), -1: (0,)})
_BELL = {"fidelity": _PEAK, "diversity": _PEAK, "distance": Wanted(partial(climbs_to, 2))}
_APART = Wanted(is_flat, {0: (0,), -1: (0,)})
_FIFTH = Wanted(settles, {-1: (0.2,)})
_FIFTHS = {"fidelity": _FIFTH, "diversity": _FIFTH, "distance": Wanted(settles)}
_NOTHING = Wanted(settles, {-1: (0,)})
_FEWER = {
    "fidelity": Wanted(is_flat, {0: (1,), -1: (1,)}),
    "variety": Wanted(falls),
    "distance": Wanted(falls),
}


def checks() -> Iterator[Check]:
    """Every check at every width."""
    for width, shifts in _SHIFTS.items():
        yield Check(f"shifted, {width}-D", "shift", shifts, partial(moved, width=width), _BELL)
    for side in ("real", "synth"):
        for width, shifts in list(_SHIFTS.items())[1:]:
            make = partial(moved, width=width, outlier=side, at=shifts[-1])
            yield Check(f"shifted, one {side} outlier, {width}-D", "shift", shifts, make, _BELL)
    for width, scales in {8: (0.1, 0.3, 1, 3, 10), 64: (0.3, 0.6, 1, 1.8, 3.2)}.items():
        wanted = {
            "fidelity": Wanted(falls, {0: (1,), 2: (1,), -1: (0,)}),
            "diversity": Wanted(either(rises, partial(peaks, 2)), {0: (0,), 2: (1,), -1: (0, 1)}),
            "variety": Wanted(rises),
            "distance": Wanted(partial(climbs_to, 2)),
        }
        yield Check(f"narrower, wider, {width}-D", "scale", scales, partial(spread, width=width), wanted)
    for width in (8, 64):
        lost = _FEWER | {"diversity": Wanted(partial(falls_by, 2), {0: (1,)})}
        yield Check(f"modes dropped, {width}-D", "of 10", (0, 2, 5, 9), partial(modes_dropped, width=width), lost)
        faded = _FEWER | {"diversity": Wanted(partial(falls_by, 3), {0: (1,)})}
        gone = (0, 0.5, 0.8, 0.95, 1)
        yield Check(f"modes fading, {width}-D", "gone", gone, partial(modes_fading, width=width), faded)
    shrunk = _FEWER | {"diversity": Wanted(falls, {0: (1,), -1: (0,)})}
    yield Check("modes shrunk, 8-D", "scale", (1, 0.5, 0.1, 0.01), partial(modes_shrunk, width=8), shrunk)
    invented = {
        "fidelity": Wanted(falls, {0: (1,), 2: (1,)}),
        "diversity": Wanted(rises, {2: (1,), -1: (1,)}),
        "variety": Wanted(rises),
        "distance": Wanted(partial(climbs_to, 2)),
    }
    yield Check("5 real modes, 2-D", "synthetic", (1, 3, 5, 7, 10), modes_invented, invented)
    widened = {
        "fidelity": Wanted(falls, {0: (1,)}),
        "diversity": Wanted(either(falls, is_flat), {0: (1,)}),
        "distance": Wanted(falls),
    }
    yield Check("one mode for two, 8-D", "apart", (0, 1, 2.5, 5), partial(two_modes_for_one, width=8), widened)
    for width in (2, 16, 128):
        radii = (0.1, 0.55, 1, 1.45, 1.9)
        yield Check(f"surfaces of spheres, {width}-D", "radius", radii, partial(spheres, width=width), _BELL)
    for width in (8, 64):
        counts = (100, 300, 1000, 2000)
        yield Check(f"fifth of a cube, {width}-D", "rows", counts, partial(cubes, width=width), _FIFTHS)
        make = partial(cubes, width=width, real_rows=ROWS)
        yield Check(f"fifth of a cube, 1000 real rows, {width}-D", "synthetic", counts, make, _FIFTHS)
    for real in ("ball", "ring"):
        make, inside = partial(ball_and_ring, real=real), {"fidelity": _NOTHING, "diversity": _NOTHING}
        yield Check(f"ball in a ring, the {real} is real, 3-D", "synthetic", (100, 300, 1000, 2000), make, inside)
    apart = {"fidelity": _APART, "diversity": _APART, "distance": Wanted(is_flat)}
    yield Check("apart in one of 2, the other in other units", "unit", (1e-3, 1, 30, 1e3), scaled, apart)
    yield Check("apart in one, alike in others", "others", (1, 8, 64, 512), one_apart, apart)
    yield Check("shifted, heavy tails, 2-D", "shift", _SHIFTS[1], heavy_tailed, _BELL)
    coarse = {"fidelity": Wanted(is_flat, {0: (0,), -1: (0,)}), "diversity": Wanted(is_flat, {0: (0, 1), -1: (0, 1)})}
    yield Check("real rounded, 1-D", "scale", (1, 10, 100, 1000), partial(rounded, side="real"), coarse)
    coarse = {"fidelity": Wanted(is_flat, {0: (1,), -1: (1,)}), "diversity": Wanted(is_flat, {0: (0,), -1: (0,)})}
    yield Check("synthetic rounded, 1-D", "scale", (1, 10, 100, 1000), partial(rounded, side="synth"), coarse)
    for width in (8, 64):
        good = Wanted(falls, {0: (1,), 1: (0.75,), 2: (0.5,), 3: (0.25,)})
        wanted = {"fidelity": good, "diversity": good, "distance": Wanted(falls)}
        yield Check(f"bad rows, {width}-D", "share", (0, 0.25, 0.5, 0.75), partial(bad_rows, width=width), wanted)
        same = Wanted(is_flat, {0: (1,), -1: (1,)})
        wanted = {"fidelity": same, "diversity": same}
        make = partial(outliers_in_both, width=width)
        yield Check(f"outliers in both, {width}-D", "share", (0, 0.02, 0.1), make, wanted)
        wanted = {"fidelity": same, "diversity": same, "originality": Wanted(falls, {-1: (0,)})}
        yield Check(f"copies, {width}-D", "share", (0, 0.5, 1), partial(copies, width=width), wanted)


# Results


def measured(check: Check, number: int) -> dict[str, Floats]:
    """The values of every metric along the knob, means over draws; NaN where a metric cannot be computed."""
    names = [name for name in KINDS if name in METRICS]
    values = np.full((len(names), len(check.settings), DRAWS), np.nan)
    for at, setting in enumerate(check.settings):
        for draw in range(DRAWS):
            real, synth = map(Summaries, check.make(np.random.default_rng([SEED, number, draw]), setting))
            found, _ = evaluate_each(names, real=real, synth=synth)
            values[:, at, draw] = [found[name].value if name in found else np.nan for name in names]
    return dict(zip(names, values.mean(axis=2), strict=True))


def judged(check: Check, name: str, series: Floats) -> str:
    kind = KINDS[name]
    if kind not in check.wanted or np.isnan(series).any():
        return ""
    if kind in RELATIVE:
        series = series / max(np.abs(series).max(), 1e-300)
    return check.wanted[kind].verdict(-series if kind == "distance" else series)


def shown(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run() -> str:
    found = [(check, measured(check, number)) for number, check in enumerate(checks())]
    names = list(found[0][1])
    verdicts = [[check.name, *(judged(check, name, values[name]) for name in names)] for check, values in found]
    values = [
        [check.name if at == 0 else "", f"{check.knob} {setting:g}", *(shown(series[name][at]) for name in names)]
        for check, series in found
        for at, setting in enumerate(check.settings)
    ]
    return "\n\n".join(
        [
            f"{ROWS} rows on either side unless the knob says so; default parameters; {DRAWS} draw, seed {SEED}, the "
            "same random numbers at every setting of a knob.",
            "**Verdicts.** `+`: the values have the shape that is wanted along the knob, and where one is known, the "
            "value; `s`: the shape alone; `v`: the known values alone; `-`: neither; empty: nothing is asked.",
            table(["check", *names], verdicts),
            "**Values.**",
            table(["check", "knob", *names], values),
        ]
    )


if __name__ == "__main__":
    print(run())
