"""Compare optimizer steps of popgrad.torch and PyTorch inside a training loop of forward, backward and step.

    python bench/torch_step.py [--rounds 15] [--threads 2] [--only Adam SGD] [--on 784-128-10] [--against fused]

Each optimizer trains a copy of the same module. The optimizers alternate in one process, with several steps per round.
Only `step()` is timed. A time is the median over the rounds. A ratio above 1 means that popgrad is faster by this
factor. "fused", "foreach" and "plain" are the three implementations of an optimizer in PyTorch. Some optimizers have no
fused implementation on the CPU.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

import popgrad
import popgrad.torch
from popgrad.system import installation

FUSED = ("Adam", "AdamW", "SGD", "Adagrad")
CASES: list[tuple[str, dict[str, Any]]] = [
    ("Adam", {}),
    ("AdamW", {}),
    ("SGD", {"momentum": 0.9}),
    ("Adagrad", {}),
    ("Adamax", {}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("Adadelta", {}),
    ("RMSprop", {}),
    ("Rprop", {}),
    ("ASGD", {}),
]
KINDS: dict[str, dict[str, Any]] = {"fused": {"fused": True}, "foreach": {"foreach": True}, "plain": {"foreach": False}}

# Layer sizes, batch size, and steps per round.
MODELS = {
    "64-32-10": ((64, 32, 10), 32, 100),
    "784-128-10": ((784, 128, 10), 128, 50),
    "256-256-10": ((256, 256, 10), 256, 50),
    "784-512-512-10": ((784, 512, 512, 10), 128, 20),
    "deep": ((128,) * 23, 128, 20),  # 22 layers
    "4096-4096": ((4096, 4096), 16, 3),  # 16 million parameters
}


def network(sizes: tuple[int, ...]) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def trained(make: Callable[[Any], Any], module: torch.nn.Module, X: Any, y: Any, steps: int) -> Callable[[], float]:
    """Return a function that trains a copy of the module for one round and returns the mean seconds of `step()`."""
    module = copy.deepcopy(module)
    optimizer, loss = make(module.parameters()), torch.nn.CrossEntropyLoss()

    def run() -> float:
        total = 0.0
        for _ in range(steps):
            optimizer.zero_grad()
            loss(module(X), y).backward()
            begin = time.perf_counter()
            optimizer.step()
            total += time.perf_counter() - begin
        return total / steps

    run()
    return run


def medians(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Seconds of a step for each run; the runs alternate, so that other load on the machine affects all of them."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(run())
    return {name: statistics.median(found) for name, found in times.items()}


def compare(name: str, arguments: dict[str, Any], model: str, kinds: list[str], rounds: int) -> dict[str, float]:
    """Seconds of a step of one optimizer on one model, for popgrad and the implementations of PyTorch."""
    sizes, batch, steps = MODELS[model]
    torch.manual_seed(0)
    module = network(sizes)
    X, y = torch.randn(batch, sizes[0]), torch.randint(sizes[-1], (batch,))
    runs = {"popgrad": trained(lambda p: getattr(popgrad.torch, name)(p, **arguments), module, X, y, steps)}
    for kind in kinds:
        if kind != "fused" or name in FUSED:
            make = getattr(torch.optim, name)
            runs[kind] = trained(lambda p, k=kind, f=make: f(p, **arguments, **KINDS[k]), module, X, y, steps)
    return medians(runs, rounds)


def main() -> None:
    names = [name for name, _ in CASES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--on", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--against", nargs="*", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    popgrad.set_num_threads(options.threads)
    print(f"PyTorch {torch.__version__}, {options.threads} threads, {installation()['instruction sets']}")
    for model in options.on:
        print(f"\n{model}, batch {MODELS[model][1]}")
        print(f"{'':10}{'popgrad':>12}{''.join(f'{kind:>9}' for kind in options.against)}   times faster")
        for name, arguments in CASES:
            if name in options.only:
                found = compare(name, arguments, model, options.against, options.rounds)
                ratios = {kind: f"{seconds / found['popgrad']:.2f}" for kind, seconds in found.items()}
                cells = "".join(f"{ratios.get(kind, '-'):>9}" for kind in options.against)
                print(f"{name:10}{found['popgrad'] * 1e6:9.1f} us{cells}", flush=True)


if __name__ == "__main__":
    main()
