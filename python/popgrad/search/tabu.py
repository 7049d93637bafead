"""Tabu search: moves to the best neighbor that is not tabu."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from scipy.spatial.distance import cdist

from popgrad.search._base import Array, Fitness, Run, Search
from popgrad.settings import hyper


@final
@dataclass(frozen=True)
class TabuSearch(Search):
    r"""Moves to the best neighbor that is not tabu, even if it is worse. Points that the search just left are tabu.

    The neighbors lie in concentric crowns around the current point, one neighbor in each crown. The k-th of P crowns
    lies between the radii R 2^{-(P-k+1)} and R 2^{-(P-k)} in the maximum norm (eq. 1 of the paper). The smallest
    radius is R / 2^16. A neighbor within `tabu_radius` of one of the last `tenure` points is tabu, unless it is the
    best candidate so far (aspiration). With thousands of coordinates the list has little effect, because random steps
    do not return to an earlier point. After `patience` generations without a new best candidate, the search returns to
    the best candidate and multiplies the radius by `shrink` (the paper's intensification).

    Args:
        popsize: neighbors per generation, >= 1.
        radius: R, the outer radius of the neighborhood, > 0, in units of x. None: 0.1 of the width of the box in
            coordinates with two finite bounds, 0.1 in the others.
        tabu_radius: > 0, relative to the current radius.
        tenure: points in the tabu list, >= 1.
        patience: generations without a new best candidate before the radius shrinks, >= 1.
        shrink: factor of the radius, in (0, 1).

    The search ends when no coordinate can move: when the radius is less than half of the spacing of floating-point
    numbers at x, or less than the first radius times the machine epsilon.

    State: ``x`` (n,), ``radius``, ``tabu`` (tenure, n; infinite in unused rows), ``waited``.

    Raises:
        InputError: a setting is out of range.

    Reference: Chelouah & Siarry, European Journal of Operational Research 123 (2000), section 3; Glover, ORSA
    Journal on Computing 1 (1989), for aspiration.
    """

    command: ClassVar[str] = "tabu"
    label: ClassVar[str] = "Tabu search"

    popsize: int = hyper(8, at_least=1, whole=True)
    radius: float | None = hyper(None, above=0, optional=True)
    tabu_radius: float = hyper(0.01, above=0)
    tenure: int = hyper(10, at_least=1, whole=True)
    patience: int = hyper(10, at_least=1, whole=True)
    shrink: float = hyper(0.5, above=0, below=1)

    def fill(self, run: Run) -> None:
        """Start at x0 with an empty tabu list."""
        run.state["x"] = run.x0.copy()
        run.state["radius"] = self._radius(run)[0]
        run.state["tabu"] = np.full((self.tenure, run.n), np.inf, run.x0.dtype)
        run.state["waited"] = 0

    def propose(self, run: Run) -> Array:
        """Return one neighbor in each crown; the first generation evaluates x0."""
        x: Array = run.state["x"]
        if run.generation == 0:
            return x[None].copy()
        out = run.empty(self.popsize)
        halvings = np.minimum(np.arange(self.popsize)[::-1], 15)
        outer = run.state["radius"] * 0.5**halvings
        chosen = run.random().integers(run.n, size=self.popsize)
        unit = self._radius(run)[1]
        run.move("Crown", out, [x, unit], inner=outer / 2, outer=outer, chosen=chosen)
        return out

    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """Move to the best allowed neighbor and make the previous point tabu."""
        state = run.state
        improved = fitness.min() <= run.best_f  # best_f already includes this generation
        held = state["tabu"][: min(run.generation, self.tenure)]
        allowed = np.isfinite(fitness)
        if len(held):
            unit = self._radius(run)[1]
            distance = cdist(population / unit, held / unit, "chebyshev").min(axis=1)
            near = distance < self.tabu_radius * state["radius"]
            allowed &= ~near | (fitness <= run.best_f)
        state["tabu"] = np.concatenate([state["x"][None], state["tabu"][:-1]])
        if allowed.any():
            state["x"] = population[np.where(allowed, fitness, np.inf).argmin()].copy()
        state["waited"] = 0 if improved else state["waited"] + 1
        if state["waited"] >= self.patience:
            state["x"], state["waited"] = run.best_x.copy(), 0
            state["radius"] *= self.shrink

    def _radius(self, run: Run) -> tuple[float, Array]:
        """Return R and its unit in each coordinate (n,)."""
        return run.length(self.radius, free=0.1, share=0.1)

    def finished(self, state: Run) -> str | None:
        """Stop when the radius has shrunk to rounding errors."""
        first, unit = self._radius(state)
        rounding = np.spacing(np.abs(state.state["x"])) / 2 / unit
        smallest = np.maximum(rounding, first * float(np.finfo(state.x0.dtype).eps)).min()
        return "the neighborhood has shrunk to rounding" if state.state["radius"] < smallest else None
