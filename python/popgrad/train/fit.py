"""`fit`: check the arguments, split the samples, and run a `Trainer` with callbacks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad.budget import Budget
from popgrad.checks import fail, number, whole_seed
from popgrad.labels import ClassWeight
from popgrad.method import Method
from popgrad.metrics import Metric
from popgrad.models import Model
from popgrad.objective import Objective
from popgrad.racing import Racing
from popgrad.train import holdout
from popgrad.train.callbacks import Callback, Record
from popgrad.train.checkpoints import Checkpoint, Saved, Writer, saved_run
from popgrad.train.fingerprint import check_same, fingerprint
from popgrad.train.hooks import Hooks, checked_callbacks
from popgrad.train.pauses import Several
from popgrad.train.progress import Bar, shows
from popgrad.train.records import History, Last
from popgrad.train.streaming import BatchStream, StreamObjective, as_stream
from popgrad.train.trainer import Precision, Trainer

__all__ = ["fit"]

Array = NDArray[Any]
Validation = float | tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike] | None


def fit(
    model: Model,
    X: ArrayLike | BatchStream | Iterable[Any],
    y: ArrayLike | None = None,
    *,
    optimizer: Method,
    epochs: int | None = None,
    batch_size: int | Literal["auto"] | None = "auto",
    validation: Validation = None,
    budget: Budget | None = None,
    callbacks: Iterable[Callback | Record] | Callback | Record = (),
    seed: int = 0,
    sample_weight: ArrayLike | None = None,
    class_weight: ClassWeight | None = None,
    mixup: float | None = None,
    objective: Metric = "loss",
    select: Literal["loss", "metric"] | None = None,
    record_every: int | Sequence[int] | NDArray[np.integer[Any]] | None = None,
    racing: Racing | None = None,
    record: Literal["running", "full"] = "running",
    precision: Precision | None = None,
    resume: History | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    checkpoint: Checkpoint | None = None,
    progress: bool | None = None,
) -> History:
    """Train a model with a gradient method or a search.

    Args:
        model: the model to train, starting from its current parameters. After the run, it has the best recorded
            parameters.
        X: (N, inputs), without NaN: an array, a table, or a tensor in CPU memory. A mapped file, such as
            ``numpy.load(path, mmap_mode="r")``, is never copied as a whole if it has the model's dtype and C order.
            Or, without y, batches: a `popgrad.BatchStream`, a PyTorch ``DataLoader``, or a list of (X, y) or
            (X, y, sample_weight). A step then uses the next batch.
        y: (N,) labels, or (N,) or (N, outputs) numbers. If the labels are text, or K whole numbers other than 0 to
            K - 1, the sorted labels become `MLP.classes`.
        optimizer: a method of `popgrad.optim` or `popgrad.search`.
        epochs: number of epochs. One epoch is the work of computing the gradient on every training sample once
            (3 forwards per sample). A search stops after the same number of forwards.
        batch_size: samples per step; None means all samples. "auto": 32 for a gradient method, all samples for a
            search. A search evaluates all candidates of a generation on the same samples.
        validation: share of the samples to hold out, in (0, 1), or separate samples as (X, y) or
            (X, y, sample_weight). A share holds out exactly round(N * share) samples; the choice depends on `seed`
            alone. Labels are stratified: every class has the same share, up to one sample. If the sizes allow, a class
            with at least two samples is in both parts. With numeric targets, the split is random.
        budget: limit of the run; the last step ends within it. If `epochs` is also given, the smaller limit applies.
            If neither is given, the limit is the largest of 3,000,000 forwards, 20 epochs, and 50 generations of the
            search.
        callbacks: one or several; a callback is a `popgrad.Callback` or a function, called as
            ``callback(model, history)`` after every record, while the model has the recorded parameters. A callback
            that returns True ends the run. A callback may change ``model.params``, for example to project them. A
            gradient method then continues from the new parameters, restarts any average of the parameters there, and
            records the new parameters in place of the old ones. A search ignores the change, with a warning, since it
            continues only from its own candidates.
        seed: seed of shuffling, of the validation split and of the search.
        sample_weight: (N,) weights >= 0; samples of weight 0 are dropped. The mean over a minibatch uses the weights
            of that minibatch.
        class_weight: weights of the classes in training, multiplied with `sample_weight`: a dictionary of weights >= 0
            by original label, where labels that it omits have weight 1; or "balanced", which gives all classes that
            occur in the training samples the same total weight, as in scikit-learn. Training figures are weighted by
            class, but validation figures are not, as in Keras. For targets that are one label per sample.
        mixup: parameter alpha > 0 of mixup (Zhang et al. 2018, arXiv:1710.09412), or None. A gradient method then
            trains on mixed inputs, lambda x + (1 - lambda) x', where x' is another sample of the minibatch and lambda
            is drawn from Beta(alpha, alpha) for each step. The loss is lambda times the loss for the target of x plus
            (1 - lambda) times that for the target of x', each with its sample weight. Running training figures are of
            the mixed inputs; the metric compares them with the target of x.
        objective: a metric of `MLP.evaluate`. A search minimizes it, and by default it selects the best record.
            Gradient methods always descend the loss. A user-defined metric is called once before training starts, to
            check that it returns one number per candidate.
        select: criterion for the best record: "loss", "metric" (``history.metric_name``; the loss breaks ties), or
            None for the objective. It is computed on the validation samples if there are any.
        record_every: forwards between records, or a list of increasing totals of forwards; a record follows each
            total and the end of the run. Default: at most about 100 records, first after every epoch, then at growing
            intervals of up to 1/75 of the budget.
        racing: settings for evaluating the candidates of a generation on fewer samples, such as
            ``pg.Racing(keep=0.5)``. The best candidate of a generation is evaluated on all samples. The budget counts
            the forwards that were computed.
        record: the training loss and metric in a record of a gradient method. "running": the means over the steps since
            the last record, each at the parameters before the step and with dropout, input noise and mixup, as they
            come for free with the gradients. "full": values of the recorded parameters on all training samples, in an
            extra pass. Records are always full in a search, with full batches, and if the objective is another metric.
        precision: precision of the gradients: the model's dtype (default), or "bfloat16" for a float32 model.
            "bfloat16" rounds weights, inputs, hidden values and derivatives to the nearest number with 8 bits of
            precision before they are multiplied. Sums, biases, activations, losses, the parameters and the optimizer
            stay float32, and so do validation and full records. Needs a processor with AVX-512 BF16 (see
            ``popgrad info``). On a Zen 4, gradients of layers with hundreds of units take little more than half of the
            float32 time, and those of 64-32-10 nine tenths. Numbers below 1.2e-38 count as zero in the products.
        resume: a checkpoint, a folder with checkpoints, the `History` of an earlier run with the same model and method,
            or the result of `Trainer.state_dict`. With a checkpoint or a folder, whose newest complete checkpoint
            counts, pass the arguments of the earlier run; only the budget, the epochs, ``record_every``, callbacks and
            ``checkpoint`` may differ. The run then continues the earlier run with the same bits, for any number of
            threads. If the folder is that of ``checkpoint`` and holds no checkpoint yet, the run starts from the
            beginning, so one command starts a run and continues it after a kill.
            With a history, the run continues from the last state of the earlier run, and the new history starts at
            zero. If samples, batch_size and seed are the same, the order of minibatches continues too: two runs equal
            one run of the total length. The settings of an optimizer, such as the learning rate, may differ; the
            settings of a search must not. With a state, pass the arguments of the earlier run and a model with the
            same initial parameters. The run then continues the earlier run, and the history covers both.
        checkpoint: when and where to save the whole run, such as ``pg.Checkpoint("runs/a", every_seconds=60)``.
        progress: whether to show a progress bar on standard error, for runs longer than half a second. None: if
            standard error is a terminal.

    Ctrl-C raises ``KeyboardInterrupt`` after a whole step. The model then has the best recorded parameters, or the
    latest ones if there is no record of training yet.

    Returns:
        The history; its first record is the untrained model.

    Raises:
        InputError: an argument is invalid, or `resume` is a checkpoint of another network, method, data set, version
            or other settings; the model is unchanged.
    """
    checked_kinds("fit", model, optimizer)
    seed = whole_seed("fit", seed)
    called = checked_callbacks(callbacks)
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        fail("fit", f"checkpoint must be a popgrad.Checkpoint, got {checkpoint!r}")
    if checkpoint is not None and isinstance(resume, History) and optimizer.kind == "search":
        fail("fit", "a search that resumes from a History cannot be saved; resume it from a checkpoint or a state")
    if progress is not None and not isinstance(progress, bool):
        fail("fit", f"progress must be True, False or None, got {progress!r}")
    last = _checked_last(resume, optimizer, model.params) if isinstance(resume, History) else None
    saved = saved_run(resume, checkpoint) if isinstance(resume, (str, os.PathLike)) else None
    if y is None:
        _check_streamed(batch_size, sample_weight, class_weight, racing, record)
        train, held = streamed(model, X, validation, objective)
        batch_size = None
    else:
        train, held = divided(model, cast(Any, X), y, sample_weight, validation, seed, objective, class_weight)
    train = mixed("fit", train, optimizer, mixup)
    trainer = Trainer(
        train,
        optimizer,
        start := _start(model, saved),
        held=held,
        epochs=epochs,
        batch_size=batch_size,
        budget=budget,
        seed=seed,
        select=select,
        record_every=record_every,
        racing=racing,
        record=record,
        precision=precision,
        last=last,
    )
    identity = None
    if saved is not None or checkpoint is not None:
        data = {"X": X, "y": y, "sample_weight": sample_weight, "validation": validation}
        options: dict[str, Any] = {"objective": train.name, "select": select, "racing": racing, "record": record}
        options |= {"class_weight": class_weight, "mixup": mixup}
        options["precision"] = train.dtype.name if precision is None else precision
        identity = fingerprint(model, trainer, data, options)
    _restore(trainer, resume, saved, identity)
    with ExitStack() as stack:
        writer = None
        if checkpoint is not None and identity is not None:
            writer = stack.enter_context(Writer(checkpoint, identity, start.copy(), saved))
        bar = stack.enter_context(Bar(trainer, progress is True)) if shows(progress) else None
        hooks = Hooks(called, model, trainer)
        pauses = [*hooks.pauses(), *(part for part in (bar, writer) if part is not None)]
        trainer.pauses = Several(pauses) if len(pauses) > 1 else next(iter(pauses), None)
        _run(trainer, model, train, hooks, bar)
        if writer is not None:
            writer.write(trainer)
    return trainer.history


# --- Before the work ----------------------------------------------------------------------------------------------


def checked_kinds(operation: str, model: object, optimizer: object) -> None:
    """Fail unless these are a model and a method."""
    if not isinstance(model, Model):
        fail(operation, f"model must be a popgrad.Model, such as popgrad.MLP, got {type(model).__name__}")
    if not isinstance(optimizer, Method):
        fail(
            operation,
            "optimizer must be a method of popgrad.optim or popgrad.search, "
            f"such as pg.optim.Adam(), got {optimizer!r}",
        )


def _checked_last(history: History, method: Method, params: Array) -> Last:
    """The last state of the earlier run, checked against this run's method and parameters."""
    last = history.last
    if last is None:
        fail("fit", "resume must be the history of a finished run")
    if last.method.described() != method.described():
        fail("fit", f"resume must be from a run of {method.described()}, got a run of {last.method.described()}")
    found = last.method.recommend(last.state)
    if found.shape != params.shape or found.dtype != params.dtype:
        got = f"{found.dtype} {found.shape}"
        fail("fit", f"resume must be from a model with {params.dtype} parameters {params.shape}, got {got}")
    return last


