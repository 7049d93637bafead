"""The split into training and validation samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgrad.backends import Stream, random_generator
from popgrad.checks import fail

__all__ = ["checked_share", "held_back"]

Array = NDArray[Any]
_SHARE = "a share in (0, 1), a pair (X, y) or a triple (X, y, sample_weight)"


def checked_share(validation: object) -> float:
    """Return the share of samples to hold out.

    Raises:
        InputError: `validation` is not a number in (0, 1).
    """
    if isinstance(validation, bool) or not isinstance(validation, (int, float, np.floating)) or not 0 < validation < 1:
        fail("fit", f"validation must be {_SHARE}, got {validation!r}")
    return float(validation)


def held_back(samples: int, share: float, labels: Array | None, seed: int) -> Array:
    """A mask (samples,) bool of the samples to hold out; exactly round(samples * share) entries are True.

    With labels (samples,) int64 >= 0, every class has the same share, up to one sample. If the sizes allow, a class
    with at least two samples is in both parts, and a class with one sample is in the training part.

    Raises:
        InputError: one of the two parts would be empty.
    """
    total = round(samples * share)
    if not 0 < total < samples:
        fail("fit", f"validation={share} of {samples} samples leaves no samples for training or for validation")
    order = random_generator(seed, Stream.DIVIDE, 0).permutation(samples)
    held = np.zeros(samples, bool)
    if labels is None:
        held[order[:total]] = True
        return held
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    quota = _quotas(sizes, total)
    by_class = order[np.argsort(classes[order], kind="stable")]
    place = np.arange(samples) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within the class
    held[by_class] = place < np.repeat(quota, sizes)
    return held


def _quotas(sizes: Array, total: int) -> Array:
    """The number of samples to hold out per class: in total `total`, with nearly equal shares."""
    ideal = sizes * (total / sizes.sum())
    least, most = np.minimum(sizes - 1, 1), np.where(sizes > 1, sizes - 1, 0)
    if total < least.sum():
        least = np.zeros_like(sizes)
    if total > most.sum():
        most = sizes
    quota: Array = np.clip(np.floor(ideal).astype(np.int64), least, most)
    while (missing := total - int(quota.sum())) != 0:
        step = 1 if missing > 0 else -1
        free = np.flatnonzero(quota < most if missing > 0 else quota > least)
        farthest = np.argsort(-step * (ideal - quota)[free], kind="stable")
        quota[free[farthest[: abs(missing)]]] += step
    return quota
