"""Links by which owners enter the portal, made by the bank's people, and the end of all that lets an owner in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from party_bank.console.open_book import OpenBook
from party_bank.portal.consents import LISTED, OwnerConsents, terms_of
from party_bank.portal.entry import codes_of
from party_bank.portal.owner import PortalHome, site_of
from party_bank.portal.store import COMMAND, FORGOTTEN, OwnerStore
from veilscore.errors import ConfigError


def link_for(home: Path, firm: str, hours: float, actor: str = COMMAND) -> tuple[str, int]:
    """Return a link by which a firm's owner enters, once, and how many passkeys open the firm besides.

    It ends older links, the codes of offers, and sessions; passkeys stay (`forget`).
    actor : who the log and the owner's own page say made it.
    """
    with _opened(home) as (own, open_, store):
        site = site_of(own)
        if not site.port and site.origin is None:
            raise ConfigError(
                "the portal takes a free port at each start (port: 0): set portal_site.port or its origin"
            )
        row = open_.firm(firm)
        secret = store.link(row["firm"], hours, codes_of(open_.book, row["firm"]), actor)
        count = len(store.passkeys(store.person_of(row["firm"])))
        return f"{site.origin_at(site.port)}/enter#{secret}", count


def forget(home: Path, firm: str) -> int:
    """Remove all passkeys, links and sessions of a firm's owner; return how many passkeys there were."""
    with _opened(home) as (_, open_, store):
        return store.forget(store.person_of(open_.firm(firm)["firm"]), COMMAND, FORGOTTEN)


def list_of_agreed(home: Path) -> tuple[str, int]:
    """Sign the list of owners who agreed to offers and wait (`OwnerConsents.sign_list`); return its id and its size."""
    with _opened(home) as (own, open_, store):
        consents = OwnerConsents(home, own.name, site_of(own).issuer)
        number, count = consents.sign_list(open_.book, terms_of(home, own.name, open_.settings, LISTED[0]))
        if count:
            store.note(COMMAND, "portal: sign a list", f"list {number} of {count} firms", "done")
        return number, count


@contextmanager
def _opened(home: Path) -> Iterator[tuple[PortalHome, OpenBook, OwnerStore]]:
    own = PortalHome(home)
    open_, store = OpenBook(own), OwnerStore(home)
    try:
        yield own, open_, store
    finally:
        store.close()
        open_.close()
