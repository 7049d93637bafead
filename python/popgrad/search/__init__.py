"""Metaheuristics: each proposes a population and learns from its fitness."""

from popgrad.search._base import Run as Run
from popgrad.search._base import Search as Search
from popgrad.search._registry import searches
from popgrad.search.minimize import Result as Result
from popgrad.search.minimize import minimize as minimize

# Name on the command line: class.
REGISTRY: dict[str, type[Search]] = searches(__name__, __path__)

for _search in REGISTRY.values():
    globals()[_search.__name__] = _search

__all__ = sorted(["REGISTRY", "Result", "Run", "Search", "minimize", *(kind.__name__ for kind in REGISTRY.values())])
