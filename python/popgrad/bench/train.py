"""Times training by `popgrad.fit`, as users call it, and compares it with JAX, PyTorch and scikit-learn."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgrad import optim
from popgrad.bench.population import pause, product_of
from popgrad.checks import positive_int
from popgrad.models import MLP
from popgrad.train import fit, fit_many

__all__ = ["TRAININGS", "Trained", "TrainedMany", "bench_train", "bench_train_many"]

Array = NDArray[Any]

# Layer sizes, samples per step, samples per epoch. The first three are those of the targets.
TRAININGS: tuple[tuple[tuple[int, ...], int, int], ...] = (
    ((64, 32, 10), 32, 1792),
    ((784, 128, 10), 128, 12800),
    ((784, 512, 512, 10), 128, 6400),
    ((4, 8, 1), 1, 256),
    ((4, 8, 1), 32, 1024),
    ((13, 16, 3), 178, 178),
    ((64, 32, 10), 1, 1792),
    ((64, 32, 10), 1792, 1792),
    ((64, 64, 64, 10), 32, 1792),
    ((784, 32, 10), 32, 6400),
    ((784, 256, 10), 32, 6400),
    ((784, 256, 10), 1024, 12288),
    ((784, 2048, 2048, 10), 128, 1280),
)
_SECONDS = 0.4  # of each timing, at least


@dataclass(frozen=True)
class Trained:
    """Median microseconds of a training step with Adam.

    Args:
        sizes: of the network, relu, cross-entropy.
        batch_size: samples per step.
        microseconds: by name: "fit", `popgrad.fit` with all its records; "steps", the steps of the same fit alone;
            "JAX", a scan over the steps of an epoch in one compiled function, without records; "PyTorch", a loop over
            the same batches; "scikit-learn", `MLPClassifier.partial_fit`. Other libraries if they are installed.
        rate: floating-point operations per second of the products in the steps of popgrad.
        share: this rate relative to that of NumPy's product of two 2,048 x 2,048 float32 matrices, timed in turns.
    """

    sizes: tuple[int, ...]
    batch_size: int
    microseconds: Mapping[str, float]
    rate: float
    share: float

    def ratio(self, name: str, of: str = "fit") -> float:
        """The time of popgrad relative to that of `name`."""
        return self.microseconds[of] / self.microseconds[name]


@dataclass(frozen=True)
class TrainedMany:
    """Median seconds of training K networks for some epochs of digits-like data.

    Args:
        networks: number of networks, 64-32-10.
        seconds: by name: "fit_many"; "one by one", as many calls of `popgrad.fit`; "PyTorch", ``torch.func`` with
            ``vmap`` over the networks and a fused Adam, if it is installed.
    """

    networks: int
    seconds: Mapping[str, float]


def bench_train(repeats: int = 5, rows: int | None = None, peers: bool = True) -> Iterator[Trained]:
    """Measure training steps with Adam, in turns with every installed library, in one process.

    Args:
        repeats: how often each is timed; the median counts.
        rows: number of rows of `TRAININGS` to measure; default all.
        peers: whether to measure other libraries.

    Raises:
        InputError: a number is not such a number.
    """
    repeats = positive_int("bench train", "repeats", repeats)
    chosen = TRAININGS if rows is None else TRAININGS[: positive_int("bench train", "rows", rows)]
    return (_measure(*row, repeats, peers) for row in chosen)


def _measure(sizes: tuple[int, ...], batch: int, samples: int, repeats: int, peers: bool) -> Trained:
    X, y = _data(sizes, samples)
    makers: list[tuple[str, Callable[..., Callable[[int], float]]]] = [("fit", _with_fit)]
    if peers:
        makers += [("JAX", _with_jax), ("PyTorch", _with_torch), ("scikit-learn", _with_sklearn)]
    contenders: dict[str, Callable[[int], float]] = {}
    for name, make in makers:
        with contextlib.suppress(ImportError):
            contenders[name] = make(sizes, batch, X, y)
    epochs = {}
    for name, run in contenders.items():  # warm up and compile
        run(1)
        epochs[name] = max(2, math.ceil(_SECONDS / run(1)))
    epochs["fit"] = max(epochs["fit"], 5)
    steps = math.ceil(samples / batch)
    multiply = product_of()
    times: dict[str, list[float]] = {name: [] for name in (*contenders, "steps", "product")}
    for _ in range(repeats):
        for name, run in contenders.items():
            pause()
            times[name].append(run(epochs[name]) / (epochs[name] * steps))
            if name == "fit":
                times["steps"].append(_with_fit.steps / (epochs[name] * steps))
        pause()
        multiply()
        began = time.perf_counter()
        multiply()
        times["product"].append(time.perf_counter() - began)
    medians = {name: statistics.median(found) for name, found in times.items()}
    operations = sum(a * b for a, b in pairwise(sizes)) * 6 - 2 * sizes[0] * sizes[1]
    rate = operations * samples / steps / medians["steps"]
    share = rate * medians.pop("product") / (2.0 * 2048**3)
    return Trained(sizes, batch, {name: 1e6 * value for name, value in medians.items()}, rate, share)


def _data(sizes: Sequence[int], samples: int) -> tuple[Array, Array]:
    random = np.random.default_rng(0)
    X = random.standard_normal((samples, sizes[0]), np.float32)
    return X, random.integers(max(2, sizes[-1]), size=samples)


def _model(sizes: Sequence[int], seed: int = 0) -> MLP:
    return MLP(sizes, loss="cross_entropy" if sizes[-1] > 1 else "binary_cross_entropy", seed=seed)


class _WithFit:
    """`popgrad.fit`; `steps` holds the seconds of its steps alone."""

    steps = 0.0

    def __call__(self, sizes: tuple[int, ...], batch: int, X: Array, y: Array) -> Callable[[int], float]:
        def run(epochs: int) -> float:
            model = _model(sizes)
            began = time.perf_counter()
            history = fit(model, X, y, optimizer=optim.Adam(), epochs=epochs, batch_size=batch)
            seconds = time.perf_counter() - began
            self.steps = history.seconds[-1]
            return seconds

        return run


_with_fit = _WithFit()


def _layers(sizes: Sequence[int]) -> list[tuple[Array, Array]]:
    views = list(_model(sizes).views().values())
    return [(views[k].copy(), views[k + 1].copy()) for k in range(0, len(views), 2)]


def _with_jax(sizes: tuple[int, ...], batch: int, X: Array, y: Array) -> Callable[[int], float]:
    import jax
    import jax.numpy as jnp
    import optax  # type: ignore[import-untyped]

    rule, steps = optax.adam(1e-3), len(X) // batch

    def loss(params: Any, x: Any, t: Any) -> Any:
        z = x
        for k, (weight, bias) in enumerate(params):
            z = z @ weight.T + bias
            z = jax.nn.relu(z) if k + 1 < len(params) else z
        if sizes[-1] == 1:
            return optax.sigmoid_binary_cross_entropy(z[:, 0], t.astype(jnp.float32)).mean()
        return optax.softmax_cross_entropy_with_integer_labels(z, t).mean()

    def step(carry: Any, rows: Any) -> Any:
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, inputs[rows], labels[rows])
        updates, state = rule.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    def epoch(carry: Any, key: Any) -> Any:
        order = jax.random.permutation(key, len(X))[: steps * batch].reshape(steps, batch)
        return jax.lax.scan(step, carry, order)

    inputs, labels = jnp.asarray(X), jnp.asarray(y)
    compiled = jax.jit(epoch)

    def run(epochs: int) -> float:
        params = [(jnp.asarray(weight), jnp.asarray(bias)) for weight, bias in _layers(sizes)]
        carry, key = (params, rule.init(params)), jax.random.key(0)
        began = time.perf_counter()
        for _ in range(epochs):
            key, own = jax.random.split(key)
            carry, losses = compiled(carry, own)
        jax.block_until_ready((carry, losses))  # type: ignore[no-untyped-call]
        return time.perf_counter() - began

    return run


def _with_torch(sizes: tuple[int, ...], batch: int, X: Array, y: Array) -> Callable[[int], float]:
    import torch

    inputs, labels = torch.from_numpy(X), torch.from_numpy(y)
    if sizes[-1] == 1:
        labels = labels.float()[:, None]

    def run(epochs: int) -> float:
        parts: list[torch.nn.Module] = []
        for a, b in pairwise(sizes):
            parts += [torch.nn.Linear(a, b), torch.nn.ReLU()]
        net = torch.nn.Sequential(*parts[:-1])
        loss = torch.nn.CrossEntropyLoss() if sizes[-1] > 1 else torch.nn.BCEWithLogitsLoss()
        optimizer = torch.optim.Adam(net.parameters())
        began = time.perf_counter()
        for _ in range(epochs):
            order = torch.randperm(len(X))
            for first in range(0, len(X), batch):
                rows = order[first : first + batch]
                optimizer.zero_grad()
                loss(net(inputs[rows]), labels[rows]).backward()
                optimizer.step()
        return time.perf_counter() - began

    return run


def _with_sklearn(sizes: tuple[int, ...], batch: int, X: Array, y: Array) -> Callable[[int], float]:
    from sklearn.neural_network import MLPClassifier

    def run(epochs: int) -> float:
        net = MLPClassifier(
            list(sizes[1:-1]), batch_size=batch, max_iter=epochs, tol=0, n_iter_no_change=10**6, alpha=0
        )
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it did not converge
            net.fit(X, y)
        return time.perf_counter() - began

    return run


# --- Many networks --------------------------------------------------------------------------------------------------


def bench_train_many(networks: int = 64, epochs: int = 10, repeats: int = 5) -> TrainedMany:
    """Measure `popgrad.fit_many` against single fits and against PyTorch's ensembling, in turns.

    Args:
        networks: number of networks, 64-32-10, on 1,792 samples, batch 32, Adam.
        epochs: epochs of each; PyTorch trains one epoch, and its time is multiplied.
        repeats: how often each is timed; the median counts.

    Raises:
        InputError: a number is not such a number.
    """
    networks, epochs = (positive_int("bench train", "networks", value) for value in (networks, epochs))
    X, y = _data((64, 32, 10), 1792)
    chosen: dict[str, Any] = {"optimizer": optim.Adam(), "epochs": epochs, "batch_size": 32}

    def together() -> None:
        fit_many(_model((64, 32, 10)), X, y, seeds=range(networks), **chosen)

    def single() -> None:
        for seed in range(networks):
            fit(_model((64, 32, 10), seed), X, y, seed=seed, **chosen)

    contenders: dict[str, tuple[Callable[[], None], int]] = {"fit_many": (together, 1), "one by one": (single, 1)}
    with contextlib.suppress(ImportError):
        contenders["PyTorch"] = (_ensemble(networks, X, y), epochs)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(positive_int("bench train", "repeats", repeats) + 1):
        for name, (run, factor) in contenders.items():
            pause()
            began = time.perf_counter()
            run()
            if turn:  # the first turn warms up
                times[name].append(factor * (time.perf_counter() - began))
    return TrainedMany(networks, {name: statistics.median(found) for name, found in times.items()})


def _ensemble(networks: int, X: Array, y: Array) -> Callable[[], None]:
    """An epoch of PyTorch's model ensembling: `torch.func` with one sample order per network, and a fused Adam."""
    import torch
    from torch.func import functional_call, grad, stack_module_state, vmap

    nets = [
        torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)) for _ in range(networks)
    ]
    params, buffers = stack_module_state(nets)
    params = {name: value.detach().requires_grad_(True) for name, value in params.items()}
    base, inputs, labels = nets[0], torch.from_numpy(X), torch.from_numpy(y)
    optimizer = torch.optim.Adam(params.values(), fused=True)

    def loss(own: Any, own_buffers: Any, x: Any, t: Any) -> Any:
        return torch.nn.functional.cross_entropy(functional_call(base, (own, own_buffers), (x,)), t)

    gradients = vmap(grad(loss))

    def run() -> None:
        orders = torch.stack([torch.randperm(len(X)) for _ in range(networks)])
        for first in range(0, len(X), 32):
            rows = orders[:, first : first + 32]
            found = gradients(params, buffers, inputs[rows], labels[rows])
            for name, value in params.items():
                value.grad = found[name]
            optimizer.step()

    return run
