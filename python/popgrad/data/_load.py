"""Loads data sets by name, from a file, from OpenML, and from arrays."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad.checks import fail, one_of
from popgrad.data._arrays import as_column, as_frame
from popgrad.data._common import TASKS, Origin, attempt, listed
from popgrad.data._dataset import Dataset
from popgrad.data._files import loaded
from popgrad.data._preprocessing import Preprocessing
from popgrad.data._records import SPACE
from popgrad.data._target import choose_target, encode_target
from popgrad.data._text import TextOptions, read_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NAMES", "bundled", "from_arrays", "load", "load_like"]

NAMES = ("digits", "breast_cancer", "wine", "iris", "diabetes")

# The separator for each suffix: "" if it is detected, None for a binary file.
_SUFFIXES: dict[str, str | None] = {
    ".csv": ",",
    ".csv.gz": ",",
    ".tsv": "\t",
    ".tsv.gz": "\t",
    ".data": "",
    ".data.gz": "",
    ".npz": None,
    ".npy": None,
}


@dataclass(frozen=True)
class _Wanted:
    """The checked options of the caller."""

    target: str | None
    task: str | None
    text: TextOptions
    drop: tuple[str, ...]


def load(
    source: str | os.PathLike[str],
    target: str | None = None,
    task: str | None = None,
    *,
    header: bool | None = None,
    sep: str | None = None,
    decimal: str = ".",
    na: str | Iterable[str] = (),
    drop: str | Iterable[str] = (),
) -> Dataset:
    """Read a dataset from a bundled source, a file or OpenML.

    `Dataset.notes` lists the assumptions that `load` made.

    In a text file, `load` skips blank lines and ignores spaces around fields. It takes the first row as the column
    names if one of these conditions holds:

    - a field has another kind (number, date or text) than the column below it;
    - all fields are text, and no field occurs again in its column;
    - the row has at least three numbers, which count by one from 0 or 1;
    - the row has at least two equally spaced numbers, and each number is outside the range of its column by more
      than the width of that range.

    It is always data if it contains a "?", a negative number, a decimal point, or numbers that do not increase
    in equal steps. Without a row of names, the columns are named "0", "1", ...

    A first column without a name is a row index; `load` leaves it out. `load` ignores surplus empty fields at the
    end of a row. Any other row with too many or too few fields raises an error.

    Args:
        source: one of `NAMES`; a path to a .csv, .tsv or .data file (UTF-8, optionally .gz); a path to an .npz file
            with arrays ``X`` and ``y``; or "openml:61", which downloads dataset 61 once. A source may end in ":" and
            the name of the target column, as in "cars.csv:price".
        target: name of the column to predict. Default for a bundled or OpenML dataset: the target that the dataset
            defines. Default for a file: the column named target, label, class or y in any case, otherwise the last
            column.
        task: "classification" or "regression". Default: classification if the target is text, boolean, or
            integer with at most 20 distinct values; regression otherwise. A target with a decimal point is
            therefore always regression.
        header: whether the first row of a text file holds the column names. Default: detected as described above.
        sep: the separator of a text file: one character, or a space or ``\\s+`` for any number of blanks. Default:
            the separator among ``,``, ``;``, tab and ``|`` (and blanks in a .data file) that gives all rows the same
            number of fields. If several do, `load` takes the separator that yields more numbers.
        decimal: the decimal point of a text file, "." or ",".
        na: strings that mark a missing value in a text file, in addition to the default markers: an empty field,
            ``?``, ``NA``, ``N/A``, ``NaN``, ``null``, ``None`` and similar words. If `na` contains an empty string,
            it replaces the default markers: ``na=[""]`` keeps a class named "None".
        drop: names of columns to exclude from the features. `split` can still use these columns.

    Raises:
        InputError: the source does not exist, cannot be read or holds unusable data, or an option is invalid.
    """
    operation = f"data.load {str(source)!r}"
    if not isinstance(source, (str, os.PathLike)):
        fail(operation, f"source must be a name or a path, got {type(source).__name__}")
    one_of(operation, "task", TASKS[0] if task is None else task, TASKS)
    text = _check_text_options(operation, header, sep, decimal, _strings(operation, "na", na))
    source, within = _separate_target(os.fspath(source))
    if within is not None and target not in (None, within):
        fail(operation, f"the source ends in the target {within!r}, but target={target!r} differs")
    target = target if within is None else within
    wanted = _Wanted(target, task, text, _strings(operation, "drop", drop))
    if source in NAMES or source.startswith("openml:"):
        _check_no_text_options(operation, wanted)
        return (_load_bundled if source in NAMES else _load_openml)(operation, source, wanted)
    path, suffix = _check_path(operation, source)
    name = re.sub(r"[^\w.-]+", "_", path.name[: -len(suffix)])[:60].lstrip(".-") or "data"
    separator = _SUFFIXES[suffix]
    if separator is None:
        _check_no_text_options(operation, wanted)
        if suffix == ".npy":
            fail(operation, "a .npy file has no target: pass X.npy:y.npy to popgrad fit, or use data.map_files")
        return _load_npz(operation, path, name, wanted)
    table = read_text(operation, path, separator, wanted.text)
    target, notes = choose_target(operation, table.columns, wanted.target)
    _check_drop(operation, table.columns, target, wanted.drop)
    frame = table.frame(target, wanted.drop)
    return _from_frame(operation, name, frame, target, wanted, [*table.notes, *notes])


def load_like(
    source: str | os.PathLike[str],
    like: Preprocessing,
    *,
    header: bool | None = None,
    sep: str | None = None,
    decimal: str | None = None,
    na: str | Iterable[str] = (),
) -> tuple[pd.DataFrame, list[str]]:
    """Read a table with the columns of another one, and return (frame, notes on the reading).

    Text columns of `like` are read as text. The frame of a text file is indexed by the line numbers of the file.

    Args:
        source: as for `load`, except OpenML; the target may be absent.
        like: the preprocessing of the other table.
        header: whether the first row of a text file holds the column names. Default: it does if a field is one of the
            columns of `like`. If the other table had no column names, the columns are named by their position; a file
            with one column less lacks the target.
        sep, decimal: as for `load`. Default: as for the other table.
        na: further strings that mark a missing value, besides those of the other table.

    Raises:
        InputError: the source does not exist, cannot be read or has no rows, or an option is invalid.
    """
    operation = f"predict {str(source)!r}"
    if not isinstance(source, (str, os.PathLike)):
        fail(operation, f"expects a frame, an array or a path, got {type(source).__name__}")
    origin = like.origin
    markers = (*origin.na, *_strings(operation, "na", na))
    text = _check_text_options(operation, header, sep or origin.sep, decimal or origin.decimal, markers)
    source = os.fspath(source)
    if source in NAMES:
        frame, labels = bundled(source)
        if like.classes and labels == like.classes and like.target in frame:
            frame[like.target] = np.array(labels, object)[frame[like.target]]
        return frame, []
    path, suffix = _check_path(operation, source)
    separator = _SUFFIXES[suffix]
    if separator is None:
        X = loaded(operation, path, "r") if suffix == ".npy" else _arrays_of(operation, path, ("X",))["X"]
        return as_frame(operation, X), []
    table = read_text(operation, path, separator, text, origin.columns)
    if origin.positional and table.positional and len(table.columns) == len(origin.columns) - 1:
        table.names[-len(table.columns) :] = [name for name in origin.columns if name != like.target]
    exact = {column.name for column in like.columns if column.kind == "text"} | {like.target}
    return table.raw(exact), table.notes


def from_arrays(
    name: str, X: ArrayLike | pd.DataFrame, y: ArrayLike, *, task: str | None = None, drop: str | Iterable[str] = ()
) -> Dataset:
    """Make a dataset from a matrix or a frame and a target.

    Args:
        name: short, usable in a file name.
        X: (N, columns) numbers or booleans, in which NaN or a mask marks a missing value. Or a frame of pandas,
            polars or PyArrow, which may also hold text and dates. The columns of a matrix are named x0, x1, ...
        y: (N,) labels (text, booleans, integers) or quantities.
        task: "classification" or "regression". Default: inferred from `y` by the rule of `load`.
        drop: names of columns to exclude from the features. `split` can still use these columns.

    Raises:
        InputError: a shape or type is wrong, or the data is unusable.
    """
    operation = f"data.from_arrays {name!r}"
    one_of(operation, "task", TASKS[0] if task is None else task, TASKS)
    frame = as_frame(operation, X)
    column = as_column(operation, y, len(frame))
    columns = [str(column) for column in frame.columns]
    wanted = _Wanted("y", task, TextOptions(), _strings(operation, "drop", drop))
    if wanted.drop:
        _check_drop(operation, columns, None, wanted.drop)
        frame = frame.set_axis(columns, axis=1)
    return _build(operation, name, frame, column, "y", wanted, [], columns)


def _separate_target(source: str) -> tuple[str, str | None]:
    """Split "FILE:target" at the last colon, unless a file with the whole name exists."""
    if os.path.exists(os.path.expanduser(source)):
        return source, None
    at = len(source)
    while (at := source.rfind(":", 0, at)) > 0:
        base = source[:at]
        known = base in NAMES or re.fullmatch(r"openml:\d+", base)
        if known or os.path.isfile(os.path.expanduser(base)) or base.lower().endswith(tuple(_SUFFIXES)):
            return base, source[at + 1 :]
    return source, None


def _strings(operation: str, what: str, given: str | Iterable[str]) -> tuple[str, ...]:
    strings = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else (None,)
    if not all(isinstance(string, str) for string in strings):
        fail(operation, f"{what} must be strings, got {given!r}")
    return tuple(str(string) for string in strings)


def _check_text_options(
    operation: str, header: bool | None, sep: str | None, decimal: str, na: tuple[str, ...]
) -> TextOptions:
    if header not in (None, True, False) or not isinstance(header, (bool, type(None))):
        fail(operation, f"header must be True, False or None (detect), got {header!r}")
    if decimal not in (".", ","):
        fail(operation, f"decimal must be '.' or ',', got {decimal!r}")
    sep = {"\\t": "\t", " ": SPACE}.get(sep, sep) if isinstance(sep, str) else sep
    if sep not in (None, SPACE) and (not isinstance(sep, str) or len(sep) != 1 or sep in '"\r\n'):
        fail(operation, f"sep must be one character, or r'\\s+' for blanks, got {sep!r}")
    if sep == decimal:
        fail(operation, f"sep and decimal must differ, got {sep!r} for both")
    return TextOptions(header, sep, decimal, na)


def _check_no_text_options(operation: str, wanted: _Wanted) -> None:
    if wanted.text != TextOptions():
        fail(operation, "header, sep, decimal and na are for text files (.csv, .tsv, .data)")


def _check_path(operation: str, source: str) -> tuple[Path, str]:
    """Return (the path of an existing file, its known suffix in lower case)."""
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
    return path, suffix


def _check_drop(operation: str, columns: list[str], target: str | None, drop: tuple[str, ...]) -> None:
    for name in drop:
        one_of(operation, "column to drop", name, columns)
        if name == target:
            fail(
                operation,
                f"cannot drop {name!r}: it is the target; pass target=... (--target) to predict another",
            )
    if drop and set(columns) <= {*drop, target}:
        fail(operation, f"expects a feature, but all columns are dropped: {listed(drop)}")


def _load_bundled(operation: str, name: str, wanted: _Wanted) -> Dataset:
    frame, names = bundled(name)
    target, _ = choose_target(operation, [str(column) for column in frame.columns], wanted.target or "target")
    if target == "target" and wanted.task is None:
        wanted = replace(wanted, task="regression" if name == "diabetes" else "classification")
    labels = names if target == "target" and wanted.task != "regression" else ()
    return _from_frame(operation, name, frame, target, wanted, [], labels)


def bundled(name: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return (the table of a data set in `NAMES`, the names of its classes; empty for a quantity)."""
    from sklearn import datasets

    # By default, scikit-learn scales diabetes with statistics of all rows, including the test rows.
    options = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name}")(as_frame=True, **options)
    return bunch.frame, tuple(map(str, bunch.get("target_names", ())))


