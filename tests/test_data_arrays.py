"""`popgrad.data.from_arrays`: arrays and frames of any type and library, exact labels, leaks and identifiers."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from popgrad import data
from popgrad.checks import InputError

X = np.random.default_rng(0).normal(size=(24, 2))
Y = np.arange(24) % 3 // 2
QUANTITY = np.exp(X[:, 0]) + np.arange(24)
NAN = float("nan")


def labels(y: Any, **options: Any) -> list[str]:
    dataset = data.from_arrays("t", X, y, **options)
    return [dataset.classes[i] for i in dataset.y]


# Labels

BEYOND = {
    "int64": np.array([2**53, 2**53 + 1] * 12),
    "negative int64": np.array([-(2**53), -(2**53) - 1] * 12),
    "uint64": np.array([2**64 - 1, 2**64 - 2] * 12, dtype=np.uint64),
    "list of both signs": [2**63, 2**63 + 1, -1, -2] * 6,
    "list beyond 64 bits": [2**70, 2**70 + 1] * 12,
    "objects": np.array([2**53, 2**53 + 1] * 12, dtype=object),
    "NumPy integers as objects": np.array([np.int64(2**53), np.int64(2**53 + 1)] * 12, dtype=object),
    "nullable": pd.array([2**53, 2**53 + 1] * 12, dtype="Int64"),
    "nullable unsigned": pd.Series([2**64 - 1, 2**64 - 2] * 12, dtype="UInt64"),
    "categories": pd.Categorical([2**53, 2**53 + 1] * 12),
    "masked array": np.ma.masked_array(np.array([2**53, 2**53 + 1] * 12)),
}


@pytest.mark.parametrize("y", BEYOND.values(), ids=BEYOND)
def test_integers_beyond_2_53_stay_apart(y: Any) -> None:
    assert labels(y) == [str(value) for value in y]


def test_integers_among_floats_stay_apart() -> None:
    y = [2**53 + 1, 2**53, 2.0] * 8
    assert labels(y, task="classification") == [str(2**53 + 1), str(2**53), "2"] * 8


def test_integers_that_float64_cannot_hold_are_no_quantities() -> None:
    with pytest.raises(InputError, match="must fit float64"):
        data.from_arrays("t", X, [10**400 + i for i in range(24)], task="regression")


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("boolean", [True, False], ["True", "False"]),
        ("string", ["b", "a"], ["b", "a"]),
        ("Float64", [1.0, 2.0], ["1", "2"]),
        ("category", ["b", "a"], ["b", "a"]),
    ],
)
def test_nullable_labels(dtype: str, values: list[Any], expected: list[str]) -> None:
    y = pd.Series(values * 12, dtype=dtype)
    assert labels(y, task="classification") == expected * 12
    with pytest.raises(InputError, match="missing value in 1 of 24 rows: correct or drop rows 3 "):
        labels(y.where(y.index != 3), task="classification")


# Masks


def test_a_masked_number_is_a_missing_one() -> None:
    mask = np.zeros((24, 2), dtype=bool)
    mask[5, 1] = True
    for values in (X, np.arange(48).reshape(24, 2)):
        hidden = np.where(mask, -999, values)
        dataset = data.from_arrays("t", np.ma.masked_array(hidden, mask), Y)
        expected = np.where(mask, NAN, values)
        np.testing.assert_array_equal(dataset.frame.to_numpy(), expected)


def test_a_masked_target_is_refused() -> None:
    with pytest.raises(InputError, match="masked value in 1 of 24 rows: correct or drop rows 7 "):
        data.from_arrays("t", X, np.ma.masked_array(Y, np.arange(24) == 7))


# Types


def test_a_matrix_of_a_small_type_keeps_it() -> None:
    for dtype in ("uint8", "int16", "float32"):
        dataset = data.from_arrays("t", np.arange(48).reshape(24, 2).astype(dtype), Y)
        assert set(dataset.frame.dtypes) == {np.dtype(dtype)}
    for dtype in ("bool", "int64", "uint64", "float64"):
        dataset = data.from_arrays("t", np.arange(48).reshape(24, 2).astype(dtype), Y)
        assert set(dataset.frame.dtypes) == {np.dtype("float64")}


def test_every_numeric_type_splits_alike() -> None:
    values = np.random.default_rng(1).integers(0, 100, size=(24, 3))
    expected = data.split(data.from_arrays("t", values.astype(np.float64), Y))
    for dtype in ("uint8", "int8", "int32", "uint64", "float16", "float32"):
        got = data.split(data.from_arrays("t", values.astype(dtype), Y))
        np.testing.assert_array_equal(got.X_train, expected.X_train)
        np.testing.assert_array_equal(got.X_test, expected.X_test)


COLUMNS: dict[str, tuple[Any, list[Any]]] = {
    "bool": (np.array([True, False]), [1, 0]),
    "float32": (np.array([0.5, 1.5], dtype="float32"), [0.5, 1.5]),
    "Int64": (pd.array([1, None], dtype="Int64"), [1, NAN]),
    "boolean": (pd.array([True, None], dtype="boolean"), [1, NAN]),
    "Float64": (pd.array([1.5, None], dtype="Float64"), [1.5, NAN]),
    "string": (pd.array(["p", None], dtype="string"), ["p", NAN]),
    "category": (pd.Categorical(["p", None]), ["p", NAN]),
    "category of numbers": (pd.Categorical([7, 8]), ["7", "8"]),
    "sparse": (pd.arrays.SparseArray([0.0, 2.5]), [0, 2.5]),
    "integers beyond 64 bits": (np.array([2**70, 5], dtype=object), [2.0**70, 5]),
    "mixed text": (np.array(["p", 1], dtype=object), ["p", "1"]),
    "duration": (pd.to_timedelta([90, 30], unit="s"), [90, 30]),
    "time of day": (np.array([datetime.time(6, 30), datetime.time(12)], dtype=object), [6.5, 12]),
    "period": (
        pd.period_range("2024-01", periods=2, freq="M"),
        [pd.Timestamp("2024-01-01"), pd.Timestamp("2024-02-01")],
    ),
    "date": (np.array([datetime.date(2024, 1, 1), None]), [pd.Timestamp("2024-01-01"), pd.NaT]),
    "time zone": (
        pd.to_datetime(["2024-07-01 08:00"] * 2).tz_localize("Asia/Tokyo"),
        [pd.Timestamp("2024-07-01 08:00")] * 2,
    ),
    "text of numbers": (np.array(["1.5", "2"], dtype=object), [1.5, 2]),
    "text of dates": (
        np.array(["2024-01-01", "2024-01-05"], dtype=object),
        [pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-05")],
    ),
}


def repeated(values: Any) -> pd.Series:
    two = pd.Series(values)
    return pd.concat([two] * 12, ignore_index=True)


@pytest.mark.parametrize(("values", "expected"), COLUMNS.values(), ids=COLUMNS)
def test_a_column_of_any_type_beside_floats(values: Any, expected: list[Any]) -> None:
    frame = pd.DataFrame({"f": X[:, 0], "b": X[:, 1] > 0, "c": repeated(values)})
    dataset = data.from_arrays("t", frame, QUANTITY)
    pd.testing.assert_series_equal(dataset.frame["c"], pd.Series(expected * 12), check_dtype=False, check_names=False)
    assert dataset.frame["b"].tolist() == (X[:, 1] > 0).astype(float).tolist()
    assert np.isfinite(data.split(dataset).X_train).all()


@pytest.mark.parametrize("dtype", ["int64", "double", "bool", "string", "timestamp[us]", "date32[day]", "dictionary"])
def test_a_column_of_pyarrow(dtype: str) -> None:
    pa = pytest.importorskip("pyarrow")
    day = datetime.date(2024, 1, 5)
    values: dict[str, Any] = {"int64": [3, None], "double": [1.5, None], "bool": [True, None], "string": ["p", None]}
    values |= {"timestamp[us]": [datetime.datetime(2024, 1, 5), None], "date32[day]": [day, None]}
    kind = pa.dictionary(pa.int32(), pa.string()) if dtype == "dictionary" else pa.type_for_alias(dtype)
    given = values.get(dtype, ["p", None])
    frame = pd.DataFrame({"f": X[:, 0], "c": pd.Series(given * 12, dtype=pd.ArrowDtype(kind))})
    column = data.from_arrays("t", frame, Y).frame["c"]
    assert column.isna().tolist() == [False, True] * 12
    assert column[0] == (pd.Timestamp(day) if dtype in ("timestamp[us]", "date32[day]") else given[0])


@pytest.mark.parametrize("column", [[[1], [2]], [{"a": 1}, {}], [1 + 2j, 3], [b"a", b"b"]])
def test_objects_are_refused(column: list[Any]) -> None:
    frame = pd.DataFrame({"f": X[:, 0], "c": pd.Series(column * 12, dtype=object)})
    with pytest.raises(InputError, match="column 'c' of X must hold real numbers, dates or text"):
        data.from_arrays("t", frame, Y)


# Other libraries


def test_a_tensor_is_taken_without_its_graph() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(X, requires_grad=True)
    dataset = data.from_arrays("t", tensor, torch.tensor(QUANTITY, requires_grad=True))
    np.testing.assert_array_equal(dataset.frame.to_numpy(), X)
    np.testing.assert_array_equal(dataset.y, QUANTITY)
    assert tensor.requires_grad
    half = data.from_arrays("t", torch.tensor(X, dtype=torch.bfloat16), torch.tensor(Y))
    np.testing.assert_allclose(half.frame.to_numpy(), X, rtol=2**-8)


def test_polars() -> None:
    pl = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    frame = pl.DataFrame({"n": [1, None] * 12, "s": ["p", "q"] * 12, "b": [True, False, None] * 8, "f": X[:, 0]})
    dataset = data.from_arrays("t", frame, pl.Series([2**53, 2**53 + 1] * 12))
    assert dataset.classes == (str(2**53), str(2**53 + 1))
    assert dataset.frame["n"].isna().tolist() == [False, True] * 12
    assert dataset.frame["s"].tolist() == ["p", "q"] * 12
    assert dataset.frame["b"].dropna().tolist() == [1, 0] * 8
    with pytest.raises(InputError, match="missing value in 8 of 24 rows"):
        data.from_arrays("t", frame, frame["b"])
    with pytest.raises(InputError, match=r"pass X.collect\(\)"):
        data.from_arrays("t", frame.lazy(), Y)


def test_a_sparse_matrix_is_refused_with_a_way_out() -> None:
    import scipy.sparse

    with pytest.raises(InputError, match=r"dense, got a sparse csr_array: pass X.toarray\(\)"):
        data.from_arrays("t", scipy.sparse.csr_array(X), Y)


# Leaks and identifiers


@pytest.mark.parametrize("y", [Y, Y.astype(bool), Y + 7, QUANTITY, np.array(["n", "y"])[Y]], ids=str)
def test_a_copy_of_the_target_is_set_aside(y: np.ndarray) -> None:
    frame = pd.DataFrame({"a": X[:, 0], "copy": y, "late": np.where(np.arange(24) == 23, y[0], y)})
    dataset = data.from_arrays("t", frame, y)
    assert list(dataset.frame) == ["a", "late"]
    assert list(dataset.aside) == ["copy"]
    assert "Column 'copy' is left out: it repeats the target 'y' in every row." in dataset.notes


def test_a_copy_is_found_among_many_rows_that_begin_alike() -> None:
    y = np.sort(np.random.default_rng(0).integers(0, 2, 5000)) * 1.5
    matrix = np.column_stack([np.random.default_rng(1).normal(size=5000), y, np.roll(y, 1)])
    assert list(data.from_arrays("t", matrix, y).frame) == ["x0", "x2"]
    assert list(data.from_arrays("t", matrix, y > 0).frame) == ["x0", "x1", "x2"]


@pytest.mark.parametrize(
    ("column", "y"), [(np.array(["n", "y"])[Y], Y), (5 - Y, Y), (2 * QUANTITY + 3, QUANTITY), (-QUANTITY, QUANTITY)]
)
def test_the_target_in_another_coding_is_noted(column: np.ndarray, y: np.ndarray) -> None:
    dataset = data.from_arrays("t", pd.DataFrame({"a": X[:, 0], "code": column}), y)
    assert list(dataset.frame) == ["a", "code"]
    assert "function of 'code' alone" in dataset.notes[-1]
    other = np.where(np.arange(24) == 23, column[0], column)
    assert "function" not in str(data.from_arrays("t", pd.DataFrame({"a": X[:, 0], "code": other}), y).notes)


def test_nothing_but_copies_is_refused() -> None:
    with pytest.raises(InputError, match=r"no feature is left besides the target 'y'.*'x0' is left out"):
        data.from_arrays("t", Y[:, None], Y)


def test_an_identifier_is_set_aside_and_a_counter_is_not() -> None:
    frame = pd.DataFrame({"user_id": np.arange(24) * 7, "count": np.arange(24), "valid": np.arange(24) % 5})
    assert list(data.from_arrays("t", frame, Y).frame) == ["count", "valid"]
    mixed = frame.assign(name=[f"n{i}" for i in range(24)], kind=["a", "b"] * 12)
    dataset = data.from_arrays("t", mixed, Y)
    assert list(dataset.frame) == ["count", "valid", "kind"]
    assert list(dataset.aside) == ["user_id", "name"]


def test_a_typo_in_a_frame_is_refused() -> None:
    frame = pd.DataFrame({"age": [str(i) for i in range(23)] + ["3O"]})
    with pytest.raises(InputError, match=r"except in 1 row, such as '3O' in row 23 .counted from 0.*categorical"):
        data.from_arrays("t", frame, Y)
    half = pd.DataFrame({"code": pd.Categorical([str(i % 11) for i in range(23)] + ["3O"])})
    assert data.from_arrays("t", half, Y).frame["code"].tolist()[-1] == "3O"


def test_dropped_columns_are_set_aside() -> None:
    dataset = data.from_arrays("t", X, Y, drop="x1")
    assert list(dataset.frame) == ["x0"]
    np.testing.assert_array_equal(dataset.aside["x1"], X[:, 1])
    with pytest.raises(InputError, match="unknown column to drop 'x7'"):
        data.from_arrays("t", X, Y, drop=["x7"])
