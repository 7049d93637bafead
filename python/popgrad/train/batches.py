"""Minibatches in shuffled order."""

from __future__ import annotations

import math
from typing import Any, final

from numpy.typing import NDArray

from popgrad import _core
from popgrad.objective import Batch

__all__ = ["Batches"]


@final
class Batches:
    """Minibatches that are reshuffled every epoch, as a function of (seed, step).

    The last batch of an epoch may be smaller.

    Args:
        samples: number of samples, >= 1.
        size: samples per batch, in [1, samples].
        seed: seed of the shuffling.
    """

    def __init__(self, samples: int, size: int, seed: int) -> None:
        self.samples, self.size, self.seed = samples, size, seed
        self._each = math.ceil(samples / size)  # batches per epoch
        self._epoch = -1
        self._order: NDArray[Any]

    def at(self, step: int) -> Batch:
        """The batch of step 1, 2, ...; its rows are None if it holds all samples, so that no row is gathered."""
        if self.size == self.samples:
            return Batch(None, step)
        epoch, place = divmod(step - 1, self._each)
        if epoch != self._epoch:
            self._order = _core.shuffled(self.seed, epoch, self.samples)
            self._epoch = epoch
        return Batch(self._order[place * self.size : (place + 1) * self.size], step)

    def samples_before(self, step: int) -> int:
        """The number of samples in the batches of all steps before this one."""
        epochs, place = divmod(step - 1, self._each)
        return epochs * self.samples + place * self.size

    def step_beyond(self, samples: int) -> int:
        """The first step that follows a use of at least so many samples."""
        epochs, rest = divmod(samples, self.samples)
        return epochs * self._each + math.ceil(rest / self.size) + 1

    def step_within(self, samples: int) -> int:
        """The last step that follows a use of at most so many samples."""
        epochs, rest = divmod(samples, self.samples)
        return epochs * self._each + rest // self.size + 1
