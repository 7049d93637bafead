"""Problems on which several tests compare the fitness of populations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sk

import popgrad as pg

LABELS = ("balanced_error", "f1_macro", "auc")

NUMBERS = ("r2", "quantile")

every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def problem(loss="cross_entropy", outputs=3, samples=90, members=7, dtype="float64", seed=0, sizes=(4, 5)):
    """(model, population, X, y, weight); outputs repeat, so that some are equal."""
    rng = np.random.default_rng(seed)
    model = pg.MLP([*sizes, outputs], "tanh", loss, dtype=dtype)
    population = rng.normal(size=(members, model.params.size)).astype(dtype)
    X = rng.normal(size=(samples, sizes[0]))[rng.integers(samples, size=samples)].astype(dtype)
    if loss == "cross_entropy":
        y = np.minimum(rng.integers(outputs + 2, size=samples), outputs - 1)  # the classes are not of one size
    elif loss == "binary_cross_entropy":
        y = (rng.random((samples, outputs)) < 0.3).astype(dtype)
    else:
        y = rng.normal(size=(samples, outputs)).astype(dtype)
    return model, population, X, y, rng.integers(1, 5, samples).astype(dtype)


def raw(model, population, X):
    """Raw outputs (P, B, outputs) in the model's own words."""
    kept, out = model.params.copy(), []
    for params in population:
        model.params = params
        out.append(model.forward(X))
    model.params = kept
    return np.array(out)


# --- Metrics, against scikit-learn ------------------------------------------------------------------------------------


def labels_of(z):
    return z.argmax(axis=1) if z.shape[1] > 1 else (z[:, 0] > 0).astype(int)


def sk_auc(z, y, w):
    if y.ndim == 2:  # binary_cross_entropy
        return sk.roc_auc_score(y, z, average="macro", sample_weight=w)
    if z.shape[1] == 2:
        return sk.roc_auc_score(y, z[:, 1] - z[:, 0], sample_weight=w)
    probability = special.softmax(z, axis=1)
    columns = [sk.roc_auc_score(y == k, probability[:, k], sample_weight=w) for k in range(z.shape[1])]
    assert w is not None or np.mean(columns) == pytest.approx(sk.roc_auc_score(y, probability, multi_class="ovr"))
    return np.mean(columns)


REFERENCE = {  # of one candidate: (z, y, weight)
    "balanced_error": lambda z, y, w: 1 - sk.balanced_accuracy_score(y.ravel(), labels_of(z), sample_weight=w),
    "f1_macro": lambda z, y, w: 1 - sk.f1_score(y.ravel(), labels_of(z), average="macro", sample_weight=w),
    "auc": lambda z, y, w: 1 - sk_auc(z.astype(float), y, w),
    "r2": lambda z, y, w: 1 - sk.r2_score(y, z, sample_weight=w),
    "quantile": lambda z, y, w: sk.mean_pinball_loss(y, z, sample_weight=w),
    ("quantile", 0.9): lambda z, y, w: sk.mean_pinball_loss(y, z, sample_weight=w, alpha=0.9),
    ("quantile", 0.05): lambda z, y, w: sk.mean_pinball_loss(y, z, sample_weight=w, alpha=0.05),
}

CASES = [
    *[(metric, "cross_entropy", outputs) for metric in LABELS for outputs in (2, 3, 6)],
    *[(metric, "binary_cross_entropy", 1) for metric in LABELS],
    ("auc", "binary_cross_entropy", 3),
    *[(metric, loss, k) for metric in list(REFERENCE)[3:] for loss, k in (("mse", 1), ("mae", 3), ("huber", 2))],
]


def wrong(outputs, y):
    return (outputs.argmax(axis=2) != y).mean(axis=1)


# --- Parts of the data ------------------------------------------------------------------------------------------------


EVERY = [*CASES, ("loss", "cross_entropy", 3), ("error_rate", "binary_cross_entropy", 1), ("mae", "mse", 2)]
