"""Benchmarks of steps against plain loops, and of population fitness against other libraries."""

from popgrad.bench.population import POPULATIONS, Evaluated, bench_population
from popgrad.bench.step import Measured, bench_step

__all__ = ["POPULATIONS", "Evaluated", "Measured", "bench_population", "bench_step"]
