"""Records of a text table: one line per record, all with the same number of fields."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import NoReturn

from popgrad.checks import fail
from popgrad.data._common import counted
from popgrad.data._header import number_share

__all__ = ["EXPECTED", "SPACE", "Records", "find_separator", "stripped"]

EXPECTED = "expects a table: UTF-8 text, one row per line, with the same number of fields in each row"
SPACE = r"\s+"
_CANDIDATES = (",", ";", "\t", "|")
_SNIFFED = 200  # lines that the separator detection examines


def stripped(fields: list[str]) -> list[str]:
    """Return the fields without surrounding blanks."""
    return [field.strip() for field in fields]


@dataclass
class Records:
    """Records, without blank lines.

    Args:
        lines: one line per record.
        numbers: the line of the file at which each record begins.
        sep: the separator in `lines`: a tab if blanks separate the fields of the file.
        quoted: whether fields may be quoted.
    """

    lines: list[str]
    numbers: list[int]
    sep: str
    quoted: bool

    @classmethod
    def read(cls, operation: str, text: str, sep: str, start: int) -> Records:
        """Split the text into records; `start` is the number of its first line.

        Raises:
            InputError: a quote is not closed, or text follows a closing quote.
        """
        if '"' in text:
            return cls._read_quoted(operation, text, sep, start)
        kept = [(line, number) for number, line in enumerate(text.split("\n"), start) if line.strip()]
        lines = ["\t".join(line.split()) if sep == SPACE else line for line, _ in kept]
        return cls(lines, [number for _, number in kept], "\t" if sep == SPACE else sep, False)

    @classmethod
    def _read_quoted(cls, operation: str, text: str, sep: str, start: int) -> Records:
        spaces = sep == SPACE
        records = cls([], [], "\t" if spaces else sep, True)
        source = io.StringIO(text.replace("\t", " ") if spaces else text, newline="")
        # Blanks before a field are skipped, so that any number of them is one separator.
        reader = csv.reader(source, delimiter=" " if spaces else sep, skipinitialspace=True, strict=True)
        before = 0
        try:
            for fields in reader:
                if spaces and fields and fields[-1] == "":
                    fields.pop()  # the line ends with blanks
                if len(fields) > 1 or any(field.strip() for field in fields):
                    records.lines.append(records.join(stripped(fields)))
                    records.numbers.append(before + start)
                before = reader.line_num
            return records
        except csv.Error as error:
            reason = str(error)
        got = f"the quotes of the record that begins in line {before + start} are not balanced ({reason})"
        fail(operation, f"{EXPECTED}; {got}: close every quote, and double the quotes within a quoted field")

    def fields(self, at: int) -> list[str]:
        """Return the fields of a record."""
        if not self.quoted:
            return self.lines[at].split(self.sep)
        return next(csv.reader(io.StringIO(self.lines[at], newline=""), delimiter=self.sep, strict=True))

    def join(self, fields: list[str]) -> str:
        """Return the line that holds these fields."""
        if not self.quoted:
            return self.sep.join(fields)
        text = io.StringIO()
        # The writer quotes the characters of the line terminator on every version of Python, and others on some.
        csv.writer(text, delimiter=self.sep, lineterminator="\r\n").writerow(fields)
        return text.getvalue().removesuffix("\r\n")

    def width(self, at: int) -> int:
        """Return the number of fields of a record."""
        return len(self.fields(at)) if self.quoted else self.lines[at].count(self.sep) + 1

    def skip_comments(self) -> int:
        """Drop leading lines that start with # and have another number of fields than the first line without #."""
        count = next((i for i, line in enumerate(self.lines) if not line.lstrip('" ').startswith("#")), 0)
        skipped = 0
        while skipped < count and self.width(skipped) != self.width(count):
            skipped += 1
        del self.lines[:skipped], self.numbers[:skipped]
        return skipped

    def fit(self, operation: str, width: int, header: bool) -> int:
        """Cut surplus empty fields, drop empty records, and return the number of dropped records.

        Raises:
            InputError: a record has fewer than `width` fields, or surplus fields that are not empty.
        """
        blank = self.sep + ' \t"'
        kept = list(range(int(header)))
        for at in range(int(header), len(self.lines)):
            if self.width(at) != width or not self.lines[at].strip(blank):
                fields = stripped(self.fields(at))
                if not any(fields):
                    continue
                if len(fields) < width or any(fields[width:]):
                    self._refuse(operation, at, len(fields), width, header)
                self.lines[at] = self.join(fields[:width])
            kept.append(at)
        dropped = len(self.lines) - len(kept)
        if dropped:
            self.lines, self.numbers = [self.lines[at] for at in kept], [self.numbers[at] for at in kept]
        return dropped

    def _refuse(self, operation: str, at: int, got: int, width: int, header: bool) -> NoReturn:
        first = f"the {'header' if header else 'first row'} (line {self.numbers[0]})"
        hint = "put quotes around a field that contains the separator, or name the surplus column"
        if got < width:
            hint = "add the missing separators"
        if width == 1:
            hint = f"delete line {self.numbers[0]} if it is a title, or pass sep=... (--sep) if the separator is wrong"
        fields = counted(got, "field")
        fail(operation, f"{EXPECTED}; line {self.numbers[at]} has {fields} and {first} has {width}: {hint}")

    def ends_empty(self) -> bool:
        """Whether the last field of every record is empty."""
        return all(not self.fields(at)[-1].strip() for at in range(len(self.lines)))


def find_separator(text: str, own: str, decimal: str) -> str:
    """Return the separator that gives all records the same number of fields; ties go to more numeric fields."""
    head = [line for line in text.split("\n", _SNIFFED)[:_SNIFFED] if line.strip() and not line.startswith("#")]
    scores: dict[str, tuple[bool, float, bool]] = {}
    for sep in _CANDIDATES:
        rows = list(_rows(head, sep))
        widths = [len(row) for row in rows]
        if sep == decimal or not rows or max(widths, key=widths.count) == 1:
            continue
        fields = [field.strip() for row in rows for field in row]
        # If the separator is not a comma, a comma may be the decimal point.
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
