"""The optimizers, with PyTorch's names, arguments and defaults. Formulas and references: `popgrad.optim`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from popgrad import _core, optim
from popgrad.torch._base import RULES, Group, Names, Optimizer

Number = float | torch.Tensor
Pair = tuple[float, float]
Triple = tuple[float, float, float]

_MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq"}
_AVERAGING = {"weight_sum": "weight_sum", "largest_rate": "lr_max"}
_BETAS: Names = {"betas": ("beta1", "beta2"), "eps": "epsilon"}
_THREE_BETAS: Names = {"betas": ("beta1", "beta2", "beta3"), "eps": "epsilon"}


class SGD(Optimizer):
    """Gradient descent, with momentum: `optim.SGD`, `optim.HeavyBall`, `optim.Nesterov`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        momentum: mu, in [0, 1).
        dampening: tau, in [0, 1): the velocity takes up 1 - tau of a gradient, but for the first, which it begins with.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        nesterov: the look ahead; needs momentum, and no dampening.
        maximize: go up instead of down.
        foreach, fused, differentiable: see `Optimizer`.

    State: ``momentum_buffer``, with momentum.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.SGD
    _states: ClassVar[Mapping[str, str]] = {"v": "momentum_buffer"}
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
                self._fail("nesterov needs a momentum, and a dampening of zero")
            return optim.Nesterov, {"momentum": "momentum"}
        if not group["momentum"]:
            return optim.SGD, {}
        return optim.HeavyBall, {"momentum": "momentum", "dampening": "dampening"}

    def _progress(self, rule: Any, group: Group, state: Mapping[str, Any]) -> tuple[int, dict[str, float]]:
        return int(state.get("momentum_buffer") is not None), {}


class Adam(Optimizer):
    """Adam: `optim.Adam`, and with amsgrad `optim.AMSGrad`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: beta1 and beta2, in [0, 1).
        eps: >= 0, in units of the gradient; after the root.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        amsgrad: divide by the largest second moment so far.
        maximize: go up instead of down.
        decoupled_weight_decay: shrink the weights by 1 - lr lambda instead, as AdamW; then lambda < 1.
        foreach, fused, capturable, differentiable: see `Optimizer`.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``, and with amsgrad ``max_exp_avg_sq``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.Adam
    _names: ClassVar[Names] = _BETAS
    _states: ClassVar[Mapping[str, str]] = _MOMENTS | {"largest": "max_exp_avg_sq"}

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
        eps: >= 0, in units of the gradient; after the root.
        weight_decay: lambda, in [0, 1): weights shrink by 1 - lr lambda before the step.
        amsgrad: divide by the largest second moment so far.
        maximize: go up instead of down.
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
        eps: >= 0, in units of the gradient; inside the maximum.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        maximize: go up instead of down.
        foreach, differentiable, capturable: see `Optimizer`.

    State: ``step``, ``exp_avg``, ``exp_inf``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.AdaMax
    _names: ClassVar[Names] = _BETAS
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
    """Adam with Nesterov's look ahead: `optim.NAdam`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: beta1 and beta2, in [0, 1).
        eps: >= 0, in units of the gradient; after the root.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        momentum_decay: psi >= 0, of the momentum's schedule.
        decoupled_weight_decay: shrink the weights by 1 - lr lambda instead; then lambda < 1.
        maximize: go up instead of down.
        foreach, capturable, differentiable: see `Optimizer`.

    State: ``step``, ``mu_product``, ``exp_avg``, ``exp_avg_sq``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.NAdam
    _names: ClassVar[Names] = {**_BETAS, "momentum_decay": "momentum_decay"}
    _states: ClassVar[Mapping[str, str]] = _MOMENTS | {"product": "mu_product"}

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
    """Adam that waits until the variance of its step can be trusted: `optim.RAdam`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: beta1 and beta2, in [0, 1).
        eps: >= 0, in units of the gradient; after the root.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        decoupled_weight_decay: shrink the weights by 1 - lr lambda instead; then lambda < 1.
        maximize: go up instead of down.
        foreach, capturable, differentiable: see `Optimizer`.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.RAdam
    _names: ClassVar[Names] = _BETAS
    _states: ClassVar[Mapping[str, str]] = _MOMENTS

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
    """Steps that shrink with all the gradient that a parameter has seen: `optim.AdaGrad`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        lr_decay: >= 0; step t takes alpha / (1 + (t - 1) lr_decay).
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        initial_accumulator_value: what the sum begins with, >= 0.
        eps: >= 0, in units of the gradient; after the root.
        maximize: go up instead of down.
        foreach, differentiable, fused: see `Optimizer`.

    State: ``step``, ``sum``; there from the beginning.

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
            rule = self._make_rule(group)
            for p in group["params"]:
                self._state_of(p, p, rule, group)

    def _first(self, name: str, group: Group) -> float:
        return float(group["initial_accumulator_value"])


