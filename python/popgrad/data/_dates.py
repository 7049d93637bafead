"""Recognizes dates in text and expands them into numbers."""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from popgrad.checks import fail
from popgrad.data._common import counted
from popgrad.data._numbers import Distinct, refuse_most

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CYCLES", "Dates", "cycles_of", "dates_as", "dates_in", "expand"]

# Month first precedes day first: it wins if both formats read every value and the row order does not decide.
_DAYS = (
    "%Y/%m/%d",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%m-%d-%Y",
    "%d-%m-%Y",
    "%d.%m.%Y",
    "%m/%d/%y",
    "%d/%m/%y",
    "%d.%m.%y",
    "%d-%b-%Y",
    "%d-%b-%y",
    "%d %b %Y",
    "%b %d, %Y",
    "%b %d %Y",
    "%d %B %Y",
    "%B %d, %Y",
    "%m/%Y",
    "%b %Y",
    "%B %Y",
    "%b-%Y",
)
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_FORMATS = ("ISO8601", *(day + time for day, time in product(_DAYS, _TIMES)))
_LOOKS = re.compile(r"\d{1,4}[-/. ]\d{1,2}\b.*|\d{1,2}[- ][A-Za-z]{3,9}[- ]\d{2,4}.*|[A-Za-z]{3,9}[- ]\d{1,4}.*")
_MOST = 0.8
CYCLES = {"year": 365.25, "week": 7.0, "day": 1.0}  # lengths in days


class Dates(NamedTuple):
    """The dates in a text column.

    Attributes:
        values: (N,) dates.
        format: the format that reads them, as in `strptime`, or "ISO8601".
        sentence: a phrase on an ambiguous format, or "".
    """

    values: pd.Series[Any]
    format: str
    sentence: str


def dates_in(operation: str, where: str, distinct: Distinct) -> Dates | None:
    """Return the dates in a text column, or None if the text holds no dates.

    Raises:
        InputError: all but a few values are dates.
    """
    look = np.array([_LOOKS.fullmatch(value) is not None for value in distinct.values], dtype=bool)
    if not look.any() or distinct.share(look) < _MOST:
        return None
    sample = [value for value, ok in zip(distinct.values, look, strict=True) if ok][:20]
    # The first 20 values may not distinguish day from month, so every format that reads most of them is tried on all.
    promising = [way for way in _FORMATS if np.asarray(_parse(sample, way).notna()).mean() >= _MOST]
    read = {way: _parse(distinct.values, way) for way in promising}
    shares = {way: distinct.share(np.asarray(dates.notna())) for way, dates in read.items()}
    best = max(shares.values(), default=0.0)
    if best < _MOST:
        return None
    ways = [way for way, share in shares.items() if share == best]
    if best < 1:
        refuse_most(operation, where, distinct, np.asarray(read[ways[0]].notna()), "dates")
    columns = {way: _spread(distinct, read[way]) for way in ways}
    way, sentence = ways[0], ""
    if len(ways) > 1 and not columns[ways[0]].equals(columns[ways[1]]):
        ordered = [way for way in ways if _monotone(columns[way])]
        way = ordered[0] if ordered else ways[0]
        order = "the month" if way.startswith("%m") else "the day"
        if len(ordered) != 1:
            sentence = f"; {order} is taken to come first, but the values are ambiguous: write dates as year-month-day"
    return Dates(columns[way], way, sentence)


def dates_as(operation: str, where: str, distinct: Distinct, way: str) -> pd.Series[Any]:
    """Return the dates in a text column in a known format; ISO 8601 is read as well.

    Raises:
        InputError: a value is no date in either format.
    """
    dates = _parse(distinct.values, way)
    if dates.isna().any() and way != "ISO8601":
        dates = dates.where(dates.notna(), _parse(distinct.values, "ISO8601"))
    bad = np.asarray(dates.isna())
    if bad.any():
        value, at, count = distinct.example(bad)
        form = "" if way == "ISO8601" else f" in the format {way} or"
        got = f"{value!r} in {at}" + (f" and text in {counted(count - 1, 'other row')}" if count > 1 else "")
        fail(operation, f"{where} must hold dates{form} as year-month-day, as in training, got {got}")
    return _spread(distinct, dates)


def _parse(values: list[str], way: str) -> pd.DatetimeIndex:
    import pandas as pd

    parsed = pd.to_datetime(values, format=way, errors="coerce", utc=True)
    return parsed.tz_localize(None)


def _spread(distinct: Distinct, dates: pd.DatetimeIndex) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series(distinct.spread(dates.to_numpy(), np.datetime64("NaT")), index=distinct.index)


def _monotone(dates: pd.Series[Any]) -> bool:
    known = dates.dropna()
    return bool(known.is_monotonic_increasing or known.is_monotonic_decreasing)


def cycles_of(dates: pd.Series[Any]) -> tuple[str, ...]:
    """Return the cycles that the dates resolve: the span is at least two cycles, the median step below half a cycle."""
    known = np.unique(_days(dates[dates.notna()]))
    if len(known) < 2:
        return ()
    step, span = float(np.median(np.diff(known))), float(known[-1] - known[0])
    return tuple(name for name, length in CYCLES.items() if span >= 2 * length and step < length / 2)


def expand(name: str, dates: pd.Series[Any], cycles: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
    """Expand dates into columns: days since 1970, and a sine and a cosine for each cycle; NaN for missing dates.

    The cycle of a year has 365.25 days and begins on January 1; a week begins on Monday and a day at midnight.
    """
    days = _days(dates)
    columns = {f"{name}_days": days}
    for cycle in cycles:
        phase = days - 4 if cycle == "week" else days  # 1970-01-05 was a Monday
        if cycle == "year":
            phase = dates.dt.day_of_year.to_numpy(np.float64, na_value=np.nan) - 1 + days % 1
        angle = 2 * np.pi * phase / CYCLES[cycle]
        columns |= {f"{name}_{cycle}_sin": np.sin(angle), f"{name}_{cycle}_cos": np.cos(angle)}
    return columns


def _days(dates: pd.Series[Any]) -> NDArray[np.float64]:
    values = dates.to_numpy("datetime64[us]")
    days = values.astype(np.int64) / 86_400e6
    return np.where(np.isnat(values), np.nan, days)
