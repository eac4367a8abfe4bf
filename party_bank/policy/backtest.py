"""Tries a policy on past firms: who would have been approved, what it would have lost, and what nobody can know.

A firm that was declined has no outcome, so nothing here says what it would have done. Its loss is stated as a range,
from nothing to everything that a default loses, or as what the bank's own probability of default expects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from party_bank.policy.domain import fields_of
from party_bank.policy.graph import Fired, Graph, PolicyDecision
from veilscore.errors import ConfigError, DataError

APPROVALS: tuple[tuple[str, Any], ...] = (("outcome", "approve"), ("offer", True))


@dataclass(frozen=True)
class PastFirms:
    """Firms of the past, with what came of them.

    records : inputs of policies; bad : True, False, or None where no outcome is known; amounts : yuan lent, or asked.
    pd : the bank's own probability of default of each, None where it has none.
    """

    records: tuple[Mapping[str, Any], ...]
    bad: tuple[bool | None, ...]
    amounts: tuple[float, ...]
    pd: tuple[float | None, ...]

    def __len__(self) -> int:
        return len(self.records)


@dataclass
class Group:
    """What became of a group of firms: how many, how many with an outcome, bads, amounts, and the loss as a range."""

    firms: int = 0
    known: int = 0
    bads: int = 0
    amount: float = 0.0
    least_loss: float = 0.0
    most_loss: float = 0.0

    def add(self, bad: bool | None, amount: float, pd: float | None, loss_given_default: float) -> None:  # noqa: FBT001 - an outcome
        """Add a firm."""
        whole = amount * loss_given_default
        least, most = (float(bad),) * 2 if bad is not None else (pd, pd) if pd is not None else (0.0, 1.0)
        self.firms += 1
        self.known += bad is not None
        self.bads += bad is True
        self.amount += amount
        self.least_loss += least * whole
        self.most_loss += most * whole

    @property
    def bad_rate(self) -> float | None:
        """Share of bads among those with an outcome; None without any."""
        return self.bads / self.known if self.known else None

    @property
    def loss(self) -> str:
        """The loss as text: a figure, or a range where outcomes are unknown."""
        if self.most_loss - self.least_loss < 0.5:
            return f"{self.least_loss:,.0f}"
        return f"{self.least_loss:,.0f} to {self.most_loss:,.0f}"


@dataclass
class Backtest:
    """What a policy would have decided.

    decided : decision of each firm, None where the policy could not decide on it.
    outcomes : of its approval field -> group; rows : of its tables -> group.
    unused : rows that no firm reached; failures : reason -> firms that could not be decided.
    """

    decided: list[PolicyDecision | None] = field(default_factory=list)
    outcomes: dict[str, Group] = field(default_factory=dict)
    rows: dict[Fired, Group] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    blindness: str = ""


@dataclass
class PolicyComparison:
    """Champion and challenger on the same firms: (outcome of one, of the other) -> group, and the swap set.

    swapped_in : only the challenger approves; swapped_out : only the champion does.
    """

    table: dict[tuple[str, str], Group]
    swapped_in: Group
    swapped_out: Group
    champion: Group
    challenger: Group
    blindness: str


def read_past(
    path: Path,
    graphs: Sequence[Graph],
    *,
    label: str = "default",
    amount: str = "amount",
    pd: str = "pd",
    most: int | None = None,
) -> PastFirms:
    """Read past firms from CSV or Parquet: the columns that the graphs ask for, the outcome, amount and pd if there.

    DataError says what is missing or wrong, or that there are more than `most`.
    """
    import duckdb  # noqa: PLC0415 - slow import

    names = list(dict.fromkeys(name for graph in graphs for name in fields_of(graph.input_schema)))
    if not path.is_file():
        raise DataError(f"{path} is no file: give past firms as CSV or Parquet")
    try:
        relation = duckdb.from_parquet(str(path)) if path.suffix == ".parquet" else duckdb.read_csv(str(path))
        columns = list(relation.columns)
        rows = (relation if most is None else relation.limit(most + 1)).fetchall()
    except duckdb.Error as error:
        raise DataError(f"{path} cannot be read as {path.suffix[1:] or 'CSV'} ({type(error).__name__})") from None
    if most is not None and len(rows) > most:
        raise DataError(f"{path.name} has more than {most:,} firms: try the policy on it by `veilscore policy test`")
    missing = [name for name in (*names, label) if name not in columns]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}: a policy needs its inputs, a back-test the outcome")
    place = {name: columns.index(name) for name in columns}

    def number(row: Sequence[Any], name: str) -> float | None:
        value = row[place[name]] if name in place else None
        if value is not None and (isinstance(value, (str, bool)) or value != value or value < 0):  # noqa: PLR0124 - NaN
            raise DataError(f"{path}: column {name} must hold numbers of at least 0")
        return None if value is None else float(value)

    def outcome(row: Sequence[Any]) -> bool | None:
        value = row[place[label]]
        if value is None or value != value:  # noqa: PLR0124 - NaN
            return None
        if value not in {0, 1}:
            raise DataError(f"{path}: column {label} must be 1 (bad), 0 (good) or empty (unknown)")
        return bool(value)

    records = tuple(_nested({name: _plain(row[place[name]]) for name in names}) for row in rows)
    amounts = tuple(1.0 if (found := number(row, amount)) is None else found for row in rows)
    return PastFirms(records, tuple(map(outcome, rows)), amounts, tuple(number(row, pd) for row in rows))


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: a number that is not there, a decimal or a date included."""
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        return None if value != value else value  # noqa: PLR0124 - NaN
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"firm.age": 3} as {"firm": {"age": 3}}; a field that has parts of its own is those parts."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        if any(other.startswith(f"{name}.") for other in flat):
            continue
        *folders, last = name.split(".")
        inside = nested
        for folder in folders:
            inside = inside.setdefault(folder, {})
        inside[last] = value
    return nested


