"""OpenAI's evolution strategy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from popgrad import _core
from popgrad.checks import fail, positive
from popgrad.optim import Adam, Optimizer, State
from popgrad.search._base import Array, Fitness, Run, Search


@final
@dataclass(frozen=True)
class OpenAIES(Search):
    r"""A gradient estimated from mirrored normal steps, and a gradient optimizer that follows it.

    .. math:: \hat g = \frac{1}{P \sigma} \sum_k u_k\, z_k, \qquad x_k = \theta + \sigma z_k, \quad z_{k + P/2} = -z_k

    where u are the centred ranks of the fitness, from -1/2 (best) to 1/2: the estimate descends.

    Args:
        popsize: candidates per generation, even, >= 2.
        sigma: standard deviation of the steps, > 0, in units of x.
        optimizer: what follows the estimate; any of `popgrad.optim`.

    State: ``centre`` (n,), and the optimizer's, such as ``optimizer.slots``, ``optimizer.t``.

    Raises:
        InputError: a setting is out of range.

    Reference: Salimans et al., arXiv:1703.03864 (2017), Algorithm 1 and section 2.1 (mirrored sampling, ranks, Adam).
    """

    popsize: int = 128
    sigma: float = 0.05
    optimizer: Optimizer = field(default_factory=lambda: Adam(learning_rate=0.02))

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "sigma")
        if self.popsize % 2:
            fail(self, f"popsize must be even, for mirrored pairs, got {self.popsize}")
        if not isinstance(self.optimizer, Optimizer):
            fail(self, f"optimizer must be one of popgrad.optim, got {self.optimizer!r}")

    def least_popsize(self) -> int:
        """One pair."""
        return 2

    def begin(self, run: Run) -> None:
        """The centre is x0."""
        state = self.optimizer.init(run.x0)
        run.state["centre"] = run.x0.copy()
        run.state.update({f"optimizer.{name}": value for name, value in state.to_dict().items()})

    def propose(self, run: Run) -> Array:
        """Mirrored pairs: member k + P / 2 takes the step of member k, backwards."""
        half, out = self.popsize // 2, run.empty(self.popsize)
        identity = np.tile(np.arange(half, dtype=np.uint32), 2)
        sigma = np.repeat([self.sigma, -self.sigma], half)
        run.move("Gaussian", out, [run.state["centre"]], sigma=sigma, identity=identity)
        return out

    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """One step of the optimizer along the estimate."""
        finite = np.isfinite(fitness)
        utility = np.zeros(len(fitness))
        utility[finite] = centred_ranks(fitness[finite])
        gradient, state = np.empty_like(run.x0), run.state
        # (x_k - centre) / sigma is z_k: the steps need not be drawn again, and bounds are taken into account.
        weights = utility / (max(int(finite.sum()), 1) * self.sigma**2)
        _core.combine(weights, population, state["centre"], gradient)
        named = {name.removeprefix("optimizer."): v for name, v in state.items() if name.startswith("optimizer.")}
        inner = State.from_dict(named)
        self.optimizer.step(state["centre"], gradient, inner)
        if run.bounds is not None:
            np.clip(state["centre"], *run.bounds, out=state["centre"])
        state.update({f"optimizer.{name}": value for name, value in inner.to_dict().items()})

    def recommend(self, run: Run) -> Array:
        """The centre: its neighbours were measured, with noise that the centre averages out."""
        return run.state["centre"] if run.generation else run.best_x


def centred_ranks(values: Fitness) -> Fitness:
    """Ranks from -1/2 (smallest) to 1/2, equal for equal values; (P,) to (P,)."""
    if len(values) < 2:
        return np.zeros(len(values))
    ordered = np.sort(values)
    ranks = 0.5 * (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") - 1)
    return np.asarray(ranks / (len(values) - 1) - 0.5)
