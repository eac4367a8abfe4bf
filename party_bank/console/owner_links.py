"""An account manager lets an owner into the portal: a link, once, as a QR code, for the firms in the own care alone.

Whoever has the link acts for the firm. It is on the page that made it and nowhere else; who made it stands in the log,
and on the owner's own page.
"""

from __future__ import annotations

from markupsafe import Markup
from starlette.responses import Response

from party_bank.console.lending import LENDS
from party_bank.console.open_book import OpenBook
from party_bank.offers import inline_code
from party_bank.portal.links import link_for
from veilscore.console.desk import Visit
from veilscore.console.page import Page
from veilscore.errors import RefusedError
from veilscore.release.pseudonyms import firm_digest

HOURS = 24.0


class OwnerLinkPages:
    """The handlers of these pages, on one book."""

    def __init__(self, open_: OpenBook) -> None:
        self._open = open_

    def make(self, visit: Visit) -> Response:
        """Make a link and show it, with its QR code; RefusedError for who does not look after the firm."""
        row, home = self._open.firm(visit.part("firm")), visit.desk.home.path
        visit.subject = f"firm {firm_digest(home, row['firm'])}"
        if row["manager"] != visit.person:
            raise RefusedError("the book names another account manager for this firm, who makes its links")
        link, n_passkeys = link_for(home, row["firm"], HOURS, visit.person)
        return visit.show(
            "bank/owner_link.html",
            row=row,
            link=link,
            code=Markup(inline_code(link)),  # noqa: S704 - a drawing of ours
            until_s=visit.desk.store.clock() + HOURS * 3600,
            n_passkeys=n_passkeys,
        )


def pages(own: OwnerLinkPages) -> tuple[Page, ...]:
    """Return the pages on one book."""
    return (Page("/firms/{firm}/link", own.make, LENDS, "POST", act="make an owner's link", roles=("bank",)),)