def _load_openml(operation: str, source: str, wanted: _Wanted) -> Dataset:
    from sklearn.datasets import fetch_openml

    number = source.removeprefix("openml:")
    if not re.fullmatch("[1-9][0-9]{0,8}", number):
        fail(operation, "an OpenML dataset is named by its number, such as openml:61 (see openml.org)")
    expected = "OpenML needs an existing dataset number and, for the first download, a network connection"
    bunch = attempt(operation, lambda: fetch_openml(data_id=int(number), as_frame=True, n_retries=1), expected)
    own = bunch.target_names[0] if len(bunch.target_names) == 1 else None
    columns = [str(column) for column in bunch.frame.columns]
    target, notes = choose_target(operation, columns, own if wanted.target is None else wanted.target)
    return _from_frame(operation, f"openml-{number}", bunch.frame, target, wanted, notes)


def _load_npz(operation: str, path: Path, name: str, wanted: _Wanted) -> Dataset:
    if wanted.target not in (None, "y"):
        fail(operation, f"the target of an .npz file is its array 'y', got target={wanted.target!r}")

    arrays = _arrays_of(operation, path, ("X", "y"))
    return from_arrays(name, arrays["X"], arrays["y"], task=wanted.task, drop=wanted.drop)


def _arrays_of(operation: str, path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    def read() -> dict[str, NDArray[Any]]:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}

    return attempt(operation, read, "expects numpy.savez(path, X=..., y=...) with arrays of numbers or strings")


