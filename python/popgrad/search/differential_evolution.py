"""Differential evolution: DE/rand/1/bin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from popgrad.search._base import Array, Fitness, Run, Search
from popgrad.settings import hyper


@final
@dataclass(frozen=True)
class DE(Search):
    r"""DE/rand/1/bin: each member tries a step along the difference of two others, and moves if that is not worse.

    .. math:: u_i = x_a + F (x_b - x_c) \text{ with probability } CR \text{ per coordinate, at least once, else } x_i

    a, b, c and i are distinct members with a finite fitness. Members without a finite fitness are redrawn every
    generation. While fewer than four members have a finite fitness, all members are redrawn.

    Args:
        popsize: members, >= 4.
        factor: F, > 0.
        crossover: CR, in [0, 1].
        init_sigma: standard deviation of the first population around x0, > 0. Ignored in coordinates
            with two finite bounds.
            Steps are differences between members, so choose roughly the distance to the solution, or give bounds. The
            default suits the weights of a network.

    State: ``x`` (popsize, n) and ``fitness`` (popsize,).

    Raises:
        InputError: a setting is out of range.

    Reference: Storn & Price, Journal of Global Optimization 11 (1997), eq. 2 to 6.
    """

    popsize: int = hyper(32, at_least=4, whole=True)  # a member and three distinct others
    factor: float = hyper(0.5, above=0)
    crossover: float = hyper(0.9, at_least=0, at_most=1)
    init_sigma: float = hyper(0.1, above=0)

    def fill(self, run: Run) -> None:
        """Draw a population that the first generation evaluates."""
        run.state["x"] = run.first_population(self.popsize, self.init_sigma)
        run.state["fitness"] = np.full(self.popsize, np.inf)

    def propose(self, run: Run) -> Array:
        """Return a trial for every member; the first generation evaluates the members."""
        x: Array = run.state["x"]
        if run.generation == 0:
            return x.copy()
        usable = np.flatnonzero(np.isfinite(run.state["fitness"]))
        if len(usable) == self.popsize:
            return self._trials(run, usable)
        out = run.draws(self.popsize, self.init_sigma)
        if len(usable) >= 4:
            out[usable] = self._trials(run, usable)
        return out

    def _trials(self, run: Run, members: NDArray[np.int64]) -> Array:
        """Return a trial for each of `members`, (len(members), n), with donors from `members`."""
        x, random, out = run.state["x"], run.random(), run.empty(len(members))
        donors = members[distinct_others(random, len(members), 3)]
        chosen = random.integers(run.n, size=len(members))
        run.move(
            "Differential",
            out,
            [x, x, x, x],
            rows=[members, *donors],
            chosen=chosen,
            factor=self.factor,
            crossover_rate=self.crossover,
        )
        return out

    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """Replace each member whose trial is not worse."""
        better = fitness <= run.state["fitness"]  # members with infinite fitness are redrawn
        run.state["x"][better] = population[better]
        run.state["fitness"][better] = fitness[better]


def distinct_others(random: np.random.Generator, count: int, wanted: int) -> NDArray[np.int64]:
    """Return, for every i in 0..count-1, `wanted` indices that differ from i and from each other: (wanted, count).

    All such tuples are equally likely: the k-th index is drawn by its rank among the count - k unused indices.
    """
    taken = np.arange(count)[None]
    for k in range(1, wanted + 1):
        pick = random.integers(count - k, size=count)
        for used in np.sort(taken, axis=0):  # from rank to index: skip the used indices, smallest first
            pick = pick + (pick >= used)
        taken = np.concatenate([taken, pick[None]])
    return np.ascontiguousarray(taken[1:], np.int64)
