"""Pauses: whole steps at which a `Trainer` interrupts a stretch of steps, for checkpoints and callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, final

if TYPE_CHECKING:
    from popgrad.train.trainer import Trainer

__all__ = ["Pauses", "Several"]


class Pauses(Protocol):
    """Decides at which steps a trainer pauses, and acts there. A pause changes no bit of the run."""

    def due(self, step: int, seconds: float) -> bool:
        """Whether to pause now. False after `on_pause` at the same step, until something new is due.

        Args:
            step: steps or generations done so far.
            seconds: wall time of the steps so far.
        """

    def steps_left(self, step: int) -> int | None:
        """Steps until the next pause that is due at a fixed step, >= 1; None if there is none.

        A loop that takes many steps at a time takes at most so many, and asks `due` after them.
        """

    def on_pause(self, trainer: Trainer) -> None:
        """Act; `trainer.state_dict` is the state after `trainer.step` steps. May call `trainer.stop`."""


@final
class Several:
    """Several pauses as one; those that are due act in order.

    Args:
        parts: the pauses.
    """

    def __init__(self, parts: Sequence[Pauses]) -> None:
        self._parts = tuple(parts)

    def due(self, step: int, seconds: float) -> bool:
        """See `Pauses.due`."""
        for part in self._parts:  # noqa: SIM110, any() of a generator would take longer than the parts
            if part.due(step, seconds):
                return True
        return False

    def steps_left(self, step: int) -> int | None:
        """See `Pauses.steps_left`."""
        return min((left for part in self._parts if (left := part.steps_left(step)) is not None), default=None)

    def on_pause(self, trainer: Trainer) -> None:
        """See `Pauses.on_pause`."""
        for part in self._parts:
            if part.due(trainer.step, trainer.used.seconds):
                part.on_pause(trainer)
