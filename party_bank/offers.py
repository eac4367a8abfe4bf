"""Offers: the secret and QR code of each, account managers' lists, first contact, expiry.

An offer's secret is made of a secret of the bank's home and the offer's number; the book keeps its hash alone. It
serves one application.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import hmac
import io
from collections import defaultdict
from pathlib import Path

import sqlalchemy as sa

from party_bank.book import Book, BookEntry, Row
from party_bank.book_tables import FIRMS, OFFERS
from party_bank.settings import BankSettings, shown_amount
from veilscore.errors import BookError
from veilscore.files.private import private_folder
from veilscore.files.store import write_atomically
from veilscore.reports.workbook import workbook

_LABEL = b"veilscore/1 offer "
_TITLES = ("offer", "firm", "name", "industry", "region", "amount", "currency", "valid until", "contacted")


def secret_of(key: bytes, number: str) -> str:
    """Return the secret of an offer, 128 bits as 26 letters and digits."""
    digest = hmac.digest(key, _LABEL + number.encode(), "sha256")[:16]
    return base64.b32encode(digest).decode().rstrip("=").lower()


def sha256_of(secret: str) -> str:
    """Return what the book keeps of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def qr_code(settings: BankSettings, key: bytes, number: str) -> bytes:
    """Return the QR code of an offer as SVG: the portal's page, the number, and after # the secret.

    What stands after # is not sent by a browser when it asks for the page, so no server's log has it.
    """
    return _code(f"{settings.portal}/{number}#{secret_of(key, number)}")


def write_code(path: Path, link: str) -> None:
    """Write a link of the portal as the SVG of a QR code, for its owner alone (mode 0600)."""
    _save(path, _code(link))


def inline_code(link: str) -> str:
    """Return the QR code of a link as SVG that stands within a page."""
    return _code(link, xmldecl=False, svgns=True, omitsize=True).decode()


def _code(text: str, **how: bool) -> bytes:
    import segno  # noqa: PLC0415 - an extra

    file = io.BytesIO()
    segno.make(text, error="m", micro=False).save(file, kind="svg", scale=4, **how)
    return file.getvalue()


def look(book: Book, number: str, secret: str) -> Row:
    """Return an open offer to who has its secret, and note the first look; BookError else, in the same words for all.

    Whoever guesses numbers learns nothing by what is refused.
    """
    with book.writing("portal") as entry:
        offer = checked_offer(entry, number, secret)
        if offer["scanned_s"] is None:
            entry.change(OFFERS, offer["id"], scanned_s=entry.at_s)
    return offer


def checked_offer(entry: BookEntry, number: str, secret: str) -> Row:
    """Return an offer that is open and within its date, whose firm is locked; BookError for a wrong secret too."""
    found = entry.rows(sa.select(OFFERS).where(OFFERS.c.number == number))
    kept = found[0]["secret_sha256"] if found else sha256_of("")
    if not hmac.compare_digest(kept, sha256_of(secret)) or not found:
        raise BookError(
            "this offer's number and secret do not fit: scan the QR code again, or ask your account manager"
        )
    entry.lock_firm(found[0]["firm"])
    offer = entry.rows(sa.select(OFFERS).where(OFFERS.c.number == number))[0]
    if offer["status"] == "applied":
        raise BookError(f"offer {number} was used for an application: its secret serves one")
    if offer["status"] != "open" or offer["valid_until"] < entry.today:
        raise BookError(
            f"offer {number} was valid until {offer['valid_until']}: ask your account manager for a new one"
        )
    return offer


def note_contact(book: Book, number: str, actor: str) -> None:
    """Note that an account manager told the firm its number; BookError for an offer that is not open."""
    with book.writing(actor) as entry:
        found = entry.rows(sa.select(OFFERS).where(OFFERS.c.number == number))
        if not found:
            raise BookError(f"no offer {number[:40]!r} in the book")
        if found[0]["status"] != "open" or found[0]["valid_until"] < entry.today:
            raise BookError(f"offer {number} is no longer open ({found[0]['status']}, until {found[0]['valid_until']})")
        entry.change(OFFERS, found[0]["id"], OFFERS.c.contacted_s.is_(None), contacted_s=entry.at_s)


def write_lists(book: Book, settings: BankSettings, campaign: int, folder: Path, key: bytes) -> dict[str, int]:
    """Write the open offers of a campaign: one CSV an account manager, one workbook of all, and a QR code each.

    Returns how many offers each manager has. Files have mode 0600: whoever has a code can apply for that firm.
    """
    query = sa.select(OFFERS, FIRMS.c.name, FIRMS.c.industry, FIRMS.c.region, FIRMS.c.manager)
    query = query.join(FIRMS, FIRMS.c.firm == OFFERS.c.firm)
    lists: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    private_folder(folder)
    found = book.rows(query.where(OFFERS.c.campaign == campaign, OFFERS.c.status == "open").order_by(OFFERS.c.number))
    if not found:
        raise BookError("the campaign has no open offer to list")
    for row in found:
        cells = (
            row["number"], row["firm"], row["name"], row["industry"], row["region"], shown_amount(row["amount"]),
            settings.currency, row["valid_until"].isoformat(), "yes" if row["contacted_s"] is not None else "",
        )  # fmt: skip
        lists[row["manager"] or "nobody"].append(cells)
        _save(folder / f"{row['number']}.svg", qr_code(settings, key, row["number"]))
    for manager, rows in lists.items():
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerows([_TITLES, *([_as_text(cell) for cell in row] for row in rows)])
        _save(folder / f"{_file_name(manager)}.csv", ("\ufeff" + text.getvalue()).encode())
    _save(folder / "offers.xlsx", workbook({_sheet(manager): [_TITLES, *rows] for manager, rows in lists.items()}))
    return {manager: len(rows) for manager, rows in lists.items()}


def expire(book: Book) -> int:
    """Close the lines of offers whose date has passed, and return how many."""
    with book.writing("due") as entry:
        query = sa.select(OFFERS).where(OFFERS.c.status == "open", OFFERS.c.valid_until < entry.today)
        found = entry.rows(query.with_for_update())
        entry.change_all(OFFERS, [{"id": row["id"], "firm": row["firm"], "status": "expired"} for row in found])
        entry.move_all([row["line"] for row in found], "closed", "offer expired")
    return len(found)


def _save(path: Path, data: bytes) -> None:
    write_atomically(path, lambda file: file.write(data))


def _as_text(cell: str) -> str:
    """Return a cell that no spreadsheet reads as a formula."""
    return f"'{cell}" if cell[:1] in {"=", "+", "-", "@", "\t", "\r"} else cell


def _file_name(manager: str) -> str:
    """Return a name for a manager's file, another one for each manager."""
    return _plain(manager, "".join(c if c.isalnum() or c in "-_" else "_" for c in manager)[:60])


def _sheet(manager: str) -> str:
    return _plain(manager, "".join("_" if c in "[]:*?/\\'" else c for c in manager)[:24])


def _plain(manager: str, name: str) -> str:
    return name if name == manager else f"{name}-{sha256_of(manager)[:6]}"
