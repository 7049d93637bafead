"""Metaheuristics: each proposes a population and learns from its fitness."""

from popgrad.search._base import Run, Search
from popgrad.search.ant_colony import ACOR
from popgrad.search.differential_evolution import DE
from popgrad.search.evolution_strategy import OpenAIES
from popgrad.search.genetic import GeneticAlgorithm
from popgrad.search.minimize import Result, minimize
from popgrad.search.particle_swarm import PSO
from popgrad.search.random_search import RandomSearch
from popgrad.search.simulated_annealing import SimulatedAnnealing
from popgrad.search.tabu import TabuSearch

# Name on the command line: class. Everything that goes over "every search" goes over this.
REGISTRY: dict[str, type[Search]] = {
    "random_search": RandomSearch,
    "simulated_annealing": SimulatedAnnealing,
    "tabu": TabuSearch,
    "genetic": GeneticAlgorithm,
    "pso": PSO,
    "de": DE,
    "acor": ACOR,
    "openai_es": OpenAIES,
}

__all__ = [
    "ACOR",
    "DE",
    "PSO",
    "REGISTRY",
    "GeneticAlgorithm",
    "OpenAIES",
    "RandomSearch",
    "Result",
    "Run",
    "Search",
    "SimulatedAnnealing",
    "TabuSearch",
    "minimize",
]
