"""Populations that are never stored: each member is a function of the seed and the member index."""

from __future__ import annotations

import contextlib
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad import _core, arrays
from popgrad.backends import Stream
from popgrad.checks import fail, positive, positive_int, whole_seed
from popgrad.layout import Layout, checked_layout
from popgrad.system import memory_bytes

__all__ = ["Perturbations"]

Array = NDArray[Any]

_MOST_MEMBERS = (1 << 32) - 1
_MOST_DRAWN = 1 << 34  # coordinates of a member: a draw has a 32-bit counter and yields four numbers


@final
class Perturbations:
    r"""A population (P, n) around a center. `MLP.evaluate` accepts it in place of a stored population.

    .. math:: x_k = \theta + \sigma z_k, \qquad z_k \sim N(0, I) \text{ a function of seed and } k \text{ alone}

    `MLP.evaluate` generates the members on the fly, and `combine` generates the noise again: memory is O(n + P).
    A counter-based generator draws the noise. The noise is the same for any number of threads, for every instruction
    set, and in float64 and float32. Use a different seed for each generation of a search.

    Args:
        center: (n,) float32 or float64, finite; copied.
        sigma: standard deviation of the steps, > 0, in units of the parameters.
        popsize: number of members P, in [1, 2^32); must be even if `antithetic` is true.
        seed: in [0, 2^64).
        antithetic: whether member k + P / 2 has the negated noise of member k.
        rank: None for independent noise in every coordinate; r for noise :math:`A B^T / \sqrt r` in every matrix
            (out, in), where A is (out, r) and B (in, r), standard normal. This noise also has variance 1, and
            the first layer of a network is evaluated without generating its weights. The rank is at most the shorter
            side of some matrix. Tensors that are not matrices have independent noise.
        layout: layout of the center, such as ``model.layout``; required with a rank.

    Attributes:
        center: (n,), not writable. The other attributes equal the arguments.

    Raises:
        InputError: an argument is out of range, or the layout does not fit.

    Reference: Salimans et al., arXiv:1703.03864 (2017), section 2 (seeds in place of parameters, mirrored sampling);
    low rank: Sarkar et al., arXiv:2511.16652 (2025), EGGROLL.
    """

    def __init__(
        self,
        center: ArrayLike,
        sigma: float,
        popsize: int,
        seed: int,
        antithetic: bool = True,
        rank: int | None = None,
        layout: Layout | None = None,
    ) -> None:
        values = arrays.read(type(self).__name__, "center", center)
        if values.dtype not in (np.float32, np.float64) or values.ndim != 1 or len(values) == 0:
            fail(self, f"center must be a float32 or float64 vector (n,), got {values.dtype} {values.shape}")
        if not np.isfinite(values).all():
            fail(self, f"center holds NaN or infinity (first in place {int(np.argmin(np.isfinite(values)))})")
        self.center: Array = np.array(values, order="C")
        self.center.setflags(write=False)
        self.sigma = sigma
        positive(self, "sigma")
        if callable(sigma):
            fail(self, f"sigma must be a finite number > 0, got {sigma!r}")
        self.sigma = float(sigma)
        with np.errstate(over="ignore", under="ignore"):
            if not 0 < self.center.dtype.type(self.sigma) < np.inf:
                fail(self, f"sigma must be a number > 0 that {self.dtype} can hold, got {sigma!r}")
        self.popsize = positive_int(self, "popsize", popsize)
        if self.popsize > _MOST_MEMBERS:
            fail(self, f"popsize must be below 2^32, got {popsize}")
        if not isinstance(antithetic, (bool, np.bool_)):
            fail(self, f"antithetic must be True or False, got {antithetic!r}")
        self.antithetic = bool(antithetic)
        if self.antithetic and self.popsize % 2:
            fail(self, f"popsize must be even, for antithetic pairs, got {popsize}")
        self.seed = whole_seed(self, seed)
        self.rank = None if rank is None else positive_int(self, "rank", rank)
        self.layout = checked_layout(type(self).__name__, layout, len(self.center))
        self._parts = self._make_parts()

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.center.setflags(write=False)  # copying and pickling reset the flag

    @property
    def shape(self) -> tuple[int, int]:
        """(P, n)."""
        return self.popsize, len(self.center)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the center."""
        return self.center.dtype

    def __len__(self) -> int:
        return self.popsize

    def __repr__(self) -> str:
        return (
            f"Perturbations({self.dtype} {self.center.shape}, sigma={self.sigma}, popsize={self.popsize}, "
            f"seed={self.seed}, antithetic={self.antithetic}, rank={self.rank})"
        )

    def rows(self, first: int, last: int) -> Array:
        """The members [first, last) as an array (last - first, n).

        Raises:
            InputError: not 0 <= first <= last <= P, or the array would not fit into the memory of this machine.
        """
        where = "Perturbations.rows"
        first, last = positive_int(where, "first", first, 0), positive_int(where, "last", last, 0)
        if not first <= last <= self.popsize:
            fail(where, f"members must be in 0 <= first <= last <= {self.popsize}, got {first} and {last}")
        count, n = last - first, len(self.center)
        need, memory = count * n * self.dtype.itemsize, memory_bytes()
        out = None
        if need <= memory:
            with contextlib.suppress(MemoryError):
                out = np.empty((count, n), self.dtype)
        if out is None:
            fail(
                where,
                f"({count:,}, {n:,}) in {self.dtype} needs {need / 2**30:,.1f} GiB; this machine has "
                f"{memory / 2**30:,.1f}. MLP.evaluate accepts the Perturbations object without storing the members, "
                "and combine() sums over them",
            )
        self.noise.rows(self.center, first, out)
        return out

    def __getitem__(self, which: int | slice | NDArray[np.integer[Any]]) -> Array:
        """One member (n,) for an integer, or several members (k, n) for a slice or integers (k,), as in NumPy.

        Raises:
            InputError: the members would not fit into the memory of this machine.
            IndexError: an integer is not in [-P, P).
        """
        if isinstance(which, slice):
            numbers = np.arange(*which.indices(self.popsize))
        else:
            numbers = np.asarray(which)
            if numbers.size and not (numbers.min() >= -self.popsize and numbers.max() < self.popsize):
                raise IndexError(f"member out of range: {which!r} of {self.popsize}")
            numbers = np.where(numbers < 0, numbers + self.popsize, numbers)
        if numbers.ndim == 0:
            row: Array = self.rows(int(numbers), int(numbers) + 1)[0]
            return row
        runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1) if len(numbers) else []
        parts = [self.rows(int(run[0]), int(run[-1]) + 1) for run in runs] or [self.rows(0, 0)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def combine(self, weights: ArrayLike) -> Array:
        r"""The weighted sum of the noise, :math:`\sum_k w_k z_k`, (n,), without sigma.

        With the utilities u_k of the members as weights, this sum divided by (P sigma) is the gradient estimate of an
        evolution strategy. Noise of members with weight 0 is not generated.

        Args:
            weights: (P,) finite numbers.

        Raises:
            InputError: the weights are not P finite numbers, or are too large for a finite sum.
        """
        values = arrays.read("Perturbations.combine", "weights", weights)
        if values.shape != (self.popsize,) or values.dtype.kind not in "fiub":
            fail("Perturbations.combine", f"weights must be {self.popsize} numbers, got {values.dtype} {values.shape}")
        with np.errstate(over="ignore"):
            typed = np.ascontiguousarray(values, np.float64)
            if not np.isfinite(typed.astype(self.dtype, copy=False)).all():
                fail("Perturbations.combine", f"weights hold NaN, infinity or more than {self.dtype} holds")
        out = np.empty_like(self.center)
        self.noise.combine(typed, out)
        if not np.isfinite(out).all():
            fail("Perturbations.combine", f"weights are too large: {self.dtype} does not hold the sum")
        return out

    @property
    def noise(self) -> _core.Noise:
        """The arguments of the native noise generator, except the center."""
        return _core.Noise(
            self.sigma, self.popsize, self.antithetic, self.seed, Stream.PERTURB, self.rank or 0, self._parts
        )

    def check_fits(self, operation: str, layout: Layout, dtype: np.dtype[Any]) -> None:
        """Fail unless the perturbations match the layout and the dtype."""
        if self.shape[1] != layout.size:
            fail(operation, f"perturbations must be of {layout.size} parameters, got {self.shape[1]}")
        if self.dtype != dtype:
            fail(operation, f"perturbations must have the model's dtype {dtype}, got {self.dtype}")
        if self.rank is not None and self.layout.tensor_shapes() != layout.tensor_shapes():
            fail(operation, f"perturbations must have the model's layout {layout}, got {self.layout}")

    def _make_parts(self) -> NDArray[np.int64]:
        """For each tensor: (out, in) for a matrix with low-rank noise, otherwise (0, size)."""
        rank, parts, drawn = self.rank, [(0, len(self.center))], len(self.center)
        if rank is not None:
            sides = [min(tensor.shape) for tensor in self.layout if tensor.is_matrix]
            if not sides:
                fail(self, f"rank needs a layout with a matrix, such as model.layout, got {self.layout}")
            if rank > max(sides):
                fail(self, f"rank must be at most the shorter side of some matrix, {max(sides)}, got {rank}")
            parts = [(t.shape[0], t.shape[1]) if t.is_matrix else (0, t.size) for t in self.layout]
            drawn = sum(rank * (rows + columns) if rows else columns for rows, columns in parts)
        if drawn > _MOST_DRAWN:
            fail(self, f"a member must draw at most 2^34 numbers, got {drawn}")
        return np.array(parts, np.int64)
