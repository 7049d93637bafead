"""Checkpoints of another run are refused, with an error that names the difference."""

from __future__ import annotations

import numpy as np
import pytest

import popgrad as pg
from fitting import small
from popgrad import checkpoint as files
from popgrad import optim, search
from popgrad.train.fingerprint import data_digest
from saving import run


def other_data(**changes):
    model, X, y = small(samples=40, dropout=0.2)
    return {"model": model, "X": X, "y": y, **changes}


def refusals():
    _, X, y = small(samples=40)
    moved = X.copy()
    moved[-1, -1] += 1e-9
    labels = y.copy()
    labels[0] = 1
    yield "network", {"model": small(dropout=0.3)[0]}, r"another network: expected MLP\(.*dropout=0.3.*got MLP\(.*0.2"
    yield (
        "sizes",
        {"model": pg.MLP([4, 5, 3], "tanh")},
        r"another network: expected MLP\(\[4, 5, 3\].*got MLP\(\[4, 6, 3",
    )
    yield "dtype", {"model": small(dtype="float64", dropout=0.2)[0]}, "another network: .*float64.*float32"
    yield "method", {"optimizer": optim.AdamW(0.01)}, "another method: expected AdamW, got Adam"
    yield "wrapped", {"optimizer": optim.Lookahead(optim.Adam(0.01))}, r"expected Lookahead\(Adam\), got Adam"
    yield "settings", {"optimizer": optim.Adam(0.02)}, r"other settings: expected .*0\.02.*got .*0\.01"
    yield "X", {"X": moved}, r"other inputs X: expected float64 \(40, 4\) \w+, got float64 \(40, 4\) \w+"
    yield "rows", {"X": X[:-1], "y": y[:-1]}, r"other inputs X: expected float64 \(39, 4\) \w+, got float64 \(40, 4\)"
    yield "y", {"y": labels}, r"other targets y: expected int64 \(40,\)"
    yield "weight", {"sample_weight": np.ones(40)}, r"another sample_weight: expected float64 \(40,\) \w+, got none"
    yield "validation", {"validation": 0.3}, r"another validation: expected 0.3, got 0.2"
    yield "pair", {"validation": (X, y)}, r"another validation: expected \['float64 \(40, 4\).*got 0.2"
    yield "batch_size", {"batch_size": 5}, "another batch_size: expected 5, got 4"
    yield "seed", {"seed": 4}, "another seed: expected 4, got 3"
    yield "objective", {"objective": "error_rate"}, "another objective: expected error_rate, got loss"
    yield "select", {"select": "metric"}, "another select: expected metric, got None"


@pytest.mark.parametrize(("changes", "message"), [pytest.param(c, m, id=name) for name, c, m in refusals()])
def test_a_checkpoint_of_another_run_is_refused(changes, message, tmp_path):
    run(tmp_path, kill=8)
    arguments = {"optimizer": optim.Adam(0.01), "epochs": 5, "batch_size": 4, "validation": 0.2, "seed": 3}
    given = arguments | other_data() | changes
    before = given["model"].params.copy()
    with pytest.raises(
        pg.InputError, match=rf"\[fit\] the checkpoint '.*step-000000006.safetensors' is of .*{message}"
    ):
        pg.fit(**given, resume=tmp_path)
    np.testing.assert_array_equal(given["model"].params, before)


def test_another_race_is_refused(tmp_path):
    chosen = {"optimizer": search.PSO(12), "epochs": 60, "batch_size": None}
    run(tmp_path, kill=4, **chosen)
    with pytest.raises(pg.InputError, match=r"another racing: expected Racing\(keep=0.5.*got None"):
        run(tmp_path, racing=pg.Racing(keep=0.5), **chosen)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("popgrad", "0.0.1", "another version of popgrad: expected 0.1.0, got 0.0.1"),
        ("format", 0, "another format: expected 1, got 0"),
        ("tensors", ["0.weight (1, 1)"], r"other tensors: expected \['0.weight \(6, 4\)'.*got \['0.weight \(1, 1\)'\]"),
    ],
)
def test_another_version_is_refused(key, value, message, tmp_path):
    run(tmp_path, kill=8)
    path = tmp_path / "step-000000006.safetensors"
    arrays, numbers = files.load(path)
    numbers["fingerprint"][key] = value
    files.save(path, arrays, numbers, checksum=True)
    with pytest.raises(pg.InputError, match=message):
        run(tmp_path)


def test_digests_of_data_see_values_types_and_shapes():
    X = np.arange(12.0).reshape(4, 3)
    same = [X, X.copy(order="F"), X.tolist()]
    assert len({data_digest(x) for x in same}) == 1
    others = [
        X,
        X[::-1],
        X.T,
        X.astype(np.float32),
        X.reshape(2, 6),
        np.array([["a"], ["b"]]),
        ["a", "b"],
        ["b", "a"],
        None,
    ]
    assert len({data_digest(x) for x in others}) == len(others)
    assert data_digest(iter([1, 2])) == "list_iterator"


def test_large_arrays_are_sampled(monkeypatch):
    monkeypatch.setattr("popgrad.train.fingerprint._WHOLE", 1000)
    monkeypatch.setattr("popgrad.train.fingerprint._ROWS", 5)
    X = np.zeros((1000, 2))
    first = data_digest(X)
    for row, sees in ((0, True), (999, True), (1, False)):
        changed = X.copy()
        changed[row] = 1
        assert (data_digest(changed) != first) is sees


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"path": 3}, r"\[Checkpoint\] path must be a folder, got 3"),
        ({"every_seconds": 0}, "every_seconds must be a finite number > 0 or None, got 0"),
        ({"every_seconds": "1"}, "every_seconds must be"),
        ({"every_steps": 0}, "every_steps must be a whole number >= 1, got 0"),
        ({"keep": 0}, "keep must be a whole number >= 1, got 0"),
    ],
)
def test_settings_of_checkpoints_are_checked(chosen, message):
    with pytest.raises(pg.InputError, match=message):
        pg.Checkpoint(**{"path": "a", **chosen})


def test_a_checkpoint_is_asked_for():
    model, X, y = small()
    with pytest.raises(pg.InputError, match=r"checkpoint must be a popgrad.Checkpoint, got 'a'"):
        pg.fit(model, X, y, optimizer=optim.SGD(), checkpoint="a")
