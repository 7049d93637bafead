"""Parses numbers and times of day in text columns, and refuses numeric columns with a few invalid values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from popgrad.checks import fail
from popgrad.data._common import counted, place

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Distinct", "numbers_in", "numbers_of_all", "refuse_most"]

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?inf(?:inity)?", re.IGNORECASE | re.ASCII)
_HOURS = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d(?:\.\d+)?))?", re.ASCII)
# A decimal comma, separated thousands, a currency sign or a percent sign.
_NOTATION = re.compile(r"[+-]?[$€£¥]?\s?(?:\d{1,3}(?:([,.'\s])\d{3}(?:\1\d{3})*)|\d+)(?:[,.]\d+)?\s?[%$€£¥]?", re.ASCII)
_MOST = 0.9  # share of the rows that determines the intended kind of a column
_FEW_NUMBERS = 10  # at most this many distinct whole numbers beside text are codes, such as 0, 1, 2, "3+"


class Distinct:
    """The distinct values of a text column, so that every test examines each value only once.

    Args:
        column: (N,) text, NaN where a value is missing.
    """

    def __init__(self, column: pd.Series[Any]) -> None:
        import pandas as pd

        self.index = column.index
        codes, values = pd.factorize(column)
        self.codes: NDArray[np.intp] = codes
        self.values = [str(value) for value in values]
        self.counts = np.bincount(codes[codes >= 0], minlength=len(self.values))
        self.rows = int(self.counts.sum())

    def share(self, chosen: NDArray[np.bool_]) -> float:
        """Return the share of chosen values among the rows that are not missing."""
        return float(self.counts[chosen].sum() / max(self.rows, 1))

    def spread(self, values: NDArray[Any], missing: object) -> NDArray[Any]:
        """Map an array over the distinct values to the rows (N,); missing rows get `missing`."""
        return np.append(values, np.asarray([missing], values.dtype))[self.codes]

    def example(self, chosen: NDArray[np.bool_]) -> tuple[str, str, int]:
        """Return the first chosen value, its place in the table, and the number of rows with a chosen value."""
        rows = np.flatnonzero(np.append(chosen, False)[self.codes])
        return self.values[self.codes[rows[0]]], place(self.index, int(rows[0])), len(rows)


def numbers_in(operation: str, where: str, distinct: Distinct, decimal: str = ".") -> NDArray[np.float64] | None:
    """Return the numbers in a text column (hours for times of day), or None if the column is text.

    Raises:
        InputError: the column holds numbers except for a few values, or numbers in an unsupported notation.
    """
    for pattern in (_NUMBER, _HOURS):
        numbers, good = _matched(distinct, pattern, decimal)
        if not good.any():
            continue
        if good.all():
            return distinct.spread(numbers, np.nan)
        if _meant(distinct, numbers, good):
            refuse_most(operation, where, distinct, good, "numbers" if pattern is _NUMBER else "times of day")
    written = np.array([_NOTATION.fullmatch(value) is not None for value in distinct.values], dtype=bool)
    if written.any() and distinct.share(written) >= _MOST:
        _refuse_notation(operation, where, distinct, written, decimal)
    return None


def numbers_of_all(distinct: Distinct, decimal: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return (the number or time of day of each distinct value, whether it is one)."""
    numbers, good = _matched(distinct, _NUMBER, decimal)
    hours, good_hours = _matched(distinct, _HOURS, decimal)
    return np.where(good, numbers, hours), good | good_hours


def _matched(
    distinct: Distinct, pattern: re.Pattern[str], decimal: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return (the numbers in the distinct values that match a pattern, whether they match)."""
    values = [value if decimal == "." else value.replace(".", "?").replace(decimal, ".") for value in distinct.values]
    good = np.array([pattern.fullmatch(value) is not None for value in values], dtype=bool)
    convert = float if pattern is _NUMBER else _hours
    return np.array([convert(v) if ok else np.nan for v, ok in zip(values, good, strict=True)]), good


def refuse_most(operation: str, where: str, distinct: Distinct, good: NDArray[np.bool_], what: str) -> NoReturn:
    """Fail because a column holds numbers, or dates, except for a few values."""
    value, at, count = distinct.example(~good)
    got = f"{where} holds {what} except in {counted(count, 'row')}, such as {value!r} in {at}"
    if distinct.index.name != "line":
        fail(operation, f"{got}: correct the value, or make the column categorical if it holds text")
    if where == "the target":
        fail(operation, f"{got}: correct or delete {'this row' if count == 1 else 'these rows'}")
    name = where.removeprefix("column ")
    option = value if re.fullmatch(r"[\w.-]+", value) else f"'{value}'"
    fail(
        operation,
        f"{got}: correct the value, or pass na=[{value!r}] (--na {option}) to read it as missing, "
        f"or drop=[{name}] (--drop {name}) to leave the column out",
    )


def _meant(distinct: Distinct, numbers: NDArray[np.float64], good: NDArray[np.bool_]) -> bool:
    """Whether a column of these numbers and some text is intended to be numeric."""
    known = numbers[good]
    share, others = distinct.share(good), int((~good).sum())
    quantity = len(known) > _FEW_NUMBERS or bool((known % 1 != 0).any())
    return quantity and (share >= _MOST or (others == 1 and share >= 0.5))


def _refuse_notation(
    operation: str, where: str, distinct: Distinct, written: NDArray[np.bool_], decimal: str
) -> NoReturn:
    value, at, _ = distinct.example(written)
    got = f"{where} holds numbers in an unsupported notation, such as {value!r} in {at}"
    leave = "" if where == "the target" else f", or leave the column out with drop=[{where.removeprefix('column ')}]"
    if decimal == "." and re.fullmatch(r"[+-]?\d+,\d+", value):
        fail(
            operation,
            f"{got}: pass decimal=',' (--decimal ,) if the comma is the decimal point; if it separates "
            f"thousands, write 1234.5{leave}",
        )
    fail(
        operation, f"{got}: write 1234{decimal}5, without currency signs, percent signs or thousands separators{leave}"
    )


def _hours(value: str) -> float:
    match = _HOURS.fullmatch(value)
    assert match is not None
    hour, minute, second = match.groups()
    return int(hour) + int(minute) / 60 + float(second or 0) / 3600
