"""The defaults and names of other libraries, as data beside a class's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

from popgrad.checks import Settings, fail, one_of

__all__ = ["DECOUPLED", "Library", "Matching", "Presets", "TorchNames", "preset_of"]

Library = Literal["torch", "optax", "keras"]
# By library, what differs from the class's defaults; {} where nothing does. A library that is not there has no such
# optimizer, or one that computes something else.
Presets = dict[Library, dict[str, Any]]
T = TypeVar("T")

DECOUPLED = {"weight_decay_mode": "decoupled"}  # Keras decays all weights so, whatever the method


@dataclass(frozen=True)
class TorchNames:
    """What the class in `popgrad.torch` calls a method's arguments and states, where that is not the usual.

    Usual are: ``lr``, ``betas`` for beta1, beta2, ..., ``eps`` for epsilon, ``weight_decay`` behind these, all other
    settings that can be given by position under their own names; ``exp_avg`` for a state m, ``exp_avg_sq`` for v.

    Args:
        arguments: all arguments after lr in order, with the settings that each stands for; None: the usual ones.
        defaults: of arguments, where they are not those of the settings.
        states: names in ``state[p]`` of states and numbers, by ours.
        counts: whether ``state[p]`` counts steps.
    """

    arguments: Mapping[str, str | tuple[str, ...]] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)
    counts: bool = True


class Matching(Settings):
    """Fills in, before a class is called, the arguments that were not given and that ``matches`` stands for."""

    presets: Presets

    def __call__(cls: type[T], *args: Any, **kwargs: Any) -> T:
        """What was given wins, so that a copy by ``dataclasses.replace`` keeps every value."""
        if (library := kwargs.get("matches")) is not None:
            given = [f.name for f in fields(cls) if f.init and not f.kw_only][: len(args)]  # type: ignore[arg-type]
            preset = preset_of(cls, library)
            kwargs = {name: value for name, value in preset.items() if name not in given} | kwargs
        return super().__call__(*args, **kwargs)  # type: ignore[misc, no-any-return]


def _below(kind: Any) -> list[Any]:
    """All classes derived from `kind`, and theirs."""
    return [each for child in kind.__subclasses__() for each in (child, *_below(child))]


def preset_of(cls: Any, library: Any) -> dict[str, Any]:
    """The arguments with which `cls` is `library`'s optimizer, where they differ from its defaults.

    Raises:
        InputError: the library is not known, or has no such optimizer.
    """
    name = cls.__name__
    one_of(name, "library", library, get_args(Library))
    if library not in cls.presets:
        others = " and ".join(cls.presets) or "no library"
        root = [kind for kind in cls.__mro__ if isinstance(kind, Matching)][-1]
        known = sorted(kind.__name__ for kind in _below(root) if library in kind.presets)
        fail(name, f"matches {others}, not {library!r}; what matches {library!r}: {', '.join(known)}")
    return dict(cls.presets[library])