def approval_of(graph: Graph) -> tuple[str, Any]:
    """Return the field and value by which a policy approves; ConfigError if it answers neither outcome nor offer."""
    answered = fields_of(graph.output_schema)
    for name, value in APPROVALS:
        if name in answered:
            return name, value
    raise ConfigError(f"policy {graph.name!r} answers neither `outcome` nor `offer`, so nothing says whom it approves")


def backtest(graph: Graph, firms: PastFirms, loss_given_default: float) -> Backtest:
    """Decide on all past firms; ConfigError where the policy can decide on none of them."""
    answered = fields_of(graph.output_schema)
    told = next((name for name, _ in APPROVALS if name in answered), None)
    found = Backtest()
    for record, bad, amount, pd in zip(firms.records, firms.bad, firms.amounts, firms.pd, strict=True):
        try:
            decision = graph.decide(record)
        except DataError as error:
            found.decided.append(None)
            found.failures[error.message] += 1
            continue
        found.decided.append(decision)
        if told is not None:
            group = found.outcomes.setdefault(_text(decision.outputs.get(told)), Group())
            group.add(bad, amount, pd, loss_given_default)
        for row in decision.fired:
            found.rows.setdefault(row, Group()).add(bad, amount, pd, loss_given_default)
    if firms and sum(found.failures.values()) == len(firms):
        raise ConfigError(f"none of the {len(firms):,} firms can be decided: {next(iter(found.failures))}")
    fired = {(row.table, row.row) for row in found.rows}
    for node in graph.of_kind("decisionTableNode"):
        numbers = range(1, len(node["content"]["rules"]) + 1)
        found.unused += [f"{node['name']} row {n}" for n in numbers if (node["name"], n) not in fired]
    found.blindness = blindness(firms)
    return found


def compare(champion: Graph, challenger: Graph, firms: PastFirms, loss_given_default: float) -> PolicyComparison:
    """Compare two policies on the same past firms; the swap set is where only one of them approves."""
    sides = []
    for graph in (champion, challenger):
        name = approval_of(graph)[0]
        decided = backtest(graph, firms, loss_given_default).decided
        sides.append([None if one is None else one.outputs.get(name) for one in decided])
        if None in sides[-1]:
            raise DataError(f"policy {graph.name!r} cannot decide on all firms: `veilscore policy test` says why")
    yeses = [approval_of(graph)[1] for graph in (champion, challenger)]
    found = PolicyComparison({}, Group(), Group(), Group(), Group(), blindness(firms))
    for one, other, bad, amount, pd in zip(*sides, firms.bad, firms.amounts, firms.pd, strict=True):
        groups = [found.table.setdefault((_text(one), _text(other)), Group())]
        groups += [found.champion] if one == yeses[0] else []
        groups += [found.challenger] if other == yeses[1] else []
        if (one == yeses[0]) != (other == yeses[1]):
            groups.append(found.swapped_in if other == yeses[1] else found.swapped_out)
        for group in groups:
            group.add(bad, amount, pd, loss_given_default)
    return found


def blindness(firms: PastFirms) -> str:
    """Say how many firms have no outcome, and what that means for the figures."""
    unknown = [pd for pd, bad in zip(firms.pd, firms.bad, strict=True) if bad is None]
    if not unknown:
        return "Every firm here has an outcome, so all were financed: nothing here speaks of firms that were declined."
    expected = "what pd expects" if None not in unknown else "between nothing and everything that a default loses"
    return (
        f"{len(unknown):,} of {len(firms):,} firms have no outcome, as declined firms never have: bad rates are of the "
        f"others alone, and the loss of these is {expected}."
    )


def _text(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def fired_order(rows: Iterable[Fired]) -> list[Fired]:
    """Return rows by table and number."""
    return sorted(rows, key=lambda row: (row.table, row.row))
