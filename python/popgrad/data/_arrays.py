"""Converts arrays, tensors and frames of other libraries to pandas and NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from popgrad.checks import fail
from popgrad.data._common import attempt, check_rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_column", "as_frame"]


def as_frame(operation: str, X: Any) -> pd.DataFrame:
    """Return features as a frame with rows counted from 0.

    Raises:
        InputError: X is neither a frame nor a matrix of real numbers.
    """
    import pandas as pd

    X = _from_library(operation, X, "X")
    if isinstance(X, pd.DataFrame):
        return X.reset_index(drop=True)
    array = attempt(operation, lambda: np.asanyarray(X), "X must be an array of shape (N, columns)")
    if array.ndim != 2 or 0 in array.shape:
        fail(operation, f"X must have shape (N, columns), got {array.shape}: reshape it")
    if array.dtype.kind not in "biuf":
        fail(operation, f"X must hold numbers, got {array.dtype}: for text, give a DataFrame or a CSV")
    if isinstance(array, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(array)
        array = np.where(masked, np.nan, array.data) if masked.any() else array.data
    names = [f"x{i}" for i in range(array.shape[1])]
    return pd.DataFrame(np.asarray(array), columns=names, copy=False)


def as_column(operation: str, y: Any, rows: int) -> pd.Series[Any]:
    """Return a target as a column with rows counted from 0; integers stay exact.

    Raises:
        InputError: the shape is not (rows,), or an entry is masked.
    """
    import pandas as pd

    y = _from_library(operation, y, "y")
    column: Any = y
    if not isinstance(y, pd.Series):
        column = attempt(operation, lambda: np.asanyarray(y), "y must be an array of shape (N,)")
    if column.shape != (rows,):
        fail(operation, f"y must have shape ({rows},), one value per row of X, got {column.shape}")
    if isinstance(y, pd.Series):
        return y.reset_index(drop=True)
    if isinstance(column, np.ma.MaskedArray):
        check_rows(operation, np.ma.getmaskarray(column), "a masked value", "the target")
        column = column.data
    if column.dtype.kind == "f" and isinstance(y, Sequence):
        # If no integer type holds all the integers, NumPy converts them to float64, which merges labels.
        return pd.Series(list(y), dtype=object)
    return pd.Series(column)


def _from_library(operation: str, values: Any, what: str) -> Any:
    """Convert frames and columns of polars or PyArrow to pandas, and detach tensors."""
    import pandas as pd

    if isinstance(values, (pd.DataFrame, pd.Series, np.ndarray)):
        return values
    if hasattr(values, "toarray"):
        fail(operation, f"{what} must be dense, got a sparse {type(values).__name__}: pass {what}.toarray()")
    if hasattr(values, "detach") and hasattr(values, "cpu"):
        tensor = values.detach().cpu()
        return tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor  # NumPy has no bfloat16
    if hasattr(values, "collect") and not hasattr(values, "to_pandas"):
        fail(operation, f"{what} must be in memory, got a {type(values).__name__}: pass {what}.collect()")
    if hasattr(values, "to_pandas"):
        return attempt(operation, values.to_pandas, f"{what} must be convertible to pandas")
    return values
