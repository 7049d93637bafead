"""Kill ``popgrad compare`` with SIGKILL at random instants, and check that no result is lost, changed or run twice.

Each command asks for a random number of seeds, so the study is extended while it is killed and continued.

python bench/kill_compare.py [--kills 10] [--seed 0] [-- ARGUMENTS OF popgrad compare]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-c", "from popgrad.cli import main; main()", "compare"]
TIMES = ("seconds",)


def start(arguments, root):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*COMMAND, *arguments, "--name", "study"], cwd=root, **quiet)


def results(root):
    """All complete lines of the results, grouped by run, without times."""
    found: dict[tuple[str, str, int], list[dict]] = {}
    path = Path(root, "runs", "study", "results.jsonl")
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            run = json.loads(line)
        except ValueError:
            continue
        key = (run["dataset"], run["entrant"], run["seed"])
        run = {name: value for name, value in run.items() if name not in TIMES}
        run["curve"] = {name: value for name, value in run.get("curve", {}).items() if name not in TIMES}
        found.setdefault(key, []).append(run)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("arguments", nargs="*", help="arguments of popgrad compare")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as calm, tempfile.TemporaryDirectory() as rough:
        began = time.perf_counter()
        if start(options.arguments, calm).wait() != 0:
            sys.exit("the undisturbed run failed")
        length = time.perf_counter() - began
        expected = results(calm)
        seeds = json.loads(Path(calm, "runs", "study", "config.json").read_bytes())["seeds"]
        print(f"undisturbed: {len(expected)} runs in {length:.1f} s")
        kill = done = 0
        while kill < options.kills:
            asked = chance.randint(1, seeds)
            process = start([*options.arguments, "--seeds", str(asked)], rough)
            delay = chance.uniform(0, length)
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kill += 1
                ended = f"kill {kill}: after {delay:.2f} s"
            else:
                ended = "ended by itself"
            before, done = done, len(results(rough))
            print(f"{ended}, {asked} of {seeds} seeds, {done} runs done ({done - before} new)")
            if done < before:
                sys.exit("finished results were lost")
            if done == len(expected):
                check(results(rough), expected)
                shutil.rmtree(Path(rough, "runs"))
                print("complete, with the same results; again from the beginning")
                done = 0
        if start(options.arguments, rough).wait() != 0:
            sys.exit("the last run failed")
        check(results(rough), expected)
        print(f"the same {len(expected)} results as undisturbed, none run twice")


def check(found, expected):
    twice = [key for key, runs in found.items() if len(runs) > 1]
    if twice or found != expected:
        sys.exit(f"results differ: run twice {twice}, {len(found)} of {len(expected)} runs")


if __name__ == "__main__":
    main()
