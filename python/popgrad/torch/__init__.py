"""Drop-in optimizers for PyTorch: change ``torch.optim`` to ``popgrad.torch`` and keep the rest.

Names, arguments, defaults and the structure of ``state_dict()`` are the same as in `torch.optim`, so that schedulers,
parameter groups, hooks and checkpoints work unchanged. A step is one native call per group, which updates all tensors
of the group in place. Parameters must be dense float32 or float64 tensors on the CPU.
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

# PyTorch's OpenMP threads spin for a while after a backward pass. Native steps run on these threads, so that the two do
# not compete for cores.
_core.borrow_threads("libtorch_cpu.so")

__all__ = ["Optimizer", "lr_scheduler", "swa_utils"]
__all__ += additional.__all__
__all__ += builtin.__all__
