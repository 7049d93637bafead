"""Golden values: hashes of what every optimizer, search, loss and fit computes, to compare two versions bit by bit.

    python bench/golden.py write golden.json     # with the version before a change
    python bench/golden.py check golden.json     # with the version after it, on the same machine

The hashes depend on the instruction set, so the file is not part of the repository.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import popgrad as pg

STEPS = 20
SIZES = [16, 12, 4]
OPTIONS = {
    "": {},
    "decay": {"weight_decay": 0.01},
    "around": {"l1": 1e-4, "clip_value": 2.0, "clip_norm": 5.0, "ema_decay": 0.9, "skip_nonfinite": True},
    "schedule": {"learning_rate": lambda t: 0.01 / t},
    "bfloat16": {"state_dtype": "bfloat16"},
    "8bit": {"state_dtype": "8bit"},
    "torch": {"matches": "torch"},
    "optax": {"matches": "optax", "learning_rate": lambda t: 0.01 / (t + 1)},
    "keras": {"matches": "keras"},
}


def digest(*values: object) -> str:
    total = hashlib.sha256()
    for value in values:
        total.update(np.ascontiguousarray(value).tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return total.hexdigest()[:16]


def layout_of(model: pg.MLP) -> object:
    return model.layout if hasattr(model, "layout") else [view.shape for view in model.views().values()]


def trajectory(optimizer: pg.optim.Optimizer, dtype: str) -> str:
    """The parameters, the solution and the states after each step along fixed gradients."""
    model = pg.MLP([70, 60, 10], dtype=dtype)
    random, w = np.random.default_rng(0), model.params.copy()
    state, seen = optimizer.init(w, layout_of(model)), []
    for _ in range(STEPS):
        gradient = (w + random.normal(size=len(w))).astype(dtype)
        optimizer.step(w, gradient, state)
        seen += [w.copy(), state.slots.copy(), np.array(optimizer.solution(w, state))]
    return digest(*seen)


def optimizers() -> dict[str, str]:
    found = {}
    for name, kind in pg.optim.REGISTRY.items():
        for options, settings in OPTIONS.items():
            for dtype in ("float32", "float64"):
                try:
                    found[f"optimizer {name} {options} {dtype}"] = trajectory(kind(**settings), dtype)
                except pg.InputError:
                    found[f"optimizer {name} {options} {dtype}"] = "refused"
    wrapped = {"lookahead": pg.optim.Lookahead(pg.optim.Adam()), "polyak": pg.optim.Polyak(pg.optim.SGD(), begin=3)}
    return found | {f"optimizer {name}": trajectory(kind, "float32") for name, kind in wrapped.items()}


def searches() -> dict[str, str]:
    found = {}
    for name, kind in pg.search.REGISTRY.items():
        for bounds in (None, (-1.0, 2.0)):
            for dtype in ("float32", "float64"):
                run, seen = kind().start(np.linspace(-0.9, 1.9, 11, dtype=dtype), 3, bounds), []
                for generation in range(STEPS):
                    population = run.ask()
                    fitness = ((population - 0.3) ** 2).sum(axis=1, dtype=np.float64)
                    fitness[1 :: 7 + generation] = np.nan
                    seen.append(population.copy())
                    run.tell(fitness)
                found[f"search {name} {bounds} {dtype}"] = digest(*seen, run.best_x, run.best_f, run.recommend())
    return found


def samples(loss: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    X, weight = random.normal(size=(333, SIZES[0])), random.uniform(0.5, 2, 333)
    labels = (X[:, 0] + X[:, 1] > 0) + 2 * (X[:, 2] > 0)
    if loss == "cross_entropy":
        return X, labels, weight
    y = np.eye(SIZES[-1])[labels]
    return X, y if loss == "binary_cross_entropy" else y + X[:, :4], weight


def networks() -> dict[str, str]:
    found = {}
    losses = ("cross_entropy", "binary_cross_entropy", "mse", "mae", "huber")
    activations = (
        "relu",
        "tanh",
        "sigmoid",
        "identity",
        "leaky_relu",
        "elu",
        "gelu",
        "silu",
        "softplus",
        "sin",
        "step",
    )
    for loss in losses:
        for activation in activations:
            for dtype in ("float32", "float64"):
                model, (X, y, weight) = pg.MLP(SIZES, activation, loss, dtype=dtype), samples(loss)
                sigma = np.random.default_rng(2).normal(size=(37, len(model.params)))
                population = (model.params + 0.1 * sigma).astype(dtype)
                seen = [model.params, model.forward(X), model.evaluate(population, X, y, sample_weight=weight)]
                rows = pg.Perturbations(model.params, 0.1, 20, 5)
                ranked = pg.Perturbations(model.params, 0.1, 20, 5, True, 2, layout_of(model))
                for noise in (rows, ranked):
                    seen += [model.evaluate(noise, X, y), noise.combine(np.arange(20.0)), noise.rows(3, 9)]
                if dtype == "float32":
                    seen.append(model.evaluate(population, X, y, precision="bfloat16"))
                if activation != "step":
                    seen += list(model.gradient(X, y, weight))
                found[f"network {loss} {activation} {dtype}"] = digest(*seen)
    for metric in ("balanced_error", "f1_macro", "auc", "error_rate"):
        model, (X, y, weight) = pg.MLP(SIZES), samples("cross_entropy")
        population = model.params + 0.1 * np.random.default_rng(2).normal(size=(37, len(model.params)))
        found[f"metric {metric}"] = digest(model.evaluate(population, X, y, metric, sample_weight=weight))
    return found


def fits() -> dict[str, str]:
    found, (X, y, _) = {}, samples("cross_entropy")
    methods = {name: kind() for name, kind in (pg.optim.REGISTRY | pg.search.REGISTRY).items()}
    methods |= {
        "sam": pg.optim.SAM(pg.optim.Momentum()),
        "lookahead": pg.optim.Lookahead(pg.optim.Adam()),
        "polyak": pg.optim.Polyak(pg.optim.SGD()),
        "lookahead of sam": pg.optim.Lookahead(pg.optim.SAM(pg.optim.Adam())),
        "es of lookahead": pg.search.OpenAIES(optimizer=pg.optim.Momentum()),
    }
    for name, method in methods.items():
        for options in ({}, {"validation": 0.2, "batch_size": 50, "objective": "error_rate"}):
            model = pg.MLP(SIZES, dropout=0.1 * bool(options))
            history = pg.fit(model, X, y, optimizer=method, budget=pg.Budget(forwards=60_000), seed=1, **options)
            lists = [history.loss, history.metric, history.objective, history.validation_loss, history.forwards]
            seen = [*lists, history.evaluations, history.reason, history.best, history.nonfinite, history.improving]
            found[f"fit {name} {sorted(options)}"] = digest(model.params, *seen)
    return found


def comparison() -> dict[str, str]:
    """The results of `popgrad compare` with every entrant, without times."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--seeds", "1", "--budget", "300000", "--name", "golden", "--root", folder]
        start = "import sys; from popgrad.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", start, "compare", "iris", "diabetes", *options]
        subprocess.run(command, check=True, capture_output=True)
        found = {}
        for line in (Path(folder) / "golden" / "results.jsonl").read_text().splitlines():
            run = json.loads(line)
            del run["seconds"], run["curve"]["seconds"]
            found[f"compare {run['dataset']} {run['entrant']}"] = digest(json.dumps(run, sort_keys=True))
        return found


def main(action: str, path: str) -> int:
    found = optimizers() | searches() | networks() | fits() | comparison()
    if action == "write":
        Path(path).write_text(json.dumps(found, indent=0))
        print(f"{len(found)} hashes written")
        return 0
    before = json.loads(Path(path).read_text())
    different = sorted(name for name in before.keys() | found.keys() if before.get(name) != found.get(name))
    for name in different:
        print(f"{name}: {before.get(name)} before, {found.get(name)} now")
    print(f"{len(before) - len(different)} of {len(before)} golden values have the same bits")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
