"""Risk events that texts tell of, and how a text becomes tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from importlib.resources import files

import yaml

from veilscore.errors import ConfigError
from veilscore.features.catalogue import RiskGroup, TermGroup

_HAN = re.compile(r"[㐀-鿿]")
_WORDS = re.compile(r"[^\W_]+")
Tokeniser = Callable[[str], list[str]]


@cache
def shipped_lexicon() -> dict[str, tuple[str, ...]]:
    """Return risk event -> Chinese and English phrases that tell of it."""
    text = (files("veilscore.features") / "risk_events.yaml").read_text(encoding="utf-8")
    return {event: tuple(phrases) for event, phrases in yaml.safe_load(text).items()}


def risk_lexicon(group: RiskGroup) -> dict[str, tuple[str, ...]]:
    """Return the lexicon of an entry of the catalogue."""
    return dict(group.lexicon) or shipped_lexicon()


def events_in(text: str, lexicon: dict[str, re.Pattern[str]]) -> list[str]:
    """Return the events of which a text tells, each once."""
    return [event for event, pattern in lexicon.items() if pattern.search(text)]


def patterns(lexicon: dict[str, tuple[str, ...]]) -> dict[str, re.Pattern[str]]:
    """Compile phrases: Chinese ones wherever they stand, others as whole words; case does not count."""
    return {
        event: re.compile("|".join(_phrase(one) for one in phrases), re.IGNORECASE)
        for event, phrases in lexicon.items()
    }


def _phrase(text: str) -> str:
    quoted = re.escape(text)
    return quoted if _HAN.search(text) else rf"\b{quoted}\b"


def tokeniser(group: TermGroup, sample: Iterable[str]) -> Tokeniser:
    """Return what cuts texts into tokens: rjieba where they are Chinese, else runs of letters and digits.

    Raises ConfigError where Chinese texts need rjieba, which is an extra of the installation.
    """
    wants = group.tokens
    if wants == "auto":
        wants = "chinese" if any(_HAN.search(text) for text in sample) else "words"
    if wants == "words":
        return words
    try:
        import rjieba  # noqa: PLC0415 - an extra of the installation
    except ImportError:
        raise ConfigError(
            f"terms of {group.table}.{group.of} are Chinese, which needs rjieba: pip install 'veilscore[text]', or set "
            f"tokens: words"
        ) from None
    return lambda text: [token for token in rjieba.cut(text.casefold()) if _WORDS.fullmatch(token)]


def words(text: str) -> list[str]:
    """Return runs of letters and digits in small letters."""
    return _WORDS.findall(text.casefold())


def terms_of(tokens: list[str], ngrams: int) -> set[str]:
    """Return every run of up to `ngrams` tokens, each once; a term is joined by spaces unless it is Chinese."""
    found = set(tokens)
    for length in range(2, ngrams + 1):
        for start in range(len(tokens) - length + 1):
            run = tokens[start : start + length]
            found.add(("" if _HAN.search(run[0]) else " ").join(run))
    return found
