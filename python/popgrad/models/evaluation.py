"""The fitness of a population: reduced precision, quantization, chunks within a memory limit, and rescoring."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgrad import _core
from popgrad.checks import fail
from popgrad.models import quantize
from popgrad.models.objective import NetworkObjective
from popgrad.models.rescore import settle
from popgrad.models.validation import cast_to
from popgrad.objective import Population
from popgrad.perturbations import Perturbations

__all__ = ["Evaluation"]

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """The options for evaluating a population.

    Args:
        objective: samples and measure.
        rows: (b,) int64, the samples to use; None for all.
        bfloat16: whether to multiply bfloat16 numbers.
        rescore: whether to evaluate candidates with uncertain ranks again: True for all ranks, k for the k best.
        coarse: quantization of the weights, "binary", "ternary" or "int8", or None.
        memory_limit: limit in bytes for raw outputs, and the same limit for copies of candidates.
    """

    objective: NetworkObjective
    rows: NDArray[np.int64] | None
    bfloat16: bool
    rescore: bool | int
    coarse: str | None
    memory_limit: int

    def fitness(self, population: Population) -> Floats:
        """Fitness (P,) of candidates (P, n).

        Raises:
            InputError: memory runs out.
        """
        try:
            return self._fitness(population, self.bfloat16 and self._has_bfloat16(population))
        except MemoryError as error:
            samples = self.objective.samples
            fail("MLP.evaluate", f"no memory for {len(population):,} candidates on {samples:,} samples: {error}")

    def _fitness(self, population: Population, bfloat16: bool) -> Floats:
        objective = self.objective
        evaluate = objective.evaluator(objective.measure, self.rows, self.memory_limit, bfloat16)
        n, itemsize = objective.layout.size, objective.dtype.itemsize
        # Bytes per candidate for the copies that quantization or conversion needs.
        each = n * itemsize * (1 if self.coarse is None else quantize.COPIES)
        if self.coarse is None and (isinstance(population, Perturbations) or _is_ready(population, objective.dtype)):
            out = evaluate(population)
        else:
            limit = max(1, self.memory_limit // each)
            out = np.empty(len(population))
            for first in range(0, len(population), limit):
                out[first : first + limit] = evaluate(self._ready(population[first : first + limit]))
        if not (self.rescore and bfloat16):
            return out
        again = self._exactly(population, max(1, self.memory_limit // (each + population.dtype.itemsize * n)))
        return settle(out, again, None if self.rescore is True else int(self.rescore))

    def _exactly(self, population: Population, limit: int) -> Callable[[NDArray[np.int64]], Floats]:
        """A function that evaluates candidates, given by index, in the model's dtype, `limit` at a time."""
        exact = self.objective.evaluator(self.objective.measure, self.rows, self.memory_limit)

        def again(these: NDArray[np.int64]) -> Floats:
            parts = (these[first : first + limit] for first in range(0, len(these), limit))
            return np.concatenate([exact(self._ready(population[part])) for part in parts])

        return again

    def _ready(self, part: Array) -> Array:
        """Candidates in the type and layout of the native core, quantized if requested."""
        objective = self.objective
        if self.coarse is None:
            return cast_to(part, objective.dtype)
        return quantize.quantized(part, self.coarse, objective.layout, objective.dtype)

    def _has_bfloat16(self, population: Population) -> bool:
        """Whether the processor and the population support bfloat16 products; if not, warn."""
        why = None
        if isinstance(population, Perturbations) and population.rank is not None:
            why = "low-rank noise is evaluated in float32"
        elif _core.bfloat16() is None:
            why = f"the instruction set in use, {_core.isa()}, has no bfloat16 products; evaluated in float32"
        if why is not None:
            warnings.warn(f"[MLP.evaluate] precision='bfloat16': {why}", stacklevel=4)
        return why is None


def _is_ready(population: Population, dtype: np.dtype[Any]) -> bool:
    """Whether the native core can read an array without conversion."""
    assert isinstance(population, np.ndarray)
    return population.dtype == dtype and population.flags.c_contiguous and population.flags.aligned
