"""MNIST with 784-256-10: test accuracy and wall time of ``pg.fit`` beside PyTorch and JAX, for the same epochs.

All train with Adam, learning rate 1e-3, batches of 128, on the 60,000 training images, in turns in one process. Times
include everything from the arrays in memory to the trained network; JAX's compilation is not included.

python bench/mnist.py FOLDER [--epochs 20] [--seeds 3]     FOLDER: the four IDX files of MNIST, gzip
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import time
from pathlib import Path

import numpy as np

import popgrad as pg

SIZES, BATCH = (784, 256, 10), 128


def idx(path):
    """An array from an IDX file."""
    content = gzip.decompress(path.read_bytes())
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def mnist(folder):
    """X_train, y_train, X_test, y_test; inputs in [0, 1]."""
    parts = []
    for part in ("train", "t10k"):
        images = idx(folder / f"{part}-images-idx3-ubyte.gz")
        parts += [images.reshape(len(images), -1).astype(np.float32) / 255]
        parts += [idx(folder / f"{part}-labels-idx1-ubyte.gz").astype(np.int64)]
    return parts


def with_popgrad(X, y, Xt, yt, epochs, seed):
    model = pg.MLP(SIZES, seed=seed)
    steps = pg.schedules.steps_of(epochs=epochs, samples=len(X), batch_size=BATCH)
    rate = pg.schedules.Cosine(1e-3, steps)
    began = time.perf_counter()
    pg.fit(model, X, y, optimizer=pg.optim.Adam(rate), epochs=epochs, batch_size=BATCH, seed=seed)
    return time.perf_counter() - began, float((model.predict(Xt) == yt).mean())


def with_torch(X, y, Xt, yt, epochs, seed):
    import torch

    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    optimizer = torch.optim.Adam(net.parameters())
    steps = -(-len(X) // BATCH) * epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    inputs, labels = torch.from_numpy(X), torch.from_numpy(y)
    began = time.perf_counter()
    for _ in range(epochs):
        order = torch.randperm(len(X))
        for first in range(0, len(X), BATCH):
            rows = order[first : first + BATCH]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(inputs[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    seconds = time.perf_counter() - began
    with torch.inference_mode():
        return seconds, float((net(torch.from_numpy(Xt)).argmax(1).numpy() == yt).mean())


def with_jax(X, y, Xt, yt, epochs, seed):
    import jax
    import jax.numpy as jnp
    import optax

    steps = len(X) // BATCH
    rule = optax.adam(optax.cosine_decay_schedule(1e-3, steps * epochs))
    inputs, labels = jnp.asarray(X), jnp.asarray(y)

    def outputs(params, x):
        (W1, b1), (W2, b2) = params
        return jax.nn.relu(x @ W1 + b1) @ W2 + b2

    def step(carry, rows):
        params, state = carry
        found, gradient = jax.value_and_grad(
            lambda p: optax.softmax_cross_entropy_with_integer_labels(outputs(p, inputs[rows]), labels[rows]).mean()
        )(params)
        updates, state = rule.update(gradient, state)
        return (optax.apply_updates(params, updates), state), found

    @jax.jit
    def epoch(carry, key):
        order = jax.random.permutation(key, len(X))[: steps * BATCH].reshape(steps, BATCH)
        return jax.lax.scan(step, carry, order)[0]

    random = np.random.default_rng(seed)
    params = [
        (jnp.asarray(random.uniform(-1, 1, (a, b)).astype(np.float32) * (6 / a) ** 0.5), jnp.zeros(b))
        for a, b in ((784, 256), (256, 10))
    ]
    key, carry = jax.random.key(seed), (params, rule.init(params))
    jax.block_until_ready(epoch(carry, key))
    began = time.perf_counter()
    for _ in range(epochs):
        key, own = jax.random.split(key)
        carry = epoch(carry, own)
    jax.block_until_ready(carry)
    seconds = time.perf_counter() - began
    return seconds, float((np.asarray(outputs(carry[0], Xt)).argmax(1) == yt).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data = mnist(options.folder)
    results = {}
    for seed in range(options.seeds):
        for name, run in (("popgrad", with_popgrad), ("PyTorch", with_torch), ("JAX", with_jax)):
            try:
                results.setdefault(name, []).append(run(*data, options.epochs, seed))
            except ImportError:
                continue
    for name, found in results.items():
        seconds = statistics.median(second for second, _ in found)
        accuracies = ", ".join(f"{accuracy:.4f}" for _, accuracy in found)
        print(f"{name}: {seconds:.1f} s for {options.epochs} epochs; test accuracy {accuracies}")


if __name__ == "__main__":
    main()
