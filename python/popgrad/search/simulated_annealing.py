"""Simulated annealing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from popgrad.checks import fail, positive
from popgrad.search._base import Array, Fitness, Run, Search


@final
@dataclass(frozen=True)
class SimulatedAnnealing(Search):
    r"""Random steps, taken when they are better, and with falling probability when they are worse.

    .. math:: P(\text{accept}) = \min\left(1, e^{-(f' - f) / T_t}\right), \quad T_t = T_0\, c^t

    Args:
        popsize: independent chains, >= 1; one is the textbook's.
        temperature: T0, > 0, in units of the fitness.
        cooling: c, per generation, in (0, 1).
        sigma: standard deviation of a step, > 0, in units of x.

    State: ``x`` (popsize, n) and ``fitness`` (popsize,).

    Raises:
        InputError: a setting is out of range.

    Reference: Kirkpatrick, Gelatt & Vecchi, Science 220 (1983); acceptance after Metropolis et al. (1953).
    """

    popsize: int = 1
    temperature: float = 0.01
    cooling: float = 0.998
    sigma: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "temperature", "sigma", "cooling")
        if not 0 < self.cooling < 1:
            fail(self, f"cooling must be in (0, 1), got {self.cooling!r}")

    def begin(self, run: Run) -> None:
        """All chains at x0."""
        run.state["x"] = np.tile(run.x0, (self.popsize, 1))
        run.state["fitness"] = np.full(self.popsize, np.inf)

    def propose(self, run: Run) -> Array:
        """A step from every chain; the first generation measures x0."""
        x: Array = run.state["x"]
        if run.generation == 0:
            return x.copy()
        out = run.empty(self.popsize)
        run.move("Gaussian", out, [x], sigma=self.sigma)
        return out

    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """Metropolis' rule, chain by chain."""
        temperature = self.temperature * self.cooling**run.generation
        with np.errstate(invalid="ignore", over="ignore"):  # two infinities: not a step to take
            worse = (fitness - run.state["fitness"]) / max(temperature, np.finfo(float).tiny)
        accept = np.isfinite(fitness) & (run.random().random(self.popsize) < np.exp(-np.clip(worse, 0, 700)))
        run.state["x"][accept] = population[accept]
        run.state["fitness"][accept] = fitness[accept]
