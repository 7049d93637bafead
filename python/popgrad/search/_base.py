"""The base of every search, and its runs: ask and tell, the best candidate, bounds, counters, checks of the fitness."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad import arrays
from popgrad.backends import Stream, move, random_generator
from popgrad.budget import Cost
from popgrad.checks import fail, whole_seed
from popgrad.layout import Layout, checked_layout
from popgrad.method import Method
from popgrad.objective import Batch, Objective, Population
from popgrad.search._bounds import Bounds, checked_box
from popgrad.settings import check_settings, hyper
from popgrad.state import digest, flatten, like, restored

__all__ = ["Bounds", "Run", "Search", "checked_fitness"]

Array = NDArray[Any]
Fitness = NDArray[np.float64]


@dataclass(frozen=True)
class Search(Method):
    """Proposes populations and learns from their fitness. A subclass holds the settings of one method.

    A subclass keeps everything that it needs to continue in ``run.state``, a tree of arrays and numbers. Its random
    numbers are functions of (run.seed, run.generation). Together these make every run resumable at any point.
    """

    kind = "search"
    least_steps = 50

    popsize: int = hyper(32, at_least=1, whole=True)

    def __post_init__(self) -> None:
        check_settings(self)

    @final
    def start(self, x0: ArrayLike, seed: int = 0, bounds: Bounds | None = None) -> Run:
        """Start a run.

        Args:
            x0: starting point, (n,), finite. float32 and float64 are kept; integers become float64.
            seed: in [0, 2^64).
            bounds: the box that contains every candidate. One of ``(lower, upper)``, each None, a number or (n,); n
                pairs ``(min, max)``, as in SciPy; ``scipy.optimize.Bounds``. None and infinity mean no bound. Equal
                bounds fix a coordinate. For two coordinates, ``[(a, b), (c, d)]`` fits the first two forms. The form
                that leaves a coordinate free and contains x0 counts; if both do, the bounds are refused. A tuple of two
                arrays is always ``(lower, upper)``. A candidate that leaves the box is reflected at the bound that it
                crossed. If the reflection is outside too, the coordinate is redrawn uniformly within its bounds.

        Raises:
            InputError: x0 or the bounds are invalid, or x0 is outside the bounds.
        """
        if (needed := self.needs_objective()) is not None:
            fail(f"{type(self).__name__}.start", f"{needed}; use popgrad.fit or popgrad.minimize, not ask and tell")
        return Run(self, x0, seed, bounds)

    def needs_objective(self) -> str | None:
        """Return why the fitness of proposed populations is not enough for this search, or None."""
        return None

    # --- As a method ------------------------------------------------------------------------------------------------

    def prepare(self, objective: Objective, w: Array, seed: int) -> Run:
        """See `popgrad.Method.prepare`."""
        if objective.layout.frozen:
            fail(
                type(self).__name__,
                f"a search changes all parameters, but {', '.join(objective.layout.frozen)} are frozen: call "
                "model.unfreeze, or train with a gradient method (popgrad.optim)",
            )
        return Run(self, w, seed, layout=objective.layout)

    def cost(self, objective: Objective, batch: Batch, state: Run) -> Cost:
        """See `popgrad.Method.cost`."""
        return objective.values_cost(len(state.ask()), batch)

    def advance(self, objective: Objective, batch: Batch, state: Run) -> None:
        """Run one generation; see `popgrad.Method.advance`."""
        state.context = objective, batch
        try:
            state.tell(objective.values(state.ask(), batch))
        finally:
            state.context = None

    # --- What a subclass defines ------------------------------------------------------------------------------------

    @abstractmethod
    def fill(self, run: Run) -> None:
        """Fill ``run.state`` at the start of a run."""

    @abstractmethod
    def propose(self, run: Run) -> Population:
        """Return the next population, (P, n). The run then moves an array within the bounds."""

    @abstractmethod
    def learn(self, run: Run, population: Array, fitness: Fitness) -> None:
        """Update ``run.state`` with the fitness (P,) of the population; NaN and -infinity arrive as infinity."""

    def recommend(self, state: Run) -> Array:
        """Return the current solution, (n,): by default the best candidate so far."""
        return state.best_x

    def finished(self, state: Run) -> str | None:
        """Return why the search cannot improve any further, or None."""
        return None


@final
class Run:
    """One run of a search, made by ``Search.start``.

    Attributes:
        best_x: the best candidate so far, (n,); x0 before the first ``tell``. The array is read-only and never changes:
            a better candidate is a new array.
        best_f: fitness of ``best_x``; infinity before the first ``tell``.
        evaluations: number of candidates told so far.
        generation: number of populations told so far.
        nonfinite: number of fitness values that were NaN or infinite. Their candidates are never the best and never
            part of an update.
        handed: arrays that ``Search.propose`` fills for ``Search.learn`` of the same generation. They are a function of
            the state, so they are not saved: a loaded run asks again.
        layout: layout of x.
        context: the objective and the batch behind the fitness, while `Search.advance` tells a generation; None in a
            loop of ask and tell.
    """

    context: tuple[Objective, Batch] | None = None

    def __init__(
        self,
        search: Search,
        x0: ArrayLike,
        seed: int = 0,
        bounds: Bounds | None = None,
        layout: Layout | None = None,
    ) -> None:
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
        self.layout = checked_layout(name, layout, len(start))
        self.state: dict[str, Any] = {}
        self.best_x, self.best_f = _read_only(self.x0.copy()), np.inf
        self.generation = self.evaluations = self.nonfinite = 0
        self.handed: dict[str, Array] = {}
        self._asked: Array | None = None
        self._ones = np.ones_like(self.x0)
        search.fill(self)

    @property
    def n(self) -> int:
        """Number of coordinates."""
        return len(self.x0)

    def ask(self) -> Array:
        """Return the population to evaluate next, (P, n), read-only. It stays the same until ``tell``.

        It is an array, or `popgrad.Perturbations` if the search proposes those.
        """
        if self._asked is None:
            proposed = self.search.propose(self)
            if isinstance(proposed, np.ndarray):
                proposed = _read_only(self.within(proposed))
            elif self.box is not None:
                fail(type(self.search).__name__, "candidates that are not stored cannot be kept within bounds")
            self._asked = cast(Array, proposed)
        return self._asked

    def tell(self, fitness: ArrayLike) -> None:
        """Pass the fitness (P,) of the last population of ``ask``; smaller is better.

        Raises:
            InputError: there was no ``ask``, the shape is wrong, or no fitness has been finite since the start.
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
        """Return why the search cannot improve any further, or None."""
        return self.search.finished(self)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the run needs to continue, as copies of arrays and numbers.

        The seed and the digests of the settings, x0 and bounds let `load_state_dict` check that they are the same.
        """
        own = {"best_x": self.best_x, "best_f": self.best_f, "generation": self.generation}
        own |= {"evaluations": self.evaluations, "nonfinite": self.nonfinite, "seed": self.seed}
        own |= {"digest.settings": digest(self.search), "digest.x0": digest(self.x0), "digest.bounds": digest(self.box)}
        both = own | flatten({"state": self.state})
        return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in both.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of another run with the same search, x0, seed and bounds.

        Args:
            state: a result of `state_dict`. Numbers may be arrays of shape (), as ``np.savez`` stores them. Arrays may
                be nested lists, as in JSON, if the type of this run represents their numbers exactly.

        Raises:
            InputError: names, shapes or types differ from this run, or the state was saved with another seed, other
                settings, x0 or bounds. The run is unchanged.
        """
        name, mine = f"{type(self.search).__name__}.load_state_dict", self.state_dict()
        for key in sorted(mine.keys() ^ state.keys()):
            fail(name, f"{key!r} does not fit this run: it is {'missing' if key in mine else 'not a part of it'}")
        # Other settings explain other shapes, so they are checked before the arrays. Other types explain other digests
        # of x0 and bounds, so these are checked after the arrays.
        order = sorted(mine, key=lambda key: (key in ("digest.x0", "digest.bounds"), key not in _IDENTITY))
        loaded = {}
        for key in order:
            loaded[key] = like(name, key, state[key], mine[key])
            if key in _IDENTITY and loaded[key] != mine[key]:
                fail(name, f"{key!r} does not fit this run: the state was saved with {_IDENTITY[key]}")
        self.state = restored(name, self.state, {key[6:]: loaded[key] for key in loaded if key.startswith("state.")})
        for key in ("best_f", "generation", "evaluations", "nonfinite"):
            setattr(self, key, loaded[key])
        self.best_x = _read_only(loaded["best_x"])
        self._asked = None

    # --- For the searches -----------------------------------------------------------------------------

    def empty(self, count: int) -> Array:
        """Return an uninitialized population (count, n) of the type of the run."""
        return np.empty((count, self.n), self.x0.dtype)

    def move(self, rule: str, out: Array | list[Array], sources: list[Array], **arguments: Any) -> None:
        """Call the native move (`popgrad.backends.move`) with the seed and generation of this run."""
        move(rule, out, sources, seed=self.seed, generation=self.generation, **arguments)

    def random(self) -> np.random.Generator:
        """Return NumPy's generator for the O(P) decisions of this generation."""
        return random_generator(self.seed, Stream.CHOOSE, self.generation)

    def length(self, given: float | None, free: float, share: float) -> tuple[float, Array]:
        """Return a length and its unit in every coordinate (n,).

        A given length is in units of x. None means the fraction `share` of the width of the box in coordinates with two
        finite bounds, and `free`, in units of x, in the others.
        """
        if given is not None or self.box is None:
            return float(free if given is None else given), self._ones
        type_ = self.x0.dtype.type
        return 1.0, np.where(self.box.closed, type_(share) * self.box.width, type_(free))

    def within(self, population: Array, **arguments: Any) -> Array:
        """Move the candidates of `population` (P, n) into the box, in place, and return it."""
        if self.box is not None:
            self.move("Reflect", population, [self.box.lower, self.box.upper], stream=Stream.BOUNDS, **arguments)
        return population

    def draws(self, count: int, sigma: float) -> Array:
        """Return points that are uniform between finite bounds and normal around x0 in the other coordinates."""
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
        """Return `draws` with x0 as the first point."""
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
    """Return a copy of `fitness` as `count` floats, with infinity in place of every value that is not finite.

    Raises:
        InputError: the type or shape is wrong.
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
