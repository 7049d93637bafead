"""``popgrad fit --save`` and ``popgrad predict`` as a person uses them."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys

import numpy as np
import pytest

import popgrad as pg
from tables import table

COMMAND = [sys.executable, "-c", "from popgrad.cli import main; main()"]
ENVIRONMENT = os.environ | {"COLUMNS": "80", "NO_COLOR": "1"}


def run(*arguments, folder, code=0):
    """(stdout, stderr on one line)."""
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a table, new tables and the models that `fit` saved."""
    folder = tmp_path_factory.mktemp("predict")
    table(120).to_csv(folder / "old.csv", index=False)
    table(9, seed=1).drop(columns="class").to_csv(folder / "new.csv", index=False)
    x = np.arange(80) / 80
    lines = [f"{value:.4f},{1000 * value:.2f}" for value in x]
    (folder / "price.csv").write_text("\n".join(["x,price", *lines]))
    shown, _ = run("fit", "old.csv", "--epochs", "2", "--save", "my model.safetensors", folder=folder)
    assert "Predict: popgrad predict 'my model.safetensors' NEW_TABLE.csv" in shown
    run("fit", "price.csv", "--epochs", "2", "--save", "price.safetensors", folder=folder)
    return folder


def rows_of(text):
    return list(csv.reader(io.StringIO(text)))


def test_predictions_are_all_that_is_on_stdout(folder):
    shown, said = run("predict", "my model.safetensors", "new.csv", folder=folder)
    expected = pg.load_pipeline(folder / "my model.safetensors").predict(folder / "new.csv")
    assert rows_of(shown) == [["row", "prediction"], *([str(i), label] for i, label in enumerate(expected))]
    assert said == ""


def test_probabilities_keep_their_bits(folder):
    shown, _ = run("predict", "my model.safetensors", "new.csv", "--proba", folder=folder)
    header, *rows = rows_of(shown)
    assert header == ["row", "prediction", "probability_a", "probability_b", "probability_c"]
    expected = pg.load_pipeline(folder / "my model.safetensors").predict_proba(folder / "new.csv")
    assert np.array([row[2:] for row in rows], np.float32).tobytes() == expected.tobytes()


def test_the_error_is_said_if_the_target_is_known(folder):
    shown, said = run("predict", "my model.safetensors", "old.csv", "--out", "p.csv", folder=folder)
    assert shown == ""
    predicted = [row[1] for row in rows_of((folder / "p.csv").read_text())[1:]]
    wrong = int((np.array(predicted) != table(120)["class"].to_numpy(str)).sum())
    assert said.startswith("120 predictions of 'class': p.csv Error of the predictions: error rate ")
    assert said.endswith(f"({wrong} of 120 rows)")
    shown, said = run("predict", "price.safetensors", "price.csv", folder=folder)
    off = np.array([float(row[1]) for row in rows_of(shown)[1:]]) - 1000 * np.arange(80) / 80
    assert f"RMSE {np.sqrt((off**2).mean()):.1f} in units of 'price'" in said


def test_unusual_values_are_said_once(folder):
    text = "color,age,constant,member,note\npink,1,0.1,true,x\nred,,0.1,false,y\nlilac,3,0.1,true,z\n"
    (folder / "odd.csv").write_text(text)
    shown, said = run("predict", "my model.safetensors", "odd.csv", folder=folder)
    assert len(rows_of(shown)) == 4
    assert said.count("note:") == 2
    assert "1 column not used by the model: 'note'." in said
    assert "2 values in 'color' are not among the categories of the training rows, such as 'pink'" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("color,age,member\nred,1,true\n", "lacks 1 column of the training table: 'constant'"),
        (
            "color,age,constant,member\nred,young,1,true\n",
            "'age' must hold numbers, as in training, got 'young' in line 2",
        ),
        ("color,age,constant,member\n", "expects rows of data, got none"),
        ("", "got an empty file"),
    ],
)
def test_a_bad_table_leaves_no_output(folder, text, message):
    (folder / "bad.csv").write_text(text)
    before = sorted(folder.iterdir())
    for more in ((), ("--out", "bad-out.csv")):
        said = run("predict", "my model.safetensors", "bad.csv", *more, folder=folder, code=2)
        assert said[0] == ""
        assert said[1].startswith("popgrad: [predict 'bad.csv'] ")
        assert message in said[1]
    assert sorted(folder.iterdir()) == before


def test_other_bad_arguments(folder):
    pg.MLP([4, 2]).save(folder / "plain.safetensors")
    for arguments, message in (
        (("plain.safetensors", "new.csv"), "the file holds no preprocessing"),
        (("new.csv", "new.csv"), "'new.csv' is not a complete safetensors file"),
        (("nowhere.safetensors", "new.csv"), "cannot read 'nowhere.safetensors'"),
        (("my model.safetensors", "nowhere.csv"), "expects a file, but there is none"),
        (("price.safetensors", "price.csv", "--proba"), "--proba needs a model of classes"),
        (("price.safetensors", "price.csv", "--out", "."), "cannot write the file '.'"),
        (("price.safetensors", "price.csv", "--out", "no/p.csv"), "cannot write the file 'no/p.csv'"),
    ):
        shown, said = run("predict", *arguments, folder=folder, code=2)
        assert shown == ""
        assert message in said


def test_a_reader_that_stops_early(folder):
    command = [*COMMAND, "predict", "my model.safetensors", "old.csv"]
    process = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    assert process.wait() == 0
    process.stderr.close()
