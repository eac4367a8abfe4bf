"""Entering the portal: the QR code or link with its one-time secret, passkeys, the owner's own page, leaving.

A GET changes nothing, since messengers and mail filters open links ahead of people. The secret stands behind #, which
no browser sends and no log has; the owner's own click sends it, once, in a form.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import sqlalchemy as sa
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from party_bank.book import Book
from party_bank.book_tables import LINES, OFFERS
from party_bank.offers import look, sha256_of
from party_bank.portal.owner import OWNERS, PASSKEY, Owner, OwnerError, Portal, for_owners
from party_bank.portal.store import COMMAND, FORGOTTEN, LINK_MADE
from veilscore.console.desk import Visit
from veilscore.console.entry import begin, choose_language, finished_entry, logout, safe_path, with_challenge
from veilscore.console.guard import ENTRY_COOKIE
from veilscore.console.language import noted
from veilscore.console.page import ANYBODY, Page
from veilscore.console.store import ConsoleSession
from veilscore.errors import BookError, IdentityError

_WAYS = {
    LINK_MADE: noted("the bank made a link"),
    FORGOTTEN: noted("the bank removed every passkey, link and session"),
    "portal: enter": noted("somebody entered"),
    "portal: make a passkey": noted("a passkey was made"),
    "portal: remove a passkey": noted("a passkey was removed"),
}
_MOST_MAKING = 1000  # sessions that make a passkey at one time; beyond it all begin again
_SPENT = noted("This code or link was used, has ended, or is not whole. Ask your account manager for a new one.")


class EntryPages:
    """The handlers of these pages."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    def login(self, visit: Visit) -> Response:
        """Show the ways in; whoever is in already goes on."""
        to = safe_path(visit.asked("next", 500))
        return visit.go_to(to) if visit.session is not None else visit.show("login.html", to=to)

    def by_offer(self, visit: Visit) -> Response:
        """Show the page that a QR code opens; its number is a text until the secret comes with it."""
        return visit.show("enter.html", number=visit.part("number")[:20])

    def by_link(self, visit: Visit) -> Response:
        """Show the page that a link opens."""
        return visit.show("enter.html", number="")

    def enter(self, visit: Visit) -> Response:
        """Use the secret up and begin a session, bound to the offer where it was an offer's."""
        secret, number = visit.form.get("secret", "").strip()[:100], visit.form.get("number", "")[:20]
        begun = self._of_offer(visit, number, secret.lower()) if number else self._portal.store.enter_by_link(secret)
        if begun is None:
            raise OwnerError(visit.told(_SPENT))
        return self._entered(visit, begun, visit.go_to("/"))

    def _of_offer(self, visit: Visit, number: str, secret: str) -> tuple[str, ConsoleSession] | None:
        try:
            offer = look(self._portal.open.book, number, secret)
        except BookError as error:
            raise OwnerError(visit.told(_SPENT)) from error
        return self._portal.store.enter_by_code(offer["firm"], number, sha256_of(secret))

    def _entered(self, visit: Visit, begun: tuple[str, ConsoleSession], response: Response) -> Response:
        visit.subject = visit.person_override = begun[1].person
        return finished_entry(visit, begun[0], response)

    # --- passkeys ----------------------------------------------------------------------------------------------------

    def finish(self, visit: Visit) -> Response:
        """Let in whoever signed it."""
        with told_to(visit):
            person, passkey = visit.desk.passkeys.entered(visit.request.cookies.get(ENTRY_COOKIE, ""), visit.data)
            begun = self._portal.store.begin(person, PASSKEY, credential=passkey)
        return self._entered(visit, begun, JSONResponse({}))

    def register_begin(self, visit: Visit) -> Response:
        """Give the browser what a passkey is made of, for the firm of the session."""
        self._check_may_add(visit)
        secret = self._portal.store.begin_passkey(visit.person)
        cookie, options = visit.desk.passkeys.to_register(secret)
        if len(self._portal.making) > _MOST_MAKING:
            self._portal.making.clear()
        self._portal.making[visit.session.key if visit.session else b""] = secret
        return with_challenge(JSONResponse(options), cookie)

    def register_finish(self, visit: Visit) -> Response:
        """Keep the passkey."""
        self._check_may_add(visit)
        secret = self._portal.making.pop(visit.session.key if visit.session else b"", "")
        content = visit.data.get("credential") if isinstance(visit.data, dict) else None
        with told_to(visit):
            person, _ = visit.desk.passkeys.registered(visit.request.cookies.get(ENTRY_COOKIE, ""), secret, content)
        if person != visit.person:
            raise IdentityError("this passkey was made in another session: begin again")
        visit.subject = person
        return JSONResponse({})

    def _check_may_add(self, visit: Visit) -> None:
        if not self.may_add(visit, self._portal.owner(visit)):
            raise OwnerError(visit.told(noted("Enter by a link of your account manager to add a passkey.")))

    def may_add(self, visit: Visit, owner: Owner) -> bool:
        """Return whether a session may add a passkey: an offer's code opens no firm that is a customer already."""
        if owner.whole:
            return True
        count = sa.select(sa.func.count().label("n")).select_from(LINES).where(LINES.c.firm == owner.firm)
        return not self._portal.store.passkeys(visit.person) and self._portal.open.book.rows(count)[0]["n"] == 1

    # --- the owner's own page ----------------------------------------------------------------------------------------

    @for_owners
    def own_page(self, visit: Visit) -> Response:
        """Show passkeys and sessions."""
        owner, store = self._portal.owner(visit), self._portal.store
        return visit.show(
            "me.html",
            owner=owner,
            passkeys=[(one, one.credential.hex()) for one in store.passkeys(visit.person)],
            sessions=store.sessions(visit.person),
            may_add=self.may_add(visit, owner),
            ways_in=[
                (at_s, _WAYS[act], "" if who in {visit.person, COMMAND} else who)
                for at_s, act, who in store.ways_in(visit.person)
            ],
        )

    @for_owners
    def forget_passkey(self, visit: Visit) -> Response:
        """Remove one of the firm's passkeys; only for a session that sees all of the firm."""
        owner, text = self._portal.owner(visit), visit.form.get("credential", "")
        visit.subject = visit.person
        known = False
        if owner.whole:
            try:
                known = self._portal.store.forget_passkey(visit.person, bytes.fromhex(text))
            except ValueError:
                known = False
        if not known:
            raise HTTPException(404)
        return visit.go_to("/me", "removed")


