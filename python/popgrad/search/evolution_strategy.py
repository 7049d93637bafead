"""OpenAI's evolution strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from popgrad import _core
from popgrad.budget import Cost
from popgrad.checks import fail, positive
from popgrad.layout import Layout
from popgrad.objective import ALL, Batch, Objective, Population, Priced
from popgrad.optim import Adam, Descent, Optimizer
from popgrad.search._base import Array, Fitness, Run, Search


@final
@dataclass(frozen=True)
class OpenAIES(Search):
    r"""Estimates a gradient from antithetic normal steps and follows it with a gradient optimizer.

    .. math:: \hat g = \frac{1}{P \sigma} \sum_k u_k\, z_k, \qquad x_k = \theta + \sigma z_k, \quad z_{k + P/2} = -z_k

    u are the centered ranks of the fitness, from -1/2 (best) to 1/2. A step along :math:`-\hat g` lowers the fitness.

    Args:
        popsize: candidates per generation, even, >= 2.
        sigma: standard deviation of the steps, > 0, in units of x. None: 0.1 of the width of the box in coordinates
            with two finite bounds, 0.05 in the others.
        optimizer: what follows the estimate; one of `popgrad.optim`, whose learning rate is in units of x. None: `Adam`
            with a learning rate of 0.1 of the width of the box in coordinates with two finite bounds, 0.02 in the
            others. An optimizer that asks for more than one gradient a step, such as `SAM` or `SophiaG`, gets further
            estimates; `popgrad.fit` and `popgrad.minimize` evaluate and charge them.

    State: ``center`` (n,), and the state of the optimizer, such as ``optimizer.slots`` and ``optimizer.t``.

    Raises:
        InputError: a setting is out of range.

    Reference: Salimans et al., arXiv:1703.03864 (2017), Algorithm 1 and section 2.1 (antithetic sampling, ranks, Adam).
    """

    name: ClassVar[str] = "openai_es"
    label: ClassVar[str] = "OpenAI-ES"

    popsize: int = 128
    sigma: float | None = None
    optimizer: Optimizer | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, *(["sigma"] if self.sigma is not None else []))
        if self.popsize % 2:
            fail(self, f"popsize must be even, for antithetic pairs, got {self.popsize}")
        if self.optimizer is not None and not isinstance(self.optimizer, Optimizer):
            fail(self, f"optimizer must be one of popgrad.optim, got {self.optimizer!r}")

    def least_popsize(self) -> int:
        """Return 2: one antithetic pair."""
        return 2

    @property
    def requires(self) -> tuple[str, ...]:
        """What the optimizer asks of an objective except gradients, which are estimated."""
        asked = () if self.optimizer is None else self.optimizer.requires
        return tuple(operation for operation in asked if operation != "gradient")

    def needs_objective(self) -> str | None:
        """More than one estimate a step cannot be asked for and told."""
        if self.optimizer is None or self._gradients(self.optimizer) == 1:
            return None
        return f"{self.optimizer!r} needs more than one estimate of the gradient a step"

    @staticmethod
    def _gradients(optimizer: Optimizer) -> int:
        """How many gradients the first step takes."""
        priced = Priced(Layout.flat(1))
        return optimizer.cost(priced, Batch(), optimizer.prepare(priced, np.zeros(1), 0)).evaluations

    def fill(self, run: Run) -> None:
        """Put the center at x0."""
        optimizer, unit = self._optimizer(run)
        run.state["center"] = run.x0.copy()
        run.state["optimizer"] = optimizer.init(run.x0 / unit, run.layout)

    def propose(self, run: Run) -> Array:
        """Antithetic pairs around the center: member k + P / 2 takes the step of member k, backwards."""
        return self.around(run, run.state["center"])

    def around(self, run: Run, center: Array) -> Array:
        """Antithetic pairs (P, n) around any center (n,), with the noise of this generation."""
        half, out = self.popsize // 2, run.empty(self.popsize)
        identity = np.tile(np.arange(half, dtype=np.uint32), 2)
        sigma, unit = self._sigma(run)
        width = np.repeat([sigma, -sigma], half)
        run.move("SpreadGaussian", out, [center, unit], width=width, identity=identity)
        return out

    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """One step of the optimizer along the estimate."""
        optimizer, unit = self._optimizer(run)
        objective, batch = run.context or (None, Batch(step=run.generation + 1))
        here = Descent(run.state["center"] / unit, run.state["optimizer"], run.seed)
        source = _Estimated(self, run, objective, told=(here.w, population, fitness))
        optimizer.advance(source, batch, here)
        run.state["center"] = here.w * unit
        run.within(run.state["center"][None], identity=np.array([self.popsize], np.uint32))

    def estimate(self, run: Run, center: Array, population: Array, fitness: Fitness) -> Array:
        """The gradient (n,) in units of the optimizer's steps, from the fitness of candidates around a center."""
        finite = np.isfinite(fitness)
        utility = np.zeros(len(fitness))
        utility[finite] = centered_ranks(fitness[finite])
        gradient, (sigma, spread) = np.empty_like(run.x0), self._sigma(run)
        # (x_k - center) / sigma is z_k: the steps need not be drawn again, and bounds are taken into account.
        weights = utility / (max(int(finite.sum()), 1) * sigma**2)
        _core.combine(weights, population, center, gradient)
        found: Array = gradient / spread * (self._optimizer(run)[1] / spread)  # of x / unit
        return found

    def cost(self, objective: Objective, batch: Batch, state: Run) -> Cost:
        """See `popgrad.Method.cost`: a population for each gradient that the optimizer asks for."""
        optimizer, _ = self._optimizer(state)
        here = Descent(state.state["center"], state.state["optimizer"], state.seed)
        return optimizer.cost(_Estimated(self, state, objective), batch, here)

    def recommend(self, state: Run) -> Array:
        """Return the center, which averages out the noise of the candidates, or the optimizer's average of centers."""
        if state.generation == 0:
            return state.best_x
        center: Array = state.state["center"]
        optimizer, unit = self._optimizer(state)
        scaled = center / unit
        solution = optimizer.solution(scaled, state.state["optimizer"])
        if solution is scaled:
            return center
        average: Array = state.within((solution * unit)[None], identity=np.array([self.popsize], np.uint32))[0]
        return average

    def _sigma(self, run: Run) -> tuple[float, Array]:
        """The standard deviation of the steps, and its unit (n,)."""
        return run.length(self.sigma, free=0.05, share=0.1)

    def _optimizer(self, run: Run) -> tuple[Optimizer, Array]:
        """What follows the estimate, and the unit (n,) of its steps."""
        if self.optimizer is not None:
            return self.optimizer, np.ones_like(run.x0)
        rate, unit = run.length(None, free=0.02, share=0.1)
        return Adam(learning_rate=rate), unit

    def unit(self, run: Run) -> Array:
        """The unit (n,) of the optimizer's steps."""
        return self._optimizer(run)[1]


