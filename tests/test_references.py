"""Every optimizer against those of PyTorch, optax and Keras: the same numbers from the same gradients."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from typing import get_args

import pytest

import popgrad as pg
from cases import OPTIMIZERS
from popgrad import optim
from references import INSTALLED, close, gap
from variants import PRESETS, VARIANTS

PAIRS = [
    pytest.param(case, library, reference, id=f"{library}-{case.label}")
    for library in INSTALLED
    for case in OPTIMIZERS + VARIANTS + PRESETS
    if (reference := getattr(case, library))
]


@pytest.fixture(scope="module", autouse=True)
def process():
    yield
    close()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("case", "library", "reference"), PAIRS)
def test_same_as(case, library, reference, dtype):
    if not INSTALLED[library]:
        pytest.skip(f"{library} is not installed")
    assert gap(case.optimizer, library, reference, dtype) <= (1e-12 if dtype == "float64" else case.float32)


def test_every_preset_has_a_row():
    has = {(cls, library) for cls in optim.REGISTRY.values() for library in cls.presets}
    assert {(type(case.optimizer), case.optimizer.matches) for case in PRESETS} == has
    assert get_args(optim._presets.Library) == tuple(INSTALLED)


@pytest.mark.parametrize(
    "case", [case for case in PRESETS if not callable(case.optimizer.learning_rate)], ids=lambda case: case.label
)
def test_preset_is_a_plain_value(case):
    o = case.optimizer
    assert eval(repr(o), vars(optim).copy()) == o
    assert dataclasses.replace(o) == o == pickle.loads(pickle.dumps(o))
    other = dataclasses.replace(o, learning_rate=0.123)
    assert dataclasses.replace(other, learning_rate=o.learning_rate) == o
    for name, value in type(o).presets[o.matches].items():  # what is given wins
        own = (value / 2 or 1e-3) if isinstance(value, float) else getattr(type(o)(), name)
        assert getattr(dataclasses.replace(o, **{name: own}), name) == own
        assert getattr(type(o)(matches=o.matches, **{name: own}), name) == own
    assert eval(repr(type(o)(matches=o.matches, weight_decay=0)), vars(optim).copy()).weight_decay == 0


def test_what_is_given_by_position_wins_too():
    o = optim.RMSprop(0.5, 0.8, matches="keras")
    assert (o.learning_rate, o.rho, o.epsilon_root, o.weight_decay_mode) == (0.5, 0.8, 1e-7, "decoupled")


@pytest.mark.parametrize(
    ("cls", "library", "message"),
    [
        (
            optim.Lion,
            "torch",
            r"\[Lion\] matches optax and keras, not 'torch'; optimizers that match 'torch': AMSGrad, .* SGD$",
        ),
        (optim.Momentum, "keras", r"\[Momentum\] matches no library, not 'keras'"),
        (optim.Adam, "jax", r"\[Adam\] unknown library 'jax'.* Known: torch, optax, keras"),
        (optim.Adam, 1, r"\[Adam\] unknown library 1"),
    ],
)
def test_libraries_that_lack_it(cls, library, message):
    with pytest.raises(pg.InputError, match=message):
        cls(matches=library)


def test_the_signature_is_the_constructors():
    assert {"learning_rate", "beta1", "matches"} < set(inspect.signature(optim.Adam).parameters)
