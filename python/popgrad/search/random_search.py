"""Random search: a baseline for every other search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from popgrad.search._base import Array, Fitness, Run, Search
from popgrad.settings import hyper


@final
@dataclass(frozen=True)
class RandomSearch(Search):
    r"""Draws independent candidates and keeps the best.

    .. math:: x = x_0 + \sigma z, \quad z \sim N(0, I), \qquad \text{or uniform between finite bounds}

    Args:
        popsize: candidates per generation, >= 1.
        sigma: standard deviation around x0, > 0, in units of x. Ignored in coordinates with two finite bounds.

    Raises:
        InputError: a setting is out of range.

    Reference: Brooks, Operations Research 6 (1958).
    """

    label: ClassVar[str] = "Random search"

    popsize: int = hyper(32, at_least=1, whole=True)
    sigma: float = hyper(0.1, above=0)

    def fill(self, run: Run) -> None:
        """Do nothing: there is no state."""

    def propose(self, run: Run) -> Array:
        """Return new draws; in the first generation, the first candidate is x0."""
        if run.generation == 0:
            return run.first_population(self.popsize, self.sigma)
        return run.draws(self.popsize, self.sigma)

    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """Do nothing: the run keeps the best candidate."""