def _check_streamed(batch_size: object, weight: object, classes: object, racing: object, record: str) -> None:
    """Fail if an argument cannot hold for a stream of batches."""
    unfit = {
        "batch_size": batch_size not in ("auto", None),
        "sample_weight": weight is not None,
        "class_weight": classes is not None,
        "racing": racing is not None,
        "record": record == "full",
    }
    for name, given in unfit.items():
        if given:
            fail("fit", f"{name} needs all samples as X and y, but y was not given: X is a stream of batches")


def streamed(model: Model, source: Any, validation: Any, metric: Metric = "loss") -> tuple[Objective, Objective | None]:
    """The objectives on a stream of batches and on the validation samples (None without validation); see `fit`."""
    pair = isinstance(validation, (tuple, list)) and len(validation) in (2, 3)
    if validation is not None and not pair:
        fail("fit", f"validation must be (X, y) or (X, y, sample_weight) for a stream of batches, got {validation!r}")
    train = StreamObjective(model, as_stream(source), metric)
    return train, train.with_samples(*validation, operation="fit(validation)") if pair else None


def divided(
    model: Model,
    X: ArrayLike,
    y: ArrayLike,
    weight: ArrayLike | None,
    validation: Any,
    seed: int,
    metric: Metric = "loss",
    class_weight: ClassWeight | None = None,
) -> tuple[Objective, Objective | None]:
    """The objectives on the training samples and on the validation samples (None without validation); see `fit`."""
    train = _counting(model.objective(X, y, weight, metric=metric, operation="fit"))
    held: Objective | None = None
    if isinstance(validation, (tuple, list)) and len(validation) in (2, 3):
        held = train.with_samples(*validation, operation="fit(validation)")
    elif validation is not None:
        share = holdout.checked_share(validation)
        held_back = holdout.held_back(train.samples, share, train.strata(), seed)
        train, held = train.subset(np.flatnonzero(~held_back)), train.subset(np.flatnonzero(held_back))
    return (train if class_weight is None else _counting(train.class_weighted(class_weight))), held


