"""Train on a file that is larger than the memory that the process may use, and print the memory and the time.

python bench/big_file.py [--gigabytes 6] [--columns 256] [--folder /tmp] [--way disk|stream|map|command]

The script writes a float32 file of random inputs and one of labels, trains one epoch in a child process, and removes
the files. Private memory (Pss_Anon in /proc/self/smaps_rollup) is what the process allocates. The pages of a mapped
file (Pss_File) belong to the page cache: the kernel drops them when memory is short. Resident memory is both.

"disk" drops the file from the page cache, and reads random rows, as pg.fit does from a mapped file, and random blocks,
as BatchStream.from_arrays does. Their ratio is that of the training times if the file does not fit in the page cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROWS = 20_000  # rows written at a time
WAYS = ("disk", "stream", "map", "command")


def main() -> None:
    """Make the files, and train in a child process, so that its memory is that of the training alone."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--gigabytes", type=float, default=6.0)
    options.add_argument("--columns", type=int, default=256)
    options.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options.add_argument("--way", choices=WAYS, default=None, help="Default: all, one after another.")
    options.add_argument("--cold", action="store_true", help="Drop the file from the page cache before the training.")
    options.add_argument("--train", type=Path, default=None, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.train is not None:
        train(chosen.train, chosen.way, chosen.columns)
        return
    size = int(chosen.gigabytes * 1e9)
    free = shutil.disk_usage(chosen.folder).free
    if free < 1.1 * size:
        sys.exit(f"{chosen.folder} has {free / 1e9:.1f} GB free, and the file needs {size / 1e9:.1f} GB")
    folder = Path(tempfile.mkdtemp(prefix="big_file_", dir=chosen.folder))
    try:
        write(folder, size // (4 * chosen.columns), chosen.columns)
        for way in WAYS if chosen.way is None else (chosen.way,):
            if way == "disk":
                read(folder / "X.npy")
                continue
            if chosen.cold:
                drop(folder / "X.npy")
            arguments = ["--train", str(folder), "--way", way, "--columns", str(chosen.columns)]
            subprocess.run([sys.executable, __file__, *arguments], check=True)
    finally:
        shutil.rmtree(folder)


def write(folder: Path, rows: int, columns: int) -> None:
    """Write inputs and labels that a linear model can learn."""
    began = time.perf_counter()
    random = np.random.default_rng(0)
    inputs = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float32, (rows, columns))
    labels = np.empty(rows, np.int64)
    for first in range(0, rows, ROWS):
        part = random.standard_normal((min(ROWS, rows - first), columns), np.float32)
        inputs[first : first + len(part)] = part
        labels[first : first + len(part)] = part[:, :4].sum(axis=1) > 0
    inputs.flush()
    np.save(folder / "y.npy", labels)
    seconds = time.perf_counter() - began
    size = f"{4 * rows * columns / 1e9:.2f} GB"
    print(f"wrote {rows:,} rows of {columns} columns, {size}, in {seconds:.0f} s", flush=True)


def drop(path: Path) -> None:
    """Drop a file from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def read(path: Path) -> None:
    """Print the speed of reading random rows and random blocks that are not in the page cache."""
    random = np.random.default_rng(0)
    for what, count, size in (("random rows", 4096, 1), ("random blocks of 8 MiB", 30, None)):
        drop(path)
        inputs = np.load(path, mmap_mode="r")
        rows = size or (8 << 20) // inputs[:1].nbytes
        starts = random.permutation(len(inputs) // rows)[:count] * rows
        began = time.perf_counter()
        for start in starts:
            inputs[start : start + rows].copy()
        speed = len(starts) * rows / (time.perf_counter() - began)
        print(f"disk: {what}: {speed:,.0f} rows a second, {speed * inputs[:1].nbytes / 1e6:,.0f} MB/s", flush=True)


class Watch:
    """Samples the memory of this process in a thread."""

    def __init__(self) -> None:
        self.anonymous = self.file = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(0.05):
            lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
            found = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
            self.anonymous = max(self.anonymous, found["Pss_Anon"])
            self.file = max(self.file, found["Pss_File"])

    def stop(self) -> None:
        """End the thread."""
        self._done.set()
        self._thread.join()


def train(folder: Path, way: str, columns: int) -> None:
    """Train one epoch, and print the peak of the memory and the time."""
    import popgrad as pg
    from popgrad.cli import app

    watch = Watch()
    began = time.perf_counter()
    X, y = folder / "X.npy", folder / "y.npy"
    if way == "command":
        app(["fit", f"{X}:{y}", "--epochs", "1", "--batch-size", "256"], standalone_mode=False)
    else:
        model = pg.MLP([columns, 32, 2])
        inputs, labels = np.load(X, mmap_mode="r"), np.load(y)
        if way == "map":
            history = pg.fit(model, inputs, labels, optimizer=pg.optim.Adam(), epochs=1, batch_size=256, validation=0.1)
        else:
            source = pg.BatchStream.from_arrays(inputs, labels, batch_size=256)
            history = pg.fit(model, source, optimizer=pg.optim.Adam(), epochs=1)
        print(f"training loss {history.loss[-1]:.3f}, {history.reason}")
    seconds = time.perf_counter() - began
    watch.stop()
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(
        f"{way}: {seconds:.0f} s; peak of private memory {watch.anonymous / 1e6:.2f} GB, of mapped pages "
        f"{watch.file / 1e6:.2f} GB, resident {peak / 1e6:.2f} GB",
        flush=True,
    )


if __name__ == "__main__":
    main()
