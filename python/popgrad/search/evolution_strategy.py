"""OpenAI's evolution strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from popgrad import _core
from popgrad.checks import fail, positive
from popgrad.optim import Adam, NativeOptimizer, Optimizer, Polyak, State
from popgrad.optim.wrappers import Wrapper
from popgrad.search._base import Array, Fitness, Run, Search


@final
@dataclass(frozen=True)
class OpenAIES(Search):
    r"""A gradient estimated from mirrored normal steps, and a gradient optimizer that follows it.

    .. math:: \hat g = \frac{1}{P \sigma} \sum_k u_k\, z_k, \qquad x_k = \theta + \sigma z_k, \quad z_{k + P/2} = -z_k

    where u are the centred ranks of the fitness, from -1/2 (best) to 1/2: the estimate descends.

    Args:
        popsize: candidates per generation, even, >= 2.
        sigma: standard deviation of the steps, > 0, in units of x. None: 0.05, or 0.1 of the box's width where both
            bounds are finite.
        optimizer: what follows the estimate; one of `popgrad.optim` that takes one gradient a step and keeps no average
            beside the parameters; its learning rate is in units of x. None: `Adam` with a learning rate of 0.02, or
            0.1 of the box's width where both bounds are finite.

    State: ``centre`` (n,), and the optimizer's, such as ``optimizer.slots``, ``optimizer.t``.

    Raises:
        InputError: a setting is out of range, or the optimizer needs more than the estimate, or its solution is an
            average and not its parameters.

    Reference: Salimans et al., arXiv:1703.03864 (2017), Algorithm 1 and section 2.1 (mirrored sampling, ranks, Adam).
    """

    popsize: int = 128
    sigma: float | None = None
    optimizer: Optimizer | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, *(["sigma"] if self.sigma is not None else []))
        if self.popsize % 2:
            fail(self, f"popsize must be even, for mirrored pairs, got {self.popsize}")
        if self.optimizer is not None:
            if not isinstance(self.optimizer, Optimizer):
                fail(self, f"optimizer must be one of popgrad.optim, got {self.optimizer!r}")
            if (reason := _unsuited(self.optimizer)) is not None:
                fail(self, f"optimizer {reason}; got {self.optimizer!r}")

    def least_popsize(self) -> int:
        """One pair."""
        return 2

    def begin(self, run: Run) -> None:
        """The centre is x0."""
        optimizer, unit = self._optimizer(run)
        state = optimizer.init(run.x0 / unit)
        run.state["centre"] = run.x0.copy()
        run.state.update({f"optimizer.{name}": value for name, value in state.to_dict().items()})

    def propose(self, run: Run) -> Array:
        """Mirrored pairs: member k + P / 2 takes the step of member k, backwards."""
        half, out = self.popsize // 2, run.empty(self.popsize)
        identity = np.tile(np.arange(half, dtype=np.uint32), 2)
        sigma, unit = self._sigma(run)
        width = np.repeat([sigma, -sigma], half)
        run.move("SpreadGaussian", out, [run.state["centre"], unit], width=width, identity=identity)
        return out

    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """One step of the optimizer along the estimate."""
        finite = np.isfinite(fitness)
        utility = np.zeros(len(fitness))
        utility[finite] = centred_ranks(fitness[finite])
        gradient, state = np.empty_like(run.x0), run.state
        optimizer, unit = self._optimizer(run)
        sigma, spread = self._sigma(run)
        # (x_k - centre) / sigma is z_k: the steps need not be drawn again, and bounds are taken into account.
        weights = utility / (max(int(finite.sum()), 1) * sigma**2)
        _core.combine_rows(weights, population, state["centre"], gradient)
        gradient = gradient / spread * (unit / spread)  # of x / unit
        named = {name.removeprefix("optimizer."): v for name, v in state.items() if name.startswith("optimizer.")}
        inner, scaled = State.from_dict(named), state["centre"] / unit
        optimizer.step(scaled, gradient, inner)
        state["centre"] = scaled * unit
        run.within(state["centre"][None], identity=np.array([self.popsize], np.uint32))
        state.update({f"optimizer.{name}": value for name, value in inner.to_dict().items()})

    def recommend(self, run: Run) -> Array:
        """Return the center, which averages out the noise of the candidates around it."""
        return run.state["centre"] if run.generation else run.best_x

    def _sigma(self, run: Run) -> tuple[float, Array]:
        """The standard deviation of the steps, and its unit (n,)."""
        return run.length(self.sigma, free=0.05, share=0.1)

    def _optimizer(self, run: Run) -> tuple[Optimizer, Array]:
        """What follows the estimate, and the unit (n,) of its steps."""
        if self.optimizer is not None:
            return self.optimizer, np.ones_like(run.x0)
        rate, unit = run.length(None, free=0.02, share=0.1)
        return Adam(learning_rate=rate), unit


def _unsuited(optimizer: Optimizer) -> str | None:
    """Why the search cannot use this optimizer, or one that it wraps; None if it can."""
    name = type(optimizer).__name__
    if optimizer.gradients_per_step > 1:
        return f"must take one gradient a step, and {name} takes {optimizer.gradients_per_step}"
    if hasattr(optimizer, "observe"):
        return f"must follow the estimate alone, and {name} also needs gradients from a model"
    averages = isinstance(optimizer, Polyak)
    if isinstance(optimizer, NativeOptimizer):
        averages = optimizer.ema_decay is not None or type(optimizer).solution is not NativeOptimizer.solution
    if averages:
        return f"must return its parameters as the solution, and {name} returns an average of them"
    return _unsuited(optimizer.inner) if isinstance(optimizer, Wrapper) else None


def centred_ranks(values: Fitness) -> Fitness:
    """Ranks from -1/2 (smallest) to 1/2, equal for equal values; (P,) to (P,)."""
    if len(values) < 2:
        return np.zeros(len(values))
    ordered = np.sort(values)
    ranks = 0.5 * (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") - 1)
    return np.asarray(ranks / (len(values) - 1) - 0.5)
