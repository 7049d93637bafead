"""Tests whether the seeds of a study distinguish the first entrant of the ranking from the others.

A seed fixes the split of the data and the initial weights for every entrant, so entrants are compared seed by seed. The
test is the exact two-sided Wilcoxon signed-rank test on the paired differences. It treats zeros as Pratt does and ties
with average ranks. A run that failed or diverged counts as infinitely bad, which signed ranks allow and means do not.
Holm's correction (level 5%) covers all pairs of entrants, although only the pairs of the first entrant are reported,
because the results decide which entrant is first. With S seeds every p-value is at least 2 / 2^S. A few seeds therefore
cannot order many entrants; then only the observed differences are described.

References: Wilcoxon, Biometrics Bulletin 1 (1945); Pratt, JASA 54 (1959); Holm, Scand. J. Statist. 6 (1979); Demšar,
JMLR 7 (2006).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["LEVEL", "Evidence", "seeds_needed", "signed_rank_p", "weigh"]

LEVEL = 0.05


@dataclass(frozen=True)
class Evidence:
    """How well the results on one data set support its ranking.

    Args:
        leader: the entrant that ranks first.
        others: number of other entrants.
        seeds: number of runs of the leader.
        needed: smallest number of seeds with which the test can distinguish the leader from an entrant.
        unseparated: entrants that the test does not distinguish from the leader, in order of rank. With fewer seeds
            than `needed`, all other entrants.
        beaten: number of entrants that the leader beat on every seed.
        spread: variation over the seeds of the difference to the leader: the range (largest - smallest difference) of
            each other entrant, and the median of the ranges. None with one seed.
        agreement: Spearman's rank correlation between the medians of the even and the odd seeds; None with fewer than 4
            seeds or 3 entrants.
    """

    leader: str
    others: int
    seeds: int
    needed: int
    unseparated: tuple[str, ...]
    beaten: int
    spread: float | None
    agreement: float | None

    @property
    def enough(self) -> bool:
        """Whether there are enough seeds to distinguish the leader from an entrant."""
        return self.seeds >= self.needed


def weigh(results: Mapping[str, Mapping[int, float]]) -> Evidence | None:
    """Compare the first entrant with all others.

    Args:
        results: test metric by entrant (in order of rank) and seed; smaller is better, infinite if the run failed.

    Returns:
        None if fewer than two entrants have results, or if the first entrant has no finite result.
    """
    ran = {entrant: runs for entrant, runs in results.items() if runs}
    if len(ran) < 2:
        return None
    leader, *others = ran
    if not any(math.isfinite(value) for value in ran[leader].values()):
        return None
    pairs = [_differences(ran[leader], ran[other]) for other in others]
    # The pairs of the leader come first.
    apart = _holm([signed_rank_p(_differences(ran[a], ran[b])) for a, b in combinations(ran, 2)])[: len(others)]
    spreads = [max(pair) - min(pair) for pair in pairs if len(pair) > 1 and all(map(math.isfinite, pair))]
    return Evidence(
        leader=leader,
        others=len(others),
        seeds=len(ran[leader]),
        needed=seeds_needed(len(ran)),
        unseparated=tuple(other for other, separated in zip(others, apart, strict=True) if not separated),
        beaten=sum(bool(pair) and min(pair) > 0 for pair in pairs),
        spread=median(spreads) if spreads else None,
        agreement=_agreement(ran),
    )


def seeds_needed(entrants: int) -> int:
    """Return the smallest number of seeds S for which 2 / 2^S passes the first step of Holm's procedure."""
    return 1 + math.ceil(math.log2(math.comb(entrants, 2) / LEVEL))


def signed_rank_p(differences: ArrayLike) -> float:
    """Return the exact two-sided p-value of Wilcoxon's signed-rank test.

    Under the null hypothesis each difference is as likely to have either sign. The distribution of the sum of positive
    ranks is the product of one factor per rank, so it is exact for any number of differences, with ties and zeros.

    Args:
        differences: (S,) paired differences; may be infinite, not NaN.
    """
    from scipy.stats import rankdata

    d = np.asarray(differences, dtype=float)
    ranks: NDArray[np.int64] = np.rint(2 * rankdata(np.abs(d))).astype(int)  # doubled: average ranks end in a half
    chances = np.ones(1)
    for rank in ranks[d != 0]:
        factor = np.zeros(rank + 1)
        factor[[0, -1]] = 0.5
        chances = np.convolve(chances, factor)
    positive = int(ranks[d > 0].sum())
    return float(min(1.0, 2 * min(chances[: positive + 1].sum(), chances[positive:].sum())))


def _differences(leader: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """Return how much worse the other entrant is with each seed that both ran; two failed runs are equal."""
    shared = [seed for seed in leader if seed in other]
    return [0.0 if other[seed] == leader[seed] else other[seed] - leader[seed] for seed in shared]


def _holm(p_values: Sequence[float]) -> list[bool]:
    """Return whether Holm's step-down procedure rejects each hypothesis."""
    rejected = [False] * len(p_values)
    for step, i in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[i] > LEVEL / (len(p_values) - step):
            break
        rejected[i] = True
    return rejected


def _agreement(ran: Mapping[str, Mapping[int, float]]) -> float | None:
    from scipy.stats import spearmanr

    seeds = sorted({seed for runs in ran.values() for seed in runs})
    if len(seeds) < 4 or len(ran) < 3 or any(len(runs) < len(seeds) for runs in ran.values()):
        return None
    halves = [[median(runs[seed] for seed in half) for runs in ran.values()] for half in (seeds[::2], seeds[1::2])]
    if any(len(set(half)) == 1 for half in halves):
        return None
    return float(spearmanr(*halves).statistic)
