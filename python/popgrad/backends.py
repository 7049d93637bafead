"""The native core, by name: threads, instruction sets, and the moves of a population."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgrad import _core
from popgrad._core import Stream
from popgrad.checks import fail, positive_int

__all__ = ["Stream", "aligned", "get_num_threads", "move", "set_num_threads"]

Array = NDArray[Any]

_MOVES = _core.move_rules()


def set_num_threads(count: int) -> None:
    """Limit every native call to `count` threads, from 1 to 1024; results do not depend on it.

    Raises:
        InputError: `count` is not such a number.
    """
    if positive_int("set_num_threads", "count", count) > 1024:
        fail("set_num_threads", f"count must be at most 1024, got {count}")
    _core.set_threads(int(count))


def get_num_threads() -> int:
    """Threads that a native call may use.

    At import: ``POPGRAD_NUM_THREADS``; if it is not set, the cores that the process may run on (affinity, the quota of
    its container), but at most ``OMP_NUM_THREADS``, which process pools set in their workers.
    """
    return _core.threads()


def aligned(shape: int | tuple[int, ...], dtype: Any) -> Array:
    """An array of zeros whose first element lies on a 64-byte boundary, a cache line and a vector register."""
    shape = (shape,) if isinstance(shape, int) else shape
    dtype = np.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    memory = np.zeros(count + 64, np.uint8)
    first = -memory.ctypes.data % 64
    array: Array = memory[first : first + count].view(dtype).reshape(shape)
    return array


def random_generator(seed: int, stream: int, generation: int) -> np.random.Generator:
    """NumPy's Philox, a pure function of (seed, stream, generation): nothing to save, nothing to resume."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64), counter=[0, 0, 0, generation]))


def move(
    name: str,
    out: Array | Sequence[Array],
    sources: Sequence[Array],
    *,
    seed: int,
    generation: int,
    stream: int = Stream.MOVE,
    rows: Sequence[Array | None] | None = None,
    chosen: Array | None = None,
    identity: Array | None = None,
    **fields: float | Array,
) -> None:
    """Apply one of the moves of ``csrc/kernels/move_rules.h`` to every coordinate of every member, in place.

    Args:
        name: the move.
        out: the (P, n) array that it writes, or a list of those.
        sources: for each source of the move an array (rows, n), or (n,) for one row that serves all members.
        seed, stream, generation: what the random numbers are a function of, with the member and the coordinate.
        rows: for each source None (member p uses row p) or the row of each member, (P,) int64.
        chosen: a coordinate of each member, (P,) int64, for the moves that treat one differently.
        identity: the number that stands for each member in the random numbers, (P,) uint32; default 0..P-1.
        **fields: the members of the rule, each a number or one per member (P,).
    """
    rule = _MOVES[name]
    if set(fields) != set(rule.fields):
        fail(f"move {name}", f"expected the fields {', '.join(rule.fields)}, got {', '.join(fields)}")
    columns = [fields[field] for field in rule.fields]
    if any(np.ndim(column) for column in columns):
        values = np.ascontiguousarray(np.stack(np.broadcast_arrays(*columns), axis=1), np.float64)
    else:
        values = np.array(columns, np.float64)
    _core.move(
        rule,
        values,
        out=[out] if isinstance(out, np.ndarray) else list(out),
        sources=list(sources),
        seed=seed,
        stream=stream,
        generation=generation,
        rows=None if rows is None else list(rows),
        chosen=chosen,
        identity=identity,
    )
