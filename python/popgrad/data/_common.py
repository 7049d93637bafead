"""Constants, guarded calls and messages about rows for the modules of this folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from popgrad.checks import fail

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LARGEST", "TASKS", "LabelType", "Origin", "attempt", "check_rows", "counted", "kind", "listed", "place"]
__all__ += ["some"]

TASKS = ("classification", "regression")
LabelType = Literal["text", "integer", "boolean"]
LARGEST = float(np.finfo(np.float32).max)
_KINDS = {
    "string": "text",
    "categorical": "text",
    "mixed": "text",
    "time": "text",
    "mixed-integer": "text",
    "boolean": "boolean",
    "integer": "integer",
    "floating": "float",
    "decimal": "float",
    "mixed-integer-float": "float",
    "empty": "float",  # every value is missing
    "datetime64": "date",
    "datetime": "date",
    "date": "date",
    "period": "date",
    "timedelta64": "duration",
    "timedelta": "duration",
}

T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """How a table was written, so that another table can be read in the same way.

    Args:
        columns: names of all columns in order, including the target; empty if unknown.
        sep, decimal, na: as for `load`.
    """

    columns: tuple[str, ...] = ()
    sep: str | None = None
    decimal: str = "."
    na: tuple[str, ...] = ()

    @property
    def positional(self) -> bool:
        """Whether the table had no names of columns, so that they are named "0", "1", ..."""
        return bool(self.columns) and self.columns == tuple(map(str, range(len(self.columns))))


def attempt(operation: str, read: Callable[[], T], expected: str) -> T:
    """Return ``read()``; turn any exception into an `InputError` with the reason. Warnings are suppressed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip()
    fail(operation, f"{expected} ({reason})")


def kind(column: pd.Series[Any]) -> str:
    """Return text, boolean, integer, float, date or duration; for any other kind, the name that pandas infers."""
    import pandas as pd

    inferred = pd.api.types.infer_dtype(column, skipna=True)
    if inferred == "unknown-array":  # such as a dictionary of PyArrow
        inferred = pd.api.types.infer_dtype(column.astype(object), skipna=True)
    if inferred.startswith("mixed") and any(_holds(value) for value in column):
        return "mixed objects"
    return _KINDS.get(inferred, inferred)


def _holds(value: object) -> bool:
    return isinstance(value, complex) or (hasattr(value, "__len__") and not isinstance(value, str))


def counted(number: int, noun: str) -> str:
    """Return "1 row" or "3 rows"."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def some(number: int, noun: str, where: str, done: str) -> str:
    """Return a sentence such as "2 rows at the top are left out.", or "" for no rows."""
    return f"{counted(number, noun)} {where} {'is' if number == 1 else 'are'} {done}." * bool(number)


def listed(names: Sequence[object], limit: int = 5) -> str:
    """Return the first names, with quotes around text, and the number of further names."""
    shown = ", ".join(repr(name) if isinstance(name, str) else str(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def place(index: pd.Index[Any], row: int) -> str:
    """Return a phrase for one row: the line in the file if the index is named "line", else the row number from 0."""
    return f"line {index[row]}" if index.name == "line" else f"row {row} (counted from 0)"


def check_rows(
    operation: str,
    bad: NDArray[np.bool_],
    what: str,
    where: str,
    index: pd.Index[Any] | None = None,
    hint: str = "",
) -> None:
    """Fail if any row is marked; the message lists the first five rows, by line numbers of the file if known."""
    rows = np.flatnonzero(bad)
    if not len(rows):
        return
    lines = index is not None and index.name == "line"
    numbers = [index[row] if index is not None and lines else row for row in rows[:5]]
    several = ", ".join(map(str, numbers)) + (", ..." if len(rows) > 5 else "")
    which = f"lines {several}" if lines else f"rows {several} (counted from 0)"
    fail(operation, f"{where} has {what} in {len(rows)} of {len(bad)} rows: correct or drop {which}{hint}")
