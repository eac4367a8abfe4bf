"""Recognise how numbers are written (grouping, decimal comma, percent, currency, 万 and 亿, brackets) and convert them.

A form is a pattern of a whole cell and the SQL of its value. Patterns are written in what RE2 (DuckDB) and Python's
`re` have in common, so that a sample in memory and the whole file are held against the same words. Cells are brought
to ASCII first (`ASCII_OF`): full-width and other digits, typographic minus signs, spaces and apostrophes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

# Invisible or typed by accident at either end of a cell: white space of all kinds, zero-width characters, a byte-order
# mark, a soft hyphen.
WHITE = (
    " \t\r\n\x0b\x0c\u00a0\u2000\u2001\u2002\u2003\u2009\u200a\u202f\u3000"
    "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060\u00ad"
)
# Missing whatever the column holds, when a whole cell is it.
MISSING = (
    "", "NA", "N/A", "n/a", "NULL", "null", "NaN", "nan", "-nan", "NaT", "<NA>", "\\N",
    "#N/A", "#N/A N/A", "#NA", "#VALUE!", "#REF!", "#DIV/0!", "#NAME?", "#NUM!", "#NULL!",
)  # fmt: skip
# Missing in a column whose other cells are numbers or dates; in a category each of them may be a level of its own.
DOUBTFUL = (
    "-", "--", "---", "/", ".", "..", "...", "*", "**", "?", "None", "none", "NONE", "Null", "(null)", "na", "n.a.",
    "N.A.", "(blank)", "missing", "unknown", "nil", "无", "空", "暂无", "未知", "不详", "缺失",
    "0000-00-00", "0000-00-00 00:00:00",
)  # fmt: skip

_FROM = "".join(chr(c) for c in range(0xFF01, 0xFF5F)) + "￥−–—‐‑\u00a0\u202f\u2009\u3000’‘´٫٬。"
_TO = "".join(chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F)) + "¥-----    '''.,."
for _first in (0x0660, 0x06F0, 0x0966):  # Arabic, Persian and Devanagari digits
    _FROM += "".join(chr(_first + k) for k in range(10))
    _TO += "0123456789"
ASCII_OF = str.maketrans(_FROM, _TO)

_DIGITS = r"(?:0|[1-9][0-9]*)"
PLAIN = rf"[+-]?(?:{_DIGITS}(?:\.[0-9]*)?(?:[eE][+-][0-9]+)?|[0-9]\.[0-9]*[eE][0-9]+|\.[0-9]+|(?i:inf|infinity))"
CODE = r"[0-9]+(?:[eE_][0-9]+)*"  # leading zeros, 1E2, 1_1: codes, which are no numbers unless they are declared so
_CURRENCY = r"(?:CN¥|US\$|HK\$|[¥$€£₽₹₩₸]|CNY|RMB|USD|EUR|HKD|GBP|JPY|KZT|RUB)"
_UNIT = r"(?:万亿|千亿|百亿|十亿|亿|千万|百万|十万|万|千|百)"
_POWERS = (  # longer units first: 万亿 has both 万 and 亿 in it
    ("万亿", 12), ("千亿", 11), ("百亿", 10), ("十亿", 9), ("亿", 8), ("千万", 7), ("百万", 6), ("十万", 5), ("万", 4),
    ("千", 3), ("百", 2), ("%", -2), ("‰", -3),
)  # fmt: skip
_MONEY = r"(?:人民币|美元|港元|港币|欧元|日元|元|圆)"
_POINT = (
    r"(?:(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:,[0-9]{3})+|[1-9][0-9]{0,2}(?: [0-9]{3})+|[1-9][0-9]{0,2}(?:'[0-9]{3})+"
    r"|[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3})(?:\.[0-9]*)?|\.[0-9]+)"
)
_COMMA = (
    r"(?:(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:\.[0-9]{3})+|[1-9][0-9]{0,2}(?: [0-9]{3})+|[1-9][0-9]{0,2}(?:'[0-9]{3})+)"
    r"(?:,[0-9]+)?)"
)
_MYRIAD = r"(?:0|[1-9][0-9]*|[1-9][0-9]{0,3}(?:,[0-9]{4})+)(?:\.[0-9]*)?"
# Of a cell that begins like a number or a date; where fewer than half do, no form can be meant.
DIGITISH = (
    rf"^[+-]?[(]?[+-]? ?{_CURRENCY}? ?[+-]?[.]?[0-9]|^(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[ .-]"
)
UNITS = r"[+-]?[0-9][0-9., ]*[A-Za-z]{1,12}\.?"


@dataclass(frozen=True)
class Form:
    """One way to write numbers or dates.

    name : as messages say it.
    pattern : of a whole cell in ASCII.
    value : SQL of a cell in ASCII -> SQL of a DOUBLE (dates: days since 1970-01-01); NULL where there is none.
    declared : what `formats` says to choose it; empty where it needs no choice.
    """

    name: str
    kind: Literal["number", "date"]
    pattern: str
    value: Callable[[str], str]
    declared: str = ""


def literal(text: str) -> str:
    """Quote a string for SQL."""
    return "'" + text.replace("'", "''") + "'"


def trimmed_sql(cell: str) -> str:
    """Write SQL of a cell without white space at its ends; only cells that have some pay for the wide `TRIM`."""
    space = literal(f"^[{WHITE}]|[{WHITE}]$")
    return f"CASE WHEN regexp_matches({cell}, {space}) THEN TRIM({cell}, {literal(WHITE)}) ELSE {cell} END"


def ascii_sql(cell: str) -> str:
    """Write SQL that brings a cell to ASCII, as `ASCII_OF` does in Python; translating all cells would take minutes."""
    strange, translated = literal(f"[{_FROM}]"), f"translate({cell}, {literal(_FROM)}, {literal(_TO)})"
    return f"CASE WHEN regexp_matches({cell}, {strange}) THEN {translated} ELSE {cell} END"


def _decorated(core: str) -> str:
    """Return the pattern of a number with sign, currency, percent, unit or brackets around its digits."""
    inner = rf"{_CURRENCY}? ?[+-]?{_CURRENCY}? ?{core} ?(?:[%‰]|{_UNIT}?{_MONEY}?) ?{_CURRENCY}?"
    return rf"(?:[+-]? ?{inner}|{inner}-|\( ?{inner} ?\))"


def _decorated_value(decimal: str) -> Callable[[str], str]:
    """Write the value of a decorated number whose decimal sign is `decimal`.

    Powers of ten are written into the text (3.3万 as 3.3e4): a product of two doubles would round once more.
    """
    group = "," if decimal == "." else "."

    def value(cell: str) -> str:
        digits = f"replace(regexp_replace({cell}, '[^0-9.,]', '', 'g'), '{group}', '')"
        digits = digits if decimal == "." else f"replace({digits}, ',', '.')"
        powers = "".join(f" WHEN contains({cell}, '{unit}') THEN '{power}'" for unit, power in _POWERS)
        sign = f"CASE WHEN regexp_matches({cell}, '[-(]') THEN '-' ELSE '' END"
        return f"TRY_CAST({sign} || {digits} || 'e' || CASE{powers} ELSE '0' END AS DOUBLE)"

    return value


def _cast(cell: str) -> str:
    return f"TRY_CAST({cell} AS DOUBLE)"


POINT = Form("numbers such as 1,234.5", "number", _decorated(_POINT), _decorated_value("."), "1,234.5")
COMMA = Form(
    "numbers with a decimal comma such as 1.234,5", "number", _decorated(_COMMA), _decorated_value(","), "1.234,5"
)
MYRIAD = Form(
    "numbers in groups of four such as 1,2345", "number", _decorated(_MYRIAD), _decorated_value("."), "1,2345"
)
NUMBERS = (POINT, COMMA, MYRIAD)
BARE = Form("plain numbers", "number", PLAIN, _cast)
CODES = Form("codes of digits", "number", CODE, lambda cell: _cast(f"replace({cell}, '_', '')"))
HAS_PERCENT = "[%‰]"
ZERO = r"[+-]?0*[.,]?0*"
CURRENCY = rf"({_CURRENCY}|{_MONEY})"
_PLAIN = re.compile(PLAIN)


def plain_number(text: str) -> float:
    """Return the number that a cell is, written plainly; ValueError for any other text (1_1, 0111, 1E2 are codes)."""
    if not _PLAIN.fullmatch(text):
        raise ValueError("no plain number")
    return float(text)
