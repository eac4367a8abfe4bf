"""The command shows text and tables.

Nothing that is printed is read as markup: it may quote what a user or a peer wrote. What has colours is `styled`.
"""

from __future__ import annotations

import codecs
import datetime as dt
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

_COLOUR = {"done": "green", "accepted": "green", "failed": "red", "refused": "red", "cancelled": "yellow"}
_COLOUR |= {"confirmed": "green", "differs": "red", "cannot be audited": "yellow"}
_PLAIN = {"\u00b1": "+-", "\u2026": "...", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u2019": "'", "\u00a0": " "}
_NO_TERMINAL = 200  # columns: a pipe or a file has no edge at which words would have to be broken
_WORD = 64  # a SHA-256 in hexadecimal stays in one piece
_LINES = 6  # that one cell may take before its table is too narrow


def in_plain(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for characters that the terminal lacks; a handler of encoding errors."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end


def speak_any_encoding() -> None:
    """Let standard output and error take every text: LANG=C, a file name that is no UTF-8, a pipe."""
    codecs.register_error("veilscore", in_plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="veilscore")


def console(*, stderr: bool = False) -> Console:
    """Return standard output (or error) as it is now, since tests replace it."""
    out = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not out.is_terminal and not os.environ.get("COLUMNS"):
        out.width = _NO_TERMINAL
    return out


def show_error(kind: str, text: str) -> None:
    """Print an error to standard error: a panel on a terminal, else one line that a log or `grep` keeps whole."""
    out = console(stderr=True)
    if out.is_terminal:
        out.print(Panel(Text(text, overflow="fold"), title=kind, border_style="red", title_align="left"))
    else:
        out.print(f"{kind}: {text}", soft_wrap=True)


def styled(template: str, *values: object) -> Text:
    """Return a template with `[style]...[/style]` in it as text; each `{}` becomes a value as it is.

    Rich's own markup is not used: what its `escape` makes of a value is not always that value.
    """
    result, given = Text(), iter(values)
    for style, inside, plain in re.findall(r"\[(\w+)\](.*?)\[/\1\]|([^\[]+)", template):
        result.append(re.sub(r"\{\}", lambda _: str(next(given)), inside or plain), style or None)
    return result


def coloured(text: str) -> Text:
    """Return a status word in its colour, and everything else as it is."""
    return Text(text, _COLOUR.get(text.split(":", maxsplit=1)[0], ""))


def line(*parts: object) -> Text:
    """Return parts with a space between them, each in its own style, without empty ones."""
    return Text(" ").join(part if isinstance(part, Text) else Text(str(part)) for part in parts if str(part))


@dataclass(frozen=True)
class _Rows:
    """Shows rows as wide as they may be: ruled, without rules, or where words would break one line a value."""

    title: str
    names: list[str]
    rows: list[list[Text]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield the title and the rows, for the width at hand."""
        yield Text(self.title, "italic")
        n, columns = len(self.names), [[Text(name), *cells] for name, cells in self._columns()]
        least = [max(map(_least, column)) for column in columns]
        for ruled, between in ((True, 3 * n + 1), (False, 2 * n - 2)):
            spare = options.max_width - between - sum(least)
            if spare >= 0:
                yield self._table(_widths(columns, least, spare), ruled=ruled)
                return
        width = max(map(len, self.names))
        for number, row in enumerate(self.rows):
            if number:
                yield Text()
            for name, cell in zip(self.names, row, strict=False):
                if cell.plain:
                    yield Text("  ").join((Text(f"{name:<{width}}", "bold"), cell))

    def _columns(self) -> Iterator[tuple[str, tuple[Text, ...]]]:
        cells = list(zip_longest(*self.rows, fillvalue=Text())) or [()] * len(self.names)
        yield from zip(self.names, cells, strict=False)

    def _table(self, widths: list[int], *, ruled: bool) -> Table:
        plain = (
            {} if ruled else {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0)}
        )
        result = Table(**plain)  # type: ignore[arg-type]  # names and types of options differ
        for name, width in zip(self.names, widths, strict=True):
            number = name.endswith((" s", " MB", "try"))
            result.add_column(name, justify="right" if number else "left", width=width, overflow="fold")
        for row in self.rows:
            result.add_row(*row)
        return result


def _least(cell: Text) -> int:
    """Return the least width that breaks no word of a cell and takes no more than a few lines."""
    words = max(map(len, cell.plain.split()), default=1)
    return max(min(words, _WORD), -(-cell.cell_len // _LINES) if len(cell) > _LINES else 1)


def _widths(columns: list[list[Text]], least: list[int], spare: int) -> list[int]:
    """Return widths of columns: the least, and what is spare goes to those that would wrap most."""
    widths, natural = list(least), [max(cell.cell_len for cell in column) for column in columns]
    for _ in range(min(spare, sum(natural))):
        most = max(range(len(widths)), key=lambda i: natural[i] / widths[i])
        widths[most] += natural[most] > widths[most]
    return widths


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> RenderableType:
    """Return a table of plain values; columns that end in a unit hold numbers, which stand to the right."""
    return _Rows(title, list(columns), [[coloured(str(value)) for value in row] for row in rows])


def megabytes(n_bytes: float) -> str:
    """Return bytes as MB with two digits after the point."""
    return f"{n_bytes / 1e6:.2f}"


def moment(at_s: float, *, seconds: bool = False) -> str:
    """Return seconds since the epoch as a date; a peer may state one that no calendar has."""
    try:
        return f"{dt.datetime.fromtimestamp(at_s, dt.UTC):{'%Y-%m-%d %H:%M:%S' if seconds else '%Y-%m-%d %H:%M UTC'}}"
    except (ValueError, OverflowError, OSError):
        return "no date"
