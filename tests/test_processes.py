"""The core inside a Python process: forks, other threads, Ctrl-C, the end of the interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import popgrad as pg


def run_script(script, timeout=60):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_child_of_fork_can_evaluate():
    script = """
import os, signal, numpy as np, popgrad as pg
pg.set_num_threads(4)
model = pg.MLP([20, 32, 5])
rng = np.random.default_rng(0)
X, y = rng.normal(size=(3000, 20)), rng.integers(5, size=3000)
population = rng.normal(size=(9, len(model.params)))
tasks = lambda: len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
before = tasks()
expected = model.evaluate(population, X, y).tobytes()
assert tasks() in (0, before + 3), "the work was not threaded"
for _ in range(3):
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that hangs
        same = model.evaluate(population, X, y).tobytes() == expected
        value, gradient = model.gradient(X, y)
        os._exit(0 if same and np.isfinite(gradient).all() else 1)
    assert os.waitpid(child, 0)[1] == 0, "the child hung, crashed or got another result"
    assert model.evaluate(population, X, y).tobytes() == expected
print("done")
"""
    done = run_script(script)
    assert done.stdout == "done\n", done.stderr


@pytest.mark.parametrize("what", ["evaluate", "gradient", "forward"])
def test_another_thread_runs_beside_the_kernels(what):
    """The interpreter hands over the GIL only when it is released: a switch interval has no end here."""
    model = pg.MLP([64, 128, 10])
    data = model.objective(np.random.default_rng(0).normal(size=(4000, 64)), np.arange(4000) % 10)
    out, z = np.empty_like(model.params), np.empty((4000, 10), np.float32)
    population = np.tile(model.params, (4, 1))
    data.values(population)  # packs the samples
    calls = {
        "evaluate": lambda: data.values(population),
        "gradient": lambda: data.gradient(model.params, pg.Batch(), out),
        "forward": lambda: model.network.forward(model.params[None], data.X, z[None]),
    }
    count, ended = [0], threading.Event()

    def work():
        while not ended.wait(1e-5):
            count[0] += 1

    beside = threading.Thread(target=work)
    interval = sys.getswitchinterval()
    beside.start()
    sys.setswitchinterval(1000)
    try:
        ran = False
        for _ in range(200):
            before = count[0]
            calls[what]()
            ran = ran or count[0] > before
            if ran:
                break
        assert ran, "no other thread ran during 200 calls: the GIL is held"
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        beside.join()


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("what", ["stored", "drawn", "low rank", "combine", "combine low rank"])
def test_interrupt_ends_a_long_call(what):
    """It leaves a part of the output as it was: a call that ran to its end, and the handler after it, would not."""
    script = f"""
import os, signal, threading, time, numpy as np, popgrad as pg
model = pg.MLP([40, 40, 5])
rng = np.random.default_rng(0)
data = model.objective(rng.normal(size=(1000, 40)), rng.integers(5, size=1000))  # one part, summed in one go
packed = data._pack(False, None, False)
def prepare(members):
    rank = 1 if "low rank" in {what!r} else None
    noise = pg.Perturbations(model.params, 0.1, members, 0, rank=rank, layout=model.layout)
    stored = np.tile(model.params, (members if {what!r} == "stored" else 1, 1))
    out = np.full(members, np.nan)
    if {what!r} == "stored":
        return lambda: model.network.evaluate(("cross_entropy", 0.0), stored, packed, out), out
    if "combine" in {what!r}:
        total, weights = np.full(len(model.params), np.nan, np.float32), rng.normal(size=members)
        return lambda: noise.noise.combine(weights, total), total
    return lambda: model.network.evaluate_noise(("cross_entropy", 0.0), noise.noise, noise.center, packed, out), out
members, seconds = 200, 0
while seconds < 0.6:  # long enough on any machine
    members *= 2
    call, out = prepare(members)
    began = time.perf_counter()
    call()
    seconds = time.perf_counter() - began
assert not np.isnan(out).any()
class Enough(Exception): pass
def stop(*_): raise Enough
signal.signal(signal.SIGINT, stop)
call, out = prepare(4 * members)
out.fill(np.nan)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    call()
except Enough:
    print("ended", np.isnan(out).any() or not out.all())
signal.signal(signal.SIGINT, signal.SIG_DFL)
call, out = prepare(200)
call()
assert np.isfinite(out).all()
"""
    done = run_script(script)
    assert done.stdout == "ended True\n", done.stderr


@pytest.mark.parametrize("threads", [1, 3])
def test_python_may_end_while_a_daemon_computes(threads):
    script = f"""
import threading, time, numpy as np, popgrad as pg
model = pg.MLP([64, 64, 10])
data = model.objective(np.ones((1000, 64)), np.arange(1000) % 10)
population, begun = np.tile(model.params, (50, 1)), threading.Event()
def work():
    while True:
        data.values(population)
        begun.set()
for _ in range({threads}):
    threading.Thread(target=work, daemon=True).start()
begun.wait()
print("done", flush=True)
"""
    for _ in range(3):
        done = run_script(script)
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("optimizer", ["optim.Adam()", "search.PSO()"])
def test_interrupt_ends_fit_and_leaves_finite_parameters(optimizer):
    script = f"""
import signal, numpy as np, popgrad as pg
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
rng = np.random.default_rng(0)
model = pg.MLP([20, 32, 5])
X, y = rng.normal(size=(2000, 20)), rng.integers(5, size=2000)
say = lambda model, history: print("record", flush=True) if len(history.loss) == 2 else None
try:
    pg.fit(model, X, y, optimizer=pg.{optimizer}, budget=pg.Budget(forwards=1e15), callbacks=[say])
except KeyboardInterrupt:
    print("interrupted", np.isfinite(model.params).all())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "record\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=10)[0] == "interrupted True\n"
        finally:
            process.kill()
