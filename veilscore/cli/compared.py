"""The comparison of fingerprints by voice, which a person confirms: in a terminal, or by option."""

import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from veilscore.cli.display import console
from veilscore.errors import ConfigError
from veilscore.keys.voice_words import COUNT, voice_words
from veilscore.terms.federation import Member

Compared = Annotated[
    list[str] | None,
    typer.Option(help="A node whose words you compared with its operator, by voice; once for each. Else it asks."),
]


def show_words(name: str, role: str, fingerprint: str, at: str = "") -> None:
    """Print a fingerprint as words and, for who would rather read digits, as the same bits in hexadecimal."""
    out = console()
    out.print(f"{name} ({role}){at}")
    digits = fingerprint[: 2 * COUNT]
    for place, line in enumerate(voice_words(fingerprint).splitlines()):
        out.print(f"    {line:<50} {digits[8 * place : 8 * place + 8]}")


def ask_compared(members: Iterable[Member], compared: list[str]) -> None:
    """Show the words of each node, and let a person confirm that its operator read the same; ConfigError otherwise."""
    waiting = []
    for member in members:
        show_words(member.name, member.role, member.fingerprint, f" at {member.address}")
        if member.name in compared:
            continue
        if not sys.stdin.isatty():
            waiting.append(member.name)
        elif not typer.confirm(f"Did the operator of {member.name}, whose voice you know, read you exactly these?"):
            raise ConfigError(f"the words of {member.name} differ or were not compared: nothing was done; ask it anew")
    if waiting:
        given = " ".join(f"--compared {name}" for name in waiting)
        raise ConfigError(f"compare these words with their operators by telephone, then add {given}")
