"""The best of many candidates for the price of a few: successive halving over a growing part of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad.backends import Stream, random_generator
from popgrad.budget import Cost
from popgrad.checks import at_least_zero, fail, positive_int, whole_seed
from popgrad.metrics import Metric
from popgrad.models import Model
from popgrad.models.validation import checked_population
from popgrad.objective import ALL, Around, Batch, Objective, Population

__all__ = ["Race", "Racing", "race"]

Array = NDArray[Any]

PART = 64 << 20  # bytes of candidates that are copied at a time


@dataclass(frozen=True)
class Race:
    """How a race went.

    Attributes:
        fitness: (P,) estimates, each from the last round that the candidate took part in; smaller is better.
        samples: (P,) int64, the samples behind each estimate; those with more went further.
        survivors: (survivors,) int64, numbers of the best candidates, the best first; known from all samples.
        forwards: samples through networks; the evaluation of all candidates on all samples would cost P * B.
    """

    fitness: NDArray[np.float64]
    samples: NDArray[np.int64]
    survivors: NDArray[np.int64]
    forwards: int

    def consistent(self) -> NDArray[np.float64]:
        """Fitness (P,) in which everybody is worse than a candidate that went further.

        An estimate from few samples may be better by luck than what the whole data say of the winner. A search that
        compares candidates must not take it for the best: it is raised to the next number above the worst finite one
        of those that went on.
        """
        fitness, worst = self.fitness.copy(), -math.inf
        for samples in np.unique(self.samples)[::-1]:
            these = self.samples == samples
            fitness[these] = np.maximum(fitness[these], worst)
            finite = fitness[these][np.isfinite(fitness[these])]
            worst = np.nextafter(finite.max(initial=worst), math.inf)
        return fitness


def race(
    model: Model,
    population: ArrayLike,
    X: ArrayLike,
    y: ArrayLike,
    metric: Metric = "loss",
    *,
    keep: float = 0.5,
    rounds: int | None = None,
    survivors: int = 1,
    seed: int = 0,
    sample_weight: ArrayLike | None = None,
) -> Race:
    """Find the best candidates of a population by successive halving (Jamieson & Talwalkar, arXiv:1502.07943).

    In R rounds, round r = 0..R-1 measures those still in the race on a share keep^(R-1-r) of the samples, and lets the
    share `keep` of them go on; the last round measures on all samples. It costs about R * keep^(R-1) of an evaluation
    of all candidates: 3/16 for 64 candidates that are halved. The best candidate may be lost in an early round.

    Args:
        model: whose networks the candidates are.
        population: (P, n). X, y, sample_weight, metric: as for `MLP.evaluate`; samples of weight 0 are left out.
            Where a part of the samples cannot tell candidates apart (one class, for "auc"), the first ones go on.
        keep: share that goes on, in (0, 1); at least one leaves each round.
        rounds: how many; default: as many as it takes until `survivors` are left.
        survivors: how many are left, in [1, P].
        seed: of the order in which samples are taken, in [0, 2^64).

    Raises:
        InputError: an argument does not fit.
    """
    if not isinstance(model, Model):
        fail("race", f"model must be a popgrad.Model, such as popgrad.MLP, got {type(model).__name__}")
    racing = Racing(keep)
    objective = model.objective(X, y, sample_weight, metric=metric, operation="race")
    members = checked_population("race", population, objective.layout.size)
    if rounds is not None:
        positive_int("race", "rounds", rounds)
    if positive_int("race", "survivors", survivors) > len(members):
        fail("race", f"survivors must be at most the {len(members)} candidates, got {survivors}")
    objective.check("race")
    rows = objective.weighted_rows()
    rows = np.arange(objective.samples) if rows is None else rows
    order = random_generator(whole_seed("race", seed), Stream.RACE, 0).permutation(rows)
    planned = schedule(len(members), len(order), racing.keep, rounds, survivors)
    return run(objective, members, order, planned, survivors)


@dataclass(frozen=True)
class Racing:
    """How `popgrad.fit` lets the candidates of a generation race: by successive halving (see `race`).

    The best candidate of a generation is measured on all samples of its batch, the others on fewer. The run is charged
    the forwards that are used: 5/16 of those of a whole evaluation for 32 candidates that are halved.

    Args:
        keep: share that stays in the race from round to round, in (0, 1).

    Raises:
        InputError: `keep` is no such number.
    """

    keep: float = 0.5

    def __post_init__(self) -> None:
        if not at_least_zero(self.keep) or not 0 < float(self.keep) < 1:
            fail(self, f"keep must be in (0, 1), got {self.keep!r}")

    def over(self, objective: Objective, seed: int) -> Objective:
        """The objective whose values come from a race; the samples' order is a function of `seed` and the step."""
        return _Raced(objective, self.keep, seed)


class _Raced(Around):
    """An objective whose candidates race for their values."""

    def __init__(self, inner: Objective, keep: float, seed: int) -> None:
        super().__init__(inner)
        self.keep, self.seed = keep, seed

    def lacks(self, operation: str) -> str | None:
        """See `Objective.lacks`; there is nothing to race for where there is one candidate."""
        if operation == "gradient":
            return "racing is for searches; a gradient method has one candidate"
        return super().lacks(operation)

    def values(self, population: Population, batch: Batch = ALL) -> NDArray[np.float64]:
        """See `Race.consistent`."""
        rows = np.arange(self.samples) if batch.rows is None else batch.rows
        order = random_generator(self.seed, Stream.RACE, batch.step - 1).permutation(rows)
        return run(self.inner, population, order, self._rounds(len(population), batch)).consistent()

    def values_cost(self, popsize: int, batch: Batch) -> Cost:
        """That of all rounds."""
        return Cost(sum(members * samples for members, samples in self._rounds(popsize, batch)), popsize)

    def _rounds(self, popsize: int, batch: Batch) -> list[tuple[int, int]]:
        return schedule(popsize, self.size(batch), self.keep)


def schedule(
    members: int, samples: int, keep: float, rounds: int | None = None, survivors: int = 1
) -> list[tuple[int, int]]:
    """Candidates and samples of each round."""
    sizes = [members]
    while rounds is None or len(sizes) < rounds:
        left = max(survivors, min(sizes[-1] - 1, math.ceil(sizes[-1] * keep)))
        if left >= sizes[-1] or (rounds is None and left == survivors):
            break
        sizes.append(left)
    shares = [keep ** (len(sizes) - 1 - r) for r in range(len(sizes))]
    return [(size, math.ceil(samples * share)) for size, share in zip(sizes, shares, strict=True)]


def run(
    objective: Objective, members: Population, order: Array, rounds: list[tuple[int, int]], survivors: int = 1
) -> Race:
    """The race itself, on samples in this order (int64)."""
    alive = np.arange(len(members))
    fitness, samples, forwards = np.empty(len(members)), np.empty(len(members), np.int64), 0
    part = max(1, PART // (members.shape[1] * objective.dtype.itemsize))
    for size, count in rounds:
        alive, batch = alive[:size], Batch(order[:count])
        for first in range(0, size, part):
            these = alive[first : first + part]
            with np.errstate(over="ignore"):
                fitness[these] = objective.values(np.ascontiguousarray(members[these], objective.dtype), batch)
        samples[alive] = count
        forwards += size * count
        # The better first, and of equals the one with the smaller number.
        alive = alive[np.lexsort((alive, fitness[alive]))]
    return Race(fitness, samples, alive[:survivors], forwards)
