"""Gradient optimizers: each turns a gradient into a step, in one native sweep."""

from popgrad.optim._base import Optimizer, Schedule, State
from popgrad.optim.adam import ADOPT, AdaBelief, Adam, AdaMax, AdamW, Adan, AdEMAMix, AMSGrad, NAdam, RAdam, Yogi
from popgrad.optim.adaptive import AdaDelta, AdaGrad, RMSprop
from popgrad.optim.sgd import ASGD, SGD, HeavyBall, Lion, Momentum, Nesterov, Rprop, SignSGD, Signum

# Name on the command line: class. Everything that goes over "every optimizer" goes over this.
REGISTRY: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "heavy_ball": HeavyBall,
    "nesterov": Nesterov,
    "sign_sgd": SignSGD,
    "signum": Signum,
    "lion": Lion,
    "rprop": Rprop,
    "asgd": ASGD,
    "adagrad": AdaGrad,
    "rmsprop": RMSprop,
    "adadelta": AdaDelta,
    "adam": Adam,
    "adamw": AdamW,
    "amsgrad": AMSGrad,
    "adamax": AdaMax,
    "nadam": NAdam,
    "radam": RAdam,
    "adabelief": AdaBelief,
    "yogi": Yogi,
    "adopt": ADOPT,
    "ademamix": AdEMAMix,
    "adan": Adan,
}

__all__ = [
    "ADOPT",
    "ASGD",
    "REGISTRY",
    "SGD",
    "AMSGrad",
    "AdEMAMix",
    "AdaBelief",
    "AdaDelta",
    "AdaGrad",
    "AdaMax",
    "Adam",
    "AdamW",
    "Adan",
    "HeavyBall",
    "Lion",
    "Momentum",
    "NAdam",
    "Nesterov",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "Schedule",
    "SignSGD",
    "Signum",
    "State",
    "Yogi",
]
