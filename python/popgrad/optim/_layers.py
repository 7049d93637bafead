"""The state before the first step: which parts of the parameter vector take steps, and with which plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from popgrad.backends import aligned
from popgrad.checks import fail
from popgrad.layout import Layout, checked_layout
from popgrad.optim._optimizer import State

if TYPE_CHECKING:
    from popgrad.optim._base import NativeOptimizer

__all__ = ["first_state", "resting"]

Array = NDArray[Any]

_LEAST_FOR_BYTES = 4096  # 8-bit states save no memory worth having in smaller vectors
_BLOCK = 256  # 8-bit values that share a scale


def first_state(
    operation: str,
    optimizers: Sequence[NativeOptimizer],
    params: Array,
    layout: Layout | None,
    plans: Sequence[int] | None = None,
) -> State:
    """The state of an optimizer, or of several that share the vector, before the first step.

    Args:
        operation: prefix of error messages.
        optimizers: settings of the plans; all store the same states.
        params: (n,) the parameters.
        layout: their layout, or None.
        plans: for each tensor of the layout, the index of its settings; None: 0.

    Raises:
        InputError: see `Optimizer.init`.
    """
    first = optimizers[0]
    _check_params(operation, first, params)
    rows = _layers(operation, optimizers, params, layout, plans)
    n, k, stored = len(params), len(first.state_names), params.dtype
    bytes_ = first.state_dtype == "8bit" and n >= _LEAST_FOR_BYTES
    if first.state_dtype == "bfloat16":
        stored = np.dtype(np.uint16)
    elif bytes_:
        stored = np.dtype(np.uint8)
    state = State(aligned((k, n), stored), 0, dict(first.first_numbers))
    by_sums = bool(first.native_rule.sums)
    if by_sums or rows != [[n, 1, 0, 0]]:
        state.layers = np.array(rows, np.int64)
    if bytes_:
        state.scales = aligned((k, sum(-(-size // _BLOCK) for size, *_ in rows)), np.float32)
    if first.ema_decay is not None:
        state.average = aligned(n, params.dtype)
        for part in resting(state):
            state.average[part] = params[part]
    if by_sums:
        kept = [optimizers[max(plan, 0)].first_kept() for _, _, plan, _ in rows]
        state.kept = np.array(kept, np.float64).reshape(len(rows), first.native_rule.kept)
    return state


def resting(state: State) -> Iterator[slice]:
    """The parts of the vector that take no steps."""
    offset = 0
    for size, _, plan, _ in [] if state.layers is None else state.layers.tolist():
        if plan < 0:
            yield slice(offset, offset + size)
        offset += size


def _check_params(operation: str, optimizer: NativeOptimizer, params: Array) -> None:
    if not isinstance(params, np.ndarray) or params.ndim != 1 or params.dtype not in (np.float32, np.float64):
        got = f"{params.dtype} {params.shape}" if isinstance(params, np.ndarray) else type(params).__name__
        fail(operation, f"params must be a float32 or float64 array (n,), got {got}")
    if optimizer.state_dtype is not None and params.dtype != np.float32:
        fail(operation, f"state_dtype={optimizer.state_dtype!r} needs float32 parameters, got {params.dtype}")


def _layers(
    operation: str,
    optimizers: Sequence[NativeOptimizer],
    params: Array,
    layout: Layout | None,
    plans: Sequence[int] | None,
) -> list[list[int]]:
    """The rows of ``State.layers``; consecutive tensors that the rule need not tell apart are one."""
    known = checked_layout(operation, layout, len(params))
    if not any(tensor.trainable for tensor in known):
        fail(operation, "all tensors are frozen, so that there is nothing to train: call model.unfreeze")
    rows: list[list[int]] = []
    by_sums = bool(optimizers[0].native_rule.sums)
    for tensor, plan in zip(known, [0] * len(known) if plans is None else plans, strict=True):
        optimizer = optimizers[plan]
        limited = tensor.trainable and tensor.is_matrix and optimizer.max_norm is not None
        # Without a layout, the vector counts as one matrix.
        adapted = not by_sums or layout is None or optimizer.adapts(len(tensor.shape))
        row = [int(adapted), plan if tensor.trainable else -1, tensor.shape[1] if limited else 0]
        if rows and not by_sums and not limited and rows[-1][1:] == row:
            rows[-1][0] += tensor.size
        else:
            rows.append([tensor.size, *row])
    if any(optimizer.max_norm is not None for optimizer in optimizers) and not any(row[3] for row in rows):
        needed = "a layout, such as layout=model.layout" if layout is None else "a weight matrix (outputs, inputs)"
        fail(operation, f"max_norm needs {needed}")
    return rows
