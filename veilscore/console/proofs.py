"""The node's log, entry by entry, its verification, and the receipts that it keeps."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from starlette.responses import Response

from veilscore.console.desk import Visit
from veilscore.console.language import noted
from veilscore.console.page import PAGE_ROWS, Listing, Page, page_of
from veilscore.errors import EvidenceError, VeilscoreError
from veilscore.evidence.documents import FederationKeys
from veilscore.evidence.heads import SignedHead
from veilscore.evidence.log import FOLDER, LOG_FILE
from veilscore.evidence.verify import heads_in, verify_log, verify_receipt
from veilscore.files.store import JobStore
from veilscore.terms.job import JOB_ID
from veilscore.terms.people import AUDITOR, STEWARD

READS = frozenset({STEWARD, AUDITOR})
_SHOWN = ("job_id", "step", "attempt", "outcome", "answer", "party", "bank", "account", "opening", "person", "act",
          "subject", "model", "purpose", "named")  # fmt: skip
_RECEIPT = re.compile(r"[a-z0-9_-]{1,120}")


def log(visit: Visit) -> Response:
    """Show a page of the log, of one kind of entry or of all."""
    index, kind = visit.desk.home.log, visit.asked("kind", 40)
    numbers = index.numbers(kind)
    first = (visit.page_number() - 1) * PAGE_ROWS
    entries = index.entries(numbers[first : first + PAGE_ROWS])
    rows = [
        {
            "number": number,
            "at_s": entry.get("time_ms", 0) / 1000,
            "kind": str(entry.get("kind", "")),
            "details": [(name, str(entry[name])) for name in _SHOWN if entry.get(name) not in (None, "")],
        }
        for number, entry in entries
    ]
    return visit.show(
        "log.html",
        listing=Listing(rows, len(numbers), visit.page_number(), {"kind": kind}),
        kinds=sorted(index.kinds),
        kind=kind,
        head=index.head,
        proved=None,
    )


def verify(visit: Visit) -> Response:
    """Verify the whole log against its signatures and the heads that others countersigned in receipts here."""
    home = visit.desk.home
    keys = FederationKeys(lambda: home.federation)
    known: list[SignedHead] = []
    for path in sorted((home.path / FOLDER / "receipts").glob("*.json")):
        with suppress(EvidenceError, OSError):
            known += heads_in(path.read_bytes())
    visit.subject = "log"
    proved = verify_log(home.path / FOLDER / LOG_FILE, keys, known)
    index = home.log
    return visit.show(
        "log.html",
        listing=Listing([], 0, 1, {}),
        kinds=sorted(index.kinds),
        kind="",
        head=index.head,
        proved=proved,
    )


def receipts(visit: Visit) -> Response:
    """Show the receipts of jobs, the newest first."""
    words = visit.asked("q").lower()
    found = sorted((one for one in _receipts(visit.desk.home.path) if words in one[1]), reverse=True)
    return visit.show(
        "receipts.html",
        receipts=page_of(found, visit.page_number(), {"q": visit.asked("q")}),
        words=visit.asked("q"),
    )


def _receipts(home: Path) -> list[tuple[float, str, int]]:
    try:
        with os.scandir(home / FOLDER / "receipts") as entries:
            return [(e.stat().st_mtime, e.name[:-5], e.stat().st_size) for e in entries if e.name.endswith(".json")]
    except FileNotFoundError:
        return []


def _content(visit: Visit) -> bytes:
    """Return a receipt's file; EvidenceError if there is none, also for what names another file."""
    job_id = visit.part("job")
    visit.subject = job_id[:120]
    if not _RECEIPT.fullmatch(job_id) or not JOB_ID.fullmatch(job_id):
        raise EvidenceError("this names no receipt")
    try:
        return (visit.desk.home.path / FOLDER / "receipts" / f"{job_id}.json").read_bytes()
    except OSError:
        raise EvidenceError("there is no receipt of that job here: it is not done, or was not cross-signed") from None


def receipt(visit: Visit) -> Response:
    """Verify a receipt with the keys of the federation, and show what it proves."""
    content, home = _content(visit), visit.desk.home
    proved: list[str] = []
    failed = ""
    try:
        proved = verify_receipt(content, FederationKeys(lambda: home.federation))
    except VeilscoreError as error:
        failed = error.message
    return visit.show("receipt.html", job_id=visit.part("job"), proved=proved, failed=failed, size=len(content))


def receipt_file(visit: Visit) -> Response:
    """Give the receipt as a file, for whoever is to verify it offline."""
    content = _content(visit)
    headers = {"content-disposition": f'attachment; filename="receipt-{visit.part("job")}.json"'}
    return Response(content, media_type="application/json", headers=headers)


def heads_seen(home: Path) -> list[tuple[str, SignedHead]]:
    """Return the newest head of each other party that this node has seen."""
    folder = home / FOLDER / "heads"
    if not folder.is_dir():
        return []
    store = JobStore(folder)
    found: list[tuple[str, SignedHead]] = []
    for name in store.names():
        with suppress(VeilscoreError):
            found.append((name, SignedHead.kept(store, name)))
    return found


PAGES: tuple[Page, ...] = (
    Page("/log", log, READS, name=noted("Log"), section=noted("Evidence")),
    Page("/log/verify", verify, frozenset({AUDITOR}), "POST", act="verify the log"),
    Page("/receipts", receipts, READS, name=noted("Receipts"), section=noted("Evidence")),
    Page("/receipts/{job}", receipt, READS),
    Page("/receipts/{job}/file", receipt_file, READS, act="take a receipt"),
)
