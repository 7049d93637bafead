"""Compare populations that are never stored with stored populations, side by side in one process.

    python bench/perturbations.py [--popsize 4096] [--stored 128] [--repeats 7]

The first table compares normal numbers from popgrad and NumPy on one thread. The second compares the fitness of
784-256-10 (relu, cross-entropy) on 1,024 samples: noise of full rank, noise of rank 1, and stored members. The time of
`--stored` members is scaled up to `--popsize`, without the time to draw them. The contenders alternate; times are
medians. `--million` evaluates and combines 10^6 candidates of 64-32-10 on 256 samples and prints the peak memory.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

import numpy as np

import popgrad as pg


def medians(contenders, repeats):
    """Median seconds of each contender; the contenders alternate."""
    seconds = {name: [] for name in contenders}
    for _ in range(repeats + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def noise(repeats):
    n, members = 1 << 16, 64
    random, out = np.random.default_rng(0), np.empty(n * members, np.float32)
    population = pg.Perturbations(np.zeros(n, np.float32), 1.0, members, 0, antithetic=False)
    weights = random.normal(size=members)
    threads = pg.get_num_threads()
    pg.set_num_threads(1)
    taken = medians(
        {
            "numpy standard_normal": lambda: random.standard_normal(dtype=np.float32, out=out),
            "rows": lambda: population.rows(0, members),
            "combine": lambda: population.combine(weights),
        },
        repeats,
    )
    pg.set_num_threads(threads)
    for name, seconds in taken.items():
        ratio = taken["numpy standard_normal"] / seconds
        print(f"{name:24} {seconds / (n * members) * 1e9:6.2f} ns a normal number   {ratio:6.2f}")


def evaluation(popsize, stored, repeats):
    model = pg.MLP([784, 256, 10])
    random = np.random.default_rng(0)
    data = model.objective(random.normal(size=(1024, 784)), random.integers(0, 10, 1024))
    full = pg.Perturbations(model.params, 0.05, stored, 0)
    low = pg.Perturbations(model.params, 0.05, popsize, 0, rank=1, layout=model.layout)
    rows, weights = full.rows(0, stored), random.normal(size=popsize)
    taken = medians(
        {
            "stored members": lambda: data.values(rows),
            "full rank": lambda: data.values(full),
            "rank 1": lambda: data.values(low),
            "rank 1, combine": lambda: low.combine(weights),
        },
        repeats,
    )
    for name in ("stored members", "full rank"):
        taken[name] *= popsize / stored
    for name, seconds in taken.items():
        print(f"{name:24} {seconds:8.3f} s for {popsize:,}   {taken['stored members'] / seconds:6.2f}")


def million():
    model = pg.MLP([64, 32, 10])
    random = np.random.default_rng(0)
    data = model.objective(random.normal(size=(256, 64)), random.integers(0, 10, 256))
    for rank in (1, None):
        population = pg.Perturbations(model.params, 0.1, 1_000_000, 0, rank=rank, layout=model.layout)
        start = time.perf_counter()
        values = data.values(population)
        middle = time.perf_counter()
        population.combine(values)
        end = time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"10^6 candidates, rank {rank}: evaluate {middle - start:.1f} s, combine {end - middle:.2f} s, "
            f"peak {peak:.0f} MiB"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--popsize", type=int, default=4096)
    parser.add_argument("--stored", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--million", action="store_true")
    arguments = parser.parse_args()
    if arguments.million:
        million()
        return
    noise(arguments.repeats)
    evaluation(arguments.popsize, arguments.stored, arguments.repeats)


if __name__ == "__main__":
    main()
