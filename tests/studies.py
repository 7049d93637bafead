"""Synthetic studies of 11 gradient methods and 8 searches."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from rich.console import Console

from popgrad.compare.summary import summarize

GRADIENT = {
    # label: how fast it learns, the test error where it ends
    "GD": (0.02, 0.09),
    "SGD": (0.3, 0.045),
    "Mini-batch GD": (0.25, 0.042),
    "Momentum": (0.5, 0.036),
    "Heavy ball": (1.2, 0.031),
    "Nesterov": (1.3, 0.03),
    "AdaGrad": (0.6, 0.04),
    "AdaDelta": (0.01, 0.62),
    "RMSprop": (2.0, 0.028),
    "Adam": (2.2, 0.022),
    "AdamW": (2.1, 0.025),
}

SEARCH = {
    "Genetic algorithm": (0.004, 0.28),
    "Particle swarm": (0.003, 0.35),
    "Differential evolution": (0.0012, 0.66),
    "Ant colony (ACO_R)": (0.0008, 0.74),
    "Simulated annealing": (0.004, 0.24),
    "Tabu search": (0.002, 0.5),
    "OpenAI-ES": (0.012, 0.091),
    "Random search": (0.0004, 0.85),
}

BUDGET = 3_000_000

DIGITS = {
    "task": "classification",
    "rows": 1797,
    "features": 64,
    "classes": 10,
    "metric": "error_rate",
    "train": 1077,
    "validation": 360,
    "test": 360,
}


def make_config(labels: dict[str, str], datasets: dict[str, dict], **more) -> dict:
    return {
        "format": 1,
        "version": "0.1.0",
        "name": "synthetic",
        "command": "popgrad compare digits --seeds 3 --name synthetic",
        "objective": "loss",
        "budget": BUDGET,
        "seeds": 3,
        "hidden": [32],
        "activation": "relu",
        "dtype": "float32",
        "datasets": datasets,
        "entrants": {
            label.lower().replace(" ", "_"): {
                "kind": kind,
                "label": label,
                "settings": f"{label.replace(' ', '')}(learning_rate=0.001, beta1=0.9, beta2=0.999, epsilon=1e-08)",
                "batch_size": 32 if kind == "gradient" else None,
            }
            for label, kind in labels.items()
        },
        "machine": {"processor": "Example CPU @ 2.6 GHz", "cores": 2, "memory_gib": 24, "isa": "avx512"},
    } | more


def one_run(dataset: str, entrant: str, seed: int, metrics, seconds=None, **more) -> dict:
    """A finished run whose validation metric is `metrics`, its last value being the test metric too."""
    metrics = list(metrics)
    seconds = list(range(len(metrics))) if seconds is None else list(seconds)
    forwards = [BUDGET * i // max(len(metrics) - 1, 1) for i in range(len(metrics))]
    return {
        "dataset": dataset,
        "entrant": entrant,
        "seed": seed,
        "status": "ok",
        "error": None,
        "test_metric": metrics[-1],
        "test_loss": metrics[-1],
        "validation_metric": metrics[-1],
        "validation_loss": metrics[-1],
        "train_loss": metrics[-1],
        "forwards": forwards[-1],
        "evaluations": 10,
        "seconds": seconds[-1],
        "nonfinite": 0,
        "curve": {
            "forwards": forwards,
            "seconds": seconds,
            "loss": metrics,
            "validation_loss": metrics,
            "validation_metric": metrics,
        },
    } | more


def failed_run(dataset: str, entrant: str, seed: int, error: str) -> dict:
    nothing = dict.fromkeys(("test_metric", "test_loss", "validation_metric", "seconds", "forwards"))
    return {
        "dataset": dataset,
        "entrant": entrant,
        "seed": seed,
        "status": "failed",
        "error": error,
        "curve": None,
    } | nothing


def learning_run(dataset: str, label: str, seed: int, regression: bool) -> dict:
    """A run as it may look: losses that fall, overfit, or run away."""
    speed, end = (GRADIENT | SEARCH)[label]
    gradient = label in GRADIENT
    rng = np.random.default_rng([seed, len(label), ord(label[0]), ord(label[-1])])
    epoch = 1077 * (3 if gradient else 64)
    forwards = np.unique(np.r_[0, np.geomspace(epoch, BUDGET, 50).astype(int) // epoch * epoch])
    steps = forwards / 1077
    speed *= math.exp(rng.normal(0, 0.25))
    start = 1.0 if regression else 2.45 + 0.1 * rng.standard_normal()
    floor = 0.42 + end / 2 if regression else 0.0 if gradient else 2.2 * end
    loss = floor + (start - floor) / (1 + speed * steps) ** (1.3 if gradient else 0.8)
    loss *= np.exp(0.03 * rng.standard_normal(len(loss)).cumsum() / 3)
    validation = loss + (0.08 + 2.2 * end) * (1 - np.exp(-speed * steps / 20)) * (0.3 if regression else 1)
    chance = 1.0 if regression else 0.9
    metric = end + (chance - end) / (1 + speed * steps) ** 1.6 + 0.004 * rng.random(len(loss))
    metric = validation if regression else np.round(metric * 360) / 360
    if label == "Heavy ball" and seed == 1:
        loss[4:] *= np.exp(np.arange(len(loss) - 4.0) * 3)
        loss[30:] = math.nan
        validation = loss
    curve = {
        "forwards": forwards.tolist(),
        "seconds": np.round(steps * (0.002 if gradient else 0.0005) * 1.1**seed, 5).tolist(),
        "loss": loss.tolist(),
        "validation_loss": validation.tolist(),
        "validation_metric": metric.tolist(),
    }
    curve = {key: [v if math.isfinite(v) else None for v in values] for key, values in curve.items()}
    test = float(np.round(min(end * math.exp(rng.normal(0, 0.12)), 0.92) * 360) / 360)
    return one_run(dataset, label.lower().replace(" ", "_"), seed, metric.tolist()) | {
        "test_metric": float(validation[-1]) if regression else test,
        "test_loss": curve["validation_loss"][-1],
        "seconds": curve["seconds"][-1],
        "forwards": int(forwards[-1]),
        "curve": curve,
    }


def write_study(folder: Path, config: dict, runs: list[dict], torn: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "results.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs) + torn)
    return folder


def full_study(folder: Path, datasets: tuple[str, ...] = ("digits",), **more) -> Path:
    """19 entrants x 3 seeds; seed 2 of AdaDelta failed, the last line is torn."""
    labels = dict.fromkeys(GRADIENT, "gradient") | dict.fromkeys(SEARCH, "search")
    about = dict.fromkeys(datasets, DIGITS)
    if "diabetes" in about:
        about["diabetes"] = DIGITS | {"task": "regression", "metric": "mse", "classes": None}
    config = make_config(labels, about, **more)
    runs = [
        learning_run(name, label, seed, name == "diabetes")
        for name in datasets
        for label in labels
        for seed in range(3)
        if (label, seed) != ("AdaDelta", 2)
    ]
    runs.append(failed_run(datasets[0], "adadelta", 2, "[fit] nothing finite is left <b>here</b>"))
    torn = json.dumps(runs[0])[:300]
    return write_study(folder, config, runs, torn)


def small(runs: list[dict], labels: str = "ABC", seeds: int = 1, **about):
    """Entrants A, B, ... on one data set "data"; lower-case names. Returns (config, summary)."""
    config = make_config(dict.fromkeys(labels, "gradient"), {"data": DIGITS | about}, seeds=seeds)
    return config, summarize(config, runs)[0]


def run_of(entrant: str, metric, loss=1.0, seed: int = 0) -> dict:
    return one_run("data", entrant, seed, [0.9, 0.5]) | {"test_metric": metric, "test_loss": loss}


def printed(path: Path, shown, width: int) -> list[str]:
    with path.open("w") as file:
        Console(file=file, width=width).print(shown)
    return path.read_text().splitlines()
