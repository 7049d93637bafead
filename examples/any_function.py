"""Minimize any function of a population, with bounds, by asking and telling."""

import numpy as np

import popgrad as pg


def rastrigin(x):
    """Rows of x, (P, n), to values, (P,); many local minima, and zero at the origin."""
    return 10 * x.shape[1] + (x**2 - 10 * np.cos(2 * np.pi * x)).sum(axis=1)


result = pg.minimize(
    rastrigin,
    x0=np.full(5, 3.0),
    search=pg.search.DE(popsize=50),
    budget=pg.Budget(evaluations=50_000),
    bounds=(-5.12, 5.12),
)
print(f"minimize: f = {result.f:.2e} after {result.evaluations} evaluations")

# The same by hand, where the fitness comes from elsewhere: a simulator, a robot, a person.
run = pg.search.PSO(popsize=32).start(np.full(5, 3.0), seed=1, bounds=(-5.12, 5.12))
for _ in range(300):
    population = run.ask()
    run.tell(rastrigin(population))
print(f"ask and tell: f = {run.best_f:.2e} after {run.evaluations} evaluations")
