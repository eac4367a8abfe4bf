"""Back-tests in pages: a policy on past firms, and champion against challenger with the swap set.

Past firms are files that the bank laid into HOME/past; a browser names one and sends none. The figures are those of
`veilscore policy test` and `veilscore policy compare`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.responses import Response

from party_bank.console.group_charts import group_chart, part_chart
from party_bank.console.policies import SEES, PolicyPages, past_files
from party_bank.policy.backtest import (
    Backtest,
    Group,
    PastFirms,
    backtest,
    compare,
    fired_order,
    read_past,
)
from party_bank.policy.graph import Graph
from veilscore.console.desk import Visit, drawn
from veilscore.console.home import ConsoleHome
from veilscore.console.language import noted
from veilscore.console.page import Page
from veilscore.errors import ConfigError
from veilscore.reports.svg import Chart

MOST_FIRMS = 20_000  # a few seconds of a core; more is the command line's
_KEPT = 16
OUTCOMES = (noted("approve"), noted("decline"), noted("refer"), noted("yes"), noted("no"))  # of shipped policies
SIDES = (noted("champion approves"), noted("challenger approves"), noted("swapped in"), noted("swapped out"))
T = TypeVar("T")


class BacktestPages:
    """The handlers of these pages, on one home; one back-test runs at a time, and the latest are kept."""

    def __init__(self, home: ConsoleHome, policies: PolicyPages) -> None:
        self._home, self._policies = home, policies
        self._one = threading.Lock()
        self._kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def show(self, visit: Visit) -> Response:
        """Show what a version would have decided, or against another version who is swapped in and out."""
        graph, (name, loss, label) = self._policies.graph_of(visit), self._asked(visit)
        number = visit.asked("against", 8)
        head = {"graph": graph, "firms": name, "loss": loss, "label": label}
        if not number:
            found = self._tried([graph], name, loss, label, lambda past: _in_groups(backtest(graph, past, loss)))
            return visit.show(
                "bank/backtest.html",
                found=found,
                rows=[(one, found.rows[one]) for one in fired_order(found.rows)],
                chart=drawn(_outcomes_chart(visit, found.outcomes)),
                failures=found.failures.most_common(3),
                **head,
            )
        if not (number.isascii() and number.isdigit()):
            raise HTTPException(404, "a version is a number")
        champion = self._policies.policies.graph(graph.name, int(number))
        both = self._tried([champion, graph], name, loss, label, lambda past: compare(champion, graph, past, loss))
        sides = list(zip(SIDES, (both.champion, both.challenger, both.swapped_in, both.swapped_out), strict=True))
        return visit.show(
            "bank/compare.html",
            found=both,
            champion=champion,
            sides=sides,
            table=sorted(both.table.items()),
            unknown=both.swapped_in.firms - both.swapped_in.known,
            chart=drawn(loss_chart(visit, sides)),
            **head,
        )

    def _asked(self, visit: Visit) -> tuple[str, float, str]:
        name, label = visit.asked("firms", 120), visit.asked("label", 80) or "default"
        if name not in past_files(self._home):
            raise ConfigError("name a file of past firms: the bank lays them into the folder `past` of its home")
        try:
            loss = float(visit.asked("loss", 10) or 0.45)
        except ValueError:
            loss = -1.0
        if not 0 <= loss <= 1:
            raise ConfigError("the part of a loan that is lost at default is a number from 0 to 1")
        return name, loss, label

    def _tried(self, graphs: list[Graph], name: str, loss: float, label: str, run: Callable[[PastFirms], T]) -> T:
        path = self._home.path / "past" / name
        stamp = path.stat()
        key = (*(one.sha256 for one in graphs), name, stamp.st_mtime_ns, stamp.st_size, loss, label)
        with self._one:
            if key not in self._kept:
                self._kept[key] = run(read_past(path, graphs, label=label, most=MOST_FIRMS))
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            found: T = self._kept[key]
            return found


def _in_groups(found: Backtest) -> Backtest:
    """Let go of each firm's decision: a page shows groups alone."""
    found.decided.clear()
    return found


def _outcomes_chart(visit: Visit, outcomes: Mapping[str, Group]) -> Chart | None:
    """Draw how many firms each outcome took; the bads among them in front."""
    title, firms = visit.told(noted("Firms by decision, and the bads among them")), visit.told(noted("firms"))
    groups = [(visit.told(name), one.firms, one.bads) for name, one in outcomes.items()]
    return part_chart(title, firms, groups, (firms, visit.told(noted("bads"))), "bad")


def loss_chart(visit: Visit, sides: list[tuple[str, Group]]) -> Chart:
    """Draw the expected loss of each side, from the least to the most that unknown outcomes leave open."""
    title, unit = visit.told(noted("Loss that was expected, in millions")), visit.told(noted("millions"))
    chart = group_chart(title, unit, [visit.told(name) for name, _ in sides])
    low = [group.least_loss / 1e6 for _, group in sides]
    high = [group.most_loss / 1e6 for _, group in sides]
    x = [float(n) for n in range(len(sides))]
    chart.bars(x, low, 0.6, "joint")
    chart.whiskers(x, low, high, "bad")
    chart.y_format = lambda value, step: f"{value:,.{0 if step >= 1 else 2}f}"
    return chart


def pages(own: BacktestPages) -> tuple[Page, ...]:
    """Return the pages on one home."""
    return (Page("/policies/{name}/{version}/test", own.show, SEES, act="try a policy", roles=("bank",)),)
