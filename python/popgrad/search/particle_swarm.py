"""Particle swarm optimization: particles are attracted to their own best position and the swarm's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from popgrad.search._base import Array, Fitness, Run, Search
from popgrad.settings import hyper


@final
@dataclass(frozen=True)
class PSO(Search):
    r"""Particles are attracted to the best position they have visited and to the best position of the swarm.

    .. math:: v \leftarrow \omega v + c_1 r_1 (p - x) + c_2 r_2 (g - x), \quad x \leftarrow x + v

    p is the best position of the particle and g that of the swarm. r_1 and r_2 are uniform in [0, 1), drawn for every
    coordinate. Velocities start at zero (Engelbrecht, 2012). When a bound reflects a particle, its velocity is reversed
    and halved in that coordinate. A particle whose fitness is NaN or infinite returns to its previous position with its
    velocity reversed and halved. Particles that have never had a finite fitness are redrawn every generation.

    Args:
        popsize: particles, >= 2. A single particle would never move.
        inertia: omega, > 0.
        cognitive, social: c1 and c2, > 0.
        init_sigma: standard deviation of the first positions around x0, > 0. Ignored in coordinates
            with two finite bounds.

    State: ``x``, ``v``, ``best`` (popsize, n) and ``best_fitness`` (popsize,).

    Raises:
        InputError: a setting is out of range.

    Reference: Kennedy & Eberhart, ICNN 1995; Shi & Eberhart, CEC 1998, eq. 1 and 2; the default constants
    are from Clerc & Kennedy, IEEE TEC 6 (2002), and make the swarm contract. The rule for velocities at a bound is from
    SPSO 2011 (Clerc, hal-00764996).
    """

    popsize: int = hyper(32, at_least=2, whole=True)
    inertia: float = hyper(0.7298, above=0)
    cognitive: float = hyper(1.49618, above=0)
    social: float = hyper(1.49618, above=0)
    init_sigma: float = hyper(0.1, above=0)

    def fill(self, run: Run) -> None:
        """Place every particle at rest at its first position."""
        run.state["x"] = run.first_population(self.popsize, self.init_sigma)
        run.state["v"] = np.zeros_like(run.state["x"])
        run.state["best"] = run.state["x"].copy()
        run.state["best_fitness"] = np.full(self.popsize, np.inf)
        run.handed["velocity"] = np.zeros_like(run.state["x"])

    def propose(self, run: Run) -> Array:
        """Return the positions after the next move, before the bounds."""
        state = run.state
        if run.generation == 0:
            return np.array(state["x"])
        x = run.empty(self.popsize)
        leader = state["best"][state["best_fitness"].argmin()]
        factors = {"inertia": self.inertia, "cognitive": self.cognitive, "social": self.social}
        sources = [state["x"], state["v"], state["best"], leader]
        run.move("ParticleSwarm", [x, run.handed["velocity"]], sources, **factors)
        never = ~np.isfinite(state["best_fitness"])
        if never.any():
            x[never] = run.draws(self.popsize, self.init_sigma)[never]
        return x

    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """Move the particles and keep the better positions."""
        state = run.state
        infinite = np.full(run.n, np.inf, population.dtype)
        bounds = [-infinite, infinite] if run.box is None else [run.box.lower, run.box.upper]
        run.move(
            "ParticleArrival",
            [state["x"], state["v"]],
            [population, run.handed["velocity"], *bounds],
            failed=~np.isfinite(fitness),
            drawn=~np.isfinite(state["best_fitness"]),
        )
        better = fitness < state["best_fitness"]
        state["best"][better] = population[better]
        state["best_fitness"][better] = fitness[better]