class Adadelta(Optimizer):
    """RMSprop whose learning rate is the running size of its own steps: `optim.AdaDelta`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        rho: decay of both averages, in [0, 1).
        eps: >= 0; inside both roots.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        maximize: go up instead of down.
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
    """Steps divided by the running size of the gradient: `optim.RMSprop`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        alpha: decay of the average, in [0, 1).
        eps: >= 0, in units of the gradient; after the root.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        momentum: mu of a heavy ball behind it, in [0, 1).
        centered: divide by the running deviation instead.
        maximize: go up instead of down.
        capturable, foreach, differentiable: see `Optimizer`.

    State: ``step``, ``square_avg``, with centered ``grad_avg`` and with momentum ``momentum_buffer``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.RMSprop
    _names: ClassVar[Names] = {"alpha": "rho", "eps": "epsilon", "momentum": "momentum", "centered": "centered"}
    _states: ClassVar[Mapping[str, str]] = {"v": "square_avg", "mean": "grad_avg", "velocity": "momentum_buffer"}

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
    """A step length for every parameter, from the signs of its gradients: `optim.Rprop`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: length of the first steps, >= 0.
        etas: factors of a length where the sign changed, in (0, 1), and where it did not, > 1.
        step_sizes: shortest and longest length, > 0.
        maximize: go up instead of down.
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


class ASGD(Optimizer):
    """Gradient descent that also averages its parameters: `optim.ASGD`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        lambd: lambda of the steps' decay, in [0, 1).
        alpha: power of the steps' decay, > 0.
        t0: the step at which averaging begins, >= 0.
        weight_decay: lambda >= 0, added to the gradient as lambda w.
        maximize: go up instead of down.
        foreach, differentiable, capturable: see `Optimizer`.

    State: ``step``, ``eta``, ``mu``, ``ax``, the average. ``eta`` is the length of the coming step, so that a changed
    learning rate shows one step later, as in PyTorch.

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

    def _first_numbers(self, rule: Any, group: Group) -> dict[str, float]:
        return {"eta": float(group["lr"]), "mu": 1.0}

    def _members(self, rule: Any, group: Group, t: int, numbers: dict[str, float]) -> dict[str, float]:
        now, coming = dict(numbers), super()._members(rule, group, t + 1, {})
        numbers |= {"eta": coming["rate"], "mu": coming["mix"]}
        return {"rate": now["eta"], "decay": 1 - group["lambd"] * now["eta"], "mix": now["mu"]}


# --- What PyTorch lacks -----------------------------------------------------------------------------------------------


class Lion(Optimizer):
    """The sign of an average that leans to the newest gradient: `optim.Lion`.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: weight of the average in the step, and its decay, in [0, 1).
        weight_decay: lambda, in [0, 1): weights shrink by 1 - lr lambda before the step.
        maximize: go up instead of down.

    State: ``step``, ``exp_avg``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.Lion
    _names: ClassVar[Names] = {"betas": ("beta1", "beta2")}
    _states: ClassVar[Mapping[str, str]] = _MOMENTS

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
    _names: ClassVar[Names] = _BETAS
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
    _names: ClassVar[Names] = _BETAS
    _states: ClassVar[Mapping[str, str]] = _MOMENTS

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
        weight_decay: lambda, in [0, 1), by its proximal step.
        maximize: go up instead of down.

    State: ``step``, ``exp_avg``, ``exp_avg_diff``, ``exp_avg_sq``, ``prev``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.Adan
    _names: ClassVar[Names] = _THREE_BETAS
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
        weight_decay: lambda, in [0, 1): weights shrink by 1 - lr lambda before the step.
        maximize: go up instead of down.

    State: ``step``, ``exp_avg``, ``exp_avg_slow``, ``exp_avg_sq``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.AdEMAMix
    _names: ClassVar[Names] = {**_THREE_BETAS, "alpha": "alpha"}
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
        weight_decay: lambda, in [0, 1): weights shrink by 1 - lr lambda before the step.
        maximize: go up instead of down.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.ADOPT
    _names: ClassVar[Names] = _BETAS
    _states: ClassVar[Mapping[str, str]] = _MOMENTS

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


class LARS(Optimizer):
    """Momentum whose learning rate follows the ratio of weights and gradient: `optim.LARS`. A tensor is a layer.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        momentum: mu, in [0, 1); the learning rate is inside the velocity.
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
    _names: ClassVar[Names] = {**_BETAS, "adapt_vectors": "adapt_vectors"}
    _states: ClassVar[Mapping[str, str]] = _MOMENTS

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

    State: ``step``, ``exp_avg``, and ``kept``, the squared norm of the whole tensor.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.NovoGrad
    _names: ClassVar[Names] = {**_BETAS, "averaging": "averaging"}
    _states: ClassVar[Mapping[str, str]] = {"m": "exp_avg"}

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
        weight_decay: lambda, in [0, 1), decoupled.
        d0: the first estimate of the distance, > 0 and small.
        d_coef: scales the estimate, > 0.
        growth_rate: the most by which it grows in a step, > 1; None for no limit.
        use_bias_correction: whether lr has Adam's bias corrections.
        maximize: go up instead of down.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``, ``s``, ``p0``, and ``kept``, the estimates, the same for all tensors.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.Prodigy
    _names: ClassVar[Names] = {
        **_BETAS,
        "d0": "start",
        "d_coef": "coefficient",
        "growth_rate": "growth",
        "use_bias_correction": "bias_correction",
    }
    _states: ClassVar[Mapping[str, str]] = {**_MOMENTS, "s": "s", "start": "p0"}

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