def _counting(objective: Objective) -> Objective:
    """The objective without samples of weight 0: a minibatch of only such samples would have no mean."""
    rows = objective.weighted_rows()
    return objective if rows is None else objective.subset(rows)


def mixed(operation: str, train: Objective, method: Method, mixup: float | None) -> Objective:
    """The objective with mixup, if it is given; see `fit`."""
    if mixup is None:
        return train
    if not 0 < number(mixup) < math.inf:
        fail(operation, f"mixup must be a finite number > 0 or None, got {mixup!r}")
    if "gradient" not in method.requires:
        fail(operation, f"mixup needs a method that follows gradients, but {method.described()} does not")
    return train.mixed(float(mixup))


def _start(model: Model, saved: Saved | None) -> Array:
    """The initial parameters (n,): those of the checkpoint if they fit the model, so that the model's do not matter."""
    if saved is None or saved.start.shape != model.params.shape or saved.start.dtype != model.params.dtype:
        return model.params
    return saved.start


def _restore(trainer: Trainer, resume: Any, saved: Saved | None, identity: Mapping[str, Any] | None) -> None:
    """Bring a trainer to the state from which it continues."""
    if saved is not None and identity is not None:
        check_same(saved.path, saved.fingerprint, identity)
        trainer.load_state_dict(saved.state)
    elif isinstance(resume, Mapping):
        trainer.load_state_dict(resume)
    elif resume is not None and not isinstance(resume, (History, str, os.PathLike)):
        fail("fit", f"resume must be the History that an earlier fit returned, or a checkpoint, got {resume!r}")


# --- The run ------------------------------------------------------------------------------------------------------


def _run(trainer: Trainer, model: Model, train: Objective, hooks: Hooks, bar: Bar | None) -> None:
    """Run a trainer to its end; the model then has the best recorded parameters."""
    before = model.params.copy()
    if trainer.history.loss:  # a resumed run
        model.begin_training(train)
        model.params = trainer.params
    try:
        hooks.train_begin()
        for history in trainer:
            model.params = trainer.params
            if len(history.loss) == 1:
                if not math.isfinite(history.loss[0]):
                    model.params = before
                    fail("fit", train.why_not_finite(before))
                model.begin_training(train)
            hooks.record()
            if bar is not None:
                bar.record()
        model.params = trainer.history.best_params
    except KeyboardInterrupt:
        recorded = len(trainer.history.loss) > 1
        model.params = trainer.history.best_params if recorded else trainer.method.recommend(trainer.state)
        raise
    finally:
        hooks.train_end()
