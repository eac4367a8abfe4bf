"""The guard: of a text about one firm nothing is shown as true but facts under their own labels, and quoted sources.

A text holds placeholders, `{{fact:NAME}}` and `{{quote:NAME}}`, and words. A sentence is

verified   : each placeholder is a fact of this firm right behind its own label, or a quote; between them stand only
             words of a short list that join and never deny, compare or reckon. It cannot say what its facts do not.
unverified : its facts are this firm's and it holds no figure, but its words are free, so somebody has to check them.
struck     : anything else: a figure, a unit, another firm's fact, an unknown placeholder, no fact and no quote.

Placeholders are filled in once: what a fact or a quote holds is never read as a placeholder or a command.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from veilscore.errors import ParameterError
from veilscore.reports.facts import Fact, FactName, Locale, Words, quoted
from veilscore.reports.figures import figure_in
from veilscore.terms.settings import Strict

MOST_CHARACTERS = 20_000
Verdict = Literal["verified", "unverified", "struck"]
_PARTS = re.compile(r"(\{\{[^{}]{0,120}\}\})")
_PLACEHOLDER = re.compile(r"\{\{\s{0,4}(fact|quote):([a-z0-9_.]{1,101})\s{0,4}\}\}", re.ASCII)
_ENDS = re.compile(r"([.!?;。！？；\n]+)")
_JOINING: dict[Locale, re.Pattern[str]] = {
    "en": re.compile(
        r"(?:(?:according to the source|the source says|as well as|the|firm's|firm|company's|company|its|is|are|was|"
        r"were|stands at|and|while|also)(?![a-z'])|[\s,:]+)"
    ),
    "zh": re.compile(r"(?:来源载明|该企业|该公司|企业|公司|同时|另外|以及|的|其|为|是|和|与|且|[\s,:、]+)"),
}
_TAIL = re.compile(r"[\s,:、]*")


class Quote(Strict):
    """A line of a source, word for word."""

    name: FactName
    firm: str = Field(min_length=1, max_length=64)
    text: str = Field(min_length=1, max_length=400)
    source: str = Field(min_length=1, max_length=300)
    owner: str = Field(min_length=1, max_length=80)
    as_of: dt.date


class Piece(Strict):
    """A part of a sentence as it is shown: words, a rendered fact, or a quote; `name` of the latter two."""

    kind: Literal["words", "fact", "quote"]
    text: str
    name: str = ""


@dataclass(frozen=True)
class Sentence:
    """A sentence that was looked at; of a struck one only the reason is kept."""

    verdict: Verdict
    pieces: tuple[Piece, ...] = ()
    reason: str = ""

    @property
    def text(self) -> str:
        """Return it as plain text."""
        return "".join(piece.text for piece in self.pieces).strip()


@dataclass(frozen=True)
class _Part:
    """Words, or a placeholder with its kind and name; kind "bad" for what only looks like one."""

    kind: str
    text: str


class TextGuard:
    """Checks texts about one firm in one language.

    facts, quotes : of this firm alone; ParameterError where one is another's.
    """

    def __init__(
        self, firm: str, facts: Iterable[Fact], words: Words, locale: Locale, quotes: Iterable[Quote] = ()
    ) -> None:
        self._facts = {fact.name: fact for fact in facts}
        self._quotes = {quote.name: quote for quote in quotes}
        named = {one.firm for one in self._facts.values()} | {one.firm for one in self._quotes.values()}
        if named - {firm}:
            raise ParameterError("a text about a firm was given another firm's facts")
        self._words, self._locale = words, locale

    def check(self, text: str) -> tuple[Sentence, ...]:
        """Return what becomes of every sentence of a text by a model; any text at all has an answer."""
        whole = text[:MOST_CHARACTERS]
        found = [self._judge(parts) for parts in _sentences(whole)]
        if len(text) > MOST_CHARACTERS:
            found.append(Sentence("struck", reason="the text is too long"))
        return tuple(found)

    def written(self, text: str) -> tuple[Piece, ...]:
        """Return the pieces of a text that our own template made; ParameterError where it holds a figure of its own."""
        pieces: list[Piece] = []
        for part in _split(text):
            if part.kind == "words":
                if found := figure_in(part.text.replace("\n", " ")):
                    raise ParameterError(f"a template holds {found} that is no fact: {part.text.strip()[:60]!r}")
                pieces.append(Piece(kind="words", text=part.text))
            elif (piece := self._filled(part)) is None:
                raise ParameterError(f"a template names {part.text[:60]!r}, which is no fact of this firm")
            else:
                pieces.append(piece)
        return tuple(pieces)

    def _filled(self, part: _Part) -> Piece | None:
        if part.kind == "fact" and part.text in self._facts:
            shown = self._words.render(self._facts[part.text], self._locale)
            return Piece(kind="fact", text=shown, name=part.text)
        if part.kind == "quote" and part.text in self._quotes:
            return Piece(kind="quote", text=quoted(self._quotes[part.text].text, self._locale), name=part.text)
        return None

    def _judge(self, parts: list[_Part]) -> Sentence:
        pieces: list[Piece] = []
        for part in parts:
            if part.kind == "words":
                if found := figure_in(part.text.rstrip("\n")):
                    return Sentence("struck", reason=f"it holds {found}, which is no fact")
                if "{" in part.text or "}" in part.text:
                    return Sentence("struck", reason="it has a brace outside a placeholder")
                pieces.append(Piece(kind="words", text=part.text))
                continue
            piece = self._filled(part)
            if piece is None:
                return Sentence("struck", reason=f"it names {part.text[:60]!r}, which is no fact of this firm")
            pieces.append(piece)
        if not any(piece.kind != "words" for piece in pieces):
            return Sentence("struck", reason="it has neither a fact nor a quoted source")
        if self._is_closed(pieces):
            return Sentence("verified", tuple(pieces))
        return Sentence("unverified", tuple(pieces), "its words are free: somebody has to check them")

    def _is_closed(self, pieces: list[Piece]) -> bool:
        """Return whether each fact stands behind its own label, and other words only join."""
        before = ""
        for piece in pieces:
            if piece.kind == "words":
                before += piece.text
                continue
            label = self._words.label(piece.name, self._locale) if piece.kind == "fact" else ""
            if not self._joins(before, label):
                return False
            before = ""
        return _TAIL.fullmatch(_plain(before).rstrip(".!?;。！？；\n")) is not None

    def _joins(self, text: str, label: str) -> bool:
        """Return whether a text is made of joining words and, if there is one, the label exactly once."""
        rest, wanted = _plain(text), _plain(label)
        while rest:
            after = rest[len(wanted) :]
            if wanted and rest.startswith(wanted) and not (after[:1].isascii() and after[:1].isalpha()):
                rest, wanted = after, ""
                continue
            found = _JOINING[self._locale].match(rest)
            if found is None:
                return False
            rest = rest[found.end() :]
        return not wanted


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _split(text: str) -> Iterator[_Part]:
    for part in _PARTS.split(text):
        placeholder = _PLACEHOLDER.fullmatch(part)
        if placeholder is not None:
            yield _Part(placeholder[1], placeholder[2])
        elif part.startswith("{{"):
            yield _Part("bad", part)
        elif part:
            yield _Part("words", part)


def _sentences(text: str) -> Iterator[list[_Part]]:
    """Yield the parts of each sentence, its end with it; what is blank is none."""
    current: list[_Part] = []
    for part in _split(text):
        if part.kind != "words":
            current.append(part)
            continue
        for piece in _ENDS.split(part.text):
            if piece:
                current.append(_Part("words", piece))
            if _ENDS.fullmatch(piece):
                if any(one.kind != "words" or one.text.strip(" .!?;。！？；\n\t") for one in current):
                    yield current
                current = []
    if any(one.kind != "words" or one.text.strip() for one in current):
        yield current
