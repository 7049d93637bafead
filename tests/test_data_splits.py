"""`popgrad.data.split`: by time and by groups, dates as numbers, and bounded standardized values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from popgrad import data
from popgrad.checks import InputError

PARTS = ("train", "val", "test")
N = 60
NUMBER = np.arange(N, dtype=np.float64)
Y = np.arange(N) % 3 // 2


def table(**columns: Any) -> data.Dataset:
    """A dataset whose first feature is the row's number."""
    return data.from_arrays("t", pd.DataFrame({"number": NUMBER, **columns}), Y)


def rows_of(part: data.Split) -> list[np.ndarray]:
    """Row numbers of each part, from the standardized first feature."""
    column = part.features.index("number")
    stacked = np.concatenate([getattr(part, f"X_{name}")[:, column] for name in PARTS])
    order = np.argsort(np.argsort(stacked))
    return np.split(order, np.cumsum([len(part.X_train), len(part.X_val)]))


# Rows


def test_by_time_keeps_the_order() -> None:
    part = data.split(table(), by="time")
    for got, expected in zip(rows_of(part), (range(36), range(36, 48), range(48, 60)), strict=True):
        assert got.tolist() == list(expected)
    np.testing.assert_array_equal(part.y_test, Y[48:])
    np.testing.assert_array_equal(data.split(table(), seed=5, by="time").X_train, part.X_train)


def test_by_time_is_standardized_by_the_past() -> None:
    part = data.split(table(), 0, 0.1, 0.3, by="time")
    past = NUMBER[:36]
    np.testing.assert_allclose(part.X_test[:, 0], (NUMBER[42:] - past.mean()) / past.std(), rtol=1e-6)


def test_by_dates_goes_by_the_dates_and_cuts_no_day() -> None:
    days = pd.date_range("2024-01-01", periods=20)
    shuffled = np.random.default_rng(0).permutation(np.repeat(np.arange(20), 3))
    dataset = table(when=days[shuffled])
    train, val, test = (set(shuffled[rows]) for rows in rows_of(data.split(dataset, by="when")))
    assert (train, val, test) == (set(range(12)), set(range(12, 16)), set(range(16, 20)))
    assert "when_days" in data.split(dataset, by="when").features


