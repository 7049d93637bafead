"""What `load_state_dict` is given: whether it belongs to the optimizer, and how its numbers keep their digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["foreign_names", "unwrap", "wrapped"]


@dataclass(slots=True, frozen=True)
class _Exact:
    """A tensor that ``torch.optim.Optimizer.load_state_dict`` does not convert to the parameter's type."""

    tensor: torch.Tensor


def foreign_names(
    state: Mapping[Any, Any], own: frozenset[str], needed: frozenset[str], known: frozenset[str]
) -> str | None:
    """The names of a parameter's state that another method has made, or None.

    Args:
        state: by parameter.
        own: all names that the method may use.
        needed: those that it always uses, once there is any.
        known: all names that some method uses; others are the user's.
    """
    for entries in state.values():
        names = (
            {name for name, value in entries.items() if value is not None} if isinstance(entries, Mapping) else set()
        )
        if names and (names & (known - own) or needed - names):
            return ", ".join(sorted(map(str, names)))
    return None


def wrapped(state: Mapping[Any, Any], names: frozenset[str]) -> dict[Any, Any]:
    """A copy of `state` in which the named tensors are out of the reach of conversions."""

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
