"""The best of many candidates for the price of a few: successive halving over a growing part of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad.backends import Stream, random_generator
from popgrad.checks import at_least_zero, fail, positive_int, whole_seed
from popgrad.metrics import Measure, Metric
from popgrad.model import MLP
from popgrad.samples import MEMORY_LIMIT, Data

__all__ = ["Race", "race"]

Array = NDArray[Any]


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
    model: MLP,
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
    if not isinstance(model, MLP):
        fail("race", f"model must be a popgrad.MLP, got {type(model).__name__}")
    measure = model.measure("race", metric)
    members = model.members("race", population)
    checked_keep("race", keep)
    if rounds is not None:
        positive_int("race", "rounds", rounds)
    if positive_int("race", "survivors", survivors) > len(members):
        fail("race", f"survivors must be at most the {len(members)} candidates, got {survivors}")
    data = model.data(X, y, sample_weight, operation="race")
    data.check("race", measure)
    rows = np.arange(len(data)) if data.weight is None else np.flatnonzero(data.weight)
    order = random_generator(whole_seed("race", seed), Stream.RACE, 0).permutation(rows)
    return run(data, measure, members, order, schedule(len(members), len(order), keep, rounds, survivors), survivors)


def checked_keep(operation: str, keep: object) -> None:
    """Fail unless `keep` is a number in (0, 1)."""
    if not at_least_zero(keep) or not 0 < float(keep) < 1:  # type: ignore[arg-type]
        fail(operation, f"the share that goes on must be in (0, 1), got {keep!r}")


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
    data: Data, measure: Measure, members: Array, order: Array, rounds: list[tuple[int, int]], survivors: int = 1
) -> Race:
    """The race itself, on samples in this order (int64)."""
    alive = np.arange(len(members))
    fitness, samples, forwards = np.empty(len(members)), np.empty(len(members), np.int64), 0
    part = max(1, MEMORY_LIMIT // (members.shape[1] * data.X.itemsize))
    for size, count in rounds:
        alive = alive[:size]
        evaluate = data.evaluator(measure, order[:count])
        for first in range(0, size, part):
            these = alive[first : first + part]
            with np.errstate(over="ignore"):
                fitness[these] = evaluate(np.ascontiguousarray(members[these], data.X.dtype))
        samples[alive] = count
        forwards += size * count
        # The better first, and of equals the one with the smaller number.
        alive = alive[np.lexsort((alive, fitness[alive]))]
    return Race(fitness, samples, alive[:survivors], forwards)
