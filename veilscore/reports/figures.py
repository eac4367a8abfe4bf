"""Find what reads as a figure in plain text: digits of any script, number words, units; and what could hide one.

It errs on the strict side: what it finds in a model's text costs that sentence, and never lets one through.
"""

from __future__ import annotations

import re
import unicodedata

_NUMBERS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty thirty forty fourty fifty sixty seventy eighty ninety hundred thousand million billion trillion dozen
score half quarter third fourth fifth sixth seventh eighth ninth tenth first second double triple treble twice thrice
once couple pair single both zeroth nil nought naught none several many few most majority all no nothing
"""
_ONES = tuple(_NUMBERS.split())
_OTHERS = {"halves", "doubled", "tripled", "halved", "quadrupled", "fold"}
_NUMBER_WORDS = {*_ONES, *(f"{word}s" for word in _ONES), *_OTHERS}
_COMPOUND = re.compile(rf"(?:{'|'.join(sorted((*_ONES, 'and', 'teen', 'ty'), key=len, reverse=True))})+")
_UNIT_WORDS = {
    "yuan", "renminbi", "rmb", "cny", "usd", "eur", "dollar", "dollars", "euro", "euros", "percent", "percentage",
    "pct", "bp", "bps", "mn", "bn", "tn", "k", "m",
}  # fmt: skip
_ROMAN = re.compile(r"^[IVXLCDM]+$")
_LETTERS = re.compile(r"[^a-z]+")
_SPACED = re.compile(r"(?:\b[a-z]\b[^a-z]{1,3}){2,}[a-z]\b")
_CHINESE_FIGURES = frozenset("两双半俩仨倍翻廿卅卌皕几元圆些多")
# numerals in words that count nothing; what is left of a text without them holds no numeral
_COUNT_NOTHING = re.compile("进一步|零售|一般|一致|统一|一直|一旦|唯一")
_HAN = re.compile(r"[㐀-䶿一-鿿]")
_PLAIN_CATEGORIES = {"Lu", "Ll", "Lo", "Zs", "Po", "Pd", "Ps", "Pe", "Pi", "Pf", "Pc"}


def figure_in(text: str) -> str:
    """Return what in a text reads as a figure or unit, or could hide one, in words; "" if nothing does.

    text : without placeholders; of any characters at all.
    """
    plain = unicodedata.normalize("NFKC", text)
    return _sign_in(text) or _numeral_in(_COUNT_NOTHING.sub("。", plain)) or _in_words(plain)


def _sign_in(text: str) -> str:
    for char in text:
        category = unicodedata.category(char)
        if char in "\n\t":
            continue
        if category[0] == "N":
            return "a digit"
        if category == "Sc" or char in "%‰‱٪％﹪":
            return "a unit"
        if category not in _PLAIN_CATEGORIES:
            return "a sign that no sentence needs"
        if category[0] == "L" and not (char.isascii() or _HAN.match(char)):
            return "a letter of another script"
    return ""


def _numeral_in(plain: str) -> str:
    if any(not c.isascii() and unicodedata.numeric(c, None) is not None for c in plain):
        return "a Chinese numeral"
    return "a Chinese word for a number or unit" if any(c in _CHINESE_FIGURES for c in plain) else ""


def _in_words(plain: str) -> str:
    small = plain.casefold()
    if _SPACED.search(small):
        return "letters set apart"
    for word in plain.split():
        bare = _LETTERS.sub("", word.casefold())
        parts = [part for part in _LETTERS.split(word.casefold()) if part]
        if any(one in _NUMBER_WORDS or (one != "and" and _COMPOUND.fullmatch(one)) for one in (bare, *parts)):
            return "a number in words"
        if any(one in _UNIT_WORDS for one in (bare, *parts)):
            return "a unit"
        if any(_ROMAN.match(part) for part in re.split(r"[^A-Za-z]+", word) if part):
            return "a Roman numeral"
    return ""
