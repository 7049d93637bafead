"""How soon Ctrl-C ends training in native loops, and how fast other threads of Python run meanwhile.

A timer thread sends SIGINT to this process at a random instant of a fit whose records are far apart, and the time until
``pg.fit`` has raised KeyboardInterrupt is measured. Then a thread counts in a loop of pure Python, alone and while the
main thread trains with one thread of its own.

python bench/interrupt.py [--times 100] [--seconds 1]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import threading
import time

import numpy as np

import popgrad as pg

NETWORKS = {"64-32-10, batch 32": ([64, 32, 10], 32), "784-512-512-10, batch 128": ([784, 512, 512, 10], 128)}


def train(sizes, batch, seconds):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20 * batch, sizes[0]), np.float32), rng.integers(sizes[-1], size=20 * batch)
    model = pg.MLP(sizes)
    budget = pg.Budget(seconds=seconds)
    pg.fit(model, X, y, optimizer=pg.optim.Adam(), batch_size=batch, budget=budget, record_every=10**15)


def delay_of(sizes, batch):
    sent = [0.0]

    def interrupt():
        sent[0] = time.perf_counter()
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(random.uniform(0.05, 0.15), interrupt)
    timer.start()
    try:
        train(sizes, batch, 60)
    except KeyboardInterrupt:
        return time.perf_counter() - sent[0]
    raise RuntimeError("the signal did not arrive")


def counted(seconds, work):
    """Counts a thread of Python per second, while `work` runs in this one."""
    count, stop = [0], threading.Event()

    def loop():
        while not stop.is_set():
            count[0] += 1

    thread = threading.Thread(target=loop)
    thread.start()
    began = time.perf_counter()
    work()
    speed = count[0] / (time.perf_counter() - began)
    stop.set()
    thread.join()
    return speed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100, help="interruptions of each network")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each count")
    options = parser.parse_args()
    for name, (sizes, batch) in NETWORKS.items():
        delays = sorted(delay_of(sizes, batch) for _ in range(options.times))
        middle, most = 1e3 * statistics.median(delays), 1e3 * delays[-1]
        print(f"{name}: Ctrl-C takes {middle:.0f} ms (median), {most:.0f} ms (most)")
    pg.set_num_threads(1)
    for name, (sizes, batch) in NETWORKS.items():
        ratios = []
        for _ in range(5):
            alone = counted(options.seconds, lambda: time.sleep(options.seconds))
            beside = counted(options.seconds, lambda: train(sizes, batch, options.seconds))  # noqa: B023
            ratios.append(beside / alone)
        print(f"{name}: another thread of Python keeps {statistics.median(ratios):.2f} of its speed")


if __name__ == "__main__":
    main()
