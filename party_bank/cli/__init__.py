"""The commands of `veilscore bank`: one file a verb or noun in this folder, loaded when it is used.

Each file's `app` is a group of verbs, or has one command of the file's name.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

NOUNS: dict[str, str] = {
    "mining": "Rules over several parties, from what a mining job opened.",
    "book": "Make, check and fill the bank's book.",
    "portrait": "Show all that the bank knows of one firm.",
    "limits": "Show each product's ladder, cap and what is lent.",
    "campaign": "Run campaigns: candidates, offers with number, validity and QR code, managers' lists, funnel.",
    "application": "Take applications, and let a person decide on those that were referred.",
    "contract": "Sign contracts, and note what is drawn and repaid under them.",
    "renewal": "Prepare renewals of contracts that end soon, and accept them for the firm.",
    "report": "Write credit reports from facts and holders' sections, and say what changed after a loan.",
    "warning": "Early warnings: rows to learn from, levels within a budget, monthly alarms, cases, report.",
    "portal": "Serve the portal of firms' owners; make the link by which one enters.",
    "due": "Do what is due, once, however often it is called.",
}


def load(word: str) -> Any:
    """Import the file of a word and return its group or command."""
    group = typer.main.get_group(importlib.import_module(f"party_bank.cli.{word}").app)
    command = group.commands.get(word, group)
    command.help = command.help or NOUNS[word]
    return command


class BankNouns(TyperGroup):
    """Lists all words, each a stand-in with its line until it is used."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands.update({word: TyperCommand(word, help=line) for word, line in NOUNS.items()})

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Load the word that `args` begin with."""
        word, *rest = args
        return (word, load(word), rest) if word in NOUNS else super().resolve_command(ctx, args)


app = typer.Typer(cls=BankNouns, no_args_is_help=True)
