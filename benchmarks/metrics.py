"""What metrics cost, beside what others take for the same: seconds, peak memory, and the distance to the limit.

Every measurement is made in a process of its own, on the same memory-mapped file, whose rows have been read before the
clock starts; so have the modules, by the same call on a few narrow rows. What is short is measured three times in that
process, and the best counts. Memory is what the kernel says of the process (Linux), above its features, in the first
of these. The values of all sides are compared.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import FOLDS, SIDES
from benchmarks.store import Memory, bar, read_once, table, touch_memory

WIDTH = 2048
REPEATS = 3
ENOUGH = 5.0  # seconds after which a measurement is not repeated
SUBSETS, SUBSET = 100, 1000
QUOTED_ROC_AUC = 48.5  # seconds of simet's at N=10,000 on such a machine, from issue 4

Taken = dict[tuple[str, int], dict[str, Any]]


@dataclass(frozen=True)
class Sizes:
    """Rows of either set, and their width. What the bars are about; less tries out the benchmark itself."""

    few: int = 2000
    many: int = 10_000
    most: int = 50_000
    width: int = WIDTH


TINY = Sizes(few=60, many=300, most=600, width=64)


@dataclass(frozen=True)
class Bar:
    """How many times as fast as ``peer`` (or the fastest one) this project is to be."""

    times: float
    peer: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What is computed.
        rows: Of either set.
        ours: What this project is timed at, in ``SIDES``.
        peers: What each peer is timed at; the seconds of several calls are added up.
        bars: What is asked for.
        single: Operations that must be done, in GFLOP, where float32 is enough.
        double: The same where float64 is needed.
    """

    what: str
    rows: int
    ours: str
    peers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bars: tuple[Bar, ...] = ()
    single: float = 0.0
    double: float = 0.0

    @property
    def measured(self) -> list[str]:
        """Everything in ``SIDES`` that this line needs."""
        return [*(name for names in self.peers.values() for name in names), self.ours]


FID = {name: (f"fid: {name}",) for name in ("torch-fidelity", "clean-fid", "torchmetrics")}
KID = {name: (f"kid: {name}",) for name in ("torch-fidelity", "clean-fid", "torchmetrics")}
NEIGHBOURS = {"torch-fidelity": ("prdc: torch-fidelity",), "prdc": ("prdc: prdc",)}
TWO_CALLS = {
    "torch-fidelity": ("prdc: torch-fidelity", "kid: torch-fidelity"),
    "prdc": ("prdc: prdc", "kid: clean-fid"),
}
COLUMNS = ("torch-fidelity", "clean-fid", "torchmetrics", "prdc", "scikit-learn")

FLOPS = (
    "Operations that must be done, a multiplication and an addition each counted, with what is symmetric counted once:"
    " N D^2 for a covariance; D^3/3 + 2 D^3 + 4 D^3/3 for the Cholesky factor of one, its product with the other from"
    " both sides, and the eigenvalues' tridiagonal form (float64); 2 N^2 D + N^3 + 4 N^3/3 instead of all that where N"
    " is below D; N^2 D for the products of a set's rows with each other and 2 N^2 D for those across two sets; for"
    " subsets the less of these and of the same for each subset alone; 6 for each weight of a perceptron, row it learns"
    " from and epoch, and 2 for each row it is asked about. The limit is what this machine's matrix product takes for"
    " them."
)


def spectrum(n: int, d: int, *, known: bool = False) -> float:
    """GFLOP for the trace term in float64."""
    if n < d:
        return (2 * n**2 * d + (1 + 4 / 3) * n**3) / 1e9
    return ((0 if known else 1 / 3) + 2 + 4 / 3) * d**3 / 1e9


def covariances(n: int, d: int, sets: int = 2) -> float:
    return 0.0 if n < d else sets * n * d**2 / 1e9


def products(n: int, d: int, *, known: bool = False) -> float:
    """GFLOP for the products of rows with rows: within both sets and across, or across alone."""
    return (2 if known else 4) * n**2 * d / 1e9


