"""Metaheuristics: each proposes a population and learns from its fitness."""

from typing import TYPE_CHECKING

from popgrad.search._base import Run as Run
from popgrad.search._base import Search as Search
from popgrad.search._registry import searches
from popgrad.search.minimize import Result as Result
from popgrad.search.minimize import minimize as minimize

if TYPE_CHECKING:  # type checkers do not see the names that the loop below defines
    from popgrad.search.ant_colony import ACOR as ACOR
    from popgrad.search.differential_evolution import DE as DE
    from popgrad.search.evolution_strategy import OpenAIES as OpenAIES
    from popgrad.search.genetic import GeneticAlgorithm as GeneticAlgorithm
    from popgrad.search.particle_swarm import PSO as PSO
    from popgrad.search.random_search import RandomSearch as RandomSearch
    from popgrad.search.simulated_annealing import SimulatedAnnealing as SimulatedAnnealing
    from popgrad.search.tabu import TabuSearch as TabuSearch

# Name on the command line: class.
REGISTRY: dict[str, type[Search]] = searches(__name__, __path__)

for _search in REGISTRY.values():
    globals()[_search.__name__] = _search

__all__ = sorted(["REGISTRY", "Result", "Run", "Search", "minimize", *(kind.__name__ for kind in REGISTRY.values())])