class _Estimated(Objective):
    """An objective whose gradients are estimated from the values of candidates around the place.

    Args:
        search, run: whose noise and ranks make the estimate.
        objective: what gives the values; None where only those that were told are known.
        told: a place (n,), the candidates around it and their fitness.
    """

    def __init__(
        self,
        search: OpenAIES,
        run: Run,
        objective: Objective | None,
        told: tuple[Array, Array, Fitness] | None = None,
    ) -> None:
        self.search, self.run, self.objective, self.told = search, run, objective, told
        self.layout, self.dtype = run.layout, run.x0.dtype

    def _inner(self) -> Objective:
        if self.objective is None:
            fail("OpenAIES.tell", f"{self.search.optimizer!r} needs popgrad.fit or popgrad.minimize")
        return self.objective

    def values(self, population: Population, batch: Batch = ALL) -> Fitness:
        """Those of the inner objective."""
        return self._inner().values(population, batch)

    def gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """The estimate at `w`. It has no loss: 0."""
        if self.told is not None and w is self.told[0]:
            _, population, fitness = self.told
            center: Array = self.run.state["center"]
        else:
            center = w * self.search.unit(self.run)
            population = self.run.within(self.search.around(self.run, center))
            fitness = self._inner().values(population, batch)
        out[:] = self.search.estimate(self.run, center, population, fitness)
        return 0.0

    def sampled(self, w: Array, batch: Batch, random: np.random.Generator) -> Objective:
        """Estimates for targets that the model draws at `w`."""
        return _Estimated(self.search, self.run, self._inner().sampled(w * self.search.unit(self.run), batch, random))

    def size(self, batch: Batch) -> int:
        """That of the inner objective."""
        return self._inner().size(batch)

    def gradient_cost(self, batch: Batch) -> Cost:
        """A population."""
        return self._inner().values_cost(self.search.popsize, batch)

    def sampled_cost(self, batch: Batch) -> Cost:
        """That of the inner objective."""
        return self._inner().sampled_cost(batch)


def centered_ranks(values: Fitness) -> Fitness:
    """Ranks from -1/2 (smallest) to 1/2, equal for equal values; (P,) to (P,)."""
    from scipy.stats import rankdata  # slow to import, and not needed by others

    if len(values) < 2:
        return np.zeros(len(values))
    return np.asarray((rankdata(values) - 1) / (len(values) - 1) - 0.5, np.float64)
