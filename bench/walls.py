"""Run every search with bounds: do coordinates get stuck at a bound, and is the search better than random search?

    python bench/walls.py [--draws 200] [--evaluations 5000] [--dimensions 2,10,30] [--only pso,de]

The optimum and the start are drawn uniformly in the box (0, 1). The first table shows the share of runs that end with
a coordinate exactly at a bound. In brackets is the share of runs that end within 1e-6 of a bound while the optimum is
farther away from it. The table also shows the median distance from the optimum in the worst coordinate. The second
table shows the median value on the sphere in (-5, 5), with random search as the baseline. All searches use their
default settings.
"""

from __future__ import annotations

import argparse

import numpy as np

import popgrad as pg
from popgrad.search import REGISTRY

FUNCTIONS = {"sphere": 1.0, "ellipsoid": 1e6}


def minimum(name, n, condition, seed, evaluations, box=(0.0, 1.0), at=None):
    """Run once on an ellipsoid; return the end point and the optimum, in widths of the box, and the final value."""
    random = np.random.default_rng([seed, n])
    lower, upper = box
    optimum = random.uniform(lower, upper, n) if at is None else np.full(n, at)
    weights = condition ** np.linspace(0, 1, n)
    result = pg.minimize(
        lambda x: ((x - optimum) ** 2 * weights).sum(1),
        random.uniform(lower, upper, n),
        search=REGISTRY[name](),
        budget=pg.Budget(evaluations=evaluations),
        bounds=box,
        seed=seed,
    )
    return (result.x - lower) / (upper - lower), (optimum - lower) / (upper - lower), result.f


def on_walls(name, n, condition, draws, evaluations):
    """Shares of runs with a coordinate at a bound and close to a bound, and the median of the largest distances."""
    exactly = nearly = 0
    distances = []
    for seed in range(draws):
        x, optimum, _ = minimum(name, n, condition, seed, evaluations)
        room = np.minimum(x, 1 - x)
        exactly += (room == 0).any()
        nearly += ((room < 1e-6) & (np.abs(x - optimum) > 1e-5)).any()
        distances.append(np.abs(x - optimum).max())
    return exactly / draws, nearly / draws, np.median(distances)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--evaluations", type=int, default=5000)
    parser.add_argument("--dimensions", default="2,10,30")
    parser.add_argument("--only", default=",".join(REGISTRY))
    arguments = parser.parse_args()
    dimensions = [int(n) for n in arguments.dimensions.split(",")]
    names = arguments.only.split(",")

    print(
        f"runs that end on a wall (nearly) and median of the largest distance; {arguments.draws} draws, "
        f"{arguments.evaluations} evaluations"
    )
    columns = [(function, n) for function in FUNCTIONS for n in dimensions]
    print(f"{'':20}" + "".join(f"{f'{function} {n}':>28}" for function, n in columns))
    for name in names:
        cells = []
        for function, n in columns:
            exactly, nearly, distance = on_walls(name, n, FUNCTIONS[function], arguments.draws, arguments.evaluations)
            cells.append(f"{f'{exactly:.1%} ({nearly:.1%})  {distance:.1e}':>28}")
        print(f"{name:20}" + "".join(cells), flush=True)

    print(f"\nmedian value on the sphere in (-5, 5), {arguments.draws // 8} draws")
    columns = [(n, evaluations) for n in dimensions for evaluations in (500, 2000, 20_000)]
    print(f"{'':20}" + "".join(f"{f'n={n} {evaluations}':>16}" for n, evaluations in columns))
    for name in names:
        values = [
            np.median([minimum(name, n, 1.0, s, evaluations, (-5.0, 5.0), 0.0)[2] for s in range(arguments.draws // 8)])
            for n, evaluations in columns
        ]
        print(f"{name:20}" + "".join(f"{value:16.2e}" for value in values), flush=True)


if __name__ == "__main__":
    main()
