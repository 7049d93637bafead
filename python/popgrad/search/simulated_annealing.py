"""Simulated annealing: accepts worse candidates with a probability that falls over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from popgrad.search._base import Array, Fitness, Run, Search
from popgrad.settings import hyper

_OBSERVED = 100  # steps that determine the first temperature
_SHARE = 0.25  # first temperature, relative to the mean change of the fitness


@final
@dataclass(frozen=True)
class SimulatedAnnealing(Search):
    r"""Accepts a random step if it is better, and with a falling probability if it is worse.

    .. math:: P(\text{accept}) = \min\left(1, e^{-(f' - f) / T_t}\right), \quad T_t = T_0\, c^t

    Args:
        popsize: independent chains, >= 1. The textbook method has one.
        temperature: T0, > 0, in units of the fitness. None: a quarter of the mean of abs(f' - f) over the first 100
            steps or more, so that the run does not depend on the units of the fitness.
        cooling: c, the factor of the temperature per generation, in (0, 1).
        sigma: standard deviation of a step, > 0, in units of x. None: 0.02 of the width of the box in
            coordinates with two finite bounds, 0.02 in the others.

    State: ``x`` (popsize, n), ``fitness`` (popsize,), ``changes`` (the sum of abs(f' - f)) and ``steps`` (the number of
    its terms).

    Raises:
        InputError: a setting is out of range.

    Reference: Kirkpatrick, Gelatt & Vecchi, Science 220 (1983); acceptance after Metropolis et al. (1953).
    """

    label: ClassVar[str] = "Simulated annealing"

    popsize: int = hyper(1, at_least=1, whole=True)
    temperature: float | None = hyper(None, above=0, optional=True)
    cooling: float = hyper(0.998, above=0, below=1)
    sigma: float | None = hyper(None, above=0, optional=True)

    def fill(self, run: Run) -> None:
        """Start every chain at x0."""
        run.state["x"] = np.tile(run.x0, (self.popsize, 1))
        run.state["fitness"] = np.full(self.popsize, np.inf)
        run.state["changes"], run.state["steps"] = 0.0, 0

    def propose(self, run: Run) -> Array:
        """Return one step from every chain; the first generation evaluates x0."""
        x: Array = run.state["x"]
        if run.generation == 0:
            return x.copy()
        out = run.empty(self.popsize)
        sigma, unit = run.length(self.sigma, free=0.02, share=0.02)
        run.move("SpreadGaussian", out, [x, unit], width=sigma)
        return out

    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """Apply the Metropolis rule to each chain."""
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN, which is not accepted
            change = fitness - run.state["fitness"]
            temperature = self._first_temperature(run, change) * self.cooling**run.generation
            worse = change / max(temperature, np.finfo(float).tiny)
        accept = np.isfinite(fitness) & (run.random().random(self.popsize) < np.exp(-np.clip(worse, 0, 700)))
        run.state["x"][accept] = population[accept]
        run.state["fitness"][accept] = fitness[accept]

    def _first_temperature(self, run: Run, change: Fitness) -> float:
        """Return T0: the setting, or an estimate from the changes (popsize,) of the first steps."""
        if self.temperature is not None:
            return self.temperature
        state = run.state
        if state["steps"] < _OBSERVED:
            sizes = np.abs(change[np.isfinite(change)])
            state["changes"], state["steps"] = state["changes"] + float(sizes.sum()), state["steps"] + len(sizes)
        return _SHARE * float(state["changes"] / max(state["steps"], 1))
