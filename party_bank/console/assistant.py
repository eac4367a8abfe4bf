"""The policy assistant in pages: what screening and mining found, in sentences with their sources, and what follows.

Every figure is a fact of a finished job of the bank's own; a candidate policy is filed like any other, tried on past
firms, and decides once two stewards have signed.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from party_bank.assistants.candidates import candidate_policy
from party_bank.assistants.policy_findings import explain_rules, own_side
from party_bank.assistants.screening_findings import ORIGINS, explain_screening, origin_of, phrases_of
from party_bank.console.group_charts import part_chart
from party_bank.console.policies import FILES, SEES
from party_bank.mining import MinedJob, MinedRule
from veilscore.console.desk import Visit, drawn
from veilscore.console.home import ConsoleHome
from veilscore.console.language import noted
from veilscore.console.page import Page, page_of
from veilscore.errors import ConfigError
from veilscore.files.store import JobStore
from veilscore.models.versions import SCREENINGS
from veilscore.reports.facts import Locale
from veilscore.reports.svg import Chart
from veilscore.terms.job import JOB_ID
from veilscore.terms.policy import utc_today

_KEPT, _MOST_RULES = 16, 10
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
REASONS = (  # of screening, as its result has them
    noted("one value, or none"), noted("missing in too many rows"), noted("population stability above the limit"),
    noted("left out by its owner"),
)  # fmt: skip


class AssistantPages:
    """The handlers of these pages, on one home; the latest rules are kept, since to find them takes a while."""

    def __init__(self, home: ConsoleHome) -> None:
        self._home = home
        self._found = lru_cache(_KEPT)(self._mined)

    def findings(self, visit: Visit) -> Response:
        """Show the finished screenings and mining jobs."""
        home = self._home.path
        places = [("screening", path.parent) for path in (home / SCREENINGS).glob("*/screening.json")]
        places += [("rules", path.parent) for path in (home / "jobs").glob("*/held.npz")]
        words = visit.asked("q")
        rows = [(kind, at.name, _changed_s(at)) for kind, at in places if words.lower() in at.name.lower()]
        found = page_of(sorted(rows, key=lambda row: (-row[2], row[1])), visit.page_number(), {"q": words})
        return visit.show("bank/findings.html", findings=found, words=words)

    # --- screenings --------------------------------------------------------------------------------------------------

    def screening(self, visit: Visit) -> Response:
        """Show what one screening kept and left out, in sentences, and its columns."""
        name = visit.part("name")
        folder = self._home.path / SCREENINGS / name
        if not _NAME.fullmatch(name) or not (folder / "screening.json").is_file():
            raise HTTPException(404, "there is no screening of that name here")
        body = JobStore(folder).load_json("screening")
        found = explain_screening(body, today=utc_today(), owner=self._home.name)
        words, origin, kept = visit.asked("q").lower(), visit.asked("origin", 20), visit.asked("kept", 5)
        columns = [
            column
            for column in sorted(body["columns"], key=lambda c: (not c["kept"], -(c["iv"] or 0.0)))
            if words in str(column["name"]).lower()
            and origin in {"", origin_of(str(column["name"]))}
            and kept in {"", "yes" if column["kept"] else "no"}
        ]
        asked = {"q": visit.asked("q"), "origin": origin, "kept": kept}
        locale: Locale = "zh" if visit.language == "zh" else "en"
        origins = {one: label.get(locale) for one, label in ORIGINS.items()}
        return visit.show(
            "bank/screening.html",
            name=name,
            body=body,
            groups=found.groups,
            sentences=_texts(found.sentences(locale)),
            columns=page_of(columns, visit.page_number(), asked),
            asked=asked,
            origins=origins,
            phrases={str(one["name"]): phrases_of(str(one["name"]), locale) for one in columns},
            keeps={"yes": noted("kept"), "no": noted("left out")},
            chart=drawn(
                _kept_chart(visit, [(f"{g.party}, {origins[g.origin]}", g.screened, g.kept) for g in found.groups])
            ),
        )

    # --- rules -------------------------------------------------------------------------------------------------------

    def rules(self, visit: Visit) -> Response:
        """Show the rules of one mining job, each with its counts, and the candidate policy that they make."""
        job = visit.part("job")
        visit.subject = job[:120]
        if not JOB_ID.fullmatch(job) or not (self._home.path / "jobs" / job / "held.npz").is_file():
            raise HTTPException(404, "there is no finished mining job of that id here")
        loss, margin = _share(visit, "loss", 0.45), _share(visit, "margin", 0.03)
        mined, rules = self._found(job, loss, margin)
        explained = explain_rules(mined, rules, job, today=utc_today(), owner=self._home.name)
        graph = hindrance = ""
        try:
            graph = candidate_policy(mined, rules).decode()
        except ConfigError as error:
            hindrance = error.message if rules else ""
        return visit.show(
            "bank/rules.html",
            job=job,
            rules=[(own_side(mined, rule), rule) for rule in rules],
            sentences=_texts(explained.sentences("zh" if visit.language == "zh" else "en")),
            graph=graph if visit.roles & FILES else "",
            hindrance=hindrance,
            loss=loss,
            margin=margin,
            chart=drawn(_lift_chart(visit, rules)),
        )

    def _mined(self, job: str, loss: float, margin: float) -> tuple[MinedJob, list[MinedRule]]:
        mined = MinedJob(self._home.path / "jobs" / job)
        return mined, mined.rules(mined.money(loss, margin), most=_MOST_RULES)


def _texts(sentences: tuple[tuple[Any, ...], ...]) -> list[str]:
    return ["".join(piece.text for piece in pieces) for pieces in sentences]


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _share(visit: Visit, name: str, usual: float) -> float:
    try:
        found = float(visit.asked(name, 10) or usual)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise ConfigError("loss and margin are numbers from 0 to 1")
    return found


def _kept_chart(visit: Visit, groups: list[tuple[str, int, int]]) -> Chart | None:
    """Draw how many columns of each group were screened, and in front of them how many were kept."""
    title, unit = visit.told(noted("Screened, and of these kept")), visit.told(noted("columns"))
    return part_chart(title, unit, groups, (visit.told(noted("screened")), visit.told(noted("kept"))), "joint")


def _lift_chart(visit: Visit, rules: list[MinedRule]) -> Chart | None:
    """Draw the lift of each rule among held-out firms, and how far down noise and chance leave it open."""
    if not rules:
        return None
    chart = Chart(visit.told(noted("Lift among held-out firms")), visit.told(noted("rule")), visit.told(noted("lift")))
    x, lifts = [float(n) for n in range(1, len(rules) + 1)], [max(0.0, rule.held.lift) for rule in rules]
    chart.bars(x, lifts, 0.6, "joint")
    chart.whiskers(x, [rule.held.least_lift for rule in rules], lifts, "bad")
    chart.rule("soft", y=1.0, dash="6 3")
    chart.y_limits, chart.grid_x, chart.whole_x, chart.most_x = (0, None), False, True, len(rules) + 2
    return chart


def pages(own: AssistantPages) -> tuple[Page, ...]:
    """Return the pages on one home."""
    bank = ("bank",)
    return (
        Page("/assistant", own.findings, SEES, name=noted("Policy assistant"), section=noted("Lending"), roles=bank),
        Page("/assistant/screenings/{name}", own.screening, SEES, roles=bank),
        Page("/assistant/rules/{job}", own.rules, SEES, act="read mined rules", roles=bank),
    )
