"""Data: tables read by name, from a file or from OpenML, and split into training, validation and test rows.

`load` and `from_arrays` give a `Dataset`, whose features are as they came. `split` encodes and standardises
them by what the training rows show and nothing else, so that no number of a test row reaches the training.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad.checks import fail, one_of, positive_int

# pandas and scikit-learn take a second to import: only the functions that need them do.
if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NAMES", "Dataset", "Split", "from_arrays", "load", "split"]

NAMES = ("digits", "breast_cancer", "wine", "iris", "diabetes")
TASKS = ("classification", "regression")

_SUFFIXES = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t", ".npz": ""}  # and the separator
_TARGET_NAMES = ("target", "label", "class", "y")
_MAX_INTEGER_CLASSES = 20  # an integer target with more distinct values is a quantity, not a label
_MAX_CATEGORIES = 32  # columns that one text column may become; its rarest values share the last
_LARGEST = float(np.finfo(np.float32).max)
_KINDS = {
    "string": "text",
    "categorical": "text",
    "boolean": "boolean",
    "integer": "integer",
    "floating": "float",
    "mixed-integer-float": "float",
    "empty": "float",  # every value is missing
}

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Dataset:
    """A table and its target, before any split; nothing in it is scaled, encoded or filled in.

    Args:
        name: short, usable in a file name.
        frame: (N, columns) features. Kept as a copy: numbers and booleans as float64, all else as text;
            NaN marks a missing value in both.
        y: (N,) int64 class indices in [0, K), or (N,) float64 for regression.
        task: "classification" or "regression".
        classes: the K labels; empty for regression.
        target: name of the target column.

    Raises:
        InputError: `frame` and `y` do not fit, X or y is not finite, there is only one value to predict,
            or a class has fewer than 3 rows.
    """

    name: str
    frame: pd.DataFrame
    y: NDArray[Any]
    task: Literal["classification", "regression"]
    classes: tuple[str, ...]
    target: str

    def __post_init__(self) -> None:
        operation = f"Dataset {self.name!r}"
        if not isinstance(self.name, str) or not re.fullmatch(r"\w[\w.-]{0,99}", self.name):
            fail(operation, "name must be a few letters, digits, '_', '.' or '-': files are named after it")
        one_of(operation, "task", self.task, TASKS)
        y = np.asarray(self.y)
        if y.ndim != 1 or len(y) != len(self.frame):
            fail(operation, f"y must have shape ({len(self.frame)},), one value a row of X, got {y.shape}")
        (_check_labels if self.task == "classification" else _check_quantity)(operation, y, self.classes)
        object.__setattr__(self, "frame", _tidy(operation, self.frame))
        object.__setattr__(self, "y", y.astype(np.int64 if self.classes else np.float64))


@dataclass(frozen=True, eq=False)
class Split:
    """The three parts of a dataset, ready to train on.

    Args:
        X_train, X_val, X_test: (rows, columns) float32, C-contiguous, without missing values.
        y_train, y_val, y_test: (rows,) int64 class indices, or float32 standardised values for regression.
        features: name of every column: the numeric ones first, then one a category of each text column.
        target_mean, target_scale: a regression target is ``y * target_scale + target_mean`` in its own
            units; 0 and 1 for classification.
    """

    X_train: NDArray[np.float32]
    y_train: NDArray[Any]
    X_val: NDArray[np.float32]
    y_val: NDArray[Any]
    X_test: NDArray[np.float32]
    y_test: NDArray[Any]
    features: tuple[str, ...]
    target_mean: float
    target_scale: float


def load(source: str | os.PathLike[str], *, target: str | None = None, task: str | None = None) -> Dataset:
    """Read a dataset.

    A table's first line holds the column names, unless numbers in it show that it is data (names may be
    numbers only where they count evenly, such as 0, 1, 2); columns are then named "0", "1", ... Empty cells,
    ``?``, ``NA`` and the like are missing values. A first column without a name is a row index: left out.

    Args:
        source: one of `NAMES`; a path to a .csv or .tsv (UTF-8, may be .gz) or to an .npz with arrays ``X``
            and ``y``; or "openml:61", which downloads that dataset once.
        target: column to predict. Default: the source's own; in a file, the column called target, label,
            class or y in upper or lower case, else the last one.
        task: "classification" or "regression". Default: classification if the target is text, boolean, or
            integer with at most 20 distinct values; regression otherwise, so for every target with a
            decimal point.

    Raises:
        InputError: the source is not there or cannot be read, or the data cannot be used.
    """
    operation = f"data.load {str(source)!r}"
    if not isinstance(source, (str, os.PathLike)):
        fail(operation, f"source must be a name or a path, got {type(source).__name__}")
    source = os.fspath(source)
    one_of(operation, "task", TASKS[0] if task is None else task, TASKS)
    if source in NAMES:
        return _load_bundled(operation, source, target, task)
    if source.startswith("openml:"):
        return _load_openml(operation, source, target, task)
    path = Path(os.path.expanduser(source))
    suffix = next((s for s in _SUFFIXES if path.name.lower().endswith(s)), None)
    endings = ", ".join(_SUFFIXES)
    there = os.path.exists(path)  # unlike Path.exists, False for a name that is too long
    if suffix is None and not there:
        one_of(operation, "dataset", source, [*NAMES, "openml:<id>", f"a path that ends in {endings}"])
    if not there:
        fail(operation, f"expects a file, but there is none of this name in {path.absolute().parent}")
    if suffix is None or not path.is_file():
        got = "another kind of file" if path.is_file() else "a directory"
        fail(operation, f"expects a file whose name ends in {endings}, got {got}")
    name = re.sub(r"[^\w.-]+", "_", path.name[: -len(suffix)])[:60].lstrip(".-") or "data"
    if suffix == ".npz":
        return _load_npz(operation, path, name, target, task)
    return _from_table(operation, name, _read_table(operation, path, _SUFFIXES[suffix]), target, task)


def from_arrays(name: str, X: ArrayLike | pd.DataFrame, y: ArrayLike, *, task: str | None = None) -> Dataset:
    """Make a dataset of arrays; the task is inferred as by `load`.

    Args:
        name: short, usable in a file name.
        X: (N, columns) numbers or booleans, NaN where one is missing; or a DataFrame, also with text.
        y: (N,) labels (text, booleans, integers) or quantities.
        task: "classification" or "regression"; inferred by default.

    Raises:
        InputError: shapes or types are wrong, or the data cannot be used.
    """
    import pandas as pd

    operation = f"data.from_arrays {name!r}"
    one_of(operation, "task", TASKS[0] if task is None else task, TASKS)
    if not isinstance(X, pd.DataFrame):
        array = _attempt(operation, lambda: np.asarray(X), "X must be an array of shape (N, columns)")
        if array.ndim != 2 or 0 in array.shape:
            fail(operation, f"X must have shape (N, columns), got {array.shape}: reshape it")
        if array.dtype.kind not in "biuf":
            fail(operation, f"X must hold numbers, got {array.dtype}: for text, give a DataFrame or a CSV")
        X = pd.DataFrame(array, columns=[f"x{i}" for i in range(array.shape[1])])
    column: Any = y
    if not isinstance(y, pd.Series):
        column = _attempt(operation, lambda: np.asarray(y), "y must be an array of shape (N,)")
    if column.shape != (len(X),):
        fail(operation, f"y must have shape ({len(X)},), one value a row of X, got {column.shape}")
    encoded, task, classes = _encode_target(operation, pd.Series(column), task)
    return Dataset(name, X, encoded, cast(Any, task), classes, "y")


def split(dataset: Dataset, *, seed: int, validation: float = 0.2, test: float = 0.2) -> Split:
    """Split a dataset, then encode and standardise it by its training rows alone.

    Missing numbers become the column's median, missing text a category of its own; numbers are
    standardised, text is one-hot encoded. A category that no training row has gives zeros. Classes keep
    their shares in the three parts, and each is among the training rows; validation and test have at least
    as many rows as there are classes.

    Args:
        dataset: from `load` or `from_arrays`.
        seed: the rows' order; in [0, 2**32).
        validation, test: share of all rows, in (0, 1), together below 1.

    Raises:
        InputError: an argument is out of range, or there are too few rows (of a class) for these shares.
    """
    from sklearn.model_selection import train_test_split

    if positive_int("data.split", "seed", seed, least=0) >= 2**32:
        fail("data.split", f"seed must be below 2**32, got {seed!r}")
    shares: dict[str, Any] = {"validation": validation, "test": test}
    for what, share in shares.items():
        if not isinstance(share, (int, float, np.floating)) or not 0 < share < 1:
            fail("data.split", f"{what} must be a share of all rows in (0, 1), got {share!r}")
    if validation + test >= 1:
        fail("data.split", f"validation + test must be below 1, got {validation} + {test}")

    y, count = dataset.y, len(dataset.y)
    least = max(len(dataset.classes), 1)
    n_test, n_val = max(round(count * test), least), max(round(count * validation), least)
    _check_sizes(dataset, n_test, n_val)

    def divide(rows: NDArray[np.int64], size: int) -> Any:
        labels = y[rows] if dataset.classes else None
        return train_test_split(rows, test_size=size, random_state=int(seed), stratify=labels)

    rest, test_rows = divide(np.arange(count), n_test)
    train_rows, val_rows = divide(rest, n_val)

    encoder = _encoder(dataset.frame)
    encoder.fit(dataset.frame.iloc[train_rows])
    mean, scale = 0.0, 1.0
    if dataset.task == "regression":
        mean, scale = float(y[train_rows].mean()), float(y[train_rows].std()) or 1.0

    def part(rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        X = np.ascontiguousarray(encoder.transform(dataset.frame.iloc[rows]), dtype=np.float32)
        return X, y[rows] if dataset.classes else ((y[rows] - mean) / scale).astype(np.float32)

    # Names come as "numeric__age": without the prefix two of different origin may be equal, which
    # scikit-learn refuses and we do not mind.
    names = tuple(str(feature).split("__", 1)[1] for feature in encoder.get_feature_names_out())
    return Split(*part(train_rows), *part(val_rows), *part(test_rows), names, mean, scale)


def _load_bundled(operation: str, name: str, target: str | None, task: str | None) -> Dataset:
    from sklearn import datasets

    # scikit-learn hands out diabetes already scaled, by all rows and so by the test rows too.
    options = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name}")(as_frame=True, **options)
    dataset = _from_table(operation, name, bunch.frame, target or "target", task)
    if dataset.target == "target" and dataset.classes and "target_names" in bunch:
        return replace(dataset, classes=tuple(map(str, bunch.target_names)))
    return dataset


def _load_openml(operation: str, source: str, target: str | None, task: str | None) -> Dataset:
    from sklearn.datasets import fetch_openml

    number = source.removeprefix("openml:")
    if not re.fullmatch("[1-9][0-9]{0,8}", number):
        fail(operation, "an OpenML dataset is named by its number, such as openml:61 (see openml.org)")
    expected = "OpenML needs a network connection (once: the table is then kept) and a number that exists"
    bunch = _attempt(operation, lambda: fetch_openml(data_id=int(number), as_frame=True, n_retries=1), expected)
    if target is None and len(bunch.target_names) == 1:
        target = bunch.target_names[0]
    return _from_table(operation, f"openml-{number}", bunch.frame, target, task)


def _load_npz(operation: str, path: Path, name: str, target: str | None, task: str | None) -> Dataset:
    if target not in (None, "y"):
        fail(operation, f"the target of an .npz file is its array 'y', got target={target!r}")

    def read() -> dict[str, NDArray[Any]]:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in ("X", "y")}

    arrays = _attempt(operation, read, "expects numpy.savez(path, X=..., y=...) of arrays of plain types")
    return from_arrays(name, arrays["X"], arrays["y"], task=task)


def _read_table(operation: str, path: Path, separator: str) -> pd.DataFrame:
    import pandas as pd

    def read(**options: Any) -> pd.DataFrame:
        options |= {"sep": separator, "skipinitialspace": True, "low_memory": False}
        return cast("pd.DataFrame", pd.read_csv(path, encoding="utf-8-sig", **options))

    expected = "expects a table: UTF-8 text, one row a line, with as many fields in each"
    first = _attempt(operation, lambda: read(header=None, nrows=1, dtype=str, keep_default_na=False), expected)
    names = first.iloc[0].str.strip()
    numbers = pd.to_numeric(names, errors="coerce").dropna()
    steps = numbers.diff().dropna()
    header = (numbers % 1 == 0).all() and (steps > 0).all() and steps.nunique() <= 1
    frame = _attempt(operation, lambda: read(header=0 if header else None, na_values=["?"]), expected)
    # pandas takes surplus fields for row labels, which would shift every name by one.
    if len(frame) and not isinstance(frame.index, pd.RangeIndex):
        fail(operation, f"{expected}; the first has {len(names)} and others have more")
    frame.columns = pd.Index([str(column).strip() for column in frame.columns])
    return frame.iloc[:, 1:] if header and names[0] == "" else frame


def _attempt(operation: str, read: Callable[[], T], expected: str) -> T:
    """Return ``read()``; fail with the reason, and without a third party's traceback or warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip()
    fail(operation, f"{expected} ({reason})")


