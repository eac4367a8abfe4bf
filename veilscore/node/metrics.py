"""Counts of a node in the text form of Prometheus, for the console's page and for the node's own address alike.

Source  : Prometheus text exposition format 0.0.4.
Protects: labels are names of parties, data sets, models, statuses and patterns of pages: never a firm, person or job.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from veilscore.evidence.console_acts import Pulse
from veilscore.evidence.job_ledger import LedgerEntry
from veilscore.release.account import FILE, accounts
from veilscore.release.monthly import released_by_month
from veilscore.terms.federation import Federation
from veilscore.terms.node_config import NodeConfig

TEXT = "text/plain; version=0.0.4; charset=utf-8"


def status_at(party: str, entry: LedgerEntry) -> str:
    """Return how a job stands at a party, by its own ledger."""
    own = [step for step in entry.job.steps if party in entry.job.parties_of(step)]
    if entry.status == "accepted" and own and all(step in entry.done for step in own):
        return "done"
    if entry.failures:
        return "failed"
    return "running" if entry.status == "accepted" and entry.attempts else entry.status


def node_metrics(
    home: Path,
    config: NodeConfig,
    federation: Federation,
    jobs: Iterable[LedgerEntry],
    log_entries: int,
    pulse: Pulse | None,
    *,
    runs: bool,
    now_s: float,
) -> Iterable[str]:
    """Yield the lines of all counts of one node.

    jobs : of its ledger; pulse : what only the running node knows, None where it does not answer.
    """
    statuses = Counter(status_at(config.name, entry) for entry in jobs)
    yield from metric("veilscore_jobs", "gauge", "Jobs that this node was asked to take part in, by status.",
                      [({"status": status}, float(count)) for status, count in sorted(statuses.items())])  # fmt: skip
    yield from metric("veilscore_jobs_waiting", "gauge", "Jobs that wait for this node's answer.",
                      [({}, float(statuses["pending"]))])  # fmt: skip
    yield from metric("veilscore_log_entries_total", "counter", "Entries of the node's own log.",
                      [({}, float(log_entries))])  # fmt: skip
    ends = [
        ({"party": m.name}, accepted[0].not_after.timestamp() - now_s)
        for m in federation.members
        if m.role != "operator" and (accepted := federation.history.accepted(m.name, now_s))
    ]
    what = "Until the newest certificate of a node ends."
    yield from metric("veilscore_certificate_seconds_left", "gauge", what, ends)
    if config.role == "holder":
        yield from _of_holder(home, config)
    yield from metric("veilscore_node_up", "gauge", "Whether the node runs.", [({}, float(runs))])
    if pulse is None:
        return
    yield from metric("veilscore_steps_running", "gauge", "Steps of jobs under way.", [({}, float(pulse.running))])
    spares = [({"for": name}, float(count)) for name, count in sorted(pulse.spares.items())]
    yield from metric("veilscore_spares", "gauge", "Work of single scores that is done ahead.", spares)
    clocks = [({"party": name}, ahead_s) for name, ahead_s in sorted(pulse.clocks.items())]
    yield from metric(
        "veilscore_clock_ahead_seconds", "gauge", "How far a node's clock was ahead at its greeting.", clocks
    )


def _of_holder(home: Path, config: NodeConfig) -> Iterable[str]:
    openings: Counter[tuple[str, str]] = Counter()
    firms: Counter[tuple[str, str]] = Counter()
    for one in released_by_month(home):
        openings[one.bank, one.kind] += one.openings
        firms[one.bank, one.kind] += one.firms
    for name, what, found in (
        ("veilscore_releases_total", "Openings of scores, bands and steps.", openings),
        ("veilscore_released_firms_total", "Firms in what was released, each time counted.", firms),
    ):
        rows = [({"bank": bank, "kind": kind}, float(count)) for (bank, kind), count in sorted(found.items())]
        yield from metric(name, "counter", what, rows)
    every = [(one, {"account": one.name, "bank": one.bank}) for one in accounts(home / FILE, config.policy.privacy)]
    yield from metric("veilscore_account_mu_left", "gauge", "mu that a new job could spend now.",
                      [(labels, math.sqrt(one.left())) for one, labels in every])  # fmt: skip
    yield from metric("veilscore_account_mu_year", "gauge", "mu that all jobs of a year may spend.",
                      [(labels, one.rules.year) for one, labels in every])  # fmt: skip


def metric(name: str, kind: str, what: str, rows: Iterable[tuple[dict[str, str], float]]) -> Iterable[str]:
    """Yield the lines of one count, each row with its labels."""
    yield f"# HELP {name} {what}"
    yield f"# TYPE {name} {kind}"
    for labels, value in rows:
        shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        yield f"{name}{{{shown}}} {value:.10g}" if shown else f"{name} {value:.10g}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
