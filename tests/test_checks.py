"""Names that are not known are answered with the names that are meant."""

from __future__ import annotations

import inspect

import pytest

import popgrad as pg
from popgrad.checks import InputError, one_of, suggestion


@pytest.mark.parametrize(
    ("make", "meant"),
    [
        (lambda: pg.optim.Adam(lr=0.1), "'learning_rate'"),
        (lambda: pg.optim.AdamW(wd=0.1), "'weight_decay'"),
        (lambda: pg.optim.Adam(betas=(0.9, 0.99)), "'beta1' and 'beta2'?"),
        (lambda: pg.optim.Adan(betas=(0.9, 0.9, 0.9)), "'beta1' and 'beta2' and 'beta3'?"),
        (lambda: pg.optim.Adam(eps=1e-8), "'epsilon'"),
        (lambda: pg.optim.Adam(learning_rat=0.1), "'learning_rate'"),
        (lambda: pg.optim.SGD(matches="torch", lr=0.1), "'learning_rate'"),
        (lambda: pg.search.PSO(pop_size=10), "'popsize'"),
        (lambda: pg.search.OpenAIES(population_size=10), "'popsize'"),
    ],
)
def test_unknown_arguments_are_answered_with_what_is_meant(make, meant):
    with pytest.raises(TypeError) as caught:
        make()
    assert f"Did you mean {meant}" in str(caught.value)


def test_other_type_errors_stay():
    with pytest.raises(TypeError, match="positional"):
        pg.optim.Adam(*range(30))


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("accuracy", ["loss", "error_rate"], "Did you mean 'error_rate'? "),
        ("Accuracy", ["loss", "error_rate"], "Did you mean 'error_rate'? "),
        ("log_loss", ["loss", "mse"], "Did you mean 'loss'? "),
        ("log_loss", ["cross_entropy", "mse"], "Did you mean 'cross_entropy'? "),
        ("betas", ["beta1", "beta2"], "Did you mean 'beta1' and 'beta2'? "),
        ("betas", ["rate", "size"], ""),
        ("xyzzy", ["rate", "size"], ""),
    ],
)
def test_suggestion(name, known, meant):
    assert suggestion(name, known) == meant


def test_one_of_suggests():
    with pytest.raises(InputError, match=r"unknown metric 'accuracy'\. Did you mean 'error_rate'\? Known: error_rate"):
        one_of("test", "metric", "accuracy", ["error_rate"])


@pytest.mark.parametrize("kind", [pg.optim.Adam, pg.optim.SAM, pg.search.PSO])
def test_signatures_are_those_of_the_settings(kind):
    assert "kwargs" not in inspect.signature(kind).parameters
