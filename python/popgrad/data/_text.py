"""Reads text tables: detects the separator and the header, checks the records, and converts the columns."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from popgrad.checks import fail
from popgrad.data._common import Origin, attempt, kind, listed, some
from popgrad.data._header import Sample, find_header
from popgrad.data._numbers import Distinct, numbers_in
from popgrad.data._records import EXPECTED, Records, find_separator, stripped
from popgrad.data._target import target_from_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MISSING", "TextOptions", "TextTable", "read_text"]

# An empty field, UCI's "?", and the words of spreadsheets, databases and pandas.
MISSING = frozenset(
    ("", "?", "NA", "N/A", "n/a", "<NA>", "#N/A", "#NA", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None")
)
BOOLEANS = {"True": True, "TRUE": True, "true": True, "False": False, "FALSE": False, "false": False}
_SAMPLED = 1000  # records that the header detection examines


@dataclass(frozen=True)
class TextOptions:
    """How to read a text table; the docstring of `load` describes the options."""

    header: bool | None = None
    sep: str | None = None
    decimal: str = "."
    na: tuple[str, ...] = ()

    @property
    def missing(self) -> frozenset[str]:
        """The strings that mean a missing value."""
        return frozenset(self.na) if "" in self.na else MISSING | set(self.na)


@dataclass
class TextTable:
    """The records of a text table.

    Args:
        operation: name at the start of error messages.
        names: names of the columns.
        lines: one line per record, all with the same number of fields.
        numbers: the line of the file at which each record begins.
        sep: the separator in `lines`.
        options: decimal point and missing values.
        notes: sentences about the assumptions.
        unnamed: whether the first column is a row index.
        positional: whether the columns are named "0", "1", ... because the file has no names.
    """

    operation: str
    names: list[str]
    lines: list[str]
    numbers: list[int]
    sep: str
    options: TextOptions
    notes: list[str]
    unnamed: bool = False
    positional: bool = False

    @property
    def columns(self) -> list[str]:
        """The names of the columns without a row index."""
        return self.names[1:] if self.unnamed else self.names

    def frame(self, target: str, drop: tuple[str, ...] = ()) -> pd.DataFrame:
        """Return the columns as numbers, booleans or text, indexed by the line numbers of the file.

        Raises:
            InputError: a column that is not in `drop` holds numbers except for a few values.
        """
        import pandas as pd

        columns = self._columns({target})  # integers of the target must not become float64
        for name, column in columns.items():
            as_it_is = name != target and (column.dtype.kind in "biuf" or kind(column) == "boolean" or name in drop)
            columns[name] = column if as_it_is else self._convert(column, name, name == target)
        return pd.concat(columns.values(), axis=1, keys=columns.keys())

    def raw(self, exact: Collection[str]) -> pd.DataFrame:
        """Return the columns as numbers, booleans or stripped text, without conversion of text; indexed as by `frame`.

        Args:
            exact: names of columns to read as text.
        """
        import pandas as pd

        columns = self._columns(exact)
        for name, column in columns.items():
            columns[name] = self._stripped(column) if kind(column) == "text" else column
        return pd.concat(columns.values(), axis=1, keys=columns.keys())

    def _columns(self, exact: Collection[str]) -> dict[str, pd.Series[Any]]:
        """The columns as pandas reads them, by name, without a row index; those in `exact` as text."""
        import pandas as pd

        dtypes: Any = {at: str for at, name in enumerate(self.names) if name in exact}
        raw = attempt(
            self.operation,
            lambda: pd.read_csv(
                io.StringIO("\n".join(self.lines)),
                sep=self.sep,
                header=None,
                names=cast(Any, range(len(self.names))),
                dtype=dtypes,
                decimal=self.options.decimal,
                na_values=sorted(self.options.missing),
                keep_default_na=False,
                skipinitialspace=True,
                skip_blank_lines=False,
                low_memory=False,
            ),
            EXPECTED,
        )
        raw.index = pd.Index(self.numbers, name="line")
        return {self.names[at]: raw.iloc[:, at] for at in range(int(self.unnamed), len(self.names))}

    def _stripped(self, column: pd.Series[Any]) -> pd.Series[Any]:
        import pandas as pd

        missing = self.options.missing
        stripped = [value if value != value else str(value).strip() for value in column]
        text = [np.nan if value in missing else value for value in stripped]
        return pd.Series(text, index=column.index, dtype=object)

    def _convert(self, column: pd.Series[Any], name: str, is_target: bool) -> pd.Series[Any]:
        import pandas as pd

        column = self._stripped(column)
        distinct = Distinct(column)
        if distinct.values and all(value in BOOLEANS for value in distinct.values):
            return column.map(BOOLEANS)
        if is_target:
            return target_from_text(self.operation, column, self.options.decimal)
        numbers = numbers_in(self.operation, f"column {name!r}", distinct, self.options.decimal)
        return column if numbers is None else pd.Series(numbers, index=column.index)


def read_text(operation: str, path: Path, own: str, options: TextOptions, expected: Sequence[str] = ()) -> TextTable:
    """Read the records of a text table and find the column names.

    Args:
        operation: name at the start of error messages.
        path: path of the file; a .gz file is decompressed.
        own: the separator for the suffix of the file, or "" if the suffix implies none.
        options: the format options of the caller.
        expected: names of columns, if the file should have them: a first row with any of them is the header. If they
            are numbers from 0, the file should have no names.

    Raises:
        InputError: the text is not UTF-8, or a record has more or fewer fields than the first record.
    """
    records, notes = _read_records(operation, path, own, options)
    sample = [stripped(records.fields(i)) for i in range(min(_SAMPLED, len(records.lines)))]
    header, sentence = options.header, ""
    if header is None and expected:
        header = _has_names(sample[0], expected)
    if header is None:
        header, sentence = find_header(Sample(sample, options.decimal, options.missing))
    names = _trimmed(sample[0]) if header else [str(i) for i in range(len(sample[0]))]
    empty = records.fit(operation, len(names), header)
    if not header and len(names) > 1 and records.ends_empty():
        names.pop()
        records.fit(operation, len(names), header)
    if header:
        del records.lines[0], records.numbers[0]
    if not records.lines:
        fail(operation, "expects rows of data, got none")
    names, renamed = _distinct_names(names)
    unnamed = names[0] == ""
    notes += [sentence, some(empty, "row", "without any value", "left out"), renamed]
    if unnamed:
        notes.append("The first column has no name; it is treated as a row index and left out.")
    notes = [note for note in notes if note]
    lines, numbers = records.lines, records.numbers
    return TextTable(operation, names, lines, numbers, records.sep, options, notes, unnamed, not header)


def _has_names(first: list[str], expected: Sequence[str]) -> bool:
    """Whether the first record of a file that should have the columns `expected` holds names."""
    if Origin(tuple(expected)).positional:
        return first[: len(expected)] == list(expected)
    return not set(_trimmed(first)).isdisjoint(expected)


def _read_records(operation: str, path: Path, own: str, options: TextOptions) -> tuple[Records, list[str]]:
    """Return (at least one record, notes on skipped lines)."""
    text = attempt(operation, lambda: _decode(path), f"{EXPECTED}; save it as UTF-8 text")
    if "\0" in text:
        fail(operation, f"{EXPECTED}; got a zero byte: is this a binary file?")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    start, directive = 1, re.match(r"sep=(.)\n", text)  # spreadsheets write this line
    if directive:
        text, start = text[directive.end() :], 2
    sep = options.sep or (directive.group(1) if directive else find_separator(text, own, options.decimal))
    records = Records.read(operation, text, sep, start)
    comments = records.skip_comments()
    if not records.lines:
        fail(operation, f"{EXPECTED}; got an empty file")
    return records, [some(comments, "comment line", "at the top", "left out")]


def _decode(path: Path) -> str:
    content = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        content = gzip.decompress(content)
    return content.decode("utf-8-sig")


def _trimmed(fields: list[str]) -> list[str]:
    """Return the names of a header without trailing empty names."""
    count = max((i + 1 for i, field in enumerate(fields) if field), default=0)
    names = fields[: max(count, 1)]
    # numpy.savetxt marks its header as a comment.
    return [re.sub(r"^#\s*(?=.)", "", names[0]), *names[1:]]


def _distinct_names(names: list[str]) -> tuple[list[str], str]:
    """Return (distinct names, a sentence that lists the changed names or "").

    The first name may stay empty: its column is a row index.
    """
    result: list[str] = []
    for at, name in enumerate(names):
        base = name or ("" if at == 0 else f"column {at + 1}")
        number, distinct = 1, base
        while distinct in result:
            distinct, number = f"{base}.{number}", number + 1
        result.append(distinct)
    changed = [new for old, new in zip(names, result, strict=True) if new != old]
    return result, f"Missing or repeated names were changed: {listed(changed)}." * bool(changed)
