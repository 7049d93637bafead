"""The ranking of a study: what the seeds support, and how its numbers are written."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popgrad.compare.evidence import LEVEL, seeds_needed, signed_rank_p, weigh
from popgrad.compare.files import CURVE
from popgrad.compare.summary import evidence_text, headline, short, summarize
from popgrad.compare.table import _seconds, compact

DIFFERENCES = st.lists(st.one_of(st.integers(-3, 3), st.floats(-1, 1), st.just(math.inf)), min_size=1, max_size=9)


@given(DIFFERENCES)
@settings(deadline=None)
def test_signed_rank_p_counts_every_assignment_of_signs(differences):
    from scipy.stats import rankdata

    d = np.array(differences, dtype=float)
    ranks = rankdata(np.abs(d)) * (d != 0)  # Pratt: zeros are ranked, then dropped
    totals = np.array([sum(ranks * signs) for signs in itertools.product((0, 1), repeat=len(d))])
    positive = sum(ranks * (d > 0))
    expected = min(1.0, 2 * min((totals <= positive + 1e-9).mean(), (totals >= positive - 1e-9).mean()))
    assert signed_rank_p(d) == pytest.approx(expected)
    assert signed_rank_p(-d) == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [3, 8, 25])
def test_signed_rank_p_is_scipys_exact_one(seeds):
    from scipy.stats import wilcoxon

    d = np.random.default_rng(seeds).normal(0.3, 1, seeds)
    assert signed_rank_p(d) == pytest.approx(wilcoxon(d, method="exact").pvalue)


def test_the_seeds_needed_are_the_first_that_can_be_significant():
    for entrants in (2, 3, 4, 10, 43, 100):
        seeds, pairs = seeds_needed(entrants), entrants * (entrants - 1) / 2
        assert 2 / 2**seeds <= LEVEL / pairs < 2 / 2 ** (seeds - 1)
        assert signed_rank_p(np.arange(1, seeds + 1)) == 2 / 2**seeds
    assert (seeds_needed(2), seeds_needed(43)) == (6, 16)


def by_seed(*rows):
    return {name: dict(enumerate(row)) for name, row in zip("abcdefgh", rows, strict=False)}


def test_few_seeds_separate_nothing_and_enough_seeds_what_differs_on_all():
    few = weigh(by_seed([0.1, 0.1, 0.1], [0.2, 0.3, 0.4], [0.3, 0.1, 0.3]))
    assert (few.enough, few.needed, few.unseparated, few.beaten) == (False, 7, ("b", "c"), 1)
    assert few.spread == pytest.approx(0.2)
    seeds = np.arange(8)
    found = weigh(by_seed(0.1 * seeds, 0.1 * seeds + 0.01, 0.1 * seeds + 0.01 * (-1) ** seeds))
    assert found.enough
    assert (found.unseparated, found.beaten, found.others) == (("c",), 1, 2)


def test_what_failed_on_every_seed_is_separated_and_two_failures_are_equal():
    found = weigh(by_seed(np.full(8, 0.1), np.full(8, math.inf)))
    assert (found.unseparated, found.spread) == ((), None)
    assert weigh(by_seed([math.inf] * 8, [math.inf] * 8)) is None
    assert weigh(by_seed([0.1, 0.2])) is None
    assert weigh({"a": {0: 0.1}, "b": {}}) is None


def test_only_shared_seeds_are_compared():
    found = weigh({"a": {0: 0.1, 1: 0.2}, "b": {1: 0.3, 2: 0.0}})
    assert (found.seeds, found.beaten) == (2, 1)


def test_the_first_of_equal_entrants_is_seldom_told_from_another():
    """The leader is picked by its results, which tests against the leader alone would not allow for."""
    random = np.random.default_rng(0)
    claims = 0
    for _ in range(200):
        values = random.normal(size=(8, 12))
        values = values[np.argsort(np.median(values, axis=1))]
        found = weigh(by_seed(*values))
        claims += len(found.unseparated) < found.others
    assert claims <= 200 * LEVEL


def test_halves_of_the_seeds_agree_or_not():
    levels = np.array([1.0, 2.0, 3.0, 4.0])[:, None]
    assert weigh(by_seed(*(levels + np.zeros(6)))).agreement == pytest.approx(1)
    opposite = np.where(np.arange(6) % 2, levels, 5 - levels)
    assert weigh(by_seed(*opposite)).agreement == pytest.approx(-1)
    assert weigh(by_seed(*(levels + np.zeros(3)))).agreement is None
    assert weigh(by_seed(*np.ones((4, 6)))).agreement is None


# --- Sentences -------------------------------------------------------------------------------------------------------


def summary_of(**values):
    """A summary of entrants A, B, ...; lists of test errors by seed."""
    seeds = max(map(len, values.values()))
    config = {
        "seeds": seeds,
        "datasets": {"data": {"metric": "error_rate"}},
        "entrants": {name: {"label": name.upper(), "kind": "gradient"} for name in values},
    }
    empty = {key: [] for key in CURVE}
    runs = [
        {"dataset": "data", "entrant": name, "seed": seed, "status": "ok", "test_metric": value, "curve": empty}
        for name, errors in values.items()
        for seed, value in enumerate(errors)
    ]
    return summarize(config, runs)[0]


def test_a_headline_claims_no_order_that_the_seeds_do_not_support():
    summary = summary_of(a=[0.1, 0.1, 0.1], b=[0.2, 0.2, 0.2])
    assert headline(summary) == "A has the lowest test error: 10.0% (median of 3 seeds)."
    assert evidence_text(summary) == (
        "3 seeds are too few to order 2 optimizers; an exact paired test needs at least 6."
    )
    assert evidence_text(summary_of(a=[0.1], b=[0.2])) == (
        "One seed cannot order 2 optimizers; an exact paired test needs at least 6."
    )
    text = evidence_text(summary_of(a=[0.1] * 3, b=[0.2, 0.3, 0.4], c=[0.1, 0.2, 0.2]))
    assert "On every seed, A did better than 1 of the 2 other optimizers." in text
    assert "The difference between A and another optimizer varies by 15.0 points over the seeds (median)." in text
    assert evidence_text(summary_of(a=[0.1])) == ""


def test_with_enough_seeds_the_text_names_what_is_not_separated():
    errors = [0.1 + 0.01 * seed for seed in range(8)]
    better = [error - 0.05 for error in errors]
    mixed = [error - 0.05 + 0.01 * (-1) ** seed for seed, error in enumerate(errors)]
    assert evidence_text(summary_of(a=better, b=errors)).startswith("8 seeds tell A from the other optimizer (exact")
    text = evidence_text(summary_of(a=better, b=errors, c=mixed))
    assert text.startswith("8 seeds do not tell A from 1 of the 2 other optimizers: C (exact paired signed-rank tests")
    assert "rank correlation" in text


# --- Numbers ---------------------------------------------------------------------------------------------------------


@given(st.floats(0, 1e300), st.floats(0, 1e300))
def test_counts_are_short_and_in_order(a, b):
    texts = [compact(a), compact(b)]
    for text in texts:
        assert "e" not in text.lower().replace("e", "", text.endswith("E"))
        assert len(text.rstrip("kMGTPEZYRQ").replace(".", "")) <= 4
        assert len(text) <= 5
    values = [value_of(text) for text in texts]
    assert (values[0] <= values[1]) if a <= b else (values[0] >= values[1])
    if a < 9.99e32:
        assert values[0] == pytest.approx(a, rel=0.0051, abs=0.51)


def value_of(text):
    if text.startswith(">"):
        return math.inf
    powers = {letter: 1000.0 ** (i + 1) for i, letter in enumerate("kMGTPEZYRQ")}
    return float(text[:-1]) * powers[text[-1]] if text[-1] in powers else float(text)


def test_counts_around_the_units():
    shown = {999.4: "999", 999.6: "1k", 999_499: "999k", 999_600: "1M", 1_000_000: "1M", 12_345: "12.3k", 950: "950"}
    assert {count: compact(count) for count in shown} == shown
    assert (compact(999_999_999), compact(0), compact(0.4)) == ("1G", "0", "0")


@given(st.floats(1e-12, 1e7))
def test_other_numbers_end_in_no_point(value):
    for text in (short(value), _seconds(value)):
        assert not text.endswith(".")
        assert "e" not in _seconds(value)
        shown = float(text.lstrip("<"))
        assert shown == pytest.approx(value, rel=0.051) or text == "<0.0001"


def test_numbers_at_the_borders():
    assert [short(value) for value in (99.94, 99.96, 999_999.4, 999_999.6, 0.5)] == [
        *("99.9", "100", "999999", "1.00e+06", "0.500"),
    ]
    assert [_seconds(value) for value in (9.94, 9.96, 0.996, 0.0, 5e-5)] == ["9.9", "10", "1.0", "0.0", "<0.0001"]
