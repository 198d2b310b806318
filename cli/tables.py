"""Tables of results at any width: a number, a name or a mark is never cut, and what has no room beside stands below.

A table is a list of records, each a dictionary of headings and values. It has a line for each record or, standing, a
column for each; within rules or, where these need too much room, without; and where that is still too wide, one record
stands below the other.
"""

import itertools
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import click

from sharpkeras.errors import printable
from sharpkeras_cli import streams

NOTHING = "–"
SPACE = "\u00a0"  # at which no line is broken
LONGEST_VALUE = 5000  # characters; a path has 4096 at most
NARROWEST = 12  # to which a text of several words is wrapped
WIDTH = 120  # columns of a pipe and of a file

# Left end, what stands between two columns, right end; the plain form has no line above and below.
RULED = {
    "above": ("┌─", "─┬─", "─┐"),
    "row": ("│ ", " │ ", " │"),
    "under the head": ("├─", "─┼─", "─┤"),
    "below": ("└─", "─┴─", "─┘"),
}
PLAIN = {"row": ("", "  ", ""), "under the head": ("", "  ", "")}


def whole(text: Any) -> str | None:
    """`text` for a value that stays on one line: a name, a mark, or a number with its unit."""
    return None if text is None else str(text).replace(SPACE, repr(SPACE)[1:-1]).replace(" ", SPACE)


def show(
    records: Sequence[Mapping[str, Any]],
    title: str | None = None,
    caption: str | None = None,
    right: Collection[str] = (),
    standing: bool = False,
    width: int = WIDTH,
) -> None:
    """Prints a table.

    Args:
        records: dictionaries with the same headings; of a value, lines stay lines, and None is nothing.
        title, caption: what stands above and below.
        right: the headings whose values stand on the right.
        standing: whether each record is a column, with the headings before the first; one of no text heads it.
        width: columns where there is no terminal, and COLUMNS does not say.
    """
    click.echo(render(records, title, caption, right, standing, output_width(width)))


def output_width(otherwise: int = WIDTH) -> int:
    """The columns that COLUMNS says, those of the terminal, or `otherwise`."""
    if said := streams.columns():
        return said
    return os.get_terminal_size(sys.stdout.fileno()).columns or otherwise if sys.stdout.isatty() else otherwise


def render(
    records: Sequence[Mapping[str, Any]],
    title: str | None = None,
    caption: str | None = None,
    right: Collection[str] = (),
    standing: bool = False,
    width: int = WIDTH,
) -> str:
    """The text of a table, see `show`."""
    headings, rows = list(map(_text, records[0])), [list(map(_text, record.values())) for record in records]
    columns = [headings, *rows] if standing else list(zip(headings, *rows))
    on_the_right = [not standing and heading in right for heading, _ in zip([*records[0], *rows], columns)]
    for rules in (RULED, PLAIN):
        widths = _widths(columns, width - len("".join(_row([""] * len(columns), rules["row"]))))
        if widths:
            body = _drawn(columns, widths, on_the_right, rules, headed=not standing or not headings[0])
            break
    else:
        body = _stacked(headings, rows, width)
    above, below = ([] if text is None else _wrapped(_text(text), width) for text in (title, caption))
    return "\n".join([*above, *body, *below]).replace(SPACE, " ")


def _text(value: Any) -> str:
    """What is shown for a value: characters that the output can show, and lines of its own."""
    lines = NOTHING if value is None else str(value)
    return "\n".join(
        SPACE.join(streams.fitting(printable(part, LONGEST_VALUE)) for part in line.split(SPACE))
        for line in lines.split("\n")
    )


def _length(text: str) -> int:
    """The columns of a terminal that `text` takes."""
    from rich.cells import cell_len

    return cell_len(text)


def _longest_word(text: str) -> int:
    return max(map(_length, re.split("[ \n]", text)))


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """How wide each column is so that all have room and no word is broken; None if they have none."""
    widest = [max(_length(line) for cell in column for line in cell.split("\n")) for column in columns]
    words = [max(map(_longest_word, column)) for column in columns]
    least = [max(word, min(wide, NARROWEST)) for word, wide in zip(words, widest)]
    spare, wanted = room - sum(least), sum(widest) - sum(least)
    if spare < 0:
        return None
    share = min(1, spare / wanted) if wanted else 0
    return [narrow + int(share * (wide - narrow)) for narrow, wide in zip(least, widest)]


def _wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, broken between its words; a word that is longer stays whole."""
    lines = []
    for line in text.split("\n"):
        words = line.split(" ")
        kept = words[0]
        for word in words[1:]:
            if _length(kept) + 1 + _length(word) > width:
                lines.append(kept.rstrip(" "))
                kept = word
            else:
                kept += f" {word}"
        lines.append(kept)
    return lines


def _drawn(
    columns: Sequence[Sequence[str]],
    widths: Sequence[int],
    on_the_right: Sequence[bool],
    rules: Mapping[str, tuple[str, str, str]],
    headed: bool,
) -> list[str]:
    def rule(name: str) -> list[str]:
        return [_row(["─" * width for width in widths], rules[name])] if name in rules else []

    lines = rule("above")
    for number, cells in enumerate(zip(*columns)):
        for pieces in itertools.zip_longest(*map(_wrapped, cells, widths), fillvalue=""):
            lines.append(_row(map(_filled, pieces, widths, on_the_right), rules["row"]).rstrip())
        lines += rule("under the head") if headed and number == 0 else []
    return [*lines, *rule("below")]


def _row(pieces: Iterable[str], ends: tuple[str, str, str]) -> str:
    left, between, right = ends
    return left + between.join(pieces) + right


def _filled(text: str, width: int, on_the_right: bool) -> str:
    space = " " * (width - _length(text))
    return space + text if on_the_right else text + space


def _stacked(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """One record below the other; each value beside its heading or, where that takes too much room, below it."""
    headings = [heading.replace("\n", " ") for heading in headings]
    first = max(map(_length, headings))
    lines = []
    for row in rows:
        for heading, value in zip(headings, row):
            if heading and first + 3 + _longest_word(value) <= width:
                start, *more = _wrapped(value, width - first - 3)
                lines += [f" {_filled(heading, first, False)}  {start}", *(" " * (first + 3) + text for text in more)]
            else:
                lines += [f" {line}" for line in _wrapped(heading, width - 1)] if heading else []
                indent = "    " if heading else ""
                lines += [indent + text for text in _wrapped(value, width - len(indent))]
        lines.append("")
    return [line.rstrip() for line in lines[:-1]]
