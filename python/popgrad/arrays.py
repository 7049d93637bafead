"""Converts frames, columns, tensors and lists to NumPy arrays."""

from __future__ import annotations

import contextlib
import mmap
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgrad.checks import InputError, fail

__all__ = ["FAULT", "is_mapped", "read", "real", "release"]

Array = NDArray[Any]

FAULT = 2 << 20  # bytes around a touched byte of a mapped file that Linux may make resident


def real(operation: str, what: str, values: Any, hint: str = "") -> Array:
    """Convert to an array of real numbers or booleans; a NumPy array of numbers is not copied.

    Args:
        operation: name at the start of error messages.
        what: name of the argument in error messages.
        values: an array, a (nested) sequence, a frame or column of pandas, polars or PyArrow, or a tensor in
            CPU memory. None and missing values of frames become NaN.
        hint: text that the error message adds if the values are not numbers.

    Raises:
        InputError: `values` holds anything except real numbers, has masked entries, or is on another device.
    """
    array = read(operation, what, values)
    if array.dtype.kind not in "fiub":
        column = _first_text_column(values)
        if column is not None:
            name = f"column {column!r} of {what}"
            fail(operation, f"{name} does not hold numbers; encode it{hint}, or prepare the table with popgrad.data")
        if hasattr(values, "toarray"):
            hint = "; a sparse matrix must be converted with .toarray()"
        fail(operation, f"{what} must be real numbers, got dtype {array.dtype}{hint}")
    return array


def read(operation: str, what: str, values: Any) -> Array:
    """Convert like `real`, but accept any dtype: text stays text.

    Raises:
        InputError: `values` is not a rectangular array, has masked entries, or is on another device.
    """
    if np.ma.isMaskedArray(values) and (masked := int(np.count_nonzero(values.mask))):
        fail(operation, f"{what} has {masked} masked entries, which an array cannot hold; fill or drop them first")
    if type(values) is np.ndarray and values.dtype.kind in "fiub":
        return values
    try:
        if hasattr(values, "detach") and hasattr(values, "device"):
            array = _of_tensor(operation, what, values)
        elif _is_frame(values):
            array = _of_frame(values)
        elif hasattr(values, "to_numpy"):
            array = _of_column(values)
        else:
            array = np.asarray(values)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:  # PyTorch raises RuntimeError for a list of tensors
        fail(operation, f"{what} must be an array of real numbers: {error}")
    if array.dtype.name == "bfloat16":  # a type that JAX adds to NumPy
        return array.astype(np.float32)
    return _numbers(array) if array.dtype.kind == "O" else array


def _of_tensor(operation: str, what: str, tensor: Any) -> Array:
    """The numbers of a PyTorch tensor, detached from the autograd graph."""
    kind = getattr(tensor.device, "type", "cpu")
    if kind != "cpu":
        fail(operation, f"{what} is on the device {tensor.device}; move it with .cpu()")
    tensor = tensor.detach()
    return np.asarray(tensor.float() if "bfloat16" in str(tensor.dtype) else tensor)


def _is_frame(values: Any) -> bool:
    return hasattr(values, "columns") and hasattr(values, "shape") and not isinstance(values, np.ndarray)


def _columns(frame: Any) -> list[tuple[Any, Any]]:
    """Names and columns of a frame of pandas, polars or PyArrow."""
    if hasattr(frame, "iloc"):
        return [(name, frame.iloc[:, at]) for at, name in enumerate(frame.columns)]
    if hasattr(frame, "get_columns"):
        return list(zip(frame.columns, frame.get_columns(), strict=True))
    return list(zip(frame.column_names, frame.columns, strict=True))


def _of_frame(frame: Any) -> Array:
    """(rows, columns): converted as a whole if NumPy finds a common numeric type, else column by column."""
    whole = np.asarray(frame)
    if whole.dtype.kind in "fiub" or whole.ndim != 2 or whole.shape[1] == 0:
        return whole
    columns = [_numbers(_of_column(column)) for _, column in _columns(frame)]
    same = all(column.dtype.kind in "fiub" for column in columns)
    return np.column_stack(columns if same else [column.astype(object) for column in columns])


def _of_column(column: Any) -> Array:
    """(rows,): nullable and PyArrow columns of pandas lose their type when NumPy reads them."""
    kind = getattr(getattr(column, "dtype", None), "numpy_dtype", None)
    if kind is not None and kind.kind in "fiub":
        missing = np.asarray(column.isna())
        return np.asarray(column.to_numpy(np.float64, na_value=np.nan) if missing.any() else column.to_numpy(kind))
    return np.asarray(column)


def _numbers(array: Array) -> Array:
    """An array of objects as numbers, None and pandas' NA as NaN; as it is if one of them is something else."""
    kinds = {type(value) for value in array.ravel()} if array.dtype.kind == "O" else set()
    missing = {kind for kind in kinds if kind is type(None) or kind.__name__ == "NAType"}
    numeric = kinds - missing
    if not numeric or not all(issubclass(kind, (Real, np.bool_, Decimal)) for kind in numeric):
        return array
    if not missing and all(issubclass(kind, (bool, np.bool_)) for kind in numeric):
        return array.astype(bool)
    if not missing and all(issubclass(kind, Integral) for kind in numeric):
        with contextlib.suppress(OverflowError):
            return array.astype(np.int64)
    flat = [np.nan if type(value) in missing else float(value) for value in array.ravel()]
    return np.array(flat).reshape(array.shape)


def _first_text_column(values: Any) -> Any:
    """The name of the first column without numbers; None if there is none or `values` is not a frame."""
    if not _is_frame(values):
        return None
    for name, column in _columns(values):
        if _numbers(_of_column(column)).dtype.kind not in "fiub":
            return name
    return None


def is_mapped(array: Array) -> bool:
    """Whether the memory of an array is a mapped file."""
    return isinstance(_bases(array)[-1], mmap.mmap)


def release(array: Array) -> None:
    """Let the system reuse the memory of the pages of a mapped file; for any other array, do nothing.

    The pages stay in the page cache while there is memory, but no longer count as memory of this process.
    """
    bases = _bases(array)
    mode = next((base.mode for base in bases if isinstance(base, np.memmap)), None)
    if mode in ("r", "r+", "w+") and hasattr(mmap, "MADV_DONTNEED"):  # a private copy ("c") would lose its changes
        bases[-1].madvise(mmap.MADV_DONTNEED)


def _bases(array: Array) -> list[Any]:
    """The array, the array that it is a view of, and so on, down to the owner of the memory."""
    bases: list[Any] = [array]
    while isinstance(bases[-1], np.ndarray) and bases[-1].base is not None:
        bases.append(bases[-1].base)
    return bases
