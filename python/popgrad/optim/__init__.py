"""Gradient optimizers: each computes a step from a gradient, in one native sweep over the parameters."""

from popgrad.optim import adam, adam_variants, adaptive, groups, layerwise, rates, schedule_free, sgd, sophia, wrappers
from popgrad.optim._base import NativeOptimizer, Schedule
from popgrad.optim._optimizer import Descent, Optimizer, State
from popgrad.optim._presets import TorchNames
from popgrad.optim.adam import *  # noqa: F403
from popgrad.optim.adam_variants import *  # noqa: F403
from popgrad.optim.adaptive import *  # noqa: F403
from popgrad.optim.groups import *  # noqa: F403
from popgrad.optim.layerwise import *  # noqa: F403
from popgrad.optim.rates import *  # noqa: F403
from popgrad.optim.schedule_free import *  # noqa: F403
from popgrad.optim.sgd import *  # noqa: F403
from popgrad.optim.sophia import *  # noqa: F403
from popgrad.optim.wrappers import *  # noqa: F403

# All optimizers by their names on the command line, in the order of the modules and of the classes in each module.
REGISTRY: dict[str, type[NativeOptimizer]] = {
    kind.command: kind
    for module in (sgd, adaptive, adam, adam_variants, layerwise, sophia, schedule_free)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, NativeOptimizer) and kind.__name__ in module.__all__
}

__all__ = ["REGISTRY", "Descent", "NativeOptimizer", "Optimizer", "Schedule", "State", "TorchNames"]
__all__ += adam.__all__
__all__ += adam_variants.__all__
__all__ += adaptive.__all__
__all__ += groups.__all__
__all__ += layerwise.__all__
__all__ += rates.__all__
__all__ += schedule_free.__all__
__all__ += sgd.__all__
__all__ += sophia.__all__
__all__ += wrappers.__all__
