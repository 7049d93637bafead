"""Benchmarks of steps against plain loops, and of population fitness and training against other libraries."""

from popgrad.bench.population import POPULATIONS, Evaluated, bench_population
from popgrad.bench.step import Measured, bench_step
from popgrad.bench.train import TRAININGS, Trained, TrainedMany, bench_train, bench_train_many

__all__ = [
    "POPULATIONS",
    "TRAININGS",
    "Evaluated",
    "Measured",
    "Trained",
    "TrainedMany",
    "bench_population",
    "bench_step",
    "bench_train",
    "bench_train_many",
]
