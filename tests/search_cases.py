"""The table where a search registers for every test at once, and the problems that it must solve.

A search that is registered in popgrad but has no row here fails ``test_registered``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from popgrad import search


@dataclass(frozen=True)
class Problem:
    """A function of (P, n), where to start, its bounds, and its minimum's value."""

    name: str
    f: Callable[[Any], Any]
    x0: Any
    bounds: tuple[float, float]
    minimum: float = 0.0


PROBLEMS = {
    "sphere": Problem("sphere", lambda x: (x**2).sum(1), np.full(4, 1.0), (-2.0, 3.0)),
    "ellipsoid": Problem("ellipsoid", lambda x: (x**2 * [1, 5, 25, 125]).sum(1), np.full(4, 1.0), (-2.0, 3.0)),
    "rosenbrock": Problem(
        "rosenbrock",
        lambda x: 100 * (x[:, 1] - x[:, 0] ** 2) ** 2 + (1 - x[:, 0]) ** 2,
        np.array([-1.0, 1.0]),
        (-2.0, 2.0),
    ),
    "rastrigin": Problem(
        "rastrigin", lambda x: 20 + (x**2 - 10 * np.cos(2 * np.pi * x)).sum(1), np.array([2.2, -1.7]), (-5.12, 5.12)
    ),
}

# --- Searches -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A search, the value that it reaches on each problem with 20,000 evaluations, and values it must refuse."""

    search: search.Search
    solves: dict[str, float]
    refuses: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return type(self.search).__name__


SEARCHES = [
    Method(search.RandomSearch(sigma=1.0), {"sphere": 0.5, "rosenbrock": 0.1}, {"sigma": 0.0}),
    Method(search.SimulatedAnnealing(), {"sphere": 1e-2, "ellipsoid": 1e-1}, {"cooling": 1.0}),
    Method(search.TabuSearch(), {"sphere": 1e-6, "ellipsoid": 1e-3}, {"tenure": 0}),
    Method(search.GeneticAlgorithm(), {"sphere": 1e-3, "rastrigin": 1.0}, {"elites": 32}),
    Method(search.PSO(), {"sphere": 1e-8, "ellipsoid": 1e-8, "rosenbrock": 1e-4}, {"inertia": -0.5}),
    Method(search.DE(), {"sphere": 1e-8, "ellipsoid": 1e-8, "rosenbrock": 1e-6, "rastrigin": 1e-6}, {"popsize": 3}),
    Method(search.ACOR(), {"sphere": 1e-8, "ellipsoid": 1e-8}, {"archive": 1}),
    Method(search.OpenAIES(), {"sphere": 1e-2, "ellipsoid": 1e-1}, {"popsize": 7}),
]


def assert_same_run(one, two):
    """Two runs of a search stand at the same point, bit for bit."""
    one, two = one.state_dict(), two.state_dict()
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
        assert type(one[name]) is type(two[name]), name
