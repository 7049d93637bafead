"""popgrad.data: reading, inference of the task, and splits without leakage."""

from __future__ import annotations

import gzip
import hashlib
import warnings
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets

from popgrad import data
from popgrad.checks import InputError
from tables import table, write

PARTS = ("train", "val", "test")


def numbered(rows: int = 90, columns: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Column 0 of X is the row's number, so that a split can be read back; two classes, one in three."""
    X = np.random.default_rng(1).normal(size=(rows, columns))
    X[:, 0] = np.arange(rows)
    return X, np.arange(rows) % 3 // 2


def rows_of(part: data.Split, original: np.ndarray) -> dict[str, np.ndarray]:
    """Row numbers of each part, from column 0, undone with the training rows' own mean and deviation."""
    stacked = np.concatenate([getattr(part, f"X_{name}")[:, 0] for name in PARTS])
    order = np.argsort(np.argsort(stacked))
    ends = np.cumsum([len(part.X_train), len(part.X_val)])
    return dict(zip(PARTS, np.split(np.sort(original)[order].astype(int), ends), strict=True))


# Reading


@pytest.mark.parametrize("name", data.NAMES)
def test_a_bundled_name_loads_and_splits(name: str) -> None:
    dataset = data.load(name)
    bunch = getattr(sklearn.datasets, f"load_{name}")()
    assert dataset.name == name
    np.testing.assert_array_equal(dataset.y, bunch.target)
    part = data.split(dataset, seed=0)
    assert sum(len(getattr(part, f"y_{p}")) for p in PARTS) == len(bunch.target)
    assert part.X_train.shape[1] == len(part.features) == bunch.data.shape[1]


def test_bundled_classes_keep_the_names_of_their_indices() -> None:
    assert data.load("breast_cancer").classes == ("malignant", "benign")
    assert data.load("digits").classes == tuple("0123456789")


def test_diabetes_is_not_scaled_by_its_test_rows() -> None:
    assert data.load("diabetes").frame["age"].between(18, 100).all()


def test_a_csv_keeps_numbers_text_and_missing_values(tmp_path: Path) -> None:
    rows = "".join(f"{i}, ?, {'x' if i % 2 else '?'}, {'yes' if i % 3 else 'no'}\n" for i in range(12))
    dataset = data.load(write(tmp_path, "a, empty, b, answer\n" + rows, "my file.csv"))
    assert (dataset.name, dataset.target, dataset.task) == ("my_file", "answer", "classification")
    assert dataset.classes == ("no", "yes")
    assert list(dataset.frame) == ["a", "empty", "b"]
    assert dataset.frame["a"].tolist() == list(range(12))
    assert dataset.frame["empty"].isna().all()
    assert dataset.frame["b"].isna().sum() == 6
    assert set(dataset.frame["b"].dropna()) == {"x"}
    assert dataset.y.dtype == np.int64
    assert dataset.y[:4].tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".tsv.gz", ".CSV"])
