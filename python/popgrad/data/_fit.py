"""Fits the encoding of a dataset to its training rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from popgrad.data._dataset import Dataset
from popgrad.data._dates import cycles_of
from popgrad.data._encode import MISSING_TEXT, fit_categories, fit_scaling, numbers_of
from popgrad.data._preprocessing import Column, Preprocessing, Tabled, places_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["fitted_to"]


def fitted_to(dataset: Dataset, frame: pd.DataFrame, train: NDArray[np.int64]) -> tuple[Preprocessing, Tabled]:
    """Fit a preprocessing, and return it with the table of all rows.

    Args:
        dataset: supplies the target and the formats of dates.
        frame: (N, columns), the features.
        train: numbers of the rows to fit to.
    """
    columns, one_hot = [], []
    for name in frame.columns:
        values = frame[name]
        if values.dtype == object:
            frequent, rare, features = fit_categories(name, values.fillna(MISSING_TEXT).to_numpy(object)[train])
            columns.append(Column(name, "text", categories=frequent, rare=rare))
            one_hot += features
        elif values.dtype.kind == "M":
            columns.append(Column(name, "date", dataset.formats.get(name, ""), cycles_of(values)))
        else:
            columns.append(Column(name, "number"))
    numbers, names = numbers_of(frame, {column.name: column.cycles for column in columns})
    mean, scale = 0.0, 1.0
    if dataset.task == "regression":
        y = dataset.y[train]
        mean, scale = float(y.mean()), float(y.std()) or 1.0
    fitted = Preprocessing(
        tuple(columns),
        fit_scaling(numbers, train),
        (*names, *one_hot),
        dataset.target,
        dataset.classes,
        dataset.label_type,
        mean,
        scale,
        dataset.origin,
    )
    return fitted, Tabled(numbers, places_of(frame, columns))
