"""Drop-in optimizers for PyTorch: change ``torch.optim`` to ``popgrad.torch`` and keep the rest.

Names, arguments, defaults and the layout of ``state_dict()`` are those of `torch.optim`, so that schedulers, parameter
groups, hooks and checkpoints go on working. Every step is one native call for all tensors of a group, which are
updated where they lie. Parameters are float32 or float64, dense, in the computer's own memory.
"""

try:
    from torch.optim import lr_scheduler, swa_utils
except ImportError as error:
    raise ImportError('popgrad.torch needs PyTorch: pip install "popgrad[torch]", or pip install torch') from error

from popgrad import _core
from popgrad.torch import additional, builtin
from popgrad.torch._base import Optimizer
from popgrad.torch.additional import *  # noqa: F403
from popgrad.torch.builtin import *  # noqa: F403

# PyTorch's OpenMP threads spin for a while after a backward pass. A native step runs on them, not beside them.
_core.borrow_threads("libtorch_cpu.so")

__all__ = ["Optimizer", "lr_scheduler", "swa_utils"]
__all__ += additional.__all__
__all__ += builtin.__all__