class SophiaG(Optimizer):
    """Momentum over an estimate of the curvature: `optim.SophiaG`.

    Every tenth step or so, call `observe` with the gradients of a loss whose labels were drawn from the model's own
    predictions, before those of the step itself.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: decay of the momentum and of the curvature, in [0, 1).
        rho: > 0, scales the curvature.
        weight_decay: lambda, in [0, 1): weights shrink by 1 - lr lambda before the step.
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
        for view, batch in self._current():
            decay = view.rule.beta2
            fields = (decay, (1 - decay) * samples)
            _core.step_list(RULES["Curvature"][0], fields, batch.is_double, batch.table, None, None, batch.t)
        self._flush()


class _ScheduleFree(Optimizer):
    """Parameters that are y while training and x, their average, otherwise."""

    _exact_numbers = True

    @torch.no_grad()
    def eval(self) -> None:
        """Make the parameters the average x, which is to be evaluated and saved."""
        self._move(lambda beta: 1 - 1 / beta, training=False)

    @torch.no_grad()
    def train(self) -> None:
        """Make the parameters y again, where gradients are taken."""
        self._move(lambda beta: 1 - beta, training=True)

    def _move(self, share: Callable[[float], float], training: bool) -> None:
        for group in self.param_groups:
            if group["training"] == training:
                continue
            group["training"] = training
            for p in group["params"]:
                if (z := self.state.get(p, {}).get("z")) is not None:
                    p.lerp_(z, share(self._beta(group)))

    def _make_rule(self, group: Group) -> Any:
        group.setdefault("training", True)
        return super()._make_rule(group)

    def _members(self, rule: Any, group: Group, t: int, numbers: dict[str, float]) -> dict[str, float]:
        if not group["training"]:
            self._fail("call optimizer.train() before training goes on: the parameters are the average now")
        return super()._members(rule, group, t, numbers)

    @staticmethod
    def _beta(group: Group) -> float:
        return float(group["momentum"] if "momentum" in group else group["betas"][0])


class ScheduleFreeSGD(_ScheduleFree):
    """SGD whose average makes a schedule superfluous: `optim.ScheduleFreeSGD`.

    Call `eval` before evaluating or saving the model, and `train` before going on.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        momentum: where y lies between z and x, in (0, 1).
        weight_decay: lambda >= 0, added to the gradient as lambda y.
        r: power of t in the weights of the average, >= 0.
        maximize: go up instead of down.

    State: ``step``, ``z``, ``weight_sum``, ``lr_max``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.ScheduleFreeSGD
    _names: ClassVar[Names] = {"momentum": "beta", "r": "power"}
    _states: ClassVar[Mapping[str, str]] = {"z": "z", **_AVERAGING}

    def __init__(
        self,
        params: Any,
        lr: Number = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0,
        r: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, locals())


class ScheduleFreeAdamW(_ScheduleFree):
    """AdamW whose average makes a schedule superfluous: `optim.ScheduleFreeAdamW`.

    Call `eval` before evaluating or saving the model, and `train` before going on.

    Args:
        params: parameters, named parameters or groups of them.
        lr: alpha >= 0, a number or a tensor of one element.
        betas: where y lies between z and x, in (0, 1), and the decay of the square.
        eps: >= 0, in units of the gradient; after the root.
        weight_decay: lambda >= 0, at y.
        r: power of t in the weights of the average, >= 0.
        maximize: go up instead of down.

    State: ``step``, ``z``, ``exp_avg_sq``, ``weight_sum``, ``lr_max``.

    Raises:
        InputError: an argument is out of range.
    """

    _method = optim.ScheduleFreeAdamW
    _names: ClassVar[Names] = {"betas": ("beta", "beta2"), "eps": "epsilon", "r": "power"}
    _states: ClassVar[Mapping[str, str]] = {
        "z": "z",
        "v": "exp_avg_sq",
        "weight_sum": "weight_sum",
        "largest_rate": "lr_max",
    }

    def __init__(
        self,
        params: Any,
        lr: Number = 0.0025,
        betas: Pair = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        r: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, locals())
