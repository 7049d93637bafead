"""Sixty small text tables: each is read right, or refused with a message that says what to do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from popgrad import data
from popgrad.checks import InputError

NAN = math.nan
YES = ["no", "yes"]


@dataclass
class Read:
    """A table that is read.

    `X` are the features by name, NaN where a value is missing; `y` the labels as text, or quantities; `notes` are
    patterns that a note must match.
    """

    text: str | bytes
    X: dict[str, list[Any]]
    y: list[Any]
    target: str = "y"
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    suffix: str = ".csv"


@dataclass
class Refused:
    """A table that is refused with a message that matches a pattern."""

    text: str | bytes
    message: str
    options: dict[str, Any] = field(default_factory=dict)
    suffix: str = ".csv"


def rows(*lines: str, times: int = 1) -> str:
    return "".join(f"{line}\n" for line in lines) * times


# Six rows that most tables below hold in some form.
PLAIN = rows("1.5,4,no", "2.5,5,yes", "3.5,4,no", "4.5,6,yes", "5.5,4,no", "6.5,4,yes")
A, B, Y = [1.5, 2.5, 3.5, 4.5, 5.5, 6.5], [4, 5, 4, 6, 4, 4], ["no", "yes"] * 3
AB = {"a": A, "b": B}
NUMBERED = {"0": A, "1": B}
INTEGERS = rows("7,2,3,no", "8,5,4,yes", "9,2,7,no", "7,1,3,yes", "8,6,1,no", "9,3,3,yes")
I0, I1, I2 = [7, 8, 9, 7, 8, 9], [2, 5, 2, 1, 6, 3], [3, 4, 7, 3, 1, 3]
HOURS = [f"2024-03-01 {h:02}:00" for h in range(24)]
AGES = [20 + i for i in range(23)]
BIG = [2**53, 2**53 + 1, 2**53 + 2]


def ages(other: str) -> str:
    """Return 24 rows; line 9 holds another text among distinct ages."""
    values = [str(age) for age in AGES]
    values.insert(7, other)
    return "age,b,y\n" + rows(*(f"{v},{i % 5},{Y[i % 2]}" for i, v in enumerate(values)))


def with_first(column: list[str], name: str = "c") -> str:
    """Return a table with a named first column, a second one of numbers and two classes."""
    return f"{name},b,y\n" + rows(*(f"{v},{i % 5},{Y[i % 2]}" for i, v in enumerate(column)))


def second(count: int) -> list[int]:
    return [i % 5 for i in range(count)]


def labels(count: int) -> list[str]:
    return [Y[i % 2] for i in range(count)]


TABLES: dict[str, Read | Refused] = {
    # Headers
    "header": Read("a,b,y\n" + PLAIN, AB, Y, notes=["first row holds the column names"]),
    "no header": Read(PLAIN, NUMBERED, Y, "2", notes=["first row .1.5, 4, no. was read as data; pass header=True"]),
    "header forced": Read(
        rows("9,8,7") + INTEGERS.replace(",no", "").replace(",yes", ""),
        {"9": I0, "8": I1},
        [str(v) for v in I2],
        "7",
        {"header": True, "task": "regression"},
    ),
    "header denied": Read(
        rows("u,v,w", "p,q,r", times=3),
        {"0": ["u", "p"] * 3, "1": ["v", "q"] * 3},
        ["w", "r"] * 3,
        "2",
        {"header": False},
    ),
    "years as header": Read(
        "1990,1995,2000,y\n" + INTEGERS,
        {"1990": I0, "1995": I1, "2000": I2},
        Y,
        "y",
        notes=["column names .1990, 1995, 2000, .*pass header=False .--no-header"],
    ),
    "counted header": Read("0,1,2,3\n" + INTEGERS, {"0": I0, "1": I1, "2": I2}, Y, "3"),
    "rising first row": Read(
        rows("1,2,no", "2,5,yes", "2,2,no", "1,1,yes", "3,6,no", "3,3,yes"),
        {"0": [1, 2, 2, 1, 3, 3], "1": [2, 5, 2, 1, 6, 3]},
        Y,
        "2",
        notes=["read as data, since 'no' occurs again below; pass header=True"],
    ),
    "one number first": Read(
        rows("5,red,no", "3,blue,yes", "5,blue,no", "4,red,yes", "5,red,no", "1,blue,yes"),
        {"0": [5, 3, 5, 4, 5, 1], "1": ["red", "blue", "blue", "red", "red", "blue"]},
        Y,
        "2",
    ),
    "all text, no header": Read(
        rows("red,no", "blue,yes", "red,yes", times=3),
        {"0": ["red", "blue", "red"] * 3},
        ["no", "yes", "yes"] * 3,
        "1",
        notes=["read as data, since 'red' occurs again"],
    ),
    "all text, header": Read(
        "color,y\n" + rows("red,no", "blue,yes", "red,yes", times=3),
        {"color": ["red", "blue", "red"] * 3},
        ["no", "yes", "yes"] * 3,
        notes=["column names .color, y.: pass header=False"],
    ),
    "dates, no header": Read(
        rows(*(f"{d},{c}" for d, c in zip(HOURS[:6], Y, strict=True))),
        {"0": [pd.Timestamp(d) for d in HOURS[:6]]},
        Y,
        "1",
        notes=["read as data"],
    ),
    "missing in the first row": Read(
        rows("5,NA,7,no") + INTEGERS, {"0": [5, *I0], "1": [NAN, *I1], "2": [7, *I2]}, ["no", *Y], "3"
    ),
    "index column": Read(
        ",a,b,y\n" + rows(*(f"{i},{line}" for i, line in enumerate(PLAIN.split()))),
        AB,
        Y,
        notes=["first column has no name"],
    ),
    "names twice": Read("a,a,y\n" + PLAIN, {"a": A, "a.1": B}, Y, notes=["repeated names were changed: 'a.1'"]),
    "title line": Refused(
        "my export\na,b,y\n" + PLAIN,
        "line 2 has 3 fields and the header .line 1. has 1: delete line 1 if it is a title",
    ),
    "header only": Refused("a,b,y\n", "expects rows of data, got none"),
    "empty file": Refused("", "got an empty file"),
    # Fields
    "trailing comma on data": Read("a,b,y\n" + PLAIN.replace("\n", ",\n"), AB, Y),
    "counted header, trailing comma": Read(
        "0,1,2,3\n" + INTEGERS.replace("\n", ",\n"), {"0": I0, "1": I1, "2": I2}, Y, "3"
    ),
    "trailing comma everywhere": Read("a,b,y,\n" + PLAIN.replace("\n", ",\n"), AB, Y),
    "trailing comma on the header": Read("a,b,y,\n" + PLAIN, AB, Y),
    "trailing comma, no header": Read(PLAIN.replace("\n", ",\n"), NUMBERED, Y, "2"),
    "trailing comma on some": Read("a,b,y\n" + PLAIN.replace("no\n", "no,\n"), AB, Y),
    "trailing comma and quotes": Read("a,b,y\n" + PLAIN.replace("no\n", '"no",\n'), AB, Y),
    "value without a name": Refused("a,b,y\n1,2,no,5\n" + PLAIN, "line 2 has 4 fields and the header .line 1. has 3"),
    "ragged": Refused("a,b,y\n" + PLAIN + "1,no\n", "line 8 has 2 fields .* has 3: add the missing separators"),
    "ragged after blank lines": Refused("a,b,y\n\n\n" + PLAIN + "\n1,no\n", "line 11 has 2 fields"),
    "comma in a field": Refused("a,b,y\n1,2,no\n1,New York, NY,no\n", "line 3 has 4 fields .* put quotes around"),
    "quotes": Read(
        "a,b,y\n" + rows('"x, ""1""",4,no', '"line\nbreak",5,yes', times=3),
        {"a": ['x, "1"', "line\nbreak"] * 3, "b": [4, 5] * 3},
        Y,
    ),
    "open quote": Refused('a,b,y\n1,2,no\n"1,2,yes\n3,4,no\n', "quotes of the record that begins in line 3"),
    "spaces around fields": Read(
        "a , b,y \n" + rows(*(f"{a} , {b}, {y} " for a, b, y in zip(A, B, Y, strict=True))), AB, Y
    ),
    "blank lines": Read("\na,b,y\n\n" + PLAIN.replace("\n", "\n \n"), AB, Y),
    "empty rows": Read("a,b,y\n" + PLAIN + ",,\n,,\n", AB, Y, notes=["2 rows without any value are left out"]),
    "comments": Read("# made by hand\n# 2024\na,b,y\n" + PLAIN, AB, Y, notes=["2 comment lines"]),
    "commented header": Read("# a,b,y\n" + PLAIN, AB, Y),
    "one column": Refused("y\nno\nyes\nno\n", "columns besides the target.*Pass sep="),
    # Bytes
    "byte order mark": Read(("a,b,y\n" + PLAIN).encode("utf-8-sig"), AB, Y),
    "CRLF": Read(("a,b,y\n" + PLAIN).replace("\n", "\r\n").encode(), AB, Y),
    "CR": Read(("a,b,y\n" + PLAIN).replace("\n", "\r").encode(), AB, Y),
    "no last line break": Read("a,b,y\n" + PLAIN.rstrip(), AB, Y),
    "unicode": Read("größe,b,y\n" + PLAIN.replace("no", "nö"), {"größe": A, "b": B}, ["nö", "yes"] * 3),
    "latin-1": Refused("größe,b,y\n".encode("latin-1") + PLAIN.encode(), "save it as UTF-8"),
    "UTF-16": Refused(("a,b,y\n" + PLAIN).encode("utf-16"), "save it as UTF-8"),
    # Separators and decimal points
    "semicolons": Read("a;b;y\n" + PLAIN.replace(",", ";"), AB, Y),
    "tabs": Read("a\tb\ty\n" + PLAIN.replace(",", "\t"), AB, Y),
    "bars": Read("a|b|y\n" + PLAIN.replace(",", "|"), AB, Y),
    "blanks": Read("a   b y\n" + PLAIN.replace(",", "   "), AB, Y, suffix=".data"),
    "sep given": Read("a:b:y\n" + PLAIN.replace(",", ":"), AB, Y, options={"sep": ":"}),
    "sep directive": Read("sep=;\na;b;y\n" + PLAIN.replace(",", ";"), AB, Y),
    "another separator": Refused("a:b:y\n" + PLAIN.replace(",", ":"), "Pass sep="),
    "semicolons in text": Read(
        "a,b,y\n" + rows("p;q,4,no", "q;r,5,yes", times=3), {"a": ["p;q", "q;r"] * 3, "b": [4, 5] * 3}, Y
    ),
    "decimal comma": Read("a;b;y\n" + PLAIN.replace(",", ";").replace(".", ","), AB, Y, options={"decimal": ","}),
    "decimal comma, no header": Read(
        PLAIN.replace(",", ";").replace(".", ","), NUMBERED, Y, "2", options={"decimal": ","}
    ),
    "decimal comma target": Read(
        "b;y\n" + rows(*(f"{b};{a}".replace(".", ",") for a, b in zip(A, B, strict=True))),
        {"b": B},
        A,
        options={"decimal": ","},
    ),
    "decimal comma unsaid": Refused(
        "a;b;y\n" + PLAIN.replace(",", ";").replace(".", ","), "'1,5' in line 2.*decimal=','"
    ),
    "decimal comma, no header, unsaid": Refused(PLAIN.replace(",", ";").replace(".", ","), "pass decimal=','"),
    "separated thousands": Refused(
        "a,b,y\n" + rows('"1,234,567",4,no', '"2,000",5,yes', times=3), "'1,234,567' in line 2: write 1234.5"
    ),
    "decimal point unsaid": Refused(
        "a;b;y\n" + PLAIN.replace(",", ";"), "'1.5' in line 2: write 1234,5", options={"decimal": ","}
    ),
    "currency": Refused("a,b,y\n" + rows("$12.50,4,no", "$7.99,5,yes", times=3), r"'\$12.50' in line 2.*drop=\['a'\]"),
    # Missing values
    "missing codes": Read(
        "a,b,y\n" + rows("?,4,no", "2.5,,yes", "NA,4,no", "4.5,null,yes", "nan,4, no", "6.5,4,yes"),
        {"a": [NAN, 2.5, NAN, 4.5, NAN, 6.5], "b": [4, NAN, 4, NAN, 4, 4]},
        Y,
    ),
    "own missing code": Read(
        "a,b,y\n" + PLAIN.replace("2.5", "-999").replace("6,", "unknown,"),
        {"a": [1.5, NAN, *A[2:]], "b": [4, 5, 4, NAN, 4, 4]},
        Y,
        options={"na": ["-999", "unknown"]},
    ),
    "class None": Read("a,b,y\n" + PLAIN.replace("no", "None"), AB, ["None", "yes"] * 3, options={"na": [""]}),
    "class NA": Read(
        "a,b,y\n" + PLAIN.replace("no", "NA").replace("2.5", "-"),
        {"a": [1.5, NAN, *A[2:]], "b": B},
        ["NA", "yes"] * 3,
        options={"na": ["", "-"]},
    ),
    "class None unsaid": Refused(
        "a,b,y\n" + PLAIN.replace("no", "None"), r"in 3 of 6 rows.*lines 2, 4, 6; .*na=\[''\]"
    ),
    "missing target": Refused("a,b,y\n" + PLAIN + "1,2,\n", "missing value in 1 of 7 rows: correct or drop lines 8"),
    # Kinds of columns
    "typo": Refused(ages("3O"), r"'age' holds numbers except in 1 row, such as '3O' in line 9.*na=\['3O'\] .--na 3O"),
    "typo in decimals": Refused("a,b,y\n" + PLAIN + "7.5x,2,no\n" + PLAIN, "'7.5x' in line 8"),
    "typo as missing": Read(
        ages("3O"), {"age": [*AGES[:7], NAN, *AGES[7:]], "b": second(24)}, labels(24), options={"na": "3O"}
    ),
    "typo in a dropped column": Read(ages("3O"), {"b": second(24)}, labels(24), options={"drop": ["age"]}),
    "typo in the target": Refused(
        "b,y\n" + rows(*(f"{i % 5},{v}" for i, v in enumerate([*A, *A, "7.5.", *A]))),
        "the target holds numbers.*line 14",
    ),
    "codes beside numbers": Read(
        with_first(["0", "1", "2", "3+"] * 6), {"c": ["0", "1", "2", "3+"] * 6, "b": second(24)}, labels(24)
    ),
    "booleans": Read(
        "a,b,y\n" + rows("True,TRUE,4.5", "False,FALSE,1.5", "True,FALSE,2.5", "?,TRUE,8.5"),
        {"a": [1, 0, 1, NAN], "b": [1, 0, 0, 1]},
        [4.5, 1.5, 2.5, 8.5],
    ),
    "boolean target": Read("a,b,y\n" + PLAIN.replace("no", "false").replace("yes", "true"), AB, ["False", "True"] * 3),
    "constant column": Read("a,b,y\n" + PLAIN.replace(",6,", ",4,").replace(",5,", ",4,"), {"a": A, "b": [4] * 6}, Y),
    "all missing": Read(
        "a,b,y\n" + rows(*(f"{a},,{y}" for a, y in zip(A, Y, strict=True))), {"a": A, "b": [NAN] * 6}, Y
    ),
    "dates": Read(
        with_first(HOURS, "when"),
        {"when": [pd.Timestamp(d) for d in HOURS], "b": second(24)},
        labels(24),
        notes=["'when' holds dates .2024-03-01", "call split with by='time'"],
    ),
    "day first": Read(
        with_first([f"{d}.03.2024" for d in range(10, 20)]),
        {"c": [pd.Timestamp(2024, 3, d) for d in range(10, 20)], "b": second(10)},
        labels(10),
    ),
    "day or month first, by order": Read(
        with_first(["1/3/2024", "5/3/2024", "2/4/2024", "4/4/2024"] + ["5/4/2024"] * 2),
        {"c": [pd.Timestamp(2024, m, d) for d, m in ((1, 3), (5, 3), (2, 4), (4, 4), (5, 4), (5, 4))], "b": second(6)},
        Y,
    ),
    "day or month first": Read(
        with_first(["3/1/2024", "1/5/2024", "4/2/2024", "2/4/2024"] + ["5/4/2024"] * 2),
        {"c": [pd.Timestamp(2024, m, d) for m, d in ((3, 1), (1, 5), (4, 2), (2, 4), (5, 4), (5, 4))], "b": second(6)},
        Y,
        notes=["the month is taken to come first"],
    ),
    "typo in dates": Refused(with_first([*HOURS[:9], "2024-13-45 00:00"]), "'c' holds dates except in 1 row.*line 11"),
    "times of day": Read(with_first(["6:30", "12:00", "23:45"] * 2), {"c": [6.5, 12, 23.75] * 2, "b": second(6)}, Y),
    "identifiers": Read(
        with_first([f"P-{i}x" for i in range(24)]),
        {"b": second(24)},
        labels(24),
        notes=["'c' is left out as an identifier: it is text"],
    ),
    "numbered rows": Read(
        with_first([str(i) for i in range(1, 25)], "Id"),
        {"b": second(24)},
        labels(24),
        notes=["'Id' is left out as an identifier: it holds"],
    ),
    "duplicate target": Read(
        "a,copy,y\n" + rows(*(f"{a},{y},{y}" for a, y in zip(A, Y, strict=True))),
        {"a": A},
        Y,
        notes=["'copy' is left out: it repeats the target 'y'"],
    ),
    "duplicate quantity": Read(
        "b,copy,y\n" + rows(*(f"{b},{a},{a}0" for a, b in zip(A, B, strict=True))),
        {"b": B},
        A,
        notes=["'copy' is left out"],
    ),
    "target in another coding": Read(
        "a,code,y\n" + rows(*(f"{a},{7 if y == 'no' else 9},{y}" for a, y in zip(A, Y, strict=True))),
        {"a": A, "code": [7, 9] * 3},
        Y,
        notes=["function of 'code' alone.*drop=.'code'"],
    ),
    # Targets
    "integers beyond 2**53": Read(
        "a,y\n" + rows(*(f"{i % 2},{BIG[i % 3]}" for i in range(12))), {"a": [0, 1] * 6}, [str(v) for v in BIG] * 4
    ),
    "integers beyond 2**64": Read(
        "a,y\n" + rows(*(f"{i % 2},{10**25 + i % 3}" for i in range(12))),
        {"a": [0, 1] * 6},
        [str(10**25 + i) for i in range(3)] * 4,
    ),
    "whole numbers": Read(
        "a,b,y\n" + PLAIN.replace("no", "1").replace("yes", "2"),
        AB,
        ["1", "2"] * 3,
        notes=["whole numbers with 2 distinct values: classification. Pass task='regression'"],
    ),
    "floating labels": Read(
        "a,b,y\n" + PLAIN.replace("no", "0.0").replace("yes", "1.0"),
        AB,
        [0.0, 1.0] * 3,
        notes=["decimal point: regression.*2 distinct values: pass task='classification'"],
    ),
    "last column": Read("a,b,c\n" + PLAIN, AB, Y, "c", notes=["target is the last column, 'c'"]),
    "wrong target": Refused(
        "a,price,y\n" + PLAIN, "unknown target column 'prise'.*Did you mean 'price'", {"target": "prise"}
    ),
    "target of dates": Refused("b,y\n" + rows(*(f"{i % 5},{d}" for i, d in enumerate(HOURS))), "got dates"),
    "wrong drop": Refused("a,b,y\n" + PLAIN, "unknown column to drop 'c'", {"drop": ["c"]}),
    "target dropped": Refused("a,b,y\n" + PLAIN, "cannot drop 'y': it is the target", {"drop": "y"}),
    "all dropped": Refused("a,b,y\n" + PLAIN, "all columns are dropped", {"drop": ["a", "b"]}),
}


