"""Forgets a firm in forks, each killed a moment later than the one before; prints JSON: how they ended, what is wrong.

A process of its own, since a fork of one that has threads may wait for them for ever.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from pathlib import Path

import sqlalchemy as sa
from killed_bank import forked
from trial_lending import SETTINGS

from party_bank.book import Book
from party_bank.book_check import check_book
from party_bank.settings import BankSettings
from veilscore.node.forgetting import Subject, forget, keepers_of
from veilscore.terms.node_config import load_node_config


def killed_at(home: Path, firm: str, moment: int) -> int:
    """Forget in a fork that is killed before its nth write, rename, removal or commit; returns how it ended."""

    def child() -> None:
        moments = itertools.count(1)

        def count(*_: object) -> None:
            if next(moments) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        def watch(event: str, arguments: tuple) -> None:
            writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
            if writes or event in {"os.rename", "os.remove", "os.rmdir", "sqlite3.connect"}:
                count()

        sys.addaudithook(watch)
        sa.event.listen(sa.engine.Engine, "commit", count)
        node = load_node_config(home)
        forget(home, node, keepers_of(home, node), Subject.of(home, firm))

    return forked(child)


def main() -> None:
    home, firm, wrong = Path(sys.argv[1]), sys.argv[2], []
    for moment in itertools.count(1):
        code = killed_at(home, firm, moment)
        book = Book.of_home(home, BankSettings.model_validate(SETTINGS))
        wrong += [f"{moment}: {one}" for one in check_book(book)]
        book.close()
        if code != -signal.SIGKILL:
            sys.stdout.write(json.dumps([moment, code, wrong]))
            return


if __name__ == "__main__":
    main()
