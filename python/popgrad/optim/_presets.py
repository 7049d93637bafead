"""The defaults and names of other libraries, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

from popgrad.checks import Settings, fail, one_of

__all__ = ["DECOUPLED", "Library", "Matching", "Presets", "TorchNames", "preset_of"]

Library = Literal["torch", "optax", "keras"]
# For each library, the arguments that differ from the defaults of the class. A library is missing if it does not have
# the optimizer, or if its optimizer computes something else.
Presets = dict[Library, dict[str, Any]]
T = TypeVar("T")

DECOUPLED = {"weight_decay_mode": "decoupled"}  # the weight decay of every Keras optimizer


@dataclass(frozen=True)
class TorchNames:
    """Names of arguments and states in `popgrad.torch`, where they differ from the usual names.

    The usual arguments are ``lr``, ``betas`` for beta1, beta2, ..., ``eps`` for epsilon, then ``weight_decay``, and all
    other positional settings under their own names. The usual states are ``exp_avg`` for m and ``exp_avg_sq`` for v.

    Args:
        arguments: all arguments after lr in order, each with its setting or settings; None: the usual arguments.
        defaults: defaults of arguments that differ from the defaults of the settings.
        states: names in ``state[p]``, by the names of states and numbers in `popgrad.optim`.
        counts: whether ``state[p]`` counts steps.
    """

    arguments: Mapping[str, str | tuple[str, ...]] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)
    counts: bool = True


class Matching(Settings):
    """A metaclass that fills in the arguments for ``matches`` that the caller omitted."""

    presets: Presets

    def __call__(cls: type[T], *args: Any, **kwargs: Any) -> T:
        """Explicit arguments take precedence, so that a copy by ``dataclasses.replace`` keeps every value."""
        if (library := kwargs.get("matches")) is not None:
            given = [f.name for f in fields(cls) if f.init and not f.kw_only][: len(args)]  # type: ignore[arg-type]
            preset = preset_of(cls, library)
            kwargs = {name: value for name, value in preset.items() if name not in given} | kwargs
        return super().__call__(*args, **kwargs)  # type: ignore[misc, no-any-return]


def _below(kind: Any) -> list[Any]:
    """All direct and indirect subclasses of `kind`."""
    return [each for child in kind.__subclasses__() for each in (child, *_below(child))]


def preset_of(cls: Any, library: Any) -> dict[str, Any]:
    """The non-default arguments with which `cls` computes the same steps as the optimizer of `library`.

    Raises:
        InputError: the library is unknown, or does not have the optimizer.
    """
    name = cls.__name__
    one_of(name, "library", library, get_args(Library))
    if library not in cls.presets:
        others = " and ".join(cls.presets) or "no library"
        root = [kind for kind in cls.__mro__ if isinstance(kind, Matching)][-1]
        known = sorted(kind.__name__ for kind in _below(root) if library in kind.presets)
        fail(name, f"matches {others}, not {library!r}; optimizers that match {library!r}: {', '.join(known)}")
    return dict(cls.presets[library])
