"""Extracts: the sentences of a text that tell of risks, word for word, with the source they come from.

A text is the bank's own (a published judgment, a note of a visit); nothing here asks a holder for one.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from pathlib import Path

from pydantic import Field

from veilscore.errors import ConfigError
from veilscore.features.catalogue import TermGroup
from veilscore.features.lexicon import events_in, patterns, shipped_lexicon, tokeniser
from veilscore.reports.text_guard import Quote
from veilscore.terms.settings import Strict, load

MOST = 3  # sentences of a text
_ENDS = re.compile(r"(?<=[.!?。！？；;])\s*|\n+")


class SourceText(Strict):
    """A text with its source, as a YAML file has it."""

    source: str = Field(min_length=1, max_length=300, description="what it is: court, number, date; or whose note")
    owner: str = Field(min_length=1, max_length=80, description="who published or wrote it")
    as_of: dt.date = Field(description="its day")
    text: str = Field(min_length=1, max_length=200_000, description="the text, word for word")


def read_source(path: Path) -> SourceText:
    """Return the text of a YAML file."""
    return load(SourceText, path, "text with its source")


def quotes_of(firm: str, number: int, text: SourceText, most: int = MOST) -> tuple[Quote, ...]:
    """Return the sentences of a text that tell of most kinds of risks, in their order; of equals the most central.

    number : of the text among those of the report.
    """
    found = [part.strip() for part in _ENDS.split(text.text) if part and part.strip()]
    known, central = patterns(shipped_lexicon()), _centrality(found)
    risky = [(len(events_in(one, known)), central[place], place) for place, one in enumerate(found)]
    kept = sorted(sorted((one for one in risky if one[0]), reverse=True)[:most], key=lambda one: one[2])
    about = {"firm": firm, "source": text.source, "owner": text.owner, "as_of": text.as_of}
    return tuple(
        Quote(name=f"text.{number}_{place}", text=_shown(found[place]), **about)  # type: ignore[arg-type]
        for _, _, place in kept
    )


def _centrality(sentences: list[str]) -> list[float]:
    """Return how often the words of each sentence are used in the whole text, on average."""
    try:
        cut = tokeniser(TermGroup(table="texts", of="text", windows=("all",)), sentences)
    except ConfigError:  # rjieba is an extra; order within equals is all that is lost
        return [0.0] * len(sentences)
    words = [cut(one) for one in sentences]
    times = Counter(word for one in words for word in one)
    return [sum(times[word] for word in one) / max(1, len(one)) for one in words]


def _shown(sentence: str) -> str:
    """Return a sentence without signs that nobody sees, cut where it is too long."""
    plain = "".join(sign for sign in sentence if sign.isprintable())
    return plain if len(plain) <= 400 else plain[:399] + "…"
