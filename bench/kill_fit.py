"""Kill ``pg.fit`` with SIGKILL at random instants while it writes checkpoints every few steps, and continue it.

After every kill, each checkpoint must be complete and none that was there may be gone. The finished run must equal a
run without kills and checkpoints, bit for bit. Every process runs with another number of threads.

python bench/kill_fit.py [--kills 100] [--sizes 10kB,10MB] [--seed 0] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import popgrad as pg
from popgrad import checkpoint as files

# Layers, steps between checkpoints, and epochs of 16 steps, by the size of a checkpoint with Adam.
SIZES = {"10kB": ([16, 20, 4], 2, 12), "10MB": ([256, 1900, 4], 3, 3)}
METHODS = {"10kB": [pg.optim.Adam(0.01), pg.optim.Lookahead(pg.optim.SGD(0.01)), pg.search.DE(popsize=8)]}


def fit(size, method, threads, **chosen):
    """What a run leaves: the parameters, and the history without times."""
    pg.set_num_threads(threads)
    layers, _, epochs = SIZES[size]
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(160, layers[0])).astype(np.float32), rng.integers(layers[-1], size=160)
    model = pg.MLP(layers, seed=1)
    given = {"epochs": epochs, "batch_size": 8, "validation": 0.2, "progress": False}
    history = pg.fit(model, X, y, optimizer=method, **(given | chosen))
    lists = [getattr(history, name) for name in ("forwards", "evaluations", "loss", "metric", "validation_loss")]
    return [model.params.tobytes(), history.reason, history.best, *lists]


def child(work):
    """Run `work` in a forked process; its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def ended(pid, delay):
    """Kill a process after `delay` seconds; whether it had ended by itself, and its status."""
    late = time.monotonic() + delay
    while time.monotonic() < late:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return True, status
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return not os.WIFSIGNALED(status), status


def result_of(size, method, path, **chosen):
    """The result of a run in a process of its own, and its seconds."""
    began = time.monotonic()
    pid = child(lambda: files.write_file(path, pickle.dumps(fit(size, method, 2, **chosen))))
    if os.waitpid(pid, 0)[1] != 0:
        sys.exit("a run that was not killed failed")
    return pickle.loads(path.read_bytes()), time.monotonic() - began


def look(folder, newest):
    """(newest complete step, files lost, files corrupt) of a folder; `newest`: what it was before."""
    steps, corrupt = [], 0
    for path in folder.glob("step-*.safetensors"):
        try:
            files.load(path, checksum=True)
        except pg.InputError:
            corrupt += 1
        else:
            steps.append(int(path.stem.removeprefix("step-")))
    step = max(steps, default=0)
    return step, int(step < newest), corrupt


def torture(size, method, kills, chance, root):
    """Kill runs until `kills` are reached; the counts."""
    quiet, _ = result_of(size, method, root / "quiet")
    folder, result = root / "checkpoints", root / "result"
    saves = {"checkpoint": pg.Checkpoint(folder, every_seconds=None, every_steps=SIZES[size][1]), "resume": folder}
    same, length = result_of(size, method, result, **saves)
    counts = {"kills": 0, "lost": 0, "corrupt": 0, "runs": 0, "equal": 0, "temporaries": 0}
    if same != quiet:
        sys.exit("a run with checkpoints differs from one without")
    shutil.rmtree(folder)
    newest = 0
    while counts["kills"] < kills or newest:
        threads = chance.randint(1, 3)
        result.unlink(missing_ok=True)
        pid = child(lambda n=threads: files.write_file(result, pickle.dumps(fit(size, method, n, **saves))))
        enough = counts["kills"] >= kills
        alone, status = ended(pid, 600 if enough else chance.uniform(0, length / 2))
        counts["kills"] += not alone
        newest, lost, corrupt = look(folder, newest)
        counts["lost"] += lost
        counts["corrupt"] += corrupt
        counts["temporaries"] += len(list(folder.glob(".step-*")))
        if alone and status != 0:
            sys.exit("a run that continued failed")
        if alone:
            counts["runs"] += 1
            counts["equal"] += pickle.loads(result.read_bytes()) == quiet
            shutil.rmtree(folder)
            newest = 0
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each size and method")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to write; default: a temporary folder")
    options = parser.parse_args()
    good = True
    for size in options.sizes.split(","):
        methods = METHODS.get(size, [pg.optim.Adam(0.01)])
        for place, method in enumerate(methods):
            kills = options.kills // len(methods) + (place < options.kills % len(methods))
            chance, began = random.Random(f"{options.seed} {size} {place}"), time.monotonic()
            with tempfile.TemporaryDirectory(dir=options.folder) as root:
                counts = torture(size, method, kills, chance, Path(root))
            shown = ", ".join(f"{name} {count}" for name, count in counts.items() if name != "temporaries")
            tail = f"(half-written temporary files seen: {counts['temporaries']}; {time.monotonic() - began:.0f} s)"
            print(f"{size} {method.described()}: {shown} {tail}", flush=True)
            good &= counts["lost"] == counts["corrupt"] == 0 and counts["equal"] == counts["runs"] > 0
    sys.exit(None if good else "checkpoints were lost or corrupt, or a run differs")


if __name__ == "__main__":
    main()