@pytest.mark.parametrize("drop", [(), ("user",)])
@pytest.mark.parametrize("user", [np.arange(N) // 6, [f"u{i // 6}" for i in range(N)], np.arange(N) % 10 / 2])
def test_groups_stay_together_and_are_no_feature(user: Any, drop: tuple[str, ...]) -> None:
    frame = pd.DataFrame({"number": NUMBER, "user": user})
    dataset = data.from_arrays("t", frame, Y, drop=drop)
    seen = set()
    for seed in range(5):
        part = data.split(dataset, seed=seed, by="user")
        assert part.features == ("number",)
        groups = [set(frame["user"][rows]) for rows in rows_of(part)]
        assert [len(group) for group in groups] == [6, 2, 2]
        assert len(set.union(*groups)) == 10
        seen.add(tuple(sorted(groups[2])))
    assert len(seen) > 1


def test_unequal_groups_meet_the_shares_as_nearly_as_they_can() -> None:
    user = np.array([0] * 40 + list(range(1, 21)))
    part = data.split(table(user=user), seed=1, by="user")
    assert sorted(map(len, rows_of(part)))[-1] >= 40
    assert all(len(rows) >= 1 for rows in rows_of(part))


def test_an_identifier_that_was_set_aside_still_gives_groups() -> None:
    dataset = table(who=[f"p{i // 2}" if i < 50 else f"q{i}" for i in range(N)])
    assert list(dataset.frame) == ["number"]
    rows = rows_of(data.split(dataset, by="who"))
    for pair in range(0, 50, 2):
        assert sum(bool({pair, pair + 1} & set(part)) for part in rows) == 1


def test_dropped_text_of_dates_orders_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    lines = [f"{i},{28 - i // 3:02}.01.2024,{Y[i]}\n" for i in range(N)]
    path.write_text("number,when,y\n" + "".join(lines))
    dataset = data.load(path, drop=["when"])
    assert list(dataset.frame) == ["number"]
    assert min(rows_of(data.split(dataset, by="when"))[0]) == 24


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("tim", "unknown way to split 'tim'. Did you mean 'time'"),
        ("y", "a column other than the target"),
        ("gaps", "column 'gaps' has a missing value in 1 of 60 rows"),
        ("two", "needs 3 groups, one for each part, got 2"),
        ("sorted", r"leaves no row of class '\d' to train on"),
        (3, "unknown way to split 3"),
    ],
)
def test_a_bad_way_to_split_is_refused(by: Any, message: str) -> None:
    gaps = np.where(NUMBER == 4, np.nan, NUMBER // 6)
    columns = {"gaps": gaps, "two": Y[::-1], "sorted": pd.Series(pd.date_range("2024-01-01", periods=N))}
    y = np.sort(Y) if by == "sorted" else Y
    dataset = data.from_arrays("t", pd.DataFrame({"number": NUMBER, **columns}), y)
    with pytest.raises(InputError, match=message):
        data.split(dataset, by=by)


def test_groups_alone_are_refused() -> None:
    dataset = data.from_arrays("t", pd.DataFrame({"user": np.arange(N) // 6}), Y)
    with pytest.raises(InputError, match="no feature is left besides the groups 'user'"):
        data.split(dataset, by="user")


# Dates


@pytest.mark.parametrize(
    ("periods", "freq", "cycles"),
    [
        (48, "MS", ["year"]),  # the weekday of a first of the month says nothing
        (24, "MS", []),  # 23 months are less than two years
        (30, "D", ["week"]),
        (800, "D", ["year", "week"]),
        (400, "h", ["week", "day"]),
        (40, "h", []),
        (60, "h", ["day"]),
        (60, "W", []),
        (60, "YS", []),
    ],
)
def test_dates_become_the_cycles_that_they_resolve(periods: int, freq: str, cycles: list[str]) -> None:
    expected = [f"d_{cycle}_{wave}" for cycle in cycles for wave in ("sin", "cos")]
    when = pd.date_range("2020-01-01", periods=periods, freq=freq)
    dataset = data.from_arrays("t", pd.DataFrame({"d": when}), np.arange(periods) % 2)
    assert data.split(dataset).features == ("d_days", *expected)


def test_dates_are_days_and_points_on_circles() -> None:
    when = pd.date_range("2019-03-01 06:00", periods=800, freq="31h")
    frame = pd.DataFrame({"x": np.random.default_rng(0).normal(size=800), "d": when})
    part = data.split(data.from_arrays("t", frame, np.arange(800) % 2), by="time")
    past, held = when[: len(part.X_train)], when[-len(part.X_test) :]

    def check(name: str, value: Any) -> None:
        train, test = value(past), value(held)
        got = part.X_test[:, part.features.index(f"d_{name}")]
        np.testing.assert_allclose(got, (test - train.mean()) / train.std(), rtol=1e-4, atol=1e-5)

    days = lambda d: ((d - pd.Timestamp(0)) / pd.Timedelta(days=1)).to_numpy()  # noqa: E731
    hours = lambda d: d.hour.to_numpy() / 24  # noqa: E731
    check("days", days)
    check("week_sin", lambda d: np.sin(2 * np.pi * (d.day_of_week.to_numpy() + hours(d)) / 7))
    check("week_cos", lambda d: np.cos(2 * np.pi * (d.day_of_week.to_numpy() + hours(d)) / 7))
    check("year_sin", lambda d: np.sin(2 * np.pi * (d.day_of_year.to_numpy() - 1 + hours(d)) / 365.25))


def test_a_missing_date_is_filled_in() -> None:
    when = pd.Series(pd.date_range("2024-01-01", periods=N))
    when[when.index % 7 == 0] = pd.NaT
    part = data.split(table(d=when))
    assert all(np.isfinite(getattr(part, f"X_{name}")).all() for name in PARTS)
    assert [name for name in part.features if name.startswith("d_")] == ["d_days", "d_week_sin", "d_week_cos"]


def test_names_of_expanded_dates_do_not_collide() -> None:
    part = data.split(table(d_days=NUMBER**2, d=pd.date_range("2024-01-01", periods=N, freq="YS")))
    assert part.features == ("number", "d_days", "d_days_")


# Scale


def test_a_rare_exception_does_not_explode() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 3))
    X[:, 1] = 0
    X[7, 1] = 200  # one pixel of one image
    X[:, 2] = 0
    for row in range(0, 20_000, 1000):
        X[row, 2] = 255
    for seed in range(3):
        part = data.split(data.from_arrays("t", X, np.arange(20_000) % 2), seed=seed)
        for name in PARTS:
            assert abs(getattr(part, f"X_{name}")).max() <= 40


def test_the_scale_is_at_least_a_20th_of_the_range() -> None:
    rows = 6000
    X = np.zeros((rows, 2))
    X[5, 0] = 3.0
    X[:, 1] = np.arange(rows) % 7
    part = data.split(data.from_arrays("t", X, np.arange(rows) % 2), by="time")
    past = X[:3600]
    assert past[:, 0].std() < 3 / 20  # else the test could not tell
    scale = np.array([3 / 20, past[:, 1].std()])
    np.testing.assert_allclose(part.X_train, (past - past.mean(axis=0)) / scale, rtol=1e-5)


def test_other_rows_are_bounded_by_the_range_of_the_training_rows() -> None:
    values = NUMBER % 11
    values[50] = 1e30
    values[51] = -1e30
    values[52] = 15.0
    part = data.split(table(x=values, c=np.where(NUMBER > 40, 7.0, 3.0)), by="time")
    past = values[:36]
    x, c = part.features.index("x"), part.features.index("c")
    expected = (np.clip(values[48:], -10, 20) - past.mean()) / past.std()
    np.testing.assert_allclose(part.X_test[:, x], expected, rtol=1e-5)
    assert part.X_test[4, x] == pytest.approx((15 - past.mean()) / past.std())
    for name in PARTS:
        assert (getattr(part, f"X_{name}")[:, c] == 0).all()


def test_noise_of_rounding_is_no_column() -> None:
    part = data.split(table(c=0.1 + np.where(NUMBER % 2 == 0, 0, 2**-56)))
    assert abs(part.X_train[:, part.features.index("c")]).max() < 1e-12


def test_only_nearly_constant_columns_of_digits_are_bounded() -> None:
    dataset = data.load("digits")
    part = data.split(dataset, seed=0)
    deviation = part.X_train.std(axis=0)
    bounded = (deviation > 0) & (deviation < 0.999)
    assert bounded.sum() == 4
    np.testing.assert_allclose(np.ptp(part.X_train, axis=0)[bounded], 20, rtol=1e-5)
