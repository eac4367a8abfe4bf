"""A holder writes sections of credit reports at home: under the firm's own consent, in published bins, and counted.

What a bank could choose to read more is bounded. The bins are published, and so no edge is its choice. The day is that
of the holder's own build. Of a firm, a bank and a quarter, a field keeps the code and day with which it was first told,
whatever consent asks again: repeating, or splitting fields over many consents, reads one record once a quarter.

HOME/state/sections.db has each field as it was told; firms are keyed hashes there, as in the ledger.
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
from veilscore.terms.federation import Federation
from veilscore.terms.node_config import DatasetConfig, NodeConfig
from veilscore.terms.policy import Request

FILE = "state/sections.db"
ALL = "all"
_TABLES = (
    # what was told first of each field
    """CREATE TABLE IF NOT EXISTS told (bank VARCHAR(80) NOT NULL, firm VARCHAR(16) NOT NULL,
    period VARCHAR(6) NOT NULL, field VARCHAR(120) NOT NULL, code INTEGER,
    as_of VARCHAR(10) NOT NULL, at_s DOUBLE NOT NULL,
    PRIMARY KEY (bank, firm, period, field))""",
    """CREATE TABLE IF NOT EXISTS sections (bank VARCHAR(80) NOT NULL, firm VARCHAR(16) NOT NULL,
    period VARCHAR(6) NOT NULL, consent VARCHAR(32) NOT NULL, catalogue VARCHAR(40) NOT NULL, at_s DOUBLE NOT NULL,
    PRIMARY KEY (bank, firm, period, consent, catalogue))""",
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
        self,
        home: Path,
        node: NodeConfig,
        identity: Identity,
        federation: Federation,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if node.role != "holder":
            raise ConfigError(f"{home} is the home of a {node.role}; sections are written at a holder's")
        self._home, self._node, self._identity, self._federation = home, node, identity, federation
        self._clock = clock

    def write(self, consent: Signed, firms: Sequence[str], dataset: str) -> tuple[SignedSection, ...]:
        """Return a signed section of each firm (normalised ids), or refuse all.

        consent : the firm's token, or a list that the firms are on; for purpose `report`, with the fields.
        dataset : of node.yaml, built from a shipped catalogue.
        Raises RefusedError where policy or consent does not allow it.
        """
        claim = claim_of(consent)
        scope, number = claim.scope, claim.id
        entry, catalogue = self._built(dataset)
        now_s = self._clock()
        today = dt.datetime.fromtimestamp(now_s, dt.UTC).date()
        asked = Request(bank=scope.bank, purpose=REPORT, task=SECTION, dataset=dataset)
        self._node.policy.allows(asked, self._node.name, today)
        if self._federation.member(scope.bank).role != "bank":
            raise RefusedError(f"{scope.bank[:60]} is no bank of this federation")
        fields = self._fields(scope, catalogue)
        period = period_of(today)
        with contextlib.closing(ReleaseLedger(self._home / LEDGER, clock=self._clock)) as ledger:
            self._verify(consent, firms, ledger, f"section/{scope.bank}/{period}/{number}")
            names = {variable for one in fields.values() for variable in one.variables}
            as_of, values = read_firms(entry.path or Path(), names, firms)
            if as_of > today:
                raise RefusedError(f"data set {dataset!r} is as of {as_of}, a day to come: build it as of a day before")
            keys = [f"{key:016x}" for key in ledger.firms(firms).tolist()]
        with _database(self._home) as db:
            rows = []
            for firm, key in zip(firms, keys, strict=True):
                found, at = values.get(firm), (scope.bank, key, period)
                db.execute("INSERT OR IGNORE INTO sections VALUES (?, ?, ?, ?, ?, ?)", (*at, number, catalogue, now_s))
                new = [(*at, name, one.code_of(found), as_of.isoformat(), now_s) for name, one in fields.items()]
                db.executemany("INSERT OR IGNORE INTO told VALUES (?, ?, ?, ?, ?, ?, ?)", new)  # what was told stays
                rows.append((firm, _told(db, at, fields)))
        about = {"holder": self._node.name, "bank": scope.bank, "catalogue": catalogue, "consent": number}
        about |= {"period": period, "fields_sha256": section_fields().sha256}
        sections = (
            HolderSection.model_validate_json(json.dumps({**about, "firm": firm, "told": one})) for firm, one in rows
        )
        return tuple(SignedSection.sign(section, self._identity) for section in sections)

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

    def _verify(self, consent: Signed, firms: Sequence[str], ledger: ReleaseLedger, reference: str) -> None:
        """Refuse a consent that is not these firms', for this, now; use up a token for one request."""
        scope = claim_of(consent).scope
        gate = ConsentGate.of(self._home, self._node.policy, required=True)
        ask = Ask(REPORT, SECTION, scope.bank, "", self._clock(), self._node.name)
        data = consent.to_message().SerializeToString()
        if body_of(consent)["kind"] == "token":
            for firm in firms:
                token = gate.check_token(data, firm, ask, ledger, reference)
                if token.spend is not None:
                    ledger.spend(token.spend, reference)
            return
        (found,) = gate.check_lists([data], ask)
        if not found.covers(list(firms)).all():
            raise RefusedError("the consent is not this firm's")
        if gate.revoked_of(found.id, found.salt, np.array(firms), scope.bank).any():
            raise RefusedError("the firm's consent was revoked")


def told_sections(home: Path) -> tuple[ToldSections, ...]:
    """Return what a holder told so far, by quarter and bank, the latest first."""
    published = section_fields().fields
    with _database(home) as db:
        rows = db.execute("SELECT period, bank, firm, field FROM told ORDER BY period DESC, bank").fetchall()
        counts = db.execute("SELECT period, bank, count(*) FROM sections GROUP BY period, bank").fetchall()
    sections = {(period, bank): int(n) for period, bank, n in counts}
    by: dict[tuple[str, str], dict[str, set[str]]] = {}
    for period, bank, firm, name in rows:
        by.setdefault((period, bank), {}).setdefault(firm, set()).add(name)
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


@contextlib.contextmanager
def _database(home: Path) -> Iterator[sqlite3.Connection]:
    where = f"record of sections {home / FILE}"
    with told(where, "restore the file from backup; no section is written meanwhile"):
        db = open_sqlite(home / FILE, _TABLES)
        try:
            with transaction(db):
                yield db
        finally:
            db.close()


def _told(db: sqlite3.Connection, at: tuple[str, str, str], fields: Mapping[str, SectionField]) -> dict[str, Any]:
    """Return what a section tells: of the fields that are allowed now, each as it was first told in this quarter."""
    rows = db.execute("SELECT field, code, as_of FROM told WHERE bank = ? AND firm = ? AND period = ?", at).fetchall()
    found = {name: {"code": code, "as_of": day} for name, code, day in rows}
    return {name: found[name] for name in fields}
