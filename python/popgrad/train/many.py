"""`fit_many`: trains many networks of one shape at once, each on its own thread."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, final, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad import _core
from popgrad.backends import Stream, random_generator
from popgrad.budget import Budget
from popgrad.checks import fail, whole_seed
from popgrad.labels import ClassWeight
from popgrad.method import Method
from popgrad.metrics import Metric
from popgrad.models import Model
from popgrad.objective import Objective
from popgrad.train.fit import Validation, checked_kinds, divided, mixed
from popgrad.train.records import History
from popgrad.train.trainer import Precision, Trainer

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Fitted", "FittedModels", "fit_many"]

Array = NDArray[Any]
Objectives = tuple[Objective, Objective | None]


class Fitted(NamedTuple):
    """One of the runs of `fit_many`.

    Attributes:
        model: the trained model, with the best recorded parameters.
        history: the history of the run.
        optimizer: the method.
        settings: values from ``grid``, by name; empty without it.
        seed: seed of the run.
    """

    model: Model
    history: History
    optimizer: Method
    settings: Mapping[str, Any]
    seed: int


@final
@dataclass(frozen=True)
class FittedModels(Sequence[Fitted]):
    """The runs of `fit_many`, in the order of its arguments.

    Args:
        runs: the runs.
    """

    runs: tuple[Fitted, ...]

    def __len__(self) -> int:
        return len(self.runs)

    @overload
    def __getitem__(self, which: int) -> Fitted: ...
    @overload
    def __getitem__(self, which: slice) -> FittedModels: ...
    def __getitem__(self, which: int | slice) -> Fitted | FittedModels:
        return FittedModels(self.runs[which]) if isinstance(which, slice) else self.runs[which]

    @property
    def models(self) -> list[Model]:
        """The trained models."""
        return [run.model for run in self.runs]

    @property
    def histories(self) -> list[History]:
        """The histories."""
        return [run.history for run in self.runs]

    @property
    def best(self) -> Fitted:
        """The run with the smallest objective at its best record; the first one in a tie."""
        return min(self.runs, key=lambda run: run.history.objective[run.history.best])

    def to_frame(self) -> pd.DataFrame:
        """A table with one row per run: its settings and seed, and the values of its best record."""
        import pandas as pd

        rows = []
        for run in self.runs:
            history = run.history
            chosen = dict(run.settings) or {"optimizer": repr(run.optimizer)}
            row = {**chosen, "seed": run.seed, "forwards": history.forwards[history.best]}
            for name in ("loss", "metric", "validation_loss", "validation_metric", "objective"):
                if column := getattr(history, name):
                    row[name] = column[history.best]
            rows.append(row)
        return pd.DataFrame(rows)


def fit_many(
    models: Model | Sequence[Model],
    X: ArrayLike,
    y: ArrayLike,
    *,
    optimizer: Method | None = None,
    optimizers: Sequence[Method] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    seeds: int | Sequence[int] = 0,
    bootstrap: bool = False,
    epochs: int | None = None,
    batch_size: int | Literal["auto"] | None = "auto",
    validation: Validation = None,
    budget: Budget | None = None,
    sample_weight: ArrayLike | None = None,
    class_weight: ClassWeight | None = None,
    mixup: float | None = None,
    objective: Metric = "loss",
    select: Literal["loss", "metric"] | None = None,
    record_every: int | Sequence[int] | NDArray[np.integer[Any]] | None = None,
    record: Literal["running", "full"] = "running",
    precision: Precision | None = None,
) -> FittedModels:
    """Train K networks of one shape at once, for ensembles and sweeps; threads share the networks.

    Each run has the same bits as a call of `popgrad.fit` with its model, optimizer and seed::

        sweep = pg.fit_many(pg.MLP([64, 32, 10]), X, y, optimizer=pg.optim.Adam(), seeds=range(3), validation=0.2,
                            grid={"learning_rate": [1e-4, 1e-3, 1e-2], "weight_decay": [0, 1e-3]})
        sweep.best.settings

    Gradient methods with native steps gain most. Other methods train too, one after the other.

    Args:
        models: K models of one shape, which are trained in place; or one model, which is copied and does not change.
            There are then as many runs as combinations of settings and seeds: every optimizer or grid point with
            every seed. If `seeds` are several, each copy is initialized with its seed, as by ``MLP(..., seed=seed)``.
        X, y, epochs, batch_size, validation, budget, sample_weight, class_weight, mixup, objective, select: see
            `popgrad.fit`; for all runs. A validation share is held out anew for each seed, so that each seed needs a
            copy of the samples; separate validation samples as (X, y) need none.
        record_every, record, precision: see `popgrad.fit`; for all runs.
        optimizer: the method of all runs.
        optimizers: one method per model; or, with one model, methods to combine with the seeds.
        grid: values for settings of `optimizer`, by name; all combinations are trained. With one model only.
        seeds: one seed for all runs, or several: one per model, or, with one model, seeds to combine.
        bootstrap: whether each run draws N of the N samples with replacement, by its seed (bagging). Equal to a
            `sample_weight` of how often a sample was drawn, so that the validation share has drawn samples alone.

    Returns:
        The runs, an immutable sequence of `Fitted`.

    Raises:
        InputError: an argument is invalid; the models are unchanged.
    """
    planned = _plan(models, optimizer, optimizers, grid, seeds)
    shared: dict[int | None, Objectives] = {}
    trainers = []
    for run in planned:
        checked_kinds("fit_many", run.model, run.optimizer)
        train, held = _objectives(run, shared, bootstrap, X, y, sample_weight, validation, objective, class_weight)
        train = mixed("fit_many", train, run.optimizer, mixup)
        trainer = Trainer(
            train,
            run.optimizer,
            run.model.params,
            held=held,
            epochs=epochs,
            batch_size=batch_size,
            budget=budget,
            seed=run.seed,
            select=select,
            record_every=record_every,
            record=record,
            precision=precision,
        )
        trainers.append(trainer)
    before = [run.model.params.copy() for run in planned]
    try:
        _first_records(planned, trainers)
        _train(trainers)
    except BaseException:
        for run, params in zip(planned, before, strict=True):
            run.model.params = params
        raise
    for run, trainer in zip(planned, trainers, strict=True):
        run.model.params = trainer.history.best_params
    return FittedModels(tuple(Fitted(run.model, t.history, *run[2:]) for run, t in zip(planned, trainers, strict=True)))


# --- Before the work ----------------------------------------------------------------------------------------------


def _plan(
    models: Model | Sequence[Model],
    optimizer: Method | None,
    optimizers: Sequence[Method] | None,
    grid: Mapping[str, Sequence[Any]] | None,
    seeds: int | Sequence[int],
) -> list[Fitted]:
    """The runs, without their histories."""
    if (optimizer is None) == (optimizers is None):
        fail("fit_many", "pass either optimizer, for all runs, or optimizers")
    methods = [cast(Method, optimizer)] if optimizers is None else list(optimizers)
    several = isinstance(seeds, (Sequence, np.ndarray)) and not isinstance(seeds, str)
    chosen = [whole_seed("fit_many", seed) for seed in (cast(Sequence[int], seeds) if several else [seeds])]
    if not methods or not chosen:
        fail("fit_many", f"{'optimizers' if chosen else 'seeds'} must not be empty")
    nothing = History("")
    if isinstance(models, Model):
        combined = itertools.product(_settings(methods, optimizer, grid), chosen)
        return [
            Fitted(_copy(models, seed if several else None), nothing, method, settings, seed)
            for (method, settings), seed in combined
        ]
    if grid is not None:
        fail("fit_many", "a grid needs one model, which is copied for every grid point")
    listed = list(models)
    for name, values in (("optimizers", methods), ("seeds", chosen)):
        if len(values) not in (1, len(listed)):
            fail("fit_many", f"{name} must have one entry per model ({len(listed)}), got {len(values)}")
    _check_models(listed)
    each = zip(listed, itertools.cycle(methods), itertools.cycle(chosen), strict=False)
    return [Fitted(model, nothing, method, {}, seed) for model, method, seed in each]


def _check_models(models: list[Any]) -> None:
    """Fail unless these are different models of one shape."""
    if not models or not all(isinstance(model, Model) for model in models):
        fail("fit_many", f"models must be a popgrad.Model or several, got {models!r}")
    if len({id(model) for model in models}) < len(models):
        fail("fit_many", "models must be different objects; pass one model, and it is copied")
    first = models[0]
    for number, model in enumerate(models):
        if repr(model.layout) != repr(first.layout) or model.params.dtype != first.params.dtype:
            fail("fit_many", f"models must have one shape; model {number} is {model!r}, and model 0 is {first!r}")


def _settings(
    methods: list[Method], optimizer: Method | None, grid: Mapping[str, Sequence[Any]] | None
) -> list[tuple[Method, dict[str, Any]]]:
    """The methods with the settings that the grid gives them."""
    if grid is None:
        return [(method, {}) for method in methods]
    if optimizer is None:
        fail("fit_many", "a grid needs optimizer, whose settings it replaces")
    known = [field.name for field in dataclasses.fields(cast(Any, optimizer)) if field.init]
    for name, values in grid.items():
        if name not in known:
            fail(
                "fit_many",
                f"{type(optimizer).__name__} has no setting {name!r} for the grid. Known: {', '.join(known)}",
            )
        if isinstance(values, str) or not len(values):
            fail("fit_many", f"the grid needs a list of values for {name!r}, got {values!r}")
    points = [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]
    return [(dataclasses.replace(cast(Any, optimizer), **point), point) for point in points]


def _copy(model: Model, seed: int | None) -> Model:
    """A copy of a model; initialized anew if there is a seed."""
    again = copy.deepcopy(model)
    if seed is not None:
        again.reseed(seed)
    return again


def _drawn(given: ArrayLike | None, samples: int, seed: int) -> Array:
    """Sample weights (samples,) of a bootstrap."""
    drawn = random_generator(seed, Stream.BOOTSTRAP, 0).integers(samples, size=samples)
    counts = np.bincount(drawn, minlength=samples).astype(np.float64)
    return counts if given is None else counts * np.asarray(given)


def _objectives(
    run: Fitted, shared: dict[int | None, Objectives], bootstrap: bool, X: Any, y: Any, weight: Any, *rest: Any
) -> Objectives:
    """The objectives of a run; runs with the same samples share them."""
    validation, metric, class_weight = rest
    key = run.seed if bootstrap or isinstance(validation, Real) else None
    if key not in shared:
        if bootstrap:
            weight = _drawn(weight, len(np.asarray(y)), run.seed)
        shared[key] = divided(run.model, X, y, weight, validation, run.seed, metric, class_weight)
        return shared[key]
    train, held = shared[key]
    return train.with_model(run.model), None if held is None else held.with_model(run.model)


# --- The run ------------------------------------------------------------------------------------------------------


def _first_records(planned: list[Fitted], trainers: list[Trainer]) -> None:
    """Record the untrained models.

    Raises:
        InputError: a loss is not finite.
    """
    for run, trainer in zip(planned, trainers, strict=True):
        if not math.isfinite(next(trainer).loss[0]):
            fail("fit_many", trainer.objective.inner.why_not_finite(run.model.params))
    for run, trainer in zip(planned, trainers, strict=True):
        run.model.begin_training(trainer.objective.inner)


def _train(trainers: list[Trainer]) -> None:
    """Run all trainers to their ends, their native loops together."""
    with ExitStack() as stack:
        runs = [_loops(trainer) for trainer in trainers]
        for run in runs:
            stack.enter_context(closing(run))
        while runs:
            waiting = [(run, loop) for run in runs if (loop := next(run, None)) is not None]
            _core.train([loop for _, loop in waiting])
            runs = [run for run, _ in waiting]


def _loops(trainer: Trainer) -> Generator[_core.Training]:
    """The native loops of a whole run."""
    while not trainer.done:
        yield from trainer.stretch()
