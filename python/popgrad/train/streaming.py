"""Training on batches that the user supplies one by one: `BatchStream` and its objective."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad.arrays import release
from popgrad.backends import Stream, random_generator
from popgrad.budget import Cost
from popgrad.checks import fail, positive_int, whole_seed
from popgrad.metrics import Metric
from popgrad.models import Model
from popgrad.objective import ALL, Batch, Objective, Population, Report, Seen

__all__ = ["BatchStream", "StreamObjective", "as_stream"]

Array = NDArray[Any]
Floats = NDArray[np.float64]
Source = Iterable[Any] | Callable[[int], Iterable[Any]]

_BATCH = "(X, y) or (X, y, sample_weight)"


@final
class BatchStream:
    """Batches for `popgrad.fit` that are read one by one, such as from files that are larger than memory.

    ::

        def batches(epoch):  # epoch 0, 1, ...
            for part in np.random.default_rng(epoch).permutation(100):
                with np.load(f"part-{part}.npz") as file:
                    yield file["X"], file["y"]

        pg.fit(model, pg.BatchStream(batches, samples=1_000_000), optimizer=pg.optim.Adam(), epochs=3)

    Args:
        source: a function of the number of the epoch, 0, 1, ..., which returns the batches of the epoch; or an object
            that can be iterated anew for each epoch, such as a list or a PyTorch ``DataLoader``; or an iterator, which
            lasts for one epoch. Each batch is (X, y) or (X, y, sample_weight), as for `popgrad.fit`.
        samples: samples per epoch. Every epoch must have exactly this many. Default: the length of a list's batches,
            or of the sampler of a ``DataLoader``.
        batches: batches per epoch, if it is always the same. A run that resumes in epoch e then calls the function
            for epoch e at once; otherwise, the run reads and skips all earlier batches.

    Raises:
        InputError: the source has the wrong type, or `samples` is missing.
    """

    def __init__(self, source: Source, samples: int | None = None, batches: int | None = None) -> None:
        if not callable(source) and not hasattr(source, "__iter__"):
            got = type(source).__name__
            fail("BatchStream", f"source must be a function of the epoch or an iterable of batches {_BATCH}, got {got}")
        found = _samples_of(source) if samples is None else positive_int("BatchStream", "samples", samples)
        if found is None:
            fail("BatchStream", "samples must be given: the number of samples per epoch of this source is unknown")
        self.source, self.samples = source, found
        self.batches = None if batches is None else positive_int("BatchStream", "batches", batches)
        self._used_up = False

    def epoch(self, number: int) -> Iterator[Any]:
        """An iterator over the batches of an epoch, 0, 1, ...

        Raises:
            InputError: the source is an iterator that was read before.
        """
        if callable(self.source):
            return iter(self.source(number))
        found = iter(self.source)
        if found is self.source:
            if self._used_up:
                fail(
                    "fit",
                    "the source of batches is an iterator, which lasts for one epoch: pass a function of the epoch, "
                    "which returns an iterator, or epochs=1",
                )
            self._used_up = True
        return found

    @classmethod
    def from_arrays(
        cls,
        X: Array,
        y: ArrayLike,
        *,
        batch_size: int = 32,
        seed: int = 0,
        rows: Array | None = None,
        transform: Callable[[Array], Array] | None = None,
        block: int = 8 << 20,
        window: int = 8,
    ) -> BatchStream:
        """Batches of arrays, such as mapped files, shuffled so that a file is read in whole blocks.

        Each epoch reads the blocks of consecutive rows in random order. The rows of each `window` blocks are shuffled
        together. Thus, a batch mixes rows from `window` places of the file, and a disk reads `block` bytes at a time.

        Args:
            X: (N, inputs), such as ``numpy.load(path, mmap_mode="r")``.
            y: (N,) labels, or (N,) or (N, outputs) numbers.
            batch_size: samples per batch; the last batch of an epoch may be smaller.
            seed: seed of the order, which is a function of (seed, epoch).
            rows: (N,) bool, the rows to use; default all.
            transform: function of rows (b, inputs) that returns the network's inputs, such as a standardization.
            block: bytes of X per block.
            window: blocks in memory at a time.

        Raises:
            InputError: an argument is out of range, or the shapes do not fit.
        """
        where = "BatchStream.from_arrays"
        targets = np.asarray(y)
        if np.ndim(X) != 2 or len(X) == 0 or len(targets) != len(X) or (rows is not None and len(rows) != len(X)):
            fail(where, f"X must be (N, inputs), with N entries in y and rows, got X {np.shape(X)}, y {targets.shape}")
        size, seed = positive_int(where, "batch_size", batch_size), whole_seed(where, seed)
        count = max(1, positive_int(where, "block", block) // max(1, X[:1].nbytes))
        together = positive_int(where, "window", window)

        def batches(epoch: int) -> Iterator[tuple[Array, Array]]:
            random = random_generator(seed, Stream.SHUFFLE, epoch)
            left_X, left_y = (X[:0] if transform is None else transform(X[:0])), targets[:0]
            starts = random.permutation(-(-len(X) // count)) * count
            for first in range(0, len(starts), together):
                last = first + together >= len(starts)
                parts = [_block(start, count, rows, len(X)) for start in starts[first : first + together]]
                read = [X[part] if isinstance(part, np.ndarray) else X[part].copy() for part in parts]
                release(X)
                part_X = np.concatenate([left_X, *(read if transform is None else map(transform, read))])
                part_y = np.concatenate([left_y, *(targets[part] for part in parts)])
                order = random.permutation(len(part_X))
                whole = len(order) if last else len(order) // size * size
                for at in range(0, whole, size):
                    chosen = order[at : at + size][: whole - at]
                    yield part_X[chosen], part_y[chosen]
                left_X, left_y = part_X[order[whole:]], part_y[order[whole:]]

        samples = len(X) if rows is None else int(np.count_nonzero(rows))
        return cls(batches, samples, -(-samples // size))


def _block(start: int, count: int, rows: Array | None, total: int) -> Any:
    """The index of the rows of a block: a slice, or numbers if only some rows are used."""
    end = min(start + count, total)
    return slice(start, end) if rows is None else start + np.flatnonzero(rows[start:end])


def _samples_of(source: Any) -> int | None:
    """The samples per epoch of a list of batches or of a PyTorch ``DataLoader``; None if unknown."""
    size, sampler = getattr(source, "batch_size", None), getattr(source, "sampler", None)
    if isinstance(size, int) and hasattr(sampler, "__len__"):
        count = len(cast(Any, sampler))
        return count - count % size if getattr(source, "drop_last", False) else count
    if isinstance(source, (list, tuple)):
        for number, item in enumerate(source, 1):
            _parts(f"fit, batch {number}", item)
        return sum(len(item[0]) for item in source) or None
    return None


def as_stream(source: Any) -> BatchStream:
    """The source of batches as a `BatchStream`.

    Raises:
        InputError: the source is neither a stream, nor a list of batches, nor a ``DataLoader``.
    """
    if isinstance(source, BatchStream):
        return source
    if isinstance(source, np.ndarray) or _samples_of(source) is None:
        fail(
            "fit",
            "without y, expects batches: a popgrad.BatchStream(function_of_epoch, samples=...), a PyTorch DataLoader "
            f"or a list of {_BATCH}, got {type(source).__name__}",
        )
    return BatchStream(source)


def _parts(operation: str, item: Any) -> Sequence[Any]:
    """The arrays of a batch."""
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
        got = f"{len(item)} items" if isinstance(item, (tuple, list)) else type(item).__name__
        fail(operation, f"a batch must be {_BATCH}, got {got}")
    return item


@final
class StreamObjective(Objective):
    """The objective of a model on the batches of a stream; the batch of a step is a function of the step.

    All calls for one step use the same batch. `report` uses the latest batch.

    Args:
        model: the model.
        stream: the batches.
        metric: metric that `values` returns.

    Raises:
        InputError: the first batch does not fit the model.
    """

    def __init__(self, model: Model, stream: BatchStream, metric: Metric = "loss") -> None:
        self._model, self._stream, self._metric = model, stream, metric
        self._step = self._epoch = self._number = self._seen = 0
        self._items: Iterator[Any] | None = None
        self._mixup = 0.0
        self._precision: str | None = None
        self._current = self._batch(Batch(None, 1))
        first = self._current
        self.layout, self.dtype, self.samples = first.layout, first.dtype, stream.samples
        self.name, self.metric_name = first.name, first.metric_name

    # --- Batches ----------------------------------------------------------------------------------------------------

    def _batch(self, batch: Batch) -> Objective:
        """The objective on the batch of a step; on the latest batch for step 0."""
        if batch.rows is not None:
            fail("fit", "the samples of a stream of batches cannot be chosen by number")
        if batch.step < self._step and batch.step > 0:
            self._step = self._epoch = self._number = self._seen = 0
            self._items = None
        while self._step < batch.step:
            self._skip_epochs(batch.step)
            self._advance(batch.step)
        return self._current

    def _skip_epochs(self, step: int) -> None:
        """Go to the epoch of a step at once, if the stream allows it."""
        each = self._stream.batches
        epoch = (step - 1) // each if each is not None and callable(self._stream.source) else 0
        if each is not None and epoch > self._epoch:
            self._epoch, self._step, self._number, self._seen, self._items = epoch, epoch * each, 0, 0, None

    def _advance(self, step: int) -> None:
        """Read the next batch, and check it unless it is on the way to the batch of `step`."""
        item = self._next()
        where = f"fit, batch {self._number} of epoch {self._epoch + 1}"
        X, y, *weight = _parts(where, item)
        wanted = self._step + 1 == step
        self._current = self._checked(where, X, y, *weight) if wanted else self._current
        self._seen += self._current.samples if wanted else len(X)
        if self._seen > self._stream.samples:
            got = f"{self._seen:,} samples up to this batch"
            fail(where, f"got {got}, more than the {self._stream.samples:,} samples of an epoch")
        self._step += 1

    def _next(self) -> Any:
        for _ in range(2):
            if self._items is None:
                self._items = self._stream.epoch(self._epoch)
            for item in self._items:
                self._number += 1
                return item
            if self._number == 0:
                fail("fit", f"the source returned no batch in epoch {self._epoch + 1}")
            if self._seen != self._stream.samples:
                fail(
                    f"fit, batch {self._number + 1} of epoch {self._epoch + 1}",
                    f"the source ended after {self._number} batches with {self._seen:,} samples; "
                    f"every epoch must have {self._stream.samples:,} samples",
                )
            self._epoch, self._number, self._seen, self._items = self._epoch + 1, 0, 0, None
        raise AssertionError

    def _checked(self, where: str, X: Any, y: Any, weight: Any = None) -> Objective:
        found = self._model.objective(X, y, weight, metric=self._metric, operation=where)
        found = found.mixed(self._mixup) if self._mixup > 0 else found
        found = found if self._precision is None else found.in_precision(self._precision)
        labels = getattr(found, "classes", None)
        if labels != self.classes:
            fail(where, f"the labels are not 0 to K - 1: set model.classes before the training, such as to {labels}")
        return found

    # --- As an objective --------------------------------------------------------------------------------------------

    @property
    def classes(self) -> Any:
        """The classes of the model, which a stream does not change."""
        return getattr(self._model, "classes", None)

    def size(self, batch: Batch) -> int:
        """The number of samples in the batch of a step; for the batch that comes next, the expected number."""
        if batch.step != self._step + 1:
            return self._batch(batch).samples
        left = self.samples - self._seen  # not read yet, since the run may end before
        return min(self._current.samples, left or self.samples)

    def values(self, population: Population, batch: Batch = ALL) -> Floats:
        """See `Objective.values`."""
        return self._batch(batch).values(population)

    def gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """See `Objective.gradient`."""
        return self._batch(batch).gradient(w, Batch(None, batch.step), out)

    def seen_gradient(self, w: Array, batch: Batch, out: Array) -> Seen:
        """See `Objective.seen_gradient`."""
        return self._batch(batch).seen_gradient(w, Batch(None, batch.step), out)

    def loss(self, w: Array, batch: Batch) -> float:
        """See `Objective.loss`."""
        return self._batch(batch).loss(w, Batch(None, batch.step))

    def loss_cost(self, batch: Batch) -> Cost:
        """See `Objective.loss_cost`; at most that of a gradient for the batch that comes next."""
        if batch.step == self._step + 1:
            return self.gradient_cost(batch)
        return self._batch(batch).loss_cost(Batch(None, batch.step))

    def sampled(self, w: Array, batch: Batch, random: np.random.Generator) -> Objective:
        """See `Objective.sampled`."""
        return self._batch(batch).sampled(w, Batch(None, batch.step), random)

    def with_samples(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        operation: str = "Objective.with_samples",
    ) -> Objective:
        """See `Objective.with_samples`."""
        return self._current.with_samples(X, y, sample_weight, operation=operation)

    def in_precision(self, precision: str) -> StreamObjective:
        """See `Objective.in_precision`."""
        again = copy.copy(self)
        again._precision, again._current = precision, self._current.in_precision(precision)
        return again

    def mixed(self, alpha: float) -> StreamObjective:
        """See `Objective.mixed`."""
        again = copy.copy(self)
        again._mixup, again._current = alpha, self._current.mixed(alpha)
        return again

    def lacks(self, operation: str) -> str | None:
        """See `Objective.lacks`."""
        if operation in ("gradient", "sampled", "with_samples"):
            return self._current.lacks(operation)
        return super().lacks(operation)

    def check(self, operation: str, rows: Array | None = None, w: Array | None = None) -> None:
        """Check the latest batch, see `Objective.check`."""
        self._current.check(operation, None, w)

    def report(self, w: Array, value: bool = True) -> Report:
        """The report on the latest batch."""
        return self._current.report(w, value)

    def why_not_finite(self, w: Array) -> str:
        """See `Objective.why_not_finite`; judged by the latest batch."""
        return self._current.why_not_finite(w)

    def scale_hint(self) -> str:
        """See `Objective.scale_hint`; judged by the latest batch."""
        return self._current.scale_hint()

    def diverged(self, losses: Sequence[float], w: Array) -> bool:
        """See `Objective.diverged`; judged by the latest batch."""
        return self._current.diverged(losses, w)
