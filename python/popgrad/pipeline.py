"""`Pipeline`: a network with the preprocessing of its table, which predicts from raw tables and lives in one file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgrad import checkpoint
from popgrad.checks import InputError, fail
from popgrad.data import Prepared, Preprocessing, load_like, prepared
from popgrad.models import MLP, Model

__all__ = ["Pipeline", "load_pipeline"]

Array = NDArray[Any]
Table = Any  # a frame, a matrix, or the path of a file


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A trained network with the preprocessing of its table.

    ::

        split = pg.data.split(pg.data.load("houses.csv", target="price"))
        model = pg.MLP([split.X_train.shape[1], 32, 1], loss="mse")
        pg.fit(model, split.X_train, split.y_train, optimizer=pg.optim.Adam())
        pg.Pipeline(split.preprocessing, model).save("houses.safetensors")
        pg.load_pipeline("houses.safetensors").predict("new.csv")  # in units of the price

    Args:
        preprocessing: the encoding of the table, from `popgrad.data.split`.
        model: a network for the encoded table: as many inputs as features; one output per class, or one output and
            binary_cross_entropy for two classes; one output and a loss on numbers for regression.

    Raises:
        InputError: the model does not fit the preprocessing.
    """

    preprocessing: Preprocessing
    model: MLP

    def __post_init__(self) -> None:
        storable = isinstance(self.model, Model) and hasattr(self.model, "contents")
        if not isinstance(self.preprocessing, Preprocessing) or not storable:
            got = f"{type(self.preprocessing).__name__} and {type(self.model).__name__}"
            fail(self, f"expects a Preprocessing (data.split(...).preprocessing) and an MLP, got {got}")
        inputs, outputs = self.model.sizes[0], self.model.sizes[-1]
        features, classes = len(self.preprocessing.features), len(self.preprocessing.classes)
        if inputs != features:
            fail(self, f"the preprocessing makes {features} features, but the model has {inputs} inputs")
        if bool(classes) != self.model.takes_classes or max(outputs, 2 if classes else 1) != (classes or 1):
            what = f"{classes} classes" if classes else "a quantity"
            fail(self, f"a model with loss {self.model.loss_name!r} and {outputs} outputs does not predict {what}")
        if self.model.classes is not None:
            fail(self, "the model was trained on other labels than the y of data.split; set model.classes = None")

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns that a table must have."""
        return tuple(column.name for column in self.preprocessing.columns)

    @property
    def target(self) -> str:
        """Name of the column that is predicted."""
        return self.preprocessing.target

    @property
    def classes(self) -> Array | None:
        """The K labels (K,), in the order of the columns of `predict_proba`; None for regression."""
        return self.preprocessing.labels if self.preprocessing.classes else None

    def predict(self, table: Table) -> Array:
        """Predict one label, or one number in the units of the target, per row.

        Args:
            table: a frame of pandas, polars or PyArrow, with the columns `features` in any order; a matrix, if the
                training table was one; or the path of a .csv, .tsv, .data or .npz file. Other columns are ignored.
                A missing value is imputed, and an unknown category becomes zeros, as by `popgrad.data.split`.

        Returns:
            (N,) labels as in the training table (str, int or bool), or float64 numbers.

        Raises:
            InputError: the table cannot be read, has no rows, lacks a column, or a column has values of another kind
                than in training.
        """
        return self.outcome(self.prepare(table).X)

    def predict_proba(self, table: Table) -> Array:
        """Predict the probability of each class, (N, K), from a table as for `predict`.

        Raises:
            InputError: as for `predict`, or the model is a regression.
        """
        self._check_classes("predict_proba")
        return self.probabilities(self.prepare(table).X)

    def prepare(self, table: Table, **reading: Any) -> Prepared:
        """Encode a table, and return also its target, if it has one, and notes on the reading.

        Args:
            table: as for `predict`.
            **reading: header, sep, decimal and na for text files, as for `popgrad.data.load_like`.
        """
        if not isinstance(table, (str, os.PathLike)):
            return prepared("Pipeline.predict", table, self.preprocessing)
        frame, notes = load_like(table, self.preprocessing, **reading)
        decimal = reading.get("decimal") or self.preprocessing.origin.decimal
        found = prepared(f"predict {os.fspath(table)!r}", frame, self.preprocessing, decimal)
        return Prepared(found.X, found.y, (*notes, *found.notes))

    def outcome(self, X: Array) -> Array:
        """Predictions (N,) from encoded rows (N, inputs)."""
        return self.preprocessing.decode(self.model.predict(X))

    def probabilities(self, X: Array) -> Array:
        """Class probabilities (N, K) from encoded rows (N, inputs)."""
        self._check_classes("probabilities")
        found = self.model.predict_proba(X)
        return found if found.shape == (len(X), len(self.preprocessing.classes)) else _both(found)

    def _check_classes(self, name: str) -> None:
        if not self.preprocessing.classes:
            fail(f"Pipeline.{name}", f"the model predicts a quantity, {self.target!r}, which has no probabilities")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the network and the preprocessing to one safetensors file.

        The file holds the tensors of `MLP.save`; the preprocessing is JSON in the metadata. Therefore, `MLP.load`
        and PyTorch read the network from it: ``sequential.load_state_dict(safetensors.torch.load_file(path))``.
        """
        tensors, values = self.model.contents()
        return checkpoint.save(path, tensors, {**values, "preprocessing": self.preprocessing.to_dict()})


def load_pipeline(path: str | os.PathLike[str]) -> Pipeline:
    """Read a file that `Pipeline.save` or ``popgrad fit --save`` wrote.

    Raises:
        InputError: the file cannot be read, holds no network or no preprocessing, or is from another version.
    """
    _, values = checkpoint.load(path)
    stored = values.get("preprocessing")
    where = f"load_pipeline {os.fspath(path)!r}"
    if stored is None:
        fail(where, "the file holds no preprocessing: read it with popgrad.MLP.load, or save a popgrad.Pipeline")
    try:
        return Pipeline(Preprocessing.from_dict(stored), MLP.load(path))
    except InputError as error:
        reason = str(error)
    fail(where, reason)


def _both(positive: Array) -> Array:
    """The probabilities (N, 2) of two classes from the probability of the second, (N,) or (N, 1)."""
    second = positive.reshape(-1)
    return np.column_stack([1 - second, second])
