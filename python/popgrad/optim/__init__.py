"""Gradient optimizers: each turns a gradient into a step, in one native sweep."""

from popgrad.optim._base import Optimizer, Schedule, State
from popgrad.optim.first_order import (
    SGD,
    AdaDelta,
    AdaGrad,
    Adam,
    AdamW,
    HeavyBall,
    Momentum,
    Nesterov,
    RMSprop,
)

# Name on the command line: class. Everything that goes over "every optimizer" goes over this.
REGISTRY: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "heavy_ball": HeavyBall,
    "nesterov": Nesterov,
    "adagrad": AdaGrad,
    "rmsprop": RMSprop,
    "adadelta": AdaDelta,
    "adam": Adam,
    "adamw": AdamW,
}

__all__ = [
    "REGISTRY",
    "SGD",
    "AdaDelta",
    "AdaGrad",
    "Adam",
    "AdamW",
    "HeavyBall",
    "Momentum",
    "Nesterov",
    "Optimizer",
    "RMSprop",
    "Schedule",
    "State",
]
