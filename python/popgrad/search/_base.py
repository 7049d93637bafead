"""What every search shares: ask and tell, the best so far, bounds, counters, and what becomes of NaN."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad.backends import Stream, move, random_generator
from popgrad.checks import Settings, fail, positive_int, whole_seed

__all__ = ["Bounds", "Run", "Search"]

Array = NDArray[Any]
Fitness = NDArray[np.float64]
Bounds = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True)
class Search(metaclass=Settings):
    """Proposes populations and learns from their fitness. Subclasses hold the settings of one method.

    A subclass keeps all that it needs to go on in ``run.state``, a dict of arrays and numbers, and draws its
    random numbers as functions of (run.seed, run.generation): so a run can be stopped and resumed anywhere.
    """

    popsize: int = 32

    def __post_init__(self) -> None:
        positive_int(self, "popsize", self.popsize, self.least_popsize())

    def least_popsize(self) -> int:
        """The smallest population that the method works with."""
        return 1

    @final
    def start(self, x0: ArrayLike, seed: int = 0, bounds: Bounds | None = None) -> Run:
        """Begin a run.

        Args:
            x0: (n,) where to begin, finite; float32 and float64 stay what they are, integers become float64.
            seed: in [0, 2^64).
            bounds: (lower, upper), each a number or (n,); candidates are put back to the nearest bound.

        Raises:
            InputError: x0 or the bounds are not such numbers, or x0 is outside of them.
        """
        return Run(self, x0, seed, bounds)

    @abstractmethod
    def begin(self, run: Run) -> None:
        """Fill ``run.state``."""

    @abstractmethod
    def propose(self, run: Run) -> Array:
        """The next population, (P, n), before it is put within the bounds."""

    @abstractmethod
    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """Take in the fitness (P,) of what was proposed; infinite where it was not a finite number."""

    def recommend(self, run: Run) -> Array:
        """The solution that the search would hand in now, (n,); by default the best it has seen."""
        return run.best_x

    def finished(self, run: Run) -> str | None:
        """Why going on is pointless, or None."""
        return None


@final
class Run:
    """One run of a search, made by ``Search.start``.

    Attributes:
        best_x: (n,) the best candidate so far; x0 before the first ``tell``.
        best_f: its fitness; infinity before the first ``tell``.
        evaluations: candidates told so far.
        generation: populations told so far.
        nonfinite: how many fitnesses were NaN or infinite. Those candidates are never the best and never part
            of an update.
    """

    def __init__(self, search: Search, x0: ArrayLike, seed: int = 0, bounds: Bounds | None = None) -> None:
        name = f"{type(search).__name__}.start"
        x = np.asarray(x0)
        if x.dtype.kind not in "fiu" or x.ndim != 1 or len(x) == 0:
            fail(name, f"x0 must be a vector of real numbers (n,), got {x.dtype} {x.shape}")
        dtype = x.dtype if x.dtype in (np.float32, np.float64) else np.float64
        self.x0 = np.array(x, dtype)
        if not np.isfinite(self.x0).all():
            fail(name, "x0 holds NaN or infinity")
        self.search = search
        self.seed = whole_seed(name, seed)
        self.bounds = None if bounds is None else _checked_bounds(name, bounds, self.x0)
        self.state: dict[str, Any] = {}
        self.best_x, self.best_f = self.x0.copy(), np.inf
        self.generation = self.evaluations = self.nonfinite = 0
        self._asked: Array | None = None
        search.begin(self)

    @property
    def n(self) -> int:
        """Number of coordinates."""
        return len(self.x0)

    def ask(self) -> Array:
        """The population to evaluate next, (P, n); the same one until it is told. Not to be written to."""
        if self._asked is None:
            population = self.search.propose(self)
            if self.bounds is not None:
                np.clip(population, *self.bounds, out=population)
            self._asked = population
        return self._asked

    def tell(self, fitness: ArrayLike) -> None:
        """Give the fitness (P,) of the population that was asked for, smaller is better.

        Raises:
            InputError: nothing was asked for, the shape is wrong, or no fitness since the start was finite.
        """
        name = f"{type(self.search).__name__}.tell"
        if self._asked is None:
            fail(name, "ask for a population first")
        values = np.asarray(fitness)
        if values.shape != (len(self._asked),) or values.dtype.kind not in "fiub":
            fail(name, f"fitness must be {len(self._asked)} numbers, got {values.dtype} {values.shape}")
        values = values.astype(np.float64)  # a copy: the caller's stays as it is
        bad = ~np.isfinite(values)
        values[bad] = np.inf
        if bad.all() and not np.isfinite(self.best_f):
            fail(name, "not one fitness is finite; look at the objective at x0, or start nearer to it")
        self.nonfinite += int(bad.sum())
        best = int(values.argmin())
        if values[best] < self.best_f:
            self.best_x, self.best_f = self._asked[best].copy(), float(values[best])
        self.search.learn(self, self._asked, values)
        self.evaluations += len(values)
        self.generation += 1
        self._asked = None

    def recommend(self) -> Array:
        """The solution that the search would hand in now, (n,): the best seen, or its own centre."""
        return self.search.recommend(self)

    def stop(self) -> str | None:
        """Why going on is pointless, or None."""
        return self.search.finished(self)

    def state_dict(self) -> dict[str, Any]:
        """All that the run needs to go on, as arrays and numbers (copies)."""
        own = {"best_x": self.best_x, "best_f": self.best_f, "generation": self.generation}
        own |= {"evaluations": self.evaluations, "nonfinite": self.nonfinite}
        both = own | {f"state.{name}": value for name, value in self.state.items()}
        return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in both.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another run of the same search, x0, seed and bounds stood.

        Raises:
            InputError: it holds other names or shapes than this run.
        """
        mine = self.state_dict()
        for name in mine.keys() | state.keys():
            if name not in state or name not in mine or np.shape(state[name]) != np.shape(mine[name]):
                fail(f"{type(self.search).__name__}.load_state_dict", f"{name!r} does not fit this run")
        for name, value in state.items():
            copied = value.copy() if isinstance(value, np.ndarray) else value
            if name.startswith("state."):
                self.state[name.removeprefix("state.")] = copied
            else:
                setattr(self, name, copied)
        self._asked = None

    # --- For the searches -----------------------------------------------------------------------------

    def empty(self, count: int) -> Array:
        """A population (count, n) of the run's dtype, not filled."""
        return np.empty((count, self.n), self.x0.dtype)

    def move(self, rule: str, out: Array | list[Array], sources: list[Array], **arguments: Any) -> None:
        """A native move (`popgrad.backends.move`) with this run's seed and generation."""
        move(rule, out, sources, seed=self.seed, generation=self.generation, **arguments)

    def random(self) -> np.random.Generator:
        """NumPy's generator for this generation's O(P) decisions."""
        return random_generator(self.seed, Stream.CHOOSE, self.generation)

    def first_population(self, count: int, sigma: float) -> Array:
        """x0, and around it normal points with standard deviation sigma, or uniform ones within the bounds."""
        out = self.empty(count)
        if self.bounds is not None:
            self.move("Uniform", out, list(self.bounds), stream=Stream.START)
        else:
            self.move("Gaussian", out, [self.x0], sigma=sigma, stream=Stream.START)
        out[0] = self.x0
        return out


def _checked_bounds(name: str, bounds: Bounds, x0: Array) -> tuple[Array, Array]:
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        fail(name, "bounds must be (lower, upper), each a number or one per coordinate")
    try:
        lower, upper = (np.array(np.broadcast_to(np.asarray(bound, x0.dtype), x0.shape)) for bound in bounds)
    except (TypeError, ValueError):
        fail(name, f"bounds must be (lower, upper), each a number or of shape {x0.shape}")
    if not (np.isfinite(lower).all() and np.isfinite(upper).all() and (lower < upper).all()):
        fail(name, "every lower bound must be finite and below its upper bound")
    if ((x0 < lower) | (x0 > upper)).any():
        where = int(np.argmax((x0 < lower) | (x0 > upper)))
        fail(name, f"x0[{where}] = {x0[where]} is outside its bounds [{lower[where]}, {upper[where]}]")
    return lower, upper
