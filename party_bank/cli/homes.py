"""What every command of the bank opens: its home, settings and book."""

from __future__ import annotations

import contextlib
import csv
import getpass
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from party_bank.book import Book
from party_bank.settings import BankSettings, load_settings
from veilscore.cli.homes import find_home
from veilscore.errors import ConfigError
from veilscore.terms.node_config import NodeConfig, load_node_config


@dataclass(frozen=True)
class OpenBank:
    """A bank's home with its settings and its book; actor : who calls, for the history."""

    home: Path
    node: NodeConfig
    settings: BankSettings
    book: Book
    actor: str

    def id_of(self, firm: str) -> str:
        """Return a firm's id in the spelling of the book."""
        from veilscore.data.ids import normalise_ids  # noqa: PLC0415 - loads numpy

        return str(normalise_ids([firm], self.settings.id_normaliser)[0])


@contextlib.contextmanager
def opened(home: Path | None, federation: Path | None) -> Iterator[OpenBank]:
    """Open a bank's home; ConfigError if it is no bank's."""
    own = find_home(home, federation)
    node = load_node_config(own)
    if node.role != "bank":
        raise ConfigError(f"{own} is the home of a {node.role}; `veilscore bank` needs that of a bank")
    settings = load_settings(own)
    book = Book.of_home(own, settings)
    try:
        yield OpenBank(own, node, settings, book, getpass.getuser()[:80])
    finally:
        book.close()


def print_firms(ids: Iterable[str]) -> None:
    """Print ids of firms as a CSV with a header, whatever the terminal is."""
    csv.writer(sys.stdout, lineterminator="\n").writerows([("id",), *((firm,) for firm in ids)])