def _from_frame(
    operation: str,
    name: str,
    frame: pd.DataFrame,
    target: str,
    wanted: _Wanted,
    notes: list[str],
    labels: tuple[str, ...] = (),
) -> Dataset:
    """Make a dataset from a frame that includes the target column."""
    columns = [str(column) for column in frame.columns]
    frame = frame.set_axis(columns, axis=1)
    if len(columns) == 1:
        got = f"expects columns besides the target, got only {target!r}"
        fail(operation, f"{got}: is the separator right? Pass sep=... (--sep)")
    _check_drop(operation, columns, target, wanted.drop)
    at = columns.index(target)
    features = frame.iloc[:, [i for i in range(len(columns)) if i != at]]
    return _build(operation, name, features, frame.iloc[:, at], target, wanted, notes, columns, labels)


def _build(
    operation: str,
    name: str,
    frame: pd.DataFrame,
    column: pd.Series[Any],
    target: str,
    wanted: _Wanted,
    notes: list[str],
    columns: list[str],
    labels: tuple[str, ...] = (),
) -> Dataset:
    found = encode_target(operation, column, wanted.task)
    origin = Origin(tuple(columns), wanted.text.sep, wanted.text.decimal, wanted.text.na)
    aside = None
    if wanted.drop:
        aside = frame[list(wanted.drop)].reset_index(drop=True)
        frame = frame.drop(columns=list(wanted.drop))
    classes, label_type = labels or found.classes, "text" if labels else found.label_type
    notes = [*notes, *found.notes]
    return Dataset(name, frame, found.y, found.task, classes, target, tuple(notes), aside, label_type, origin)
