"""Reads the bounds that a user gives, in any accepted form, into a `Box`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad.checks import fail

__all__ = ["Bounds", "Box", "checked_box"]

Array = NDArray[Any]
Sides = tuple[NDArray[np.float64], NDArray[np.float64]]


class _LowerUpper(Protocol):
    """``scipy.optimize.Bounds``."""

    lb: Any
    ub: Any


Bounds: TypeAlias = tuple[ArrayLike | None, ArrayLike | None] | Sequence[Any] | NDArray[Any] | _LowerUpper


@dataclass(frozen=True)
class Box:
    """Bounds of every coordinate, in the type of the candidates, rounded inward.

    Args:
        lower, upper: (n,), lower <= upper; infinite for no bound.
    """

    lower: Array
    upper: Array

    @cached_property
    def closed(self) -> NDArray[np.bool_]:
        """Whether both bounds of each coordinate are finite, (n,)."""
        return np.isfinite(self.lower) & np.isfinite(self.upper)

    @cached_property
    def width(self) -> Array:
        """upper - lower where both are finite and differ, else 1; at most the largest finite number. (n,)."""
        closed = self.closed & (self.lower < self.upper)
        half = np.where(closed, self.upper, 1) / 2 - np.where(closed, self.lower, -1) / 2
        width: Array = np.minimum(half, np.finfo(half.dtype).max / 2) * 2
        return np.where(closed, width, 1).astype(half.dtype)


def checked_box(name: str, bounds: Bounds | None, x0: Array) -> tuple[Box | None, Array]:
    """Return the box, or None if `bounds` has no finite bound, and x0 (n,) clipped to it.

    A bound that the type of x0 cannot represent is rounded inward. Clipping moves an x0 at such a bound.

    Raises:
        InputError: the bounds cannot be read, are in the wrong order, or exclude x0.
    """
    if bounds is None:
        return None, x0
    lower, upper = _sides(name, bounds, x0)
    if not ((lower <= upper) & (lower < np.inf) & (upper > -np.inf)).all():
        where = int(np.argmin((lower <= upper) & (lower < np.inf) & (upper > -np.inf)))
        fail(name, f"every lower bound must be below its upper bound, got [{lower[where]}, {upper[where]}] at {where}")
    box = Box(*_rounded_inward(lower, upper, x0.dtype))
    if (box.lower > box.upper).any():
        where = int(np.argmax(box.lower > box.upper))
        fail(name, f"no {x0.dtype} number lies in [{lower[where]}, {upper[where]}] at {where}; give a float64 x0")
    outside = ~_contains(lower, upper, x0)
    if outside.any():
        where = int(np.argmax(outside))
        fail(name, f"x0[{where}] = {x0[where]} is outside its bounds [{lower[where]}, {upper[where]}]")
    bounded = np.isfinite(box.lower) | np.isfinite(box.upper)
    return (box if bounded.any() else None), np.clip(x0, box.lower, box.upper)


def _rounded_inward(lower: Array, upper: Array, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return the bounds in the type of the candidates, lower bounds rounded up and upper bounds down."""
    with np.errstate(over="ignore"):
        low, high = lower.astype(dtype), upper.astype(dtype)
    low = np.where(low < lower, np.nextafter(low, dtype.type(np.inf)), low)
    high = np.where(high > upper, np.nextafter(high, dtype.type(-np.inf)), high)
    return low, high


def _contains(lower: Array, upper: Array, x0: Array) -> NDArray[np.bool_]:
    """Whether each coordinate of x0 is within its bounds, or equal to a bound rounded to the type of x0; (n,)."""
    with np.errstate(over="ignore"):
        at_bound = (x0 == lower.astype(x0.dtype)) | (x0 == upper.astype(x0.dtype))
    inside: NDArray[np.bool_] = ((x0 >= lower) & (x0 <= upper)) | at_bound
    return inside


def _sides(name: str, bounds: Any, x0: Array) -> Sides:
    """Return (lower, upper), each (n,) float64, from any accepted form."""
    n = len(x0)
    if isinstance(bounds, (tuple, list, np.ndarray)):
        readings = [_as_sides(bounds, n), _as_pairs(bounds, n)]
    else:
        from scipy.optimize import Bounds as ScipyBounds  # a caller that has such bounds has imported it

        readings = [_as_sides((bounds.lb, bounds.ub), n)] if isinstance(bounds, ScipyBounds) else []
    boxes = [reading for reading in readings if reading is not None]
    if not boxes:
        fail(
            name,
            f"bounds must be (lower, upper), each None, a number or of shape ({n},); {n} pairs (min, max); or "
            "a scipy.optimize.Bounds",
        )
    if len(boxes) == 1 or all(np.array_equal(a, b) for a, b in zip(*boxes, strict=True)):
        return boxes[0]
    # Two coordinates: [(a, b), (c, d)] fits both forms. Keep a reading that leaves a coordinate free and contains x0.
    meant = [(low, high) for low, high in boxes if _contains(low, high, x0).all() and (low < high).any()]
    if len(meant) == 2:
        fail(
            name,
            "bounds of two coordinates can be read as (lower, upper) and as pairs (min, max); say which with "
            "scipy.optimize.Bounds(lower, upper) or a tuple of two arrays, lower and upper",
        )
    return (meant or boxes)[0]


def _as_sides(bounds: Any, n: int) -> Sides | None:
    """Read `bounds` as (lower, upper), or return None."""
    if len(bounds) != 2:
        return None
    lower, upper = _numbers(bounds[0], -np.inf), _numbers(bounds[1], np.inf)
    if lower is None or upper is None or any(side.shape not in ((), (1,), (n,)) for side in (lower, upper)):
        return None
    return np.broadcast_to(lower, n).copy(), np.broadcast_to(upper, n).copy()


def _as_pairs(bounds: Any, n: int) -> Sides | None:
    """Read `bounds` as one (min, max) for each coordinate, or return None."""
    if len(bounds) != n or (not isinstance(bounds, np.ndarray) and any(isinstance(b, np.ndarray) for b in bounds)):
        return None
    if any(not isinstance(pair, (tuple, list, np.ndarray)) or len(pair) != 2 for pair in bounds):
        return None
    lower, upper = _numbers([pair[0] for pair in bounds], -np.inf), _numbers([pair[1] for pair in bounds], np.inf)
    return None if lower is None or upper is None or lower.shape != (n,) or upper.shape != (n,) else (lower, upper)


def _numbers(side: Any, missing: float) -> NDArray[np.float64] | None:
    """Return `side` as float64 with `missing` in place of None, or None if it is not made of real numbers."""
    if np.ma.is_masked(side):
        return None
    if side is None:
        side = missing
    elif isinstance(side, (tuple, list)):
        side = [missing if value is None else value for value in side]
    try:
        array = np.asarray(side)
    except ValueError:  # lists of different lengths
        return None
    return array.astype(np.float64) if array.dtype.kind in "fiu" else None
