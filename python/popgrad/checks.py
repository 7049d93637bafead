"""Checks of arguments. A check fails before any work, with the expected and the actual value."""

from __future__ import annotations

import difflib
import inspect
import math
from abc import ABCMeta
from collections.abc import Iterable
from typing import Any, NoReturn, SupportsFloat, TypeVar, cast

__all__ = [
    "InputError",
    "Settings",
    "at_least_zero",
    "fail",
    "fraction",
    "number",
    "one_of",
    "positive",
    "positive_int",
    "suggestion",
    "whole_seed",
]

T = TypeVar("T")

# Names in other libraries for a setting, metric or loss of popgrad. A suggestion uses the first name that is known;
# a tuple suggests all its names together.
_SYNONYMS: dict[str, list[str | tuple[str, ...]]] = {
    "lr": ["learning_rate"],
    "eta": ["learning_rate"],
    "step_size": ["learning_rate"],
    "learning_rate_init": ["learning_rate"],
    "wd": ["weight_decay"],
    "l2": ["weight_decay"],
    "alpha": ["learning_rate"],
    "eps": ["epsilon"],
    "betas": [("beta1", "beta2", "beta3"), ("beta1", "beta2")],
    "momentum": ["beta"],
    "mu": ["beta"],
    "b1": ["beta1"],
    "b2": ["beta2"],
    "pop_size": ["popsize"],
    "population_size": ["popsize"],
    "n_particles": ["popsize"],
    "std": ["sigma"],
    "stdev": ["sigma"],
    "accuracy": ["error_rate"],
    "acc": ["error_rate"],
    "balanced_accuracy": ["balanced_error"],
    "f1": ["f1_macro"],
    "roc_auc": ["auc"],
    "rmse": ["mse"],
    "mean_squared_error": ["mse"],
    "mean_absolute_error": ["mae"],
    "log_loss": ["loss", "cross_entropy"],
    "ce": ["cross_entropy"],
    "bce": ["binary_cross_entropy"],
    "smooth_l1": ["huber"],
    "swish": ["silu"],
    "logistic": ["sigmoid"],
    "linear": ["identity"],
}


class InputError(ValueError):
    """An argument or input is invalid; the message names the operation and the expected value."""


def fail(operation: object, message: str) -> NoReturn:
    """Raise ``InputError("[operation] message")``.

    Args:
        operation: name of the operation, or an object whose class name is used.
        message: the expected and the actual value.

    Raises:
        InputError: always.
    """
    name = operation if isinstance(operation, str) else type(operation).__name__
    raise InputError(f"[{name}] {message}")


def one_of(operation: object, what: str, name: object, known: Iterable[str]) -> str:
    """Return `name` if it is among `known`; otherwise fail and suggest the most similar name.

    Raises:
        InputError: `name` is not known.
    """
    known = list(known)
    if isinstance(name, str) and name in known:
        return name
    fail(operation, f"unknown {what} {name!r}. {suggestion(name, known)}Known: {', '.join(known)}")


def suggestion(name: object, known: Iterable[str]) -> str:
    """Return "Did you mean ...? " for a name that is not among `known`, or "" when nothing resembles it."""
    known, lowered = list(known), str(name).lower()
    for meant in _SYNONYMS.get(lowered, []):
        names = [meant] if isinstance(meant, str) else list(meant)
        if set(names) <= set(known):
            return f"Did you mean {' and '.join(map(repr, names))}? "
    near = difflib.get_close_matches(lowered, known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}? " if near else ""


class Settings(ABCMeta):
    """Metaclass of classes with settings: the error for an unknown argument suggests the intended name."""

    def __call__(cls: type[T], *args: Any, **kwargs: Any) -> T:
        """Construct an instance.

        Raises:
            TypeError: an argument is unknown. Python 3.13 and later suggest similar names, but not synonyms.
        """
        try:
            return type.__call__(cls, *args, **kwargs)  # type: ignore[no-any-return]
        except TypeError:
            known = inspect.signature(cls).parameters
            unknown = next((name for name in kwargs if name not in known), None)
            if unknown is None:
                raise
        hint = f"{suggestion(unknown, known)}Known: {', '.join(known)}"
        raise TypeError(f"{cls.__name__}() has no argument {unknown!r}. {hint}")

    @property
    def __signature__(cls) -> inspect.Signature:
        """The signature of the constructor; otherwise, help() would show ``(*args, **kwargs)``."""
        own = inspect.signature(cls.__init__)  # type: ignore[misc]
        return own.replace(parameters=list(own.parameters.values())[1:])


def number(value: object) -> float:
    """The value as a float; NaN for text, booleans and any other object that is not a number."""
    if isinstance(value, (bool, str)):
        return math.nan
    try:
        return float(cast(SupportsFloat, value))
    except (TypeError, ValueError):
        return math.nan


def positive(obj: Any, *names: str) -> None:
    """Fail unless every named attribute of `obj` is a finite number > 0 (or a schedule, a callable)."""
    for name in names:
        value = getattr(obj, name)
        if not callable(value) and not (0 < number(value) < math.inf):
            fail(obj, f"{name} must be a finite number > 0, got {value!r}")


def at_least_zero(value: object) -> bool:
    """Whether `value` is a finite number >= 0."""
    return 0 <= number(value) < math.inf


def fraction(obj: Any, *names: str) -> None:
    """Fail unless every named attribute of `obj` is in [0, 1)."""
    for name in names:
        value = getattr(obj, name)
        if not 0 <= number(value) < 1:
            fail(obj, f"{name} must be in [0, 1), got {value!r}")


def positive_int(operation: object, name: str, value: object, least: int = 1) -> int:
    """Return `value` as an int; fail unless it is a whole number >= `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(cast(Any, value)) < least:
        fail(operation, f"{name} must be a whole number >= {least}, got {value!r}")
    return int(cast(Any, value))


def whole_seed(operation: object, seed: object) -> int:
    """Return `seed` as an int; fail unless it is a whole number in [0, 2^64)."""
    whole = positive_int(operation, "seed", seed, 0)
    if whole >= 1 << 64:
        fail(operation, f"seed must be below 2^64, got {seed!r}")
    return whole
