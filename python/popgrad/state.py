"""States as trees of arrays and numbers: functions to flatten, restore and compare them."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from numbers import Real
from typing import Any, TypeVar, cast

import numpy as np

from popgrad.backends import aligned
from popgrad.checks import fail

__all__ = ["digest", "flatten", "like", "restored"]

T = TypeVar("T")
Value = Any  # an array or a number


def flatten(tree: object) -> dict[str, Value]:
    """The arrays (not copied) and numbers of a tree, by dotted names such as "inner.slots".

    Args:
        tree: nested mappings, dataclasses and objects with ``state_dict()`` and ``load_state_dict()``. Leaves are
            arrays and numbers. None is omitted, and so are dataclass fields with ``metadata={"state": False}``.
    """
    if hasattr(tree, "state_dict"):
        return dict(tree.state_dict())
    flat: dict[str, Value] = {}
    for name, value in _branches(tree):
        if _is_tree(value):
            flat |= {f"{name}.{below}": leaf for below, leaf in flatten(value).items()}
        elif value is not None:
            flat[name] = value
    return flat


def restored(operation: str, tree: T, flat: Mapping[str, Value]) -> T:
    """A tree like `tree`, with values from the result of `flatten` for another tree.

    Args:
        operation: prefix of error messages.
        tree: template for structure, shapes and types; not changed. The result shares its parts that are not state.
        flat: values by dotted names. A number may be an array of shape (), as ``np.savez`` stores it. An array may be
            nested lists, as in JSON, if the array's dtype represents each of their numbers exactly.

    Raises:
        InputError: a name is missing or unknown, or a value has the wrong shape or type.
    """
    if hasattr(tree, "load_state_dict"):
        again = copy.copy(tree)
        again.load_state_dict(flat)
        return again
    if is_dataclass(tree):
        changed: T = replace(cast(Any, tree), **_restored_branches(operation, tree, flat))
        return changed
    return cast(T, _restored_branches(operation, tree, flat))


def _restored_branches(operation: str, tree: object, flat: Mapping[str, Value]) -> dict[str, object]:
    branches = dict(_branches(tree))
    trees = [name for name, value in branches.items() if _is_tree(value)]
    leaves = [name for name, value in branches.items() if value is not None and name not in trees]
    given = {name for name in flat if not any(name.startswith(f"{branch}.") for branch in trees)}
    for name in sorted(set(leaves) ^ given):
        known = name in leaves
        fail(operation, f"{name!r} does not fit this run: it is {'missing' if known else 'not a part of it'}")
    found: dict[str, object] = {name: like(operation, name, flat[name], branches[name]) for name in leaves}
    for branch in trees:
        below = {name.removeprefix(f"{branch}."): v for name, v in flat.items() if name.startswith(f"{branch}.")}
        found[branch] = restored(operation, branches[branch], below)
    return {name: found.get(name) for name in branches}


def _is_tree(value: object) -> bool:
    return isinstance(value, Mapping) or is_dataclass(value) or hasattr(value, "state_dict")


def _branches(tree: object) -> Iterator[tuple[str, object]]:
    if isinstance(tree, Mapping):
        yield from tree.items()
    else:
        for field in fields(cast(Any, tree)):
            if field.metadata.get("state", True):
                yield field.name, getattr(tree, field.name)


def digest(value: Any) -> int:
    """A hash of `value` in [0, 2^53); equal values have equal hashes, in every process.

    A hash below 2^53 is exact in file formats whose numbers are float64.
    """
    return int.from_bytes(hashlib.sha256(_described(value).encode()).digest()[:8], "big") >> 11


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.shape} {hashlib.sha256(value.astype(np.float64).tobytes()).hexdigest()}"
    if is_dataclass(value) and not isinstance(value, type):
        inside = [f"{field.name}={_described(getattr(value, field.name))}" for field in fields(value)]
        return f"{type(value).__qualname__}({', '.join(inside)})"
    if isinstance(value, Real):
        return repr(float(value))
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))  # the address of a schedule differs between processes


def like(operation: str, key: str, value: Any, mine: Any) -> Any:
    """Convert `value` to the type of `mine`: a number, or a copied array with the same shape and dtype.

    Raises:
        InputError: `value` has another shape or type.
    """
    if isinstance(mine, np.ndarray):
        return _array_like(operation, key, value, mine)
    number = value.item() if isinstance(value, (np.ndarray, np.generic)) and np.ndim(value) == 0 else value
    if isinstance(mine, (str, bool)) and isinstance(number, type(mine)):
        return number
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        fail(operation, f"{key!r} does not fit this run: it must be a number, got {value!r}")
    if isinstance(mine, int) and isinstance(number, float) and not number.is_integer():
        fail(operation, f"{key!r} does not fit this run: it must be a whole number, got {value!r}")
    return type(mine)(number)


def _array_like(operation: str, key: str, value: Any, mine: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    listed = isinstance(value, (list, tuple))
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        fail(operation, f"{key!r} does not fit this run: it must be an array of shape {mine.shape}")
    if array.shape != mine.shape:
        fail(operation, f"{key!r} does not fit this run: it must have shape {mine.shape}, got {array.shape}")
    native = array.dtype.newbyteorder("=")
    if native != mine.dtype and not (listed and array.dtype.kind in "fiu"):
        fail(operation, f"{key!r} does not fit this run: it must be {mine.dtype}, got {array.dtype}")
    copied = aligned(array.shape, mine.dtype)
    copied[...] = array
    if listed and not np.array_equal(copied, array, equal_nan=True):
        fail(operation, f"{key!r} does not fit this run: {mine.dtype} does not hold its numbers")
    return copied
