"""Times the fitness of populations in popgrad, NumPy, PyTorch and JAX."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgrad import _core
from popgrad.checks import positive_int
from popgrad.models import MLP
from popgrad.perturbations import Perturbations

__all__ = ["LOW_RANK", "POPULATIONS", "Evaluated", "bench_population", "pause", "product_of"]

Array = NDArray[Any]

# Layer sizes, activation, members, samples.
POPULATIONS: tuple[tuple[tuple[int, ...], str, int, int], ...] = (
    ((64, 32, 10), "relu", 1024, 1797),
    ((8, 16, 3), "tanh", 4096, 256),
    ((64, 64, 64, 10), "relu", 256, 1797),
    ((784, 128, 10), "relu", 256, 1024),
)
# Noise of rank 1 around one center, compared with stored members.
LOW_RANK: tuple[tuple[int, ...], str, int, int] = ((784, 256, 10), "relu", 4096, 1024)


_PRODUCT = 2048  # rows and columns of the float32 product that rates are relative to


@dataclass(frozen=True)
class Evaluated:
    """Median seconds of the fitness (cross-entropy) of a population, in popgrad and other libraries.

    Args:
        sizes, activation: of each network; "rank 1" for noise of low rank (relu).
        members, samples: how many networks, on how many samples.
        seconds: by name: "popgrad"; "bfloat16", popgrad's own with that precision, where the processor has it;
            "stored", of noise of low rank, popgrad's own of as many stored members; other libraries; and "product",
            a product of two float32 matrices of 2,048 rows and columns by NumPy's BLAS, on its own threads.
        memory: bytes that one evaluation took beside its arguments and its result, or None where the system (not Linux)
            does not say.
    """

    sizes: tuple[int, ...]
    activation: str
    members: int
    samples: int
    seconds: Mapping[str, float]
    memory: int | None

    @property
    def is_equivalent(self) -> bool:
        """Whether `rate` counts operations that stored networks would need, not those executed."""
        return self.activation == "rank 1"

    @property
    def rate(self) -> float:
        """Floating-point operations per second in popgrad; for noise of low rank, the operations of stored networks."""
        products = sum(a * b for a, b in pairwise(self.sizes))
        return 2.0 * products * self.members * self.samples / self.seconds["popgrad"]

    @property
    def share(self) -> float:
        """`rate` relative to the rate of the product."""
        return self.rate * self.seconds["product"] / (2.0 * _PRODUCT**3)

    def ratio(self, name: str) -> float:
        """Return the time of `name` relative to popgrad."""
        return self.seconds[name] / self.seconds["popgrad"]


def bench_population(most: int | None = None, repeats: int = 7) -> Iterator[Evaluated]:
    """Measure the fitness of populations, in turns with every installed library.

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


def _problem(sizes: tuple[int, ...], activation: str, samples: int) -> tuple[np.random.Generator, MLP, Array, Array]:
    random = np.random.default_rng(0)
    X = random.standard_normal((samples, sizes[0]), np.float32)
    return random, MLP(sizes, activation), X, random.integers(sizes[-1], size=samples)


def _stored(random: np.random.Generator, model: MLP, members: int) -> Array:
    population = random.standard_normal((members, len(model.params)), np.float32)
    population *= np.float32(0.05)
    population += model.params
    return population


def _around(model: MLP, members: int) -> Perturbations:
    return Perturbations(model.params, 0.05, members, 0, rank=1, layout=model.layout)


def _medians(contenders: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each function, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            pause()
            run()  # wakes its threads and loads its data into the caches
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in times.items()}


def pause() -> None:
    """Wait until the threads of the previous function sleep. A virtual machine may wake them all on one processor."""
    end = time.perf_counter() + 0.1
    while time.perf_counter() < end:
        pass


def product_of() -> Callable[[], Any]:
    """A product of two float32 matrices of 2,048 rows and columns by NumPy's BLAS."""
    left, right = (np.random.default_rng(k).standard_normal((_PRODUCT, _PRODUCT), np.float32) for k in (0, 1))
    out = np.empty_like(left)
    return lambda: np.matmul(left, right, out=out)


def _evaluate(
    sizes: tuple[int, ...], activation: str, members: int, samples: int, most: int | None, repeats: int
) -> Evaluated:
    members = members if most is None else min(members, most)
    random, model, X, y = _problem(sizes, activation, samples)
    population = _stored(random, model, members)
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
    if _core.bfloat16():
        contenders["bfloat16"] = lambda: model.evaluate(population, X, y, precision="bfloat16")
    expected = contenders["popgrad"]()
    for name, run in contenders.items():  # warm up and compile
        if not np.allclose(run(), expected, rtol=1e-2 if name == "bfloat16" else 1e-3):
            raise RuntimeError(f"{name} computes something else")
    seconds = _medians({**contenders, "product": product_of()}, repeats)
    return Evaluated(sizes, activation, members, samples, seconds, _memory(sizes, activation, members, samples))


def _evaluate_low_rank(
    sizes: tuple[int, ...], activation: str, members: int, samples: int, most: int | None, repeats: int
) -> Evaluated:
    members = members if most is None else min(members, most + most % 2)
    _, model, X, y = _problem(sizes, activation, samples)
    noise = _around(model, members)
    few = noise.rows(0, min(members, 32))  # the time per member is the same for all
    if not np.allclose(model.evaluate(noise, X, y)[: len(few)], model.evaluate(few, X, y), rtol=1e-4):
        raise RuntimeError("noise of low rank is not that of the stored members")
    contenders = {"popgrad": lambda: model.evaluate(noise, X, y), "stored": lambda: model.evaluate(few, X, y)}
    seconds = _medians({**contenders, "product": product_of()}, repeats)
    seconds["stored"] *= members / len(few)
    return Evaluated(sizes, "rank 1", members, samples, seconds, _memory(sizes, "rank 1", members, samples))


# --- Memory -----------------------------------------------------------------------------------------------------------


def _memory(*row: Any) -> int | None:
    """Measure the memory of an evaluation in a new process, which has no freed memory to reuse."""
    code = f"import json; from popgrad.bench import population; print(json.dumps(population._peak(*{row!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: int | None = json.loads(done.stdout)
    return found


def _peak(sizes: tuple[int, ...], activation: str, members: int, samples: int) -> int | None:
    """Return the peak growth of this process in bytes during an evaluation, or None if it is unknown."""
    low_rank = activation == "rank 1"
    random, model, X, y = _problem(sizes, "relu" if low_rank else activation, samples)
    population = _around(model, members) if low_rank else _stored(random, model, members)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak size
    except OSError:
        return None
    before = _status("VmRSS")
    model.evaluate(population, X, y)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    """Return a size from /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


# --- The others -------------------------------------------------------------------------------------------------------


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
