"""Low-rank matrix products that are not multiplied out, such as the QK and OV circuits of heads.

Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; `FactoredMatrix` of TransformerLens, in numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroscope.errors import DataConversionError

Floats = NDArray[np.floating[Any]]


class Svd(NamedTuple):
    """Singular value decomposition: matrix = U * S @ Vh."""

    U: Floats
    """(..., rows, rank)"""
    S: Floats
    """(..., rank), largest first."""
    Vh: Floats
    """(..., rank, columns)"""


@dataclass(frozen=True, eq=False)
class FactoredMatrix:
    """The product A @ B, stored as its factors. Leading axes are batch axes, such as layers and heads.

    Args:
        A: (..., rows, rank).
        B: (..., rank, columns).

    Raises (from the constructor):
        DataConversionError: the shapes do not match.
    """

    A: Floats
    B: Floats

    __array_ufunc__ = None  # numpy then calls __rmatmul__ instead of broadcasting

    def __post_init__(self) -> None:
        if self.A.ndim < 2 or self.B.ndim < 2 or self.A.shape[-1] != self.B.shape[-2]:
            raise DataConversionError(f"{self.A.shape} and {self.B.shape} are no factors of a matrix", field="factors")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the product."""
        leading = np.broadcast_shapes(self.A.shape[:-2], self.B.shape[:-2])
        return (*leading, self.A.shape[-2], self.B.shape[-1])

    @property
    def ndim(self) -> int:
        """Number of axes of the product."""
        return len(self.shape)

    @property
    def rank(self) -> int:
        """Inner dimension of the factors: an upper bound of the rank."""
        return self.A.shape[-1]

    @property
    def T(self) -> FactoredMatrix:  # as in numpy
        """The transpose."""
        return FactoredMatrix(self.B.swapaxes(-1, -2), self.A.swapaxes(-1, -2))

    @property
    def AB(self) -> Floats:  # as in TransformerLens
        """The product."""
        return self.A @ self.B

    @property
    def BA(self) -> Floats:  # as in TransformerLens
        """B @ A (..., rank, rank), which has the same non-zero eigenvalues. The product must be square."""
        self._check_square()
        return self.B @ self.A

    def dense(self) -> Floats:
        """The product."""
        return self.AB

    def svd(self) -> Svd:
        """The singular value decomposition, computed from the factors."""
        return self._svd

    @property
    def U(self) -> Floats:
        """(..., rows, rank) of `svd`."""
        return self._svd.U

    @property
    def S(self) -> Floats:
        """(..., rank) of `svd`."""
        return self._svd.S

    @property
    def Vh(self) -> Floats:
        """(..., rank, columns) of `svd`."""
        return self._svd.Vh

    def eigenvalues(self) -> NDArray[np.complexfloating[Any, Any]]:
        """The non-zero eigenvalues (..., rank), complex.

        Raises:
            DataConversionError: the matrix is not square.
        """
        return np.linalg.eigvals(self.BA).astype(np.complex128)

    def norm(self) -> Floats:
        """Frobenius norm of each matrix of the batch."""
        left, right = self.A.swapaxes(-1, -2) @ self.A, self.B @ self.B.swapaxes(-1, -2)
        return np.sqrt(np.maximum((left * right.swapaxes(-1, -2)).sum(axis=(-1, -2)), 0))

    def __matmul__(self, other: FactoredMatrix | ArrayLike) -> Any:
        """A factored matrix, or the product with a vector (..., rows)."""
        if isinstance(other, FactoredMatrix):
            inner = self.B @ other.A
            if self.rank > other.rank:
                return FactoredMatrix(self.A @ inner, other.B)
            return FactoredMatrix(self.A, inner @ other.B)
        right: Floats = np.asarray(other)
        if right.ndim > 1:
            return FactoredMatrix(self.A, self.B @ right)
        return (self.A @ (self.B @ right)[..., None])[..., 0]

    def __rmatmul__(self, other: ArrayLike) -> Any:
        """A factored matrix, or the product with a vector (..., columns)."""
        left: Floats = np.asarray(other)
        if left.ndim > 1:
            return FactoredMatrix(left @ self.A, self.B)
        return ((left @ self.A)[..., None, :] @ self.B)[..., 0, :]

    def __mul__(self, scale: float) -> FactoredMatrix:
        return FactoredMatrix(self.A * scale, self.B)

    __rmul__ = __mul__

    def __getitem__(self, index: Any) -> FactoredMatrix:
        """Indexes the batch axes."""
        leading = self.shape[:-2]
        A, B = (np.broadcast_to(x, (*leading, *x.shape[-2:]))[index] for x in (self.A, self.B))
        return FactoredMatrix(A, B)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.AB, dtype=dtype)

    def __repr__(self) -> str:
        return f"FactoredMatrix(shape={self.shape}, rank={self.rank})"

    @cached_property
    def _svd(self) -> Svd:
        left, upper = np.linalg.qr(self.A)
        right, lower = np.linalg.qr(self.B.swapaxes(-1, -2))
        U, S, Vh = np.linalg.svd(upper @ lower.swapaxes(-1, -2), full_matrices=False)
        return Svd(left @ U, S, Vh @ right.swapaxes(-1, -2))

    def _check_square(self) -> None:
        if self.shape[-1] != self.shape[-2]:
            raise DataConversionError(f"a matrix of shape {self.shape[-2:]} has no eigenvalues", field="factors")