def test_every_kind_of_table_reads_the_same(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    text = table().to_csv(index=False, sep="\t" if "tsv" in suffix else ",").encode()
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    dataset = data.load(str(path))
    assert dataset.name == "t"
    assert dataset.frame["member"].dtype == np.float64
    np.testing.assert_allclose(dataset.frame["age"], table()["age"])
    assert dataset.y.tolist() == np.resize([1, 0, 2], 60).tolist()


@pytest.mark.parametrize(
    ("header", "expected"),
    [("a,Label,c", "Label"), ("y,b,class", "class"), ("a,b,c", "c"), ("a,y,target", "target")],
)
def test_the_default_target(tmp_path: Path, header: str, expected: str) -> None:
    path = write(tmp_path, header + "\n" + "0,0,1\n0,1,0\n1,0,0\n1,1,1\n" * 3)
    assert data.load(path).target == expected
    assert data.load(path, target=header[0]).target == header[0]


@pytest.mark.parametrize(
    ("first", "rows"),
    [
        ("0.5,1.5,blue,x", 7),  # data: a decimal point
        ("6,148,200,x", 7),  # data: numbers that go up unevenly
        ("3,3,blue,x", 7),  # data: a number twice
        ("5,3,1,x", 7),  # data: numbers that go down
        ("0,1,2,target", 6),
        ("1990,1995,2000,y", 6),
        ("a,1990,b,y", 6),
    ],
)
def test_a_first_line_of_data_is_not_lost(tmp_path: Path, first: str, rows: int) -> None:
    dataset = data.load(write(tmp_path, first + "\n" + "1,2,3,x\n0,2,3,z\n" * 3))
    assert len(dataset.y) == rows


def test_a_row_index_is_no_feature(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    table().to_csv(path)
    assert list(data.load(path).frame) == ["age", "member", "color", "constant"]


def test_an_npz_reads_like_its_arrays(tmp_path: Path) -> None:
    X, y = numbered()
    X[3, 1] = np.nan
    np.savez(tmp_path / "t.npz", X=X, y=y)
    dataset = data.load(tmp_path / "t.npz")
    np.testing.assert_array_equal(dataset.frame.to_numpy(), X)
    np.testing.assert_array_equal(dataset.y, y)
    assert np.isfinite(data.split(dataset, seed=0).X_train).all()


@pytest.mark.parametrize(
    ("y", "task", "classes"),
    [
        (["b", "a"] * 21, "classification", ("a", "b")),
        ([True, False] * 21, "classification", ("False", "True")),
        ([10, 9] * 21, "classification", ("9", "10")),
        (list(range(20)) * 3, "classification", tuple(str(i) for i in range(20))),
        (list(range(21)) * 3, "regression", ()),
        ([1.0, 2.0] * 21, "regression", ()),
    ],
)
def test_the_task_follows_from_the_target(y: list[Any], task: str, classes: tuple[str, ...]) -> None:
    dataset = data.from_arrays("t", np.zeros((len(y), 1)), y)
    assert (dataset.task, dataset.classes) == (task, classes)
    assert dataset.y.dtype == (np.int64 if classes else np.float64)
    assert [dataset.classes[i] for i in dataset.y] == [str(v) for v in y] if classes else True


def test_the_task_can_be_given() -> None:
    X = np.zeros((6, 1))
    assert data.from_arrays("t", X, [1, 2] * 3, task="regression").y.tolist() == [1.0, 2.0] * 3
    assert data.from_arrays("t", X, [1.0, 2.0] * 3, task="classification").classes == ("1", "2")


def test_a_frame_of_other_types_is_accepted() -> None:
    frame = pd.DataFrame(
        {
            "flag": pd.Series([True, None, False] * 4, dtype=object),
            "nullable": pd.Series([1, None, 3] * 4, dtype="Int64"),
            "grade": pd.Categorical(["a", "b", None] * 4),
        }
    ).set_index(np.arange(100, 112))
    dataset = data.from_arrays("t", frame, pd.Series(pd.Categorical(["n", "y"] * 6), index=range(12)))
    assert dataset.frame["flag"].dropna().tolist() == [1.0, 0.0] * 4
    assert dataset.frame["nullable"].isna().sum() == dataset.frame["grade"].isna().sum() == 4
    assert data.split(dataset, seed=0).X_train.shape[1] == len(data.split(dataset, seed=0).features)


def test_openml_is_asked_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = table().rename(columns={"class": "kind"})[["kind", "age", "color"]]
    bunch = sklearn.utils.Bunch(frame=frame, target_names=["kind"])
    asked: dict[str, Any] = {}
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", lambda **kw: asked.update(kw) or bunch)
    dataset = data.load("openml:61")
    assert asked["data_id"] == 61
    assert (dataset.name, dataset.target, dataset.classes) == ("openml-61", "kind", ("a", "b", "c"))


def test_openml_offline_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(**_: Any) -> None:
        warnings.warn("trying again", stacklevel=1)  # as scikit-learn does
        raise URLError("no route")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", offline)
    with pytest.raises(InputError, match=r"openml:61.*network connection.*no route") as caught:
        data.load("openml:61")
    assert caught.value.__context__ is None


# Splits


def test_the_parts_are_dense_float32_without_gaps_or_nan() -> None:
    frame = table()
    part = data.split(data.from_arrays("t", frame.drop(columns="class"), frame["class"]), seed=0)
    for name in PARTS:
        X, y = getattr(part, f"X_{name}"), getattr(part, f"y_{name}")
        assert X.dtype == np.float32
        assert X.flags.c_contiguous
        assert np.isfinite(X).all()
        assert abs(X[:, part.features.index("constant")]).max() < 1e-12
        assert y.dtype == np.int64
        assert len(X) == len(y)
    assert (len(part.y_train), len(part.y_val), len(part.y_test)) == (36, 12, 12)
    assert part.features[:3] == ("age", "member", "constant")
    assert set(part.features[3:]) == {f"color_{c}" for c in ("red", "green", "blue", "missing")}
    assert (part.X_train[:, 3:].sum(axis=1) == 1).all()
    assert (part.target_mean, part.target_scale) == (0, 1)


def test_every_row_is_in_one_part_with_its_own_target() -> None:
    X, y = numbered()
    rows = rows_of(part := data.split(data.from_arrays("t", X, y), seed=3), X[:, 0])
    assert sorted(np.concatenate(list(rows.values()))) == list(range(90))
    for name in PARTS:
        np.testing.assert_array_equal(getattr(part, f"y_{name}"), y[rows[name]])


def test_scaling_is_fitted_on_the_training_rows_alone() -> None:
    X, y = numbered()
    part = data.split(data.from_arrays("t", X, y), seed=0)
    rows = rows_of(part, X[:, 0])
    train = X[rows["train"]]
    assert abs(train.mean(axis=0) - X.mean(axis=0)).max() > 1e-3  # else the test could not tell
    for name in PARTS:
        expected = (X[rows[name]] - train.mean(axis=0)) / train.std(axis=0)
        np.testing.assert_allclose(getattr(part, f"X_{name}"), expected, rtol=1e-5, atol=1e-6)


def test_missing_numbers_take_the_training_median() -> None:
    X, y = numbered()
    rows = rows_of(data.split(data.from_arrays("t", X, y), seed=0), X[:, 0])
    gone = np.concatenate([rows[name][:3] for name in PARTS])
    X[gone, 1] = np.nan
    part = data.split(data.from_arrays("t", X, y), seed=0)
    known = X[rows["train"][3:], 1]
    filled = np.concatenate([np.full(3, np.median(known)), known])
    expected = (np.median(known) - filled.mean()) / filled.std()
    for name in PARTS:
        np.testing.assert_allclose(getattr(part, f"X_{name}")[:3, 1], expected, rtol=1e-5)


def test_what_the_other_rows_hold_does_not_reach_the_training_part() -> None:
    X, y = numbered()
    color = np.resize(["red", "blue"], 90).astype(object)
    frame = pd.DataFrame({"number": X[:, 0], "value": X[:, 1], "color": color})
    before = data.split(data.from_arrays("t", frame, y), seed=0)
    test_rows = rows_of(before, X[:, 0])["test"]
    frame.loc[test_rows, "value"] = 1e6
    frame.loc[test_rows, "color"] = "unseen"
    after = data.split(data.from_arrays("t", frame, y), seed=0)
    assert after.features == before.features == ("number", "value", "color_blue", "color_red")
    np.testing.assert_array_equal(after.X_train, before.X_train)
    np.testing.assert_array_equal(after.X_val, before.X_val)
    assert (after.X_test[:, 2:] == 0).all()


def test_a_column_without_training_values_stays() -> None:
    X, y = numbered()
    rows = rows_of(data.split(data.from_arrays("t", X, y), seed=0), X[:, 0])
    X[rows["train"], 1] = np.nan
    part = data.split(data.from_arrays("t", X, y), seed=0)
    assert part.features == ("x0", "x1")
    assert (part.X_train[:, 1] == 0).all()
    assert np.isfinite(part.X_test).all()


def test_rare_categories_share_a_column() -> None:
    frame = pd.DataFrame({"city": [f"v{i}" for i in range(45)] * 2 + ["v0"] * 10})
    dataset = data.from_arrays("t", frame, [0, 1] * 50)
    assert len(data.split(dataset, seed=0).features) == 32
    assert "'city' is text with 45 distinct values" in dataset.notes[-1]


def test_a_regression_target_is_standardized_by_the_training_rows() -> None:
    X, _ = numbered()
    y = np.exp(X[:, 1]) * 1000
    part = data.split(data.from_arrays("t", X, y), seed=0)
    rows = rows_of(part, X[:, 0])
    assert part.target_mean == pytest.approx(y[rows["train"]].mean())
    assert part.target_scale == pytest.approx(y[rows["train"]].std())
    for name in PARTS:
        got = getattr(part, f"y_{name}")
        assert got.dtype == np.float32
        assert got.ndim == 1
        np.testing.assert_allclose(got * part.target_scale + part.target_mean, y[rows[name]], rtol=1e-4)


def test_the_seed_decides_the_split() -> None:
    dataset = data.load("iris")
    one, again, other = (data.split(dataset, seed=seed) for seed in (5, 5, 6))
    for field in ("X_train", "y_train", "X_val", "y_val", "X_test", "y_test"):
        np.testing.assert_array_equal(getattr(one, field), getattr(again, field))
    assert not np.array_equal(one.X_test, other.X_test)


def test_classes_keep_their_shares() -> None:
    X, y = numbered(rows=300)
    part = data.split(data.from_arrays("t", X, y), seed=0, validation=0.1, test=0.3)
    assert [len(getattr(part, f"y_{name}")) for name in PARTS] == [180, 30, 90]
    assert [int(getattr(part, f"y_{name}").sum()) for name in PARTS] == [60, 10, 30]


@pytest.mark.parametrize("counts", [(3, 3), (3, 200), (3, 4, 5, 6), (3,) * 25])
@pytest.mark.parametrize("seed", range(5))
def test_three_rows_of_a_class_put_one_in_training(counts: tuple[int, ...], seed: int) -> None:
    y = np.repeat([f"c{i:02}" for i in range(len(counts))], counts)
    part = data.split(data.from_arrays("t", np.zeros((len(y), 1)), y), seed=seed)
    assert set(part.y_train) == set(range(len(counts)))


def test_nothing_given_is_modified(tmp_path: Path) -> None:
    X, y = numbered()
    X[0, 1] = np.nan
    frame = table()
    frame.to_csv(tmp_path / "t.csv", index=False)
    np.savez(tmp_path / "t.npz", X=X, y=y)
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in tmp_path.iterdir()}
    X_copy, y_copy, frame_copy = X.copy(), y.copy(), frame.copy()
    for source in before:
        data.split(data.load(source), seed=0)
    data.split(dataset := data.from_arrays("t", X, y), seed=0)
    data.split(data.from_arrays("t", frame.drop(columns="class"), frame["class"]), seed=0)
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in tmp_path.iterdir()} == before
    np.testing.assert_array_equal(X, X_copy)
    np.testing.assert_array_equal(y, y_copy)
    pd.testing.assert_frame_equal(frame, frame_copy)
    X[:] = 0
    assert dataset.frame["x0"].tolist() == X_copy[:, 0].tolist()


def test_options_may_be_positional_and_the_module_is_an_attribute(tmp_path: Path) -> None:
    import popgrad as pg

    table().assign(age=range(60)).to_csv(tmp_path / "t.csv", index=False)
    dataset = pg.data.load(f"{tmp_path / 't.csv'}", "age", "regression")
    assert (dataset.target, dataset.task) == ("age", "regression")
    np.testing.assert_array_equal(pg.data.split(dataset, 3, 0.2, 0.2).X_test, data.split(dataset, seed=3).X_test)
