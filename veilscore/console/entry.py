"""Entering and leaving: the one-time link, passkeys, client certificates, the person's own page, the language."""

from __future__ import annotations

import urllib.parse

from starlette.responses import JSONResponse, RedirectResponse, Response

from veilscore.console.desk import Visit
from veilscore.console.guard import ENTRY_COOKIE, LANGUAGE_COOKIE, shown_certificate
from veilscore.console.home import people_of
from veilscore.console.language import LANGUAGES, noted
from veilscore.console.page import ANY_PERSON, ANYBODY, Page
from veilscore.errors import IdentityError, RefusedError
from veilscore.terms.people import AUDITOR, OPERATOR, PERSON_ROLES, STEWARD

OIDC_COOKIE = "__Host-oidc"
_YEAR_S = 365 * 86400


def safe_path(text: str) -> str:
    """Return a path of this console to go to; "/" for anything else, such as another site's address."""
    parsed = urllib.parse.urlsplit(text)
    plain = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if plain and not parsed.scheme and not parsed.netloc else "/"


def login(visit: Visit) -> Response:
    """Show the ways in; whoever is in already goes on."""
    to = safe_path(visit.asked("next", 500))
    if visit.session is not None:
        return visit.go_to(to)
    try:
        by_certificate, _ = visit.desk.home.person_of(shown_certificate(visit.request))
    except IdentityError:
        by_certificate = ""
    oidc = visit.desk.oidc is not None
    return visit.show("login.html", to=to, by_certificate=by_certificate, oidc=oidc)


def begin(visit: Visit) -> Response:
    """Give the browser what a passkey is to sign."""
    cookie, options = visit.desk.passkeys.to_enter()
    return with_challenge(JSONResponse(options), cookie)


def finish(visit: Visit) -> Response:
    """Let in whoever signed it."""
    person, passkey = visit.desk.passkeys.entered(_cookie(visit), visit.data)
    return entered(visit, person, "passkey", JSONResponse({}), credential=passkey)


def by_certificate(visit: Visit) -> Response:
    """Let in whose client certificate TLS has checked; the session needs it from then on."""
    to = safe_path(visit.form.get("next", ""))
    person, fingerprint = visit.desk.home.person_of(shown_certificate(visit.request))
    return entered(visit, person, "certificate", visit.go_to(to), fingerprint)


def oidc_begin(visit: Visit) -> Response:
    """Send the browser to the party's own OpenID provider."""
    if visit.desk.oidc is None:
        raise RefusedError("this console has no OpenID provider (console.oidc in node.yaml)")
    url, secret = visit.desk.oidc.begin(safe_path(visit.asked("next", 500)))
    response = RedirectResponse(url, 303)
    # lax: the provider's redirect back comes from another site
    response.set_cookie(OIDC_COOKIE, secret, max_age=600, secure=True, httponly=True, samesite="lax", path="/")
    return response


def oidc_finish(visit: Visit) -> Response:
    """Let in whom the provider names; the page goes on by itself, since a strict cookie needs a page of this site."""
    if visit.desk.oidc is None:
        raise RefusedError("this console has no OpenID provider (console.oidc in node.yaml)")
    secret = visit.request.cookies.get(OIDC_COOKIE, "")
    person, to = visit.desk.oidc.finish(secret, visit.asked("state", 200), visit.asked("code", 2000))
    response = entered(visit, person, "oidc", visit.show("entered.html", to=to))
    response.delete_cookie(OIDC_COOKIE, secure=True, httponly=True, samesite="lax")
    return response


def invited(visit: Visit) -> Response:
    """Show the page of a one-time link; its secret is behind # and reaches the server only when a passkey is made."""
    return visit.show("enter.html")


def register_begin(visit: Visit) -> Response:
    """Give the browser what a passkey is made of, for the person of a link."""
    cookie, options = visit.desk.passkeys.to_register(_token(visit))
    return with_challenge(JSONResponse(options), cookie)


def register_finish(visit: Visit) -> Response:
    """Keep the passkey, use the link up, and let the person in."""
    token = _token(visit)
    credential = visit.data.get("credential")
    person, passkey = visit.desk.passkeys.registered(_cookie(visit), token, credential)
    return entered(visit, person, "passkey", JSONResponse({}), credential=passkey)


def entered(
    visit: Visit, person: str, by: str, response: Response, certificate: str = "", credential: bytes | None = None
) -> Response:
    """Begin a session under a new secret, whatever cookie the browser had; RefusedError for who has no role here."""
    visit.person_override = visit.subject = person
    if not visit.desk.home.roles(person):
        raise RefusedError(f"{person[:60]} has no role at {visit.desk.home.name} (`people` in its node.yaml)")
    secret, _ = visit.desk.store.begin(person, by, certificate, credential)
    return finished_entry(visit, secret, response)


