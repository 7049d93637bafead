"""Tracks the jobs of a study, chooses the next one, and estimates the remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

__all__ = ["Progress", "duration"]


class Costly(Protocol):
    """The attributes of a job that `Progress` reads."""

    @property
    def dataset(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def cost(self) -> float: ...


J = TypeVar("J", bound=Costly)
SLOW = 3  # a job is slow if its cost is this multiple of the median


class Progress(Generic[J]):
    """The jobs of a study: waiting, running and done.

    Jobs start in the order given, but slow jobs start as early as possible on up to half of the workers. So the slowest
    job does not start last. Short jobs finish early, which the estimate of the remaining time needs.

    Args:
        jobs: jobs to run, in order.
        done: number of runs that were finished before.
        workers: number of jobs that run at a time.
        clock: function that returns seconds.
    """

    def __init__(self, jobs: Iterable[J], done: int, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.waiting = list(jobs)
        self.done = done
        self.total = done + len(self.waiting)
        self.workers = max(1, min(workers, len(self.waiting)))
        self.running: dict[J, float] = {}  # start time of each
        self._clock = clock
        self._begun = clock()
        costs = sorted(job.cost for job in self.waiting)
        self._slow = SLOW * costs[len(costs) // 2] if costs else 0.0
        # Seconds and cost of the finished jobs, by (entrant, data set), by (entrant,), and in total.
        self._spent: dict[tuple[str, ...], tuple[float, float]] = {}

    def start(self) -> J:
        """Start the next job and return it."""
        slow = [job for job in self.waiting if job.cost >= self._slow]
        busy = sum(job.cost >= self._slow for job in self.running)
        if slow and busy < self.workers // 2:
            job = slow[0]
        else:
            job = next((job for job in self.waiting if job.cost < self._slow), self.waiting[0])
        if self.workers == 1:
            job = self.waiting[0]
        self.waiting.remove(job)
        self.running[job] = self._clock()
        return job

    def finish(self, job: J, seconds: float) -> None:
        """Move a job from running to done, and use its time for the estimate."""
        del self.running[job]
        self.done += 1
        for group in _groups(job):
            spent, cost = self._spent.get(group, (0.0, 0.0))
            self._spent[group] = spent + seconds, cost + job.cost

    @property
    def elapsed(self) -> float:
        """Seconds since the study began or continued."""
        return self._clock() - self._begun

    def remaining(self) -> float | None:
        """Estimate the seconds until all jobs are done, or return None before the first job has finished."""
        if () not in self._spent:
            return None
        now = self._clock()
        left = [max(self._expected(job) - (now - began), 0.0) for job, began in self.running.items()]
        left += map(self._expected, self.waiting)
        return max(sum(left) / self.workers, *left, 0.0) if left else 0.0

    def _expected(self, job: J) -> float:
        spent, cost = next(self._spent[group] for group in _groups(job) if group in self._spent)
        return spent / cost * job.cost


def _groups(job: Costly) -> tuple[tuple[str, ...], ...]:
    """Return the groups of jobs that predict the time of this job, the best predictor first."""
    return (job.name, job.dataset), (job.name,), ()


def duration(seconds: float) -> str:
    """Format a duration for people: "8 s", "3 min", "1 h 20 min"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
