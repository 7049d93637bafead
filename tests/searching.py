"""Runs of searches on problems with a known minimum."""

from __future__ import annotations

from search_cases import PROBLEMS

SPHERE = PROBLEMS["sphere"]


def go(method, generations, *, x0=SPHERE.x0, seed=0, bounds=None, f=SPHERE.f, run=None):
    run = run or method.start(x0, seed, bounds)
    for _ in range(generations):
        run.tell(f(run.ask()))
    return run
