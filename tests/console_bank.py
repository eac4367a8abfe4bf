"""A bank's home with a book in which everything has happened once: for the pages of its lending."""

from __future__ import annotations

import shutil
from importlib.resources import files
from typing import TYPE_CHECKING

import yaml
from bank_trial import NOON, SETTINGS, Clock, Joint, consent, empty_file, lend

from party_bank import alarms, applications, campaigns, offers, renewals
from party_bank.applications import REFERRED, Verdict
from party_bank.book import Book
from party_bank.book_tables import OFFERS
from party_bank.contracts import draw
from party_bank.firms import put_firms
from party_bank.policy.graph import parse_graph
from party_bank.policy.versions import Policies
from veilscore.files.home_key import home_key

if TYPE_CHECKING:
    from pathlib import Path

FIRM = "91310000MA1K35TQ6F"
NAMES = ("Jade River Building <script>alert(1)</script>", "Lotus Trade & Co", "华东精密机械有限公司", "Willow Foods")
DAY_S = 86400.0


def some_firms(count: int) -> list[dict[str, str]]:
    """Firms with ids that are told apart; the first is FIRM."""
    regions, industries = ("华东", "North", "South"), ("building", "trade", "software", "food")
    return [
        {
            "firm": FIRM if n == 0 else f"9131{n:08}MA1K{n % 100:02}"[:18].ljust(18, "X"),
            "name": f"{NAMES[n % 4]} {n}" if n else NAMES[0],
            "industry": industries[n % 4],
            "region": regions[n % 3],
            "manager": ("lin", "wang", "zhao")[n % 3],
        }
        for n in range(count)
    ]


def filled_bank(home: Path, count: int = 120, now_s: float = NOON) -> Path:
    """Fill the home's book; every page of the lending has something to show. `now_s`: when that is."""
    (home / "bank.yaml").write_text(yaml.safe_dump(SETTINGS.model_dump(mode="json", exclude_defaults=True)))
    (home / "state").mkdir(exist_ok=True)
    path = home / "state" / "book.db"
    shutil.copy(empty_file(), path)
    clock = Clock(now_s - 330 * DAY_S)
    book = Book(f"sqlite:///{path}", clock=clock)
    firms = some_firms(count)
    ids = [one["firm"] for one in firms]
    put_firms(book, firms, "import")
    first = lend(book, FIRM, 10_000_000)
    for _ in range(8):  # a clock that jumps is refused
        clock.days(40)
        consent(book, ids[-1:], "watch")
    clock.now_s = now_s - 9 * DAY_S
    joint = Joint({firm: n % 4 for n, firm in enumerate(ids)})
    consent(book, ids[1:60], "proactive")
    consent(book, ids, "application", "renewal")
    campaigns.create(book, SETTINGS, "spring", "flow", "lin")
    campaigns.run(book, SETTINGS, joint, "spring", home_key(home), "lin")
    made = book.rows(OFFERS.select().order_by(OFFERS.c.number))
    for row in made[:3]:
        offers.note_contact(book, row["number"], "lin")
    renewals.prepare(book, SETTINGS, Joint(dict.fromkeys(ids, 2)), first, "due")
    for n, firm in enumerate(ids[70:74]):
        judge = _judge(REFERRED if n < 2 else ("approved", "declined")[n - 2])
        asked = applications.ApplicationRequest(f"w-{n}", firm, "flow", 5_000_000, 12, "", "")
        applications.apply(book, SETTINGS, Joint({firm: 2}), judge, asked, "portal")
    watched = ids[100:103] if count > 103 else []
    consent(book, watched, "watch")
    for firm in watched:
        draw(book, lend(book, firm, 3_000_000, "tax"), 1_000_000, f"d-{firm}", "lin")
    if watched:
        alarms.run(book, SETTINGS, Joint(dict(zip(watched, (1, 2, 0), strict=True))), book.today(), "due")
    book.close()
    graph = (files("party_bank.policy") / "graphs" / "admission.json").read_bytes()
    Policies(home).file(parse_graph(graph, "admission"))
    return home


def _judge(outcome: str):
    def judge(_inputs):
        return Verdict(outcome, ("orders are to be seen",), 435, "admission@1", "ab" * 32, "row 3")

    return judge
