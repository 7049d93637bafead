"""Methods that `torch.optim` does not have, with its conventions; generated from the classes of `popgrad.optim`.

``python docs/methods.py`` writes their signatures for type checkers to additional.pyi.
"""

from popgrad import optim
from popgrad.torch._base import Optimizer
from popgrad.torch._generate import torch_class
from popgrad.torch._special import Averaging, Observing

# Base classes for methods that need more than `step`.
_BASES: dict[type[optim.NativeOptimizer], type[Optimizer]] = {
    optim.SophiaG: Observing,
    optim.ScheduleFreeSGD: Averaging,
    optim.ScheduleFreeAdamW: Averaging,
}
_CLASSES = {
    method.__name__: torch_class(method, __name__, _BASES.get(method, Optimizer))
    for method in optim.REGISTRY.values()
    if method.torch_names is not None and "torch" not in method.presets
}
globals().update(_CLASSES)

__all__ = sorted(_CLASSES)
