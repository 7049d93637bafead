"""Steps of popgrad.torch on PyTorch's own threads: the bits, the limits, and what a fork leaves of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="popgrad.torch needs PyTorch")

from popgrad import _core  # noqa: E402

borrows = pytest.mark.skipif(
    not _core.borrow_threads("libtorch_cpu.so"), reason="this PyTorch has no OpenMP threads to borrow"
)

# digest() trains a network whose step is worth three threads; tasks() counts the threads of the process.
BEGIN = """
import hashlib, os, torch, popgrad, popgrad.torch
def tasks():
    return len(os.listdir("/proc/self/task"))
def work():
    return torch.randn(1 << 20).square().sum()  # on all of PyTorch's threads
def digest(steps=3, scale=1.0):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(n)) for n in (250_000, 7, 50_001)]
    optimizer = popgrad.torch.Adam(params)
    random = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=random) * scale
        work()
        optimizer.step()
    tensors = [*params, *[s[name] for s in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]]
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()
"""


def output_of(script, **environment):
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "2", "POPGRAD_NUM_THREADS": "2"} | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_bits_do_not_depend_on_the_threads_of_either():
    found = output_of("""
for theirs in 1, 2:
    for ours in 1, 2, 3:
        torch.set_num_threads(theirs)
        popgrad.set_num_threads(ours)
        print(digest())
""")
    assert len(found) == 6
    assert len(set(found)) == 1


@borrows
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_a_step_starts_threads_only_where_pytorch_has_none():
    found = output_of("""
for theirs, ours in ((2, 2), (2, 3), (2, 1), (1, 3)):
    torch.set_num_threads(theirs)
    popgrad.set_num_threads(ours)
    work()
    before = tasks()
    digest()
    print(tasks() - before)
""")
    assert found == ["0", "0", "0", "2"]


@borrows
def test_a_step_uses_as_many_threads_as_popgrad_may():
    """The processor time of a step on one thread is the time that it takes, however many threads PyTorch has."""
    found = output_of("""
import time
torch.set_num_threads(4)
p = torch.nn.Parameter(torch.zeros(4_000_000))
p.grad = torch.ones_like(p)
optimizer = popgrad.torch.Adam([p])
optimizer.step()
def others():  # ticks of the processor that the threads which did not call have used
    used = 0
    for task in os.listdir("/proc/self/task"):
        if int(task) != os.getpid():
            fields = open(f"/proc/self/task/{task}/stat").read().rsplit(")", 1)[1].split()
            used += int(fields[11]) + int(fields[12])
    return used
for count in 1, 4:
    popgrad.set_num_threads(count)
    time.sleep(0.3)  # until the threads sleep
    before = others()
    for _ in range(50):
        optimizer.step()
    print(others() - before)
""")
    assert int(found[0]) <= 1 < int(found[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_child_of_a_fork_steps_on_threads_of_its_own():
    found = output_of("""
import signal
params = [torch.nn.Parameter(torch.ones(300_000)) for _ in range(2)]
for p in params:
    p.grad = torch.full_like(p, 0.5)
optimizer = popgrad.torch.Adam(params)
def step():
    optimizer.step()
    return hashlib.sha256(params[0].detach().numpy().tobytes()).hexdigest()
optimizer.step()
work()
child = os.fork()
if child == 0:  # it calls no function of PyTorch's that runs on several threads: GNU's OpenMP hangs there
    signal.alarm(30)
    before = tasks()
    print(step(), tasks() - before, popgrad._core.borrow_threads("libtorch_cpu.so"), flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1], step())
""")
    in_child, started, borrowed, status, here = found
    assert (started, borrowed, status) == ("1", "False", "0")
    assert in_child == here


def test_denormal_numbers_are_kept_on_borrowed_threads():
    script = """
torch.set_flush_denormal({flush})  # the threads that PyTorch starts from here on inherit it
torch.set_num_threads(2)
work()
print(digest(scale=1e-21))  # whose squares are denormal
"""
    plain = output_of(script.format(flush=False), POPGRAD_NUM_THREADS="1")
    assert output_of(script.format(flush=True)) == plain


def test_a_library_that_is_not_loaded_has_no_threads():
    found = output_of('import ctypes; print(popgrad._core.borrow_threads("libtorch_cpu.so"))')
    assert found in (["True"], ["False"])
    script = (
        'import popgrad._core as core; print(core.borrow_threads("libtorch_cpu.so"), core.borrow_threads("libc.so.6"))'
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "False False\n", done.stderr
