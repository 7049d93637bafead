"""Checks and conversion of a network's inputs, targets, sample weights and populations."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad import arrays, labels
from popgrad.arrays import real
from popgrad.checks import fail, number, one_of
from popgrad.labels import Classes
from popgrad.losses import Loss
from popgrad.perturbations import Perturbations
from popgrad.system import memory_bytes

__all__ = [
    "DTYPES",
    "Targets",
    "cast_to",
    "checked_dropout",
    "checked_inputs",
    "checked_population",
    "checked_precision",
    "checked_rows",
    "checked_targets",
]
__all__ += ["checked_weights", "name_of"]

Array = NDArray[Any]
DType = np.dtype[Any]

DTYPES = ("float32", "float64")
_PRECISIONS = (*DTYPES, "bfloat16")
_BLOCK = 1 << 22  # numbers examined at a time
_ENCODE = "give labels as 0, 1, 2, ..., or set MLP.classes (pg.fit does, if y holds text)"


class Targets(NamedTuple):
    """The targets that a loss requires.

    Attributes:
        loss: the loss.
        outputs: number of outputs of the network.
        takes_classes: whether the targets may be original labels of classes.
        classes: the original labels, or None.
    """

    loss: Loss
    outputs: int
    takes_classes: bool
    classes: Classes | None


def checked_dropout(operation: object, dropout: Any, hidden: int) -> float | list[float]:
    """A rate of dropout, or a list with one rate per hidden layer.

    Raises:
        InputError: a rate is not in [0, 1), or the number of rates is not `hidden`.
    """
    several = np.ndim(dropout) > 0
    if several and len(dropout) != hidden:
        fail(operation, f"dropout must be a number or a list of {hidden}, one per hidden layer, got {dropout!r}")
    for rate in dropout if several else [dropout]:
        if not 0 <= number(rate) < 1:
            fail(operation, f"dropout must be in [0, 1), got {rate!r}")
    return [float(rate) for rate in dropout] if several else float(dropout)


def checked_inputs(operation: str, X: ArrayLike, width: int, dtype: DType) -> Array:
    """X (B, width) as an array that the native core can read.

    Raises:
        InputError: X has the wrong shape, no rows, entries that are not real numbers, or entries that are not finite
            in `dtype`.
    """
    array = real(operation, "X", X)
    if array.ndim != 2:
        fail(operation, f"X must have shape (samples, {width}), got {array.shape}")
    if array.shape[1] != width:
        fail(operation, f"X must have {width} columns, got {array.shape[1]}")
    if len(array) == 0:
        fail(operation, "X has no rows; at least one sample is needed")
    converted = array.dtype != dtype or not array.flags.c_contiguous
    if converted and arrays.is_mapped(array) and 4 * array.size * dtype.itemsize > memory_bytes():
        got = f"{array.dtype} {array.shape}" + ("" if array.flags.c_contiguous else ", not in C order")
        hint = "write it as that, or use popgrad.BatchStream.from_arrays, which converts each block"
        fail(operation, f"a mapped file X must be {dtype} in C order, or it is copied to memory; got {got}: {hint}")
    try:
        typed = cast_to(array, dtype)
    except MemoryError:
        fail(operation, f"no memory for X, {array.shape}, as {dtype}; pass it in chunks")
    row = _first_not_finite(typed)
    if row is not None:
        what = f"NaN, infinity or a value too large for {dtype}"
        fail(operation, f"X holds {what} (first in row {row}); impute or drop those rows first")
    return typed


def _first_not_finite(array: Array) -> int | None:
    """The first row with NaN or infinity, or None; examines some rows at a time, since X may be a large mapped file."""
    step = max(1, _BLOCK // array.shape[1])
    for first in range(0, len(array), step):
        finite = np.isfinite(array[first : first + step])
        arrays.release(array)
        if not finite.all():
            return first + int(np.argmin(finite.all(axis=1)))
    return None


def checked_targets(operation: str, y: ArrayLike, samples: int, targets: Targets, dtype: DType) -> Array:
    """y as (samples, 1) labels or (samples, outputs) numbers.

    Raises:
        InputError: y has the wrong shape or type, or values that do not fit the loss.
    """
    outputs, classes = targets.outputs, targets.classes
    y = arrays.read(operation, "y", y)
    if len(y.shape) == 0 or len(y) != samples:
        fail(operation, f"y must have one entry per row of X, {samples}, got shape {y.shape}")
    if classes is not None:
        y = labels.encode(operation, y, classes)
    y = real(operation, "y", y, f"; {_ENCODE}" if targets.takes_classes else "")
    if targets.loss.targets == "labels":
        return cast_to(_labels(operation, y, samples, outputs), dtype)
    return _numbers(operation, y, samples, targets, dtype)


def _labels(operation: str, y: Array, samples: int, outputs: int) -> Array:
    if y.shape not in ((samples,), (samples, 1)):
        fail(operation, f"y must be class labels of shape ({samples},), got {y.shape}")
    whole = y.reshape(-1).astype(np.float64)
    wrong = ~((whole >= 0) & (whole < outputs) & (whole == np.floor(whole)))
    if wrong.any():
        row = int(np.argmax(wrong))
        fail(operation, f"labels must be whole numbers in [0, {outputs}), got {y.reshape(-1)[row]} in row {row}")
    return whole[:, None]


def _numbers(operation: str, y: Array, samples: int, targets: Targets, dtype: DType) -> Array:
    outputs = targets.outputs
    if y.shape != (samples, outputs) and not (outputs == 1 and y.ndim == 1):
        fail(operation, f"y must have shape ({samples}, {outputs}), got {y.shape}")
    y = cast_to(y.reshape(samples, outputs), dtype)
    row = _first_not_finite(y)
    if row is not None:
        fail(operation, f"y holds NaN, infinity or a value too large for {dtype} (first in row {row})")
    if targets.loss.targets == "binary" and ((y < 0) | (y > 1)).any():
        fail(operation, f"targets of {targets.loss.name} must be in [0, 1], got {y.min()} to {y.max()}")
    if targets.loss.targets == "counts" and (y < 0).any():
        row = int(np.argmax((y < 0).any(axis=1)))
        fail(operation, f"targets of {targets.loss.name} must be counts >= 0, got {y[row].min()} in row {row}")
    return y


def checked_weights(operation: str, weight: ArrayLike | None, samples: int, dtype: DType) -> Array | None:
    """Weights (samples,), scaled by a power of two if they are very large or small; None stays None.

    Raises:
        InputError: the weights have the wrong shape, are not finite, are negative, or are all zero.
    """
    if weight is None:
        return None
    array = real(operation, "sample_weight", weight)
    if array.shape != (samples,):
        fail(operation, f"sample_weight must have shape ({samples},), got {array.shape}")
    if not (np.isfinite(array).all() and (array >= 0).all() and array.any()):
        fail(operation, "sample_weight must be finite, >= 0 and not all zero")
    # Only the ratios matter. Scaling very large or small weights keeps sums and products from overflow and underflow;
    # a power of two avoids rounding.
    exponent = int(np.frexp(array.max())[1])
    if abs(exponent) > 30:
        with np.errstate(under="ignore"):
            array = np.ldexp(array, -exponent)
    return cast_to(array, dtype)


def checked_population(operation: str, population: ArrayLike, n: int) -> Array:
    """A population (P, n), of any real type and memory layout; arrays are not copied.

    Raises:
        InputError: the population has the wrong shape, or entries that are not real numbers.
    """
    if isinstance(population, Perturbations):
        fail(operation, "population must be an array: pass perturbations[:]")
    members = real(operation, "population", population)
    if members.ndim != 2 or members.shape[1] != n or len(members) == 0:
        fail(operation, f"population must have shape (P, {n}), P >= 1, got {members.shape}")
    if members.dtype.kind == "b":
        fail(operation, "population must be real numbers, got dtype bool")
    return members


def checked_rows(operation: str, samples: ArrayLike, count: int) -> Array:
    """Sample indices, in the type that the native core reads."""
    rows = real(operation, "samples", samples)
    if rows.ndim != 1 or len(rows) == 0 or rows.dtype.kind not in "iu":
        fail(operation, f"samples must be whole numbers, shape (b,), b >= 1, got {rows.dtype} {rows.shape}")
    if rows.min() < 0 or rows.max() >= count:
        fail(operation, f"samples must be in [0, {count}), got {rows.min()} to {rows.max()}")
    return cast_to(rows, np.dtype(np.int64))


def cast_to(array: Array, dtype: DType) -> Array:
    """An array that the native core can read; values too large for `dtype` become infinite."""
    with np.errstate(over="ignore"):
        return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])


def name_of(dtype: object) -> object:
    """The name of a NumPy type; any other object unchanged."""
    if isinstance(dtype, (type, np.dtype)):
        with contextlib.suppress(TypeError):
            return np.dtype(dtype).name
    return dtype


def checked_precision(operation: str, precision: object, dtype: DType) -> str:
    """The precision, if it fits a model of this dtype: the dtype's name, or "bfloat16" for float32."""
    found = one_of(operation, "precision", name_of(precision), _PRECISIONS)
    if found != dtype.name and (found != "bfloat16" or dtype != np.float32):
        fail(operation, f"precision {found!r} does not fit a model of dtype {dtype.name}")
    return found