def ordinary(sizes: Sizes) -> list[Row]:
    """What is measured unless something else is asked for."""
    few, many, most, d = sizes.few, sizes.many, sizes.most, sizes.width
    fid_bars = {few: (Bar(4),), many: (Bar(1.7),), most: (Bar(1.5), Bar(2.5, "clean-fid"))}
    full, cross = products(many, d), products(many, d, known=True)
    whole = spectrum(most, d), spectrum(most, d, known=True)
    return [
        *(Row("fid", n, "fid", FID, fid_bars[n], covariances(n, d), spectrum(n, d)) for n in (few, many, most)),
        Row("fid, real summarised", most, "fid, real known", FID, (Bar(2.5),), covariances(most, d, 1), whole[1]),
        Row("fid, both summarised", most, "fid, both known", FID, (Bar(10),), 0.0, whole[1]),
        Row("fid with interval", many, "fid, interval", {}, (), covariances(many, d), spectrum(many, d)),
        Row("kid_subsets, 100x1,000", few, "kid_subsets", KID, (Bar(10),), subsets(few, d)),
        Row("kid_subsets, 100x1,000", many, "kid_subsets", KID, (), subsets(many, d)),
        Row("kid, all pairs", few, "kid", KID, (), products(few, d)),
        Row("kid, all pairs", many, "kid", KID, (Bar(1),), full),
        Row("kid, both summarised", many, "kid, both known", KID, (Bar(2),), cross),
        Row("kid with interval", many, "kid, interval", {}, (), full),
        Row("precision .. coverage", few, "prdc", NEIGHBOURS, (), products(few, d)),
        Row("precision .. coverage", many, "prdc", NEIGHBOURS, (Bar(1.8, "torch-fidelity"), Bar(3.5, "prdc")), full),
        Row("the same, both summarised", many, "prdc, both known", NEIGHBOURS, (Bar(5),), cross),
        Row("precision .. coverage and kid", many, "prdc and kid", TWO_CALLS, (Bar(2.5),), full),
        Row("roc_auc", many, "roc_auc", {"scikit-learn": ("roc_auc: scikit-learn",)}, (), perceptrons(many, d)),
    ]


def large(sizes: Sizes) -> list[Row]:
    """What takes minutes."""
    most, d = sizes.most, sizes.width
    parts = "prdc: torch-fidelity, in parts"
    alone, two = {"torch-fidelity": (parts,)}, {"torch-fidelity": (parts, "kid: torch-fidelity")}
    full, cross = products(most, d), products(most, d, known=True)
    return [
        Row("precision .. coverage", most, "prdc", alone, (Bar(1.8),), full),
        Row("the same, both summarised", most, "prdc, both known", alone, (Bar(5),), cross),
        Row("precision .. coverage and kid", most, "prdc and kid", two, (Bar(2.5),), full),
    ]


def subsets(n: int, d: int) -> float:
    return min(products(n, d), SUBSETS * products(min(SUBSET, n), d))


def perceptrons(n: int, d: int) -> float:
    """GFLOP for training each fold's perceptron and asking it."""
    from simet_cache.metrics import mlp

    sizes = (d, *mlp.HIDDEN, 1)
    weights = sum(before * after for before, after in itertools.pairwise(sizes))
    learnt, asked = (FOLDS - 1) / FOLDS * 2 * n, 2 * n / FOLDS
    return FOLDS * weights * (6 * mlp.EPOCHS * learnt + 2 * asked) / 1e9


# In the child


