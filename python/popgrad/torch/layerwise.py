"""Those that look at the norms of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from popgrad import optim
from popgrad.torch._base import (
    BETAS,
    MOMENTS,
    Names,
    Number,
    Optimizer,
    Pair,
)

__all__ = ["LAMB", "LARS", "NovoGrad", "Prodigy"]


class LARS(Optimizer):
    """Momentum whose learning rate follows the ratio of weights and gradient: `optim.LARS`. A tensor is a layer.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        momentum: mu, in [0, 1]; the learning rate is inside the velocity.
        trust: eta, > 0.
        weight_decay: lambda >= 0, part of the update whose ratio is taken.
        eps: >= 0, added to the divisor.
        adapt_vectors: whether biases and other tensors of less than two dimensions have a ratio too.
        maximize: go up instead of down.

    State: ``step``, ``momentum_buffer``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.LARS
    _names: ClassVar[Names] = {
        "momentum": "momentum",
        "trust": "trust",
        "eps": "epsilon",
        "adapt_vectors": "adapt_vectors",
    }
    _states: ClassVar[Mapping[str, str]] = {"v": "momentum_buffer"}

    def __init__(
        self,
        params: Any,
        lr: Number = 1.0,
        momentum: float = 0.9,
        trust: float = 1e-3,
        weight_decay: float = 0,
        eps: float = 0.0,
        adapt_vectors: bool = True,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, locals())


class LAMB(Optimizer):
    """Adam whose steps have the length of their tensor: `optim.LAMB`. A tensor is a layer.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: beta1 and beta2, in [0, 1).
        eps: >= 0, in units of the gradient; after the root.
        weight_decay: lambda >= 0, part of the update whose norm is taken.
        adapt_vectors: whether biases and other tensors of less than two dimensions have a ratio too.
        maximize: go up instead of down.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.LAMB
    _names: ClassVar[Names] = {**BETAS, "adapt_vectors": "adapt_vectors"}
    _states: ClassVar[Mapping[str, str]] = MOMENTS

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        betas: Pair = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0,
        adapt_vectors: bool = True,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, locals())


class NovoGrad(Optimizer):
    """Momentum on gradients over the running norm of their tensor: `optim.NovoGrad`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: beta1 and beta2, in [0, 1).
        eps: >= 0, in units of the gradient's norm.
        weight_decay: lambda >= 0, inside the momentum.
        averaging: multiply what enters the momentum by 1 - beta1.
        maximize: go up instead of down.

    State: ``step``, ``exp_avg``, and ``exp_avg_sq``, one number: the running squared norm of the gradient.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.NovoGrad
    _names: ClassVar[Names] = {**BETAS, "averaging": "averaging"}
    _states: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq"}
    _double = frozenset({"exp_avg_sq"})

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-2,
        betas: Pair = (0.95, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0,
        averaging: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, locals())


class Prodigy(Optimizer):
    """Adam that finds its learning rate: `optim.Prodigy`.

    Each parameter group finds a learning rate of its own, from all its tensors together.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: beta1 and beta2, in [0, 1).
        eps: >= 0, in units of the gradient.
        weight_decay: lambda >= 0, decoupled.
        d0: the first estimate of the distance, > 0 and small.
        d_coef: scales the estimate, > 0.
        growth_rate: the most by which it grows in a step, > 1; None for no limit.
        use_bias_correction: whether lr has Adam's bias corrections.
        maximize: go up instead of down.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``, ``s``, ``p0``, and three numbers, the same for all tensors: ``d``, the
    estimate, ``d_max``, the largest so far, and ``d_numerator``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.Prodigy
    _names: ClassVar[Names] = {
        **BETAS,
        "d0": "start",
        "d_coef": "coefficient",
        "growth_rate": "growth",
        "use_bias_correction": "bias_correction",
    }
    _states: ClassVar[Mapping[str, str]] = {
        **MOMENTS,
        "s": "s",
        "start": "p0",
        "d": "d",
        "largest": "d_max",
        "numerator": "d_numerator",
    }
    _double = frozenset({"d", "d_max", "d_numerator"})

    def __init__(
        self,
        params: Any,
        lr: Number = 1.0,
        betas: Pair = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float | None = None,
        use_bias_correction: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, locals())
