"""popgrad.data: sources that name their target, and bad tables, sources, arrays and splits, which it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from popgrad import data
from popgrad.checks import InputError
from tables import table, write

# Bad input

BAD_TABLES = {
    "empty": ("", "expects a table"),
    "header only": ("a,b\n", "expects rows"),
    "target alone": ("y\n1\n2\n3\n", "expects columns besides the target, got only 'y'"),
    "wrong separator": ("a:y\n" + "1:2\n" * 5, "is the separator right"),
    "surplus field": ("a,y\n1,0\n1,0,5\n", "line 3 has 3 fields and the header .line 1. has 2"),
    "surplus field in all": ("a,y\n" + "1,0,5\n" * 9, "line 2 has 3 fields and the header .line 1. has 2"),
    "missing target": ("a,y\n" + "1,0\n2,1\n" * 5 + "3,\n3,?\n", r"missing value in 2 of 12 .* lines 12, 13$"),
    "infinite target": ("a,y\n" + "1,0.5\n2,1.5\n" * 3 + "3,inf\n", r"infinity .* in 1 of 7 .* lines 8"),
    "infinite feature": ("a,y\n" + "1,0.5\n2,1.5\n" * 3 + "-inf,1\n", r"'a' of X has infinity .* lines 8"),
    "one class": ("a,y\n" + "1,no\n" * 9, "at least two classes, got 1: no"),
    "rare class": ("a,y\n" + "1,no\n" * 9 + "1,yes\n" * 2, "class 'yes' has 2 rows but needs 3"),
    "constant target": ("a,y\n" + "1,0.5\n" * 9, "0.5 in every row"),
    "few rows": ("a,y\n1,0.5\n1,1.5\n1,2.5\n", "at least 4 rows .* got 3"),
}


@pytest.mark.parametrize("text_and_message", BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_bad_table_is_refused(tmp_path: Path, text_and_message: tuple[str, str]) -> None:
    text, message = text_and_message
    with pytest.raises(InputError, match=message) as caught:
        data.load(write(tmp_path, text))
    assert caught.value.__context__ is None


BAD_SOURCES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "unknown name": ("irsi", {}, "Did you mean 'iris'.*openml:<id>, a path that ends in .csv"),
    "unknown path": ("no/such", {}, "unknown dataset"),
    "no file": ("no/such.csv", {}, "expects a file, but there is none"),
    "no npz": ("nothing.npz", {}, "expects a file, but there is none"),
    "folder": ("folder", {}, "got a directory"),
    "folder like a file": ("folder.csv", {}, "got a directory"),
    "other kind": ("good.txt", {}, "another kind of file"),
    "not a path": (61, {}, "got int"),
    "long name": ("n" * 5000, {}, "unknown dataset"),
    "long path": ("n" * 5000 + ".csv", {}, "expects a file, but there is none"),
    "user unknown": ("~nobody-here/t.csv", {}, "expects a file, but there is none"),
    "openml name": ("openml:iris", {}, "openml:61"),
    "openml zero": ("openml:0", {}, "openml:61"),
    "target": ("good.csv", {"target": "colr"}, "unknown target column 'colr'.*Did you mean 'color'"),
    "bundled target": ("iris", {"target": "petal"}, "unknown target column 'petal'"),
    "npz target": ("good.npz", {"target": "X"}, "its array 'y', got target='X'"),
    "two targets": ("good.csv:age", {"target": "class"}, "ends in the target 'age', but target='class' differs"),
    "unknown behind a colon": ("good.csv:agee", {}, "unknown target column 'agee'.*Did you mean 'age'"),
    "nothing behind a colon": ("good.csv:", {}, "unknown target column ''"),
    "no file before a colon": ("nothing.csv:age", {}, "expects a file, but there is none"),
    "header": ("good.csv", {"header": "yes"}, "header must be True, False or None"),
    "header number": ("good.csv", {"header": 0}, "header must be True, False or None"),
    "sep": ("good.csv", {"sep": ";;"}, "sep must be one character"),
    "no sep": ("good.csv", {"sep": ""}, "sep must be one character"),
    "decimal": ("good.csv", {"decimal": ";"}, "decimal must be '.' or ','"),
    "sep and decimal": ("good.csv", {"sep": ",", "decimal": ","}, "sep and decimal must differ"),
    "na": ("good.csv", {"na": [1]}, "na must be strings"),
    "na number": ("good.csv", {"na": -999}, "na must be strings, got -999"),
    "drop": ("good.csv", {"drop": [None]}, "drop must be strings"),
    "text option of npz": ("good.npz", {"header": True}, "header, sep, decimal and na are for text files"),
    "text option of a bundled set": ("iris", {"na": ["x"]}, "header, sep, decimal and na are for text files"),
    "dropped target of npz": ("good.npz", {"drop": "y"}, "unknown column to drop 'y'"),
    "dropped target": ("iris", {"drop": "target"}, "cannot drop 'target': it is the target"),
    "task": ("good.csv", {"task": "classify"}, "unknown task 'classify'"),
    "text regression": ("good.csv", {"task": "regression"}, "must be numbers, got text such as 'b'"),
    "fractional labels": ("good.csv", {"target": "constant", "task": "classification"}, "not a whole number"),
    "latin-1": ("latin.csv", {}, "UTF-8"),
    "not gzip": ("broken.csv.gz", {}, "expects a table"),
    "not npz": ("broken.npz", {}, "expects numpy.savez"),
    "npy": ("npy.npz", {}, "expects numpy.savez"),
    "without y": ("without_y.npz", {}, "expects numpy.savez.*'y"),
    "objects": ("objects.npz", {}, "expects numpy.savez.*[Oo]bject"),
    "lengths": ("lengths.npz", {}, r"y must have shape \(9,\).* got \(8,\)"),
}


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "folder.csv"):
        (tmp_path / folder).mkdir()
    table().to_csv("good.csv", index=False)
    table().to_csv("good.txt", index=False)
    table().to_csv("odd:age.csv", index=False)
    table().rename(columns={"member": "a:b"}).to_csv("colon.csv", index=False)
    (tmp_path / "latin.csv").write_bytes("a,y\nn\xe9e,1\n".encode("latin-1"))
    for name in ("broken.csv.gz", "broken.npz"):
        (tmp_path / name).write_bytes(b"\x00\x01 neither")
    X, y = np.zeros((9, 2)), np.arange(9) % 2
    np.savez("good.npz", X=X, y=y)
    np.savez("without_y.npz", X=X)
    np.savez("lengths.npz", X=X, y=y[:8])
    np.savez("objects.npz", X=X.astype(object), y=y)
    np.save("npy.npy", X)
    (tmp_path / "npy.npy").rename(tmp_path / "npy.npz")
    return tmp_path


@pytest.mark.parametrize("case", BAD_SOURCES.values(), ids=BAD_SOURCES)
@pytest.mark.usefixtures("sources")
def test_a_bad_source_is_refused(case: tuple[Any, dict[str, Any], str]) -> None:
    source, options, message = case
    with pytest.raises(InputError, match=message) as caught:
        data.load(source, **options)
    assert str(caught.value).startswith((f"[data.load {str(source)!r}]", "[data.from_arrays "))
    assert caught.value.__context__ is None


X9, Y9 = np.zeros((9, 2)), np.arange(9) % 2

BAD_ARRAYS: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "X 1-D": (np.zeros(9), Y9, {}, r"X must have shape \(N, columns\).* got \(9,\)"),
    "X images": (np.zeros((9, 2, 2)), Y9, {}, "reshape"),
    "X no rows": (np.zeros((0, 2)), Y9[:0], {}, r"got \(0, 2\)"),
    "X no columns": (np.zeros((9, 0)), Y9, {}, r"got \(9, 0\)"),
    "X ragged": ([[1, 2], [3]], [0, 1], {}, "X must be an array"),
    "X objects": (X9.astype(object), Y9, {}, "X must hold numbers, got object"),
    "X text": (X9.astype(str), Y9, {}, "DataFrame"),
    "X complex": (X9 + 1j, Y9, {}, "X must hold numbers, got complex"),
    "X infinite": (np.where(np.eye(9, 2), np.inf, 0), Y9, {}, r"column 'x0' of X has infinity .* rows 0 "),
    "X beyond float32": (X9 + 1e39, Y9, {}, "beyond the range of float32 in 9 of 9 .* rows 0, 1, 2, 3, 4, ... "),
    "X columns alike": (pd.DataFrame(X9, columns=["a", "a"]), Y9, {}, "columns with distinct names"),
    "y short": (X9, Y9[:8], {}, r"y must have shape \(9,\)"),
    "y 2-D": (X9, Y9[:, None], {}, r"got \(9, 1\)"),
    "y objects": (X9, np.array([{}] * 9, dtype=object), {}, "must be text, booleans or numbers, got mixed"),
    "y complex": (X9, Y9 + 1j, {}, "must be text, booleans or numbers, got complex"),
    "y NaN": (X9, np.where(Y9, np.nan, 1.0), {}, "missing value in 4 of 9 .* rows 1, 3, 5, 7 "),
    "y infinite": (X9, np.where(Y9, -np.inf, 1.0), {}, "infinity .* in 4 of 9"),
    "label infinite": (X9, np.where(Y9, np.inf, 1.0), {"task": "classification"}, "infinite value in 4 of 9"),
    "label fractional": (X9, Y9 + 0.5, {"task": "classification"}, "not a whole number.* in 9 of 9"),
    "task": (X9, Y9, {"task": "clustering"}, "unknown task 'clustering'"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays_are_refused(case: tuple[Any, Any, dict[str, Any], str]) -> None:
    X, y, options, message = case
    with pytest.raises(InputError, match=message) as caught:
        data.from_arrays("t", X, y, **options)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be a whole number >= 0"),
        ({"seed": 0.5}, "seed must be a whole number"),
        ({"seed": 2**32}, "seed must be below"),
        ({"seed": 0, "test": 0}, r"test must be a share of all rows in \(0, 1\), got 0"),
        ({"seed": 0, "test": 1}, "test must be a share"),
        ({"seed": 0, "validation": -0.1}, "validation must be a share"),
        ({"seed": 0, "validation": float("nan")}, "validation must be a share"),
        ({"seed": 0, "validation": "0.2"}, "validation must be a share"),
        ({"seed": 0, "validation": 0.5, "test": 0.5}, "below 1, got 0.5"),
        ({"seed": 0, "validation": 0.49, "test": 0.5}, "leave too few to train on"),
    ],
)
def test_a_bad_split_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        data.split(data.load("iris"), **options)


@pytest.mark.parametrize("seed", range(5))
def test_a_class_too_rare_for_the_shares_is_refused_for_every_seed(seed: int) -> None:
    dataset = data.from_arrays("t", np.zeros((103, 1)), ["rare"] * 3 + ["often"] * 100)
    with pytest.raises(InputError, match="class 'rare' has 3 rows, too few"):
        data.split(dataset, seed=seed, validation=0.4, test=0.4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a/b"}, "files are named after it"),
        ({"name": 1}, "files are named after it"),
        ({"task": "ranking"}, "unknown task"),
        ({"y": Y9 + 1}, r"class indices in \[0, 2\)"),
        ({"y": Y9[:8]}, r"y must have shape \(9,\)"),
        ({"classes": ("0", "1", "2")}, "class '2' has 0 rows"),
        ({"task": "regression"}, "no classes"),
    ],
)
def test_a_dataset_made_by_hand_is_checked(change: dict[str, Any], message: str) -> None:
    good = {"name": "t", "frame": pd.DataFrame(X9), "y": Y9, "task": "classification", "target": "y"}
    make: Callable[..., data.Dataset] = data.Dataset
    assert make(**good, classes=("0", "1")).y.dtype == np.int64
    with pytest.raises(InputError, match=message):
        make(**{**good, "classes": ("0", "1"), **change})


SOURCES: dict[str, tuple[str, dict[str, Any], str]] = {
    "no target": ("good.csv", {}, "class"),
    "target": ("good.csv", {"target": "member"}, "member"),
    "behind a colon": ("good.csv:member", {}, "member"),
    "twice the same": ("good.csv:member", {"target": "member"}, "member"),
    "a colon in the column": ("colon.csv:a:b", {}, "a:b"),
    "a colon in the file": ("odd:age.csv", {}, "class"),
    "both": ("odd:age.csv:member", {}, "member"),
    "bundled": ("diabetes:bmi", {}, "bmi"),
    "npz": ("good.npz:y", {}, "y"),
}


@pytest.mark.parametrize("case", SOURCES.values(), ids=SOURCES)
@pytest.mark.usefixtures("sources")
def test_a_source_may_name_its_target(case: tuple[str, dict[str, Any], str]) -> None:
    source, options, target = case
    dataset = data.load(source, **options)
    assert dataset.target == target
    assert dataset.name in ("good", "colon", "odd_age", "diabetes")
