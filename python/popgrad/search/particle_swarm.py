"""Particle swarm optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from popgrad.checks import positive
from popgrad.search._base import Array, Fitness, Run, Search


@final
@dataclass(frozen=True)
class PSO(Search):
    r"""A swarm whose members are drawn to their own best place and to the swarm's.

    .. math:: v \leftarrow \omega v + c_1 r_1 (p - x) + c_2 r_2 (g - x), \quad x \leftarrow x + v

    with fresh uniform numbers r for every coordinate. Velocities start at zero (Engelbrecht, 2012).
    The velocity of a particle that was reflected at a bound is the step that it really made. A particle whose fitness is
    not a finite number goes back to its last place, and its velocity is reversed and halved. Particles that have never had
    a finite fitness are drawn anew every generation.

    Args:
        popsize: particles, >= 2: a lone particle is its own leader and never moves.
        inertia: omega, > 0.
        cognitive, social: c1 and c2, > 0.
        init_sigma: standard deviation of the first positions around x0, > 0; not used where both bounds are finite.

    State: ``x``, ``v``, ``best`` (popsize, n) and ``best_fitness`` (popsize,).

    Raises:
        InputError: a setting is out of range.

    Reference: Kennedy & Eberhart, ICNN 1995; Shi & Eberhart, CEC 1998, eq. 1 and 2; the default constants are
    those of Clerc & Kennedy, IEEE TEC 6 (2002), for which the swarm contracts.
    """

    popsize: int = 32
    inertia: float = 0.7298
    cognitive: float = 1.49618
    social: float = 1.49618
    init_sigma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "inertia", "cognitive", "social", "init_sigma")

    def least_popsize(self) -> int:
        """A particle and another one that draws it."""
        return 2

    def begin(self, run: Run) -> None:
        """Every particle at its first place, at rest."""
        run.state["x"] = run.first_population(self.popsize, self.init_sigma)
        run.state["v"] = np.zeros_like(run.state["x"])
        run.state["best"] = run.state["x"].copy()
        run.state["best_fitness"] = np.full(self.popsize, np.inf)

    def propose(self, run: Run) -> Array:
        """The places after the next move."""
        state = run.state
        x: Array = state["x"].copy()
        if run.generation > 0:
            never = ~np.isfinite(state["best_fitness"])
            leader = state["best"][state["best_fitness"].argmin()]
            run.move(
                "ParticleSwarm",
                [x, state["v"].copy()],
                [state["best"], leader],
                inertia=self.inertia,
                cognitive=self.cognitive,
                social=self.social,
            )
            if never.any():
                x[never] = run.draws(self.popsize, self.init_sigma)[never]
        return x

    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """Move there, and remember the better places."""
        state, finite = run.state, np.isfinite(fitness)[:, None]
        first = ~np.isfinite(state["best_fitness"])  # no velocity brought it here
        better = fitness < state["best_fitness"]
        state["best"][better] = population[better]
        state["best_fitness"][better] = fitness[better]
        with np.errstate(over="ignore"):  # bounds may be further apart than the largest number
            gone = np.where(first[:, None], 0, population - state["x"])
        state["v"] = np.where(finite, gone, -state["v"] / 2)
        state["x"] = np.where(finite, population, state["x"])
