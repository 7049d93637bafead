"""Quantized weights: binary, ternary and int8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgrad.layout import Layout

__all__ = ["KINDS", "quantized"]

Array = NDArray[Any]


def _binary(w: Array) -> None:
    """The sign times the mean magnitude (Rastegari et al. 2016, arXiv:1603.05279); sign(0) = 1."""
    size = np.abs(w).mean(axis=1, dtype=np.float64, keepdims=True)
    w[:] = np.where(w < 0, -size, size)


def _ternary(w: Array) -> None:
    """Zero up to 0.7 times the mean magnitude; otherwise the sign times the mean nonzero one (arXiv:1605.04711)."""
    magnitude = np.abs(w)
    mean = magnitude.mean(axis=1, dtype=np.float64, keepdims=True)
    kept = magnitude > 0.7 * mean
    count = np.maximum(kept.sum(axis=1, keepdims=True), 1)
    size = magnitude.sum(axis=1, dtype=np.float64, where=kept, keepdims=True) / count
    w[:] = np.where(kept, np.copysign(size, w), 0)
    w[~np.isfinite(mean[:, 0])] = np.nan  # comparisons with NaN are False, so NaN would become 0


def _int8(w: Array) -> None:
    """The nearest integer multiple, -127 to 127, of the largest magnitude / 127; ties round to even."""
    scale = np.abs(w).max(axis=1, keepdims=True) / w.dtype.type(127)
    scale[scale == 0] = 1
    w /= scale
    np.rint(w, out=w)
    w *= scale


# Each function works in place on rows (c, weights of one matrix). A row with NaN or infinity keeps non-finite values,
# so that the candidate's fitness is infinite.
KINDS: dict[str, Callable[[Array], None]] = {"binary": _binary, "ternary": _ternary, "int8": _int8}
COPIES = 4  # memory for quantization, in copies of a candidate


def quantized(population: Array, kind: str, layout: Layout, dtype: np.dtype[Any]) -> Array:
    """A copy of candidates (P, n) with quantized weight matrices; biases are unchanged."""
    with np.errstate(over="ignore", invalid="ignore"):
        out = np.array(population, dtype, order="C")
        for tensor in layout:
            if tensor.is_matrix:
                KINDS[kind](out[:, tensor.offset : tensor.offset + tensor.size])
    return out
