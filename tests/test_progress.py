"""What a study shows while it runs: the order of its jobs, the estimate, and the lines without a terminal."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from rich.console import Console

from popgrad.cli import compare as cli
from popgrad.compare.progress import Progress, duration


@dataclass(frozen=True, eq=False)
class Job:
    name: str
    cost: float = 1.0
    dataset: str = "data"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def run_all(progress, clock, seconds, watch=lambda: None):
    """Run the jobs, each as long as `seconds` says; returns the names in the order in which they ended."""
    ended, ends = [], {}
    while progress.waiting or progress.running:
        while progress.waiting and len(progress.running) < progress.workers:
            job = progress.start()
            ends[job] = clock.now + seconds(job)
        watch()
        job = min(progress.running, key=ends.__getitem__)
        clock.now = max(clock.now, ends[job])
        progress.finish(job, seconds(job))
        ended.append(job.name)
    watch()
    return ended


def slow_and_fast():
    return [Job(name, 10.0 if name == "slow" else 1.0) for _ in range(3) for name in ("a", "b", "slow", "c", "d")]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_short_jobs_end_first_and_the_slow_ones_not_last(workers):
    clock = Clock()
    jobs = slow_and_fast()
    ended = run_all(Progress(jobs, 0, workers, clock), clock, lambda job: job.cost)
    assert sorted(ended) == sorted(job.name for job in jobs)
    assert ended[0] != "slow"
    # No schedule is shorter than the work shared by all, or than the slow jobs on half of the workers.
    work, lanes = sum(job.cost for job in jobs), max(workers // 2, 1)
    assert clock.now <= max(work / workers, 10 * -(-3 // lanes)) + 10 * (workers > 1)


def test_an_estimate_comes_with_the_first_job_and_ends_exact():
    clock, seen = Clock(), []
    progress = Progress(slow_and_fast(), 5, 1, clock)
    run_all(progress, clock, lambda job: 2 * job.cost, lambda: seen.append((clock.now, progress.remaining())))
    assert seen[0] == (0, None)
    end = clock.now
    # All jobs take twice their cost, so what the first one shows holds for all.
    assert [left for _, left in seen[1:]] == pytest.approx([end - now for now, _ in seen[1:]])
    assert (progress.done, progress.total) == (20, 20)


def test_an_estimate_learns_what_an_entrant_takes():
    clock = Clock()
    jobs = [Job("a"), Job("b"), Job("b", dataset="other", cost=2.0), Job("a", dataset="other", cost=2.0)]
    progress = Progress(jobs, 0, 1, clock)
    progress.finish(progress.start(), 3.0)
    progress.finish(progress.start(), 8.0)
    assert progress.remaining() == pytest.approx(2 * 8 + 2 * 3)


def test_time_that_a_job_has_run_is_not_counted_again():
    clock = Clock()
    progress = Progress([Job("a"), Job("a"), Job("a")], 0, 1, clock)
    progress.finish(progress.start(), 10.0)
    progress.start()
    clock.now = 4.0
    assert progress.remaining() == pytest.approx(16)
    clock.now = 50.0  # longer than expected: no less than nothing is left of it
    assert progress.remaining() == pytest.approx(10)


def test_without_a_terminal_there_is_a_line_at_tenths_and_after_ten_seconds():
    clock, lines = Clock(), []
    progress = Progress([Job("adam") for _ in range(20)], 20, 1, clock)
    with cli._Lines(lines.append, clock) as shown:
        run_all(progress, clock, lambda _: 0.5, lambda: shown.show(progress))
        assert len(lines) == 4  # of ten tenths, half were there before; the last one is the end
        assert lines[0] == "popgrad: 24 of 40 runs done; 2 s elapsed; about 8 s left; running: adam"
    lines.clear()
    progress = Progress([Job("adam"), Job("sgd")], 0, 2, clock)
    progress.start()
    progress.start()
    with cli._Lines(lines.append, clock) as shown:
        for _ in range(25):
            clock.now += 1
            shown.show(progress)
    assert lines == [f"popgrad: 0 of 2 runs done; {seconds} s elapsed; running: adam, sgd" for seconds in (10, 20)]


def test_a_bar_shows_what_runs_and_what_is_left(monkeypatch, tmp_path):
    clock = Clock()
    with (tmp_path / "out").open("w") as file:
        monkeypatch.setattr(cli, "out", Console(file=file, width=80, force_terminal=True))
        progress = Progress([Job("adam"), Job("sgd", dataset="wine"), Job("adam")], 0, 1, clock)
        with cli._Bar() as bar:
            progress.finish(progress.start(), 30.0)
            progress.start()
            bar.show(progress)
    text = (tmp_path / "out").read_text()
    assert "sgd on wine" in text
    assert "1/3" in text
    assert "about 1 min left" in text


def test_durations_are_for_people():
    shown = {0.4: "0 s", 59.4: "59 s", 59.6: "1 min", 3540: "59 min", 3599: "1 h 0 min", 4800: "1 h 20 min"}
    assert {seconds: duration(seconds) for seconds in shown} == shown
