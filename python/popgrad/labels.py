"""Maps class labels (text or numbers) to class indices 0 to K - 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from popgrad.checks import at_least_zero, fail, number

__all__ = ["ClassWeight", "Classes", "checked", "class_factors", "encode", "find", "is_text"]

Array = NDArray[Any]
Classes = tuple[str, ...] | tuple[int, ...] | tuple[float, ...]
ClassWeight = Literal["balanced"] | Mapping[Any, float]


def is_text(y: Array) -> bool:
    """Whether labels are text; an array of objects counts as text."""
    return y.dtype.kind in "USTO"


def checked(operation: str, classes: Sequence[Any], count: int) -> Classes:
    """Labels as a tuple of Python strings or numbers.

    Raises:
        InputError: the labels are not `count` different strings or `count` different finite numbers.
    """
    values = tuple(getattr(label, "item", lambda label=label: label)() for label in classes)
    text = all(isinstance(label, str) for label in values)
    numbers = all(isinstance(label, (bool, int, float)) and np.isfinite(label) for label in values)
    if not (text or numbers) or len(values) != count or len(set(values)) != count:
        fail(operation, f"classes must be {count} different strings or {count} different numbers, got {classes!r}")
    return values


def find(operation: str, y: Array, count: int) -> Classes | None:
    """The sorted classes of the labels y, or None if y needs no encoding.

    Whole numbers in [0, `count`) need no encoding. Whole numbers outside this range are class labels if exactly
    `count` of them differ. Text must hold exactly `count` different labels.

    Raises:
        InputError: y is text with missing values, or the number of different labels is not `count`.
    """
    if y.shape not in ((len(y),), (len(y), 1)):
        return None
    if not is_text(y):
        whole = y.dtype.kind in "iu" or (y.dtype.kind == "f" and bool((np.isfinite(y) & (y == np.floor(y))).all()))
        if not whole or len(y) == 0 or (y.min() >= 0 and y.max() < count):
            return None
        distinct = np.unique(y)
        return checked(operation, distinct.tolist(), count) if len(distinct) == count else None
    distinct, _ = _distinct(operation, y)
    if len(distinct) != count:
        shown = ", ".join(map(repr, distinct[:5].tolist())) + (", ..." if len(distinct) > 5 else "")
        fail(operation, f"y must hold one label for each of the model's {count} classes, got {len(distinct)}: {shown}")
    return checked(operation, distinct.tolist(), count)


def encode(operation: str, y: Array, classes: Classes) -> Array:
    """The class index of each label, in the shape of y; if the classes are text, numbers in y are already indices.

    Raises:
        InputError: a label is not among the classes.
    """
    if isinstance(classes[0], str) and not is_text(y):
        return y
    distinct, places = _distinct(operation, y)
    known = {label: place for place, label in enumerate(classes)}
    numbers = np.array([known.get(label, -1) for label in distinct.tolist()], np.int64)
    if (numbers < 0).any():
        label = distinct.tolist()[int(np.argmax(numbers < 0))]
        fail(operation, f"y holds the label {label!r}, which is not among the classes of the model {list(classes)!r}")
    return numbers[places].reshape(y.shape)


def class_factors(operation: str, class_weight: ClassWeight, counts: Array, classes: Classes | None) -> Array:
    """The weight (K,) of each class.

    Args:
        operation: prefix of error messages.
        class_weight: "balanced": samples / (classes that occur * samples of the class), as in scikit-learn; or a
            weight >= 0 for some original labels, where the other classes have weight 1.
        counts: (K,) number of samples of each class.
        classes: the original labels of the classes 0 to K - 1, or None if these are the labels.

    Raises:
        InputError: a label is not among the classes, or a weight is negative, not finite, or zero for all samples.
    """
    known = list(range(len(counts))) if classes is None else list(classes)
    if isinstance(class_weight, str) and class_weight == "balanced":
        return np.where(counts > 0, counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)), 0.0)
    if not isinstance(class_weight, Mapping):
        fail(operation, f"class_weight must be 'balanced', a weight per label, or None, got {class_weight!r}")
    factors = np.ones(len(known))
    for label, weight in class_weight.items():
        if label not in known:
            fail(operation, f"class_weight holds the label {label!r}, which is not among the classes {known!r}")
        if not at_least_zero(weight):
            fail(operation, f"class_weight must hold finite numbers >= 0, got {weight!r} for {label!r}")
        factors[known.index(label)] = number(weight)
    if not (factors[counts > 0] > 0).any():
        fail(operation, "class_weight is zero for all classes that occur in y")
    return factors


def _distinct(operation: str, y: Array) -> tuple[Array, Array]:
    """The distinct labels, sorted, and the index (N,) of each label of y in this list."""
    if y.dtype.kind == "S":
        y = np.char.decode(y)
    if y.dtype.kind == "O":
        wrong = np.array([not isinstance(label, str) for label in y.ravel()], bool)
        if wrong.any():
            row = int(np.argmax(wrong))
            got = f"{y.ravel()[row]!r} in row {row}"
            fail(operation, f"labels must be all text or all numbers, without missing values, got {got}")
    distinct, places = np.unique(y, return_inverse=True)
    return distinct, places.reshape(-1)
