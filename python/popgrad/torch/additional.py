"""Those that `torch.optim` does not have, in its manner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from popgrad import optim
from popgrad.torch._base import (
    BETAS,
    MOMENTS,
    Names,
    Number,
    Optimizer,
    Pair,
    Triple,
)

__all__ = ["ADOPT", "AdEMAMix", "AdaBelief", "Adan", "Lion", "SignSGD", "Signum", "SophiaG", "Yogi"]


class Lion(Optimizer):
    """The sign of an average that leans to the newest gradient: `optim.Lion`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: weight of the average in the step, and its decay, in [0, 1).
        weight_decay: lambda >= 0: weights shrink by 1 - lr lambda before the step.
        maximize: go up instead of down.

    State: ``step``, ``exp_avg``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.Lion
    _names: ClassVar[Names] = {"betas": ("beta1", "beta2")}
    _states: ClassVar[Mapping[str, str]] = {"m": "exp_avg"}

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-4,
        betas: Pair = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, locals())


class AdaBelief(Optimizer):
    """Adam whose steps shrink where the gradient surprises: `optim.AdaBelief`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: beta1 and beta2, in [0, 1).
        eps: >= 0; added to the variance in every step, and after the root.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        maximize: go up instead of down.

    State: ``step``, ``exp_avg``, ``exp_avg_var``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.AdaBelief
    _names: ClassVar[Names] = BETAS
    _states: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "s": "exp_avg_var"}

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        betas: Pair = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, locals())


class Yogi(Optimizer):
    """Adam whose second moment changes by a bounded amount: `optim.Yogi`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: beta1 and beta2, in [0, 1).
        eps: >= 0, in units of the gradient; after the root.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        maximize: go up instead of down.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.Yogi
    _names: ClassVar[Names] = BETAS
    _states: ClassVar[Mapping[str, str]] = MOMENTS

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-2,
        betas: Pair = (0.9, 0.999),
        eps: float = 1e-3,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, locals())


class Adan(Optimizer):
    """Nesterov's look ahead through the differences of gradients: `optim.Adan`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: decay of gradient, difference and square, in [0, 1).
        eps: >= 0, in units of the gradient; after the root.
        weight_decay: lambda >= 0, by its proximal step.
        maximize: go up instead of down.

    State: ``step``, ``exp_avg``, ``exp_avg_diff``, ``exp_avg_sq``, ``prev``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.Adan
    _names: ClassVar[Names] = {"betas": ("beta1", "beta2", "beta3"), "eps": "epsilon"}
    _states: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "d": "exp_avg_diff", "n": "exp_avg_sq", "g": "prev"}

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        betas: Triple = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, locals())


class AdEMAMix(Optimizer):
    """Adam with a second, slow average of the gradient: `optim.AdEMAMix`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: learning rate >= 0, a number or a tensor of one element.
        betas: decay of the fast average, of the square and of the slow average, in [0, 1).
        alpha: weight of the slow average, > 0.
        eps: >= 0, in units of the gradient; after the root.
        weight_decay: lambda >= 0: weights shrink by 1 - lr lambda before the step.
        maximize: go up instead of down.

    State: ``step``, ``exp_avg``, ``exp_avg_slow``, ``exp_avg_sq``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.AdEMAMix
    _names: ClassVar[Names] = {"betas": ("beta1", "beta2", "beta3"), "eps": "epsilon", "alpha": "alpha"}
    _states: ClassVar[Mapping[str, str]] = {"fast": "exp_avg", "slow": "exp_avg_slow", "v": "exp_avg_sq"}

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        betas: Triple = (0.9, 0.999, 0.9999),
        alpha: float = 5.0,
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, locals())


class ADOPT(Optimizer):
    """Adam that divides by the second moment of the step before: `optim.ADOPT`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: beta1 and beta2, in [0, 1).
        eps: >= 0, in units of the gradient; the least divisor.
        weight_decay: lambda >= 0: weights shrink by 1 - lr lambda before the step.
        maximize: go up instead of down.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.ADOPT
    _names: ClassVar[Names] = BETAS
    _states: ClassVar[Mapping[str, str]] = MOMENTS

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        betas: Pair = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, locals())


class SignSGD(Optimizer):
    """Sign descent: every parameter moves by the learning rate: `optim.SignSGD`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        maximize: go up instead of down.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.SignSGD
    _counts = False

    def __init__(self, params: Any, lr: Number = 1e-3, weight_decay: float = 0, *, maximize: bool = False) -> None:
        super().__init__(params, locals())


class Signum(Optimizer):
    """Sign descent along the running average of the gradient: `optim.Signum`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        momentum: decay of the average, in [0, 1).
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        maximize: go up instead of down.

    State: ``step``, ``momentum_buffer``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.Signum
    _names: ClassVar[Names] = {"momentum": "beta"}
    _states: ClassVar[Mapping[str, str]] = {"v": "momentum_buffer"}

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, locals())


class SophiaG(Optimizer):
    """Momentum over an estimate of the curvature: `optim.SophiaG`.

    Every tenth step or so, call `observe` with the gradients of a loss whose labels were drawn from the model's own
    predictions, before those of the step itself.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: decay of the momentum and of the curvature, in [0, 1).
        rho: > 0, scales the curvature.
        weight_decay: lambda >= 0: weights shrink by 1 - lr lambda before the step.
        maximize: go up instead of down.

    State: ``step``, ``exp_avg``, ``hessian``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.SophiaG
    _names: ClassVar[Names] = {"betas": ("beta1", "beta2"), "rho": "rho"}
    _states: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "h": "hessian"}

    def __init__(
        self,
        params: Any,
        lr: Number = 3e-4,
        betas: Pair = (0.965, 0.99),
        rho: float = 0.04,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, locals())

    def observe(self, samples: int) -> None:
        """Take the gradients that the parameters hold into the curvature; the parameters stay as they are.

        Args:
            samples: over how many samples the loss was averaged, >= 1.

        Raises:
            InputError: see the class; no tensor was changed.
        """
        if samples < 1:
            self._fail(f"samples must be a whole number >= 1, got {samples!r}")
        for plan, _, batches, copies in self._gather():
            estimate = cast(optim.SophiaG, plan.rule).curvature_plan(samples)
            for batch in batches:
                batch.step(estimate, batch.values() or ())
            if copies is not None:
                copies.give_back()
