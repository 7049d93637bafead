"""Checks of saved states, and digests of the settings that a state depends on."""

from __future__ import annotations

import hashlib
import re
from dataclasses import fields, is_dataclass
from numbers import Real
from typing import Any

import numpy as np

from popgrad.checks import fail

__all__ = ["digest", "like"]


def digest(value: Any) -> int:
    """Return a hash of `value` in [0, 2^53): equal values have equal hashes, in every process.

    53 bits, so that a file format that stores numbers as float64 keeps it exactly.
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


def like(name: str, key: str, value: Any, mine: Any) -> Any:
    """Return a copy of `value` with the type of `mine`: a number, or an array of the same shape.

    Raises:
        InputError: `value` has another type or shape.
    """
    if isinstance(mine, np.ndarray):
        return _array_like(name, key, value, mine)
    number = value.item() if isinstance(value, (np.ndarray, np.generic)) and np.ndim(value) == 0 else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        fail(name, f"{key!r} does not fit this run: it must be a number, got {value!r}")
    if isinstance(mine, int) and isinstance(number, float) and not number.is_integer():
        fail(name, f"{key!r} does not fit this run: it must be a whole number, got {value!r}")
    return type(mine)(number)


def _array_like(name: str, key: str, value: Any, mine: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    listed = isinstance(value, (list, tuple))
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        fail(name, f"{key!r} does not fit this run: it must be an array of shape {mine.shape}")
    if array.shape != mine.shape:
        fail(name, f"{key!r} does not fit this run: it must have shape {mine.shape}, got {array.shape}")
    native = array.dtype.newbyteorder("=")
    if native != mine.dtype and not (listed and array.dtype.kind in "fiu"):
        fail(name, f"{key!r} does not fit this run: it must be {mine.dtype}, got {array.dtype}")
    copied = np.array(array, mine.dtype, order="C")
    if listed and not np.array_equal(copied, array, equal_nan=True):
        fail(name, f"{key!r} does not fit this run: {mine.dtype} does not hold its numbers")
    return copied
