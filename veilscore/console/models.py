"""Models that a node filed, their versions, and the reports of jobs, which open in a sandbox of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from veilscore.console.desk import Visit
from veilscore.console.jobs import SEES, seen_job
from veilscore.console.language import noted
from veilscore.console.page import Page, page_of
from veilscore.errors import JobError, VeilscoreError
from veilscore.models.decided import FILE as DECISION
from veilscore.models.decided import FiledDecision
from veilscore.models.filed import load_model
from veilscore.models.versions import versions

# a report is one page without scripts, with its style inside: it may do nothing else, whatever stands in it
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"


def listing(visit: Visit) -> Response:
    """Show what was filed here, by name, with the version in use."""
    words = visit.asked("q").lower()
    names = _names(visit.desk.home.path)
    found = page_of([n for n in names if words in n.lower()], visit.page_number(), {"q": visit.asked("q")})
    rows = [_model(visit.desk.home.path, name) for name in found.rows]
    return visit.show("models.html", models=found, rows=rows, words=visit.asked("q"))


def _names(home: Path) -> list[str]:
    folder = home / "models"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _model(home: Path, name: str) -> dict[str, Any]:
    """Return what a list says of one model; a holder has its part of it alone."""
    kept = versions(home, name)
    using = next((one for one in kept if one.in_use), None)
    found: dict[str, Any] = {"name": name, "count": len(kept), "using": using, "kind": noted("part of a model")}
    try:
        if (home / "models" / name / DECISION).is_file():
            filed = FiledDecision.load(home / "models" / name)
            found |= {"kind": noted("decision"), "sha256": filed.sha256.hex(), "purpose": filed.decision.purpose}
        elif (home / "models" / name / "model.json").is_file():
            model = load_model(home / "models" / name / "model.json")
            found |= {"kind": noted("model"), "sha256": model.sha256.hex(), "purpose": model.provenance.purpose}
    except VeilscoreError:
        found["kind"] = noted("damaged")
    return found


def one(visit: Visit) -> Response:
    """Show one model: its versions, each with the job that made it and that job's report."""
    home, name = visit.desk.home.path, visit.part("name")
    if name not in _names(home):
        raise HTTPException(404, "there is no model of that name here")
    kept = versions(home, name)
    rows = [(version, (home / "jobs" / version.job_id / "report.html").is_file()) for version in reversed(kept)]
    return visit.show("model.html", model=_model(home, name), versions=rows)


async def report(visit: Visit) -> Response:
    """Give the report of a job that the person may see, as a page that can do nothing."""
    job = await seen_job(visit)
    path = visit.desk.home.path / "jobs" / job.job_id / "report.html"
    try:
        content = path.read_bytes()
    except OSError:
        raise JobError("this job has no report here: it is not done, or it trains nothing") from None
    return HTMLResponse(content, headers={"content-security-policy": REPORT_POLICY})


PAGES = (
    Page("/models", listing, SEES, name=noted("Models"), section=noted("Work"), roles=("bank", "holder")),
    Page("/models/{name}", one, SEES, roles=("bank", "holder")),
    Page("/jobs/{job}/report", report, SEES, act="read a report", roles=("bank", "holder")),
)
