"""Training, validation and test rows: drawn at random, by time, or by groups."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgrad.checks import fail, one_of, positive_int
from popgrad.data._common import check_rows, kind
from popgrad.data._dataset import Dataset, Split
from popgrad.data._dates import dates_in
from popgrad.data._fit import fitted_to
from popgrad.data._numbers import Distinct

__all__ = ["split"]

_Rows = NDArray[np.int64]


def split(dataset: Dataset, seed: int = 0, validation: float = 0.2, test: float = 0.2, *, by: str = "random") -> Split:
    """Split a dataset into training, validation and test rows, then encode and standardize the features.

    The encoding and the scaling are fitted to the training rows alone. `Split.preprocessing` holds them, and encodes
    other tables in the same way.

    A missing number is replaced by the median of its column. Text is one-hot encoded with at most 32 columns per
    text column; missing text is a separate category. A category that no training row has is encoded as zeros.
    A date becomes the number of days since 1970. For each cycle (year, week, day), a sine and a cosine are added
    if the dates span at least two cycles and their median step is below half a cycle.

    Numbers are standardized: ``(x - mean) / scale``. The scale is the standard deviation, but at least 1/20 of the
    range of the training values, so outliers cannot stretch the training values over more than 20 units.
    Validation and test values are clipped to the training range, extended by its width on each side.
    A column that is constant in the training rows becomes zeros.

    With ``by="random"``, the split is stratified: the three parts have nearly equal class proportions, and every
    class occurs in the training rows. Validation and test each have at least as many rows as there are classes.
    Any other split raises an error if a class does not occur in the training rows.

    Args:
        dataset: from `load` or `from_arrays`.
        seed: seed of the random order of the rows or groups, in [0, 2**32).
        validation, test: shares of all rows, each in (0, 1), with a sum below 1.
        by: "random", "time", or the name of a column (a feature or a column set aside). "time" keeps the order of
            the rows: training first, then validation, then test; the seed has no effect. A column keeps rows with
            equal values in the same part, so the shares are approximate. If the column holds dates, the rows are
            sorted by date, with training first. Any other column defines groups, which are shuffled, and is
            removed from the features.

    Raises:
        InputError: an argument is out of range, a class has too few rows for the shares, there are too few rows or
            groups, or the column `by` has missing values.
    """
    _check_arguments(dataset, seed, validation, test)
    frame, y, count = dataset.frame, dataset.y, len(dataset.y)
    if by == "random":
        train, val, held = _random(dataset, int(seed), validation, test)
    else:
        codes, ordered = _groups(dataset, by)
        if not ordered:
            codes = np.random.default_rng(int(seed)).permutation(int(codes.max()) + 1)[codes]
            frame = frame.drop(columns=by, errors="ignore")
            if not frame.shape[1]:
                fail(f"data.split {dataset.name!r}", f"no feature is left besides the groups {by!r}")
        train, val, held = _cut(dataset, by, codes, round(count * validation), round(count * test))
    fitted, table = fitted_to(dataset, frame, train)

    def part(rows: _Rows) -> tuple[NDArray[np.float32], NDArray[Any]]:
        return fitted.encode(table, rows), y[rows] if dataset.classes else fitted.standardize(y[rows])

    return Split(*part(train), *part(val), *part(held), fitted)


def _check_arguments(dataset: Dataset, seed: int, validation: float, test: float) -> None:
    if not isinstance(dataset, Dataset):
        fail("data.split", f"expects a Dataset (from data.load or data.from_arrays), got {type(dataset).__name__}")
    if positive_int("data.split", "seed", seed, least=0) >= 2**32:
        fail("data.split", f"seed must be below 2**32, got {seed!r}")
    shares: dict[str, Any] = {"validation": validation, "test": test}
    for what, share in shares.items():
        if not isinstance(share, (int, float, np.floating)) or not 0 < share < 1:
            fail("data.split", f"{what} must be a share of all rows in (0, 1), got {share!r}")
    if validation + test >= 1:
        fail("data.split", f"validation + test must be below 1, got {validation} + {test}")


def _random(dataset: Dataset, seed: int, validation: float, test: float) -> tuple[_Rows, _Rows, _Rows]:
    from sklearn.model_selection import train_test_split

    y, count = dataset.y, len(dataset.y)
    least = max(len(dataset.classes), 1)
    n_test, n_val = max(round(count * test), least), max(round(count * validation), least)
    _check_sizes(dataset, n_test, n_val)

    def divide(rows: _Rows, size: int) -> Any:
        labels = y[rows] if dataset.classes else None
        return train_test_split(rows, test_size=size, random_state=seed, stratify=labels)

    rest, test_rows = divide(np.arange(count), n_test)
    train_rows, val_rows = divide(rest, n_val)
    return train_rows, val_rows, test_rows


def _groups(dataset: Dataset, by: str) -> tuple[_Rows, bool]:
    """Return ((N,) group number of each row, whether the groups are ordered)."""
    operation = f"data.split {dataset.name!r}"
    if by == "time":
        return np.arange(len(dataset.y)), True
    columns = {str(name): dataset.frame[name] for name in dataset.frame}
    if dataset.aside is not None:
        columns = {str(name): dataset.aside[name] for name in dataset.aside} | columns
    if by == dataset.target:
        fail(operation, f"by must be 'random', 'time' or a column other than the target, got {by!r}")
    column = columns[one_of(operation, "way to split", by, ["random", "time", *columns])]
    check_rows(operation, column.isna().to_numpy(), "a missing value", f"column {by!r}")
    if kind(column) == "text":
        dates = dates_in(operation, f"column {by!r}", Distinct(column.astype(object).map(str)))
        column = column if dates is None else dates.values
    values: Any = column.to_numpy(object) if kind(column) == "text" else column.to_numpy()
    return np.unique(values, return_inverse=True)[1], kind(column) == "date"


def _cut(dataset: Dataset, by: str, codes: _Rows, n_val: int, n_test: int) -> tuple[_Rows, _Rows, _Rows]:
    """Sort the rows by group number and cut them into three parts at group boundaries."""
    operation = f"data.split {dataset.name!r}"
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes))
    groups, count = len(ends), len(codes)
    if groups < 3:
        fail(operation, f"by={by!r} needs 3 groups, one for each part, got {groups}")
    first = int(np.abs(ends[: groups - 2] - (count - n_val - n_test)).argmin())
    second = first + 1 + int(np.abs(ends[first + 1 : groups - 1] - (count - n_test)).argmin())
    train, val, test = np.split(order, [int(ends[first]), int(ends[second])])
    if len(train) < 2:
        fail(operation, f"by={by!r} leaves too few rows to train on: lower validation and test")
    missing = np.setdiff1d(np.arange(len(dataset.classes)), dataset.y[train])
    if len(missing):
        label = dataset.classes[missing[0]]
        got = f"by={by!r} leaves no row of class {label!r} to train on"
        fail(operation, f"{got}: take another seed or by='random', or lower validation and test")
    return train, val, test


def _check_sizes(dataset: Dataset, n_test: int, n_val: int) -> None:
    count, operation = len(dataset.y), f"data.split {dataset.name!r}"
    n_train = count - n_test - n_val
    if n_train < max(len(dataset.classes), 2):
        fail(operation, f"{n_test} test and {n_val} validation rows of {count} leave too few to train on")
    if not dataset.classes:
        return
    # For any seed, a stratified split keeps at least the proportional number of rows of a class, rounded down.
    counts = np.bincount(dataset.y)
    rare = int(counts.argmin())
    rest = counts[rare] * (count - n_test) // count
    if rest * n_train // (count - n_test) < 1:
        got = f"class {dataset.classes[rare]!r} has {counts[rare]} rows"
        fail(operation, f"{got}, too few to be sure of one in training: lower validation and test")
