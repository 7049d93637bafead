"""What every search shares: ask and tell, the best so far, bounds, counters, and what becomes of NaN."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad import arrays
from popgrad.backends import Stream, move, random_generator
from popgrad.checks import Settings, fail, positive_int, whole_seed
from popgrad.search._bounds import Bounds, checked_box
from popgrad.search._state import digest, like

__all__ = ["Bounds", "Run", "Search", "checked_fitness"]

Array = NDArray[Any]
Fitness = NDArray[np.float64]


@dataclass(frozen=True)
class Search(metaclass=Settings):
    """Proposes populations and learns from their fitness. Subclasses hold the settings of one method.

    A subclass keeps all that it needs to go on in ``run.state``, a dict of arrays and numbers, and draws its
    random numbers as functions of (run.seed, run.generation): so a run can be stopped and resumed anywhere.
    """

    name: ClassVar[str]
    """On the command line. Default: the name of the class in snake_case."""

    label: ClassVar[str]
    """In tables and charts. Default: the name of the class."""

    popsize: int = 32

    def __init_subclass__(cls) -> None:
        words = re.findall("[A-Z]+(?![a-z])|[A-Z][a-z]+|[0-9]+", cls.__name__)
        cls.name = vars(cls).get("name", "_".join(words).lower())
        cls.label = vars(cls).get("label", cls.__name__)

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
            bounds: the box that every candidate lies in. ``(lower, upper)``, each None, a number or (n,); n pairs
                ``(min, max)``, as SciPy has them; or ``scipy.optimize.Bounds``. None and infinity mean no bound; equal
                bounds fix a coordinate. For two coordinates ``[(a, b), (c, d)]`` could be either of the first two
                forms: it is taken as the one that leaves a coordinate free and contains x0, and refused if both do.
                A tuple of two arrays is always ``(lower, upper)``. A candidate that leaves the box is reflected at
                the bound that it crossed; one that is further out than the box is wide is drawn anew within it.

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
        best_x: (n,) the best candidate so far; x0 before the first ``tell``. Read-only, and never changed later: a
            better candidate is another array.
        best_f: its fitness; infinity before the first ``tell``.
        evaluations: candidates told so far.
        generation: populations told so far.
        nonfinite: number of fitness values that were NaN or infinite. Their candidates are never the best and never
            part of an update.
        handed: arrays that ``Search.propose`` fills for ``Search.learn`` of the same generation. They are a function of
            the state, so they are not saved: a loaded run asks again.
    """

    def __init__(self, search: Search, x0: ArrayLike, seed: int = 0, bounds: Bounds | None = None) -> None:
        name = f"{type(search).__name__}.start"
        x = arrays.read(name, "x0", x0)
        if x.dtype.kind not in "fiu" or x.ndim != 1 or len(x) == 0:
            fail(name, f"x0 must be a vector of real numbers (n,), got {x.dtype} {x.shape}")
        dtype = x.dtype if x.dtype in (np.float32, np.float64) else np.float64
        start = np.array(x, dtype)
        if not np.isfinite(start).all():
            fail(name, "x0 holds NaN or infinity")
        self.search = search
        self.seed = whole_seed(name, seed)
        self.box, self.x0 = checked_box(name, bounds, start)
        self.state: dict[str, Any] = {}
        self.best_x, self.best_f = _read_only(self.x0.copy()), np.inf
        self.generation = self.evaluations = self.nonfinite = 0
        self.handed: dict[str, Array] = {}
        self._asked: Array | None = None
        self._ones = np.ones_like(self.x0)
        search.begin(self)

    @property
    def n(self) -> int:
        """Number of coordinates."""
        return len(self.x0)

    def ask(self) -> Array:
        """The population to evaluate next, (P, n), read-only; the same one until it is told."""
        if self._asked is None:
            self._asked = _read_only(self.within(self.search.propose(self)))
        return self._asked

    def tell(self, fitness: ArrayLike) -> None:
        """Give the fitness (P,) of the population that was asked for, smaller is better.

        Raises:
            InputError: nothing was asked for, the shape is wrong, or no fitness since the start was finite.
        """
        name = f"{type(self.search).__name__}.tell"
        if self._asked is None:
            fail(name, "ask for a population first")
        values = checked_fitness(name, fitness, len(self._asked))
        finite = np.isfinite(values)
        if not finite.any() and not np.isfinite(self.best_f):
            fail(name, "not one fitness is finite; look at the objective at x0, or start nearer to it")
        self.nonfinite += int((~finite).sum())
        best = int(values.argmin())
        if values[best] < self.best_f:
            self.best_x, self.best_f = _read_only(self._asked[best].copy()), float(values[best])
        self.search.learn(self, self._asked, values)
        self.evaluations += len(values)
        self.generation += 1
        self._asked = None

    def recommend(self) -> Array:
        """Return a copy of the current solution, (n,): the best candidate so far, or the center of the search."""
        return self.search.recommend(self).copy()

    def stop(self) -> str | None:
        """Why going on is pointless, or None."""
        return self.search.finished(self)

    def state_dict(self) -> dict[str, Any]:
        """All that the run needs to go on, as arrays and numbers (copies).

        It also holds the seed and digests of the settings, x0 and bounds, by which `load_state_dict` tells whether
        they are the same.
        """
        own = {"best_x": self.best_x, "best_f": self.best_f, "generation": self.generation}
        own |= {"evaluations": self.evaluations, "nonfinite": self.nonfinite, "seed": self.seed}
        own |= {"digest.settings": digest(self.search), "digest.x0": digest(self.x0), "digest.bounds": digest(self.box)}
        both = own | {f"state.{name}": value for name, value in self.state.items()}
        return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in both.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another run of the same search, x0, seed and bounds stood.

        Args:
            state: what `state_dict` gave. Numbers may have become arrays of shape (), as ``np.savez`` makes them, and
                arrays nested lists, as in JSON, if the type of this run holds every number of them exactly.

        Raises:
            InputError: it holds other names, shapes or types than this run, or was saved with another seed, or with
                other settings, x0 or bounds. The run stays as it was.
        """
        name, mine = f"{type(self.search).__name__}.load_state_dict", self.state_dict()
        for key in sorted(mine.keys() ^ state.keys()):
            fail(name, f"{key!r} does not fit this run: it is {'missing' if key in mine else 'not a part of it'}")
        # What explains other shapes comes before the arrays, and what other types explain after them.
        order = sorted(mine, key=lambda key: (key in ("digest.x0", "digest.bounds"), key not in _IDENTITY))
        loaded = {}
        for key in order:
            loaded[key] = like(name, key, state[key], mine[key])
            if key in _IDENTITY and loaded[key] != mine[key]:
                fail(name, f"{key!r} does not fit this run: the state was saved with {_IDENTITY[key]}")
        self.state = {key.removeprefix("state."): loaded[key] for key in self._state_keys(loaded)}
        for key in ("best_f", "generation", "evaluations", "nonfinite"):
            setattr(self, key, loaded[key])
        self.best_x = _read_only(loaded["best_x"])
        self._asked = None

    @staticmethod
    def _state_keys(named: Mapping[str, Any]) -> list[str]:
        return [key for key in named if key.startswith("state.")]

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

    def length(self, given: float | None, free: float, share: float) -> tuple[float, Array]:
        """A length that the user may leave to the search, and its unit in every coordinate (n,).

        A length that is given is in units of x. None means the `share` of the box's width where both bounds are finite,
        and `free`, in units of x, elsewhere.
        """
        if given is not None or self.box is None:
            return float(free if given is None else given), self._ones
        type_ = self.x0.dtype.type
        return 1.0, np.where(self.box.closed, type_(share) * self.box.width, type_(free))

    def within(self, population: Array, **arguments: Any) -> Array:
        """`population` (P, n), its candidates put back into the box in place: reflected at the bound they crossed."""
        if self.box is not None:
            self.move("Reflect", population, [self.box.lower, self.box.upper], stream=Stream.BOUNDS, **arguments)
        return population

    def draws(self, count: int, sigma: float) -> Array:
        """Points that know nothing: uniform in the box, and normal around x0 where the box is not bounded."""
        out = self.empty(count)
        closed = False if self.box is None else self.box.closed
        if not np.all(closed):
            self.move("Gaussian", out, [self.x0], sigma=sigma, stream=Stream.START)
        if self.box is not None and np.any(closed):
            uniform = self.empty(count)
            sides = [np.where(closed, side, self.x0) for side in (self.box.lower, self.box.upper)]
            self.move("Uniform", uniform, sides, stream=Stream.START)
            np.copyto(out, uniform, where=closed)
        return self.within(out)

    def first_population(self, count: int, sigma: float) -> Array:
        """x0, and draws."""
        out = self.draws(count, sigma)
        out[0] = self.x0
        return out


_IDENTITY = {
    "seed": "another seed",
    "digest.settings": "another search or other settings",
    "digest.x0": "another x0",
    "digest.bounds": "other bounds",
}


def checked_fitness(name: str, fitness: ArrayLike, count: int) -> Fitness:
    """A copy of `fitness` as `count` floats, infinite where it is NaN or infinite.

    Raises:
        InputError: it is of another type or shape.
    """
    values = arrays.read(name, "fitness", fitness)
    if values.shape != (count,) or values.dtype.kind not in "fiub":
        fail(name, f"fitness must be {count} numbers, got {values.dtype} {values.shape}")
    values = values.astype(np.float64)
    values[~np.isfinite(values)] = np.inf
    return values


def _read_only(array: Array) -> Array:
    array.setflags(write=False)
    return array
