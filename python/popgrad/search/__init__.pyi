# Written by docs/methods.py.
from popgrad.search._base import Run as Run
from popgrad.search._base import Search as Search
from popgrad.search.ant_colony import ACOR as ACOR
from popgrad.search.differential_evolution import DE as DE
from popgrad.search.evolution_strategy import OpenAIES as OpenAIES
from popgrad.search.genetic import GeneticAlgorithm as GeneticAlgorithm
from popgrad.search.minimize import Result as Result
from popgrad.search.minimize import minimize as minimize
from popgrad.search.particle_swarm import PSO as PSO
from popgrad.search.random_search import RandomSearch as RandomSearch
from popgrad.search.simulated_annealing import SimulatedAnnealing as SimulatedAnnealing
from popgrad.search.tabu import TabuSearch as TabuSearch

REGISTRY: dict[str, type[Search]]
