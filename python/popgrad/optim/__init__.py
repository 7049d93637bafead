"""Gradient optimizers: each turns a gradient into a step, in one native sweep."""

from popgrad.optim._base import NativeOptimizer, Schedule
from popgrad.optim._optimizer import Descent, Optimizer, State
from popgrad.optim.adam import Adam, AdaMax, AdamW, AMSGrad, NAdam, RAdam
from popgrad.optim.adam_variants import ADOPT, AdaBelief, Adan, AdEMAMix, Yogi
from popgrad.optim.adaptive import AdaDelta, AdaGrad, RMSprop
from popgrad.optim.layerwise import LAMB, LARS, NovoGrad, Prodigy
from popgrad.optim.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from popgrad.optim.sgd import ASGD, SGD, HeavyBall, Lion, Momentum, Nesterov, Rprop, SignSGD, Signum
from popgrad.optim.sophia import SophiaG
from popgrad.optim.wrappers import SAM, Lookahead, Polyak

# Name on the command line: class. Everything that goes over "every optimizer" goes over this.
REGISTRY: dict[str, type[NativeOptimizer]] = {
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
    "novograd": NovoGrad,
    "lars": LARS,
    "lamb": LAMB,
    "prodigy": Prodigy,
    "sophia": SophiaG,
    "schedule_free_sgd": ScheduleFreeSGD,
    "schedule_free_adamw": ScheduleFreeAdamW,
}

__all__ = [
    "ADOPT",
    "ASGD",
    "LAMB",
    "LARS",
    "REGISTRY",
    "SAM",
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
    "Descent",
    "HeavyBall",
    "Lion",
    "Lookahead",
    "Momentum",
    "NAdam",
    "NativeOptimizer",
    "Nesterov",
    "NovoGrad",
    "Optimizer",
    "Polyak",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Rprop",
    "Schedule",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "SignSGD",
    "Signum",
    "SophiaG",
    "State",
    "Yogi",
]
