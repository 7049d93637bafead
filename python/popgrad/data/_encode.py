"""Encodes features as float32 columns; the encoding is fitted on the training rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from popgrad.data._columns import MAX_CATEGORIES
from popgrad.data._dates import expand

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MISSING_TEXT", "Scaling", "bounded", "fit_categories", "fit_scaling", "numbers_of"]

MISSING_TEXT = "missing"  # the category of missing text

_WIDEST = 20.0  # largest range of the standardized training values of a column
_MARGIN = 1.0  # largest distance of other values from the training range, in widths of that range
_BLOCK = 1 << 20  # numbers converted at a time


@dataclass(frozen=True, eq=False)
class Scaling:
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


def fit_categories(name: str, values: NDArray[Any]) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Return (categories with a feature each, rare categories that share the last feature, names of the features).

    Args:
        name: name of the column.
        values: (rows,) text as objects, without missing values.
    """
    from sklearn.preprocessing import OneHotEncoder

    encoder: Any = OneHotEncoder(
        handle_unknown="ignore", max_categories=MAX_CATEGORIES, sparse_output=False, dtype=np.float32
    ).fit(values[:, None])
    (rare,) = encoder.infrequent_categories_
    rare = () if rare is None else tuple(map(str, rare))
    known = set(rare)
    frequent = tuple(str(value) for value in encoder.categories_[0] if value not in known)
    return frequent, rare, [str(feature) for feature in encoder.get_feature_names_out([name])]


def numbers_of(frame: pd.DataFrame, cycles: Mapping[str, tuple[str, ...]]) -> tuple[NDArray[Any], list[str]]:
    """Return the numbers and expanded dates, (N, columns), and their names; avoids a copy if possible."""
    types = set(frame.dtypes)
    if len(types) == 1 and frame.dtypes.iloc[0].kind in "iuf":
        return frame.to_numpy(), [str(name) for name in frame.columns]
    columns: dict[str, NDArray[Any]] = {}
    for name in frame.columns:
        column = frame[name]
        if column.dtype.kind == "M":
            expanded = expand(str(name), column, cycles[str(name)])
            columns |= {_unused(new, columns): values for new, values in expanded.items()}
        elif column.dtype != object:
            columns[_unused(str(name), columns)] = column.to_numpy(np.float64)
    values = np.column_stack(list(columns.values())) if columns else np.empty((len(frame), 0))
    return values, list(columns)


def _unused(name: str, columns: dict[str, NDArray[Any]]) -> str:
    while name in columns:
        name += "_"
    return name


def fit_scaling(values: NDArray[Any], train: NDArray[np.int64]) -> Scaling:
    """Fit a few columns at a time, to avoid a float64 copy of the table."""
    count = values.shape[1]
    scaling = Scaling(np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count), np.ones(count))
    step = max(2, _BLOCK // len(train))
    for start in range(0, count, step):
        these = slice(start, start + step)
        block = np.asfortranarray(values[:, these][train], dtype=np.float64)
        _fit_block(block, scaling, these)
    return scaling


def _fit_block(block: NDArray[np.float64], scaling: Scaling, these: slice) -> None:
    gone = np.isnan(block)
    known = ~gone.all(axis=0)
    some = gone.any(axis=0) & known
    fill = np.zeros(block.shape[1])
    if some.any():
        fill[some] = np.nanmedian(block[:, some], axis=0)
    np.copyto(block, fill, where=gone)
    found = bounded(fill, block.min(axis=0), block.max(axis=0), block.mean(axis=0), block.std(axis=0))
    for part in fields(Scaling):
        getattr(scaling, part.name)[these] = getattr(found, part.name)


def bounded(
    fill: NDArray[np.float64],
    least: NDArray[np.float64],
    most: NDArray[np.float64],
    mean: NDArray[np.float64],
    deviation: NDArray[np.float64],
) -> Scaling:
    """The scaling of columns with these statistics of the training values, (columns,) each."""
    width = most - least
    constant = width <= 8 * np.finfo(np.float64).eps * np.maximum(np.abs(least), np.abs(most))
    width[constant] = 0
    center = np.where(constant, least, mean)
    scale = np.where(constant, 1, np.maximum(deviation, width / _WIDEST))
    return Scaling(fill, least - _MARGIN * width, most + _MARGIN * width, center, scale)
