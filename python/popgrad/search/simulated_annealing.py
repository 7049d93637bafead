"""Simulated annealing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from popgrad.checks import fail, positive
from popgrad.search._base import Array, Fitness, Run, Search

_OBSERVED = 100  # steps that the first temperature is taken from
_SHARE = 0.25  # of the mean change that the first temperature is


@final
@dataclass(frozen=True)
class SimulatedAnnealing(Search):
    r"""Random steps, taken when they are better, and with falling probability when they are worse.

    .. math:: P(\text{accept}) = \min\left(1, e^{-(f' - f) / T_t}\right), \quad T_t = T_0\, c^t

    Args:
        popsize: independent chains, >= 1; one is the textbook's.
        temperature: T0, > 0, in units of the fitness. None: a quarter of the mean size of f' - f over the first 100
            steps or more, so that the run does not depend on the units of the fitness.
        cooling: c, per generation, in (0, 1).
        sigma: standard deviation of a step, > 0, in units of x. None: 0.02, or 0.02 of the box's width where both
            bounds are finite.

    State: ``x`` (popsize, n), ``fitness`` (popsize,), and the sum ``changes`` of the sizes of f' - f over ``steps``.

    Raises:
        InputError: a setting is out of range.

    Reference: Kirkpatrick, Gelatt & Vecchi, Science 220 (1983); acceptance after Metropolis et al. (1953).
    """

    label: ClassVar[str] = "Simulated annealing"

    popsize: int = 1
    temperature: float | None = None
    cooling: float = 0.998
    sigma: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "cooling", *[name for name in ("temperature", "sigma") if getattr(self, name) is not None])
        if not 0 < self.cooling < 1:
            fail(self, f"cooling must be in (0, 1), got {self.cooling!r}")

    def begin(self, run: Run) -> None:
        """All chains at x0."""
        run.state["x"] = np.tile(run.x0, (self.popsize, 1))
        run.state["fitness"] = np.full(self.popsize, np.inf)
        run.state["changes"], run.state["steps"] = 0.0, 0

    def propose(self, run: Run) -> Array:
        """A step from every chain; the first generation measures x0."""
        x: Array = run.state["x"]
        if run.generation == 0:
            return x.copy()
        out = run.empty(self.popsize)
        sigma, unit = run.length(self.sigma, free=0.02, share=0.02)
        run.move("SpreadGaussian", out, [x, unit], width=sigma)
        return out

    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """Metropolis' rule, chain by chain."""
        with np.errstate(invalid="ignore", over="ignore"):  # two infinities: not a step to take
            change = fitness - run.state["fitness"]
            temperature = self._first_temperature(run, change) * self.cooling**run.generation
            worse = change / max(temperature, np.finfo(float).tiny)
        accept = np.isfinite(fitness) & (run.random().random(self.popsize) < np.exp(-np.clip(worse, 0, 700)))
        run.state["x"][accept] = population[accept]
        run.state["fitness"][accept] = fitness[accept]

    def _first_temperature(self, run: Run, change: Fitness) -> float:
        """T0, from the changes (popsize,) of the first steps if it is not given."""
        if self.temperature is not None:
            return self.temperature
        state = run.state
        if state["steps"] < _OBSERVED:
            sizes = np.abs(change[np.isfinite(change)])
            state["changes"], state["steps"] = state["changes"] + float(sizes.sum()), state["steps"] + len(sizes)
        return _SHARE * float(state["changes"] / max(state["steps"], 1))
