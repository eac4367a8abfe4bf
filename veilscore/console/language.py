"""The console speaks English and Simplified Chinese: catalogues of gettext, and figures, dates and money by locale.

Catalogues lie beside this file (`locale/zh_CN/LC_MESSAGES/console.po`, compiled to `.mo` by `make messages`); what a
package of an institution adds has a catalogue of its own, which is looked at first. What comes from the product itself
(errors, who learns what) is English in both.
"""

from __future__ import annotations

import datetime as dt
import gettext as gnu
import math
from functools import lru_cache
from pathlib import Path

LANGUAGES = {"en": "English", "zh": "中文"}
_FOLDERS = {"en": "en", "zh": "zh_CN"}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MINUS, _DASH = "\u2212", "\u2013"


def noted(text: str) -> str:
    """Return a text as it is; `make messages` takes it into the catalogues."""
    return text


WORDS = (  # words of the product that pages show by themselves
    noted("bank"), noted("holder"), noted("coordinator"), noted("modeller"), noted("steward"), noted("auditor"),
    noted("operator"), noted("account_manager"), noted("in force"), noted("not in force"), noted("ended"),
    noted("valid"), noted("not valid now"), noted("begun"), noted("waits"), noted("proposed"), noted("batch"),
    noted("online"), noted("watch"), noted("evaluation"), noted("train"), noted("holdout"), noted("all"),
    noted("passkey"), noted("certificate"), noted("retry"),
    noted("in use"),
    noted("oidc"),
)  # fmt: skip


@lru_cache(maxsize=8)
def catalogue(language: str, places: tuple[Path, ...] = ()) -> gnu.NullTranslations:
    """Return the texts of a language; `places`: folders of catalogues besides the console's own, looked at first."""
    own = (*places, Path(__file__).with_name("locale"))
    whole = gnu.NullTranslations()
    for folder in own:
        found = gnu.translation("console", folder, [_FOLDERS[language]], fallback=True)
        if not isinstance(found, gnu.GNUTranslations):
            continue
        if isinstance(whole, gnu.GNUTranslations):
            whole.add_fallback(found)
        else:
            whole = found
    return whole


def wanted(accept: str) -> str:
    """Return the language that a browser asks for (Accept-Language)."""
    best, most = "en", 0.0
    for part in accept.split(",")[:20]:
        tag, _, weight = part.strip().lower().partition(";q=")
        language = tag.partition("-")[0]
        try:
            value = float(weight) if weight else 1.0
        except ValueError:
            continue
        if language in LANGUAGES and value > most and math.isfinite(value):
            best, most = language, value
    return best


class Locale:
    """Writes figures, dates and money as a language has them."""

    def __init__(self, language: str, zone: dt.tzinfo = dt.UTC) -> None:
        self.language, self._zone = language, zone

    def number(self, value: float | None, digits: int = 0) -> str:
        """Write a number with separators of thousands; a dash where there is none."""
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return _DASH if value is None or math.isnan(value) else "∞"
        return f"{value:,.{digits}f}".replace("-", _MINUS)

    def percent(self, share: float | None, digits: int = 0) -> str:
        """Write a share as per cent."""
        return _DASH if share is None else f"{self.number(100 * share, digits)}%"

    def day(self, value: dt.date | float | None) -> str:
        """Write a day: 30 Nov 2026, or 2026年11月30日."""
        if value is None:
            return _DASH
        if isinstance(value, int | float):
            value = dt.datetime.fromtimestamp(value, self._zone)
        if self.language == "zh":
            return f"{value.year}年{value.month}月{value.day}日"
        return f"{value.day} {_MONTHS[value.month - 1]} {value.year}"

    def moment(self, at_s: float | None) -> str:
        """Write a time to the minute, with the zone's name where it is UTC."""
        if not at_s:
            return _DASH
        at = dt.datetime.fromtimestamp(at_s, self._zone)
        return f"{self.day(at)} {at:%H:%M}" + (" UTC" if self._zone is dt.UTC else "")

    def lasted(self, seconds: float) -> str:
        """Write a duration."""
        if seconds < 60:
            return f"{seconds:.1f} s"
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"

    def size(self, count: float) -> str:
        """Write bytes in decimal units."""
        power = min(int(math.log10(count) / 3), 4) if count >= 1 else 0
        scaled = count / 1000**power
        return f"{scaled:.{0 if power == 0 or scaled >= 100 else 1}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"

    def money(self, hundredths: int | None, currency: str) -> str:
        """Write an amount: CNY 7,500,000, or 750万元; hundredths are shown where there are any."""
        if hundredths is None:
            return _DASH
        whole, cents = divmod(abs(hundredths), 100)
        sign = _MINUS if hundredths < 0 else ""
        if self.language == "zh" and currency == "CNY":
            if whole >= 10_000 and not cents and whole % 100 == 0:
                return f"{sign}{whole / 10_000:,.2f}".rstrip("0").rstrip(".") + "万元"
            return f"{sign}{whole:,}" + (f".{cents:02}" if cents else "") + "元"
        return f"{currency} {sign}{whole:,}" + (f".{cents:02}" if cents else "")
