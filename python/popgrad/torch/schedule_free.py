"""Schedule-Free SGD and AdamW, which evaluate at an average of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from popgrad import optim
from popgrad.torch._base import (
    Group,
    Names,
    Number,
    Optimizer,
    Pair,
)

__all__ = ["ScheduleFreeAdamW", "ScheduleFreeSGD"]


class _ScheduleFree(Optimizer):
    """Parameters that are y while training and x, their average, otherwise."""

    _double = frozenset({"weight_sum", "lr_max"})

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

    def add_param_group(self, param_group: Group) -> None:
        """See `Optimizer.add_param_group`."""
        param_group.setdefault("training", True)
        super().add_param_group(param_group)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        if not group["training"]:
            self._fail("call optimizer.train() before training goes on: the parameters are the average now")

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
    _states: ClassVar[Mapping[str, str]] = {"z": "z", "weight_sum": "weight_sum", "largest_rate": "lr_max"}

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
