"""Rescoring: candidates whose ranks are uncertain in reduced precision are evaluated again exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["settle"]

Floats = NDArray[np.float64]

PROBES = 32  # number of candidates, spread over the ranks, whose errors are measured first
_MARGIN = 2.0  # assumed largest error, as a multiple of the largest known error
_ALIKE = 4.0  # all candidates up to this multiple of the median share one error bound


def settle(coarse: Floats, exact: Callable[[NDArray[np.int64]], Floats], best: int | None = None) -> Floats:
    """Fitness (P,) with the same ranks as exact values, for all candidates or for the best ones.

    The ranks are correct if no error is larger than the assumed bound. First, some candidates spread over the ranks are
    evaluated exactly; then, repeatedly, all candidates so close to another that errors within the bound could swap
    the two.

    The bound is twice the largest known error, where every exact evaluation makes an error known. Candidates far worse
    than the median may have errors that are larger by orders of magnitude. Up to four times the median, the bound
    therefore uses known errors only of candidates up to four times the median. Beyond, it uses known errors up to the
    next worse candidate with a known error. A candidate without a worse known error is evaluated exactly.

    Args:
        coarse: (P,) values with small errors; not changed.
        exact: maps indices of candidates (k,), k >= 1, to their exact values (k,), which may be infinite.
        best: number of ranks that must be correct, >= 1. Default: all.
    """
    values = np.array(coarse)
    known = np.zeros(len(values), bool)
    order = np.argsort(values, kind="stable")
    # A value that is not finite has no measurable error, and is not among the best.
    broken = ~np.isfinite(values)
    open_, known = (broken, known) if best is None else (np.zeros_like(broken), broken)
    finite = order[~broken[order]]
    if len(finite):
        open_[finite[np.unique(np.linspace(0, len(finite) - 1, PROBES).astype(int))]] = True
    while open_.any():
        these = np.flatnonzero(open_)
        values[these] = exact(these)
        known[these] = True
        with np.errstate(invalid="ignore"):  # inf - inf
            errors = np.where(known, np.abs(values - coarse), 0.0)
        open_ = _too_close(values, errors, known, len(values) if best is None else min(best, len(values)))
    return values


def _too_close(values: Floats, errors: Any, known: NDArray[np.bool_], best: int) -> NDArray[np.bool_]:
    """A mask of candidates with unknown errors that could swap ranks with a neighbor and be among the best."""
    order = np.argsort(values, kind="stable")
    v, e, k = values[order], errors[order], known[order]
    here, none = np.arange(len(v)), len(v)
    # The largest known error up to each rank; the last entry stands for "no worse candidate with a known error".
    largest = np.append(np.maximum.accumulate(np.where(np.isfinite(e), e, 0.0)), np.inf)
    # The next worse candidate with a known, finite error.
    places = np.minimum.accumulate(np.where(k & np.isfinite(e), here, none)[::-1])[::-1]
    median = v[(len(v) - 1) // 2]
    alike = np.searchsorted(v, median + (_ALIKE - 1) * abs(median), side="right") - 1
    margin = np.where(k, 0.0, _MARGIN * largest[np.maximum(places, alike)])
    close = np.zeros(len(v), bool)
    with np.errstate(invalid="ignore"):  # inf - inf; infinite values are known
        touches = v[1:] - v[:-1] <= margin[1:] + margin[:-1]
    close[1:] |= touches
    close[:-1] |= touches
    last = np.partition(v + margin, best - 1)[best - 1]  # at least `best` candidates are no worse than this
    out = np.empty(len(v), bool)
    out[order] = close & ~k & (v - margin <= last)
    return out
