"""Encodes features as float32 columns; the encoding is fitted on the training rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from popgrad.data._columns import MAX_CATEGORIES
from popgrad.data._dates import expand

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Encoder"]

_WIDEST = 20.0  # largest range of the standardized training values of a column
_MARGIN = 1.0  # largest distance of other values from the training range, in widths of that range
_BLOCK = 1 << 20  # numbers converted at a time


@dataclass(frozen=True)
class _Scaling:
    """Per numeric column, (columns,): the replacement of missing values, the bounds, the center and the scale."""

    fill: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]
    center: NDArray[np.float64]
    scale: NDArray[np.float64]

    def apply(self, values: NDArray[Any], rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Write the standardized rows to `out` (rows, columns)."""
        step = max(1, _BLOCK // max(values.shape[1], 1))
        for start in range(0, len(rows), step):
            block = values[rows[start : start + step]].astype(np.float64)
            np.copyto(block, self.fill, where=np.isnan(block))
            np.clip(block, self.least, self.most, out=block)
            block -= self.center
            block /= self.scale
            out[start : start + step] = block


class Encoder:
    """Encodes the features of a dataset; the docstring of `split` describes the encoding.

    Args:
        frame: (N, columns), the frame of a `Dataset`.
        train: numbers of the rows to fit the encoding to.
    """

    def __init__(self, frame: pd.DataFrame, train: NDArray[np.int64]) -> None:
        self._values, names = _numeric(frame)
        self._scaling = _fit_scaling(self._values, train)
        text = [name for name in frame.columns if frame[name].dtype == object]
        self._text = frame[text].fillna("missing").to_numpy(object) if text else None
        self._one_hot: Any = None
        if self._text is not None:
            from sklearn.preprocessing import OneHotEncoder

            self._one_hot = OneHotEncoder(
                handle_unknown="ignore", max_categories=MAX_CATEGORIES, sparse_output=False, dtype=np.float32
            ).fit(self._text[train])
            names += [str(name) for name in self._one_hot.get_feature_names_out(text)]
        self.names = tuple(names)

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the encoded rows (rows, columns), C-contiguous."""
        numeric = self._values.shape[1]
        out = np.empty((len(rows), len(self.names)), dtype=np.float32)
        self._scaling.apply(self._values, rows, out[:, :numeric])
        if self._text is not None:
            out[:, numeric:] = self._one_hot.transform(self._text[rows])
        return out


def _numeric(frame: pd.DataFrame) -> tuple[NDArray[Any], list[str]]:
    """Return the numbers and expanded dates, (N, columns), and their names; avoids a copy if possible."""
    types = set(frame.dtypes)
    if len(types) == 1 and frame.dtypes.iloc[0].kind in "iuf":
        return frame.to_numpy(), [str(name) for name in frame.columns]
    columns: dict[str, NDArray[Any]] = {}
    for name in frame.columns:
        column = frame[name]
        if column.dtype.kind == "M":
            columns |= {_unused(new, columns): values for new, values in expand(str(name), column).items()}
        elif column.dtype != object:
            columns[_unused(str(name), columns)] = column.to_numpy(np.float64)
    values = np.column_stack(list(columns.values())) if columns else np.empty((len(frame), 0))
    return values, list(columns)


def _unused(name: str, columns: dict[str, NDArray[Any]]) -> str:
    while name in columns:
        name += "_"
    return name


def _fit_scaling(values: NDArray[Any], train: NDArray[np.int64]) -> _Scaling:
    """Fit a few columns at a time, to avoid a float64 copy of the table."""
    count = values.shape[1]
    scaling = _Scaling(np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count), np.ones(count))
    step = max(2, _BLOCK // len(train))
    for start in range(0, count, step):
        these = slice(start, start + step)
        block = np.asfortranarray(values[:, these][train], dtype=np.float64)
        _fit_block(block, scaling, these)
    return scaling


def _fit_block(block: NDArray[np.float64], scaling: _Scaling, these: slice) -> None:
    gone = np.isnan(block)
    known = ~gone.all(axis=0)
    some = gone.any(axis=0) & known
    fill = np.zeros(block.shape[1])
    if some.any():
        fill[some] = np.nanmedian(block[:, some], axis=0)
    np.copyto(block, fill, where=gone)
    least, most = block.min(axis=0), block.max(axis=0)
    width = most - least
    constant = width <= 8 * np.finfo(np.float64).eps * np.maximum(np.abs(least), np.abs(most))
    width[constant] = 0
    scaling.fill[these] = fill
    scaling.least[these] = least - _MARGIN * width
    scaling.most[these] = most + _MARGIN * width
    scaling.center[these] = np.where(constant, least, block.mean(axis=0))
    scaling.scale[these] = np.where(constant, 1, np.maximum(block.std(axis=0), width / _WIDEST))
