"""What operators' machines read: /metrics in the text form of Prometheus.

Source  : Prometheus text exposition format 0.0.4.
Protects: who may read it shows the token of HOME/console/metrics.token, or is an operator or auditor in a session.
          Labels are names of parties, data sets, models, statuses and patterns of pages: never a firm, person or job.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import secrets
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from starlette.responses import PlainTextResponse, Response

from veilscore.console.desk import Visit
from veilscore.console.home import ConsoleHome
from veilscore.console.jobs import statuses_of
from veilscore.console.page import ANYBODY, Page
from veilscore.console.store import FOLDER
from veilscore.errors import RefusedError, VeilscoreError
from veilscore.evidence.console_acts import METHOD, Pulse
from veilscore.fabric.process import running_pid
from veilscore.files.private import private_folder
from veilscore.files.store import write_text
from veilscore.release.account import FILE, accounts
from veilscore.release.monthly import released_by_month
from veilscore.terms.people import AUDITOR, OPERATOR
from veilscore.v1.control_pb2 import EvidenceCall, EvidenceReply

TOKEN_FILE = "metrics.token"  # noqa: S105 - its name
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def metrics_token(home: Path) -> str:
    """Return the token by which a machine reads the metrics; it is made at first use, mode 0600."""
    path = private_folder(home / FOLDER) / TOKEN_FILE
    if not path.exists():
        write_text(path, secrets.token_urlsafe(32) + "\n")
    return path.read_text(encoding="ascii").strip()


async def metrics(visit: Visit) -> Response:
    """Give all metrics."""
    shown = visit.request.headers.get("authorization", "")
    token = await asyncio.to_thread(metrics_token, visit.desk.home.path)
    by_token = hmac.compare_digest(shown.encode(), f"Bearer {token}".encode())
    if not by_token and not visit.roles & {OPERATOR, AUDITOR}:
        raise RefusedError(f"metrics are for whoever has the token in {FOLDER}/{TOKEN_FILE}, operators and auditors")
    pulse: Pulse | None = None
    try:
        reply = await visit.desk.link.own(METHOD, EvidenceCall(ask="pulse"), EvidenceReply)
        pulse = Pulse.model_validate_json(reply.body)
    except (VeilscoreError, ValueError):
        pulse = None  # it does not run: veilscore_node_up says so
    lines = await asyncio.to_thread(lambda: [*_of_home(visit.desk.home), *_of_console(visit)])
    text = "\n".join([*lines, *_of_node(visit.desk.home, pulse)]) + "\n"
    return PlainTextResponse(text, media_type=_TEXT)


def _of_home(home: ConsoleHome) -> Iterable[str]:
    jobs = Counter(statuses_of(home))
    yield from _metric("veilscore_jobs", "gauge", "Jobs that this node was asked to take part in, by status.",
                       [({"status": status}, float(count)) for status, count in sorted(jobs.items())])  # fmt: skip
    yield from _metric("veilscore_jobs_waiting", "gauge", "Jobs that wait for this node's answer.",
                       [({}, float(jobs["pending"]))])  # fmt: skip
    yield from _metric("veilscore_log_entries_total", "counter", "Entries of the node's own log.",
                       [({}, float(len(home.log)))])  # fmt: skip
    if home.role != "holder":
        return
    openings: Counter[tuple[str, str]] = Counter()
    firms: Counter[tuple[str, str]] = Counter()
    for one in released_by_month(home.path):
        openings[one.bank, one.kind] += one.openings
        firms[one.bank, one.kind] += one.firms
    for name, what, found in (
        ("veilscore_releases_total", "Openings of scores, bands and steps.", openings),
        ("veilscore_released_firms_total", "Firms in what was released, each time counted.", firms),
    ):
        rows = [({"bank": bank, "kind": kind}, float(count)) for (bank, kind), count in sorted(found.items())]
        yield from _metric(name, "counter", what, rows)
    every = [
        (one, {"account": one.name, "bank": one.bank}) for one in accounts(home.path / FILE, home.config.policy.privacy)
    ]
    yield from _metric("veilscore_account_mu_left", "gauge", "mu that a new job could spend now.",
                       [(labels, math.sqrt(one.left())) for one, labels in every])  # fmt: skip
    yield from _metric("veilscore_account_mu_year", "gauge", "mu that all jobs of a year may spend.",
                       [(labels, one.rules.year) for one, labels in every])  # fmt: skip


def _of_node(home: ConsoleHome, pulse: Pulse | None) -> Iterable[str]:
    runs = pulse is not None or running_pid(home.path) is not None
    yield from _metric("veilscore_node_up", "gauge", "Whether the node runs.", [({}, float(runs))])
    if pulse is None:
        return
    yield from _metric("veilscore_steps_running", "gauge", "Steps of jobs under way.", [({}, float(pulse.running))])
    spares = [({"for": name}, float(count)) for name, count in sorted(pulse.spares.items())]
    yield from _metric("veilscore_spares", "gauge", "Work of single scores that is done ahead.", spares)


def _of_console(visit: Visit) -> Iterable[str]:
    desk = visit.desk
    yield from _metric("veilscore_console_sessions", "gauge", "Sessions of people.",
                       [({}, float(len(desk.store.sessions())))])  # fmt: skip
    yield from _metric("veilscore_console_acts_waiting", "gauge", "Acts that the node's log does not have yet.",
                       [({}, float(len(desk.store.not_logged())))])  # fmt: skip
    counts = [
        ({"page": p, "method": m, "status": str(s)}, float(n)) for (p, m, s), n in sorted(desk.requests.counts.items())
    ]
    yield from _metric("veilscore_console_requests_total", "counter", "Requests by page and status.", counts)
    seconds = [({"page": p, "method": m}, float(s)) for (p, m), s in sorted(desk.requests.seconds.items())]
    yield from _metric("veilscore_console_request_seconds_total", "counter", "Seconds that they took.", seconds)


def _metric(name: str, kind: str, what: str, rows: Iterable[tuple[dict[str, str], float]]) -> Iterable[str]:
    yield f"# HELP {name} {what}"
    yield f"# TYPE {name} {kind}"
    for labels, value in rows:
        shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        yield f"{name}{{{shown}}} {value:.10g}" if shown else f"{name} {value:.10g}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


PAGES = (Page("/metrics", metrics, ANYBODY, kind="data"),)
