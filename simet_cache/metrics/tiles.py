"""The products of rows with rows, tile by tile, once for everything that is read off them.

A pass goes over one set with itself or over two sets. Both are moved by one point near their middle, so that squared
distances do not cancel and kernels stay near their mean, and scaled by a power of two that keeps float32 from
overflowing. Tiles are float32 where the pass is long: what a reader concludes from one must hold for the rows as they
are, so each tile tells how wrong it can be, and gives the same products in float64 where that is too much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from simet_cache.metrics.rows import Features, Floats, slices

CACHED_ROWS = 64  # of a tile of float32
TILE_ROWS = 1024
TILE_COLUMNS = 4096
CUDA_TILE = 8192  # rows and columns
PREPARED_ROWS = 64  # float64 rows that stay in a processor's cache
SAMPLED_ROWS = 2048  # that the middle is taken from
SMALL = 2**31  # products up to here are float64 at once: it takes a moment
LARGEST_WIDTH = 2**18  # beyond it the bound of a float32 product says nothing
UNSCALED = (2.0**-10, 2.0**8)  # largest values that float32 holds the cubes of products of

Tensor: TypeAlias = torch.Tensor


class Reader(Protocol):
    """Reads something off every tile of a pass.

    Attributes:
        wide: Whether it needs float64 tiles.
    """

    wide: bool

    def read(self, tile: Tile) -> None:
        """Take note of one tile."""

    def results(self) -> list[Any]:
        """What was asked for, in the order of asking."""


class Rows:
    """One set as a pass sees it: moved by ``centre`` and then multiplied by ``scale``.

    Attributes:
        features: The rows as they are, shape (N, D).
        centre: The point that all rows of a pass are moved by, shape (D,), of a dtype that holds the rows exactly.
        scale: A power of two.
        device: Where tiles are computed.
        squared: Squared lengths of the moved and scaled rows, shape (N,).
        along: Products of the moved rows, unscaled, with the centre, shape (N,).
        sums: Sums of the moved rows, unscaled, times ``along`` to the power of 0, 1 and 2, shape (3, D).
    """

    def __init__(self, features: Features, centre: NDArray[Any], device: str) -> None:
        """Go over the rows once."""
        self.features, self.centre, self.device, self.scale = features, centre, device, 1.0
        self.squared, self.along = np.empty(len(features)), np.empty(len(features))
        self.largest, self.sums = 0.0, np.zeros((3, features.shape[1]))
        middle = centre.astype(np.float64)
        memory = np.empty((PREPARED_ROWS, features.shape[1]))  # the same pages for each block
        for part in slices(len(features), PREPARED_ROWS):
            block = np.subtract(features[part], middle, out=memory[: part.stop - part.start])
            self.largest = max(self.largest, float(block.max()), -float(block.min()))
            self.squared[part] = np.einsum("ij,ij->i", block, block)
            self.along[part] = along = block @ middle
            self.sums += np.vander(along, 3, increasing=True).T @ block

    def __len__(self) -> int:
        """Rows in the set."""
        return len(self.features)

    def rescale(self, scale: float) -> None:
        """Multiply by another power of two."""
        self.squared *= (scale / self.scale) ** 2
        self.scale = scale

    def moved(self, part: slice | NDArray[np.intp]) -> Floats:
        """Some rows, moved but not scaled."""
        return np.asarray(np.subtract(self.features[part], self.centre, dtype=np.float64))

    def block(
        self,
        part: slice | NDArray[np.intp],
        kind: torch.dtype,
        kept: dict[str, Tensor] | None = None,
        name: str = "",
    ) -> Tensor:
        """Some rows, moved and scaled, as tiles multiply them; in memory that is ``kept`` by a name, if any."""
        rows = self.features[part]
        moved = _memory({} if kept is None else kept, name, rows.shape, kind, torch.device("cpu"))
        if kind == torch.float64 or self.centre.dtype == np.float32:
            np.subtract(rows, self.centre, out=moved.numpy(), dtype=moved.numpy().dtype)
            if self.scale != 1.0:
                moved *= self.scale
        else:
            moved.copy_(
                torch.from_numpy(self.moved(part) * self.scale)
            )  # what float32 would overflow at is scaled first
        return moved.to(self.device)


@dataclass(frozen=True)
class Error:
    """How far a squared distance that was read off a tile can be from the plain float64 one.

    By ``relative * (|a|^2 + |b|^2) + absolute`` at most, where a and b are the moved and scaled rows.
    """

    relative: float
    absolute: float

    @classmethod
    def of(cls, kind: torch.dtype, width: int) -> Error:
        """The error of tiles of one dtype.

        With u the unit roundoff, a product of rows errs by at most D u / (1 - D u) |a| |b| in whatever order it is
        summed; moving, rounding the lengths and two subtractions add less than 12 u. Lengths and the plain distance
        itself are float64 sums. (Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., section 3.1.)
        """
        unit, least, double = _UNITS[kind], _LEAST[kind], _UNITS[torch.float64]
        return cls((width + 12) * unit / (1 - width * unit) + (4 * width + 30) * double, width * least)


_UNITS = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
_LEAST = {torch.float32: 2.0**-112, torch.float64: 2.0**-960}  # what underflows, times the largest values


@dataclass
class Tile:
    """The products of some rows of the left set with some of the right one.

    Attributes:
        left: The set whose rows are the tile's rows.
        right: The set whose rows are the tile's columns; in a pass over one set the same as ``left``.
        rows: Which rows.
        columns: Which columns. A pass over one set meets every pair of its rows once.
        own: How many columns at the tile's left are its rows again: there, pairs stand twice, and rows with themselves.
        products: Of the moved and scaled rows, of the device's torch tensors; 0 for a row with itself.
    """

    left: Rows
    right: Rows
    rows: slice
    columns: slice
    own: int
    products: Tensor
    kept: dict[str, Tensor] = field(default_factory=dict, repr=False)  # memory that tiles hand on

    @property
    def kind(self) -> torch.dtype:
        """Float32 or float64."""
        return self.products.dtype

    @cached_property
    def error(self) -> Error:
        """How wrong squared distances from this tile can be."""
        return Error.of(self.kind, int(self.left.features.shape[1]))

    @cached_property
    def halves(self) -> Tensor:
        """At least minus half of each squared distance, and minus infinity for a row with itself.

        ``halves - slack / 2`` would be at most that, where ``slack`` is twice the error of the pair.
        """
        halves = self.memory("halves")
        _subtract(self.products, self._least(self.left, self.rows), self._least(self.right, self.columns), out=halves)
        halves[:, : self.own].fill_diagonal_(-torch.inf)
        return halves

    @cached_property
    def wide(self) -> Tile:
        """The same tile in float64."""
        if self.kind == torch.float64:
            return self
        left, right = self.left.block(self.rows, torch.float64), self.right.block(self.columns, torch.float64)
        products = _clear(multiplied(left, right.T), self.own)
        return Tile(self.left, self.right, self.rows, self.columns, self.own, products)

    @cached_property
    def least_halves(self) -> Tensor:
        """At most minus half of each squared distance: ``halves`` less all that they can be too high."""
        relative = self.error.relative + 4 * _UNITS[self.kind]  # two more subtractions
        lengths = self.right.squared[self.columns], self.left.squared[self.rows]
        right, left = (self.on_device(relative * part + self.error.absolute, up=True) for part in lengths)
        least = self.memory("least")
        _subtract(self.halves, left, right, out=least)
        return least

    def lower(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Floats:
        """Lower bounds of the squared distances of pairs."""
        return np.asarray(-2.0 * values_at(self.halves, rows, columns).astype(np.float64))

    def slack(self, rows: Any, columns: Any) -> Floats:
        """The slack of pairs: a squared distance is from ``-2 * halves`` to ``slack`` above it."""
        lengths = self.left.squared[self.rows][rows] + self.right.squared[self.columns][columns]
        return np.asarray(2 * (self.error.relative * lengths + self.error.absolute))

    def on_device(self, values: NDArray[Any], *, up: bool = False) -> Tensor:
        """Numbers for comparison with the tile: in its dtype, rounded down or ``up``."""
        return torch.from_numpy(rounded(values, self.kind, up=up)).to(self.left.device)

    def memory(self, name: str, kind: torch.dtype | None = None, columns: int | None = None) -> Tensor:
        """Memory for a tensor as large as the tile, or with fewer columns, which later tiles overwrite."""
        height, width = self.products.shape
        shape = height, width if columns is None else columns
        return _memory(self.kept, name, shape, kind or self.kind, self.products.device)

    def _least(self, rows: Rows, part: slice) -> Tensor:
        return self.on_device(0.5 * (1 - self.error.relative) * rows.squared[part] - 0.25 * self.error.absolute)


def rounded(values: NDArray[Any], kind: torch.dtype, *, up: bool = False) -> NDArray[Any]:
    """Float64 numbers in a tile's dtype, never above (or with ``up`` below) what they were."""
    if kind == torch.float64:
        return np.ascontiguousarray(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    wrong = narrow < values if up else narrow > values
    narrow[wrong] = np.nextafter(narrow[wrong], np.float32(np.inf if up else -np.inf))
    return np.asarray(narrow)


def _subtract(values: Tensor, left: Tensor, right: Tensor, *, out: Tensor) -> None:
    """Take off every row what belongs to it on the left and to each column on the right.

    On the CPU by NumPy, a few rows at a time, which stay in its cache: torch's threads would wait busily afterwards,
    and keep those of NumPy's products waiting.
    """
    if values.is_cuda:
        torch.sub(values, right, out=out).sub_(left[:, None])
        return
    columns = right.numpy()
    for part in slices(len(values), CACHED_ROWS):
        rows = np.subtract(values[part].numpy(), columns, out=out[part].numpy())
        rows -= left[part].numpy()[:, None]


def at_least(values: Tensor, bounds: Tensor, *, out: Tensor) -> Tensor:
    """Where values are not below bounds, which are broadcast."""
    if values.is_cuda:
        return torch.ge(values, bounds, out=out)
    np.greater_equal(values.numpy(), bounds.numpy(), out=out.numpy())
    return out


def either(one: Tensor, other: Tensor) -> Tensor:
    """``one | other``, into ``one``."""
    if one.is_cuda:
        return one.logical_or_(other)
    np.logical_or(one.numpy(), other.numpy(), out=one.numpy())
    return one


def count_of(mask: Tensor) -> int:
    """How many of a mask's elements are true; NumPy is the faster one on the CPU."""
    return int(torch.count_nonzero(mask)) if mask.is_cuda else int(np.count_nonzero(mask.numpy()))


def places_of(mask: Tensor) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns where a contiguous mask is true, in order."""
    flat = mask.flatten()
    found = flat.nonzero().flatten().cpu().numpy() if mask.is_cuda else np.flatnonzero(flat.numpy())
    return np.divmod(found, mask.shape[1])


def sums_of(mask: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many of a mask's elements are true in each row, and in each column."""
    if mask.is_cuda:
        return mask.sum(1).cpu().numpy(), mask.sum(0).cpu().numpy()
    return np.count_nonzero(mask.numpy(), axis=1), np.count_nonzero(mask.numpy(), axis=0)


def values_at(values: Tensor, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[Any]:
    """Single elements of a tile, on the CPU."""
    if not values.is_cuda:
        return np.asarray(values.numpy()[rows, columns])
    places = (torch.from_numpy(part).to(values.device) for part in (rows, columns))
    return np.asarray(values[tuple(places)].cpu().numpy())


def opened(*sets: Features, device: str) -> list[Rows]:
    """Sets as a pass sees them, about one common centre.

    The centre is near the mean of both: of evenly spaced rows, rounded to the dtype of the rows, so that moving them
    by it costs one rounding at most.
    """
    kind = np.result_type(np.float32, *(features.dtype for features in sets))
    centre = np.mean([_middle(features) for features in sets], axis=0).astype(kind)
    found = [Rows(features, centre, device) for features in sets]
    largest = max(rows.largest for rows in found)
    if largest and not UNSCALED[0] <= largest <= UNSCALED[1]:
        for rows in found:
            rows.rescale(2.0 ** -np.ceil(np.log2(largest)))
    return found


def _middle(features: Features) -> Floats:
    step = -(-len(features) // SAMPLED_ROWS)
    total = np.zeros(features.shape[1])
    first = features[0].astype(np.float64)
    for part in slices(len(features), PREPARED_ROWS * step):
        total += np.subtract(features[part][::step], first, dtype=np.float64).sum(axis=0)
    return np.asarray(first + total / len(range(0, len(features), step)))


def read_all(left: Rows, right: Rows, readers: Sequence[Reader]) -> None:
    """Let readers read every tile of one set with another, or with itself when both are the same object."""
    if not readers:
        return
    kind = _kind(left, right, readers)
    with _full_precision():
        for tile in _tiles(left, right, kind):
            for reader in readers:
                reader.read(tile.wide if reader.wide else tile)


def _kind(left: Rows, right: Rows, readers: Sequence[Reader]) -> torch.dtype:
    width = int(left.features.shape[1])
    short = len(left) * len(right) * width <= SMALL or width > LARGEST_WIDTH
    return torch.float64 if short or all(reader.wide for reader in readers) else torch.float32


def _tiles(left: Rows, right: Rows, kind: torch.dtype) -> Iterator[Tile]:
    kept: dict[str, Tensor] = {}
    panel, step = (TILE_COLUMNS, TILE_ROWS) if left.device == "cpu" else (CUDA_TILE, CUDA_TILE)
    same = left is right
    for columns in slices(len(right), panel):
        across = right.block(columns, kind, kept, "across")
        before = slices(columns.start if same else len(left), step)
        within = slices(columns.stop - columns.start, -(-step // 2)) if same else ()  # small squares on the diagonal
        inside = (slice(columns.start + part.start, columns.start + part.stop) for part in within)
        for rows in chain(before, inside):
            skipped = max(rows.start - columns.start, 0) if same else 0
            own = rows.stop - rows.start if same and rows.start >= columns.start else 0
            part = slice(columns.start + skipped, columns.stop)
            down = across[skipped : skipped + own] if own else left.block(rows, kind, kept, "down")
            out = _memory(kept, "products", (len(down), len(across) - skipped), kind, across.device)
            products = _clear(multiplied(down, across[skipped:].T, out), own)
            yield Tile(left, right, rows, part, own, products, kept)


def multiplied(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Matrix product; NumPy's BLAS is the faster one on the CPU."""
    if left.is_cuda:
        return torch.mm(left, right, out=out)
    if out is None:
        return torch.from_numpy(np.matmul(left.numpy(), right.numpy()))
    np.matmul(left.numpy(), right.numpy(), out=out.numpy())
    return out


def _memory(
    kept: dict[str, Tensor], name: str, shape: tuple[int, ...], kind: torch.dtype, device: torch.device
) -> Tensor:
    size = shape[0] * shape[1]
    found = kept.get(name)
    if found is None or found.numel() < size:
        found = kept[name] = torch.empty(size, dtype=kind, device=device)
    return found[:size].view(shape)


def _clear(products: Tensor, own: int) -> Tensor:
    if own:
        products[:, :own].fill_diagonal_(0.0)
    return products


@contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32 in products of float32: its error is not the one that tiles state."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