def finished_entry(visit: Visit, secret: str, response: Response) -> Response:
    """Give the browser the session that was begun for it, in place of the one that it had."""
    if visit.session is not None:
        visit.desk.store.end(visit.session)
    visit.session = None
    response.set_cookie(visit.desk.session_cookie, secret, secure=True, httponly=True, samesite="strict", path="/")
    response.delete_cookie(ENTRY_COOKIE, secure=True, httponly=True, samesite="strict")
    return response


def logout(visit: Visit) -> Response:
    """End the session."""
    if visit.session is not None:
        visit.subject = visit.person
        visit.desk.store.end(visit.session)
    response = visit.go_to("/login", "left")
    response.delete_cookie(visit.desk.session_cookie, secure=True, httponly=True, samesite="strict")
    return response


def choose_language(visit: Visit) -> Response:
    """Keep the language that was chosen."""
    chosen = visit.form.get("to", "")
    response = visit.go_to(safe_path(visit.form.get("next", "")))
    if chosen in LANGUAGES:
        response.set_cookie(
            LANGUAGE_COOKIE, chosen, max_age=_YEAR_S, secure=True, httponly=True, samesite="strict", path="/"
        )
    return response


def own_page(visit: Visit) -> Response:
    """Show a person's own roles, passkeys and sessions."""
    store = visit.desk.store
    return visit.show(
        "me.html",
        passkeys=[
            (one, one.credential.hex(), store.vouched(one.credential) is not None)
            for one in store.passkeys(visit.person)
        ],
        signs=STEWARD in visit.roles and visit.desk.home.role == "bank",
        sessions=store.sessions(visit.person),
        roles=[role for role in PERSON_ROLES if role in visit.roles],
    )


def end_others(visit: Visit) -> Response:
    """End all other sessions of the person."""
    for session in visit.desk.store.sessions(visit.person):
        if visit.session is None or session.key != visit.session.key:
            visit.desk.store.end(session)
    visit.subject = visit.person
    return visit.go_to("/me", "ended")


def forget_passkey(visit: Visit) -> Response:
    """Remove one of the person's passkeys; the last one stays, so that nobody locks itself out."""
    text = visit.form.get("credential", "")
    visit.subject = visit.person
    try:
        known = visit.desk.store.forget_passkey(visit.person, bytes.fromhex(text), least=1)
    except ValueError:
        known = False
    if not known:
        raise RefusedError("you have no such passkey")
    return visit.go_to("/me", "removed")


def people(visit: Visit) -> Response:
    """Show who has a role here, by node.yaml, with passkeys and sessions."""
    return visit.show("people.html", people=people_of(visit.desk.home, visit.desk.store))


def _token(visit: Visit) -> str:
    if not isinstance(visit.data, dict) or not isinstance(visit.data.get("token"), str):
        raise IdentityError("the link is not whole: open it again, all of it")
    return str(visit.data["token"])[:100]


def _cookie(visit: Visit) -> str:
    return visit.request.cookies.get(ENTRY_COOKIE, "")


def with_challenge(response: Response, cookie: str) -> Response:
    """Give the browser the key of its challenge with what it is to sign."""
    response.set_cookie(ENTRY_COOKIE, cookie, max_age=300, secure=True, httponly=True, samesite="strict", path="/")
    return response


PAGES = (
    Page("/login", login, ANYBODY),
    Page("/login/begin", begin, ANYBODY, "POST", kind="data", attempts=True),
    Page("/login/finish", finish, ANYBODY, "POST", act="enter by passkey", kind="data", attempts=True),
    Page("/login/certificate", by_certificate, ANYBODY, "POST", act="enter by certificate", attempts=True),
    Page("/login/oidc", oidc_begin, ANYBODY, attempts=True),
    Page("/login/oidc/back", oidc_finish, ANYBODY, act="enter by oidc", attempts=True),
    Page("/enter", invited, ANYBODY),
    Page("/enter/begin", register_begin, ANYBODY, "POST", kind="data", attempts=True),
    Page("/enter/finish", register_finish, ANYBODY, "POST", act="make a passkey", kind="data", attempts=True),
    Page("/logout", logout, ANYBODY, "POST", act="leave"),
    Page("/language", choose_language, ANYBODY, "POST"),
    Page("/me", own_page, ANY_PERSON),
    Page("/me/sessions", end_others, ANY_PERSON, "POST", act="end other sessions"),
    Page("/me/passkeys", forget_passkey, ANY_PERSON, "POST", act="remove a passkey"),
    Page("/people", people, frozenset({OPERATOR, AUDITOR}), name=noted("People"), section=noted("Node")),
)
