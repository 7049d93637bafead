"""Measures the memory bandwidth of every optimizer step, compared with plain loops over the same arrays."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from popgrad import _core
from popgrad.backends import aligned
from popgrad.checks import InputError, fail, one_of, positive_int
from popgrad.optim import REGISTRY, Optimizer, State
from popgrad.system import memory_bytes

__all__ = ["Measured", "bench_step"]

# Optimizers that are also measured with bfloat16 and 8-bit states.
_PACKED = ("adam", "adamw", "lion", "momentum")
_PLAIN_STATES = len(_core.plain_rules()) - 1  # the plain loops have 0 to this many states


@dataclass(frozen=True)
class Measured:
    """Medians of the step of one optimizer and of the plain loop, measured in turns.

    Args:
        name: of the optimizer, with the type of its state if that is not the parameters'.
        parameters: how many a step moved.
        bytes_per_parameter: that a step must read and write.
        seconds: of a step.
        plain_bytes: per parameter, of the plain loop whose streams are nearest.
        plain_seconds: of that loop.
    """

    name: str
    parameters: int
    bytes_per_parameter: float
    seconds: float
    plain_bytes: int
    plain_seconds: float

    @property
    def bandwidth(self) -> float:
        """Bytes per second of the step."""
        return self.bytes_per_parameter * self.parameters / self.seconds

    @property
    def share(self) -> float:
        """Bandwidth relative to the plain loop."""
        return self.bandwidth / (self.plain_bytes * self.parameters / self.plain_seconds)


def bench_step(n: int, names: Sequence[str] | None = None, repeats: int = 9) -> Iterator[Measured]:
    """Measure steps of `n` float32 parameters for each optimizer.

    Small `n` show the cost of a call more than that of the sweep.

    Args:
        n: parameters, >= 1; of 16 million no vector stays in a cache.
        names: in `popgrad.optim.REGISTRY`. Default: all.
        repeats: how often each is timed; the median counts.

    Raises:
        InputError: a name is unknown, a number is not such a number, or the vectors do not fit into memory.
    """
    n, repeats = positive_int("bench step", "n", n), positive_int("bench step", "repeats", repeats)
    chosen = [one_of("bench step", "optimizer", name, REGISTRY) for name in (REGISTRY if names is None else names)]
    need = 4 * n * 2 * (3 + _PLAIN_STATES)
    if need > (memory := memory_bytes()):
        fail("bench step", f"n={n:,} needs {need / 2**30:.1f} GiB of memory, there are {memory / 2**30:.1f}")
    return _bench(n, chosen, repeats)


def _bench(n: int, names: Sequence[str], repeats: int) -> Iterator[Measured]:
    for name in names:
        make = cast(Callable[..., Optimizer], REGISTRY[name])
        yield _measure(name, make(), n, repeats)
        for stored in ("bfloat16", "8bit") if name in _PACKED else ():
            try:
                packed = make(state_dtype=stored)
            except InputError:  # the rule may not support this type of state
                continue
            yield _measure(f"{name} {stored}", packed, n, repeats)


def _measure(name: str, optimizer: Optimizer, n: int, repeats: int) -> Measured:
    params, gradient = _vector(n, 1), _vector(n, 2)
    state = optimizer.init(params)
    needed = optimizer.bytes_per_parameter
    # A sweep moves 12 bytes per parameter, plus 8 for each state.
    k = min(max(round((needed - 12) / 8), 0), _PLAIN_STATES)
    w, g, slots = _vector(n, 3), _vector(n, 4), State(aligned((k, n), np.float32))
    plan = _core.StepPlan(_core.plain_rules()[k], {"factor": 1e-6})

    def step() -> None:
        optimizer.step(params, gradient, state)

    def plain() -> None:
        _core.step(plan, w, g, slots)

    steps = max(1, 1_000_000 // n)  # per timing, because the clock counts microseconds
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for body, times in zip((step, plain), seconds, strict=True):
            start = time.perf_counter()
            for _ in range(steps):
                body()
            times.append((time.perf_counter() - start) / steps)
    own, others = (statistics.median(times[1:]) for times in seconds)  # the first steps load the memory
    return Measured(name, n, needed, own, 12 + 8 * k, others)


def _vector(n: int, seed: int) -> NDArray[Any]:
    """Return random numbers that repeat one block. The time of a step does not depend on the values."""
    vector = aligned(n, np.float32)
    vector[:] = np.resize(np.random.default_rng(seed).standard_normal(4096).astype(np.float32), n)
    return vector
