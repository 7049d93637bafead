"""What methods minimize: a function of a parameter vector on a batch of samples, and the meter that charges for it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad.budget import GRADIENT_FORWARDS, Cost
from popgrad.checks import fail
from popgrad.layout import Layout

__all__ = ["ALL", "Around", "Batch", "Metered", "Objective", "Population", "Priced", "Report"]

Array = NDArray[Any]
Floats = NDArray[np.float64]


class Population(Protocol):
    """Candidates (P, n): an array, or `popgrad.Perturbations`, whose members are never stored together."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(P, n)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the candidates."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: Any, /) -> Any:
        """One candidate (n,) by its number, or several (k, n) by a slice or an array of numbers."""


class Batch(NamedTuple):
    """The samples of a step.

    Attributes:
        rows: (b,) int64, numbers of the samples; None for all.
        step: number of the step or generation, 1, 2, ...; random numbers such as dropout's masks depend on it. 0 stands
            for an evaluation outside of training, without dropout.
    """

    rows: Array | None = None
    step: int = 0


ALL = Batch()


class Report(NamedTuple):
    """What a record of training shows of one parameter vector, on all samples of an objective.

    Attributes:
        loss: what gradients descend.
        metric: what people read, such as the error rate; its name is `Objective.metric_name`.
        value: what searches minimize; its name is `Objective.name`.
    """

    loss: float
    metric: float
    value: float


class Objective(ABC):
    """A function to minimize, of parameters (n,) and a batch of samples.

    `popgrad.Model.objective` makes one. To minimize a function of your own with `popgrad.fit`, derive a class that sets
    `layout`, `dtype` and `samples` and has `values`; with `gradient`, every gradient method can train it too. A method
    asks only for what it needs, and an objective without it is refused before any work, see `lacks`.

    Attributes:
        layout: of the parameters.
        dtype: of the parameters, float32 or float64.
        samples: how many samples there are, >= 1.
        name: of what `values` returns.
        metric_name: of the metric in `report`.
    """

    layout: Layout
    dtype: np.dtype[Any] = np.dtype(np.float32)
    samples: int = 1
    name: str = "loss"
    metric_name: str = "loss"

    @abstractmethod
    def values(self, population: Population, batch: Batch = ALL) -> Floats:
        """Values (P,) of all candidates on the same samples; smaller is better, infinity where it is not finite.

        Args:
            population: (P, n), of the type `dtype`, C-contiguous where it is an array; not to be changed.
            batch: the samples; default all.
        """

    def gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """The loss at `w` (n,); its gradient is written to `out` (n,)."""
        fail(type(self).__name__, self.lacks("gradient") or "has no gradient")

    def sampled(self, w: Array, batch: Batch, random: np.random.Generator) -> Objective:
        """The same function with targets drawn from what the model predicts at `w` for the samples of the batch."""
        fail(type(self).__name__, self.lacks("sampled") or "cannot draw targets")

    def subset(self, rows: Array) -> Objective:
        """The same function of the samples with these numbers (b,)."""
        fail(type(self).__name__, self.lacks("subset") or "cannot be divided")

    def with_samples(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        operation: str = "Objective.with_samples",
    ) -> Objective:
        """The same function of other samples, such as those for validation; see `popgrad.Model.objective`."""
        fail(operation, self.lacks("with_samples") or "takes no other samples")

    def lacks(self, operation: str) -> str | None:
        """Why an operation, such as "gradient", is not possible, in words that follow a name; None if it is."""
        if getattr(type(self), operation) is getattr(Objective, operation):
            return f"{type(self).__name__} does not define {operation}"
        return None

    def check(self, operation: str, rows: Array | None = None, w: Array | None = None) -> None:
        """Fail if the samples do not define the values, or a function of the caller's returns something else.

        Args:
            operation: the name that errors begin with.
            rows: (b,) int64, the samples to use; default all.
            w: (n,) parameters to call such a function with.
        """
        return

    def weighted_rows(self) -> Array | None:
        """Numbers of the samples whose weight is not zero; None for all."""
        return None

    def strata(self) -> Array | None:
        """Labels (samples,) whose shares a division into parts keeps; None to divide at random."""
        return None

    def report(self, w: Array, value: bool = True) -> Report:
        """Loss, metric and value at `w` (n,) on all samples; the value is NaN where it is not asked for."""
        found = float(self.values(w[None], ALL)[0])
        return Report(found, found, found)

    # --- What went wrong --------------------------------------------------------------------------------------------

    def diverged(self, losses: Sequence[float], w: Array) -> bool:
        """Whether a gradient method failed: the last loss is not finite, or 10 % above the first.

        Args:
            losses: of all records.
            w: (n,) at the end.
        """
        return not losses[-1] <= 1.1 * losses[0]

    def why_not_finite(self, w: Array) -> str:
        """What may make the loss of the untrained parameters (n,) overflow, and what to do."""
        return "the loss of the untrained model is not finite; initialize the model anew"

    def scale_hint(self) -> str:
        """What to try against divergence besides a smaller learning rate, such as ", and scale X"; "" for nothing."""
        return ""

    # --- Costs ------------------------------------------------------------------------------------------------------

    def size(self, batch: Batch) -> int:
        """How many samples a batch has."""
        return self.samples if batch.rows is None else len(batch.rows)

    def values_cost(self, popsize: int, batch: Batch) -> Cost:
        """What `values` of so many candidates costs."""
        return Cost(popsize * self.size(batch), popsize)

    def gradient_cost(self, batch: Batch) -> Cost:
        """What `gradient` costs."""
        return Cost(GRADIENT_FORWARDS * self.size(batch), 1)

    def sampled_cost(self, batch: Batch) -> Cost:
        """What `sampled` costs: a forward pass, without what is then asked of the result."""
        return Cost(self.size(batch), 0)