def _from_table(operation: str, name: str, frame: pd.DataFrame, target: str | None, task: str | None) -> Dataset:
    columns = [str(column) for column in frame.columns]
    if target is None:
        named = {column.lower(): column for column in reversed(columns)}
        target = next((named[name] for name in _TARGET_NAMES if name in named), columns[-1])
    one_of(operation, "target column", target, columns)
    if len(columns) == 1:
        fail(operation, f"expects columns beside the target, got only {target!r}: is the separator right?")
    at = columns.index(target)
    y, task, classes = _encode_target(operation, frame.iloc[:, at], task)
    features = [i for i in range(len(columns)) if i != at]
    return Dataset(name, frame.iloc[:, features], y, cast(Any, task), classes, target)


def _encode_target(
    operation: str, column: pd.Series[Any], task: str | None
) -> tuple[NDArray[Any], str, tuple[str, ...]]:
    """Return (y, task, classes); the rule of inference is in the docstring of `load`."""
    kind = _kind(column)
    if not len(column):
        fail(operation, "expects rows of data, got none")
    if kind not in _KINDS.values():
        fail(operation, f"the target must be text, booleans or numbers, got {kind} ({column.dtype})")
    _check_rows(operation, column.isna().to_numpy(), "a missing value")
    text = kind == "text"
    values = column.astype(str).to_numpy(object) if text else column.to_numpy(np.float64)
    if task is None:
        few = kind == "integer" and len(np.unique(values)) <= _MAX_INTEGER_CLASSES
        task = "classification" if few or kind in ("text", "boolean") else "regression"
    if task == "regression":
        if text:
            fail(operation, f"the target of a regression must be numbers, got text such as {values[0]!r}")
        return values, task, ()
    if not text:
        _check_rows(operation, ~np.isfinite(values), "an infinite value")
        _check_rows(operation, values % 1 != 0, "a value that is no whole number, so no class label,")
    labels, y = np.unique(values, return_inverse=True)
    as_label = str if text else bool if kind == "boolean" else int
    return y, task, tuple(str(as_label(label)) for label in labels)


