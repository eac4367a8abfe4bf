"""The portal's own frame around the console's pages: its templates, files, words and menu."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from party_bank.portal.owner import Portal
from veilscore.console.desk import DONE, STATIC, ConsoleDesk, Visit
from veilscore.console.language import noted
from veilscore.console.page import ANYBODY, Page, Site

_HERE = Path(__file__).parent
SITE = Site((), _HERE / "templates", _HERE / "locale")
OWN_FILES = {"portal.css": "text/css; charset=utf-8", "portal.js": "text/javascript; charset=utf-8"}
SAID = {
    **DONE,
    "left": noted("You have left the portal."),
    "given": noted("Your consent was signed. You can take it back at any time."),
    "withdrawn": noted("It was withdrawn. The bank asks nobody under it any more."),
    "accepted": noted("You accepted the contract. You can draw now."),
    "drawn": noted("The amount was drawn. The bank pays it to your account."),
    "renewed": noted("The contract was renewed today. What you owe went over to it."),
    "passkey": noted("The passkey was made. You can come back with it."),
}
WORDS = (  # words of the product that pages show by themselves
    noted("open"), noted("applied"), noted("expired"), noted("received"), noted("approved"), noted("referred"),
    noted("declined"), noted("draft"), noted("signed"), noted("ended"), noted("due"), noted("proposed"),
    noted("accepted"), noted("lapsed"), noted("withdrawn"), noted("valid"), noted("used"), noted("drawn"),
    noted("repaid"), noted("asked"), noted("unknown"), noted("told"),
    noted("within the limit of the joint decision"), noted("the joint decision gives no limit"),
    noted("a holder does not know the firm, or did not answer"),
    noted("this came from another site's page, or from none: nothing was done"),
    noted("the form is of another session: go back, load the page again, and repeat"),
    noted("this took too long, or was done already: begin again"),
    noted("this passkey opens nothing here: take the one that you made for this console"),
    noted("this passkey was removed: ask for a new link"),
    noted("enter first: nobody is in this session, or it is over"),
)  # fmt: skip


class PortalDesk(ConsoleDesk):
    """Holds one portal while it runs; `portal` is what its pages work with."""

    session_cookie = "__Host-owner"
    portal: Portal
    own_files: Mapping[str, bytes]

    def _environment(self, language: str) -> Environment:
        """Return the templates in one language, the portal's before the console's of the same name."""
        environment = super()._environment(language)
        own = [FileSystemLoader(_HERE / "templates")]
        environment.loader = ChoiceLoader([*own, *([environment.loader] if environment.loader else [])])
        return environment

    def show(self, visit: Visit, template: str, status: int, content: Mapping[str, Any]) -> Response:
        """Return a page with the portal's frame around it."""
        site = self.portal.open.settings.portal_site
        menu = [page for page in self.pages if page.name and page.may & visit.roles and visit.session is not None]
        return self.rendered(
            visit,
            template,
            status,
            {
                "bank": site.bank_name or self.home.name,
                "menu": menu,
                "here": visit.request.url.path,
                "done_text": SAID.get(visit.asked("done"), ""),
                **content,
            },
        )


def static(visit: Visit) -> Response:
    """Give one of the portal's files, or one of the console's that it shares; there are no others."""
    name, desk = visit.part("name"), visit.desk
    kind = {**STATIC, **OWN_FILES}.get(name)
    if kind is None or not isinstance(desk, PortalDesk):
        raise HTTPException(404)
    content = desk.own_files[name] if name in OWN_FILES else desk.static[name]
    return Response(content, media_type=kind, headers={"cache-control": "max-age=3600, immutable"})


def health(visit: Visit) -> Response:
    """Answer while the portal runs."""
    del visit
    return JSONResponse({"status": "ok"})


def read_own_files() -> dict[str, bytes]:
    """Return the portal's own files by name."""
    return {name: files("party_bank.portal").joinpath("static", name).read_bytes() for name in OWN_FILES}


PAGES = (Page("/static/{name}", static, ANYBODY), Page("/health", health, ANYBODY))
