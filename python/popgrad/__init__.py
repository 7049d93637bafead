"""popgrad: train neural networks with any optimizer, and compare them honestly."""

from importlib.metadata import version

from popgrad import optim, search
from popgrad.backends import get_num_threads, set_num_threads
from popgrad.budget import Budget
from popgrad.checks import InputError
from popgrad.fit import History, fit
from popgrad.model import MLP
from popgrad.search import minimize

__version__ = version("popgrad")

__all__ = [
    "MLP",
    "Budget",
    "History",
    "InputError",
    "fit",
    "get_num_threads",
    "minimize",
    "optim",
    "search",
    "set_num_threads",
]
