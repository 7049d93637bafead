"""Ant colony optimization: ACO_R, for continuous domains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from popgrad import _core
from popgrad.search._base import Array, Fitness, Run, Search
from popgrad.settings import hyper


@final
@dataclass(frozen=True)
class ACOR(Search):
    r"""ACO_R: samples candidates (ants) around the best solutions so far, which an archive keeps.

    An ant picks the archive's l-th best solution with probability proportional to

    .. math:: w_l = \exp\left(-\frac{(l-1)^2}{2 q^2 k^2}\right)

    and draws every coordinate from a normal distribution around it. Its standard deviation is xi times the mean
    distance to the other solutions of the archive in that coordinate. Only solutions with a finite fitness count.
    While there are fewer than two, ants are drawn from the distribution of the first archive.

    Args:
        popsize: m, ants per generation, >= 1.
        archive: k, solutions that the archive keeps, >= 2.
        q: locality of the choice, > 0. Small values prefer the best solutions.
        xi: width of the search, > 0. Large values converge slowly.
        init_sigma: standard deviation of the first archive around x0, > 0. Ignored in coordinates
            with two finite bounds.

    State: ``archive`` (k, n), sorted by fitness, and ``fitness`` (k,).

    Raises:
        InputError: a setting is out of range.

    Reference: Socha & Dorigo, European Journal of Operational Research 185 (2008), eq. 3 to 7. The paper uses
    k = 50, m = 2 and q = 1e-4 for tens of coordinates. These defaults are for networks with thousands of parameters.
    """

    command: ClassVar[str] = "acor"
    label: ClassVar[str] = "ACO_R (ant colony)"

    popsize: int = hyper(5, at_least=1, whole=True)
    archive: int = hyper(20, at_least=2, whole=True)
    q: float = hyper(0.1, above=0)
    xi: float = hyper(0.85, above=0)
    init_sigma: float = hyper(0.1, above=0)

    def fill(self, run: Run) -> None:
        """Draw an archive that the first generation evaluates."""
        run.state["archive"] = run.first_population(self.archive, self.init_sigma)
        run.state["fitness"] = np.full(self.archive, np.inf)

    def propose(self, run: Run) -> Array:
        """Return the archive in the first generation, then one sample per ant."""
        archive: Array = run.state["archive"]
        if run.generation == 0:
            return archive.copy()
        usable = int(np.isfinite(run.state["fitness"]).sum())  # rows are sorted, so these come first
        if usable < 2:
            return run.draws(self.popsize, self.init_sigma)
        archive = archive[:usable]
        weights = np.exp(-0.5 * (np.arange(usable) / (self.q * self.archive)) ** 2)
        guides = run.random().choice(usable, size=self.popsize, p=weights / weights.sum()).astype(np.int64)
        spread, out = run.empty(self.popsize), run.empty(self.popsize)
        _core.spread(archive, guides, spread)
        run.move("SpreadGaussian", out, [archive, spread], rows=[guides, None], width=self.xi)
        return out

    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """Keep the best solutions of the archive and the ants, sorted."""
        if run.generation > 0:
            population = np.concatenate([run.state["archive"], population])
            fitness = np.concatenate([run.state["fitness"], fitness])
        best = fitness.argsort(kind="stable")[: self.archive]
        run.state["archive"], run.state["fitness"] = population[best], fitness[best]
