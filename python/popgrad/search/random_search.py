"""Random search: the measure of every other search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from popgrad.checks import positive
from popgrad.search._base import Array, Fitness, Run, Search


@final
@dataclass(frozen=True)
class RandomSearch(Search):
    r"""Independent draws; nothing is learned but the best.

    .. math:: x = x_0 + \sigma z, \quad z \sim N(0, I), \qquad \text{or uniform within the bounds}

    Args:
        popsize: candidates per generation, >= 1.
        sigma: standard deviation around x0, > 0, in units of x; not used where both bounds are finite.

    Raises:
        InputError: a setting is out of range.

    Reference: Brooks, Operations Research 6 (1958).
    """

    label: ClassVar[str] = "Random search"

    popsize: int = 32
    sigma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "sigma")

    def begin(self, run: Run) -> None:
        """No state."""

    def propose(self, run: Run) -> Array:
        """Fresh draws; in the first generation x0 is one of them."""
        if run.generation == 0:
            return run.first_population(self.popsize, self.sigma)
        return run.draws(self.popsize, self.sigma)

    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """The base keeps the best."""