def make_features(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Two sets like Inception's: mixtures of ten correlated Gaussians, cut off below zero; about 0.4 in the mean.

    Real and synthetic share their directions, and differ in the share of each mode and in their noise.
    """
    rng = np.random.default_rng(0)
    spread = (1 + np.arange(sizes.width, dtype=np.float32)) ** -0.5
    mixing = rng.standard_normal((sizes.width, sizes.width), np.float32) * (spread / np.linalg.norm(spread))[:, None]
    modes = 0.15 * rng.standard_normal((10, sizes.width), np.float32) + 0.1
    for name, sharpness, noise in (("real", 1.0, 0.25), ("synth", 1.6, 0.3)):
        share = rng.dirichlet(np.full(10, 10 / sharpness))
        rows = np.empty((sizes.most, sizes.width), np.float32)
        for start in range(0, sizes.most, 5000):
            part = rows[start : start + 5000]
            part[:] = rng.standard_normal(part.shape, np.float32) @ mixing
            part += modes[rng.choice(10, len(part), p=share)]
            part += np.float32(noise) * rng.standard_normal(part.shape, np.float32)
            np.maximum(part, 0, out=part)
        np.save(folder / f"{name}.npy", rows)
    return {"mean": float(rows.mean())}


def measure(name: str, folder: Path, rows: int, device: str) -> dict[str, Any]:
    """Seconds (of each repetition), peak memory above the features in MB, and the values."""
    paths = [folder / f"{side}.npy" for side in ("real", "synth")]
    for path in paths:
        read_once(path)
    real, synth = (np.load(path, mmap_mode="r")[:rows] for path in paths)
    SIDES[name](real[:200, :16].copy(), synth[:200, :16].copy(), device)()
    touched = float(real.max()) + float(synth.max())
    touch_memory(200 + rows * real.shape[1] // 50_000)
    ready = SIDES[name](real, synth, device)
    gpu = _gpu_memory(device)
    memory, seconds, peak = Memory(), list[float](), 0.0
    while not seconds or (len(seconds) < REPEATS and sum(seconds) < ENOUGH):
        started = time.perf_counter()
        values = ready()
        seconds.append(time.perf_counter() - started)
        peak = peak or memory.peak()
    assert np.isfinite([touched, *values.values()]).all(), values
    return {"seconds": seconds, "peak": peak, "gpu": gpu(), "values": values}


def _gpu_memory(device: str) -> Callable[[], float]:
    if device == "cpu":
        return lambda: 0.0
    import torch

    torch.cuda.reset_peak_memory_stats(device)
    start = torch.cuda.memory_allocated(device)
    return lambda: (torch.cuda.max_memory_allocated(device) - start) / 1e6


def measure_gemm(device: str) -> dict[str, Any]:
    """GFLOP/s of a large matrix product in each precision, the faster of NumPy's and torch's; and who computes."""
    import torch
    from threadpoolctl import threadpool_info

    rates: dict[str, float] = {}
    for precision in ("float32", "float64"):
        left = np.random.default_rng(0).standard_normal((4096, WIDTH)).astype(precision)
        right = left.copy()  # of a matrix with itself NumPy computes half
        on_device = torch.from_numpy(left).to(device)
        ways: list[Callable[[], object]] = [lambda rows=on_device: torch.mm(rows, rows.T)[0, 0].item()]  # type: ignore[misc]
        if device == "cpu":
            ways.append(lambda left=left, right=right: np.matmul(left, right.T))  # type: ignore[misc]
        rates[precision] = max(2 * 4096**2 * WIDTH / 1e9 / min(_seconds(way) for _ in range(4)) for way in ways)
    pools = (
        f"{pool['internal_api']} {pool.get('version') or ''} {pool.get('architecture') or ''}"
        f" ({pool['num_threads']} threads)"
        for pool in threadpool_info()
    )
    blas = "; ".join(sorted({" ".join(pool.split()) for pool in pools}))
    gpu = torch.cuda.get_device_name(device) if device != "cpu" else ""
    return {**rates, "blas": f"{blas}; torch with {torch.get_num_threads()} threads", "gpu": gpu}


def _seconds(way: Callable[[], object]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


# The runner


def run(rows: Callable[[Sizes], list[Row]] = ordinary, *, sizes: Sizes | None = None, device: str = "cpu") -> str:
    """The table, the bars that are no column of it, and how far the values of all sides agree."""
    sizes = sizes or Sizes()
    wanted, missing = list[Row](), list[str]()
    taken: Taken = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _child(["features", name, *map(str, (sizes.few, sizes.many, sizes.most, sizes.width))], folder)
        gemm = _child(["gemm", device], folder)
        for row in rows(sizes):
            try:
                for side in row.measured:
                    if (side, row.rows) not in taken:
                        taken[side, row.rows] = _child(["side", side, name, str(row.rows), device], folder)
            except RuntimeError as error:  # minutes of measurements are not thrown away for one that is not to be had
                missing.append(f"Not measured: {row.what}, N={row.rows:,}: {error}")
            else:
                wanted.append(row)
    parts = (head(sizes, gemm), table(HEAD, (line(row, taken, gemm) for row in wanted)), *missing, FLOPS)
    return "\n\n".join([*parts, "\n".join(further(wanted, taken)), agreement(wanted, taken)])


def run_large() -> str:
    """The same at N=50,000, where the rows are compared with each other."""
    return run(large)


def run_cuda() -> str:
    """Both tables with this project, and the peers that can, on the first GPU."""
    return run(lambda sizes: [*ordinary(sizes), *large(sizes)], device="cuda:0")


def _child(arguments: list[str], folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.metrics", "--child", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise RuntimeError(f"{arguments}: {done.stderr.splitlines()[-1]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{' '.join(arguments)}: {answer}", file=sys.stderr, flush=True)
    return answer


HEAD = (
    " | N | torch-fidelity | clean-fid | torchmetrics | prdc | scikit-learn | **simet-cache**"
    " | times as fast as the fastest peer; bar | GFLOP/s | of the limit"
)


def head(sizes: Sizes, gemm: Mapping[str, Any]) -> str:
    settings = {name: os.environ.get(name, "unset") for name in ("OPENBLAS_CORETYPE", "OMP_NUM_THREADS")}
    shown = ", ".join(f"`{name}` {value}" for name, value in settings.items())
    where = f" On {gemm['gpu']}, where a side can use it; memory is the host's, then the GPU's." if gemm["gpu"] else ""
    return (
        f"Seconds, and in brackets peak MB above the features, of metrics of float32 features ({sizes.width} wide,"
        f" non-negative, in the mean about 0.4) that all sides read from the same mapped file; every figure from a"
        f" process of its own, the best of {REPEATS} where it takes less than {ENOUGH:.0f} s.{where} The peers'"
        f" precision .. coverage are precision and recall alone (torch-fidelity), or all four (prdc); their kid is that"
        f" of {SUBSETS} subsets of {SUBSET:,}; what is summarised has been computed before the clock starts.\n\n"
        f"{shown}; {gemm['blas']}. Its matrix product: {gemm['float32']:.0f} GFLOP/s in float32,"
        f" {gemm['float64']:.0f} in float64."
    )


def seconds(taken: Taken, names: Iterable[str], rows: int) -> float:
    return float(sum(min(taken[name, rows]["seconds"]) for name in names))


def cell(taken: Taken, names: tuple[str, ...], rows: int) -> str:
    if not names:
        return ""
    peaks = [f"{max(0, *(taken[name, rows][kind] for name in names)):.0f}" for kind in ("peak", "gpu")]
    shown = ", ".join(peaks if peaks[1] != "0" else peaks[:1])
    return f"{seconds(taken, names, rows):.2f} ({shown})"


def line(row: Row, taken: Taken, gemm: Mapping[str, Any]) -> Iterable[str]:
    own = seconds(taken, [row.ours], row.rows)
    rate = limit = ""
    if row.single or row.double:
        needed = row.single / gemm["float32"] + row.double / gemm["float64"]
        rate, limit = f"{(row.single + row.double) / own:.0f}", f"{needed / own:.0%}"
    cells = (cell(taken, row.peers.get(peer, ()), row.rows) for peer in COLUMNS)
    ours = f"**{cell(taken, (row.ours,), row.rows)}**"
    return row.what, f"{row.rows:,}", *cells, ours, "; ".join(ratios(row, taken, own)), rate, limit


def ratios(row: Row, taken: Taken, own: float) -> Iterable[str]:
    times = {peer: seconds(taken, names, row.rows) / own for peer, names in row.peers.items()}
    if times and not row.bars:
        yield f"{min(times.values()):.2f}"
    for wanted in row.bars:
        value = times[wanted.peer] if wanted.peer else min(times.values())
        what = f"{wanted.peer}: " if wanted.peer else ""
        holds = "holds" if value >= wanted.times else "broken"
        yield f"{what}{value:.2f}, bar {wanted.times:g}: **{holds}**"


MEMORY = {"fid": 400, "prdc": 300, "prdc and kid": 300, "prdc, both known": 300}  # MB above the features, at most


def further(wanted: list[Row], taken: Taken) -> Iterable[str]:
    """Bars beside the table."""
    yield "Further bars, against this project's own or as quoted:\n"
    for row in wanted:
        base = row.ours.removesuffix(", interval")
        if base != row.ours:
            ratio = seconds(taken, [row.ours], row.rows) / seconds(taken, [base], row.rows)
            yield bar(f"{base} with its interval, N={row.rows:,}, to without", ratio, "at most 1.5")
        if row.ours == "roc_auc":
            ratio = QUOTED_ROC_AUC / seconds(taken, [row.ours], row.rows)
            quoted = f"simet's {QUOTED_ROC_AUC} s, as issue 4 quotes it from such a machine (not measured here)"
            yield bar(f"roc_auc, N={row.rows:,}, times as fast as {quoted}", ratio, "at least 1.5")
    for name, limit in MEMORY.items():
        peaks = [taken[row.ours, row.rows]["peak"] for row in wanted if row.ours == name]
        if peaks:
            yield bar(f"MB above the features, {name}, the most at any N", max(peaks), f"at most {limit}")


# Values


@dataclass(frozen=True)
class Found:
    """How far two sides' values of one metric are apart, and how far they may be."""

    metric: str
    apart: float
    allowed: float


def compared(row: Row, taken: Taken) -> Iterable[Found]:
    ours = taken[row.ours, row.rows]["values"]
    theirs = [taken[name, row.rows]["values"] for names in row.peers.values() for name in names]
    for values in theirs:
        for metric in values.keys() & ours.keys() - {"kid", "roc_auc"}:
            allowed = 1e-3 if metric == "fid" else 2e-3  # float32 sums; counts where distances are float32
            yield Found(metric, abs(ours[metric] - values[metric]) / abs(values[metric]), allowed)
    stds = [values["kid std"] for values in theirs if "kid std" in values]
    for metric in ("kid", "kid_subsets"):
        for values in theirs if stds and metric in ours else ():
            if "kid" in values:  # means over other subsets: in standard errors
                rounding = 1e-3 * abs(values["kid"])  # of float32, where the subsets are all there is
                yield Found(metric, abs(ours[metric] - values["kid"]) / (stds[0] / SUBSETS**0.5 + rounding), 6.0)
    base = row.ours.partition(",")[0]
    if base != row.ours and (base, row.rows) in taken:
        before = taken[base, row.rows]["values"]
        for metric in before:
            yield Found(
                "this project's own, summarised before or with intervals",
                abs(ours[metric] - before[metric]) / abs(before[metric]),
                1e-9,
            )


def agreement(wanted: list[Row], taken: Taken) -> str:
    found: dict[str, list[Found]] = {}
    for row in wanted:
        for one in compared(row, taken):
            found.setdefault(one.metric, []).append(one)
    lines = []
    for metric, several in found.items():
        worst = max(several, key=lambda one: one.apart / one.allowed)
        unit = "standard errors of the peer's mean over subsets" if worst.allowed == 6 else "of the value"
        verdict = "agree" if worst.apart <= worst.allowed else "**differ**"
        lines.append(f"- {metric}: at most {worst.apart:.1e} {unit} apart (allowed {worst.allowed:g}): {verdict}")
    return "\n".join(["Values of all sides, compared in this run:", "", *lines])


def main() -> None:
    """Try the benchmark out on few rows, or measure what the runner asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics")
    parser.add_argument("--tiny", action="store_true", help="few and narrow rows: figures that mean nothing")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        warnings.simplefilter("ignore")  # torch's about mapped features that cannot be written to; peers' own
        print(json.dumps(_asked(*given.child)))
    else:
        print(run(large if given.large else ordinary, sizes=TINY if given.tiny else Sizes(), device=given.device))


def _asked(kind: str, *arguments: str) -> dict[str, Any]:
    if kind == "features":
        return make_features(Path(arguments[0]), Sizes(*map(int, arguments[1:])))
    if kind == "gemm":
        return measure_gemm(*arguments)
    name, folder, rows, device = arguments
    return measure(name, Path(folder), int(rows), device)


if __name__ == "__main__":
    main()
