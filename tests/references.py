"""Optimizers of other libraries, run step by step over given gradients.

Each function takes parameters (n,) and gradients (steps, n), both float32 or both float64, and returns the parameters
after the last step. `first` is what a schedule of ours is called with at the first step: 0 with ``matches``, else 1;
the libraries' own schedulers, which count from 0, call it. All that a library computes beside its arrays is of their
type too: what it would round to float32
even for float64 parameters (learning rates, counters) is told not to. optax and Keras run in a process of their own,
since JAX adds types to NumPy, and handlers of fork, for all that come after it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import multiprocessing
import operator
import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

INSTALLED = {
    "torch": importlib.util.find_spec("torch") is not None,
    "optax": importlib.util.find_spec("optax") is not None,
    "keras": all(importlib.util.find_spec(name) is not None for name in ("keras", "jax")),
}


def load(name: str) -> Any:
    with warnings.catch_warnings():  # of deprecations mostly, and none of ours: tests make errors of them
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def run_torch(reference: tuple[str, dict[str, Any]], rate: Any, first: int, w: Any, gradients: Any) -> Any:
    """`reference`: a class of torch.optim and its arguments; `rate`: a schedule ``t -> float``, or None."""
    torch = load("torch")
    name, arguments = reference
    # Of the default type are numbers that NAdam and ASGD carry along: in float32 they would lose nine digits.
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, str(w.dtype)))
    try:
        parameter = torch.tensor(w, requires_grad=True)
        optimizer = getattr(torch.optim, name)([parameter], **arguments | ({"lr": 1.0} if rate else {}))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda count: rate(count + first) if rate else 1.0)
        for gradient in gradients:
            parameter.grad = torch.tensor(gradient)
            optimizer.step()
            schedule.step()
    finally:
        torch.set_default_dtype(before)
    return parameter.detach().numpy()


def run_optax(reference: list[tuple[str, dict[str, Any]]], rate: Any, first: int, w: Any, gradients: Any) -> Any:
    """`reference`: functions of optax, chained, with their arguments. Schedules are among these, as functions of t."""
    jax, optax = load("jax"), load("optax")
    load("optax.contrib")

    def value(given: Any) -> Any:
        return (lambda count: given(count + first)) if callable(given) else given

    links = []
    for name, arguments in reference:
        links.append(operator.attrgetter(name)(optax)(**{key: value(given) for key, given in arguments.items()}))
    with jax.enable_x64(True):  # for float32 arrays too: RAdam's rho would lose four digits of float32's seven
        optimizer, parameter = optax.chain(*links), jax.numpy.asarray(w)
        state = optimizer.init(parameter)
        for gradient in gradients:
            updates, state = optimizer.update(jax.numpy.asarray(gradient), state, parameter)
            parameter = optax.apply_updates(parameter, updates)
        return np.array(parameter)


def run_keras(reference: tuple[str, dict[str, Any]], rate: Any, first: int, w: Any, gradients: Any) -> Any:
    """`reference`: a class of keras.optimizers and its arguments; `rate`: a schedule ``t -> float``, or None."""
    jax, keras = load("jax"), load("keras")
    name, arguments = reference

    def schedule(rate: Any) -> Any:
        class Schedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc, name-defined]
            def __call__(self, step: Any) -> Any:
                return rate(int(step) + first)

        return Schedule()

    before = keras.config.floatx()
    keras.config.set_floatx(str(w.dtype))  # the type of the learning rate
    try:
        with jax.enable_x64(w.dtype == np.float64):
            if rate is not None:
                arguments = arguments | {"learning_rate": schedule(rate)}
            optimizer = getattr(keras.optimizers, name)(**arguments)
            parameter = keras.Variable(w, dtype=str(w.dtype))
            for gradient in gradients:
                optimizer.apply([jax.numpy.asarray(gradient)], [parameter])
            return np.array(parameter)
    finally:
        keras.config.set_floatx(before)


def optax_schedule(name: str, arguments: list[Any], steps: int) -> list[float]:
    """The values of a schedule of optax at its steps 0, 1, ...; an argument (name, arguments) is a schedule too."""
    jax, optax = load("jax"), load("optax")

    def made(given: Any) -> Any:
        if isinstance(given, tuple):
            return getattr(optax, given[0])(*map(made, given[1]))
        return [made(each) for each in given] if isinstance(given, list) else given

    with jax.enable_x64(True):
        schedule = made((name, arguments))
        return [float(schedule(jax.numpy.asarray(step, "float64"))) for step in range(steps)]


RUN = {"torch": run_torch, "optax": run_optax, "keras": run_keras}


def _begin() -> None:
    warnings.simplefilter("ignore")
    os.environ |= {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}


@functools.cache
def process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin)


def close() -> None:
    """End the process, if there is one."""
    if process.cache_info().currsize:
        process().shutdown()
        process.cache_clear()


STEPS = 20


def problem(dtype: str) -> tuple[Any, Any]:
    """Parameters and gradients. These are of all sizes from 1e-8 to 1, so that it shows where an epsilon stands."""
    rng = np.random.default_rng(2)
    w = rng.normal(size=1000).astype(dtype)
    return w, (rng.normal(size=(STEPS, w.size)) * 10 ** rng.uniform(-8, 0, w.size)).astype(dtype)


def ours(optimizer: Any, dtype: str) -> Any:
    w, gradients = problem(dtype)
    state = optimizer.init(w)
    for gradient in gradients:
        optimizer.step(w, gradient, state)
    return w


def error(w: Any, expected: Any) -> float:
    assert w.shape == expected.shape
    return float(np.abs(w.astype(np.float64) - expected).max() / np.abs(expected).max())


def gap(optimizer: Any, library: str, reference: Any, dtype: str) -> float:
    """Between `optimizer` and `reference`, an optimizer of `library`, after the last step; in units of max |w|."""
    w, gradients = problem(dtype)
    rate = optimizer.learning_rate if callable(optimizer.learning_rate) else None
    call = (RUN[library], reference, rate, 1 if optimizer.matches is None else 0, w, gradients)
    theirs = call[0](*call[1:]) if library == "torch" else process().submit(*call).result(timeout=300)
    assert theirs.dtype == w.dtype
    return error(ours(optimizer, dtype), theirs)


def formula_gap(case: Any, dtype: str) -> float:
    """The same, to the formula in float64; parameters and gradients are those of `dtype`."""
    w, gradients = problem(dtype)
    exact, kept = w.astype(np.float64), {}
    for t, gradient in enumerate(gradients.astype(np.float64), 1):
        exact = case.exact(exact, gradient, kept, t)
    return error(ours(case.optimizer, dtype), exact)
