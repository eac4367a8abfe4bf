"""What a holder's data were used for, by month, bank, purpose and model: counted from its own log and ledger.

Training is known from the charges in the log, batches and hold-outs from the release ledger, single scores from the
log. A single score that an earlier version logged has neither name of the model nor purpose.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from veilscore.errors import EvidenceError
from veilscore.evidence.job_ledger import Ledger
from veilscore.evidence.log import LOG_FILE, scan
from veilscore.evidence.online_opening import PartsOpened, RecordTold, ShareOpened
from veilscore.release.ledger import BATCH, EVALUATION, LEDGER, WATCH, ReleaseLedger
from veilscore.terms.decide import Decide
from veilscore.terms.privacy import total
from veilscore.terms.settings import parse_json
from veilscore.wire.protocol import Charge

NOT_NOTED = "(not noted)"


@dataclass(frozen=True, order=True)
class Use:
    """What one bank did within one month for one purpose with one model.

    jobs : that opened sums; mu2 : square of mu that they were charged, infinite where one was exact.
    held_out : firms of hold-outs whose scores were opened; batches, firms : scored, known here or not.
    singles : firms scored online, each time counted; also a record that told something and was never opened.
    """

    month: str
    bank: str
    purpose: str
    model: str
    jobs: int = 0
    mu2: float = 0.0
    held_out: int = 0
    batches: int = 0
    firms: int = 0
    singles: int = 0


@dataclass
class _Counted:
    """What is known of the log so far: charges by job, and by whom and when; uses of single firms.

    told : by bank and request, uses that consist of a record that was sent, unless it is opened later.
    """

    charges: dict[str, list[Charge]] = field(default_factory=lambda: defaultdict(list))
    last: dict[str, tuple[str, str]] = field(default_factory=dict)
    uses: dict[tuple[str, str, str, str], Use] = field(default_factory=dict)
    told: dict[tuple[str, str], tuple[str, str, str, str]] = field(default_factory=dict)

    def add(self, month: str, bank: str, purpose: str, model: str, **more: float) -> None:
        """Count more of a use; `more` are fields of `Use`."""
        key = (month, bank, purpose, model)
        before = self.uses.get(key, Use(*key))
        self.uses[key] = replace(before, **{name: getattr(before, name) + more[name] for name in more})

    def visit(self, entry: dict[str, Any]) -> None:
        """Take in one entry of the log."""
        month = month_of(entry.get("time_ms", 0) / 1000)
        if entry.get("kind") == "spent":
            charge = Charge(entry["opening"], entry["rows"], float(entry["mu2"]))
            self.charges[entry["job_id"]].append(charge)
            self.last[entry["job_id"]] = (month, entry["bank"])
        elif (kind := entry.get("kind")) in {ShareOpened.kind, PartsOpened.kind, RecordTold.kind}:
            sha256 = str(entry["decision" if kind == PartsOpened.kind else "model"])
            purpose, model = entry.get("purpose") or NOT_NOTED, entry.get("named") or sha256[:12]
            bank, request = entry["bank"], entry["request"]
            if kind == RecordTold.kind:
                self.told[bank, request] = (month, bank, purpose, model)
            else:
                self.told.pop((bank, request), None)
                self.add(month, bank, purpose, model, singles=1)


def month_of(at_s: float) -> str:
    """Return the month of a second since the epoch, UTC, such as 2026-11."""
    return f"{dt.datetime.fromtimestamp(at_s, dt.UTC):%Y-%m}"


def usage(home: Path) -> tuple[Use, ...]:
    """Return all uses of a holder's data, the oldest month first; EvidenceError if its log cannot be read."""
    counted, jobs = _Counted(), Ledger(home / "state" / "jobs")
    path = home / "evidence" / LOG_FILE
    try:
        found = scan(path, visit=lambda _, body: counted.visit(parse_json(body)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EvidenceError(f"{path} holds an entry that cannot be counted") from error
    if found.head is None:
        raise EvidenceError(f"no log at {path}: the node has not been started yet")
    for key in counted.told.values():
        counted.add(*key, singles=1)
    for job_id, charges in counted.charges.items():
        month, bank = counted.last[job_id]
        counted.add(month, bank, *_named(jobs, job_id), jobs=1, mu2=total(charges))
    if (home / LEDGER).is_file():
        with contextlib.closing(ReleaseLedger(home / LEDGER)) as ledger:
            for one in ledger.releases(0.0):
                job_id, rows = one.reference.split("/")[1], int(one.rows.size or one.firms.size)
                if one.kind == EVALUATION:
                    counted.add(month_of(one.at_s), one.bank, *_named(jobs, job_id), held_out=rows)
                elif one.kind in {BATCH, WATCH}:
                    counted.add(month_of(one.at_s), one.bank, *_named(jobs, job_id), batches=1, firms=rows)
    return tuple(sorted(counted.uses.values()))


def _named(jobs: Ledger, job_id: str) -> tuple[str, str]:
    """Return purpose and model of a job: of a batch the model or decision that it applied, else its own name."""
    known = jobs.get(job_id)
    if known is None:
        return NOT_NOTED, job_id[:40]
    p = known.job.parameters
    return known.job.purpose, p.decision if isinstance(p, Decide) else str(getattr(p, "model", known.job.name))
