"""Measure whether a stacked product would be faster for the first layer of wide networks.

    python bench/wide.py [--repeats 7]

All candidates see the same samples. A BLAS could therefore compute the first layers of a population as one product of
the stacked weights and X. The table shows rates in GFLOP/s: `model.evaluate` on the whole network in float32 and
bfloat16, and the stacked product of the first layer alone by the BLAS of NumPy. The latter is an upper bound for a
stacked first layer. The measurements alternate in one process. `POPGRAD_ISA=avx2 OPENBLAS_CORETYPE=Haswell` emulates a
processor without AVX-512.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise

import numpy as np

import popgrad as pg
from popgrad import _core

NETWORKS = [  # sizes, members
    ((784, 10), 512),
    ((784, 16, 10), 512),
    ((784, 128, 10), 128),
    ((784, 1024, 10), 16),
    ((64, 2048, 10), 64),
    ((256, 1024, 1024, 10), 8),
    ((3072, 512, 10), 8),
    ((10_000, 64, 10), 16),
    ((30_000, 32, 2), 8),
]
SAMPLES = 1024


def rates(sizes, members, repeats):
    """GFLOP/s of each measurement, by name."""
    random = np.random.default_rng(0)
    model = pg.MLP(sizes)
    X, y = random.standard_normal((SAMPLES, sizes[0]), np.float32), random.integers(sizes[-1], size=SAMPLES)
    population = model.params + np.float32(0.05) * random.standard_normal((members, len(model.params)), np.float32)
    hidden, inputs = sizes[1], sizes[0]
    stacked = np.concatenate([row[: hidden * inputs].reshape(hidden, inputs) for row in population])
    outputs = np.empty((len(stacked), SAMPLES), np.float32)
    data = model.objective(X, y)
    whole, first = (
        2.0 * products * members * SAMPLES for products in (sum(a * b for a, b in pairwise(sizes)), hidden * inputs)
    )
    contenders = {
        "float32": (data.evaluator(), whole),
        "stacked": (lambda _: np.matmul(stacked, X.T, out=outputs), first),
    }
    if _core.bfloat16():
        contenders["bfloat16"] = (data.evaluator(bfloat16=True), whole)
    seconds = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, (run, _) in contenders.items():
            end = time.perf_counter() + 0.1  # idle threads of the previous measurement may still spin
            while time.perf_counter() < end:
                pass
            run(population)
            began = time.perf_counter()
            run(population)
            seconds[name].append(time.perf_counter() - began)
    return {name: contenders[name][1] / statistics.median(times) / 1e9 for name, times in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    used = _core.bfloat16() or _core.isa()
    print(f"{'network':24}{'members':>8}{'float32':>9}{'stacked':>9}{'bfloat16':>10}   ({used})")
    for sizes, members in NETWORKS:
        found = rates(sizes, members, repeats)
        half = f"{found['bfloat16']:10.0f}" if "bfloat16" in found else f"{'-':>10}"
        print(
            f"{'-'.join(map(str, sizes)):24}{members:8}{found['float32']:9.0f}{found['stacked']:9.0f}{half}", flush=True
        )


if __name__ == "__main__":
    main()
