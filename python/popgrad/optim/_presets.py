"""``matches="torch"``: the defaults and conventions of another library, as data beside a class's own defaults."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal, TypeVar, get_args

from popgrad.checks import Settings, fail, one_of

__all__ = ["DECOUPLED", "Library", "Matching", "Presets"]

Library = Literal["torch", "optax", "keras"]
# By library, what differs from the class's defaults; {} where nothing does. A library that is not there has no such
# optimizer, or one that computes something else.
Presets = dict[Library, dict[str, Any]]
T = TypeVar("T")

DECOUPLED = {"weight_decay_mode": "decoupled"}  # Keras decays all weights so, whatever the method


class Matching(Settings):
    """Fills in, before a class is called, the arguments that were not given and that ``matches`` stands for."""

    _presets: Presets

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
    if library not in cls._presets:
        others = " and ".join(cls._presets) or "no library"
        root = [kind for kind in cls.__mro__ if isinstance(kind, Matching)][-1]
        known = sorted(kind.__name__ for kind in _below(root) if library in kind._presets)
        fail(name, f"matches {others}, not {library!r}; what matches {library!r}: {', '.join(known)}")
    return dict(cls._presets[library])
