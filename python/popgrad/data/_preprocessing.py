"""`Preprocessing`: the encoding of a table as data, which encodes other tables in the same way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad.checks import fail
from popgrad.data._common import LabelType, Origin
from popgrad.data._dates import CYCLES
from popgrad.data._encode import MISSING_TEXT, Scaling, numbers_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Column", "Preprocessing", "Tabled", "places_of", "texts"]

VERSION = 1  # of the result of `Preprocessing.to_dict`

ColumnKind = Literal["number", "date", "text"]
Array = NDArray[Any]


@dataclass(frozen=True)
class Column:
    """A column of a table that is a feature.

    Args:
        name: its name.
        kind: "number" (also booleans, durations and times of day), "date" or "text".
        format: of a date column that was text: the format, as in `strptime`, or "ISO8601".
        cycles: of a date column: the cycles that become features.
        categories: of a text column: the categories that have a feature each.
        rare: of a text column: the categories that share the last feature.
    """

    name: str
    kind: ColumnKind
    format: str = ""
    cycles: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    rare: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """The number of features."""
        if self.kind == "text":
            return len(self.categories) + bool(self.rare)
        return 1 + 2 * len(self.cycles)

    def places(self, values: Array) -> NDArray[np.int64]:
        """The index (N,) of the feature of each category, -1 for an unknown category; for text as objects (N,)."""
        import pandas as pd

        known = np.append(np.arange(len(self.categories)), np.full(len(self.rare), len(self.categories)))
        at = pd.Index([*self.categories, *self.rare], dtype=object).get_indexer(pd.Index(values, dtype=object))
        return np.where(at < 0, -1, np.append(known, -1)[at]).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Tabled:
    """A table in a form from which rows can be encoded.

    Args:
        numbers: (N, numeric features), NaN where a value is missing.
        places: (N, text columns), the index of the feature of each category within its column; -1 if it is unknown.
    """

    numbers: Array
    places: NDArray[np.int64]


def texts(columns: Sequence[Column]) -> list[Column]:
    """The text columns."""
    return [column for column in columns if column.kind == "text"]


def places_of(frame: pd.DataFrame, columns: Sequence[Column]) -> NDArray[np.int64]:
    """The indices of the features of all text columns, see `Tabled.places`."""
    places = [column.places(frame[column.name].fillna(MISSING_TEXT).to_numpy(object)) for column in texts(columns)]
    return np.column_stack(places) if places else np.empty((len(frame), 0), np.int64)


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """The encoding of a table, fitted on training rows by `popgrad.data.split`; its docstring describes the encoding.

    Args:
        columns: the columns of the table that are features.
        scaling: imputation, bounds and standardization of the numeric features.
        features: names of the columns of the encoded array: numeric features, then one per category.
        target: name of the target column.
        classes: the K labels as text; empty for regression.
        label_type: type of the labels that `decode` returns: "text", "integer" or "boolean".
        target_mean, target_scale: ``y * target_scale + target_mean`` converts a standardized regression target to
            the original units; 0 and 1 for classification.
        origin: names of all columns of the training table, and how it was written.
    """

    columns: tuple[Column, ...]
    scaling: Scaling
    features: tuple[str, ...]
    target: str
    classes: tuple[str, ...] = ()
    label_type: LabelType = "text"
    target_mean: float = 0.0
    target_scale: float = 1.0
    origin: Origin = field(default_factory=Origin)

    def transform(self, table: Any) -> NDArray[np.float32]:
        """Encode a table as in training, as (N, features) float32, C-contiguous.

        Columns are found by name. A missing value is imputed, and an unknown category becomes zeros.

        Args:
            table: a frame of pandas, polars or PyArrow with the columns `columns` in any order, and possibly others;
                or a matrix (N, columns), if the training table was one.

        Raises:
            InputError: a column is missing, or its values have another kind than in training.
        """
        from popgrad.data._conform import prepared

        return prepared("Preprocessing.transform", table, self).X

    def table(self, frame: pd.DataFrame) -> Tabled:
        """The frame of a dataset with the columns `columns`, in order, ready for `encode`."""
        numbers, _ = numbers_of(frame, {column.name: column.cycles for column in self.columns})
        return Tabled(numbers, places_of(frame, self.columns))

    def encode(self, table: Tabled, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Encode rows of a table, as (rows, features), C-contiguous."""
        numeric = len(self.scaling.fill)
        out = np.zeros((len(rows), len(self.features)), np.float32)
        self.scaling.apply(table.numbers, rows, out[:, :numeric])
        first = numeric
        for column, places in zip(texts(self.columns), table.places.T, strict=True):
            at = places[rows]
            known = np.flatnonzero(at >= 0)
            out[known, first + at[known]] = 1
            first += column.width
        return out

    def standardize(self, y: Array) -> NDArray[np.float32]:
        """A regression target (N,) in original units as the network's target."""
        return ((y - self.target_mean) / self.target_scale).astype(np.float32)

    def decode(self, y: ArrayLike) -> Array:
        """Convert the output of a network to original labels, or to original units.

        Args:
            y: (N,) class indices in [0, K), or standardized numbers.

        Returns:
            (N,) labels of `label_type` (str, int or bool), or float64 numbers.
        """
        if not self.classes:
            return np.asarray(y, np.float64) * self.target_scale + self.target_mean
        found: Array = self.labels[np.asarray(y)]
        return found

    @property
    def labels(self) -> Array:
        """The K labels in their type, (K,)."""
        if self.label_type == "boolean":
            return np.array([label == "True" for label in self.classes])
        if self.label_type == "integer":
            values = [int(label) for label in self.classes]
            fits = all(-(2**63) <= value < 2**63 for value in values)
            return np.array(values, np.int64 if fits else object)
        return np.array(self.classes, object)

    # --- As data ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The preprocessing as JSON values: dicts, lists, text and numbers. Floats keep all their bits."""
        scaling = {part.name: getattr(self.scaling, part.name).tolist() for part in fields(Scaling)}
        plain = {part.name: getattr(self, part.name) for part in fields(self)}
        nested = {
            "columns": [asdict(column) for column in self.columns],
            "scaling": scaling,
            "origin": asdict(self.origin),
        }
        return {"version": VERSION, **plain, **nested}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Restore the result of `to_dict`, also after it went through JSON.

        Raises:
            InputError: the values are from another version, or are not a consistent preprocessing.
        """
        where = "Preprocessing.from_dict"
        if not isinstance(values, Mapping) or values.get("version") != VERSION:
            got = values.get("version") if isinstance(values, Mapping) else values
            fail(where, f"this version of popgrad reads preprocessing of version {VERSION}, got {got!r}")
        try:
            restored = _restored(values)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            fail(where, f"the values are not a preprocessing: {type(error).__name__}: {error}")
        return restored


def _restored(values: Mapping[str, Any]) -> Preprocessing:
    """Restore a preprocessing, with errors of any built-in type."""
    columns = tuple(_column(column) for column in values["columns"])
    scaling = Scaling(**{part.name: np.array(values["scaling"][part.name], np.float64) for part in fields(Scaling)})
    origin = dict(values["origin"])
    made = Preprocessing(
        columns,
        scaling,
        _texts(values["features"]),
        _text(values["target"]),
        _texts(values["classes"]),
        values["label_type"],
        float(values["target_mean"]),
        float(values["target_scale"]),
        Origin(_texts(origin["columns"]), origin["sep"], _text(origin["decimal"]), _texts(origin["na"])),
    )
    _check(made)
    return made


def _column(values: Mapping[str, Any]) -> Column:
    lists = {name: _texts(values[name]) for name in ("cycles", "categories", "rare")}
    column = Column(_text(values["name"]), values["kind"], _text(values["format"]), **lists)
    if column.kind not in get_args(ColumnKind) or not set(column.cycles) <= set(CYCLES):
        raise ValueError(f"column {column.name!r} is of kind {column.kind!r} with cycles {column.cycles}")
    return column


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"expected a list, got {values!r}")
    return tuple(map(_text, values))


def _check(made: Preprocessing) -> None:
    """Raise ValueError unless the parts fit together."""
    names = [column.name for column in made.columns]
    numeric = sum(column.width for column in made.columns if column.kind != "text")
    arrays = [getattr(made.scaling, part.name) for part in fields(Scaling)]
    if not names or len(set(names)) < len(names):
        raise ValueError("the names of the columns are not distinct")
    if any(array.shape != (numeric,) or not np.isfinite(array).all() for array in arrays):
        raise ValueError(f"the scaling must have {numeric} finite numbers of each kind")
    if len(made.features) != sum(column.width for column in made.columns):
        raise ValueError(f"{len(made.features)} features do not fit the columns")
    if made.label_type not in get_args(LabelType) or len(set(made.classes)) < len(made.classes):
        raise ValueError("the labels are not distinct")
    if not (math.isfinite(made.target_mean) and math.isfinite(made.target_scale)) or len(made.classes) == 1:
        raise ValueError("the target has one class, or its scale is not finite")
    _ = made.labels
