"""Text tables: records with as many fields each, the separator, the names, and the columns as pandas reads them."""

from __future__ import annotations

import csv
import gzip
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from popgrad.checks import fail
from popgrad.data._common import attempt, counted, kind, listed
from popgrad.data._header import Sample, find_header, number_share
from popgrad.data._numbers import Distinct, numbers_in
from popgrad.data._target import target_from_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MISSING", "SPACE", "TextOptions", "TextTable", "read_text"]

# An empty field, UCI's "?", and the words of spreadsheets, databases and pandas.
MISSING = frozenset(
    ("", "?", "NA", "N/A", "n/a", "<NA>", "#N/A", "#NA", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None")
)
BOOLEANS = {"True": True, "TRUE": True, "true": True, "False": False, "FALSE": False, "false": False}
_EXPECTED = "expects a table: UTF-8 text, one row a line, with as many fields in each"
_CANDIDATES = (",", ";", "\t", "|")
SPACE = r"\s+"
_SNIFFED = 200  # records that the separator is found by
_SAMPLED = 1000  # records that tell whether the first one holds the names


@dataclass(frozen=True)
class TextOptions:
    """How to read a text table; the meaning is in the docstring of `load`."""

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
        operation: for messages.
        names: of the columns.
        lines: one a record, each with as many fields.
        numbers: the line of the file in which each record begins.
        sep: the separator of `lines`.
        options: decimal point and missing values.
        notes: sentences about what was assumed.
        unnamed: whether the first column is a row index.
    """

    operation: str
    names: list[str]
    lines: list[str]
    numbers: list[int]
    sep: str
    options: TextOptions
    notes: list[str]
    unnamed: bool = False

    @property
    def columns(self) -> list[str]:
        """The names of the columns without a row index."""
        return self.names[1:] if self.unnamed else self.names

    def frame(self, target: str, drop: tuple[str, ...] = ()) -> pd.DataFrame:
        """Return the columns, each as numbers, booleans or text, indexed by the lines of the file.

        Raises:
            InputError: a column that is not in `drop` holds numbers except for a few values.
        """
        import pandas as pd

        at = self.names.index(target)
        exact: Any = {at: str}  # integers of the target must not become float64
        raw = attempt(
            self.operation,
            lambda: pd.read_csv(
                io.StringIO("\n".join(self.lines)),
                sep=self.sep,
                header=None,
                names=cast(Any, range(len(self.names))),
                index_col=False,
                dtype=exact,
                decimal=self.options.decimal,
                na_values=sorted(self.options.missing),
                keep_default_na=False,
                skipinitialspace=True,
                skip_blank_lines=False,
                low_memory=False,
            ),
            _EXPECTED,
        )
        raw.index = pd.Index(self.numbers, name="line")
        columns = {}
        for i in range(int(self.unnamed), len(self.names)):
            name, column = self.names[i], raw.iloc[:, i]
            as_it_is = i != at and (column.dtype.kind in "biuf" or kind(column) == "boolean" or name in drop)
            columns[name] = column if as_it_is else self._convert(column, name, i == at)
        return pd.concat(columns.values(), axis=1, keys=columns.keys())

    def _convert(self, column: pd.Series[Any], name: str, is_target: bool) -> pd.Series[Any]:
        import pandas as pd

        missing = self.options.missing
        stripped = [value if value != value else str(value).strip() for value in column]
        text = [np.nan if value in missing else value for value in stripped]
        column = pd.Series(text, index=column.index, dtype=object)
        distinct = Distinct(column)
        if distinct.values and all(value in BOOLEANS for value in distinct.values):
            return column.map(BOOLEANS)
        if is_target:
            return target_from_text(self.operation, column, self.options.decimal)
        numbers = numbers_in(self.operation, f"column {name!r}", distinct, self.options.decimal)
        return column if numbers is None else pd.Series(numbers, index=column.index)


def read_text(operation: str, path: Path, own: str, options: TextOptions) -> TextTable:
    """Read the records of a text table and find their names.

    Args:
        operation: for messages.
        path: .gz is unpacked.
        own: the separator that belongs to the file's suffix, or "" for a suffix that fixes none.
        options: what the caller says about the format.

    Raises:
        InputError: the text is not UTF-8, or a record has more or fewer fields than the first.
    """
    text = attempt(operation, lambda: _decode(path), f"{_EXPECTED}; save it as UTF-8 text")
    if "\0" in text:
        fail(operation, f"{_EXPECTED}; got a zero byte: is it another kind of file?")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    start, directive = 1, re.match(r"sep=(.)\n", text)  # a line for spreadsheets
    if directive:
        text, start = text[directive.end() :], 2
    sep = options.sep or (directive.group(1) if directive else _find_separator(text, own, options.decimal))
    records, notes = _Records.read(operation, text, sep, start), []
    notes += records.skip_comments()
    sample = [_stripped(records.fields(i)) for i in range(min(_SAMPLED, len(records.lines)))]
    if not sample:
        fail(operation, f"{_EXPECTED}; got an empty file")
    header, sentence = options.header, ""
    if header is None:
        header, sentence = find_header(Sample(sample, options.decimal, options.missing))
    names = _trimmed(sample[0]) if header else [str(i) for i in range(len(sample[0]))]
    notes += [sentence] if sentence else []
    notes += records.check_widths(operation, len(names), header)
    if not header and len(names) > 1 and records.column_is_empty(len(names) - 1):
        names.pop()
        records.check_widths(operation, len(names), header, cut=True)
    if header:
        del records.lines[0], records.numbers[0]
    if not records.lines:
        fail(operation, "expects rows of data, got none")
    names, named = _distinct_names(names)
    unnamed = header and sample[0][0] == "" and len(names) > 1
    if unnamed:
        named.insert(0, "The first column has no name, so it is taken as row labels and left out.")
    return TextTable(operation, names, records.lines, records.numbers, records.sep, options, notes + named, unnamed)


def _decode(path: Path) -> str:
    content = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        content = gzip.decompress(content)
    return content.decode("utf-8-sig")


def _stripped(fields: list[str]) -> list[str]:
    return [field.strip() for field in fields]


def _trimmed(fields: list[str]) -> list[str]:
    """Return the names of a header without the empty ones at its end."""
    count = max((i + 1 for i, field in enumerate(fields) if field), default=0)
    names = fields[: max(count, 1)]
    # numpy.savetxt marks its header as a comment.
    return [re.sub(r"^#\s*(?=.)", "", names[0]), *names[1:]]


def _distinct_names(names: list[str]) -> tuple[list[str], list[str]]:
    """Return (names of which no two are alike, sentences about those that were changed)."""
    result: list[str] = []
    for at, name in enumerate(names):
        base = name or ("" if at == 0 else f"column {at + 1}")
        number, distinct = 1, base
        while distinct in result:
            distinct, number = f"{base}.{number}", number + 1
        result.append(distinct)
    changed = [new for old, new in zip(names, result, strict=True) if new != old]
    if not changed:
        return result, []
    return result, [f"Names that were missing or occurred twice are changed: {listed(changed)}."]


@dataclass
class _Records:
    """Lines, each one record, with their numbers in the file; blank lines are left out."""

    lines: list[str]
    numbers: list[int]
    sep: str
    quoted: bool

    @classmethod
    def read(cls, operation: str, text: str, sep: str, start: int) -> _Records:
        if '"' not in text and sep != SPACE:
            kept = [(line, number) for number, line in enumerate(text.split("\n"), start) if line.strip()]
            return cls([line for line, _ in kept], [number for _, number in kept], sep, False)
        spaces = sep == SPACE
        records = cls([], [], "\t" if spaces else sep, True)
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=" " if spaces else sep, skipinitialspace=True, strict=True
        )
        before = 0
        try:
            for fields in reader:
                if spaces and fields and fields[-1] == "":
                    fields.pop()  # the line ends with spaces
                if any(field.strip() for field in fields) or len(fields) > 1:
                    records.lines.append(records.join(_stripped(fields)))
                    records.numbers.append(before + start)
                before = reader.line_num
            return records
        except csv.Error as error:
            reason = str(error)
        fail(
            operation,
            f"{_EXPECTED}; the quotes of the record that begins in line {before + start} do not fit ({reason})",
        )

    def fields(self, at: int) -> list[str]:
        if not self.quoted:
            return self.lines[at].split(self.sep)
        return next(csv.reader(io.StringIO(self.lines[at], newline=""), delimiter=self.sep, strict=True))

    def join(self, fields: list[str]) -> str:
        if not self.quoted:
            return self.sep.join(fields)
        text = io.StringIO()
        # The writer quotes the characters of the line terminator on every version of Python, and others on some.
        csv.writer(text, delimiter=self.sep, lineterminator="\r\n").writerow(fields)
        return text.getvalue().removesuffix("\r\n")

    def width(self, at: int) -> int:
        return len(self.fields(at)) if self.quoted else self.lines[at].count(self.sep) + 1

    def skip_comments(self) -> list[str]:
        """Drop lines at the top that start with # and have another number of fields than the first other line."""
        count = next((i for i, line in enumerate(self.lines) if not line.lstrip('" ').startswith("#")), 0)
        if not count:
            return []
        width, skipped = self.width(count), 0
        while skipped < count and self.width(skipped) != width:
            skipped += 1
        del self.lines[:skipped], self.numbers[:skipped]
        return [f"{counted(skipped, 'comment line')} at the top {'is' if skipped == 1 else 'are'} left out."] * bool(
            skipped
        )

    def check_widths(self, operation: str, width: int, header: bool, cut: bool = False) -> list[str]:
        """Cut empty fields at the end of records that have too many; drop records of empty fields.

        Raises:
            InputError: a record has fewer fields, or more that are not empty.
        """
        empty = []
        for at in range(int(header), len(self.lines)):
            if self.width(at) == width and (width == 1 or self.lines[at].strip(self.sep + ' \t"')):
                continue
            fields = _stripped(self.fields(at))
            if not any(fields):
                empty.append(at)
            elif len(fields) < width or any(fields[width:]):
                self._refuse(operation, at, len(fields), width, header)
            else:
                self.lines[at] = self.join(fields[:width])
        for at in reversed(empty):
            del self.lines[at], self.numbers[at]
        return [
            f"{counted(len(empty), 'row')} without any value {'is' if len(empty) == 1 else 'are'} left out."
        ] * bool(empty)

    def _refuse(self, operation: str, at: int, got: int, width: int, header: bool) -> None:
        first = f"the header (line {self.numbers[0]})" if header else f"the first row (line {self.numbers[0]})"
        hint = (
            "add the missing separators"
            if got < width
            else "put quotes around a field that contains the separator, or name the surplus column"
        )
        if width == 1:
            hint = f"delete line {self.numbers[0]} if it is a title, or pass sep=... (--sep) if fields are separated otherwise"
        fail(
            operation,
            f"{_EXPECTED}; line {self.numbers[at]} has {counted(got, 'field')} and {first} has {width}: {hint}",
        )

    def column_is_empty(self, column: int) -> bool:
        return all(not self.fields(at)[column].strip() for at in range(len(self.lines)))


def _find_separator(text: str, own: str, decimal: str) -> str:
    """Return the separator that gives each record as many fields, and among several the one that shows numbers."""
    head = [line for line in text.split("\n", _SNIFFED)[:_SNIFFED] if line.strip() and not line.startswith("#")]
    scores: dict[str, tuple[bool, float, bool]] = {}
    for sep in _CANDIDATES:
        rows = list(_rows(head, sep))
        widths = [len(row) for row in rows]
        if sep == decimal or not rows or max(widths, key=widths.count) == 1:
            continue
        fields = [field.strip() for row in rows for field in row]
        # A comma may be a decimal point wherever it does not separate.
        comma = sep != "," and decimal == "."
        share = max(number_share(fields, "."), number_share(fields, ",")) if comma else number_share(fields, decimal)
        scores[sep] = (len(set(widths)) == 1, share, sep == (own or ","))
    if scores:
        return max(scores, key=lambda sep: scores[sep])
    spaced = {len(line.split()) for line in head}
    return own or (SPACE if len(spaced) == 1 and spaced != {1} else ",")


def _rows(lines: list[str], sep: str) -> list[list[str]]:
    try:
        return [row for row in csv.reader(lines, delimiter=sep, skipinitialspace=True) if row]
    except csv.Error:
        return []
