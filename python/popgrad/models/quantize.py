"""Weights of one, one and a half or eight bits: the values that a coarse number stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgrad.layout import Layout

__all__ = ["KINDS", "quantized"]

Array = NDArray[Any]


def _binary(w: Array) -> None:
    """The sign times the mean magnitude (Rastegari et al. 2016, arXiv:1603.05279); zero counts as positive."""
    size = np.abs(w).mean(axis=1, dtype=np.float64, keepdims=True)
    w[:] = np.where(w < 0, -size, size)


def _ternary(w: Array) -> None:
    """Zero up to 0.7 times the mean magnitude; the sign times the mean magnitude of the others (arXiv:1605.04711)."""
    magnitude = np.abs(w)
    mean = magnitude.mean(axis=1, dtype=np.float64, keepdims=True)
    kept = magnitude > 0.7 * mean
    count = np.maximum(kept.sum(axis=1, keepdims=True), 1)
    size = magnitude.sum(axis=1, dtype=np.float64, where=kept, keepdims=True) / count
    w[:] = np.where(kept, np.copysign(size, w), 0)
    w[~np.isfinite(mean[:, 0])] = np.nan  # no comparison would have shown them


def _int8(w: Array) -> None:
    """Whole multiples, -127 to 127, of the largest magnitude / 127; halves are rounded to even."""
    scale = np.abs(w).max(axis=1, keepdims=True) / w.dtype.type(127)
    scale[scale == 0] = 1
    w /= scale
    np.rint(w, out=w)
    w *= scale


# Each works in place on rows (c, weights of one matrix); a row that holds NaN or infinity comes out without one finite
# value, or with infinite ones, so that its candidate stays infinitely bad.
KINDS: dict[str, Callable[[Array], None]] = {"binary": _binary, "ternary": _ternary, "int8": _int8}
COPIES = 4  # that the work takes, in candidates


def quantized(population: Array, kind: str, layout: Layout, dtype: np.dtype[Any]) -> Array:
    """A copy of candidates (P, n) whose weight matrices hold coarse values; biases stay as they are."""
    with np.errstate(over="ignore", invalid="ignore"):
        out = np.array(population, dtype, order="C")
        for tensor in layout:
            if tensor.is_matrix:
                KINDS[kind](out[:, tensor.offset : tensor.offset + tensor.size])
    return out
