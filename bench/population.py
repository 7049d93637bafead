"""Fitness of a population, side by side with other ways to compute it, in one process.

    python bench/population.py [--networks 1024] [--repeats 9]

Networks 64-32-10 (relu, cross-entropy) on the 1,797 digits. The contenders take turns; shown are medians and
their ratio to popgrad. PyTorch (baddbmm) and JAX (vmap under jit) take part where they are installed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from sklearn.datasets import load_digits

import popgrad as pg

INPUTS, HIDDEN, OUTPUTS = 64, 32, 10


def slices(population):
    a, b, c = INPUTS * HIDDEN, (INPUTS + 1) * HIDDEN, (INPUTS + 1) * HIDDEN + HIDDEN * OUTPUTS
    P = len(population)
    return (
        population[:, :a].reshape(P, HIDDEN, INPUTS),
        population[:, a:b],
        population[:, b:c].reshape(P, OUTPUTS, HIDDEN),
        population[:, c:],
    )


def numpy_loop(population, X, y):
    rows = np.arange(len(X))

    def run():
        fitness = np.empty(len(population), np.float32)
        for p, (w1, b1, w2, b2) in enumerate(zip(*slices(population), strict=True)):
            z = np.maximum(X @ w1.T + b1, 0) @ w2.T + b2
            z -= z.max(axis=1, keepdims=True)
            fitness[p] = (np.log(np.exp(z).sum(axis=1)) - z[rows, y]).mean()
        return fitness

    return run


def torch_baddbmm(population, X, y):
    import torch

    w1, b1, w2, b2 = (torch.from_numpy(part.copy()) for part in slices(population))
    inputs, labels = torch.from_numpy(X), torch.from_numpy(y)
    P = len(population)

    def run():
        with torch.inference_mode():
            hidden = torch.baddbmm(b1[:, None], inputs.expand(P, -1, -1), w1.transpose(1, 2)).relu_()
            z = torch.baddbmm(b2[:, None], hidden, w2.transpose(1, 2))
            z = z.log_softmax(dim=2).gather(2, labels.expand(P, -1)[..., None])
            return (-z.squeeze(2).mean(dim=1)).numpy()

    return run


def jax_vmap(population, X, y):
    import jax
    import jax.numpy as jnp

    def loss(w1, b1, w2, b2):
        z = jnp.maximum(X @ w1.T + b1, 0) @ w2.T + b2
        return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean()

    parts = [jnp.asarray(part) for part in slices(population)]
    compiled = jax.jit(jax.vmap(loss))
    return lambda: np.asarray(compiled(*parts))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()

    X, y = load_digits(return_X_y=True)
    X = np.ascontiguousarray((X - X.mean(0)) / (X.std(0) + 1e-9), np.float32)
    model = pg.MLP([INPUTS, HIDDEN, OUTPUTS])
    rng = np.random.default_rng(0)
    population = (model.params + 0.05 * rng.normal(size=(arguments.networks, model.params.size))).astype(np.float32)

    contenders = {"popgrad": lambda: model.evaluate(population, X, y)}
    for name, make in {
        "NumPy, a loop": numpy_loop,
        "PyTorch baddbmm": torch_baddbmm,
        "JAX vmap, jit": jax_vmap,
    }.items():
        try:
            contenders[name] = make(population, X, y)
        except ImportError as error:
            print(f"{name} takes no part: {error}")
    expected = contenders["popgrad"]()
    for name, run in contenders.items():  # warms up, compiles, and sees that all compute the same
        np.testing.assert_allclose(run(), expected, rtol=2e-4, err_msg=name)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.repeats):
        for name, run in contenders.items():
            time.sleep(0.1)  # the threads of the one before may still spin, waiting for more
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    operations = 2 * (INPUTS * HIDDEN + HIDDEN * OUTPUTS) * len(X) * len(population)
    ours = statistics.median(times["popgrad"])
    print(
        f"{arguments.networks} networks {INPUTS}-{HIDDEN}-{OUTPUTS}, {len(X)} samples, {pg.get_num_threads()} threads"
    )
    print(f"{'':18}{'median ms':>10}{'GFLOP/s':>10}{'ratio':>8}")
    for name, measured in times.items():
        median = statistics.median(measured)
        print(f"{name:18}{1e3 * median:10.1f}{operations / median / 1e9:10.1f}{median / ours:8.1f}")


if __name__ == "__main__":
    main()
