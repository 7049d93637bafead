"""The optimizers of `torch.optim`, with the same names, arguments, defaults and states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from popgrad import _core, optim
from popgrad.optim import NativeOptimizer
from popgrad.torch._base import (
    BETAS,
    MOMENTS,
    Group,
    Names,
    Number,
    Optimizer,
    Pair,
)

__all__ = ["ASGD", "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop"]


class SGD(Optimizer):
    """Gradient descent, with momentum: `optim.SGD`, `optim.HeavyBall`, `optim.Nesterov`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        momentum: mu, in [0, 1].
        dampening: tau, in [0, 1]; every gradient except the first is multiplied by 1 - tau.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        nesterov: use Nesterov momentum; requires momentum > 0 and dampening = 0.
        maximize: maximize the loss instead of minimizing it.
        foreach, fused, differentiable: see `Optimizer`.

    State: ``momentum_buffer``, with momentum.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.SGD
    _states: ClassVar[Mapping[str, str]] = {"v": "momentum_buffer"}
    _optional = frozenset({"momentum_buffer"})
    _counts = False

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: Number = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, locals())

    def _choose(self, group: Group) -> tuple[Any, Names]:
        if group["nesterov"]:
            if not group["momentum"] or group["dampening"]:
                self._fail("nesterov requires momentum > 0 and dampening = 0")
            return optim.Nesterov, {"momentum": "momentum"}
        if not group["momentum"]:
            return optim.SGD, {}
        return optim.HeavyBall, {"momentum": "momentum", "dampening": "dampening"}


