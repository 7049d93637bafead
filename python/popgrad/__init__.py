"""popgrad: train neural networks with any optimizer, and compare them honestly."""

import os as _os
import sys as _sys
from importlib.metadata import version

try:
    from popgrad import _core as _core
except ImportError as error:
    # A forced instruction set or thread count that cannot be had. The command shows the message alone.
    if _os.path.basename(_sys.argv[0]) != "popgrad":
        raise
    print(f"popgrad: {error}", file=_sys.stderr)
    raise SystemExit(2) from None

from popgrad import data, losses, optim, schedules, search
from popgrad.backends import get_num_threads, set_num_threads
from popgrad.budget import Budget
from popgrad.checks import InputError
from popgrad.layout import Layout
from popgrad.method import Method
from popgrad.models import MLP, Model
from popgrad.objective import Batch, Objective
from popgrad.perturbations import Perturbations
from popgrad.pipeline import Pipeline, load_pipeline
from popgrad.racing import Race, Racing, race
from popgrad.search import minimize
from popgrad.train import (
    BatchStream,
    Callback,
    Checkpoint,
    EarlyStopping,
    FittedModels,
    History,
    JSONLog,
    Trainer,
    TrainingRun,
    fit,
    fit_many,
    lr_range_test,
)

__version__ = version("popgrad")

__all__ = [
    "MLP",
    "Batch",
    "BatchStream",
    "Budget",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "FittedModels",
    "History",
    "InputError",
    "JSONLog",
    "Layout",
    "Method",
    "Model",
    "Objective",
    "Perturbations",
    "Pipeline",
    "Race",
    "Racing",
    "Trainer",
    "TrainingRun",
    "data",
    "fit",
    "fit_many",
    "get_num_threads",
    "load_pipeline",
    "losses",
    "lr_range_test",
    "minimize",
    "optim",
    "race",
    "schedules",
    "search",
    "set_num_threads",
]
