"""Errors that come before any work, and say what was expected and what was got."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any, NoReturn, SupportsFloat, cast

__all__ = ["InputError", "at_least_zero", "fail", "fraction", "one_of", "positive", "positive_int", "whole_seed"]


class InputError(ValueError):
    """What the caller gave cannot be used; the message names the operation and what it expects."""


def fail(operation: object, message: str) -> NoReturn:
    """Raise ``InputError("[operation] message")``.

    Args:
        operation: a string, or an object whose class name is meant.
        message: what is expected and what was got.

    Raises:
        InputError: always.
    """
    name = operation if isinstance(operation, str) else type(operation).__name__
    raise InputError(f"[{name}] {message}")


def one_of(operation: object, what: str, name: object, known: Iterable[str]) -> str:
    """Return `name` if it is among `known`; otherwise fail and suggest the nearest.

    Raises:
        InputError: `name` is not known.
    """
    known = list(known)
    if isinstance(name, str) and name in known:
        return name
    near = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    fail(operation, f"unknown {what} {name!r}. {hint}Known: {', '.join(known)}")


def _number(value: object) -> float:
    if isinstance(value, (bool, str)):
        return math.nan
    try:
        return float(cast(SupportsFloat, value))
    except (TypeError, ValueError):
        return math.nan


def positive(obj: Any, *names: str) -> None:
    """Fail unless every named attribute of `obj` is a finite number > 0 (or a schedule, a callable)."""
    for name in names:
        value = getattr(obj, name)
        if not callable(value) and not (0 < _number(value) < math.inf):
            fail(obj, f"{name} must be a finite number > 0, got {value!r}")


def at_least_zero(value: object) -> bool:
    """Whether `value` is a finite number >= 0."""
    return 0 <= _number(value) < math.inf


def fraction(obj: Any, *names: str) -> None:
    """Fail unless every named attribute of `obj` is in [0, 1)."""
    for name in names:
        value = getattr(obj, name)
        if not 0 <= _number(value) < 1:
            fail(obj, f"{name} must be in [0, 1), got {value!r}")


def positive_int(operation: object, name: str, value: object, least: int = 1) -> int:
    """Return `value` as an int; fail unless it is a whole number >= `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(cast(Any, value)) < least:
        fail(operation, f"{name} must be a whole number >= {least}, got {value!r}")
    return int(cast(Any, value))


def whole_seed(operation: object, seed: object) -> int:
    """Return `seed` as an int; fail unless it is a whole number in [0, 2^64)."""
    number = positive_int(operation, "seed", seed, 0)
    if number >= 1 << 64:
        fail(operation, f"seed must be below 2^64, got {seed!r}")
    return number
