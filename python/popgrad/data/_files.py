"""Tables that are larger than memory: inputs in a mapped .npy file, and the target in another .npy file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from popgrad.arrays import FAULT, release
from popgrad.checks import fail, one_of, positive_int
from popgrad.data._common import LARGEST, TASKS, LabelType, Origin, attempt, listed
from popgrad.data._encode import Scaling, bounded
from popgrad.data._preprocessing import Column, Preprocessing, Tabled
from popgrad.data._target import encode_target

__all__ = ["ArrayFiles", "FileSplit", "loaded", "map_files", "pair_of", "split_files"]

Array = NDArray[Any]

_BLOCK = 16 << 20  # bytes of X examined at a time
_RESIDENT = 128 << 20  # bytes of a file that may be resident before their memory is released
_HELD = 64 << 20  # bytes of encoded validation rows, and of encoded test rows, that are kept in memory


@dataclass(frozen=True, eq=False)
class ArrayFiles:
    """A matrix in a mapped file, and its target in memory.

    Attributes:
        X: (N, columns) numbers, C-contiguous, mapped; NaN marks a missing value.
        y: (N,) int64 class indices, or float64 for regression.
        task, classes, label_type, target, notes: as in `popgrad.data.Dataset`.
    """

    X: Array
    y: Array
    task: Literal["classification", "regression"]
    classes: tuple[str, ...]
    label_type: LabelType
    target: str
    notes: tuple[str, ...]

    @property
    def columns(self) -> int:
        """The number of columns of X."""
        return int(self.X.shape[1])


@dataclass(frozen=True, eq=False)
class FileSplit:
    """A split of `ArrayFiles`. Validation and test rows are encoded in memory; training rows stay in the file.

    Attributes:
        training: (N,) bool, the training rows.
        y: (N,) the network's target: int64 class indices, or standardized float32.
        X_val, y_val, X_test, y_test: as in `popgrad.data.Split`.
        preprocessing: fitted on the training rows.
    """

    training: NDArray[np.bool_]
    y: Array
    X_val: NDArray[np.float32]
    y_val: Array
    X_test: NDArray[np.float32]
    y_test: Array
    preprocessing: Preprocessing

    @property
    def rows(self) -> tuple[int, int, int]:
        """The numbers of training, validation and test rows."""
        return int(np.count_nonzero(self.training)), len(self.y_val), len(self.y_test)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self.preprocessing.features

    @property
    def target_scale(self) -> float:
        """See `Preprocessing`."""
        return self.preprocessing.target_scale

    def encode(self, X: Array) -> NDArray[np.float32]:
        """Encode rows (b, columns) of X."""
        return _encoded(self.preprocessing, X)


def pair_of(source: str) -> tuple[str, str] | None:
    """Split "X.npy:y.npy" into two paths; None for any other source."""
    at = source.lower().find(".npy:")
    if at < 0 or not source.lower().endswith(".npy"):
        return None
    return source[: at + 4], source[at + 5 :]


def map_files(inputs: str, target: str, task: str | None = None) -> ArrayFiles:
    """Map a .npy file of inputs, and read the .npy file of its target.

    Args:
        inputs: path of an array (N, columns) of numbers, in C order.
        target: path of an array (N,) of labels or numbers.
        task: as for `popgrad.data.load`.

    Raises:
        InputError: a file cannot be read, the shapes do not fit, or the target is unusable.
    """
    import pandas as pd

    operation = f"data.map_files {inputs!r}"
    one_of(operation, "task", TASKS[0] if task is None else task, TASKS)
    X, y = loaded(operation, inputs, "r"), loaded(operation, target, None)
    if X.ndim != 2 or 0 in X.shape or X.dtype.kind not in "iuf" or not X.flags.c_contiguous:
        got = f"{X.dtype} {X.shape}" + ("" if X.flags.c_contiguous else " in Fortran order")
        fail(operation, f"expects numbers (N, columns) in C order, as numpy.save writes them, got {got}")
    if y.shape != (len(X),):
        fail(operation, f"{target!r} must have shape ({len(X)},), one value per row of X, got {y.shape}")
    found = encode_target(operation, pd.Series(y), task)
    if found.classes:
        counts = np.bincount(found.y)
        if len(counts) < 2 or counts.min() < 3:
            fail(operation, f"expects at least two classes with 3 rows each, got {listed(counts.tolist())} rows")
    name = os.path.basename(target)[: -len(".npy")]
    size = f"{X.nbytes / 1e9:.1f} GB"
    note = f"{inputs} ({len(X):,} rows, {size}) is mapped; rows are standardized when they are read."
    return ArrayFiles(X, found.y, found.task, found.classes, found.label_type, name, (note, *found.notes))


def loaded(operation: str, path: str | os.PathLike[str], mode: Literal["r"] | None) -> Array:
    """The array in a .npy file, mapped if the mode is "r".

    Raises:
        InputError: the file does not exist, or is not an array.
    """
    if not os.path.isfile(os.path.expanduser(path)):
        fail(operation, f"expects a file, but there is none at {path!r}")
    array = attempt(
        operation,
        lambda: np.load(os.path.expanduser(path), mmap_mode=mode, allow_pickle=False),
        f"{path!r} must be an array that numpy.save wrote",
    )
    return np.asarray(array)


def split_files(files: ArrayFiles, seed: int = 0, share: float = 0.2, *, by: str = "random") -> FileSplit:
    """Divide the rows of files, and fit the standardization to the training rows, in one pass over them.

    Validation and test rows are `share` of all rows each, but at most 64 MiB of encoded rows each. Numbers are
    standardized and clipped as by `popgrad.data.split`; a missing number is replaced by the mean of its column.

    Args:
        files: from `map_files`.
        seed: seed of the random choice of the rows.
        share: share of the validation rows and of the test rows, in (0, 0.5).
        by: "random"; or "time": training rows come first, then validation rows, then test rows.

    Raises:
        InputError: there are too few rows, a class has no training row, or X holds infinity.
    """
    operation = "data.split_files"
    by, seed = one_of(operation, "way to split", by, ("random", "time")), positive_int(operation, "seed", seed, 0)
    count = len(files.y)
    held = min(round(count * share), max(1, _HELD // (4 * files.columns)))
    if not held > 0 or count - 2 * held < 2:
        fail(operation, f"{count} rows are too few to divide into training, validation and test rows")
    order = np.random.default_rng(seed).permutation(count) if by == "random" else np.arange(count)
    val, test = np.sort(order[count - 2 * held : count - held]), np.sort(order[count - held :])
    training = np.ones(count, bool)
    training[val] = training[test] = False
    y = files.y
    if files.classes and len(np.unique(y[training])) < len(files.classes):
        fail(operation, "a class has no training row: take another seed")
    mean, scale = 0.0, 1.0
    if not files.classes:
        mean, scale = float(y[training].mean()), float(y[training].std()) or 1.0
    fitted = _preprocessing(files, _fit(files.X, training), mean, scale)
    if not files.classes:
        y = fitted.standardize(y)
    return FileSplit(training, y, _rows(files.X, val, fitted), y[val], _rows(files.X, test, fitted), y[test], fitted)


def _preprocessing(files: ArrayFiles, scaling: Scaling, mean: float, scale: float) -> Preprocessing:
    names = tuple(f"x{i}" for i in range(files.columns))
    columns = tuple(Column(name, "number") for name in names)
    origin = Origin(names)
    return Preprocessing(columns, scaling, names, files.target, files.classes, files.label_type, mean, scale, origin)


def _encoded(fitted: Preprocessing, X: Array) -> NDArray[np.float32]:
    return fitted.encode(Tabled(X, np.empty((len(X), 0), np.int64)), np.arange(len(X)))


def _rows(X: Array, rows: Array, fitted: Preprocessing) -> NDArray[np.float32]:
    """Encoded rows, some at a time, since each may make a larger part of the file resident."""
    out = np.empty((len(rows), X.shape[1]), np.float32)
    step = max(1, _RESIDENT // max(FAULT, X[:1].nbytes))
    for first in range(0, len(rows), step):
        out[first : first + step] = _encoded(fitted, X[rows[first : first + step]])
        release(X)
    return out


def _fit(X: Array, training: NDArray[np.bool_]) -> Scaling:
    """The scaling of the training rows, from one pass over blocks (Chan et al. 1983)."""
    count = X.shape[1]
    n, mean, squares = np.zeros(count), np.zeros(count), np.zeros(count)
    least, most = np.full(count, np.inf), np.full(count, -np.inf)
    step = max(1, _BLOCK // (8 * count))
    for first in range(0, len(X), step):
        block = X[first : first + step][training[first : first + step]].astype(np.float64)
        release(X)
        _check_block(block, first)
        known = ~np.isnan(block)
        here = known.sum(axis=0)
        some = here > 0
        block[~known] = 0
        center = np.divide(block.sum(axis=0), here, out=np.zeros(count), where=some)
        spread = np.where(known, block - center, 0)
        gap, total = center - mean, np.maximum(n + here, 1)
        squares += (spread**2).sum(axis=0) + gap**2 * n * here / total
        mean += gap * here / total
        n += here
        least = np.minimum(least, np.where(known, block, np.inf).min(axis=0, initial=np.inf))
        most = np.maximum(most, np.where(known, block, -np.inf).max(axis=0, initial=-np.inf))
    empty = n == 0
    least[empty] = most[empty] = 0
    return bounded(mean, least, most, mean, np.sqrt(squares / np.count_nonzero(training)))


def _check_block(block: Array, first: int) -> None:
    beyond = np.abs(block) > LARGEST
    if beyond.any():
        column = int(beyond.any(axis=0).argmax())
        what = "infinity or a value beyond the range of float32"
        fail("data.split_files", f"column {column} of X holds {what} in a training row, at or after row {first}")
