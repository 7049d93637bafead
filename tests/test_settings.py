"""`hyper`: what a setting declares, what it refuses, and what a tuner can ask."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

import pytest

from popgrad import optim, search
from popgrad.checks import InputError
from popgrad.settings import check_settings, hyper, settings_of


@dataclass(frozen=True)
class Example:
    needed: float = hyper(above=0)
    rate: Any = hyper(1e-3, above=0, schedule=True)
    decay: float = hyper(0.9, at_least=0, below=1)
    share: float = hyper(0.5, at_least=0, at_most=1)
    inner: float = hyper(0.5, above=0, below=1)
    grow: float = hyper(1.2, above=1)
    limit: float | None = hyper(None, above=1, optional=True, finite=False)
    popsize: int = hyper(32, at_least=4, whole=True)
    _: KW_ONLY
    mode: str | None = hyper(None, choices=("one", "two"), optional=True)
    epsilon: float = hyper(1e-8, at_least=0, zero_needs="epsilon_root")
    epsilon_root: float = hyper(0.0, at_least=0)
    anything: object = None

    def __post_init__(self):
        check_settings(self)


@pytest.mark.parametrize(
    "allowed",
    [
        {"rate": lambda t: 1 / t},
        {"decay": 0},
        {"share": 1},
        {"inner": 0.999},
        {"limit": math.inf},
        {"limit": 2.0},
        {"popsize": 4},
        {"mode": "two"},
        {"epsilon": 0.0, "epsilon_root": 1e-8},
        {"anything": object()},
    ],
    ids=lambda change: "-".join(change),
)
def test_allowed(allowed):
    assert dataclasses.replace(Example(1.0), **allowed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"needed": 0}, "needed must be a finite number > 0, got 0"),
        ({"rate": math.inf}, "rate must be a finite number > 0, got inf"),
        ({"rate": True}, "rate must be a finite number > 0, got True"),
        ({"rate": "fast"}, "rate must be a finite number > 0, got 'fast'"),
        ({"rate": None}, "rate must be a finite number > 0, got None"),
        ({"decay": 1.0}, "decay must be in [0, 1), got 1.0"),
        ({"decay": max}, "decay must be in [0, 1), got <built-in function max>"),
        ({"share": 1.01}, "share must be in [0, 1], got 1.01"),
        ({"inner": 0.0}, "inner must be in (0, 1), got 0.0"),
        ({"grow": 1.0}, "grow must be a finite number > 1, got 1.0"),
        ({"limit": math.nan}, "limit must be a number > 1 or None, got nan"),
        ({"popsize": 3}, "popsize must be a whole number >= 4, got 3"),
        ({"popsize": 4.0}, "popsize must be a whole number >= 4, got 4.0"),
        ({"popsize": True}, "popsize must be a whole number >= 4, got True"),
        ({"mode": "too"}, "unknown mode 'too'. Did you mean 'two'? Known: one, two"),
        ({"mode": 1}, "unknown mode 1. Known: one, two"),
        ({"epsilon": -1.0}, "epsilon must be a finite number >= 0, got -1.0"),
        ({"epsilon": 0.0}, "epsilon must be > 0 if epsilon_root is 0, got 0"),
    ],
)
def test_refused(change, message):
    with pytest.raises(InputError) as caught:
        dataclasses.replace(Example(1.0), **change)
    assert str(caught.value) == f"[Example] {message}"


def test_what_a_tuner_can_ask():
    settings = settings_of(Example)
    assert list(settings) == [f.name for f in dataclasses.fields(Example)]
    assert [name for name, setting in settings.items() if setting.log] == ["needed", "rate"]
    assert [name for name, setting in settings.items() if setting.schedule] == ["rate"]
    assert next(name for name, setting in settings.items() if setting.keyword) == "mode"
    assert (settings["decay"].default, settings["decay"].low, settings["decay"].high) == (0.9, 0, 1)
    assert settings["needed"].default is dataclasses.MISSING
    assert settings["mode"].choices == ("one", "two")
    assert settings["limit"].allows(None)
    assert not settings["rate"].allows(lambda t: t)  # a schedule is no value
    assert settings["popsize"].range == "a whole number >= 4"


@pytest.mark.parametrize(
    "kind",
    [*optim.REGISTRY.values(), *search.REGISTRY.values(), optim.Lookahead, optim.Polyak, optim.SAM],
    ids=lambda kind: kind.__name__,
)
def test_every_number_of_a_method_declares_its_range(kind):
    """A tuner draws from these ranges."""
    for setting in settings_of(kind).values():
        if setting.name in ("inner", "optimizer", "weight_decay_mode", "matches") or isinstance(setting.default, bool):
            continue
        assert setting.has_range or setting.choices, setting.name


def test_the_limits_of_a_schedule():
    """A schedule may return what the setting allows as a number, and 0 where it must be above 0."""
    settings = settings_of(Example)
    for name, allowed in (("rate", False), ("decay", True), ("share", True), ("inner", False), ("grow", False)):
        setting = settings[name]
        low, high = setting.limits
        assert setting.allows(low) or (low == 0 == setting.above)
        assert setting.allows(high)
        assert not setting.allows(math.nextafter(low, -math.inf))
        assert not setting.allows(math.nextafter(high, math.inf))
        assert setting.allows(0.0) == allowed
    assert settings["limit"].limits == (math.nextafter(1, 2), math.inf)
    assert settings["rate"].limits[0] == settings["inner"].limits[0] == 0
