"""`popgrad fit X.npy:y.npy`: files that are mapped, standardized when they are read, and never copied as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import popgrad as pg
from popgrad import data
from popgrad.checks import InputError
from popgrad.data import _files

N = 400
rng = np.random.default_rng(0)
X = (rng.normal(size=(N, 5)) * [1, 10, 0.1, 1, 0] + [0, 100, 0, 0, 7]).astype(np.float32)
X[::11, 3] = np.nan
LABELS = (X[:, 1] > 100).astype(np.int64)


def files(folder: Path, y: np.ndarray = LABELS, X: np.ndarray = X) -> data.ArrayFiles:
    np.save(folder / "X.npy", X)
    np.save(folder / "y.npy", y)
    return data.map_files(str(folder / "X.npy"), str(folder / "y.npy"))


@pytest.mark.parametrize("rows", [7, N])
def test_the_scaling_is_that_of_the_training_rows(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "_BLOCK", rows * 8 * 5)
    split = data.split_files(files(tmp_path))
    assert split.rows == (240, 80, 80)
    train = X[split.training].astype(np.float64)
    mean = np.nanmean(train, axis=0)
    filled = np.where(np.isnan(train), mean, train)
    scaling = split.preprocessing.scaling
    np.testing.assert_allclose(scaling.fill, mean, rtol=1e-12)
    np.testing.assert_allclose(scaling.center, [*mean[:4], 7], rtol=1e-12)
    np.testing.assert_allclose(scaling.scale, [*filled.std(axis=0)[:4], 1], rtol=1e-12)
    width = filled.max(axis=0) - filled.min(axis=0)
    np.testing.assert_allclose(scaling.most, filled.max(axis=0) + width, rtol=1e-12)
    encoded = split.encode(X)
    assert np.isfinite(encoded).all()
    assert not encoded[:, 4].any()
    assert {bytes(row) for row in split.X_test} <= {bytes(row) for row in encoded[~split.training]}


def test_without_missing_values_it_is_the_scaling_of_tables(tmp_path: Path) -> None:
    full = np.nan_to_num(X)
    split = data.split_files(files(tmp_path, X=full), by="time")
    table = data.split(data.from_arrays("t", full, LABELS), by="time")
    np.testing.assert_allclose(split.encode(full[split.training]), table.X_train, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(split.X_val, table.X_val, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(split.X_test, table.X_test, rtol=1e-5, atol=1e-6)
    assert np.flatnonzero(~split.training).tolist() == list(range(240, 400))


def test_held_rows_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "_HELD", 12 * 4 * 5)
    assert data.split_files(files(tmp_path)).rows == (376, 12, 12)


def test_a_quantity_is_standardized(tmp_path: Path) -> None:
    y = 1e3 * X[:, 0].astype(np.float64) + 5
    split = data.split_files(files(tmp_path, y))
    np.testing.assert_allclose(split.y[split.training].std(), 1, rtol=1e-5)
    np.testing.assert_allclose(split.preprocessing.decode(split.y), y, rtol=1e-3, atol=1e-2)


def test_training_reads_blocks_and_copies_no_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "_BLOCK", 1 << 18)
    monkeypatch.setattr(_files, "_HELD", 1 << 18)
    file = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (20_000, 200))
    file[:] = np.arange(200)
    file[:, 0] = np.arange(20_000) % 2
    np.save(tmp_path / "y.npy", np.arange(20_000) % 2)
    tracemalloc.start()
    try:
        mapped = data.map_files(str(tmp_path / "X.npy"), str(tmp_path / "y.npy"))
        split = data.split_files(mapped)
        source = pg.BatchStream.from_arrays(
            mapped.X, split.y, batch_size=100, rows=split.training, transform=split.encode, block=1 << 16
        )
        model = pg.MLP([200, 4, 2])
        pg.fit(model, source, optimizer=pg.optim.Adam(0.01), epochs=1, validation=(split.X_val, split.y_val))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert file.nbytes == 16_000_000
    assert peak < 6_000_000
    assert (model.predict(split.X_test) == split.y_test).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y: (X[0], y), r"expects numbers \(N, columns\) in C order"),
        (lambda X, y: (np.asfortranarray(X), y), "in Fortran order"),
        (lambda X, y: (X.astype(str), y), "expects numbers"),
        (lambda X, y: (X, y[:-1]), r"must have shape \(400,\), one value per row of X, got \(399,\)"),
        (lambda X, y: (X, y * 0), "expects at least two classes with 3 rows each"),
        (lambda X, y: (X, y + 1j), "the target must be text, booleans or numbers"),
    ],
)
def test_unusable_arrays(change: object, message: str, tmp_path: Path) -> None:
    inputs, y = change(X, LABELS)  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        files(tmp_path, y, inputs)


def test_infinity_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="column 2 of X holds infinity"):
        data.split_files(files(tmp_path, X=np.where(np.arange(5) == 2, np.inf, X)))


def test_files_that_are_no_arrays(tmp_path: Path) -> None:
    (tmp_path / "X.npy").write_text("no array")
    with pytest.raises(InputError, match=r"must be an array that numpy\.save wrote"):
        data.map_files(str(tmp_path / "X.npy"), str(tmp_path / "X.npy"))
    with pytest.raises(InputError, match="there is none"):
        data.map_files(str(tmp_path / "Z.npy"), str(tmp_path / "X.npy"))
    with pytest.raises(InputError, match=r"a \.npy file has no target"):
        data.load(tmp_path / "X.npy")


def test_the_command_line_from_file_to_predictions(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", np.where(LABELS, "high", "low"))
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1"}

    def run(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-c", "from popgrad.cli import main; main()", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stdout + done.stderr
        return " ".join((done.stdout if code == 0 else done.stderr).split())

    shown = run("fit", "X.npy:y.npy", "--epochs", "30", "--lr", "0.01", "--save", "m.safetensors")
    assert "X.npy:y.npy: predicts 'y' (2 classes), 5 inputs from 5 columns" in shown
    assert "240 for training, 80 for validation, 80 for testing" in shown
    assert "is mapped; rows are standardized when they are read" in shown
    assert "Finished 30 epochs" in shown
    predicted = run("predict", "m.safetensors", "X.npy").split()
    assert predicted[0] == "row,prediction"
    expected = [f"{i},{'high' if label else 'low'}" for i, label in enumerate(LABELS)]
    assert sum(a == b for a, b in zip(predicted[1:], expected, strict=True)) > 0.95 * N
    assert "pass --batch-size" in run("fit", "X.npy:y.npy", "--optimizer", "pso", code=2)
    assert "--target, --header" in run("fit", "X.npy:y.npy", "--target", "y", code=2)
