"""Settings of entrants, as the command line gives them."""

from __future__ import annotations

import pytest

import popgrad as pg
from popgrad.checks import InputError
from popgrad.compare.entrants import ENTRANTS, chosen


def test_all_entrants_by_default():
    assert chosen().keys() == ENTRANTS.keys()
    assert chosen() == {name: ENTRANTS[name] for name in chosen()}


def test_a_setting_of_one_entrant():
    assert chosen("adam", settings=["adam.beta1=0.95"])["adam"].method == pg.optim.Adam(beta1=0.95)
    assert chosen("adam", settings=["beta1=0.95"])["adam"].method == pg.optim.Adam(beta1=0.95)
    both = chosen("adam,pso", settings=["pso.popsize=7", "adam.skip_nonfinite=true", "adam.clip_norm=none"])
    assert both["pso"].method == pg.search.PSO(popsize=7)
    assert both["adam"].method == pg.optim.Adam(skip_nonfinite=True)
    assert ENTRANTS["adam"].method == pg.optim.Adam()


def test_a_preset_sets_the_other_defaults():
    assert chosen("adam", settings=["matches=keras"])["adam"].method == pg.optim.Adam(matches="keras")


def test_learning_rate_reaches_wrapped_optimizers():
    entrants = chosen("momentum,lookahead,openai_es,pso", learning_rate=0.5)
    assert entrants["momentum"].method == pg.optim.Momentum(learning_rate=0.5)
    assert entrants["lookahead"].method.inner.learning_rate == 0.5
    assert entrants["openai_es"].method.optimizer.learning_rate == 0.5
    assert entrants["pso"] == ENTRANTS["pso"]


def test_batch_size():
    assert chosen("adam", batch_size="7")["adam"].batch_size == 7
    assert chosen("adam", batch_size="all")["adam"].batch_size is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": "adam", "settings": ["lr=1"]}, "Did you mean 'learning_rate'?"),
        ({"names": "adam,sgd", "settings": ["beta1=1"]}, "unknown optimizer 'beta1'"),
        ({"names": "adam", "settings": ["beta1=2"]}, r"beta1 must be in \[0, 1\), got 2"),
        ({"names": "adam", "settings": ["beta1.x=2"]}, "'beta1' of adam is 0.9, which has no settings"),
        ({"names": "adam", "settings": ["beta1"]}, "expected NAME.SETTING=VALUE"),
        ({"names": "adam", "settings": ["adam=1"]}, "expected a setting of 'adam'"),
        ({"names": "adam", "batch_size": "0"}, 'a whole number >= 1 or "all"'),
        ({"names": "adam", "learning_rate": float("nan")}, "learning_rate must be a finite number > 0"),
        ({"names": "pso", "learning_rate": 1}, "none of pso has a learning rate"),
        ({"names": "adam,adam"}, "named twice"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(InputError, match=message):
        chosen(**arguments)
