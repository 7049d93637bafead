"""Ranks that a coarse fitness leaves open, settled by an exact one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["settle"]

Floats = NDArray[np.float64]

PROBES = 32  # candidates, spread over the ranks, whose error is measured first
_MARGIN = 2.0  # how many times the largest error that was seen another may have
_ALIKE = 4.0  # times the median: up to here, the errors of all candidates count for each other


def settle(coarse: Floats, exact: Callable[[NDArray[np.int64]], Floats], best: int | None = None) -> Floats:
    """Fitness (P,) that ranks candidates, or the best of them, as exact values do, as far as seen errors tell.

    Exact are, in the end, the values of some candidates spread over the ranks and of all that come so close to another
    that their errors could exchange the two. An error is taken to be at most twice the largest one seen. What is worse
    than four times the median does not count for what is not (it may be worse by orders of magnitude, with errors to
    match); beyond that, what counts for a candidate are those up to the next worse one known, and one without such a
    bound is evaluated anew. Whatever is evaluated anew is seen.

    Args:
        coarse: (P,) values with small errors; not changed.
        exact: called with numbers of candidates (k,), k >= 1, returns their exact values (k,). It may return infinity.
        best: how many ranks matter, >= 1; the others may be exchanged. Default: all.
    """
    values = np.array(coarse)
    known = np.zeros(len(values), bool)
    order = np.argsort(values, kind="stable")
    # What is not finite has no error that could be measured; it is none of the best.
    broken = ~np.isfinite(values)
    open_, known = (broken, known) if best is None else (np.zeros_like(broken), broken)
    finite = order[~broken[order]]
    if len(finite):
        open_[finite[np.unique(np.linspace(0, len(finite) - 1, PROBES).astype(int))]] = True
    while open_.any():
        these = np.flatnonzero(open_)
        values[these] = exact(these)
        known[these] = True
        with np.errstate(invalid="ignore"):  # infinity may have stayed what it was
            errors = np.where(known, np.abs(values - coarse), 0.0)
        open_ = _too_close(values, errors, known, len(values) if best is None else min(best, len(values)))
    return values


def _too_close(values: Floats, errors: Any, known: NDArray[np.bool_], best: int) -> NDArray[np.bool_]:
    """Which candidates, of those not known, may change places with a neighbour and be among the best."""
    order = np.argsort(values, kind="stable")
    v, e, k = values[order], errors[order], known[order]
    here, none = np.arange(len(v)), len(v)
    largest = np.append(np.maximum.accumulate(np.where(np.isfinite(e), e, 0.0)), np.inf)  # the last is for none
    # The next worse one with an error that was seen: what is infinite, or was, has none.
    places = np.minimum.accumulate(np.where(k & np.isfinite(e), here, none)[::-1])[::-1]
    median = v[(len(v) - 1) // 2]
    alike = np.searchsorted(v, median + (_ALIKE - 1) * abs(median), side="right") - 1
    margin = np.where(k, 0.0, _MARGIN * largest[np.maximum(places, alike)])
    close = np.zeros(len(v), bool)
    with np.errstate(invalid="ignore"):  # infinite values are known, and as far from each other as need be
        touches = v[1:] - v[:-1] <= margin[1:] + margin[:-1]
    close[1:] |= touches
    close[:-1] |= touches
    last = np.partition(v + margin, best - 1)[best - 1]  # so many are no worse than this
    out = np.empty(len(v), bool)
    out[order] = close & ~k & (v - margin <= last)
    return out