class Priced(Objective):
    """An objective that says what operations cost, and can do none of them.

    Args:
        layout: of the parameters.
        samples: how many there are.
        dtype: of the parameters.
    """

    def __init__(self, layout: Layout, samples: int = 1, dtype: Any = np.float32) -> None:
        self.layout, self.samples, self.dtype = layout, samples, np.dtype(dtype)

    def values(self, population: Population, batch: Batch = ALL) -> Floats:
        """Not possible."""
        fail("Priced", "has no values")

    def lacks(self, operation: str) -> None:
        """Nothing: what operations cost is known of all."""
        return


class Around(Objective):
    """An objective around another one; what a subclass does not change is that of the inner one."""

    def __init__(self, inner: Objective) -> None:
        self.inner = inner
        self.layout, self.dtype, self.samples = inner.layout, inner.dtype, inner.samples
        self.name, self.metric_name = inner.name, inner.metric_name

    def values(self, population: Population, batch: Batch = ALL) -> Floats:
        """Those of the inner objective."""
        return self.inner.values(population, batch)

    def gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """That of the inner objective."""
        return self.inner.gradient(w, batch, out)

    def sampled(self, w: Array, batch: Batch, random: np.random.Generator) -> Objective:
        """That of the inner objective."""
        return self.inner.sampled(w, batch, random)

    def lacks(self, operation: str) -> str | None:
        """What the inner objective lacks."""
        return self.inner.lacks(operation)

    def report(self, w: Array, value: bool = True) -> Report:
        """That of the inner objective."""
        return self.inner.report(w, value)

    def size(self, batch: Batch) -> int:
        """That of the inner objective."""
        return self.inner.size(batch)

    def values_cost(self, popsize: int, batch: Batch) -> Cost:
        """That of the inner objective."""
        return self.inner.values_cost(popsize, batch)

    def gradient_cost(self, batch: Batch) -> Cost:
        """That of the inner objective."""
        return self.inner.gradient_cost(batch)

    def sampled_cost(self, batch: Batch) -> Cost:
        """That of the inner objective."""
        return self.inner.sampled_cost(batch)


class Metered(Around):
    """An objective that counts what is asked of it: the only place where a budget is charged.

    Attributes:
        forwards, evaluations: used so far, in the units of `popgrad.Budget`.
        nonfinite: losses and values so far that were NaN or infinite.
    """

    def __init__(self, inner: Objective, meter: Metered | None = None) -> None:
        super().__init__(inner)
        self.forwards = self.evaluations = self.nonfinite = 0
        self._meter = self if meter is None else meter  # targets drawn anew are charged to the same meter

    def _charge(self, cost: Cost) -> None:
        self._meter.forwards += cost.forwards
        self._meter.evaluations += cost.evaluations

    def values(self, population: Population, batch: Batch = ALL) -> Floats:
        """Those of the inner objective, charged."""
        values = self.inner.values(population, batch)
        self._charge(self.inner.values_cost(len(population), batch))
        self._meter.nonfinite += len(values) - int(np.isfinite(values).sum())
        return values

    def gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """That of the inner objective, charged."""
        loss = self.inner.gradient(w, batch, out)
        self._charge(self.inner.gradient_cost(batch))
        if not math.isfinite(loss):
            self._meter.nonfinite += 1
        return loss

    def sampled(self, w: Array, batch: Batch, random: np.random.Generator) -> Metered:
        """That of the inner objective, charged, and metered itself."""
        drawn = self.inner.sampled(w, batch, random)
        self._charge(self.inner.sampled_cost(batch))
        return Metered(drawn, self._meter)
