"""The base class of models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from numpy.typing import ArrayLike, NDArray

from popgrad.checks import fail
from popgrad.layout import Layout
from popgrad.metrics import Metric
from popgrad.objective import Objective

__all__ = ["Model"]

Array = NDArray[Any]


class Model(ABC):
    """A model with one flat parameter vector, which creates an objective from samples.

    `popgrad.fit` accepts any model. To write your own, derive a class that sets `layout` and `params` and defines
    `objective`, as in examples/own_model.py.

    Attributes:
        layout: names and shapes of the tensors in the parameters.
        params: (n,) float32 or float64; assignment copies into the same array.
    """

    layout: Layout

    @property
    @abstractmethod
    def params(self) -> Array:
        """All parameters, (n,)."""

    @params.setter
    @abstractmethod
    def params(self, values: ArrayLike) -> None: ...

    @abstractmethod
    def objective(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        metric: Metric = "loss",
        operation: str = "Model.objective",
    ) -> Objective:
        """Check the samples, and return the objective on them.

        Args:
            X: inputs, one row per sample.
            y: targets, one entry per sample.
            sample_weight: (B,) weights >= 0, or None for equal weights.
            metric: metric that `Objective.values` returns.
            operation: prefix of error messages.

        Raises:
            InputError: the samples or the metric do not fit the model.
        """

    def reseed(self, seed: int) -> None:
        """Draw new initial parameters with this seed, as if the model had been made with it.

        Raises:
            InputError: the model cannot.
        """
        fail(type(self).__name__, "does not define reseed; pass one model per seed")

    def freeze(self, *patterns: str) -> None:
        """Freeze tensors: gradient methods do not change them, and their gradients count as absent.

        A frozen tensor takes no step, no weight decay and no part in norms such as that of ``clip_norm``. Searches
        refuse a model with frozen tensors.

        Args:
            patterns: names of tensors such as "0.weight", or patterns such as "0.*" (see `fnmatch`).

        Raises:
            InputError: there is no pattern, or a pattern matches no tensor.
        """
        self.layout = self.layout.freeze(*patterns, operation=f"{type(self).__name__}.freeze")

    def unfreeze(self, *patterns: str) -> None:
        """Make frozen tensors trainable again: those that match one of the patterns, or all without a pattern.

        Raises:
            InputError: a pattern matches no tensor.
        """
        self.layout = self.layout.unfreeze(*patterns, operation=f"{type(self).__name__}.unfreeze")

    def begin_training(self, objective: Objective) -> None:
        """Store properties that the objective found in the samples, such as class labels; by default, do nothing.

        `popgrad.fit` calls this method after all its arguments are checked.
        """
        return
