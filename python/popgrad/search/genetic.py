"""Genetic algorithm: real-coded, with tournaments, uniform crossover, Gaussian mutation and elitism."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from popgrad.checks import fail
from popgrad.search._base import Array, Fitness, Run, Search
from popgrad.settings import hyper


@final
@dataclass(frozen=True)
class GeneticAlgorithm(Search):
    r"""Tournament selection, uniform crossover, Gaussian mutation and elitism.

    Each child has two parents. Each parent is the best of `tournament` random members. With probability `crossover`,
    every gene comes from either parent with equal chance; otherwise all genes come from the first parent. Then every
    gene mutates with probability `mutation` by sigma z, z ~ N(0, 1). The `elites` best members replace the worst
    children. Only members with a finite fitness become parents. A generation in which no child has a finite fitness
    changes nothing.

    Args:
        popsize: members, >= 2.
        tournament: members that compete to become a parent, >= 1.
        crossover: probability that a child has two parents, in [0, 1].
        mutation: probability that a gene mutates, in (0, 1].
        sigma: standard deviation of a mutation, > 0, in units of x. None: 0.1 of the width of the box in coordinates
            with two finite bounds, 0.1 in the others.
        elites: members that survive unchanged, in [0, popsize).
        init_sigma: standard deviation of the first population around x0, > 0. Ignored in coordinates
            with two finite bounds.

    State: ``population`` (popsize, n) and ``fitness`` (popsize,).

    Raises:
        InputError: a setting is out of range.

    Reference: Holland, Adaptation in Natural and Artificial Systems (1975); Goldberg & Deb, FOGA 1 (1991), for
    tournaments; Syswerda, ICGA 1989, for uniform crossover; De Jong (1975) for elites.
    """

    command: ClassVar[str] = "genetic"
    label: ClassVar[str] = "Genetic algorithm"

    popsize: int = hyper(32, at_least=2, whole=True)
    tournament: int = hyper(2, at_least=1, whole=True)
    crossover: float = hyper(0.9, at_least=0, at_most=1)
    mutation: float = hyper(0.1, above=0, at_most=1)
    sigma: float | None = hyper(None, above=0, optional=True)
    elites: int = hyper(2, at_least=0, whole=True)
    init_sigma: float = hyper(0.1, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.elites >= self.popsize:
            fail(self, f"elites must be fewer than popsize {self.popsize}, got {self.elites}")

    def fill(self, run: Run) -> None:
        """Make a population that the first generation replaces."""
        run.state["population"] = np.tile(run.x0, (self.popsize, 1))
        run.state["fitness"] = np.full(self.popsize, np.inf)

    def propose(self, run: Run) -> Array:
        """Return the children of this generation."""
        if run.generation == 0:
            return run.first_population(self.popsize, self.init_sigma)
        random, fitness = run.random(), run.state["fitness"]
        usable = np.flatnonzero(np.isfinite(fitness))
        rivals = usable[random.integers(len(usable), size=(2, self.popsize, self.tournament))]
        winners = np.take_along_axis(rivals, fitness[rivals].argmin(axis=2)[..., None], axis=2)[..., 0]
        mother, father = np.ascontiguousarray(winners, np.int64)
        father = np.where(random.random(self.popsize) < self.crossover, father, mother)
        out, old = run.empty(self.popsize), run.state["population"]
        sigma, unit = run.length(self.sigma, free=0.1, share=0.1)
        rows = [mother, father, None]
        run.move("Crossover", out, [old, old, unit], rows=rows, rate=self.mutation, sigma=sigma)
        return out

    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """Make the children the next population, except for the elites."""
        population, fitness = population.copy(), fitness.copy()
        if self.elites and run.generation > 0:
            best = run.state["fitness"].argsort(kind="stable")[: self.elites]
            worst = fitness.argsort(kind="stable")[-self.elites :]
            population[worst], fitness[worst] = run.state["population"][best], run.state["fitness"][best]
        if np.isfinite(fitness).any():
            run.state["population"], run.state["fitness"] = population, fitness
