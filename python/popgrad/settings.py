"""Settings with declared ranges, which both the checks and tuning spaces use."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

from popgrad.checks import fail, number, one_of

__all__ = ["Setting", "check_settings", "hyper", "settings_of"]

_KEY = "popgrad"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of an optimizer or a search: its default and its allowed values.

    Args:
        name: name of the dataclass field.
        default: default value; ``dataclasses.MISSING`` for a required setting.
        above, at_least: open or closed lower bound of the range, or None.
        below, at_most: open or closed upper bound of the range, or None.
        choices: the allowed values, instead of a range.
        whole: whether only whole numbers are allowed.
        schedule: whether a schedule is allowed instead of a number: a function ``t -> float``, t = 1, 2, ...
        optional: whether None is allowed.
        finite: whether infinity is forbidden.
        log: whether a tuner should draw the value on a logarithmic scale.
        zero_needs: name of the setting that must be > 0 if this setting is 0.
        keyword: whether the setting is keyword-only.
    """

    name: str
    default: Any
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] = ()
    whole: bool = False
    schedule: bool = False
    optional: bool = False
    finite: bool = True
    log: bool = False
    zero_needs: str | None = None
    keyword: bool = False

    @property
    def low(self) -> float | None:
        """The lower bound of the range, open or closed."""
        return self.above if self.at_least is None else self.at_least

    @property
    def high(self) -> float | None:
        """The upper bound of the range, open or closed."""
        return self.below if self.at_most is None else self.at_most

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest float that a schedule may return; 0 is allowed where a number must be > 0."""
        low, high = -math.inf, math.inf if not self.finite else sys.float_info.max
        if self.low is not None:
            low = self.low if self.low in (self.at_least, 0) else math.nextafter(self.low, math.inf)
        if self.high is not None:
            high = self.high if self.high == self.at_most else math.nextafter(self.high, -math.inf)
        return low, high

    @property
    def has_range(self) -> bool:
        """Whether the setting is a number with a declared range."""
        return self.low is not None or self.high is not None

    @property
    def range(self) -> str:
        """The range in words, such as "in [0, 1)" or "a finite number > 0 or None"."""
        kind = "a whole number" if self.whole else "a finite number" if self.finite else "a number"
        low, high = self.low, self.high
        if low is not None and high is not None:
            left, right = "(" if self.at_least is None else "[", ")" if self.at_most is None else "]"
            text = f"{'a whole number ' if self.whole else ''}in {left}{low:g}, {high:g}{right}"
        elif low is not None:
            text = f"{kind} {'>' if self.at_least is None else '>='} {low:g}"
        elif high is not None:
            text = f"{kind} {'<' if self.at_most is None else '<='} {high:g}"
        else:
            text = kind
        return text + " or None" * self.optional

    def allows(self, value: Any) -> bool:
        """Whether the value, which is not a schedule, is within the declared range or among the choices."""
        if value is None and self.optional:
            return True
        if self.choices:
            return value in self.choices
        if not (self.has_range or self.whole):
            return True
        if self.whole and (isinstance(value, bool) or not hasattr(value, "__index__")):
            return False
        x = number(value)
        return (
            (x < math.inf or not self.finite)
            and (self.above is None or x > self.above)
            and (self.at_least is None or x >= self.at_least)
            and (self.below is None or x < self.below)
            and (self.at_most is None or x <= self.at_most)
            and not math.isnan(x)
        )

    def check(self, operation: object, value: Any) -> None:
        """Raise an error unless the value is allowed.

        Raises:
            InputError: the value is not allowed.
        """
        if (self.schedule and callable(value)) or self.allows(value):
            return
        if self.choices:
            one_of(operation, self.name, value, self.choices)
        fail(operation, f"{self.name} must be {self.range}, got {value!r}")


def hyper(
    default: Any = dataclasses.MISSING,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
    whole: bool = False,
    schedule: bool = False,
    optional: bool = False,
    finite: bool = True,
    log: bool | None = None,
    zero_needs: str | None = None,
) -> Any:
    """Declare a setting of a dataclass: its default, and its range, which `check_settings` checks.

    For example ``learning_rate: float | Schedule = hyper(1e-3, above=0, schedule=True)``, or
    ``beta1: float = hyper(0.9, at_least=0, below=1)``. Put ``_: KW_ONLY`` before keyword-only settings.

    Args:
        default: default value; a setting without a default is required.
        above, at_least, below, at_most, choices, whole, schedule, optional, finite, zero_needs: see `Setting`.
        log: see `Setting`. None: True if the range is "> 0" without an upper bound, and the setting is not a whole
            number; otherwise False.

    Returns:
        A ``dataclasses.field``.
    """
    if log is None:
        log = above == 0 and below is None and at_most is None and not whole
    declared: dict[str, Any] = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    declared |= {"choices": choices, "whole": whole, "schedule": schedule, "optional": optional}
    declared |= {"finite": finite, "log": log, "zero_needs": zero_needs}
    return dataclasses.field(default=default, metadata={_KEY: declared})


def settings_of(kind: type[Any]) -> Mapping[str, Setting]:
    """All settings of a dataclass by name, in the order of its fields.

    A field without `hyper` is a setting that allows any value.
    """
    return _settings_of(cast(Hashable, kind))


@functools.cache
def _settings_of(kind: Any) -> Mapping[str, Setting]:
    found = {
        f.name: Setting(name=f.name, default=f.default, keyword=f.kw_only is True, **f.metadata.get(_KEY, {}))
        for f in dataclasses.fields(kind)
        if f.init
    }
    return MappingProxyType(found)


def check_settings(obj: Any) -> None:
    """Fail unless every setting of `obj`, an instance of a dataclass, has an allowed value.

    Raises:
        InputError: a setting has a forbidden value; the message names the setting, its range and the value.
    """
    settings = settings_of(type(obj))
    for name, setting in settings.items():
        setting.check(obj, getattr(obj, name))
    for name, setting in settings.items():
        other = setting.zero_needs
        if other is not None and not (getattr(obj, name) or getattr(obj, other)):
            fail(obj, f"{name} must be > 0 if {other} is 0, got 0")