def write(folder: Path, table: Read | Refused) -> Path:
    path = folder / f"t{table.suffix}"
    path.write_bytes(table.text if isinstance(table.text, bytes) else table.text.encode())
    return path


def parameters(kind: type) -> list[Any]:
    return [pytest.param(table, id=name) for name, table in TABLES.items() if isinstance(table, kind)]


@pytest.mark.parametrize("table", parameters(Read))
def test_a_table_is_read_right(tmp_path: Path, table: Read) -> None:
    dataset = data.load(write(tmp_path, table), **table.options)
    assert list(dataset.frame) == list(table.X)
    for name, expected in table.X.items():
        pd.testing.assert_series_equal(dataset.frame[name], pd.Series(expected), check_dtype=False, check_names=False)
        assert isinstance(expected[-1], str) == (dataset.frame[name].dtype == object)
    assert dataset.target == table.target
    got = [dataset.classes[i] for i in dataset.y] if dataset.classes else dataset.y.tolist()
    assert got == (table.y if dataset.classes else [float(value) for value in table.y])
    for pattern in table.notes:
        assert pd.Series(dataset.notes).str.contains(pattern).any(), dataset.notes


@pytest.mark.parametrize("table", parameters(Read))
def test_a_table_that_is_read_can_be_trained_on(tmp_path: Path, table: Read) -> None:
    dataset = data.load(write(tmp_path, table), **table.options)
    part = data.split(dataset, seed=0)
    assert sum(map(len, (part.X_train, part.X_val, part.X_test))) == len(table.y)
    assert np.isfinite(part.X_train).all()
    assert part.X_train.shape[1] == len(part.features) > 0


@pytest.mark.parametrize("table", parameters(Refused))
def test_a_table_is_refused_with_a_way_out(tmp_path: Path, table: Refused) -> None:
    with pytest.raises(InputError, match=table.message) as caught:
        data.load(write(tmp_path, table), **table.options)
    assert caught.value.__context__ is None
