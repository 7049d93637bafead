"""What every model is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from numpy.typing import ArrayLike, NDArray

from popgrad.layout import Layout
from popgrad.metrics import Metric
from popgrad.objective import Objective

__all__ = ["Model"]

Array = NDArray[Any]


class Model(ABC):
    """Parameters as one flat vector, and the objective that samples make of them.

    `popgrad.fit` takes any model. To bring your own, derive a class that sets `layout` and `params` and has
    `objective`; examples/own_model.py shows one.

    Attributes:
        layout: names and shapes of the tensors in the parameters.
        params: (n,) float32 or float64, written in place.
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
        """What the samples ask of the parameters; bad samples are an error here.

        Args:
            X: the inputs, one row a sample.
            y: the targets, one entry a sample.
            sample_weight: (B,) weights >= 0, or None for equal ones.
            metric: what `Objective.values` returns.
            operation: the name that errors begin with.

        Raises:
            InputError: the samples or the metric do not fit the model.
        """

    def begin_training(self, objective: Objective) -> None:
        """Take over what the objective has found in the samples, such as class labels; by default nothing.

        `popgrad.fit` calls it once all its arguments are known to fit.
        """
        return
