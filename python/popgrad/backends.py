"""Python functions around the native core: threads, aligned memory, random generators and population moves."""

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
        InputError: `count` is not a whole number in [1, 1024].
    """
    if positive_int("set_num_threads", "count", count) > 1024:
        fail("set_num_threads", f"count must be at most 1024, got {count}")
    _core.set_threads(int(count))


def get_num_threads() -> int:
    """Return the maximum number of threads of a native call.

    The initial value is ``POPGRAD_NUM_THREADS``. If this variable is not set, the initial value is the number of cores
    available to the process (CPU affinity and container quota), limited by ``OMP_NUM_THREADS``. Process pools set
    ``OMP_NUM_THREADS`` in their workers.
    """
    return _core.threads()


def aligned(shape: int | tuple[int, ...], dtype: Any) -> Array:
    """An array of zeros aligned to 64 bytes, the size of a cache line and of the widest vector register."""
    shape = (shape,) if isinstance(shape, int) else shape
    dtype = np.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    memory = np.zeros(count + 64, np.uint8)
    first = -memory.ctypes.data % 64
    array: Array = memory[first : first + count].view(dtype).reshape(shape)
    return array


def random_generator(seed: int, stream: int, generation: int) -> np.random.Generator:
    """A Philox generator that depends only on (seed, stream, generation), so that checkpoints store no state."""
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
    """Apply a move of ``csrc/kernels/move_rules.h`` to every coordinate of every member.

    Args:
        name: name of the move.
        out: the (P, n) array to write, or a list of such arrays.
        sources: for each source of the move, an array (rows, n), or (n,) for one row that all members share.
        seed, stream, generation: together with the member and the coordinate, they determine the random numbers.
        rows: for each source, None (member p uses row p) or the row of each member, (P,) int64.
        chosen: one coordinate per member, (P,) int64, for moves that treat one coordinate differently.
        identity: the index of each member in the random generator, (P,) uint32; default 0..P-1.
        **fields: the fields of the rule, each a number or an array (P,) with one value per member.
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
