"""How a node stands: the overview, the page of its health, and what machines ask: /health, /ready."""

from __future__ import annotations

import asyncio
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse, Response

from veilscore import __version__
from veilscore.console.desk import Visit, bar_chart, drawn
from veilscore.console.holdings import release_chart
from veilscore.console.jobs import SEES, SeenJob, seen
from veilscore.console.language import noted
from veilscore.console.page import ANY_PERSON, ANYBODY, Page
from veilscore.console.proofs import heads_seen
from veilscore.errors import VeilscoreError
from veilscore.fabric.process import running_pid
from veilscore.node.health import findings
from veilscore.release.account import FILE, accounts
from veilscore.release.monthly import released_by_month
from veilscore.reports.svg import Chart
from veilscore.terms.federation import Member
from veilscore.terms.job import ENDED
from veilscore.terms.people import AUDITOR, OPERATOR, STEWARD
from veilscore.v1 import control_pb2 as pb

_PING_S = 3.0


async def overview(visit: Visit) -> Response:
    """Show what waits for the person, what runs, what is left, and what looks wrong."""
    home, said = visit.desk.home, ""
    jobs: list[SeenJob] = []
    if visit.roles & SEES:
        try:
            jobs = await seen(visit)
        except VeilscoreError as error:
            said = error.message
    content = await asyncio.to_thread(_facts, visit)
    return visit.show(
        "overview.html",
        waiting=[job for job in jobs if job.waits][:8] if STEWARD in visit.roles else [],
        running=[job for job in jobs if job.status in {"running", "waiting", "accepted"}][:8],
        last=[job for job in jobs if job.status in ENDED][:5],
        counts=Counter(job.status for job in jobs),
        jobs_chart=drawn(_jobs_chart(jobs, visit.told)),
        sees=bool(visit.roles & SEES),
        runs=running_pid(home.path) is not None,
        said=said,
        **content,
    )


def _facts(visit: Visit) -> dict[str, Any]:
    home = visit.desk.home
    kept = home.role == "holder" and visit.roles & {STEWARD, AUDITOR}
    found = [(one, one.left()) for one in accounts(home.path / FILE, home.config.policy.privacy)] if kept else []
    months = released_by_month(home.path) if kept else ()
    return {
        "accounts": [
            (one.name, one.bank, math.sqrt(left), one.rules.year, left / one.rules.year**2) for one, left in found
        ],
        "release_chart": drawn(release_chart(months, visit.told)),
        "entries": len(home.log),
        "head_s": home.log.head.get("time_ms", 0) / 1000,
        "warnings": warnings(visit) if visit.roles & {OPERATOR, AUDITOR} else [],
        "members": len(home.federation.members),
    }


def _jobs_chart(jobs: list[SeenJob], told: Callable[[str], str]) -> Chart | None:
    """Draw how many jobs came in each of the last twelve weeks."""
    if not jobs:
        return None
    now_s, week_s = time.time(), 7 * 86400.0
    weeks = Counter(int((now_s - job.at_s) // week_s) for job in jobs)
    names = (told(noted("Jobs by week")), told(noted("weeks before this one")), told(noted("jobs")))
    back = range(11, -1, -1)
    return bar_chart(names, [float(-n) for n in back], [float(weeks[n]) for n in back], least=5.0, most_x=6)


def warnings(visit: Visit) -> list[str]:
    """Return what an operator should look at; each is a text of the catalogue with its figure put in."""
    home = visit.desk.home
    found = findings(home.path, home.config, home.federation)
    told = [visit.told(one.text) % one.figures(visit.locale.size) for one in found]
    waiting = len(visit.desk.store.not_logged())
    if waiting and running_pid(home.path) is None:
        told.append(
            visit.told(noted("%(count)d acts wait for the node, which writes them into its log.")) % {"count": waiting}
        )
    return told


async def node(visit: Visit) -> Response:
    """Show the node's health: who answers, keys, heads, disk."""
    home = visit.desk.home
    members = [m for m in home.federation.members if m.address is not None]
    answers = await asyncio.gather(*(_answers(visit, m) for m in members))
    content = await asyncio.to_thread(_keys, visit)
    usage = shutil.disk_usage(home.path)
    return visit.show(
        "node.html",
        members=[(m.name, m.role, m.address, answer) for m, answer in zip(members, answers, strict=True)],
        pid=running_pid(home.path),
        warnings=warnings(visit),
        free=usage.free,
        disk=usage.total,
        version=__version__,
        **content,
    )


async def _answers(visit: Visit, member: Member) -> tuple[bool, str]:
    began_s = time.monotonic()
    try:
        await visit.desk.link.call(member.name, "Ping", pb.Empty(), pb.Empty, timeout_s=_PING_S)
    except VeilscoreError as error:
        return False, error.message
    return True, f"{1000 * (time.monotonic() - began_s):.0f} ms"


def _keys(visit: Visit) -> dict[str, Any]:
    home, now_s = visit.desk.home, time.time()
    rows = [
        (name, key.certificate.fingerprint, key.refusal(now_s) is None, key.certificate.not_after.timestamp())
        for name, keys in home.federation.history.keys.items()
        for key in keys
    ]
    return {
        "keys": rows,
        "heads": [(name, head.size, head.time_ms / 1000) for name, head in heads_seen(home.path)],
        "digest": home.federation.history.digest,
        "entries": len(home.log),
        "head": home.log.head,
    }


# --- for machines ----------------------------------------------------------------------------------------------------


def health(_visit: Visit) -> Response:
    """Say that the console answers, and nothing else."""
    return JSONResponse({"status": "ok"})


def ready(visit: Visit) -> Response:
    """Say whether the node runs and the home can be read; 503 where not, without saying why to a stranger."""
    try:
        fine = running_pid(visit.desk.home.path) is not None and bool(visit.desk.home.config.name)
    except VeilscoreError:
        fine = False
    return JSONResponse({"status": "ready" if fine else "not ready"}, 200 if fine else 503)


PAGES: tuple[Page, ...] = (
    Page("/", overview, ANY_PERSON, name=noted("Overview"), section=noted("Work")),
    Page("/node", node, frozenset({OPERATOR, AUDITOR}), name=noted("Health"), section=noted("Node")),
    Page("/health", health, ANYBODY, kind="data"),
    Page("/ready", ready, ANYBODY, kind="data"),
)
