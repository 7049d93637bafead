"""How fast this machine is at steps, beside loops with the same streams, and at populations, beside other libraries."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from popgrad import _core
from popgrad.backends import aligned
from popgrad.checks import InputError, fail, one_of, positive_int
from popgrad.model import MLP
from popgrad.optim import REGISTRY, Optimizer
from popgrad.perturbations import Perturbations
from popgrad.system import memory_bytes

__all__ = ["Evaluated", "Measured", "bench_population", "bench_step"]

# Those whose state in fewer bits is worth a line of its own.
_PACKED = ("adam", "adamw", "lion", "momentum")
_PLAIN_STATES = 4  # the plain loops have 0 to 4 states


@dataclass(frozen=True)
class Measured:
    """Medians of one optimizer's step, and of the plain loop measured in turns with it.

    Args:
        name: of the optimizer, with the type of its state if that is not the parameters'.
        parameters: how many a step moved.
        bytes_per_parameter: that a step must read and write.
        seconds: of a step.
        plain_bytes: per parameter, of the plain loop whose streams are nearest.
        plain_seconds: of that loop.
    """

    name: str
    parameters: int
    bytes_per_parameter: float
    seconds: float
    plain_bytes: int
    plain_seconds: float

    @property
    def bandwidth(self) -> float:
        """Bytes per second of the step."""
        return self.bytes_per_parameter * self.parameters / self.seconds

    @property
    def share(self) -> float:
        """Of the plain loop's bandwidth."""
        return self.bandwidth / (self.plain_bytes * self.parameters / self.plain_seconds)


def bench_step(n: int, names: Sequence[str] | None = None, repeats: int = 9) -> Iterator[Measured]:
    """Measure steps of `n` float32 parameters, one optimizer after the other.

    Small `n` show the cost of a call more than that of the sweep.

    Args:
        n: parameters, >= 1; of 16 million no vector stays in a cache.
        names: in `popgrad.optim.REGISTRY`. Default: all.
        repeats: how often each is timed; the median counts.

    Raises:
        InputError: a name is unknown, a number is not such a number, or the vectors do not fit into memory.
    """
    n, repeats = positive_int("bench step", "n", n), positive_int("bench step", "repeats", repeats)
    chosen = [one_of("bench step", "optimizer", name, REGISTRY) for name in (REGISTRY if names is None else names)]
    need = 4 * n * 2 * (3 + _PLAIN_STATES)
    if need > (memory := memory_bytes()):
        fail("bench step", f"n={n:,} needs {need / 2**30:.1f} GiB of memory, there are {memory / 2**30:.1f}")
    return _bench(n, chosen, repeats)


def _bench(n: int, names: Sequence[str], repeats: int) -> Iterator[Measured]:
    for name in names:
        make = cast(Callable[..., Optimizer], REGISTRY[name])
        yield _measure(name, make(), n, repeats)
        for stored in ("bfloat16", "8bit") if name in _PACKED else ():
            try:
                packed = make(state_dtype=stored)
            except InputError:  # its rule may have no such state
                continue
            yield _measure(f"{name} {stored}", packed, n, repeats)


