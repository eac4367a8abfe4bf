"""A holder writes sections of credit reports at home: under the firm's own consent, in published bins, and counted.

What a bank could choose to read more is bounded. The bins are published, and so no edge is its choice. The day is that
of the holder's own build. Of a firm, a bank and a quarter, a field keeps the code and day with which it was first told,
whatever consent asks again: repeating, or splitting fields over many consents, reads one record once a quarter.

HOME/state/sections.db has a row for each firm, consent and quarter; firms are keyed hashes there, as in the ledger.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from veilscore.errors import ConfigError, RefusedError
from veilscore.features.built import check_built, read_firms
from veilscore.files.sqlite_file import open_sqlite, told, transaction
from veilscore.keys.identity import Identity
from veilscore.release.consent import Signed, body_of, claim_of
from veilscore.release.gate import ConsentGate
from veilscore.release.ledger import LEDGER, ReleaseLedger
from veilscore.release.scope import REPORT, SECTION, Ask, Scope
from veilscore.reports.section import HolderSection, SignedSection, period_of
from veilscore.reports.section_fields import SectionField, section_fields
from veilscore.terms.node_config import DatasetConfig, NodeConfig
from veilscore.terms.policy import Request

FILE = "state/sections.db"
ALL = "all"
_TABLES = (
    """CREATE TABLE IF NOT EXISTS sections (bank VARCHAR(80) NOT NULL, firm VARCHAR(16) NOT NULL,
    consent VARCHAR(32) NOT NULL, period VARCHAR(6) NOT NULL, told TEXT NOT NULL,
    at_s DOUBLE NOT NULL, PRIMARY KEY (bank, firm, consent, period))""",
)


@dataclass(frozen=True)
class ToldSections:
    """What a bank was told in a quarter: firms, sections, fields of a firm at most, and their bits."""

    period: str
    bank: str
    firms: int
    sections: int
    fields: int
    bits: float


class SectionDesk:
    """Writes sections at one holder.

    clock : seconds since the epoch.
    """

    def __init__(
        self, home: Path, node: NodeConfig, identity: Identity, *, clock: Callable[[], float] = time.time
    ) -> None:
        if node.role != "holder":
            raise ConfigError(f"{home} is the home of a {node.role}; sections are written at a holder's")
        self._home, self._node, self._identity, self._clock = home, node, identity, clock

    def write(self, consent: Signed, firms: Sequence[str], dataset: str) -> tuple[SignedSection, ...]:
        """Return a signed section of each firm (normalised ids), or refuse all.

        consent : the firm's token, or a list that the firms are on; for purpose `report`, with the fields.
        dataset : of node.yaml, built from a shipped catalogue.
        Raises RefusedError where policy or consent does not allow it.
        """
        scope = claim_of(consent).scope
        entry, catalogue = self._built(dataset)
        now_s = self._clock()
        today = dt.datetime.fromtimestamp(now_s, dt.UTC).date()
        asked = Request(bank=scope.bank, purpose=REPORT, task=SECTION, dataset=dataset)
        self._node.policy.allows(asked, self._node.name, today)
        fields = self._fields(scope, catalogue)
        period, number = period_of(today), claim_of(consent).id
        with contextlib.closing(ReleaseLedger(self._home / LEDGER, clock=self._clock)) as ledger:
            for firm in firms:
                self._verify(consent, firm, ledger, f"section/{scope.bank}/{period}/{number}")
            names = {variable for one in fields.values() for variable in one.variables}
            as_of, values = read_firms(entry.path or Path(), names, firms)
            keys = [f"{key:016x}" for key in ledger.firms(firms).tolist()]
        with self._database() as db:
            rows = []
            for firm, key in zip(firms, keys, strict=True):
                found = values.get(firm)
                new = {name: {"code": one.code_of(found), "as_of": as_of.isoformat()} for name, one in fields.items()}
                rows.append((firm, _kept(db, (scope.bank, key, period), number, new, now_s)))
        about = {"holder": self._node.name, "bank": scope.bank, "catalogue": catalogue, "consent": number}
        about |= {"period": period, "fields_sha256": section_fields().sha256}
        sections = (
            HolderSection.model_validate_json(json.dumps({**about, "firm": firm, "told": one})) for firm, one in rows
        )
        return tuple(SignedSection.sign(section, self._identity) for section in sections)

    def told(self) -> tuple[ToldSections, ...]:
        """Return what was told so far, by quarter and bank, the latest first."""
        published = section_fields().fields
        with self._database() as db:
            rows = db.execute("SELECT period, bank, firm, told FROM sections ORDER BY period DESC, bank").fetchall()
        by: dict[tuple[str, str], dict[str, set[str]]] = {}
        sections: dict[tuple[str, str], int] = {}
        for period, bank, firm, text in rows:
            by.setdefault((period, bank), {}).setdefault(firm, set()).update(json.loads(text))
            sections[period, bank] = sections.get((period, bank), 0) + 1
        return tuple(
            ToldSections(
                *at,
                firms=len(firms),
                sections=sections[at],
                fields=max(map(len, firms.values())),
                bits=max(sum(published[name].bits for name in names if name in published) for names in firms.values()),
            )
            for at, firms in by.items()
        )

    def _built(self, dataset: str) -> tuple[DatasetConfig, str]:
        entry = self._node.datasets.get(dataset)
        catalogue = None if entry is None else check_built(entry, f"data set {dataset!r}")
        if entry is None or catalogue is None:
            raise ConfigError(
                f"{self._node.name} has no data set {dataset[:60]!r} with `features`: a section is made of "
                "variables of a catalogue (`veilscore features build`)"
            )
        return entry, catalogue.name

    def _fields(self, scope: Scope, catalogue: str) -> dict[str, SectionField]:
        """Return what consent, policy and catalogue allow together."""
        allowed = set(self._node.policy.report_fields)
        if not allowed:
            raise RefusedError(
                f"{self._node.name} writes no sections: its policy names no report_fields", party=self._node.name
            )
        found = {
            name: one
            for name, one in section_fields().of_catalogue(catalogue).items()
            if name in scope.fields and (name in allowed or ALL in allowed)
        }
        if not found:
            raise RefusedError(
                f"the consent lists no field that {self._node.name} has and its policy tells (report_fields)",
                party=self._node.name,
            )
        return found

    def _verify(self, consent: Signed, firm: str, ledger: ReleaseLedger, reference: str) -> None:
        """Refuse a consent that is not this firm's, for this, now; use up a token for one request."""
        scope = claim_of(consent).scope
        gate = ConsentGate(self._home, required=True, issuers=dict(self._node.policy.consent_issuers))
        ask = Ask(REPORT, SECTION, scope.bank, "", self._clock(), self._node.name)
        data = consent.to_message().SerializeToString()
        if body_of(consent)["kind"] == "token":
            token = gate.check_token(data, firm, ask, ledger, reference)
            if token.spend is not None:
                ledger.spend(token.spend, reference)
            return
        (found,) = gate.check_lists([data], ask)
        ids = np.array([firm])
        if not found.covers(ids.tolist()).all():
            raise RefusedError("the consent is not this firm's")
        if gate.revoked_of(found.id, found.salt, ids).any():
            raise RefusedError("the firm's consent was revoked")

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        where = f"record of sections {self._home / FILE}"
        with told(where, "restore the file from backup; no section is written meanwhile"):
            db = open_sqlite(self._home / FILE, _TABLES)
            try:
                with transaction(db):
                    yield db
            finally:
                db.close()


def _kept(
    db: sqlite3.Connection, at: tuple[str, str, str], consent: str, new: Mapping[str, Any], now_s: float
) -> dict[str, Any]:
    """Return what a section tells, each field as when it was first told in this quarter, and write it down."""
    before = db.execute(
        "SELECT consent, told FROM sections WHERE bank = ? AND firm = ? AND period = ? ORDER BY at_s", at
    ).fetchall()
    mine = dict(new)
    for number, text in before:
        earlier: dict[str, Any] = json.loads(text)
        if number == consent:
            return earlier
        mine = {name: earlier.get(name, one) for name, one in mine.items()}
    db.execute("INSERT INTO sections VALUES (?, ?, ?, ?, ?, ?)", (*at[:2], consent, at[2], json.dumps(mine), now_s))
    return mine
