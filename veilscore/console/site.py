"""The table of all pages, and the application made of it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from veilscore.console import entry, holdings, jobs, metrics, models, proofs, sandboxes, standing, submitting
from veilscore.console.desk import STATIC, ConsoleDesk, Visit
from veilscore.console.guard import PageGuard
from veilscore.console.home import ConsoleHome
from veilscore.console.language import noted
from veilscore.console.page import ANYBODY, Page, Site
from veilscore.errors import ConfigError
from veilscore.terms.console import ConsoleConfig

SECTIONS = (noted("Work"), noted("Lending"), noted("Data"), noted("Evidence"), noted("Node"))
GROUP = "veilscore.console"  # of entry points: role -> what gives an institution's `Site` for a home


def static(visit: Visit) -> Response:
    """Give one of the console's own files; there are no others."""
    name = visit.part("name")
    if name not in STATIC:
        raise HTTPException(404)
    return Response(
        visit.desk.static[name], media_type=STATIC[name], headers={"cache-control": "max-age=3600, immutable"}
    )


_PAGES = (
    *standing.PAGES,
    *submitting.PAGES,  # before those of one job: "new" is no id
    *jobs.PAGES,
    *sandboxes.PAGES,
    *models.PAGES,
    *holdings.PAGES,
    *proofs.PAGES,
    *entry.PAGES,
    *metrics.PAGES,
    Page("/static/{name}", static, ANYBODY),
)


def sites_of(home: ConsoleHome) -> tuple[Site, ...]:
    """Return what institutions add to the console of a home, by its role; nothing where an extra is missing."""
    found: list[Site] = []
    for one in entry_points(group=GROUP):
        if one.name == home.role:
            site = one.load()(home)
            found += [] if site is None else [site]
    return tuple(found)


def pages_of(home: ConsoleHome, sites: Sequence[Site]) -> tuple[Page, ...]:
    """Return all pages of a node, in the order of the navigation's sections."""
    pages = [*_PAGES, *(page for site in sites for page in site.pages)]
    own = [page for page in pages if home.role in page.roles]
    places = [(page.method, page.path) for page in own]
    twice = {f"{method} {path}" for method, path in places if places.count((method, path)) > 1}
    if twice:
        raise ConfigError(f"two pages of the console have one path: {', '.join(sorted(twice))}")
    order = {section: number for number, section in enumerate(SECTIONS)}
    return tuple(sorted(own, key=lambda page: order.get(page.section, len(order))))


def application(desk: ConsoleDesk, config: ConsoleConfig, hosts: frozenset[str]) -> Starlette:
    """Return the application of a desk."""
    guard = PageGuard(desk, config, hosts)
    by_path: dict[str, dict[str, Page]] = {}
    for page in desk.pages:
        by_path.setdefault(page.path, {})[page.method] = page
    methods = ["GET", "POST"]
    routes = [Route(path, guard.endpoint(pages), methods=methods) for path, pages in by_path.items()]

    async def missing(request: Request, error: Exception) -> Response:
        return await guard.missing(request, error)

    handlers: dict[Any, Any] = {HTTPException: missing, 404: missing, 405: missing}
    made = Starlette(routes=routes, exception_handlers=handlers)
    made.router.redirect_slashes = False
    return made
