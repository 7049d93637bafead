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

    with fresh uniform numbers r for every coordinate. Velocities start at zero (Engelbrecht, 2012). A particle
    that is reflected at a bound has its velocity reversed and halved in that coordinate. A particle whose fitness is
    NaN or infinite goes back to its last place, with its velocity reversed and halved. Particles that have never had a
    finite fitness are drawn anew every generation.

    Args:
        popsize: particles, >= 2: a lone particle is its own leader and never moves.
        inertia: omega, > 0.
        cognitive, social: c1 and c2, > 0.
        init_sigma: standard deviation of the first positions around x0, > 0; not used where both bounds are finite.

    State: ``x``, ``v``, ``best`` (popsize, n) and ``best_fitness`` (popsize,).

    Raises:
        InputError: a setting is out of range.

    Reference: Kennedy & Eberhart, ICNN 1995; Shi & Eberhart, CEC 1998, eq. 1 and 2; the default constants are
    those of Clerc & Kennedy, IEEE TEC 6 (2002), for which the swarm contracts. The velocity at a bound is that of SPSO
    2011 (Clerc, hal-00764996).
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

    def fill(self, run: Run) -> None:
        """Every particle at its first place, at rest."""
        run.state["x"] = run.first_population(self.popsize, self.init_sigma)
        run.state["v"] = np.zeros_like(run.state["x"])
        run.state["best"] = run.state["x"].copy()
        run.state["best_fitness"] = np.full(self.popsize, np.inf)

    def propose(self, run: Run) -> Array:
        """The places after the next move."""
        x, _ = self._moved(run)
        never = ~np.isfinite(run.state["best_fitness"])
        if run.generation > 0 and never.any():
            x[never] = run.draws(self.popsize, self.init_sigma)[never]
        return x

    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """Move there, and remember the better places."""
        state, finite = run.state, np.isfinite(fitness)
        velocity = self._velocity(run, population)
        better = fitness < state["best_fitness"]
        state["best"][better] = population[better]
        state["best_fitness"][better] = fitness[better]
        if finite.all():
            state["v"], state["x"] = velocity, population.copy()
        else:
            state["v"] = np.where(finite[:, None], velocity, -state["v"] / 2)
            state["x"] = np.where(finite[:, None], population, state["x"])

    def _moved(self, run: Run) -> tuple[Array, Array]:
        """Places and velocities after the next move, before the bounds; the first ones at the beginning."""
        state = run.state
        x, v = state["x"].copy(), state["v"].copy()
        if run.generation > 0:
            leader = state["best"][state["best_fitness"].argmin()]
            factors = {"inertia": self.inertia, "cognitive": self.cognitive, "social": self.social}
            run.move("ParticleSwarm", [x, v], [state["best"], leader], **factors)
        return x, v

    def _velocity(self, run: Run, population: Array) -> Array:
        """The velocities of particles that have come to `population`."""
        with np.errstate(over="ignore"):  # bounds may be further apart than the largest number
            velocity: Array = population - run.state["x"]
        if run.box is not None:
            place, v = self._moved(run)
            reflected = ((place < run.box.lower) | (place > run.box.upper)) & np.isfinite(v)
            velocity = np.where(reflected, -v / 2, velocity)
        velocity[~np.isfinite(run.state["best_fitness"])] = 0  # it was drawn
        return velocity
