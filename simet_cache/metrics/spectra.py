"""Linear algebra on float64 matrices: by NumPy and SciPy on the CPU, by torch on any other device.

Matrices come and go as NumPy arrays. SciPy brings a BLAS of its own, and threads of either wait busily for more work:
what alternates between the two takes up to twice as long, so that all but the rare exact routes is SciPy's. Where a
fast way loses digits on hard input, it is taken only as far as a bound on its rounding shows that it did not
(``cholesky_factor``, ``roots``); the slow way never squares anything.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np
from scipy.linalg import blas, lapack

from simet_cache.metrics.rows import Features, Floats, slices

Tensor: TypeAlias = Any  # torch is imported only where it is used

BLOCK_ELEMENTS = 2**23  # 64 MiB of float64: 4096 rows of 2048, whose products run at full speed
# Largest error that a Cholesky factor may cause, relative to the traces, by a bound that no rounding exceeds. The
# errors themselves are hundreds of times smaller: to come near to the bound, they would have to conspire.
RELIABLE = 1e-9
# The rounding of a product of rows with themselves (of its Cholesky factor, of its eigenvalues): its Frobenius norm
# over the trace. Seen: at most 3.7 eps for products of 200,000 rows, 0.4 eps for Cholesky, 9.1 eps for eigenvalues.
ROUNDING = 16 * np.finfo(np.float64).eps
# That of a single eigenvalue over the largest one. Seen: at most 37 eps, of 1000.
ROUNDING_OF_ONE = 64 * np.finfo(np.float64).eps


def moments(features: Features, centre: Floats, *, device: str) -> tuple[Floats, Floats]:
    """Sum, shape (D,), and sum of outer products, (D, D), of ``features - centre``; only the upper triangle is set."""
    rows, width = features.shape
    step = min(rows, max(1, BLOCK_ELEMENTS // width))
    if device != "cpu":
        return _moments_by_torch(features, centre, step, device)
    total, products = np.zeros(width), np.zeros((width, width), order="F")
    buffer = np.empty((step, width))
    for part in slices(rows, step):
        block = buffer[: part.stop - part.start]
        np.subtract(features[part], centre, out=block)
        total += block.sum(axis=0)
        products = blas.dsyrk(1.0, block.T, beta=1.0, c=products, overwrite_c=1)  # in place: nothing is copied or added
    return total, products


def _moments_by_torch(features: Features, centre: Floats, step: int, device: str) -> tuple[Floats, Floats]:
    total, products, origin = 0.0, 0.0, _tensor(centre, device)
    for part in slices(len(features), step):
        block = _tensor(features[part], device) - origin  # float64, as the centre is
        total, products = total + block.sum(dim=0), products + block.T @ block
    return _array(total), _array(products)


def less_outer(products: Floats, total: Floats, rows: int) -> Floats:
    """Sum of outer products less that of the mean, ``total / rows``; only the upper triangle is set."""
    return np.asarray(blas.dsyr(-1.0 / rows, total, lower=0, a=products))


def cholesky_factor(matrix: Floats, *, device: str) -> Floats | None:
    """The triangle R with ``R.T @ R == matrix``, or None where its rounding could be felt.

    What a rounding E of ``matrix`` = C does to Tr((C^1/2 S C^1/2)^1/2), for any other covariance S, is Tr(A E) / 2 with
    the optimal map A between the two. ``A C A = S`` bounds A's Frobenius norm by the root of Tr(S) / lambda_min(C), so
    that, relative to the geometric mean of the two traces, it is at most ``|E| / Tr(C)`` times the root of
    Tr(C) / lambda_min(C), halved; and 1 / lambda_min(C) is at most the squared Frobenius norm of R's inverse.

    Args:
        matrix: Shape (D, D), symmetric and positive semidefinite; only the upper triangle is read.
        device: Where to compute.

    Returns:
        Shape (D, D), upper triangle.
    """
    scale = float(np.trace(matrix))
    if not scale > 0:
        return None
    try:
        factor = _cholesky(matrix) if device == "cpu" else _by_torch("linalg.cholesky", device, matrix.T).T
    except (np.linalg.LinAlgError, RuntimeError):  # torch's own LinAlgError is a RuntimeError
        return None
    bound = ROUNDING * np.sqrt(scale) * np.linalg.norm(inverse(factor, device=device)) / 2
    return factor if bound <= RELIABLE else None


def _cholesky(matrix: Floats) -> Floats:
    factor, failed = lapack.dpotrf(matrix, lower=0, clean=1)
    if failed:
        raise np.linalg.LinAlgError
    return np.asarray(factor)


def triangle(rows: Floats, *, device: str) -> Floats:
    """The triangle R of the QR decomposition: ``R.T @ R == rows.T @ rows`` without forming either product."""
    if device != "cpu":
        return _pair_by_torch("linalg.qr", device, rows, mode="r")[1]
    factor: Floats = np.linalg.qr(rows, mode="r")  # type: ignore[assignment] # NumPy's stub knows no mode
    return factor


def product(first: Floats, second: Floats, *, device: str) -> Floats:
    """``first @ second``."""
    if device != "cpu":
        return _by_torch("matmul", device, first, second)
    (left, flipped), (right, turned) = _in_fortran_order(first), _in_fortran_order(second)
    return np.asarray(blas.dgemm(1.0, left, right, trans_a=flipped, trans_b=turned))


def _in_fortran_order(matrix: Floats) -> tuple[Floats, int]:
    """The matrix, or its transpose and 1, as BLAS takes it without a copy."""
    return (matrix.T, 1) if matrix.flags.c_contiguous else (matrix, 0)


def times_triangle(matrix: Floats, upper: Floats, *, device: str) -> Floats:
    """A matrix times the transpose of an upper triangle."""
    if device != "cpu":
        return _by_torch("matmul", device, matrix, upper.T)
    return np.asarray(blas.dtrmm(1.0, upper, matrix, side=1, trans_a=1, lower=0))


def inverse(upper: Floats, *, device: str) -> Floats:
    """The inverse of an upper triangle."""
    if device != "cpu":
        return _by_torch("linalg.solve_triangular", device, upper, np.eye(len(upper)), upper=True)
    return np.asarray(lapack.dtrtri(upper)[0])


def roots(squares: Floats) -> tuple[Floats, float]:
    """Singular values of a matrix from the eigenvalues of its Gram matrix, and a bound on the error of their sum.

    Rounding moves each eigenvalue by at most its spectral norm (Weyl), and all of them by at most its Frobenius norm,
    counted as the root of the sum of squares (Hoffman & Wielandt); a root moves by less than its square, over itself.

    Args:
        squares: Ascending.
    """
    if not squares[0] > 0:
        return np.sqrt(np.maximum(squares, 0)), np.inf
    values = np.sqrt(squares)
    each = ROUNDING_OF_ONE * squares[-1] * (1 / values).sum()
    together = ROUNDING * squares.sum() * np.linalg.norm(1 / values)
    return values, float(min(each, together))


def singular_values(matrix: Floats, *, device: str) -> Floats:
    """Singular values to the precision of the largest one, in ascending order."""
    if device != "cpu":
        return _by_torch("linalg.svdvals", device, matrix)[::-1]
    return np.asarray(np.linalg.svd(matrix, compute_uv=False), np.float64)[::-1]


def gram(matrix: Floats, *, device: str) -> Floats:
    """Products of rows with one another, or of columns where these are fewer; only the upper triangle is set."""
    lean = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    if device != "cpu":
        return _by_torch("matmul", device, lean, lean.T)
    if lean.flags.c_contiguous:
        return np.asarray(blas.dsyrk(1.0, lean.T, trans=1))
    return np.asarray(blas.dsyrk(1.0, lean))


def eigenvalues(upper: Floats, *, device: str) -> Floats:
    """Eigenvalues of a symmetric matrix, ascending; only the upper triangle is read."""
    if device != "cpu":
        return _by_torch("linalg.eigvalsh", device, upper, UPLO="U")
    values, *_, failed = lapack.dsyevr(upper, compute_v=0, lower=0)
    if failed:
        raise np.linalg.LinAlgError("the eigenvalues did not converge")
    return np.asarray(values)


def eigenvectors(upper: Floats, *, device: str) -> tuple[Floats, Floats]:
    """The same, and the eigenvectors as columns."""
    if device != "cpu":
        return _pair_by_torch("linalg.eigh", device, upper, UPLO="U")
    values, vectors, failed = lapack.dsyevd(upper, compute_v=1, lower=0)
    if failed:
        raise np.linalg.LinAlgError("the eigenvalues did not converge")
    return np.asarray(values), np.asarray(vectors)


def _by_torch(name: str, device: str, *arrays: Floats, **options: Any) -> Floats:
    """What torch's function of that name makes of the arrays."""
    return _array(_called(name, device, *arrays, **options))


def _pair_by_torch(name: str, device: str, *arrays: Floats, **options: Any) -> tuple[Floats, Floats]:
    first, second = _called(name, device, *arrays, **options)
    return _array(first), _array(second)


def _called(name: str, device: str, *arrays: Floats, **options: Any) -> Any:
    import torch  # noqa: PLC0415 - who stays on the CPU need not wait for it

    function = attrgetter(name)(torch)
    return function(*(_tensor(array, device) for array in arrays), **options)


def _tensor(array: Features, device: str) -> Tensor:
    import torch  # noqa: PLC0415 - as above

    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch warns of the one and refuses the other
    return torch.from_numpy(array).to(device)


def _array(tensor: Tensor) -> Floats:
    return np.asarray(tensor.cpu().numpy(), np.float64)
