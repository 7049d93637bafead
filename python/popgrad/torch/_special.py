"""Base classes for methods that need more than `step` in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch

from popgrad import optim
from popgrad.torch._base import Group, Optimizer

__all__ = ["Averaging", "Observing"]


class Averaging(Optimizer):
    """Call `eval` before you evaluate or save the model, and `train` before you continue training."""

    @torch.no_grad()
    def eval(self) -> None:
        """Set the parameters to the average x, for evaluation and saving."""
        self._move(lambda beta: 1 - 1 / beta, training=False)

    @torch.no_grad()
    def train(self) -> None:
        """Set the parameters to y, the point where gradients are computed."""
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
            self._fail("call optimizer.train() before you continue training: the parameters are the average now")

    @staticmethod
    def _beta(group: Group) -> float:
        return float(group["momentum"] if "momentum" in group else group["betas"][0])


class Observing(Optimizer):
    """About every tenth step, call `observe` with gradients for labels sampled from the model's predictions.

    Do so before computing the gradients of the step itself.
    """

    def observe(self, samples: int) -> None:
        """Update the curvature with the gradients of the parameters; the parameters do not change.

        Args:
            samples: number of samples over which the loss was averaged, >= 1.

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
