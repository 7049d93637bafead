"""Arithmetic over many steps at once, with the bits of the same arithmetic on the float of one step.

The formula of a schedule or of an optimizer's fields is written once, for a step number ``t`` that is an int or a
`Column`. NumPy rounds ``+ - * /`` and ``sqrt`` as Python does. A column calls the C library for powers and cosines,
since NumPy's differ in the last bit.
"""

from __future__ import annotations

from math import cos
from math import sqrt as root
from typing import Any

import numpy as np

from popgrad import _core

__all__ = [
    "Column",
    "column",
    "cosine",
    "first_of",
    "head",
    "larger",
    "running_maximum",
    "running_product",
    "running_sum",
    "smaller",
    "sqrt",
    "where",
]


class Column(np.ndarray[Any, np.dtype[np.float64]]):
    """A float64 array (count,), one value per step. ``**`` has the bits that Python's floats give."""

    def __pow__(self, exponent: Any, modulo: None = None) -> Any:
        return _power(self, exponent)

    def __rpow__(self, base: Any, modulo: None = None) -> Any:
        return _power(base, self)


def column(values: Any) -> Column:
    """The values as a column; a float64 array is not copied."""
    return np.ascontiguousarray(values, np.float64).view(Column)


def head(values: Any, count: int) -> Any:
    """The first values of a column; a number stays a number."""
    return values[:count] if values.__class__ is Column else values


def first_of(values: Any) -> Any:
    """The first value of a column, as a float; anything else is returned."""
    return float(values[0]) if values.__class__ is Column else values


def _power(base: Any, exponent: Any) -> Column:
    result = np.empty(len(base if base.__class__ is Column else exponent)).view(Column)
    _core.power(base, exponent, result)
    return result


def sqrt(x: Any) -> Any:
    """The square root of a number or a column."""
    return np.sqrt(x) if x.__class__ is Column else root(x)


def cosine(x: Any) -> Any:
    """The cosine of a number or a column, in radians."""
    if x.__class__ is not Column:
        return cos(x)
    result = np.empty(len(x)).view(Column)
    _core.cosine(x, result)
    return result


def where(condition: Any, then: Any, otherwise: Any) -> Any:
    """`then` where the condition, a bool or a column of bools, holds, and `otherwise` elsewhere."""
    if condition.__class__ is Column:
        return np.where(condition, then, otherwise).view(Column)
    return then if condition else otherwise


def larger(a: Any, b: Any) -> Any:
    """The larger of two numbers or columns."""
    if a.__class__ is Column or b.__class__ is Column:
        return np.maximum(a, b)
    return a if a > b else b


def smaller(a: Any, b: Any) -> Any:
    """The smaller of two numbers or columns."""
    if a.__class__ is Column or b.__class__ is Column:
        return np.minimum(a, b)
    return a if a < b else b


def running_product(start: float, factors: Any) -> Any:
    """``start`` times the factors up to each step, multiplied in order; one factor: a number."""
    return _running(np.multiply, start, factors) if factors.__class__ is Column else start * factors


def running_sum(start: float, terms: Any) -> Any:
    """``start`` plus the terms up to each step, added in order; one term: a number."""
    return _running(np.add, start, terms) if terms.__class__ is Column else start + terms


def running_maximum(start: float, values: Any) -> Any:
    """The largest of ``start`` and the values up to each step; one value: a number."""
    return _running(np.maximum, start, values) if values.__class__ is Column else max(start, values)


def _running(operation: np.ufunc, start: float, values: Column) -> Column:
    """``accumulate`` goes through the values one by one, as a loop does, so that every bit is the loop's."""
    return column(operation.accumulate(np.concatenate(([start], values)))[1:])
