"""Steps of popgrad.torch against PyTorch's own, side by side in one process: medians of alternating runs.

    python bench/torch_step.py [--repeats 11] [--threads 2] [--only Adam SGD] [--on sixty mlp large]

Ratios above 1: popgrad is that many times faster. "fused", "foreach" and "plain" are PyTorch's three implementations
of a class; where it has no fused one on the CPU, its default is the plain one. Gradients stay the same tensors, or are
new ones at every step, as after `zero_grad()` and a backward pass.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
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


def sixty() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.randn(int(n))) for n in np.geomspace(10, 100_000, 60)]


def mlp() -> list[torch.nn.Parameter]:
    layers = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    return list(layers.parameters())


def large() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.randn(16_000_000))]


# What is stepped, its name, and steps in one timing.
MODELS = {
    "sixty": (sixty, "60 tensors, 10 to 100,000 elements", 50),
    "mlp": (mlp, "MLP 64-32-10", 50),
    "large": (large, "one tensor of 16 million elements", 2),
}


def medians(runs: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Seconds for each, by turns, so that what else happens on the machine meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(run())
    return {name: statistics.median(found) for name, found in times.items()}


def timed(optimizer: Any, params: list[Any], steps: int, fresh: bool) -> Callable[[], float]:
    gradients = [torch.randn_like(p) * 1e-3 for p in params]

    def run() -> float:
        time.sleep(0.01)  # the threads of the one before wait for more work, and would take a processor
        total = 0.0
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = gradient
        for _ in range(5):
            optimizer.step()  # until parameters, states and threads are where they will be in training
        for _ in range(steps):
            if fresh:
                for p, gradient in zip(params, gradients, strict=True):
                    p.grad = gradient.detach()
            begin = time.perf_counter()
            optimizer.step()
            total += time.perf_counter() - begin
        return total / steps

    run()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", choices=[name for name, _ in CASES], default=[name for name, _ in CASES])
    parser.add_argument("--on", nargs="*", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    popgrad.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"PyTorch {torch.__version__}, {options.threads} threads, {installation()['instruction sets']}")
    for make, title, steps in (MODELS[name] for name in options.on):
        for fresh in (False, True) if make is not large else (False,):
            print(f"\n{title}, {'new gradients at every step' if fresh else 'gradients in place'}")
            print(f"{'':10}{'popgrad':>12}{'fused':>9}{'foreach':>9}{'plain':>9}   times faster")
            for name, arguments in CASES:
                if name not in options.only:
                    continue
                params = make()
                kinds: dict[str, dict[str, Any]] = {"foreach": {"foreach": True}, "plain": {"foreach": False}}
                if name in FUSED:
                    kinds = {"fused": {"fused": True}} | kinds
                reference = getattr(torch.optim, name)
                runs = {"popgrad": timed(getattr(popgrad.torch, name)(params, **arguments), params, steps, fresh)}
                for kind, choice in kinds.items():
                    runs[kind] = timed(reference(params, **arguments, **choice), params, steps, fresh)
                found = medians(runs, options.repeats)
                ratios = {kind: found[kind] / found["popgrad"] for kind in kinds}
                cells = "".join(
                    f"{ratios[k]:9.1f}" if k in ratios else f"{'-':>9}" for k in ("fused", "foreach", "plain")
                )
                print(f"{name:10}{found['popgrad'] * 1e6:9.1f} us{cells}")


if __name__ == "__main__":
    main()
