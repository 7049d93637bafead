"""Train a model: check the arguments, divide the samples, and loop over the records of a `Trainer`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad.budget import Budget
from popgrad.checks import fail
from popgrad.method import Method
from popgrad.metrics import Metric
from popgrad.models import Model
from popgrad.objective import Objective
from popgrad.racing import Racing
from popgrad.train import holdout
from popgrad.train.records import History, Last
from popgrad.train.trainer import Trainer

__all__ = ["Callback", "fit"]

Array = NDArray[Any]
Callback = Callable[[Model, History], Any]
Validation = float | tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike] | None


def fit(
    model: Model,
    X: ArrayLike,
    y: ArrayLike,
    *,
    optimizer: Method,
    epochs: int | None = None,
    batch_size: int | Literal["auto"] | None = "auto",
    validation: Validation = None,
    budget: Budget | None = None,
    callbacks: Iterable[Callback] = (),
    seed: int = 0,
    sample_weight: ArrayLike | None = None,
    objective: Metric = "loss",
    select: Literal["loss", "metric"] | None = None,
    record_every: int | Sequence[int] | NDArray[np.integer[Any]] | None = None,
    racing: Racing | None = None,
    resume: History | Mapping[str, Any] | None = None,
) -> History:
    """Train a model with a gradient method or a search.

    Args:
        model: starts from its current parameters, and has the best recorded parameters afterwards.
        X: (N, inputs), without NaN: an array, a frame, or a tensor in CPU memory. y: (N,) labels, or (N,) or
            (N, outputs) numbers. Labels that are text, or K whole numbers beyond 0 to K - 1, become `MLP.classes`, in
            sorted order.
        optimizer: one of `popgrad.optim` or `popgrad.search`.
        epochs: stop after the work of so many passes of gradients over the training samples (3 forwards a sample),
            for a search too.
        batch_size: samples of a step; None means all. "auto": 32 for a gradient method, all for a search. A search
            measures a whole generation on the same samples.
        validation: share of the samples to hold back, in (0, 1), or (X, y), or (X, y, sample_weight). Exactly
            round(N * share) samples are held back; the choice is a function of `seed`. Labels are stratified: each
            class has the same share, up to one sample, and a class of two or more samples is in both parts wherever
            the sizes permit. Numeric targets are divided at random.
        budget: when to stop; the last step ends within it. With `epochs`, the smaller of the two. Without both:
            3,000,000 forwards, or 20 epochs or 50 generations of the search if these are more.
        callbacks: functions, or one, called as ``callback(model, history)`` after every record, with the
            parameters of that record in the model. A callback that returns True ends the run. A callback may change
            ``model.params``, for example project them: a gradient method continues from the changed parameters, an
            average of the parameters restarts there, and they are recorded in place of the others. A search cannot
            continue from parameters that it has not proposed: it ignores the change, with a warning.
        seed: of shuffling, of the validation share and of the search.
        sample_weight: (N,) weights >= 0; samples of weight 0 are left out. The mean over a minibatch uses the
            weights of that minibatch.
        objective: what a search minimizes, and what picks the best record: a metric of `MLP.evaluate`. Gradient
            methods always descend the loss. A function of raw outputs is called once before training starts, to check
            that it returns a number for each candidate.
        select: what picks the best record: "loss", "metric" (``history.metric_name``; ties go to the smaller loss), or
            None for the objective. Measured on the validation samples if there are any.
        record_every: forwards between records, or a list of rising totals, with a record after each (and at the end
            of the run). Default: at most about a hundred records; one after every epoch at first, then after ever more
            epochs, up to a 75th of the budget.
        racing: how the candidates of a search's generation race for their fitness, such as ``pg.Racing(keep=0.5)``.
            The best candidate of a generation is measured on all samples, the others on fewer. The run is charged the
            forwards that are used.
        resume: the history of an earlier run of the same model and method. The run continues from that run's last
            state. With the same samples, batch_size and seed, it also continues the order of minibatches, and two runs
            equal one run of both lengths. The settings of an optimizer, such as the learning rate, may differ; those
            of a search may not. The new history starts at zero. Or what `Trainer.state_dict` gave: with the same
            arguments and the same parameters in the model as at the start of that run, this run continues it, and the
            history is that of both.

    Returns:
        The history; its first record is the untrained model.

    Raises:
        InputError: an argument does not fit; nothing was changed.
    """
    _check_kinds(model, optimizer)
    callbacks = _checked_callbacks(callbacks)
    last = _checked_last(resume, optimizer, model.params) if isinstance(resume, History) else None
    train, held = divided(model, X, y, sample_weight, validation, seed, objective)
    trainer = Trainer(
        train,
        optimizer,
        model.params,
        held=held,
        epochs=epochs,
        batch_size=batch_size,
        budget=budget,
        seed=seed,
        select=select,
        record_every=record_every,
        racing=racing,
        last=last,
    )
    if isinstance(resume, Mapping):
        trainer.load_state_dict(resume)
    elif resume is not None and last is None:
        fail("fit", f"resume must be the History that an earlier fit returned, got {resume!r}")
    before = model.params.copy()
    warned = False
    for history in trainer:
        model.params = trainer.params
        if len(history.loss) == 1:
            if not math.isfinite(history.loss[0]):
                model.params = before
                fail("fit", train.why_not_finite(before))
            model.begin_training(train)
        stop = _told_to_stop(callbacks, model, history)
        if callbacks and model.params.tobytes() != trainer.params.tobytes() and not trainer.move_to(model.params):
            warned = _warn_once(warned)
        if stop:
            trainer.finish("a callback ended it")
    model.params = trainer.history.best_params
    return trainer.history


# --- Before the work ----------------------------------------------------------------------------------------------


def _check_kinds(model: object, optimizer: object) -> None:
    if not isinstance(model, Model):
        fail("fit", f"model must be a popgrad.Model, such as popgrad.MLP, got {type(model).__name__}")
    if not isinstance(optimizer, Method):
        fail(
            "fit",
            f"optimizer must be one of popgrad.optim or popgrad.search, such as pg.optim.Adam(), got {optimizer!r}",
        )


def _checked_callbacks(callbacks: Iterable[Callback]) -> list[Callback]:
    listed = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    for callback in listed:
        if not callable(callback):
            fail("fit", f"callbacks must be functions of (model, history), got {callback!r}")
    return listed


def _checked_last(history: History, method: Method, params: Array) -> Last:
    """Where the earlier run ended."""
    last = history.last
    if last is None:
        fail("fit", "resume must be the history of a run that has ended")
    if last.method.described() != method.described():
        fail("fit", f"resume must be of a run of {method.described()}, got one of {last.method.described()}")
    found = last.method.recommend(last.state)
    if found.shape != params.shape or found.dtype != params.dtype:
        got = f"{found.dtype} {found.shape}"
        fail("fit", f"resume must be of a model with {params.dtype} parameters {params.shape}, got {got}")
    return last


def divided(
    model: Model,
    X: ArrayLike,
    y: ArrayLike,
    weight: ArrayLike | None,
    validation: Any,
    seed: int,
    metric: Metric = "loss",
) -> tuple[Objective, Objective | None]:
    """The objective on the training samples, and on the validation samples if there are any; see `fit`."""
    everything: Objective = model.objective(X, y, weight, metric=metric, operation="fit")
    if (rows := everything.weighted_rows()) is not None:
        # The others teach nothing, and a minibatch of such samples alone would have no mean.
        everything = everything.subset(rows)
    if validation is None:
        return everything, None
    if isinstance(validation, (tuple, list)) and len(validation) in (2, 3):
        return everything, everything.with_samples(*validation, operation="fit(validation)")
    share = holdout.checked_share(validation)
    held = holdout.held_back(everything.samples, share, everything.strata(), seed)
    return everything.subset(np.flatnonzero(~held)), everything.subset(np.flatnonzero(held))


# --- The run ------------------------------------------------------------------------------------------------------


def _told_to_stop(callbacks: list[Callback], model: Model, history: History) -> bool:
    """Call every callback; whether one of them returned True (NumPy's own True counts)."""
    answers = [callback(model, history) for callback in callbacks]
    return any(isinstance(answer, (bool, np.bool_)) and bool(answer) for answer in answers)


def _warn_once(warned: bool) -> bool:
    """Say that changed parameters are not a candidate of the search."""
    if not warned:
        warnings.warn(
            "[fit] a callback changed model.params; a search continues from its own candidates and ignores that",
            stacklevel=3,
        )
    return True
