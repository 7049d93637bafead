"""``popgrad fit``, ``list`` and ``--version`` as a person uses them; `test_compare.py` has the other commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import popgrad as pg
from popgrad.compare.entrants import ENTRANTS

COMMAND = [sys.executable, "-c", "from popgrad.cli import main; main()"]


def run(*arguments, folder, columns=80, code=0):
    environment = os.environ | {"COLUMNS": str(columns), "NO_COLOR": "1"}
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def one_line(text):
    return " ".join(text.split())


@pytest.fixture
def houses(tmp_path):
    """A regression whose target is a linear function of its features, in thousands."""
    random = np.random.default_rng(0)
    rooms, age = random.uniform(1, 9, 400), random.uniform(0, 50, 400)
    price = 1000 * (30 * rooms - age) + random.normal(0, 100, 400)
    lines = [f"{r:.4f},{a:.4f},{p:.2f}" for r, a, p in zip(rooms, age, price, strict=True)]
    (tmp_path / "houses.csv").write_text("\n".join(["rooms,age,price", *lines]) + "\n")
    return tmp_path


def test_fit_introduces_what_it_does(tmp_path):
    shown = one_line(run("fit", "iris", "--epochs", "3", "--hidden", "7,5", folder=tmp_path))
    assert "iris: predicts 'target' (3 classes), 4 inputs from 4 columns" in shown
    assert "90 for training, 30 for validation, 30 for testing, divided at random" in shown
    assert "4-7-5-3 relu, 93 parameters; cross-entropy" in shown
    assert "Adam(learning_rate=0.001, beta1=0.9, beta2=0.999, epsilon=1e-08), batches of 32" in shown
    assert "Finished 3 epochs. The network was still improving" in shown


def test_fit_reports_a_regression_in_units_of_the_target(houses):
    shown = one_line(run("fit", "houses.csv", "--epochs", "200", "--lr", "0.01", folder=houses))
    assert "predicts 'price' (a quantity), 2 inputs from 2 columns" in shown
    rmse, r2 = map(float, re.search(r"RMSE ([\d.,]+) in units of 'price' R2 ([\d.]+)", shown.replace(",", "")).groups())
    assert 90 < rmse < 6000  # the noise has 100; the target a standard deviation of 70,000
    assert r2 > 0.99


def test_fit_takes_the_target_behind_the_file(houses):
    assert "predicts 'age'" in one_line(run("fit", "houses.csv:age", "--epochs", "1", folder=houses))


def test_fit_without_epochs_or_budget_trains_to_the_end(tmp_path):
    shown = one_line(run("fit", "iris", folder=tmp_path))
    assert float(re.search(r"error rate ([\d.]+) %", shown)[1]) < 10
    assert "The budget of" in shown
    shown = one_line(run("fit", "iris", "--optimizer", "pso", folder=tmp_path))
    assert float(re.search(r"error rate ([\d.]+) %", shown)[1]) < 10


def test_fit_says_that_it_diverged(houses):
    shown = one_line(run("fit", "houses.csv", "--optimizer", "minibatch", "--lr", "3", "--epochs", "2", folder=houses))
    assert "iverged" in shown
    assert "try a smaller learning rate" in shown
    assert "still improving" not in shown


def test_fit_settings(tmp_path):
    arguments = ["fit", "iris", "--optimizer", "adam", "--epochs", "1", "--lr", "0.5", "--set", "adam.beta1=0.95"]
    shown = one_line(run(*arguments, "--batch-size", "all", folder=tmp_path))
    assert "Adam(learning_rate=0.5, beta1=0.95, beta2=0.999, epsilon=1e-08), all samples per step" in shown


def test_fit_reports_the_objective(tmp_path):
    shown = run("fit", "iris", "--optimizer", "pso", "--objective", "f1_macro", "--budget", "1e5", folder=tmp_path)
    assert re.search(r"f1_macro [\d.]+", one_line(shown))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "adamm"], "Did you mean 'adam'?"),
        (["--optimizer", "adam,sgd"], "expected one optimizer"),
        (["--objective", "accuracy"], "Did you mean 'error_rate'?"),
        (["--set", "lr=1"], "Did you mean 'learning_rate'?"),
        (["--lr", "-1"], "learning_rate must be a finite number > 0"),
        (["--save", "nowhere/model.safetensors"], "cannot write to the folder 'nowhere'"),
        (["--budget", "many"], "expected a whole number"),
        (["--select", "best"], "unknown select 'best'"),
    ],
)
def test_bad_options_end_with_a_message_before_any_work(tmp_path, arguments, message):
    shown = run("fit", "iris", *arguments, folder=tmp_path, code=2)
    assert message in one_line(shown)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_keeps_what_was_trained(tmp_path):
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a background job ignores it
    process = subprocess.Popen(
        [COMMAND[0], "-c", listen + COMMAND[2], "fit", "digits", "--budget", "1e13", "--save", "model.safetensors"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
    )
    for line in process.stdout:
        if line.startswith("optimizer"):
            break
    else:
        pytest.fail(process.stderr.read())
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)
    process.send_signal(signal.SIGINT)
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Interrupted." in shown
    assert "Test, with the best parameters" in shown
    assert "Traceback" not in errors
    assert pg.MLP.load(tmp_path / "model.safetensors").sizes[-1] == 10


def test_fit_continues_from_its_checkpoints(tmp_path):
    arguments = ["fit", "iris", "--checkpoint", "saved", "--log", "log.jsonl", "--save", "iris.safetensors"]
    run(*arguments, "--epochs", "5", folder=tmp_path)
    run(*arguments, "--epochs", "9", folder=tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    run("fit", "iris", "--epochs", "9", "--log", "log.jsonl", "--save", "iris.safetensors", folder=alone)
    model, other = (pg.MLP.load(folder / "iris.safetensors") for folder in (tmp_path, alone))
    assert model.params.tobytes() == other.params.tobytes()
    losses, expected = (
        [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (tmp_path, alone)
    )
    assert losses == expected
    text = run(*arguments, "--lr", "0.1", folder=tmp_path, code=2)
    assert "is of a method with other settings" in one_line(text)


def test_fit_stops_early(tmp_path):
    text = run("fit", "iris", "--lr", "0.1", "--patience", "3", folder=tmp_path)
    assert "has not improved in 3 records" in one_line(text)


def test_version(tmp_path):
    assert run("--version", folder=tmp_path) == f"popgrad {pg.__version__}\n"


def test_list_shows_every_name_whole_at_80_columns(tmp_path):
    shown = run("list", folder=tmp_path)
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    names = [*ENTRANTS, "digits", "f1_macro", "auc", "quantile", "leaky_relu", "binary_cross_entropy"]
    for name in names:
        assert re.search(rf"\b{name}\b", shown), name