def _kind(column: pd.Series[Any]) -> str:
    import pandas as pd

    inferred = pd.api.types.infer_dtype(column, skipna=True)
    return _KINDS.get(inferred, inferred)


def _tidy(operation: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Copy the features, each column as float64 or as text, with NaN for a missing value."""
    import pandas as pd

    names = [str(name) for name in frame.columns]
    if not names or len(set(names)) < len(names):
        fail(operation, f"X must have columns, each with its own name, got {names}")
    columns = []
    for at, name in enumerate(names):
        column = frame.iloc[:, at]
        kind = _kind(column)
        if kind == "complex":
            fail(operation, f"column {name!r} of X must hold real numbers or text, got {column.dtype}")
        if kind in ("boolean", "integer", "float"):
            numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
            _check_rows(operation, np.abs(numbers) > _LARGEST, "infinity or more than float32 holds", name)
            columns.append(pd.Series(numbers))
        else:
            text = [np.nan if gone else str(value) for value, gone in zip(column, column.isna(), strict=True)]
            columns.append(pd.Series(text, dtype=object))
    return pd.concat(columns, axis=1, keys=names)


def _encoder(frame: pd.DataFrame) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    text = [name for name in frame.columns if frame[name].dtype == object]
    numeric = [name for name in frame.columns if frame[name].dtype != object]
    # keep_empty_features: a column that is empty in the training rows must not vanish with the seed.
    numbers = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
    categories = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="missing", keep_empty_features=True),
        OneHotEncoder(handle_unknown="ignore", max_categories=_MAX_CATEGORIES, sparse_output=False),
    )
    return ColumnTransformer([("numeric", numbers, numeric), ("text", categories, text)], sparse_threshold=0)


def _check_rows(operation: str, bad: NDArray[np.bool_], what: str, column: str = "") -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        where = f"column {column!r} of X" if column else "the target"
        listed = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        got = f"{where} has {what} in {len(rows)} of {len(bad)} rows"
        fail(operation, f"{got}: correct or drop rows {listed} (counted from 0)")


def _check_labels(operation: str, y: NDArray[Any], classes: tuple[str, ...]) -> None:
    if len(classes) < 2:
        fail(operation, f"expects at least two classes, got {len(classes)}: {', '.join(classes)}")
    if y.dtype.kind not in "iu" or (y < 0).any() or (y >= len(classes)).any():
        fail(operation, f"y must hold class indices in [0, {len(classes)}), one for each of the classes")
    counts = np.bincount(y, minlength=len(classes))
    rare = int(counts.argmin())
    if counts[rare] < 3:
        got = f"class {classes[rare]!r} has {counts[rare]} rows but needs 3, to be in all parts of a split"
        fail(operation, f"{got}: drop or merge it, or pass task='regression' if the target is a quantity")


def _check_quantity(operation: str, y: NDArray[Any], classes: tuple[str, ...]) -> None:
    if classes or y.dtype.kind not in "biuf":
        fail(operation, f"a regression needs numbers as y and no classes, got {y.dtype} and {len(classes)}")
    infinite = ~(np.abs(y.astype(np.float64)) <= _LARGEST)
    _check_rows(operation, infinite, "NaN, infinity or more than float32 holds")
    if len(y) < 4:
        fail(operation, f"expects at least 4 rows (2 training, 1 validation, 1 test), got {len(y)}")
    if (y == y[0]).all():
        fail(operation, f"the target is {y[0]} in every row: there is nothing to predict")


def _check_sizes(dataset: Dataset, n_test: int, n_val: int) -> None:
    count, operation = len(dataset.y), f"data.split {dataset.name!r}"
    n_train = count - n_test - n_val
    if n_train < max(len(dataset.classes), 2):
        fail(operation, f"{n_test} test and {n_val} validation rows of {count} leave too few to train on")
    if not dataset.classes:
        return
    # Whatever the seed, stratification leaves of a class at least its share, rounded down.
    counts = np.bincount(dataset.y)
    rare = int(counts.argmin())
    rest = counts[rare] * (count - n_test) // count
    if rest * n_train // (count - n_test) < 1:
        got = f"class {dataset.classes[rare]!r} has {counts[rare]} rows"
        fail(operation, f"{got}, too few to be sure of one in training: lower validation and test")
