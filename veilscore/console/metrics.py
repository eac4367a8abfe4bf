"""What operators' machines read: /metrics in the text form of Prometheus.

Source  : Prometheus text exposition format 0.0.4.
Protects: who may read it shows the token of HOME/console/metrics.token, or is an operator or auditor in a session.
          Labels are names of parties, data sets, models, statuses and patterns of pages: never a firm, person or job.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

from starlette.responses import PlainTextResponse, Response

from veilscore.console.desk import Visit
from veilscore.console.home import ConsoleHome
from veilscore.console.page import ANYBODY, Page
from veilscore.console.store import FOLDER
from veilscore.errors import RefusedError, VeilscoreError
from veilscore.evidence.console_acts import METHOD, Pulse
from veilscore.fabric.process import running_pid
from veilscore.files.private import private_folder
from veilscore.files.store import write_text
from veilscore.node.metrics import TEXT, metric, node_metrics
from veilscore.terms.people import AUDITOR, OPERATOR
from veilscore.v1.control_pb2 import EvidenceCall, EvidenceReply

TOKEN_FILE = "metrics.token"  # noqa: S105 - its name


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
    lines = await asyncio.to_thread(lambda: [*_of_node(visit.desk.home, pulse), *_of_console(visit)])
    return PlainTextResponse("\n".join(lines) + "\n", media_type=TEXT)


def _of_node(home: ConsoleHome, pulse: Pulse | None) -> Iterable[str]:
    runs = pulse is not None or running_pid(home.path) is not None
    federation, entries, now_s = home.federation, len(home.log), time.time()
    return node_metrics(home.path, home.config, federation, home.jobs(), entries, pulse, runs=runs, now_s=now_s)


def _of_console(visit: Visit) -> Iterable[str]:
    desk = visit.desk
    yield from metric("veilscore_console_sessions", "gauge", "Sessions of people.",
                       [({}, float(len(desk.store.sessions())))])  # fmt: skip
    yield from metric("veilscore_console_acts_waiting", "gauge", "Acts that the node's log does not have yet.",
                       [({}, float(len(desk.store.not_logged())))])  # fmt: skip
    counts = [
        ({"page": p, "method": m, "status": str(s)}, float(n)) for (p, m, s), n in sorted(desk.requests.counts.items())
    ]
    yield from metric("veilscore_console_requests_total", "counter", "Requests by page and status.", counts)
    seconds = [({"page": p, "method": m}, float(s)) for (p, m), s in sorted(desk.requests.seconds.items())]
    yield from metric("veilscore_console_request_seconds_total", "counter", "Seconds that they took.", seconds)


PAGES = (Page("/metrics", metrics, ANYBODY, kind="data"),)
