"""Training with gradients in bfloat16 against float32: microseconds a step, and test accuracy on MNIST.

python bench/mixed_precision.py [--mnist FOLDER] [--seeds 10] [--epochs 10] [--rounds 15] [--samples 60000]

A step is a batch of 128 through gradient and Adam, in the native loop of ``pg.Trainer`` without records. Both
precisions train in turns in one process; the table shows medians over the rounds. For the accuracy, 784-256-10 trains
with both precisions from the same weights, in the same order, for every seed. The mean of the differences has a 95 %
interval by Student's t. FOLDER holds the four IDX files of MNIST, gzip.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from mnist import BATCH, SIZES, mnist
from scipy import stats

import popgrad as pg

SHAPES = [(64, 32, 10), (784, 128, 10), (784, 256, 10), (784, 512, 512, 10), (784, 2048, 2048, 10)]
PRECISIONS = ("float32", "bfloat16")


def steps_per_second(trainer, seconds=0.1):
    """The rate of the trainer's native loop; a record ends each call."""
    began, before = time.perf_counter(), trainer.step
    while time.perf_counter() - began < seconds:
        next(trainer)
    return (trainer.step - before) / (time.perf_counter() - began)


def speed(sizes, rounds):
    """Seconds per step, (2, rounds)."""
    rng = np.random.default_rng(0)
    samples = 8 * BATCH
    X, y = rng.normal(size=(samples, sizes[0])).astype(np.float32), rng.integers(sizes[-1], size=samples)
    multiplications = sum(a * b for a, b in pairwise(sizes))
    between = max(8, int(2e9 / (6 * BATCH * multiplications)))  # steps between records, which cost a pass at most
    trainers = []
    for precision in PRECISIONS:
        model = pg.MLP(sizes)
        trainer = pg.Trainer(
            model.objective(X, y),
            pg.optim.Adam(1e-4),
            model.params,
            epochs=10**9,
            batch_size=BATCH,
            record_every=3 * BATCH * between,
            precision=precision,
        )
        next(trainer)
        steps_per_second(trainer)
        trainers.append(trainer)
    return np.array([[1 / steps_per_second(trainer) for trainer in trainers] for _ in range(rounds)]).T


def accuracies(data, seeds, epochs):
    """Test accuracy for every seed in each precision, (seeds, 2)."""
    X, y, Xt, yt = data
    found = []
    for seed in range(seeds):
        found.append([])
        for precision in PRECISIONS:
            model = pg.MLP(SIZES, seed=seed)
            chosen = {"epochs": epochs, "batch_size": BATCH, "seed": seed, "precision": precision}
            pg.fit(model, X, y, optimizer=pg.optim.Adam(1e-3), progress=False, **chosen)
            found[-1].append(float((model.predict(Xt) == yt).mean()))
        print(f"  seed {seed}: {found[-1][0]:.4f} {found[-1][1]:.4f}", flush=True)
    return np.array(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--samples", type=int, default=60000, help="training images to use")
    options = parser.parse_args()
    print(f"{'gradient and step, batch 128':30} {'float32':>10} {'bfloat16':>10}   ratio")
    for sizes in SHAPES:
        times = speed(sizes, options.rounds)
        full, half = (float(np.median(t)) * 1e6 for t in times)
        ratio = float(np.median(times[0] / times[1]))
        print(f"{'-'.join(map(str, sizes)):30} {full:7.1f} us {half:7.1f} us   {ratio:.2f}", flush=True)
    if options.mnist is None:
        return
    X, y, Xt, yt = mnist(options.mnist)
    print(f"test accuracy of {'-'.join(map(str, SIZES))} after {options.epochs} epochs, {' and '.join(PRECISIONS)}")
    found = accuracies((X[: options.samples], y[: options.samples], Xt, yt), options.seeds, options.epochs)
    points = 100 * (found[:, 1] - found[:, 0])
    mean, half_width = points.mean(), np.nan
    if len(points) > 1:
        half_width = stats.t.ppf(0.975, len(points) - 1) * points.std(ddof=1) / len(points) ** 0.5
    print(f"means {found[:, 0].mean():.4f} and {found[:, 1].mean():.4f}")
    print(f"bfloat16 - float32: {mean:+.3f} points, 95 % interval {mean - half_width:+.3f} to {mean + half_width:+.3f}")


if __name__ == "__main__":
    main()
