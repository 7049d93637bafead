"""Examines the columns of a table: finds numbers, dates, text, identifiers and copies of the target."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from popgrad.checks import fail
from popgrad.data._common import LARGEST, check_rows, counted, kind, listed
from popgrad.data._dates import cycles_of, dates_in
from popgrad.data._numbers import Distinct, numbers_in

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MAX_CATEGORIES", "NUMERIC", "Examined", "as_dates", "as_numbers", "check_size", "examine", "naive"]
__all__ += ["target_copies"]

MAX_CATEGORIES = 32  # one-hot columns per text column; the rarest values share the last column
NUMERIC = ("boolean", "integer", "float", "duration")  # kinds of columns that become numbers
_IDENTIFIER_ROWS = 20  # in a shorter table, the values of a text column may all differ by chance
_IDENTIFIER_NAME = re.compile(r"(?:.*[ _.-])?(?:id|uuid|guid|index|row|rownames?)|unnamed: 0", re.IGNORECASE)
_SAMPLE = 1000  # rows that suffice to rule out most columns as copies of the target
_KEPT = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32")


@dataclass
class Examined:
    """A copy of a table with converted columns.

    Args:
        frame: (N, columns) numbers, datetime64 dates, or text as objects; NaN or NaT where a value is missing.
        identifiers: names of columns that only identify rows.
        notes: sentences about the conversions and the identifiers.
        formats: formats of the dates that were text, by name of the column.
    """

    frame: pd.DataFrame
    identifiers: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    formats: dict[str, str] = field(default_factory=dict)


def examine(operation: str, frame: pd.DataFrame) -> Examined:
    """Copy a table and determine the kinds of its columns.

    Raises:
        InputError: a name occurs twice; or a column holds infinity, objects, or numbers except for a few values.
    """
    import pandas as pd

    names = [str(name) for name in frame.columns]
    if not names or len(set(names)) < len(names):
        fail(operation, f"X must have columns with distinct names, got {names}")
    types = {str(dtype) for dtype in frame.dtypes}
    if len(types) == 1 and types <= {*_KEPT, "int64", "uint64", "float64"}:
        return _examine_matrix(operation, frame, names)
    examined = Examined(frame)
    columns = [_examine_column(operation, frame.iloc[:, at], name, examined) for at, name in enumerate(names)]
    examined.frame = pd.concat(columns, axis=1, keys=names)
    return examined


def _examine_matrix(operation: str, frame: pd.DataFrame, names: list[str]) -> Examined:
    """Examine columns of one numeric type together, which is fast for thousands of columns."""
    import pandas as pd

    values = frame.to_numpy()
    values = np.array(values, order="C", dtype=values.dtype if str(values.dtype) in _KEPT else np.float64)
    if values.dtype.kind == "f":
        wide = values.dtype == np.float64
        beyond = (values > LARGEST) | (values < -LARGEST) if wide else np.isinf(values)
        for at in np.flatnonzero(beyond.any(axis=0)):
            _refuse_size(operation, beyond[:, at], names[at], frame.index)
    examined = Examined(pd.DataFrame(values, columns=names, copy=False))
    if frame.dtypes.iloc[0].kind in "iu":
        for name, column in zip(names, values.T, strict=True):
            if _IDENTIFIER_NAME.fullmatch(name):
                _note_numeric_identifier(name, column, examined)
    return examined


def _examine_column(operation: str, column: pd.Series[Any], name: str, examined: Examined) -> pd.Series[Any]:
    import pandas as pd

    what = kind(column)
    if what in NUMERIC:
        numbers = as_numbers(operation, column, name, what)
        if what == "integer" and _IDENTIFIER_NAME.fullmatch(name):
            _note_numeric_identifier(name, numbers, examined)
        return pd.Series(numbers)
    if what == "date":
        return _note_dates(name, as_dates(operation, column, name), "", examined)
    if what != "text":
        fail(operation, f"column {name!r} of X must hold real numbers, dates or text, got {what} ({column.dtype})")
    return _examine_text(operation, column, name, examined)


def _examine_text(operation: str, column: pd.Series[Any], name: str, examined: Examined) -> pd.Series[Any]:
    import pandas as pd

    text = [np.nan if gone else str(value) for value, gone in zip(column, column.isna(), strict=True)]
    distinct = Distinct(pd.Series(text, index=column.index, dtype=object))
    if not isinstance(column.dtype, pd.CategoricalDtype):
        where = f"column {name!r}"
        numbers = numbers_in(operation, where, distinct)
        if numbers is not None:
            check_size(operation, numbers, name, column.index)
            examined.notes.append(f"Column {name!r} holds numbers stored as text; they are converted to numbers.")
            return pd.Series(numbers)
        dates = dates_in(operation, where, distinct)
        if dates is not None:
            examined.formats[name] = dates.format
            return _note_dates(name, dates.values, dates.sentence, examined)
    if distinct.rows > _IDENTIFIER_ROWS and len(distinct.values) > distinct.rows / 2:
        examined.identifiers.append(name)
        examined.notes.append(
            f"Column {name!r} is left out as an identifier: it is text with {len(distinct.values):,} distinct values "
            f"in {counted(distinct.rows, 'row')}, such as {distinct.values[0]!r}."
        )
    elif len(distinct.values) > MAX_CATEGORIES:
        examined.notes.append(
            f"Column {name!r} is text with {len(distinct.values):,} distinct values; it becomes at most "
            f"{MAX_CATEGORIES} features, and the rarest values share one feature."
        )
    return pd.Series(text, dtype=object)


def check_size(operation: str, numbers: NDArray[np.float64], name: str, index: pd.Index[Any]) -> None:
    """Fail if a number is infinite or too large for float32."""
    _refuse_size(operation, np.abs(numbers) > LARGEST, name, index)


def _refuse_size(operation: str, beyond: NDArray[np.bool_], name: str, index: pd.Index[Any]) -> None:
    check_rows(operation, beyond, "infinity or a value beyond the range of float32", f"column {name!r} of X", index)


def as_numbers(operation: str, column: pd.Series[Any], name: str, what: str) -> NDArray[np.float64]:
    """Return the numbers (N,) of a column of a kind in `NUMERIC`; durations become seconds.

    Raises:
        InputError: a number is infinite or too large for float32.
    """
    import pandas as pd

    if what == "duration":
        seconds: pd.Series[Any] = pd.to_timedelta(column).dt.total_seconds()
        return np.asarray(seconds.to_numpy(np.float64, na_value=np.nan), np.float64)
    numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    check_size(operation, numbers, name, column.index)
    return numbers


def as_dates(operation: str, column: pd.Series[Any], name: str) -> pd.Series[Any]:
    """Return the dates of a column of dates; local time for a column with a time zone.

    Raises:
        InputError: a date is out of range.
    """
    import pandas as pd

    if isinstance(column.dtype, pd.PeriodDtype):
        column = column.dt.to_timestamp()
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        column = column.dt.tz_localize(None)  # local hours, not UTC
    dates = pd.to_datetime(column, utc=True, errors="coerce")
    check_rows(operation, (dates.isna() & column.notna()).to_numpy(), "a date out of range", f"column {name!r} of X")
    return dates


def naive(dates: pd.Series[Any]) -> pd.Series[Any]:
    """Return dates without a time zone, with rows counted from 0."""
    import pandas as pd

    if dates.dt.tz is not None:
        dates = dates.dt.tz_localize(None)
    return pd.Series(dates.to_numpy("datetime64[us]"))


def _note_dates(name: str, dates: pd.Series[Any], sentence: str, examined: Examined) -> pd.Series[Any]:
    dates = naive(dates)
    known = dates.dropna()
    cycles = [f"the {cycle}" for cycle in cycles_of(dates)]
    turned = "elapsed days" + (f" and the {'cycle' if len(cycles) == 1 else 'cycles'} of " if cycles else "")
    turned += " and ".join([", ".join(cycles[:-1]), cycles[-1]] if len(cycles) > 1 else cycles)
    examined.notes.append(
        f"Column {name!r} holds dates ({known.min():%Y-%m-%d} to {known.max():%Y-%m-%d}){sentence}: it becomes "
        f"{turned}; pass drop=[{name!r}] (--drop {name}) to leave the column out."
        if len(known)
        else f"Column {name!r} holds no dates: every value is missing."
    )
    if len(known) > 2 and len(known) == len(dates) and known.is_monotonic_increasing and known.nunique() > 2:
        examined.notes.append(
            f"The rows are sorted by {name!r}: call split with by='time' (--split time) to test on the last rows."
        )
    return dates


def _note_numeric_identifier(name: str, numbers: NDArray[Any], examined: Examined) -> None:
    if len(numbers) > _IDENTIFIER_ROWS and len(np.unique(numbers)) == len(numbers):
        examined.identifiers.append(name)
        examined.notes.append(
            f"Column {name!r} is left out as an identifier: it holds a different whole number in each row."
        )


def target_copies(
    frame: pd.DataFrame, y: NDArray[Any], classes: tuple[str, ...], target: str
) -> tuple[list[str], list[str]]:
    """Return (columns that repeat the target, notes on these and on columns that determine the target).

    A copy holds the same text or the same numbers as the target in every row. A column is only noted if it is a
    one-to-one function of the classes or a linear function of a numeric target: in small or synthetic data, a
    legitimate feature may determine the target.
    """
    labels = _as_numbers(classes)
    quantity = y if not classes else labels[y] if labels is not None else None
    copies, coded = [], []
    for name, column in _candidates(frame, y, bool(classes)):
        if column.dtype == object:
            same = bool(classes) and bool((column == np.array(classes, dtype=object)[y]).all())
        else:
            same = quantity is not None and bool((column == quantity).all())
        if same:
            copies.append(name)
        elif _determines(column, y, len(classes)):
            coded.append(name)
    notes = [f"Column {name!r} is left out: it repeats the target {target!r} in every row." for name in copies]
    if coded:
        notes.append(
            f"The target {target!r} is a function of {listed(coded)} alone. If this feature encodes the target, "
            f"leave it out with drop=[{coded[0]!r}] (--drop {coded[0]})."
        )
    return copies, notes


def _as_numbers(classes: tuple[str, ...]) -> NDArray[np.float64] | None:
    if classes == ("False", "True"):
        return np.array([0.0, 1.0])
    try:
        return np.array([float(label) for label in classes])
    except ValueError:
        return None


def _candidates(frame: pd.DataFrame, y: NDArray[Any], classified: bool) -> list[tuple[str, NDArray[Any]]]:
    """Return the columns that have no missing values and determine the target in the first rows."""
    head, first = frame.iloc[:_SAMPLE], y[:_SAMPLE]
    count = int(y.max()) + 1 if classified else 0
    found = []
    for at, name in enumerate(frame.columns):
        if frame.dtypes.iloc[at].kind == "M":
            continue
        if _determines(head.iloc[:, at].to_numpy(), first, count) and not frame.iloc[:, at].isna().any():
            found.append((name, frame.iloc[:, at].to_numpy()))
    return found


def _determines(column: NDArray[Any], y: NDArray[Any], classes: int) -> bool:
    """Whether a column is a one-to-one function of the classes, or a linear function of a numeric target."""
    import pandas as pd

    if classes:
        codes, values = pd.factorize(column)
        if (codes < 0).any() or len(values) != len(np.unique(y)):
            return False
        return len(np.unique(codes.astype(np.int64) * classes + y)) == len(values)
    if column.dtype == object:
        return False
    x = column.astype(np.float64)
    if not np.isfinite(x).all():
        return False
    if (x == x[0]).all() or (y == y[0]).all():  # constant in the first rows; the target is not constant in all rows
        return bool((x == x[0]).all() and (y == y[0]).all())
    x, z = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    return bool(min(np.abs(x - z).max(), np.abs(x + z).max()) < 1e-9)
