"""OpenAI's evolution strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from popgrad import _core
from popgrad.budget import Cost
from popgrad.checks import fail
from popgrad.layout import Layout
from popgrad.objective import ALL, Batch, Objective, Population, Priced
from popgrad.optim import Adam, Descent, Optimizer
from popgrad.search._base import Array, Fitness, Run, Search
from popgrad.settings import hyper


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
        optimizer: one of `popgrad.optim`, which steps along the estimate. Its learning rate is in units of x. None:
            `Adam` with a learning rate of 0.1 of the width of the box in coordinates with two finite bounds, 0.02 in
            the others. An optimizer that asks for more than one gradient a step, such as `SAM` or `SophiaG`, gets
            further estimates, which `popgrad.fit` and `popgrad.minimize` evaluate and charge.

    State: ``center`` (n,), and the state of the optimizer, such as ``optimizer.slots`` and ``optimizer.t``.

    Raises:
        InputError: a setting is out of range.

    Reference: Salimans et al., arXiv:1703.03864 (2017), Algorithm 1 and section 2.1 (antithetic sampling, ranks, Adam).
    """

    label: ClassVar[str] = "OpenAI-ES"

    popsize: int = hyper(128, at_least=2, whole=True)
    sigma: float | None = hyper(None, above=0, optional=True)
    optimizer: Optimizer | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.popsize % 2:
            fail(self, f"popsize must be even, for antithetic pairs, got {self.popsize}")
        if self.optimizer is not None and not isinstance(self.optimizer, Optimizer):
            fail(self, f"optimizer must be one of popgrad.optim, got {self.optimizer!r}")

    @property
    def requires(self) -> tuple[str, ...]:
        """Operations of an objective that the optimizer requires, except gradients, which the search estimates."""
        asked = () if self.optimizer is None else self.optimizer.requires
        return tuple(operation for operation in asked if operation != "gradient")

    def needs_objective(self) -> str | None:
        """Return an explanation if a step needs more than one estimate, which ask and tell do not give."""
        if self.optimizer is None or self._gradients(self.optimizer) == 1:
            return None
        return f"{self.optimizer!r} needs more than one estimate of the gradient a step"

    @staticmethod
    def _gradients(optimizer: Optimizer) -> int:
        """Return the number of gradients in the first step."""
        priced = Priced(Layout.flat(1))
        return optimizer.cost(priced, Batch(), optimizer.prepare(priced, np.zeros(1), 0)).evaluations

    def fill(self, run: Run) -> None:
        """Put the center at x0."""
        optimizer, unit = self._optimizer(run)
        run.state["center"] = run.x0.copy()
        run.state["optimizer"] = optimizer.init(run.x0 / unit, run.layout)

    def propose(self, run: Run) -> Array:
        """Return antithetic pairs around the center."""
        return self.around(run, run.state["center"])

    def around(self, run: Run, center: Array) -> Array:
        """Return antithetic pairs (P, n) around any center (n,), with the noise of this generation.

        Candidate k + P / 2 takes the step of candidate k with the opposite sign.
        """
        half, out = self.popsize // 2, run.empty(self.popsize)
        identity = np.tile(np.arange(half, dtype=np.uint32), 2)
        sigma, unit = self._sigma(run)
        width = np.repeat([sigma, -sigma], half)
        run.move("SpreadGaussian", out, [center, unit], width=width, identity=identity)
        return out

    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """Step the optimizer along the estimated gradient."""
        optimizer, unit = self._optimizer(run)
        objective, batch = run.context or (None, Batch(step=run.generation + 1))
        here = Descent(run.state["center"] / unit, run.state["optimizer"], run.seed)
        source = _Estimated(self, run, objective, told=(here.w, population, fitness))
        optimizer.advance(source, batch, here)
        run.state["center"] = here.w * unit
        run.within(run.state["center"][None], identity=np.array([self.popsize], np.uint32))

    def estimate(self, run: Run, center: Array, population: Array, fitness: Fitness) -> Array:
        """Estimate the gradient (n,), in units of the optimizer's steps, from the fitness of a population."""
        finite = np.isfinite(fitness)
        utility = np.zeros(len(fitness))
        utility[finite] = centered_ranks(fitness[finite])
        gradient, (sigma, spread) = np.empty_like(run.x0), self._sigma(run)
        # z_k = (x_k - center) / sigma. Unlike the drawn steps, it includes the reflections at bounds.
        weights = utility / (max(int(finite.sum()), 1) * sigma**2)
        _core.combine_rows(weights, population, center, gradient)
        found: Array = gradient / spread * (self._optimizer(run)[1] / spread)  # of x / unit
        return found

    def cost(self, objective: Objective, batch: Batch, state: Run) -> Cost:
        """Return the cost of one population for each gradient that the optimizer asks for."""
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
        """Return the standard deviation of the steps and its unit in each coordinate (n,)."""
        return run.length(self.sigma, free=0.05, share=0.1)

    def _optimizer(self, run: Run) -> tuple[Optimizer, Array]:
        """What follows the estimate, and the unit (n,) of its steps."""
        if self.optimizer is not None:
            return self.optimizer, np.ones_like(run.x0)
        rate, unit = run.length(None, free=0.02, share=0.1)
        return Adam(learning_rate=rate), unit

    def unit(self, run: Run) -> Array:
        """Return the unit of the optimizer's steps in each coordinate (n,)."""
        return self._optimizer(run)[1]


class _Estimated(Objective):
    """An objective with gradients that a search estimates from the values of candidates around a point.

    Args:
        search, run: draw the candidates and turn their values into an estimate.
        objective: evaluates the candidates. None in a loop of ask and tell.
        told: a point (n,), the candidates around it and their fitness, which are not evaluated again.
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
        """Return the values of the inner objective."""
        return self._inner().values(population, batch)

    def gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """Write the estimate at `w` to `out` and return 0, because an estimate has no loss."""
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
        """Return an objective that estimates gradients for targets that the model draws at `w`."""
        return _Estimated(self.search, self.run, self._inner().sampled(w * self.search.unit(self.run), batch, random))

    def size(self, batch: Batch) -> int:
        """Return the size of the batch in the inner objective."""
        return self._inner().size(batch)

    def gradient_cost(self, batch: Batch) -> Cost:
        """Return the cost of one population."""
        return self._inner().values_cost(self.search.popsize, batch)

    def sampled_cost(self, batch: Batch) -> Cost:
        """Return the cost in the inner objective."""
        return self._inner().sampled_cost(batch)


def centered_ranks(values: Fitness) -> Fitness:
    """Return the ranks of P values, scaled to [-1/2, 1/2]; equal values share the mean of their ranks."""
    from scipy.stats import rankdata  # here, because importing scipy.stats takes as long as importing popgrad

    if len(values) < 2:
        return np.zeros(len(values))
    return np.asarray((rankdata(values) - 1) / (len(values) - 1) - 0.5, np.float64)
