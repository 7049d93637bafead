"""Chooses the target column, infers the task and encodes the target."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from popgrad.checks import fail, one_of
from popgrad.data._common import LARGEST, LabelType, attempt, check_rows, counted, kind
from popgrad.data._dates import dates_in
from popgrad.data._numbers import Distinct, numbers_in

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Target", "choose_target", "encode_target", "target_from_text"]

_NAMES = ("target", "label", "class", "y")
_MAX_INTEGER_CLASSES = 20  # an integer target with more distinct values is a quantity, not a label
_KINDS = ("text", "boolean", "integer", "float")


@dataclass(frozen=True)
class Target:
    """An encoded target.

    Args:
        y: (N,) int64 class indices, or float64 quantities.
        task: "classification" or "regression".
        classes: the labels; empty for regression.
        notes: sentences about the assumptions.
        label_type: kind of the labels before they became text.
    """

    y: NDArray[Any]
    task: Literal["classification", "regression"]
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    label_type: LabelType = "text"


def choose_target(operation: str, columns: list[str], target: str | None) -> tuple[str, list[str]]:
    """Return (the column to predict, a note if the caller did not name the column)."""
    if target is not None:
        return one_of(operation, "target column", target, columns), []
    named = {column.lower(): column for column in reversed(columns)}
    found = next((named[name] for name in _NAMES if name in named), None)
    if found is not None:
        return found, [f"The target is column {found!r}, chosen by name."]
    return columns[-1], [
        f"The target is the last column, {columns[-1]!r}: pass target=... (--target) to predict another column."
    ]


def target_from_text(operation: str, column: pd.Series[Any], decimal: str) -> pd.Series[Any]:
    """Return the target of a text file as exact integers, numbers or text.

    Raises:
        InputError: the column holds dates, or numbers except for a few values.
    """
    import pandas as pd

    distinct = Distinct(column)
    values = distinct.values
    if values and all(re.fullmatch(r"[+-]?\d+", value, re.ASCII) for value in values):
        exact = np.array([int(value) for value in values] + [np.nan], dtype=object)
        return pd.Series(exact[distinct.codes], index=column.index, dtype=object)
    numbers = numbers_in(operation, "the target", distinct, decimal)
    if numbers is not None:
        return pd.Series(numbers, index=column.index)
    if dates_in(operation, "the target", distinct) is not None:
        fail(operation, f"the target must be text, booleans or numbers, got dates such as {values[0]!r}")
    return column


def encode_target(operation: str, column: pd.Series[Any], task: str | None) -> Target:
    """Encode a target; the docstring of `load` states how the task is inferred."""
    what = kind(column)
    if not len(column):
        fail(operation, "expects rows of data, got none")
    if what not in _KINDS:
        fail(operation, f"the target must be text, booleans or numbers, got {what} ({column.dtype})")
    _check_missing(operation, column, what)
    values = _values(column, what)
    distinct = np.unique(values)
    notes: list[str] = []
    if task is None:
        task, notes = _infer(what, distinct)
    if task == "regression":
        if what == "text":
            fail(operation, f"the target of a regression must be numbers, got text such as {values[0]!r}")
        quantities = attempt(operation, lambda: values.astype(np.float64), "the target must fit float64")
        beyond = ~(np.abs(quantities) <= LARGEST)
        check_rows(operation, beyond, "infinity or a value beyond the range of float32", "the target", column.index)
        return Target(quantities, "regression", (), tuple(notes))
    if what == "float":
        numbers = values.astype(np.float64)
        check_rows(operation, ~np.isfinite(numbers), "an infinite value", "the target", column.index)
        fractional = numbers % 1 != 0
        what_is_wrong = "a value that is not a whole number, as class labels must be,"
        check_rows(operation, fractional, what_is_wrong, "the target", column.index)
        values = np.array([int(value) for value in values], dtype=object)
    labels, y = np.unique(values, return_inverse=True)
    label_type: LabelType = "text" if what == "text" else "boolean" if what == "boolean" else "integer"
    return Target(y, "classification", tuple(str(label) for label in labels), tuple(notes), label_type)


def _values(column: pd.Series[Any], what: str) -> NDArray[Any]:
    """Return the target in a type that keeps labels distinct: integers never pass through float64."""
    if what == "text":
        return column.astype(object).map(str).to_numpy(object)
    if what == "boolean":
        return column.to_numpy(bool)
    if what == "integer":
        exact = column.to_numpy() if column.dtype.kind in "iu" and isinstance(column.dtype, np.dtype) else None
        return exact if exact is not None else np.array([int(value) for value in column], dtype=object)
    if column.dtype == object:  # integers among the numbers stay exact
        return np.array([value if isinstance(value, Integral) else float(value) for value in column], dtype=object)
    return column.to_numpy(np.float64)


def _check_missing(operation: str, column: pd.Series[Any], what: str) -> None:
    from_file = column.index.name == "line"
    hint = (
        "; if a word such as None or NA is a class, pass na=[''] (--na ''): then only an empty field and the other "
        "strings in na count as missing"
    )
    check_rows(
        operation,
        column.isna().to_numpy(),
        "a missing value",
        "the target",
        column.index,
        hint if from_file and what == "text" else "",
    )


def _infer(what: str, distinct: NDArray[Any]) -> tuple[Literal["classification", "regression"], list[str]]:
    """Return (task, a note with the reason)."""
    count = counted(len(distinct), "distinct value")
    if what in ("text", "boolean"):
        return "classification", [f"The target is {what}: classification with {len(distinct)} classes."]
    if what == "integer" and len(distinct) <= _MAX_INTEGER_CLASSES:
        return "classification", [
            f"The target holds whole numbers with {count}: classification. "
            "Pass task='regression' (--task regression) to predict a quantity."
        ]
    if what == "integer":
        return "regression", [
            f"The target holds whole numbers with {count}: regression. "
            "Pass task='classification' (--task classification) if the numbers are labels."
        ]
    whole = len(distinct) <= _MAX_INTEGER_CLASSES and all(float(value) % 1 == 0 for value in distinct)
    hint = f" It has only {count}: pass task='classification' (--task classification) if the numbers are labels."
    return "regression", ["The target holds numbers with a decimal point: regression." + (hint if whole else "")]
