"""Detects whether the first row of a text table holds the column names."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Sample", "find_header", "number_share"]

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}([-/.]\d{1,4})?([ T]\d{1,2}:.*)?|\d{1,2}:\d\d(:\d\d.*)?", re.ASCII)
_MOST = 0.8  # share of the fields that determines the kind of a column

_CORRECT_NAMES = "pass header=False (--no-header) if the row is data."
_CORRECT_DATA = "pass header=True (--header) if the row holds the column names."


def number_share(fields: Collection[str], decimal: str) -> float:
    """Return the share of the fields that are numbers."""
    return sum(_number(field, decimal) is not None for field in fields) / max(len(fields), 1)


def _number(field: str, decimal: str) -> float | None:
    if decimal != ".":
        field = field.replace(".", "?").replace(decimal, ".")
    return float(field) if _NUMBER.fullmatch(field) else None


@dataclass
class Sample:
    """The first records.

    Args:
        rows: the fields of each record; the first row may hold the names.
        decimal: the decimal point.
        missing: the strings that mean a missing value.
    """

    rows: list[list[str]]
    decimal: str
    missing: Collection[str]

    def column(self, at: int) -> list[str]:
        """Return the values below the first row that are not missing."""
        below = (row[at] for row in self.rows[1:] if at < len(row))
        return [field for field in below if field not in self.missing]

    def kind(self, fields: list[str]) -> str:
        """Return "number", "date" or "text" by the majority of the fields, or "" if there are none."""
        if not fields:
            return ""
        if number_share(fields, self.decimal) >= _MOST:
            return "number"
        return "date" if sum(_DATE.fullmatch(f) is not None for f in fields) >= _MOST * len(fields) else "text"


def find_header(sample: Sample) -> tuple[bool, str]:
    """Return (whether the first row holds the names, a note on the decision).

    The first rule that applies decides:

    1. The row is data if it contains a "?", a date above dates, a negative number, a decimal point, or numbers
       that do not increase in equal steps.
    2. It holds names if a field has another kind (number, date, text) than the column below it, or if an empty
       field stands above a row index.
    3. It is data if a text field occurs again in its column.
    4. It holds names if it contains only text.
    5. It holds names if at least three numbers count by one from 0 or 1. It also holds names if there are at
       least two numbers and each is outside the range of its column by more than the width of that range.
    6. Otherwise, it is data.
    """
    first = sample.rows[0]
    shown = ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")
    is_names, is_data = "The first row holds the column names", f"The first row ({shown}) was read as data"
    numbers = {i: x for i, field in enumerate(first) if (x := _number(field, sample.decimal)) is not None}
    if "?" in first or not _can_be_names(list(numbers.values())):
        return False, f"{is_data}; {_CORRECT_DATA}"
    columns = [sample.column(i) for i in range(len(first))]
    if any(_date_above_dates(sample, field, column) for field, column in zip(first, columns, strict=True)):
        return False, f"{is_data}; {_CORRECT_DATA}"
    if any(_differs(sample, field, column) for field, column in zip(first, columns, strict=True)):
        return True, f"{is_names}."
    if first[0] == "" and [_number(value, ".") for value in columns[0]] == list(range(len(sample.rows) - 1)):
        return True, f"{is_names}."
    again = [field for i, field in enumerate(first) if i not in numbers and field in columns[i]]
    if again:
        return False, f"{is_data}, since {again[0]!r} occurs again below; {_CORRECT_DATA}"
    if not numbers:
        return True, f"{is_names} ({shown}): {_CORRECT_NAMES}"
    if _counts(list(numbers.values())) or _far(sample, numbers, columns):
        return True, f"{is_names} ({shown}): {_CORRECT_NAMES}"
    return False, f"{is_data}; {_CORRECT_DATA}"


def _can_be_names(numbers: list[float]) -> bool:
    steps = {after - before for before, after in pairwise(numbers)}
    return all(x % 1 == 0 and x >= 0 for x in numbers) and len(steps) <= 1 and all(step > 0 for step in steps)


def _differs(sample: Sample, field: str, column: list[str]) -> bool:
    return field not in sample.missing and bool(column) and sample.kind([field]) != sample.kind(column)


def _date_above_dates(sample: Sample, field: str, column: list[str]) -> bool:
    return sample.kind([field]) == "date" == sample.kind(column)


def _counts(numbers: list[float]) -> bool:
    return len(numbers) >= 3 and numbers[0] in (0, 1) and numbers[1] - numbers[0] == 1


def _far(sample: Sample, numbers: dict[int, float], columns: list[list[str]]) -> bool:
    return len(numbers) >= 2 and all(_outside(sample, x, columns[i]) for i, x in numbers.items())


def _outside(sample: Sample, x: float, column: list[str]) -> bool:
    values = [value for field in column if (value := _number(field, sample.decimal)) is not None]
    if not values:
        return False
    least, most = min(values), max(values)
    return max(least - x, x - most) > most - least