class Adam(Optimizer):
    """Adam: `optim.Adam`, and with amsgrad `optim.AMSGrad`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: beta1 and beta2, in [0, 1).
        eps: >= 0, in units of the gradient; added after the root.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        amsgrad: divide by the largest second moment so far.
        maximize: maximize the loss instead of minimizing it.
        decoupled_weight_decay: multiply the weights by 1 - lr lambda instead, as AdamW does.
        foreach, fused, capturable, differentiable: see `Optimizer`.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``, and with amsgrad ``max_exp_avg_sq``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.Adam
    _names: ClassVar[Names] = BETAS
    _states: ClassVar[Mapping[str, str]] = MOMENTS | {"largest": "max_exp_avg_sq"}
    _optional = frozenset({"max_exp_avg_sq"})

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        super().__init__(params, locals())

    def _choose(self, group: Group) -> tuple[Any, Names]:
        return optim.AMSGrad if group["amsgrad"] else optim.Adam, self._names


class AdamW(Adam):
    """Adam with decoupled weight decay: `optim.AdamW`, and with amsgrad `optim.AMSGrad`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: beta1 and beta2, in [0, 1).
        eps: >= 0, in units of the gradient; added after the root.
        weight_decay: lambda >= 0; the weights are multiplied by 1 - lr lambda before the step.
        amsgrad: divide by the largest second moment so far.
        maximize: maximize the loss instead of minimizing it.
        foreach, fused, capturable, differentiable: see `Optimizer`.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``, and with amsgrad ``max_exp_avg_sq``.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        Optimizer.__init__(self, params, locals() | {"decoupled_weight_decay": True})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`."""
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True


class Adamax(Optimizer):
    """Adam in the maximum norm: `optim.AdaMax`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: beta1 and beta2, in [0, 1).
        eps: >= 0, in units of the gradient; added inside the maximum.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        maximize: maximize the loss instead of minimizing it.
        foreach, differentiable, capturable: see `Optimizer`.

    State: ``step``, ``exp_avg``, ``exp_inf``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.AdaMax
    _names: ClassVar[Names] = BETAS
    _states: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "u": "exp_inf"}

    def __init__(
        self,
        params: Any,
        lr: Number = 2e-3,
        betas: Pair = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        super().__init__(params, locals())


class NAdam(Optimizer):
    """Adam with Nesterov momentum: `optim.NAdam`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: beta1 and beta2, in [0, 1).
        eps: >= 0, in units of the gradient; added after the root.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        momentum_decay: psi >= 0, of the momentum schedule.
        decoupled_weight_decay: multiply the weights by 1 - lr lambda instead.
        maximize: maximize the loss instead of minimizing it.
        foreach, capturable, differentiable: see `Optimizer`.

    State: ``step``, ``mu_product``, ``exp_avg``, ``exp_avg_sq``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.NAdam
    _names: ClassVar[Names] = {**BETAS, "momentum_decay": "momentum_decay"}
    _states: ClassVar[Mapping[str, str]] = MOMENTS | {"product": "mu_product"}

    def __init__(
        self,
        params: Any,
        lr: Number = 2e-3,
        betas: Pair = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, locals())


class RAdam(Optimizer):
    """Adam that does not adapt step sizes until the variance estimate is reliable: `optim.RAdam`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: beta1 and beta2, in [0, 1).
        eps: >= 0, in units of the gradient; added after the root.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        decoupled_weight_decay: multiply the weights by 1 - lr lambda instead.
        maximize: maximize the loss instead of minimizing it.
        foreach, capturable, differentiable: see `Optimizer`.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.RAdam
    _names: ClassVar[Names] = BETAS
    _states: ClassVar[Mapping[str, str]] = MOMENTS

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        betas: Pair = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, locals())


class Adagrad(Optimizer):
    """Gradients divided by the root of the sum of all squared gradients: `optim.AdaGrad`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        lr_decay: >= 0; the learning rate of step t is alpha / (1 + (t - 1) lr_decay).
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        initial_accumulator_value: initial value of the sum, >= 0.
        eps: >= 0, in units of the gradient; added after the root.
        maximize: maximize the loss instead of minimizing it.
        foreach, differentiable, fused: see `Optimizer`.

    State: ``step``, ``sum``; the constructor creates them.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.AdaGrad
    _names: ClassVar[Names] = {"eps": "epsilon", "lr_decay": "rate_decay"}
    _states: ClassVar[Mapping[str, str]] = {"s": "sum"}

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, locals())
        for group in self.param_groups:
            plan = self._plan(group)
            for p in group["params"]:
                self._complete(p, p, plan)

    def _first(self, name: str, group: Group) -> float:
        return float(group["initial_accumulator_value"])

    def share_memory(self) -> None:
        """Move the sums to memory that other processes can share."""
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["sum"].share_memory_()


class Adadelta(Optimizer):
    """RMSprop whose step size is a running mean of its previous steps: `optim.AdaDelta`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        rho: decay of both averages, in [0, 1].
        eps: >= 0; added inside both roots.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        maximize: maximize the loss instead of minimizing it.
        foreach, capturable, differentiable: see `Optimizer`.

    State: ``step``, ``square_avg``, ``acc_delta``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.AdaDelta
    _names: ClassVar[Names] = {"rho": "rho", "eps": "epsilon"}
    _states: ClassVar[Mapping[str, str]] = {"s": "square_avg", "d": "acc_delta"}

    def __init__(
        self,
        params: Any,
        lr: Number = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, locals())


class RMSprop(Optimizer):
    """Gradients divided by the root of a running mean of squared gradients: `optim.RMSprop`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        alpha: decay of the average, in [0, 1].
        eps: >= 0, in units of the gradient; added after the root.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        momentum: mu in [0, 1], heavy-ball momentum applied to the scaled gradients.
        centered: divide by the running standard deviation instead.
        maximize: maximize the loss instead of minimizing it.
        capturable, foreach, differentiable: see `Optimizer`.

    State: ``step``, ``square_avg``, with centered ``grad_avg`` and with momentum ``momentum_buffer``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.RMSprop
    _names: ClassVar[Names] = {"alpha": "rho", "eps": "epsilon", "momentum": "momentum", "centered": "centered"}
    _states: ClassVar[Mapping[str, str]] = {"v": "square_avg", "mean": "grad_avg", "velocity": "momentum_buffer"}
    _optional = frozenset({"grad_avg", "momentum_buffer"})

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, locals())


class Rprop(Optimizer):
    """A step length per parameter that depends only on the signs of its gradients: `optim.Rprop`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: length of the first step, >= 0.
        etas: factor of the length if the sign changed, in (0, 1), and if it did not change, > 1.
        step_sizes: smallest length, >= 0, and largest length, > 0.
        maximize: maximize the loss instead of minimizing it.
        capturable, foreach, differentiable: see `Optimizer`.

    State: ``step``, ``prev``, ``step_size``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.Rprop
    _names: ClassVar[Names] = {"etas": ("shrink", "grow"), "step_sizes": ("shortest", "longest")}
    _states: ClassVar[Mapping[str, str]] = {"g": "prev", "length": "step_size"}

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-2,
        etas: Pair = (0.5, 1.2),
        step_sizes: Pair = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, locals())

    def _first(self, name: str, group: Group) -> float:
        return float(group["lr"]) if name == "length" else 0.0

    def _plan_step(self, rule: NativeOptimizer, group: Group, t: float, numbers: dict[str, float]) -> _core.StepPlan:
        plan = super()._plan_step(rule, group, t, numbers)
        # The initial length is in the state, so that the rule does not set it at t = 1.
        return _core.StepPlan(plan.rule, plan.fields | {"first": 0.0}, plan.extras)


class ASGD(Optimizer):
    """Stochastic gradient descent with an average of the parameters: `optim.ASGD`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        lambd: lambda of the step-size decay, >= 0.
        alpha: exponent of the step-size decay, >= 0.
        t0: the step at which averaging begins, >= 0.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        maximize: maximize the loss instead of minimizing it.
        foreach, differentiable, capturable: see `Optimizer`.

    State: ``step``, ``eta``, ``mu``, and ``ax``, the average. ``eta`` is the size of the next step, so that a new
    learning rate takes effect one step later, as in PyTorch.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.ASGD
    _names: ClassVar[Names] = {"lambd": "decay", "alpha": "power", "t0": "begin"}
    _states: ClassVar[Mapping[str, str]] = {"average": "ax", "eta": "eta", "mu": "mu"}

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        super().__init__(params, locals())

    def _first_numbers(self, rule: NativeOptimizer, group: Group) -> dict[str, float]:
        return {"eta": float(group["lr"]), "mu": 1.0}

    def _plan_step(self, rule: NativeOptimizer, group: Group, t: float, numbers: dict[str, float]) -> _core.StepPlan:
        now, coming = dict(numbers), super()._plan_step(rule, group, t + 1, {})
        numbers |= {"eta": coming.fields["rate"], "mu": coming.fields["mix"]}
        fields = {"rate": now["eta"], "decay": 1 - group["lambd"] * now["eta"], "mix": now["mu"]}
        return _core.StepPlan(coming.rule, fields, coming.extras)