@contextlib.contextmanager
def told_to(visit: Visit) -> Iterator[None]:
    """Say in the owner's language what is wrong with a passkey."""
    try:
        yield
    except IdentityError as error:
        raise OwnerError(visit.told(error.message)) from error


def codes_of(book: Book, firm: str) -> list[str]:
    """Return the digests of the codes of a firm's offers, which a new link ends."""
    rows = book.rows(sa.select(OFFERS.c.secret_sha256).where(OFFERS.c.firm == firm))
    return [row["secret_sha256"] for row in rows]


def pages(portal: Portal) -> tuple[Page, ...]:
    """Return the pages of entering."""
    own = EntryPages(portal)
    return (
        Page("/login", own.login, ANYBODY),
        Page("/login/begin", begin, ANYBODY, "POST", kind="data", attempts=True),
        Page("/login/finish", own.finish, ANYBODY, "POST", act="portal: enter", kind="data", attempts=True),
        Page("/offer/{number}", own.by_offer, ANYBODY),
        Page("/enter", own.by_link, ANYBODY),
        Page("/enter", own.enter, ANYBODY, "POST", act="portal: enter", attempts=True),
        Page("/enter/begin", own.register_begin, OWNERS, "POST", kind="data", attempts=True),
        Page(
            "/enter/finish", own.register_finish, OWNERS, "POST", "portal: make a passkey", kind="data", attempts=True
        ),
        Page("/logout", logout, ANYBODY, "POST", act="portal: leave"),
        Page("/language", choose_language, ANYBODY, "POST"),
        Page("/me", own.own_page, OWNERS),
        Page("/me/passkeys", own.forget_passkey, OWNERS, "POST", act="portal: remove a passkey"),
    )
