"""`Dataset`, a table before any split, and `Split`, its training, validation and test parts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from popgrad.checks import fail, one_of
from popgrad.data._columns import examine, target_copies
from popgrad.data._common import LARGEST, TASKS, LabelType, Origin, check_rows, counted
from popgrad.data._preprocessing import Preprocessing

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Dataset", "Split"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A table and its target before any split, without scaling, encoding or imputation.

    The constructor moves identifiers and copies of the target from `frame` to `aside`:

    - a text column with more than 20 rows in which over half of the values are distinct;
    - a column named id, index, row or similar, with more than 20 rows and a different whole number in each row;
    - a column that repeats the target in every row.

    Args:
        name: short, usable in a file name.
        frame: (N, columns) features. The dataset stores a copy. Numbers and booleans become float64, but a table
            of a single smaller numeric type keeps this type. Dates become datetime64: local time for a column with
            a time zone, UTC for text with offsets. Durations become seconds. All other values become text.
            NaN or NaT marks a missing value. Text that represents numbers, times of day or dates is parsed, unless
            the column is categorical; times of day become hours.
        y: (N,) int64 class indices in [0, K), or (N,) float64 for regression.
        task: "classification" or "regression".
        classes: the K labels; empty for regression.
        target: name of the target column.
        notes: sentences about assumptions and changes.
        aside: (N, columns) columns that are not features but are available to `split`. The constructor appends
            the columns that it removes from `frame`.
        label_type: kind of the labels before they became text: "text", "integer" or "boolean".
        origin: the table that the dataset was read from.

    Attributes:
        formats: formats of the dates that were text, by name of the column.

    Raises:
        InputError: `frame` and `y` differ in length, `frame` holds infinity, `y` is not finite, a column holds numbers
            or dates except for a few values, no feature is left, the target is constant, or a class has fewer than
            3 rows.
    """

    name: str
    frame: pd.DataFrame
    y: NDArray[Any]
    task: Literal["classification", "regression"]
    classes: tuple[str, ...]
    target: str
    notes: tuple[str, ...] = ()
    aside: pd.DataFrame | None = None
    label_type: LabelType = "text"
    origin: Origin = field(default_factory=Origin)
    formats: Mapping[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        operation = f"Dataset {self.name!r}"
        if not isinstance(self.name, str) or not re.fullmatch(r"\w[\w.-]{0,99}", self.name):
            fail(operation, "name must be a few letters, digits, '_', '.' or '-': files are named after it")
        one_of(operation, "task", self.task, TASKS)
        y = np.asarray(self.y)
        if y.ndim != 1 or len(y) != len(self.frame):
            fail(operation, f"y must have shape ({len(self.frame)},), one value per row of X, got {y.shape}")
        (_check_labels if self.task == "classification" else _check_quantity)(operation, y, self.classes)
        y = y.astype(np.int64 if self.classes else np.float64)
        object.__setattr__(self, "y", y)
        self._examine(operation)

    @property
    def columns(self) -> int:
        """The number of features."""
        return int(self.frame.shape[1])

    def _examine(self, operation: str) -> None:
        """Convert the features, set columns aside and add notes on both."""
        import pandas as pd

        examined = examine(operation, self.frame)
        copies, notes = target_copies(examined.frame, self.y, self.classes, self.target)
        columns = list(examined.frame)
        dropped = [name for name in columns if name in {*examined.identifiers, *copies}]
        notes = [*self.notes, *examined.notes, *notes]
        if len(dropped) == len(columns):
            fail(operation, f"no feature is left besides the target {self.target!r}. {' '.join(notes)}")
        frame, aside = examined.frame, self.aside
        if dropped:
            kept = (
                frame[dropped] if aside is None else pd.concat([aside.reset_index(drop=True), frame[dropped]], axis=1)
            )
            frame, aside = frame.drop(columns=dropped), kept
        object.__setattr__(self, "formats", examined.formats)
        object.__setattr__(self, "frame", frame)
        object.__setattr__(self, "aside", aside)
        object.__setattr__(self, "notes", tuple(dict.fromkeys(notes)))


@dataclass(frozen=True, eq=False)
class Split:
    """The training, validation and test parts of a dataset, encoded and standardized.

    Args:
        X_train, X_val, X_test: (rows, columns) float32, C-contiguous, without missing values.
        y_train, y_val, y_test: (rows,) int64 class indices, or float32 standardized values for regression.
        preprocessing: the encoding that was fitted on the training rows; it encodes other tables.
    """

    X_train: NDArray[np.float32]
    y_train: NDArray[Any]
    X_val: NDArray[np.float32]
    y_val: NDArray[Any]
    X_test: NDArray[np.float32]
    y_test: NDArray[Any]
    preprocessing: Preprocessing

    @property
    def rows(self) -> tuple[int, int, int]:
        """The numbers of training, validation and test rows."""
        return len(self.y_train), len(self.y_val), len(self.y_test)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns: first the numeric columns, then one column per category of each text column."""
        return self.preprocessing.features

    @property
    def target_mean(self) -> float:
        """``y * target_scale + target_mean`` converts a regression target to the original units; 0 for labels."""
        return self.preprocessing.target_mean

    @property
    def target_scale(self) -> float:
        """The scale of a regression target, see `target_mean`; 1 for labels."""
        return self.preprocessing.target_scale


def _check_labels(operation: str, y: NDArray[Any], classes: tuple[str, ...]) -> None:
    if len(classes) < 2:
        fail(operation, f"expects at least two classes, got {len(classes)}: {', '.join(classes)}")
    if y.dtype.kind not in "iu" or (y < 0).any() or (y >= len(classes)).any():
        fail(operation, f"y must hold class indices in [0, {len(classes)}), the number of classes")
    counts = np.bincount(y, minlength=len(classes))
    rare = int(counts.argmin())
    if counts[rare] < 3:
        rows = counted(int(counts[rare]), "row")
        got = f"class {classes[rare]!r} has {rows} but needs 3, one for each part of a split"
        fail(
            operation,
            f"{got}: remove or merge the class, or pass task='regression' if the target is a quantity",
        )


def _check_quantity(operation: str, y: NDArray[Any], classes: tuple[str, ...]) -> None:
    if classes or y.dtype.kind not in "biuf":
        fail(operation, f"regression needs a numeric y and no classes, got {y.dtype} and {len(classes)}")
    infinite = ~(np.abs(y.astype(np.float64)) <= LARGEST)
    check_rows(operation, infinite, "NaN, infinity or a value beyond the range of float32", "the target")
    if len(y) < 4:
        fail(operation, f"expects at least 4 rows (2 training, 1 validation, 1 test), got {len(y)}")
    if (y == y[0]).all():
        fail(operation, f"the target is {y[0]} in every row: there is nothing to predict")
