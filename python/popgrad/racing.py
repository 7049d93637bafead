"""Finds the best of many candidates by successive halving: fewer candidates on more samples in each round."""

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

PART = 64 << 20  # bytes of candidates to copy at a time


@dataclass(frozen=True)
class Race:
    """The result of a race.

    Attributes:
        fitness: (P,) estimates, each from the last round of the candidate; smaller is better.
        samples: (P,) int64, number of samples of each estimate; it grows with every round that a candidate reaches.
        survivors: (survivors,) int64, indices of the best candidates, best first, by fitness on all samples.
        forwards: forwards used; evaluating all candidates on all B samples would cost P * B.
    """

    fitness: NDArray[np.float64]
    samples: NDArray[np.int64]
    survivors: NDArray[np.int64]
    forwards: int

    def consistent(self) -> NDArray[np.float64]:
        """Fitness (P,) in which a candidate is worse than every candidate that reached a later round.

        By luck, an estimate from few samples may be better than the fitness of the winner on all samples. A search
        must not select such a candidate as the best. `consistent` therefore raises the estimate to the next number
        above the worst finite fitness of the candidates that reached a later round.
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

    Of R rounds, round r = 0..R-1 evaluates the remaining candidates on a share keep^(R-1-r) of the samples. The best
    candidates, a share `keep`, advance to the next round. The last round uses all samples. A race costs about
    R * keep^(R-1) of a full evaluation of all candidates: 3/16 for 64 candidates and keep = 1/2. An early round may
    eliminate the best candidate.

    Args:
        model: the model that the candidates are parameters of.
        population: (P, n). X, y, sample_weight, metric: see `MLP.evaluate`; samples with weight 0 are left out.
            If the samples of a round give all candidates the same fitness (one class, for "auc"), the candidates with
            the smallest indices advance.
        keep: share of candidates that advance, in (0, 1); each round eliminates at least one candidate.
        rounds: number of rounds. Default: rounds continue until `survivors` candidates are left.
        survivors: number of candidates in the result, in [1, P].
        seed: seed of the random order of the samples, in [0, 2^64).

    Raises:
        InputError: an argument is invalid.
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
    """Tells `popgrad.fit` to evaluate each generation of a search by successive halving (see `race`).

    The last candidates of a generation are evaluated on all samples of the batch, the others on fewer samples.
    `popgrad.fit` charges the run for the forwards used: 5/16 of a full evaluation for 32 candidates and keep = 1/2.

    Args:
        keep: share of candidates that advance from round to round, in (0, 1).

    Raises:
        InputError: `keep` is not in (0, 1).
    """

    keep: float = 0.5

    def __post_init__(self) -> None:
        if not at_least_zero(self.keep) or not 0 < float(self.keep) < 1:
            fail(self, f"keep must be in (0, 1), got {self.keep!r}")

    def over(self, objective: Objective, seed: int) -> Objective:
        """Wrap an objective so that races compute its values; `seed` and the step determine the sample order."""
        return _Raced(objective, self.keep, seed)


class _Raced(Around):
    """An objective that evaluates candidates by races."""

    def __init__(self, inner: Objective, keep: float, seed: int) -> None:
        super().__init__(inner)
        self.keep, self.seed = keep, seed

    def lacks(self, operation: str) -> str | None:
        """See `Objective.lacks`; a gradient method has a single candidate, so there is no race."""
        if operation == "gradient":
            return "racing is for searches; a gradient method has one candidate"
        return super().lacks(operation)

    def values(self, population: Population, batch: Batch = ALL) -> NDArray[np.float64]:
        """See `Race.consistent`."""
        rows = np.arange(self.samples) if batch.rows is None else batch.rows
        order = random_generator(self.seed, Stream.RACE, batch.step - 1).permutation(rows)
        return run(self.inner, population, order, self._rounds(len(population), batch)).consistent()

    def values_cost(self, popsize: int, batch: Batch) -> Cost:
        """The cost of all rounds."""
        return Cost(sum(members * samples for members, samples in self._rounds(popsize, batch)), popsize)

    def _rounds(self, popsize: int, batch: Batch) -> list[tuple[int, int]]:
        return schedule(popsize, self.size(batch), self.keep)


def schedule(
    members: int, samples: int, keep: float, rounds: int | None = None, survivors: int = 1
) -> list[tuple[int, int]]:
    """The numbers of candidates and samples in each round."""
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
    """Run the race; `order` (int64) is the order of the samples."""
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
        # Sort by fitness; ties go to the smaller index.
        alive = alive[np.lexsort((alive, fitness[alive]))]
    return Race(fitness, samples, alive[:survivors], forwards)
