"""Converts a new table to the kinds of columns that a preprocessing was fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from popgrad.checks import InputError, fail
from popgrad.data._arrays import as_frame
from popgrad.data._columns import NUMERIC, as_dates, as_numbers, check_size, naive
from popgrad.data._common import counted, kind, listed
from popgrad.data._dates import dates_as
from popgrad.data._encode import MISSING_TEXT
from popgrad.data._numbers import Distinct, numbers_of_all
from popgrad.data._preprocessing import Column, Preprocessing, texts
from popgrad.data._text import BOOLEANS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Prepared", "prepared"]

Array = NDArray[Any]


class Prepared(NamedTuple):
    """A new table, encoded.

    Attributes:
        X: (N, features) float32.
        y: (N,) class indices, -1 where the label is unknown or missing; or numbers in original units, NaN where they
            are missing. None if the table has no usable target.
        notes: sentences about unused columns, unknown categories and the target.
    """

    X: NDArray[np.float32]
    y: Array | None
    notes: tuple[str, ...]


def prepared(operation: str, table: Any, fitted: Preprocessing, decimal: str = ".") -> Prepared:
    """Encode a new table.

    Args:
        operation: name at the start of error messages.
        table: a frame, or a matrix of numbers. If the rows of a frame are named "line", error messages use the index.
        fitted: the preprocessing.
        decimal: decimal point of numbers in text.

    Raises:
        InputError: the table has no rows, a column is missing, or its values have another kind than in training.
    """
    frame = _named(operation, table)
    _check_columns(operation, list(frame.columns), fitted)
    converted = _converted(operation, frame, fitted, decimal)
    tabled = fitted.table(converted)
    notes = [_extra(list(frame.columns), fitted), _unknown(converted, tabled.places, fitted)]
    y, sentence = _target(operation, frame, fitted, decimal)
    X = fitted.encode(tabled, np.arange(len(frame)))
    return Prepared(X, y, tuple(note for note in [*notes, sentence] if note))


def _named(operation: str, table: Any) -> pd.DataFrame:
    """The table as a frame with distinct names of columns."""
    import pandas as pd

    lines = isinstance(table, pd.DataFrame) and table.index.name == "line"
    frame = table if lines else as_frame(operation, table)
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        fail(operation, f"expects columns with distinct names, got {listed(names)}")
    if not len(frame):
        fail(operation, "expects rows, got none")
    return frame.set_axis(names, axis=1)


def _check_columns(operation: str, names: list[str], fitted: Preprocessing) -> None:
    missing = [column.name for column in fitted.columns if column.name not in names]
    if not missing:
        return
    got = f"the table lacks {counted(len(missing), 'column')} of the training table: {listed(missing)}"
    if set(names).isdisjoint(fitted.origin.columns):
        got += f"; it has {listed(names)}: the first row must hold the names of the columns"
    fail(operation, got)


def _converted(operation: str, frame: pd.DataFrame, fitted: Preprocessing, decimal: str) -> pd.DataFrame:
    """The columns of the preprocessing, in order: float64, datetime64, or text as objects."""
    import pandas as pd

    names = [column.name for column in fitted.columns]
    wanted = frame if list(frame.columns) == names else frame[names]
    dtype = wanted.dtypes.iloc[0]
    plain = isinstance(dtype, np.dtype) and dtype.kind in "iuf" and (wanted.dtypes == dtype).all()
    if plain and all(column.kind == "number" for column in fitted.columns):
        for name in names if dtype.kind == "f" else ():
            check_size(operation, wanted[name].to_numpy(np.float64), name, wanted.index)
        return wanted  # not copied, since a matrix may be a mapped file
    convert = {"number": _numbers, "date": _dates, "text": _text}
    columns = [convert[column.kind](operation, wanted[column.name], column, decimal) for column in fitted.columns]
    return pd.concat(columns, axis=1, keys=list(wanted.columns))


def _numbers(operation: str, values: pd.Series[Any], column: Column, decimal: str) -> pd.Series[Any]:
    import pandas as pd

    what = kind(values)
    if what in NUMERIC:
        return pd.Series(as_numbers(operation, values, column.name, what))
    if what != "text":
        _refuse(operation, column, f"{what}s" if what == "date" else what)
    distinct = _distinct(values)
    if all(value in BOOLEANS for value in distinct.values):
        return pd.Series(distinct.spread(np.array([float(BOOLEANS[v]) for v in distinct.values]), np.nan))
    numbers, good = numbers_of_all(distinct, decimal)
    if not good.all():
        value, at, count = distinct.example(~good)
        more = f" (and text in {counted(count - 1, 'other row')})" if count > 1 else ""
        hint = f": correct it, or pass --na '{value}' to read it as missing" if distinct.index.name == "line" else ""
        _refuse(operation, column, f"{value!r} in {at}{more}{hint}")
    spread = distinct.spread(numbers, np.nan)
    check_size(operation, spread, column.name, values.index)
    return pd.Series(spread)


def _dates(operation: str, values: pd.Series[Any], column: Column, _: str) -> pd.Series[Any]:
    import pandas as pd

    what = kind(values)
    if values.isna().all():
        return pd.Series(np.full(len(values), np.datetime64("NaT", "us")))
    if what == "date":
        return naive(as_dates(operation, values, column.name))
    if what != "text":
        _refuse(operation, column, "numbers")
    distinct = _distinct(values)
    return naive(dates_as(operation, f"column {column.name!r}", distinct, column.format or "ISO8601"))


def _text(operation: str, values: pd.Series[Any], column: Column, _: str) -> pd.Series[Any]:
    import pandas as pd

    whole = values.dtype.kind == "f" and bool((values.dropna() % 1 == 0).all())  # whole numbers beside missing ones
    known = set(column.categories) | set(column.rare)
    text = []
    for value, gone in zip(values, values.isna(), strict=True):
        written = str(value)
        text.append(np.nan if gone else str(int(value)) if whole and written not in known else written)
    return pd.Series(text, dtype=object)


def _distinct(values: pd.Series[Any]) -> Distinct:
    import pandas as pd

    text = [np.nan if gone else str(value) for value, gone in zip(values, values.isna(), strict=True)]
    return Distinct(pd.Series(text, index=values.index, dtype=object))


def _refuse(operation: str, column: Column, got: str) -> NoReturn:
    fail(operation, f"column {column.name!r} must hold {column.kind}s, as in training, got {got}")


# --- Notes and the target ---------------------------------------------------------------------------------------------


def _extra(names: Sequence[str], fitted: Preprocessing) -> str:
    """A note on columns that training did not use."""
    used = {column.name for column in fitted.columns} | {fitted.target}
    extra = [name for name in names if name not in used]
    return f"{counted(len(extra), 'column')} not used by the model: {listed(extra)}." if extra else ""


def _unknown(converted: pd.DataFrame, places: NDArray[np.int64], fitted: Preprocessing) -> str:
    """A note on categories that the training rows lack."""
    count = int((places < 0).sum())
    if not count:
        return ""
    found = [column.name for column, at in zip(texts(fitted.columns), places.T, strict=True) if (at < 0).any()]
    first = converted[found[0]][places.T[[c.name for c in texts(fitted.columns)].index(found[0])] < 0].iloc[0]
    example = "missing text" if first != first or first == MISSING_TEXT else repr(first)
    return (
        f"{counted(count, 'value')} in {listed(found)} {'is' if count == 1 else 'are'} not among the categories of the "
        f"training rows, such as {example}: encoded as zeros."
    )


def _target(operation: str, frame: pd.DataFrame, fitted: Preprocessing, decimal: str) -> tuple[Array | None, str]:
    """Return (the target or None, a note on its unusable values)."""
    if fitted.target not in frame.columns or any(column.name == fitted.target for column in fitted.columns):
        return None, ""
    values = frame[fitted.target]
    if fitted.classes:
        places = {label: place for place, label in enumerate(fitted.classes)}
        y: Array = np.array([places.get(_label(value, fitted.label_type), -1) for value in values], np.int64)
        bad = y < 0
    else:
        try:
            y = _numbers(operation, values, Column(fitted.target, "number"), decimal).to_numpy(np.float64)
        except InputError as error:
            return None, f"The target {fitted.target!r} is ignored: {str(error).partition('] ')[2]}."
        bad = np.isnan(y)
    if not bad.any():
        return y, ""
    known = f"none of the labels {listed(fitted.classes)}" if fitted.classes else "no number"
    first = values[bad].iloc[0]
    got = "a missing value" if values[bad].isna().iloc[0] else repr(first)
    rows = f"{int(bad.sum()):,} of {counted(len(y), 'row')}"
    return y if not bad.all() else None, f"The target {fitted.target!r} holds {known} in {rows}, such as {got}."


def _label(value: object, label_type: str) -> str:
    """A value of the target as a label."""
    text = str(value)
    if label_type == "boolean":
        return str(BOOLEANS.get(text, text))
    if label_type == "integer":
        try:
            number = float(text)
            return str(int(text if text.lstrip("+-").isdecimal() else number)) if number % 1 == 0 else text
        except (ValueError, OverflowError):
            return text
    return text