def _measure(name: str, optimizer: Optimizer, n: int, repeats: int) -> Measured:
    params, gradient = _vector(n, 1), _vector(n, 2)
    state = optimizer.init(params)
    needed = optimizer.bytes_per_parameter
    # A sweep without states moves 12 bytes a parameter, each state 8 more.
    k = min(max(round((needed - 12) / 8), 0), _PLAIN_STATES)
    w, g, slots = _vector(n, 3), _vector(n, 4), aligned((k, n), np.float32)

    def step() -> None:
        optimizer.step(params, gradient, state)

    def plain() -> None:
        _core.step(-1 - k, (1e-6,), w, g, slots)

    steps = max(1, 1_000_000 // n)  # in one timing, for a clock that counts microseconds
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for body, times in zip((step, plain), seconds, strict=True):
            start = time.perf_counter()
            for _ in range(steps):
                body()
            times.append((time.perf_counter() - start) / steps)
    own, others = (statistics.median(times[1:]) for times in seconds)  # the first steps bring the memory in
    return Measured(name, n, needed, own, 12 + 8 * k, others)


def _vector(n: int, seed: int) -> NDArray[Any]:
    """Random numbers, the same block over and over: how long a step takes does not depend on them."""
    vector = aligned(n, np.float32)
    vector[:] = np.resize(np.random.default_rng(seed).standard_normal(4096).astype(np.float32), n)
    return vector


# --- Populations --------------------------------------------------------------------------------------------------

# Layer sizes, activation, members, samples.
POPULATIONS: tuple[tuple[tuple[int, ...], str, int, int], ...] = (
    ((64, 32, 10), "relu", 1024, 1797),
    ((8, 16, 3), "tanh", 4096, 256),
    ((64, 64, 64, 10), "relu", 256, 1797),
    ((784, 128, 10), "relu", 256, 1024),
)
# Noise of rank 1 around one center, beside stored members.
LOW_RANK: tuple[tuple[int, ...], str, int, int] = ((784, 256, 10), "relu", 4096, 1024)


@dataclass(frozen=True)
class Evaluated:
    """Median seconds that the fitness (cross-entropy) of a population took, here and elsewhere.

    For noise of low rank, "stored" is popgrad's own evaluation of as many stored members, and `rate` counts what their
    products would be.

    Args:
        sizes, activation: of each network.
        members, samples: how many networks, on how many samples.
        seconds: by name, "popgrad" among them.
    """

    sizes: tuple[int, ...]
    activation: str
    members: int
    samples: int
    seconds: dict[str, float]

    @property
    def rate(self) -> float:
        """Floating-point operations of the products per second, here."""
        products = sum(a * b for a, b in pairwise(self.sizes))
        return 2.0 * products * self.members * self.samples / self.seconds["popgrad"]

    def ratio(self, name: str) -> float:
        """How many times as long as popgrad `name` took."""
        return self.seconds[name] / self.seconds["popgrad"]


def bench_population(most: int | None = None, repeats: int = 7) -> Iterator[Evaluated]:
    """Measure the fitness of whole populations, by turns with every other way that is installed.

    These are a loop in NumPy, PyTorch's ``baddbmm`` and JAX's ``vmap`` under ``jit``. That all compute the same is seen
    before anything is measured.

    Args:
        most: members of a population at most; default as in ``POPULATIONS``.
        repeats: how often each is timed; the median counts.

    Raises:
        InputError: a number is not such a number.
    """
    repeats = positive_int("bench population", "repeats", repeats)
    limit = None if most is None else positive_int("bench population", "networks", most)
    rows = (_evaluate(*row, limit, repeats) for row in POPULATIONS)
    return chain(rows, (_evaluate_low_rank(*row, limit, repeats) for row in (LOW_RANK,)))


def _evaluate(
    sizes: tuple[int, ...], activation: str, members: int, samples: int, most: int | None, repeats: int
) -> Evaluated:
    members = members if most is None else min(members, most)
    random = np.random.default_rng(0)
    X = random.standard_normal((samples, sizes[0]), np.float32)
    y = random.integers(sizes[-1], size=samples)
    model = MLP(sizes, activation)
    noise = random.standard_normal((members, len(model.params)), np.float32)
    population = model.params + np.float32(0.05) * noise
    layers, first = [], 0
    for inputs, outputs in pairwise(sizes):
        last = first + inputs * outputs
        layers.append(
            (population[:, first:last].reshape(members, outputs, inputs), population[:, last : last + outputs])
        )
        first = last + outputs
    contenders: dict[str, Callable[[], Any]] = {"popgrad": lambda: model.evaluate(population, X, y)}
    for name, make in (("NumPy", _with_numpy), ("PyTorch", _with_torch), ("JAX", _with_jax)):
        with contextlib.suppress(ImportError):
            contenders[name] = make(layers, activation, X, y)
    expected = contenders["popgrad"]()
    for name, run in contenders.items():  # warms up, and compiles
        if not np.allclose(run(), expected, rtol=1e-3):
            raise RuntimeError(f"{name} computes something else")
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            time.sleep(0.1)  # the threads of the one before may still wait for more
            run()  # wakes its own threads, and brings its data into the caches
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    seconds = {name: statistics.median(found) for name, found in times.items()}
    return Evaluated(sizes, activation, members, samples, seconds)


def _evaluate_low_rank(
    sizes: tuple[int, ...], activation: str, members: int, samples: int, most: int | None, repeats: int
) -> Evaluated:
    members = members if most is None else min(members, most + most % 2)
    random = np.random.default_rng(0)
    model = MLP(sizes, activation)
    X, y = random.standard_normal((samples, sizes[0]), np.float32), random.integers(sizes[-1], size=samples)
    data = model.data(X, y)
    noise = Perturbations(
        model.params, 0.05, members, 0, rank=1, shapes=[view.shape for view in model.views().values()]
    )
    few = noise.rows(0, min(members, 32))  # all of them would take as long each
    if not np.allclose(data.evaluate(noise)[: len(few)], data.evaluate(few), rtol=1e-4):
        raise RuntimeError("noise of low rank is not that of the stored members")
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for population, found, share in ((noise, times[0], 1.0), (few, times[1], len(few) / members)):
            began = time.perf_counter()
            data.evaluate(population)
            found.append((time.perf_counter() - began) / share)
    seconds = {"popgrad": statistics.median(times[0]), "stored": statistics.median(times[1])}
    return Evaluated(sizes, "rank 1", members, samples, seconds)


def _with_numpy(layers: Any, activation: str, X: Any, y: Any) -> Callable[[], Any]:
    rows = np.arange(len(X))

    def run() -> Any:
        fitness = np.empty(len(layers[0][0]), np.float32)
        for p in range(len(fitness)):
            z = X
            for k, (weight, bias) in enumerate(layers):
                z = z @ weight[p].T + bias[p]
                if k + 1 < len(layers):
                    z = np.maximum(z, 0) if activation == "relu" else np.tanh(z)
            z -= z.max(axis=1, keepdims=True)
            fitness[p] = (np.log(np.exp(z).sum(axis=1)) - z[rows, y]).mean()
        return fitness

    return run


def _with_torch(layers: Any, activation: str, X: Any, y: Any) -> Callable[[], Any]:
    import torch

    parts = [tuple(torch.from_numpy(part.copy()) for part in layer) for layer in layers]
    inputs, labels = torch.from_numpy(X), torch.from_numpy(y)
    act = torch.relu_ if activation == "relu" else torch.tanh_
    P = len(parts[0][0])

    def run() -> Any:
        with torch.inference_mode():
            z = inputs.expand(P, -1, -1)
            for k, (weight, bias) in enumerate(parts):
                z = torch.baddbmm(bias[:, None], z, weight.transpose(1, 2))
                z = act(z) if k + 1 < len(parts) else z
            z = z.log_softmax(dim=2).gather(2, labels.expand(P, -1)[..., None])
            return (-z.squeeze(2).mean(dim=1)).numpy()

    return run


def _with_jax(layers: Any, activation: str, X: Any, y: Any) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    act = jax.nn.relu if activation == "relu" else jnp.tanh

    def loss(parts: Any) -> Any:
        z = X
        for k, (weight, bias) in enumerate(parts):
            z = z @ weight.T + bias
            z = act(z) if k + 1 < len(parts) else z
        return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean()

    parts = [tuple(jnp.asarray(part) for part in layer) for layer in layers]
    compiled = jax.jit(jax.vmap(loss))
    return lambda: np.asarray(compiled(parts))
