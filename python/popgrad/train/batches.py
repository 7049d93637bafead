"""In which order samples are used."""

from __future__ import annotations

import math
from typing import Any, final

from numpy.typing import NDArray

from popgrad.backends import Stream, random_generator
from popgrad.objective import Batch

__all__ = ["Batches"]


@final
class Batches:
    """Minibatches, shuffled anew every epoch: a function of (seed, step).

    The rest of an epoch that does not fill a batch is a smaller one.

    Args:
        samples: how many there are, >= 1.
        size: samples of a batch, in [1, samples].
        seed: of the order.
    """

    def __init__(self, samples: int, size: int, seed: int) -> None:
        self.samples, self.size, self.seed = samples, size, seed
        self._each = math.ceil(samples / size)  # batches of an epoch
        self._epoch = -1
        self._order: NDArray[Any]

    def at(self, step: int) -> Batch:
        """The batch of a step, 1, 2, ...; all samples have no rows, so that they need not be gathered."""
        if self.size == self.samples:
            return Batch(None, step)
        epoch, place = divmod(step - 1, self._each)
        if epoch != self._epoch:
            self._order = random_generator(self.seed, Stream.SHUFFLE, epoch).permutation(self.samples)
            self._epoch = epoch
        return Batch(self._order[place * self.size : (place + 1) * self.size], step)
