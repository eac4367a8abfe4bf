"""Recognise how dates are written and read them one way: days since 1970-01-01, in the zone that the owner declared.

Forms that can be read in two ways (03/04/2024, two-digit years) are never guessed; `formats` declares them.
"""

from __future__ import annotations

from collections.abc import Callable

from veilscore.data.notation import PLAIN, Form, literal
from veilscore.errors import ConfigError

# Excel counts days so that 25569 is 1970-01-01 (24107 in books that begin in 1904); its 29 February 1900 is before
# any date that matters here.
SERIALS = {"excel": 25569, "excel1904": 24107}
_TIME = r"(?:[ T]+[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?(?: ?[AaPp][Mm])?)?"
_OFFSET = r"[ T][0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)? ?(?:Z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?)"
_MONTH = r"(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%g", " %I:%M %p", " %I:%M:%S %p")


def days_sql(moment: str) -> str:
    """Write SQL that gives days since 1970-01-01 as a number, the time of day as their fraction."""
    return f"epoch({moment}) / 86400.0"


def _parsed(*formats: str) -> Callable[[str], str]:
    """Write the value of a date by the first of `formats` that fits, alone or with a time of day after it."""
    every = ", ".join(literal(one + clock) for one in formats for clock in _CLOCKS)

    def value(cell: str) -> str:
        text = f"regexp_replace(regexp_replace({cell}, '[T ]+([0-9]{{1,2}}:)', ' \\1'), ' ?([AaPp][Mm])$', ' \\1')"
        return days_sql(f"try_strptime({text}, [{every}])")

    return value


def _moment(cell: str) -> str:
    """Write the value of a moment with its offset: the day and time that the session's zone had then."""
    return days_sql(f"CAST(TRY_CAST({cell} AS TIMESTAMPTZ) AS TIMESTAMP)")


def _numeric(order: str) -> Callable[[str], str]:
    """Write the value of three numbers with separators between them, in the order of letters Y, m, d."""

    def value(cell: str) -> str:
        date = f"replace(replace(regexp_extract({cell}, '^[0-9]+[-/.][0-9]+[-/.][0-9]+'), '/', '-'), '.', '-')"
        rest = f"regexp_replace({cell}, '^[0-9]+[-/.][0-9]+[-/.][0-9]+', '')"
        return _parsed("-".join("%" + letter for letter in order))(f"{date} || {rest}")

    return value


def _chinese(cell: str) -> str:
    text = f"regexp_replace(regexp_replace({cell}, ' ?年 ?| ?月 ?', '-', 'g'), '[日号]', '')"
    return _parsed("%Y-%m-%d")(text)


def _named(cell: str) -> str:
    """Write the value of a date with the name of a month: day first, or month first."""
    day, month, year = "([0-9]{1,2})(?:st|nd|rd|th)?", "([A-Za-z]{3})", "([0-9]{4})"
    text = f"regexp_replace({cell}, '{month}[a-z]*\\.?', '\\1')"
    text = f"regexp_replace({text}, '^{day}[ -]?{month}[, -]*{year}', '\\1-\\2-\\3')"
    text = f"regexp_replace({text}, '^{month}[ -]*{day}[, -]+{year}', '\\2-\\1-\\3')"
    return _parsed("%d-%b-%Y")(text)


ISO = Form(
    "dates such as 2024-01-05",
    "date",
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?)?",
    lambda cell: days_sql(f"TRY_CAST({cell} AS TIMESTAMP)"),
)
YEAR_FIRST = Form(
    "dates such as 2024-01-05",
    "date",
    rf"[0-9]{{4}}[-/.][0-9]{{1,2}}[-/.][0-9]{{1,2}}{_TIME}",
    _numeric("Ymd"),
    "%Y-%m-%d",
)
MOMENTS = Form("moments such as 2024-01-05T08:00+08:00", "date", rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}{_OFFSET}", _moment)
CHINESE = Form(
    "dates such as 2024年1月5日", "date", rf"[0-9]{{4}} ?年 ?[0-9]{{1,2}} ?月 ?[0-9]{{1,2}} ?[日号]?{_TIME}", _chinese
)
NAMED = Form(
    "dates such as 5 Jan 2024",
    "date",
    rf"(?:[0-9]{{1,2}}(?:st|nd|rd|th)?[ -]?{_MONTH}[, -]*[0-9]{{4}}"
    rf"|{_MONTH}[ -]*[0-9]{{1,2}}(?:st|nd|rd|th)?[, -]+[0-9]{{4}}){_TIME}",
    _named,
)
DOTTED = Form(
    "dates such as 5.1.2024 (day first)",
    "date",
    rf"[0-9]{{1,2}}\.[0-9]{{1,2}}\.[0-9]{{4}}{_TIME}",
    _numeric("dmY"),
    "%d.%m.%Y",
)
DAY_FIRST = Form(
    "dates with the day first",
    "date",
    rf"[0-9]{{1,2}}[-/][0-9]{{1,2}}[-/][0-9]{{4}}{_TIME}",
    _numeric("dmY"),
    "%d/%m/%Y",
)
MONTH_FIRST = Form("dates with the month first", "date", DAY_FIRST.pattern, _numeric("mdY"), "%m/%d/%Y")
COMPACT = Form(
    "dates such as 20240105",
    "date",
    r"(?:1[6-9]|20|21)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])",
    lambda cell: days_sql(f"try_strptime({cell}, '%Y%m%d')"),
    "%Y%m%d",
)
DATES = (ISO, YEAR_FIRST, MOMENTS, CHINESE, NAMED, DOTTED, DAY_FIRST, MONTH_FIRST)
# Two-digit years: the century is a guess, and so is often what comes first.
SHORT = rf"(?:[0-9]{{1,2}}[-/.][0-9]{{1,2}}[-/.][0-9]{{2}}|[0-9]{{1,2}}[ -]?{_MONTH}[ -]?[0-9]{{2}}){_TIME}"


def declared_form(text: str) -> Form:
    """Return the form of dates that `formats` declares: `excel`, `excel1904`, or a pattern of strptime."""
    if text in SERIALS:
        return Form(
            f"serial days of {text}", "date", PLAIN, lambda cell: f"TRY_CAST({cell} AS DOUBLE) - {SERIALS[text]}", text
        )
    if "%" not in text or len(text) > 60:
        raise ConfigError(
            f"format {text[:60]!r} is unknown; for numbers '1,234.5' or '1.234,5', for dates 'excel' or a pattern such "
            "as '%d/%m/%Y'"
        )
    return Form(
        f"dates as {text}", "date", r".+", lambda cell: days_sql(f"try_strptime({cell}, {literal(text)})"), text
    )
