"""Checks of a state to load, and protection of its float64 numbers from conversion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["foreign_names", "unwrap", "wrapped"]


@dataclass(slots=True, frozen=True)
class _Exact:
    """Protects a tensor from conversion to the parameter's dtype in ``torch.optim.Optimizer.load_state_dict``."""

    tensor: torch.Tensor


def foreign_names(
    state: Mapping[Any, Any], own: frozenset[str], needed: frozenset[str], known: frozenset[str]
) -> str | None:
    """The names of the first parameter's state that is from another method, or None.

    Args:
        state: states by parameter.
        own: all names that the method may use.
        needed: names that every nonempty state of the method has.
        known: names that any method uses; all other names are the user's.
    """
    for entries in state.values():
        names = (
            {name for name, value in entries.items() if value is not None} if isinstance(entries, Mapping) else set()
        )
        if names and (names & (known - own) or needed - names):
            return ", ".join(sorted(map(str, names)))
    return None


def wrapped(state: Mapping[Any, Any], names: frozenset[str]) -> dict[Any, Any]:
    """A copy of `state` in which the named tensors are protected from conversion."""

    def wrap(name: str, value: Any) -> Any:
        return _Exact(value) if name in names and isinstance(value, torch.Tensor) else value

    return {
        key: {name: wrap(name, value) for name, value in entries.items()} if isinstance(entries, Mapping) else entries
        for key, entries in state.items()
    }


def unwrap(entries: dict[str, Any]) -> None:
    """Undo `wrapped` for one parameter, in place."""
    for name, value in entries.items():
        if isinstance(value, _Exact):
            entries[name] = value.tensor
